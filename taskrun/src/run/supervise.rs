//! Watches a task from its VMM's start to its end: one loop over everything that can happen.
//!
//! ```text
//!   signals ─────────┐
//!   control socket ──┤
//!   agent's messages ┤                    ┌▶ messages to the agent
//!   VMM's events ────┼─▶ Supervisor::run ─┼▶ SIGKILL to the VMM
//!   deadlines ───────┤                    └▶ Outcome
//!   outputs' ends ───┘
//! ```
//!
//! The task is over when the VMM is gone, the agent's last message is read and the outputs have ended. When the latter two
//! are there, the VMM is ended. Each wait for that has a bound: once the agent has said its last word, or is gone, or the task
//! was killed, the VMM has [`Task::grace`] to end, prolonged while output is still being written. Only a caller that takes no output is waited
//! for without a bound, as in any pipe, until it asks for the task's end.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::Signal;
use protocol::message::HostMessage;
use protocol::spec::WindowSize;
use vmm::control::{self, VmmEvent};
use vmm::end::EndReason;

use super::deadlines::{Deadlines, after, passed};
use super::outcome::{KillCause, Outcome};
use super::session::{Progress, Session, Stage};
use super::signals::{SignalError, Signals};
use super::stdio::{StdioError, Streams};
use super::stop::{Step, StopPolicy};
use crate::cpu::CpuError;
use crate::errors;
use crate::microvm::{AgentConnection, Job, Machine};
use crate::task::control::{Control, Request};
use crate::timings::{Phase, Timings};
use crate::voice::Voice;

/// How long a guest whose task is over may take to power off, and a killed task to end, in earnest.
pub const GRACE: Duration = Duration::from_secs(10);

/// How long a task with a timeout may take to start its command, on top of its timeout.
pub(super) const START: Duration = Duration::from_secs(600);

/// SIGKILL.
const KILL: i32 = 9;

/// What happens at the command's start, when its input is connected.
pub type OnStart<'a> = Box<dyn FnOnce(&Streams) -> Result<(), StdioError> + 'a>;

/// Everything that is supervised.
pub struct Task<'a, M> {
    /// The machine.
    pub machine: &'a mut M,
    /// The connection to the agent.
    pub agent: AgentConnection,
    /// What the agent is to do.
    pub job: Job,
    /// The signals of this process; `None` where they aren't the task's.
    pub signals: Option<&'a Signals>,
    /// Where other processes ask for the task's end; `None` where there is no such place.
    pub control: Option<&'a mut Control>,
    /// The outputs.
    pub streams: Streams,
    /// Runs when the command starts.
    pub on_start: OnStart<'a>,
    /// The size of the caller's terminal when the command has one.
    pub window: Option<&'a dyn Fn() -> WindowSize>,
    /// What signals mean.
    pub stop: StopPolicy,
    /// How long the command may run until it is asked to stop.
    pub timeout: Option<Duration>,
    /// How long it has from there.
    pub stop_timeout: Duration,
    /// How long a guest whose task is over may take to power off, and a killed task to end.
    pub grace: Duration,
    /// Hears what the user should know meanwhile.
    pub voice: Voice,
}

impl<M> std::fmt::Debug for Task<'_, M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Task").field("agent", &self.agent).field("stop", &self.stop).finish_non_exhaustive()
    }
}

