//! The supervisor against a fake agent and a fake VMM, each at the other end of a socket pair, and real signals.
//!
//! The signals of this process are everybody's, so one test at a time supervises ([`Stage::new`] holds a lock).

use std::fs::File;
use std::io::{Read, Write, pipe};
use std::net::Shutdown;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::thread::{self, ScopedJoinHandle};

use nix::sys::signal::raise;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, send, socketpair};
use protocol::frame::{self, Decoder};
use protocol::message::{AgentMessage, ExitHow, ExitStatus, Failure, FailureKind};

use super::*;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The signals of this process, blocked in the thread that asks. Tests run in threads of their own, so a signal is
/// raised in the supervising thread, where it stays until it is read.
fn signals() -> &'static Signals {
    static SIGNALS: OnceLock<Signals> = OnceLock::new();
    let signals = SIGNALS.get_or_init(|| Signals::block().unwrap());
    Signals::block().unwrap();
    signals
}

/// A machine that is gone when it is killed or when the test drops [`Guest::vmm`].
struct FakeVmm {
    events: OwnedFd,
    killed: bool,
    /// The guest's ends of everything, which end with the machine.
    ends: Vec<UnixStream>,
    vmm: UnixStream,
    /// Told when the supervisor knows that it is gone.
    gone: mpsc::Sender<()>,
}

impl Machine for FakeVmm {
    fn events(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    fn kill(&mut self) {
        self.killed = true;
        for end in self.ends.iter().chain([&self.vmm]) {
            let _ = end.shutdown(Shutdown::Both);
        }
    }

    fn wait(&mut self) -> EndReason {
        let _ = self.gone.send(());
        EndReason::Killed { signal: 9 }
    }
}

/// What the test plays: the agent and the VMM.
struct Guest {
    agent: UnixStream,
    decoder: Decoder,
    stdout: UnixStream,
    vmm: UnixStream,
    gone: mpsc::Receiver<()>,
    started: mpsc::Receiver<()>,
}

impl Guest {
    fn say(&mut self, message: &AgentMessage) {
        frame::write(&mut self.agent, message).unwrap();
    }

    fn hello(&mut self) {
        self.say(&AgentMessage::Hello { version: protocol::VERSION, kernel: "6.12".into() });
    }

    fn hear(&mut self) -> HostMessage {
        loop {
            if let Some(message) = self.decoder.next().unwrap() {
                return message;
            }
            let mut bytes = [0; 4096];
            let length = self.agent.read(&mut bytes).unwrap();
            assert!(length > 0, "the supervisor closed the connection");
            self.decoder.extend(&bytes[..length]);
        }
    }

    /// Hello, the task, and the command's start, until the supervisor knows of it.
    fn start(&mut self) {
        self.hello();
        assert!(matches!(self.hear(), HostMessage::Run(_)));
        self.say(&AgentMessage::Started);
        self.started.recv().unwrap();
    }

    fn exit(&mut self, code: u8) {
        self.stdout.shutdown(Shutdown::Both).unwrap();
        self.say(&AgentMessage::Exited(ExitStatus {
            how: ExitHow::Code(code),
            out_of_memory: None,
            peak_memory: None,
        }));
    }

    fn event(&self, event: &VmmEvent) {
        let json = serde_json::to_vec(event).unwrap();
        send(std::os::fd::AsRawFd::as_raw_fd(&self.vmm), &json, MsgFlags::empty()).unwrap();
    }

    /// The machine is gone, and with it everything in it.
    fn end(&self) {
        for end in [&self.agent, &self.stdout, &self.vmm] {
            let _ = end.shutdown(Shutdown::Both);
        }
    }

