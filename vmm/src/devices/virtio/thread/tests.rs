//! The thread with real descriptors and a device that tells what it was called with.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use super::super::test_driver::Driver;
use super::super::{ActivationContext, VirtioDevice};
use super::*;

/// Long enough for any machine; no test waits for it to pass.
const LONG: Duration = Duration::from_secs(10);
/// Enough to see a loop that does not sleep.
const MOMENT: Duration = Duration::from_millis(100);

/// Reports its calls and answers what the test wants.
struct Reporter {
    calls: Sender<Event>,
    stream: UnixStream,
    answer: fn(Event) -> Result<Progress, DeviceError>,
    resumes: usize,
}

impl VirtioDevice for Reporter {
    fn device_type(&self) -> u32 {
        1
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &[8, 8]
    }

    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}

    fn attach(&mut self, sources: Sources) -> io::Result<()> {
        sources.add(7, self.stream.as_fd(), EventSet::IN)
    }

    fn activate(&mut self, _context: ActivationContext) {}

    fn reset(&mut self) {}

    fn process(&mut self, event: Event) -> Result<Progress, DeviceError> {
        self.calls.send(event).unwrap();
        if event == Event::Resume {
            self.resumes = self.resumes.saturating_sub(1);
            return Ok(if self.resumes > 0 { Progress::More } else { Progress::Done });
        }
        (self.answer)(event)
    }
}

struct Bench {
    driver: Driver,
    calls: Receiver<Event>,
    peer: UnixStream,
    thread: DeviceThread,
    errors: Receiver<EndReason>,
}

fn bench(answer: fn(Event) -> Result<Progress, DeviceError>) -> Bench {
    let (sender, calls) = channel();
    let (peer, stream) = UnixStream::pair().unwrap();
    let driver = Driver::start(Reporter { calls: sender, stream, answer, resumes: 3 });
    let (error, errors) = channel();
    let report = move |reason| error.send(reason).unwrap();
    let thread = DeviceThread::spawn(std::slice::from_ref(&driver.slot), report).unwrap();
    Bench { driver, calls, peer, thread, errors }
}

const fn done(_event: Event) -> Result<Progress, DeviceError> {
    Ok(Progress::Done)
}

#[test]
fn notifications_and_descriptors_reach_their_device() {
    let mut bench = bench(done);
    bench.driver.notify(1);
    assert_eq!(bench.calls.recv_timeout(LONG).unwrap(), Event::Queue(1));
    bench.driver.notify(0);
    assert_eq!(bench.calls.recv_timeout(LONG).unwrap(), Event::Queue(0));
    bench.peer.write_all(b"x").unwrap();
    let Event::Source(7, events) = bench.calls.recv_timeout(LONG).unwrap() else { panic!("not the stream") };
    assert!(events.contains(EventSet::IN));
}

#[test]
fn a_descriptor_that_nobody_reads_does_not_spin() {
    let mut bench = bench(done);
    bench.peer.write_all(b"never read").unwrap();
    assert!(matches!(bench.calls.recv_timeout(LONG).unwrap(), Event::Source(7, _)));
    drop(bench.peer);
    let Event::Source(7, events) = bench.calls.recv_timeout(LONG).unwrap() else { panic!("not the stream") };
    assert!(events.contains(EventSet::HANG_UP));
    assert_eq!(bench.calls.recv_timeout(MOMENT), Err(RecvTimeoutError::Timeout));
}

#[test]
fn a_device_with_more_to_do_is_resumed_until_it_is_done() {
    let bench = bench(|_| Ok(Progress::More));
    bench.driver.notify(0);
    let calls: Vec<_> = (0..4).map(|_| bench.calls.recv_timeout(LONG).unwrap()).collect();
    assert_eq!(calls, [Event::Queue(0), Event::Resume, Event::Resume, Event::Resume]);
    assert_eq!(bench.calls.recv_timeout(MOMENT), Err(RecvTimeoutError::Timeout));
}

#[test]
fn a_device_that_can_wait_is_resumed_by_and_by() {
    let bench = bench(|_| Ok(Progress::Later));
    let start = Instant::now();
    bench.driver.notify(0);
    assert_eq!(bench.calls.recv_timeout(LONG).unwrap(), Event::Queue(0));
    assert_eq!(bench.calls.recv_timeout(LONG).unwrap(), Event::Resume);
    assert!(start.elapsed() >= WHILE);
}

#[test]
fn a_broken_queue_breaks_the_device_and_not_the_machine() {
    let bench = bench(|event| match event {
        Event::Queue(0) => Err(virtio_queue::Error::InvalidAvailRingIndex.into()),
        _ => Ok(Progress::Done),
    });
    bench.driver.notify(0);
    assert_eq!(bench.driver.wait_for_interrupt(), 2);
    assert_eq!(bench.driver.read(virtio_bindings::virtio_mmio::VIRTIO_MMIO_STATUS), 15 | 64);
    bench.calls.recv_timeout(LONG).unwrap();
    bench.driver.notify(1);
    assert_eq!(bench.calls.recv_timeout(LONG).unwrap(), Event::Queue(1));
    drop(bench.thread);
    assert!(bench.errors.try_recv().is_err());
}

#[test]
fn a_failure_of_the_host_ends_the_machine() {
    let bench = bench(|_| Err(io::Error::from_raw_os_error(libc::EBADF).into()));
    bench.driver.notify(0);
    let EndReason::VmmError { message } = bench.errors.recv_timeout(LONG).unwrap() else { panic!("another reason") };
    assert!(message.starts_with("The device thread stopped: "), "{message}");
}

#[test]
fn draining_asks_each_device_once_and_ends() {
    let bench = bench(done);
    bench.thread.drain();
    assert_eq!(bench.calls.try_iter().collect::<Vec<_>>(), [Event::Drain]);
    assert!(bench.errors.try_recv().is_err());
}
