//! What a signal to taskrun, or the end of a task's time, means for the task.
//!
//! SIGTERM asks the task to stop: it gets its image's stop signal and, when the stop timeout is over, SIGKILL. The end
//! of `--timeout` does the same. Other signals are passed on as they are. Whoever sends SIGINT or SIGTERM for the third
//! time insists, and the microVM is ended at once.

use nix::sys::signal::Signal;

/// How often SIGINT and SIGTERM are passed on before the next one ends the microVM.
const PATIENCE: u32 = 2;

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send this signal to the command.
    Send(i32),
    /// Send this signal to the command and kill it when the stop timeout is over.
    Stop(i32),
    /// End the microVM now.
    Kill,
    /// Nothing more than what was done already.
    Nothing,
}

/// How often the caller has asked a task to stop.
#[derive(Debug)]
pub struct StopPolicy {
    stop_signal: i32,
    stopping: bool,
    interrupts: u32,
}

impl StopPolicy {
    /// A task whose image names `stop_signal`.
    #[must_use]
    pub fn new(stop_signal: i32) -> Self {
        Self { stop_signal, stopping: false, interrupts: 0 }
    }

    /// Whether the task was asked to stop.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// taskrun got `signal`.
    pub fn signal(&mut self, signal: Signal) -> Step {
        if matches!(signal, Signal::SIGINT | Signal::SIGTERM) {
            self.interrupts = self.interrupts.saturating_add(1);
            if self.interrupts > PATIENCE {
                return Step::Kill;
            }
        }
        match signal {
            Signal::SIGTERM if self.stopping => Step::Send(self.stop_signal),
            Signal::SIGTERM => self.stop(),
            other => Step::Send(other as i32),
        }
    }

    /// Another process asks for the task's end. Each time the stop timeout begins anew.
    pub fn request(&mut self) -> Step {
        self.stop()
    }

    /// The task's time is over.
    pub fn timeout(&mut self) -> Step {
        if self.stopping { Step::Nothing } else { self.stop() }
    }

    fn stop(&mut self) -> Step {
        self.stopping = true;
        Step::Stop(self.stop_signal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGQUIT: i32 = 3;

    #[test]
    fn sigterm_asks_to_stop_with_the_images_signal() {
        let mut policy = StopPolicy::new(SIGQUIT);
        assert_eq!(policy.signal(Signal::SIGTERM), Step::Stop(SIGQUIT));
        assert!(policy.is_stopping());
        assert_eq!(policy.signal(Signal::SIGTERM), Step::Send(SIGQUIT));
        assert_eq!(policy.signal(Signal::SIGTERM), Step::Kill);
    }

    #[test]
    fn other_signals_are_passed_on_as_they_are() {
        let mut policy = StopPolicy::new(SIGQUIT);
        for signal in
            [Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGINT, Signal::SIGWINCH]
        {
            assert_eq!(policy.signal(signal), Step::Send(signal as i32));
        }
        assert!(!policy.is_stopping());
    }

    #[test]
    fn the_third_interrupt_of_either_kind_kills() {
        let mut policy = StopPolicy::new(15);
        assert_eq!(policy.signal(Signal::SIGINT), Step::Send(2));
        assert_eq!(policy.signal(Signal::SIGTERM), Step::Stop(15));
        assert_eq!(policy.signal(Signal::SIGUSR1), Step::Send(10));
        assert_eq!(policy.signal(Signal::SIGINT), Step::Kill);
    }

    #[test]
    fn the_end_of_the_time_stops_once() {
        let mut policy = StopPolicy::new(15);
        assert_eq!(policy.timeout(), Step::Stop(15));
        assert_eq!(policy.timeout(), Step::Nothing);
    }
}
