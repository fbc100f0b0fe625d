//! The one thread that serves all devices: it waits for notifications of queues and for the devices' own descriptors.
//!
//! A device that has more to do than its share ([`Progress::More`]) gets its next turn after everything else that is
//! ready; one that can wait ([`Progress::Later`]) gets it after [`WHILE`], unless an event comes first. A device whose guest broke a queue is reset and marked as needing one; a failure of the VMM's own descriptors
//! ends the thread and is reported.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::interrupt::Interrupt;
use super::slot::{SharedDevice, Slot};
use super::sources::{OWN, Sources};
use super::{DeviceError, Event, Progress, lock};
use crate::end::EndReason;

/// The epoll token of the thread's own wake-up.
const WAKE: u64 = u64::MAX;
/// How long a device waits at most that can do something later.
pub const WHILE: Duration = Duration::from_millis(100);
/// How many events are taken at once.
const BATCH: usize = 32;

/// Serve the devices.
const SERVE: u8 = 0;
/// Finish what the guest handed over, then end.
const DRAIN: u8 = 1;
/// End now.
const STOP: u8 = 2;

/// A running device thread. Dropping it ends the thread.
#[derive(Debug)]
pub struct DeviceThread {
    order: Arc<AtomicU8>,
    wake: EventFd,
    handle: Option<JoinHandle<()>>,
}

impl DeviceThread {
    /// Starts the thread for `slots`. `on_error` is called from it, at most once, when the machine cannot go on.
    ///
    /// # Errors
    /// Those of epoll, of event descriptors and of starting a thread.
    pub fn spawn(slots: &[Slot], on_error: impl Fn(EndReason) + Send + 'static) -> io::Result<Self> {
        let order = Arc::new(AtomicU8::new(SERVE));
        let wake = EventFd::new(EFD_NONBLOCK)?;
        let worker = Worker::new(slots, wake.try_clone()?, Arc::clone(&order))?;
        let run = move || {
            if let Err(error) = worker.run() {
                on_error(EndReason::VmmError { message: format!("The device thread stopped: {error}") });
            }
        };
        let handle = thread::Builder::new().name("devices".into()).spawn(run)?;
        Ok(Self { order, wake, handle: Some(handle) })
    }

    /// Waits until everything that the guest handed to its devices has arrived at its destination, or cannot any more,
    /// and ends the thread. For when the vCPUs have stopped and the guest's last output is still on its way.
    ///
    /// This takes as long as the reader on the other side of a vsock channel takes.
    pub fn drain(mut self) {
        self.finish(DRAIN);
    }

    fn finish(&mut self, order: u8) {
        self.order.store(order, Ordering::Release);
        // Can fail only when the wake-up is pending already.
        let _ = self.wake.write(1);
        if let Some(handle) = self.handle.take() {
            // The panic of a device has been printed; there is nothing to add.
            let _ = handle.join();
        }
    }
}

impl Drop for DeviceThread {
    fn drop(&mut self) {
        self.finish(STOP);
    }
}

/// What the thread owns.
struct Worker {
    epoll: Arc<Epoll>,
    wake: EventFd,
    order: Arc<AtomicU8>,
    seats: Vec<Seat>,
}

/// A device at the thread.
struct Seat {
    device: SharedDevice,
    interrupt: Arc<Interrupt>,
    queue_events: Vec<EventFd>,
    /// When the device is to be resumed, after it answered [`Progress::More`] or [`Progress::Later`].
    due: Option<Instant>,
}

impl Worker {
    fn new(slots: &[Slot], wake: EventFd, order: Arc<AtomicU8>) -> io::Result<Self> {
        let epoll = Arc::new(Epoll::new()?);
        epoll.ctl(ControlOperation::Add, wake.as_raw_fd(), EpollEvent::new(EventSet::IN, WAKE))?;
        let seats = (0_u32..).zip(slots).map(|(number, slot)| Seat::new(slot, number, &epoll));
        Ok(Self { seats: seats.collect::<io::Result<_>>()?, epoll, wake, order })
    }