    /// Unless it was ended before.
    fn power_off(&self) {
        let json = serde_json::to_vec(&VmmEvent::Ended(EndReason::PowerOff)).unwrap();
        let _ = (&self.vmm).write_all(&json);
        self.end();
    }
}

/// A supervised task and those who play with it.
struct Play {
    vmm: FakeVmm,
    agent: AgentConnection,
    streams: Streams,
    timings: Timings,
    timeout: Option<Duration>,
    stop_timeout: Duration,
    grace: Duration,
    stop_signal: i32,
    output: File,
    on_start: mpsc::Sender<()>,
    _alone: MutexGuard<'static, ()>,
}

fn play() -> (Play, Guest) {
    let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let (events, vmm) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
    let vmm = UnixStream::from(vmm);
    let (ours, agent) = UnixStream::pair().unwrap();
    let (channel, stdout) = UnixStream::pair().unwrap();
    let (reader, writer) = pipe().unwrap();
    let mut streams = Streams::new(Voice::stderr()).unwrap();
    streams.add_output("standard output", channel, &writer).unwrap();
    let ends = [&agent, &stdout].map(|end| end.try_clone().unwrap()).into();
    let (sender, gone) = mpsc::channel();
    let (on_start, started) = mpsc::channel();
    let fake = FakeVmm { events, killed: false, ends, vmm: vmm.try_clone().unwrap(), gone: sender };
    let play = Play {
        vmm: fake,
        agent: AgentConnection::new(ours).unwrap(),
        streams,
        timings: Timings::start(),
        timeout: None,
        stop_timeout: Duration::from_secs(30),
        grace: Duration::from_secs(30),
        stop_signal: 15,
        output: File::from(OwnedFd::from(reader)),
        on_start,
        _alone: alone,
    };
    (play, Guest { agent, decoder: Decoder::default(), stdout, vmm, gone, started })
}

/// How a play ended.
struct End {
    outcome: Outcome,
    killed: bool,
    timings: Timings,
    output: Vec<u8>,
    started: bool,
}

impl Play {
    /// Supervises while `guest` plays in a thread of its own. `before` runs in the supervising thread, to which signals
    /// go.
    fn run(mut self, guest: impl FnOnce() + Send, before: impl FnOnce()) -> End {
        let signals = signals();
        while signals.next().unwrap().is_some() {}
        let mut started = false;
        let task = Task {
            machine: &mut self.vmm,
            agent: self.agent,
            job: Job::booting(HostMessage::Run(Box::default())),
            signals: Some(signals),
            voice: Voice::stderr(),
            control: None,
            streams: self.streams,
            on_start: Box::new(|_| {
                started = true;
                let _ = self.on_start.send(());
                Ok(())
            }),
            window: None,
            stop: StopPolicy::new(self.stop_signal),
            timeout: self.timeout,
            stop_timeout: self.stop_timeout,
            grace: self.grace,
        };
        let outcome = thread::scope(|scope| {
            let guest: ScopedJoinHandle<'_, ()> = scope.spawn(guest);
            before();
            let outcome = supervise(task, &mut self.timings).unwrap();
            guest.join().unwrap();
            outcome
        });
        let mut output = Vec::new();
        self.output.read_to_end(&mut output).unwrap();
        End { outcome, killed: self.vmm.killed, timings: self.timings, output, started }
    }
}

fn exited(code: u8) -> Outcome {
    Outcome::Exited(ExitStatus { how: ExitHow::Code(code), out_of_memory: None, peak_memory: None })
}

#[test]
fn a_task_runs_and_its_output_is_whole() {
    let (play, mut guest) = play();
    let end = play.run(
        move || {
            guest.event(&VmmEvent::Running);
            guest.start();
            guest.stdout.write_all(b"output").unwrap();
            guest.exit(42);
            guest.power_off();
        },
        || {},
    );
    assert_eq!(end.outcome, exited(42));
    assert!(end.started && end.output == b"output");
    for phase in [Phase::GuestRunning, Phase::AgentReady, Phase::CommandStarted, Phase::OutputEnded, Phase::VmmEnded] {
        assert!(end.timings.has(phase), "{phase:?}");
    }
}

#[test]
fn the_agents_end_is_answered_so_that_it_powers_off_at_once() {
    let (play, mut guest) = play();
    let end = play.run(
        move || {
            guest.start();
            guest.exit(0);
            guest.agent.shutdown(Shutdown::Write).unwrap();
            assert_eq!(guest.agent.read(&mut [0; 1]).unwrap(), 0);
            guest.power_off();
        },
        || {},
    );
    assert_eq!(end.outcome, exited(0));
}

#[test]
fn a_guest_that_has_said_and_written_all_is_not_waited_for() {
    let (mut play, mut guest) = play();
    play.grace = Duration::from_secs(1 << 20);
    let end = play.run(
        move || {
            guest.start();
            guest.exit(3);
            // It never powers off.
            guest.gone.recv().unwrap();
        },
        || {},
    );
    assert_eq!((end.outcome, end.killed), (exited(3), true));
}

#[test]
fn the_last_message_counts_even_when_the_machine_is_gone_first() {
    let (play, mut guest) = play();
    guest.hello();
    guest.say(&AgentMessage::Started);
    guest.exit(7);
    guest.end();
    assert_eq!(play.run(|| {}, || {}).outcome, exited(7));
}

#[test]
fn a_command_that_did_not_start_says_why() {
    let (play, mut guest) = play();
    let failure = Failure { kind: FailureKind::NotFound, message: "no such\nprogram".into() };
    let end = play.run(
        move || {
            guest.hello();
            guest.hear();
            guest.say(&AgentMessage::Failed(failure));
            guest.power_off();
        },
        || {},
    );
    let shown = Failure { kind: FailureKind::NotFound, message: "no such\\nprogram".into() };
    assert_eq!(end.outcome, Outcome::NotStarted(shown));
    assert!(!end.started);
}

#[test]
fn a_guest_that_ends_early_gives_its_reason() {
    let (play, mut guest) = play();
    let reason = EndReason::Panic { message: "out of luck".into() };
    let sent = reason.clone();
    let end = play.run(
        move || {
            guest.start();
            guest.event(&VmmEvent::Ended(sent));
            guest.end();
        },
        || {},
    );
    assert_eq!(end.outcome, Outcome::GuestEnded(reason));
}

#[test]
fn a_machine_that_vanishes_was_killed() {
    let (play, guest) = play();
    let end = play.run(move || guest.end(), || {});
    assert_eq!(end.outcome, Outcome::GuestEnded(EndReason::Killed { signal: 9 }));
}

#[test]
fn an_agent_that_breaks_the_protocol_loses_its_machine() {
    let (play, mut guest) = play();
    let end = play.run(move || guest.exit(0), || {});
    assert!(matches!(end.outcome, Outcome::AgentFailed(_)) && end.killed);
}

#[test]
fn an_agent_that_sends_no_messages_loses_its_machine() {
    let (play, mut guest) = play();
    let end = play.run(move || guest.agent.write_all(&[0xff; 64]).unwrap(), || {});
    assert!(matches!(end.outcome, Outcome::AgentFailed(_)) && end.killed);
}

#[test]
fn an_interrupt_before_the_command_runs_ends_the_task() {
    let (play, mut guest) = play();
    guest.hello();
    let end = play.run(|| {}, || raise(Signal::SIGINT).unwrap());
    assert_eq!((end.outcome, end.killed), (Outcome::Aborted(2), true));
    drop(guest);
}

#[test]
fn other_signals_wait_for_the_agent_and_follow_the_task() {
    let (play, mut guest) = play();
    let end = play.run(
        move || {
            guest.hello();
            assert!(matches!(guest.hear(), HostMessage::Run(_)));
            assert_eq!(guest.hear(), HostMessage::Signal(10));
            guest.say(&AgentMessage::Started);
            guest.exit(0);
            guest.power_off();
        },
        || raise(Signal::SIGUSR1).unwrap(),
    );
    assert_eq!(end.outcome, exited(0));
}

/// Sends signals to the supervising thread, the next when the agent has heard of the one before.
fn with_signals(signals: &'static [Signal], play: impl FnOnce(Play, Guest, Box<dyn Fn(usize) + Send>) -> End) -> End {
    let (ready, guest) = self::play();
    let thread = nix::sys::pthread::pthread_self();
    let raise = move |index: usize| nix::sys::pthread::pthread_kill(thread, signals[index]).unwrap();
    play(ready, guest, Box::new(raise))
}

#[test]
fn a_stop_is_the_images_signal_and_then_a_kill() {
    let end = with_signals(&[Signal::SIGTERM], |mut play, mut guest, raise| {
        play.stop_signal = 3;
        play.stop_timeout = Duration::from_millis(20);
        play.run(
            move || {
                guest.start();
                raise(0);
                assert_eq!(guest.hear(), HostMessage::Signal(3));
                assert_eq!(guest.hear(), HostMessage::Signal(9));
                guest.stdout.shutdown(Shutdown::Both).unwrap();
                guest.say(&AgentMessage::Exited(ExitStatus {
                    how: ExitHow::Signal(9),
                    out_of_memory: None,
                    peak_memory: None,
                }));
                guest.power_off();
            },
            || {},
        )
    });
    assert_eq!(end.outcome.exit_code(), 137);
    assert!(!end.outcome.sentence(crate::size::Memory::DEFAULT).is_some_and(|text| text.contains("microVM")));
}

#[test]
fn the_third_interrupt_ends_the_machine() {
    let end = with_signals(&[Signal::SIGINT, Signal::SIGTERM, Signal::SIGINT], |play, mut guest, raise| {
        play.run(
            move || {
                guest.start();
                raise(0);
                assert_eq!(guest.hear(), HostMessage::Signal(2));
                raise(1);
                assert_eq!(guest.hear(), HostMessage::Signal(15));
                raise(2);
            },
            || {},
        )
    });
    assert_eq!((end.outcome, end.killed), (Outcome::Killed(KillCause::Insisted), true));
}

#[test]
fn the_end_of_the_time_is_a_stop() {
    let (mut play, mut guest) = play();
    play.timeout = Some(Duration::from_millis(20));
    let end = play.run(
        move || {
            guest.start();
            assert_eq!(guest.hear(), HostMessage::Signal(15));
            guest.exit(3);
            guest.power_off();
        },
        || {},
    );
    assert_eq!(end.outcome, exited(3));
}

#[test]
fn a_caller_that_takes_no_output_is_left_by_a_signal() {
    let end = with_signals(&[Signal::SIGTERM], |mut play, mut guest, raise| {
        // A second output that nobody reads, more than its pipe holds.
        let (channel, mut full) = UnixStream::pair().unwrap();
        let (unread, writer) = pipe().unwrap();
        play.streams.add_output("standard error", channel, &writer).unwrap();
        let end = play.run(
            move || {
                guest.start();
                full.write_all(&vec![0; 128 << 10]).unwrap();
                guest.exit(0);
                guest.power_off();
                drop(full);
                guest.gone.recv().unwrap();
                raise(0);
            },
            || {},
        );
        drop(unread);
        end
    });
    assert_eq!(end.outcome, exited(0));
}

/// Short enough to be waited for.
const SHORT: Duration = Duration::from_millis(20);

#[test]
fn a_guest_that_does_not_power_off_is_ended_and_the_exit_code_stands() {
    let (mut play, mut guest) = play();
    play.grace = SHORT;
    let end = play.run(
        move || {
            guest.start();
            guest.exit(5);
            guest.gone.recv().unwrap();
        },
        || {},
    );
    assert_eq!((end.outcome, end.killed), (exited(5), true));
}

#[test]
fn a_guest_whose_agent_went_away_is_ended() {
    let (mut play, mut guest) = play();
    play.grace = SHORT;
    let end = play.run(
        move || {
            guest.start();
            guest.stdout.shutdown(Shutdown::Both).unwrap();
            guest.agent.shutdown(Shutdown::Write).unwrap();
            guest.gone.recv().unwrap();
        },
        || {},
    );
    assert!(matches!(end.outcome, Outcome::AgentFailed(_)) && end.killed);
}

#[test]
fn output_without_end_does_not_save_a_guest_from_its_timeout() {
    let (mut play, mut guest) = play();
    (play.timeout, play.stop_timeout, play.grace) = (Some(SHORT), SHORT, SHORT);
    let mut reader = play.output.try_clone().unwrap();
    let reader = thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()).unwrap());
    let end = play.run(
        move || {
            guest.start();
            while guest.stdout.write_all(&[b'x'; 4096]).is_ok() {}
        },
        || {},
    );
    assert_eq!((end.outcome, end.killed), (Outcome::Killed(KillCause::DidNotStop), true));
    assert!(reader.join().unwrap() > 0);
}

#[test]
fn a_slow_reader_is_waited_for() {
    const LENGTH: usize = 256 << 10;
    let (mut play, mut guest) = play();
    play.grace = SHORT;
    // The play reads its output only after the task, so this output is the slow one.
    let (channel, mut full) = UnixStream::pair().unwrap();
    let (mut reader, writer) = pipe().unwrap();
    play.streams.add_output("standard error", channel, &writer).unwrap();
    drop(writer);
    let end = play.run(
        move || {
            guest.start();
            full.write_all(&[b'x'; LENGTH]).unwrap();
            drop(full);
            guest.exit(0);
            let waited = guest.gone.recv_timeout(10 * SHORT);
            assert_eq!(waited, Err(mpsc::RecvTimeoutError::Timeout), "the machine was ended while output was held up");
            let mut output = Vec::new();
            reader.read_to_end(&mut output).unwrap();
            assert_eq!(output.len(), LENGTH);
            guest.power_off();
        },
        || {},
    );
    assert_eq!(end.outcome, exited(0));
}