/// Why supervising failed; the task is ended then.
#[derive(Debug, thiserror::Error)]
pub enum SuperviseError {
    /// Waiting failed.
    #[error("The task can't be watched")]
    Wait(#[source] io::Error),
    /// Signals can't be read.
    #[error(transparent)]
    Signals(#[from] SignalError),
    /// The input can't be connected.
    #[error(transparent)]
    Streams(#[from] StdioError),
    /// The task's share can't be enforced.
    #[error(transparent)]
    Cpu(#[from] CpuError),
    /// The VMM sent what isn't an event.
    #[error("The VMM can't be understood")]
    Vmm(#[source] control::ControlError),
}

/// Supervises `task` to its end. The machine is gone when this returns, whatever it returns.
///
/// # Errors
/// [`SuperviseError`].
pub fn supervise<M: Machine>(task: Task<'_, M>, timings: &mut Timings) -> Result<Outcome, SuperviseError> {
    // The time counts from the command's start; what comes before must not take forever either.
    let start_by = task.timeout.and_then(|timeout| after(timeout.saturating_add(START)));
    let mut supervisor = Supervisor {
        machine: task.machine,
        agent: task.agent,
        job: task.job,
        signals: task.signals,
        control: task.control,
        streams: task.streams,
        on_start: Some(task.on_start),
        window: task.window,
        stop: task.stop,
        timeout: task.timeout,
        stop_timeout: task.stop_timeout,
        grace: task.grace,
        voice: task.voice,
        session: Session::default(),
        early: Vec::new(),
        deadlines: Deadlines { timeout: start_by, ..Deadlines::default() },
        written: 0,
        outcome: None,
        end_reason: None,
        machine_gone: false,
        hurry: false,
        give_up: false,
        timings,
    };
    let result = supervisor.run();
    if !supervisor.machine_gone {
        supervisor.machine.kill();
        supervisor.machine.wait();
    }
    supervisor.timings.reach(Phase::VmmEnded);
    result?;
    let reason = supervisor.end_reason.unwrap_or(EndReason::PowerOff);
    Ok(supervisor.outcome.unwrap_or(Outcome::GuestEnded(reason)))
}

struct Supervisor<'a, M> {
    machine: &'a mut M,
    agent: AgentConnection,
    job: Job,
    signals: Option<&'a Signals>,
    control: Option<&'a mut Control>,
    streams: Streams,
    on_start: Option<OnStart<'a>>,
    window: Option<&'a dyn Fn() -> WindowSize>,
    stop: StopPolicy,
    timeout: Option<Duration>,
    stop_timeout: Duration,
    grace: Duration,
    voice: Voice,
    session: Session,
    /// What the agent gets behind the task.
    early: Vec<HostMessage>,
    deadlines: Deadlines,
    /// Bytes of output that were written when the grace began.
    written: u64,
    outcome: Option<Outcome>,
    end_reason: Option<EndReason>,
    machine_gone: bool,
    /// Whether the caller asked for the task's end, so that its outputs are not waited for without a bound.
    hurry: bool,
    /// Whether outputs that have not ended are given up.
    give_up: bool,
    timings: &'a mut Timings,
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Signals,
    Control,
    Agent,
    Machine,
    Outputs,
}

impl<M: Machine> Supervisor<'_, M> {
    fn run(&mut self) -> Result<(), SuperviseError> {
        while !self.is_over() {
            for source in self.wait()? {
                match source {
                    Source::Signals => self.read_signals()?,
                    Source::Control => self.read_control(),
                    Source::Agent => self.read_agent()?,
                    Source::Machine => self.read_machine()?,
                    // Looked at below, whatever woke the loop.
                    Source::Outputs => {}
                }
            }
            let over = self.session.stage() == Stage::Over;
            if self.streams.outputs_ended() && (over || self.machine_gone) {
                self.timings.reach(Phase::OutputEnded);
            }
            if over && !self.machine_gone && self.has_all() {
                // All that its guest has left to do is to power off, which takes time and tells nothing.
                self.machine.kill();
            }
            self.look_at_deadlines();
        }
        Ok(())
    }

    /// Whether there is nothing more to come from a guest whose agent has said its last word.
    fn has_all(&self) -> bool {
        self.streams.outputs_ended() || matches!(self.outcome, Some(Outcome::NotStarted(_)))
    }

    fn is_over(&self) -> bool {
        self.machine_gone && !self.agent.is_open() && (self.give_up || self.streams.outputs_ended())
    }

    /// Waits until something is ready or overdue.
    fn wait(&self) -> Result<Vec<Source>, SuperviseError> {
        let mut sources = vec![Source::Outputs];
        let mut descriptors = vec![PollFd::new(self.streams.event(), PollFlags::POLLIN)];
        if let Some(signals) = self.signals {
            sources.push(Source::Signals);
            descriptors.push(PollFd::new(signals.as_fd(), PollFlags::POLLIN));
        }
        if self.agent.is_open() {
            let write = if self.agent.has_outgoing() { PollFlags::POLLOUT } else { PollFlags::empty() };
            sources.push(Source::Agent);
            descriptors.push(PollFd::new(self.agent.as_fd(), PollFlags::POLLIN | write));
        }
        if !self.machine_gone {
            sources.push(Source::Machine);
            descriptors.push(PollFd::new(self.machine.events(), PollFlags::POLLIN));
        }
        for peer in self.control.iter().flat_map(|control| control.descriptors()) {
            sources.push(Source::Control);
            descriptors.push(PollFd::new(peer, PollFlags::POLLIN));
        }
        match poll(&mut descriptors, self.deadlines.poll_timeout()) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(Vec::new()),
            Err(error) => return Err(SuperviseError::Wait(error.into())),
        }
        let ready = sources.into_iter().zip(&descriptors).filter(|(_, fd)| fd.any().unwrap_or(true));
        let mut ready: Vec<_> = ready.map(|(source, _)| source).collect();
        // That the guest has its randomness is said before the agent greets, so all that the machine has said is heard before.
        if self.session.stage() == Stage::Connecting && ready.contains(&Source::Machine) {
            ready.retain(|source| *source != Source::Agent);
        }
        Ok(ready)
    }

    fn read_control(&mut self) {
        let requests = self.control.as_mut().map(|control| control.requests()).unwrap_or_default();
        for request in requests {
            let before_command = matches!(self.session.stage(), Stage::Connecting | Stage::Starting);
            match request {
                _ if self.machine_gone => {}
                Request::Stop { .. } if before_command => self.end_machine(Outcome::Aborted(Signal::SIGTERM as i32)),
                Request::Stop { timeout } => {
                    self.stop_timeout = timeout.map_or(self.stop_timeout, Duration::from_millis);
                    let step = self.stop.request();
                    self.take(step);
                }
                Request::Signal(KILL) if before_command => self.end_machine(Outcome::Aborted(KILL)),
                Request::Signal(signal) => {
                    self.tell(HostMessage::Signal(signal));
                    if signal == KILL {
                        self.hurry = true;
                        self.begin_grace();
                    }
                }
            }
        }
    }

    fn read_signals(&mut self) -> Result<(), SuperviseError> {
        while let Some(signal) = self.signals.map(Signals::next).transpose()?.flatten() {
            let ends = matches!(signal, Signal::SIGINT | Signal::SIGTERM | Signal::SIGHUP | Signal::SIGQUIT);
            let before_command = matches!(self.session.stage(), Stage::Connecting | Stage::Starting);
            if self.machine_gone {
                // Only a caller that does not take its output is waited for.
                self.give_up |= ends;
            } else if before_command && ends {
                self.end_machine(Outcome::Aborted(signal as i32));
            } else if let (Signal::SIGWINCH, Some(window)) = (signal, self.window) {
                self.tell(HostMessage::Resize(window()));
            } else {
                let step = self.stop.signal(signal);
                self.take(step);
            }
        }
        Ok(())
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Send(signal) => self.tell(HostMessage::Signal(signal)),
            Step::Stop(signal) => {
                self.timings.reach(Phase::StopRequested);
                self.hurry = true;
                self.deadlines.stop = after(self.stop_timeout);
                self.tell(HostMessage::Signal(signal));
            }
            Step::Kill => self.end_machine(Outcome::Killed(KillCause::Insisted)),
            Step::Nothing => {}
        }
    }

    /// Says something to the agent, behind the task.
    fn tell(&mut self, message: HostMessage) {
        if !self.job.is_taken() {
            // One of each is as good as many.
            if !self.early.contains(&message) {
                self.early.push(message);
            }
        } else if let Err(error) = self.agent.send(&message) {
            self.agent_failed(&error);
        }
    }

    fn read_agent(&mut self) -> Result<(), SuperviseError> {
        let messages = match self.agent.flush().and_then(|()| self.agent.receive()) {
            Ok(messages) => messages,
            Err(error) => {
                self.agent_failed(&error);
                return Ok(());
            }
        };
        for message in messages {
            match self.session.take(message) {
                Ok(progress) => self.progress(progress)?,
                Err(violation) => {
                    self.agent_failed(&violation);
                    return Ok(());
                }
            }
        }
        if !self.agent.is_open() {
            self.begin_grace();
        }
        Ok(())
    }

    fn progress(&mut self, progress: Progress) -> Result<(), SuperviseError> {
        match progress {
            Progress::Ready => {
                self.timings.reach(Phase::AgentReady);
                self.send_task();
            }
            Progress::Reached(phase) => {
                self.timings.reach(phase);
                if phase == Phase::CommandStarted {
                    self.machine.limit()?;
                    self.deadlines.timeout = self.timeout.and_then(after);
                    if let Some(on_start) = self.on_start.take() {
                        on_start(&self.streams)?;
                    }
                }
            }
            Progress::Warning(text) => self.voice.say(&text),
            Progress::Nothing => {}
            Progress::Exited(status) => {
                self.timings.reach(Phase::CommandExited);
                self.task_over(Outcome::Exited(status));
            }
            Progress::Failed(failure) => self.task_over(Outcome::NotStarted(failure)),
        }
        Ok(())
    }

    fn send_task(&mut self) {
        let messages = match self.job.take() {
            Ok(messages) => messages,
            Err(error) => return self.agent_failed(&error),
        };
        let mut sent = messages.iter().try_for_each(|message| self.agent.send_task(message));
        for message in std::mem::take(&mut self.early) {
            sent = sent.and_then(|()| self.agent.send(&message));
        }
        if let Err(error) = sent {
            self.agent_failed(&error);
        }
    }

    /// The agent has said its last word.
    fn task_over(&mut self, outcome: Outcome) {
        self.outcome.get_or_insert(outcome);
        self.deadlines.stop = None;
        self.begin_grace();
    }

    /// The agent can't be believed any more, so neither can its guest.
    fn agent_failed(&mut self, error: &dyn std::error::Error) {
        self.agent.close();
        self.end_machine(Outcome::AgentFailed(errors::chain(error)));
    }

    fn read_machine(&mut self) -> Result<(), SuperviseError> {
        match control::receive_event(self.machine.events()).map_err(SuperviseError::Vmm)? {
            Some(VmmEvent::Running) => self.timings.reach(Phase::GuestRunning),
            Some(VmmEvent::Seeded) => self.job.seeded(),
            Some(VmmEvent::Ended(reason)) => {
                self.end_reason.get_or_insert(reason);
                self.begin_grace();
            }
            None => {
                // Its socket is closed, so it is as good as gone; this makes sure.
                self.machine.kill();
                let reason = self.machine.wait();
                self.end_reason.get_or_insert(reason);
                self.machine_gone = true;
                self.timings.reach(Phase::VmmEnded);
                self.deadlines = Deadlines::default();
                if self.hurry {
                    self.begin_grace();
                }
            }
        }
        Ok(())
    }

    /// Ends the machine at once, and the task with it unless that has ended before.
    fn end_machine(&mut self, outcome: Outcome) {
        self.outcome.get_or_insert(outcome);
        self.hurry = true;
        self.machine.kill();
    }

    fn begin_grace(&mut self) {
        self.written = self.streams.written();
        self.deadlines.grace = after(self.grace);
    }

    fn look_at_deadlines(&mut self) {
        if passed(&mut self.deadlines.timeout) {
            self.time_over();
        }
        if passed(&mut self.deadlines.stop) {
            self.tell(HostMessage::Signal(KILL));
            self.begin_grace();
        }
        if passed(&mut self.deadlines.grace) {
            self.grace_over();
        }
    }

    fn time_over(&mut self) {
        match self.session.stage() {
            Stage::Connecting | Stage::Starting => self.end_machine(Outcome::TimedOut),
            Stage::Running => {
                let timeout = humantime::format_duration(self.timeout.unwrap_or_default());
                self.voice.say(&format!("The task timed out after {timeout} and is asked to stop"));
                let step = self.stop.timeout();
                self.take(step);
            }
            Stage::Over => {
                self.hurry = true;
                self.begin_grace();
            }
        }
    }

    /// Something has not ended in time. Where nobody is in a hurry, output that is being written prolongs the time.
    fn grace_over(&mut self) {
        let moved = self.streams.written() != self.written;
        if self.machine_gone {
            // What is left in the sockets has an end, so this has one too.
            if moved { self.begin_grace() } else { self.give_up = true }
        } else if self.hurry {
            self.end_machine(Outcome::Killed(KillCause::DidNotStop));
        } else if moved || self.streams.is_held_up() {
            self.begin_grace();
        } else {
            let sentence = "The agent in the guest went away and its guest did not end".to_owned();
            self.end_machine(self.end_reason.clone().map_or(Outcome::AgentFailed(sentence), Outcome::GuestEnded));
        }
    }
}

#[cfg(test)]
mod tests;