    fn run(mut self) -> io::Result<()> {
        let mut events = [EpollEvent::default(); BATCH];
        let mut draining = false;
        loop {
            let count = match self.epoll.wait(self.patience(), &mut events) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result?,
            };
            let now = Instant::now();
            for seat in self.seats.iter_mut().filter(|seat| seat.due.is_some_and(|due| due <= now)) {
                seat.process(Event::Resume)?;
            }
            for event in events.iter().take(count) {
                self.dispatch(*event)?;
            }
            match self.order.load(Ordering::Acquire) {
                SERVE => {}
                DRAIN if !draining => {
                    draining = true;
                    self.seats.iter_mut().try_for_each(|seat| seat.process(Event::Drain))?;
                }
                DRAIN => {}
                _ => return Ok(()),
            }
            if draining && self.seats.iter().all(Seat::is_drained) {
                return Ok(());
            }
        }
    }

    /// How long to wait for events at most, in milliseconds, as `epoll_wait` takes it.
    fn patience(&self) -> i32 {
        let Some(due) = self.seats.iter().filter_map(|seat| seat.due).min() else { return -1 };
        // Rounded up: waking too early would be a turn for nothing.
        let left = due.saturating_duration_since(Instant::now()).as_micros().div_ceil(1000);
        i32::try_from(left).unwrap_or(i32::MAX)
    }

    fn dispatch(&mut self, event: EpollEvent) -> io::Result<()> {
        if event.data() == WAKE {
            return self.wake.read().map(|_| ());
        }
        let [a, b, c, d, e, f, g, h] = event.data().to_le_bytes();
        let (token, seat) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
        let seat = usize::try_from(seat).ok().and_then(|seat| self.seats.get_mut(seat));
        let Some(seat) = seat else { return Ok(()) };
        if token & OWN != 0 {
            return seat.process(Event::Source(token & !OWN, event.event_set()));
        }
        let Some(queue) = usize::try_from(token).ok().filter(|&queue| queue < seat.queue_events.len()) else {
            return Ok(());
        };
        // Nothing to read means that another event of this batch has read it.
        let notified = seat.queue_events.get(queue).is_some_and(|event| event.read().is_ok());
        if notified { seat.process(Event::Queue(queue)) } else { Ok(()) }
    }
}

impl Seat {
    fn new(slot: &Slot, number: u32, epoll: &Arc<Epoll>) -> io::Result<Self> {
        let mut queue_events = Vec::with_capacity(slot.queue_events.len());
        for (queue, event) in (0_u32..).zip(&slot.queue_events) {
            let event = event.try_clone()?;
            let token = (u64::from(number) << 32) | u64::from(queue);
            epoll.ctl(ControlOperation::Add, event.as_raw_fd(), EpollEvent::new(EventSet::IN, token))?;
            queue_events.push(event);
        }
        lock(&slot.device).attach(Sources::new(Arc::clone(epoll), number))?;
        let (device, interrupt) = (Arc::clone(&slot.device), Arc::clone(&slot.interrupt));
        Ok(Self { device, interrupt, queue_events, due: None })
    }

    fn process(&mut self, event: Event) -> io::Result<()> {
        if event == Event::Resume {
            self.due = None;
        }
        let mut device = lock(&self.device);
        match device.process(event) {
            Ok(Progress::Done) => self.due = None,
            Ok(Progress::More) => self.due = Some(Instant::now()),
            // What waits already is not put off by what comes.
            Ok(Progress::Later) => self.due = self.due.or_else(|| Instant::now().checked_add(WHILE)),
            Err(DeviceError::Host(error)) => return Err(error),
            Err(DeviceError::Queue(_)) => {
                self.due = None;
                device.reset();
                self.interrupt.request_reset()?;
            }
        }
        Ok(())
    }

    fn is_drained(&self) -> bool {
        self.due.is_none() && lock(&self.device).is_drained()
    }
}

#[cfg(test)]
mod tests;
