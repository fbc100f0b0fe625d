//! When what is overdue in a supervised task.

use std::time::{Duration, Instant};

use nix::poll::PollTimeout;

/// The points in time at which the supervisor acts by itself.
#[derive(Debug, Default)]
pub struct Deadlines {
    /// The task is asked to stop.
    pub timeout: Option<Instant>,
    /// A task that was asked to stop is killed.
    pub stop: Option<Instant>,
    /// A machine whose task is over is killed.
    pub grace: Option<Instant>,
}

impl Deadlines {
    /// How long `poll` may wait; rounded up, so that the deadline has passed when it wakes.
    #[must_use]
    pub fn poll_timeout(&self) -> PollTimeout {
        let next = [self.timeout, self.stop, self.grace].into_iter().flatten().min();
        let Some(deadline) = next else { return PollTimeout::NONE };
        let left = deadline.saturating_duration_since(Instant::now()).saturating_add(Duration::from_micros(999));
        PollTimeout::try_from(left.as_millis()).unwrap_or(PollTimeout::MAX)
    }
}

/// The time `duration` from now; none when that is beyond what a clock can tell.
#[must_use]
pub fn after(duration: Duration) -> Option<Instant> {
    Instant::now().checked_add(duration)
}

/// Whether the deadline has passed; it is taken then.
pub fn passed(deadline: &mut Option<Instant>) -> bool {
    deadline.take_if(|deadline| *deadline <= Instant::now()).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_deadline_ends_the_wait() {
        assert_eq!(Deadlines::default().poll_timeout(), PollTimeout::NONE);
        let deadlines = Deadlines { timeout: after(Duration::from_secs(5)), grace: after(Duration::ZERO), stop: None };
        assert!(deadlines.poll_timeout() <= PollTimeout::from(1_u8));
        let deadlines = Deadlines { stop: after(Duration::from_secs(3)), ..Deadlines::default() };
        let wait = u64::try_from(deadlines.poll_timeout()).unwrap();
        assert!((2000..=3001).contains(&wait), "{wait}");
        let far = Deadlines { stop: after(Duration::from_secs(u64::from(u32::MAX))), ..Deadlines::default() };
        assert_eq!(far.poll_timeout(), PollTimeout::MAX);
    }

    #[test]
    fn a_deadline_passes_once() {
        let mut deadline = after(Duration::ZERO);
        assert!(passed(&mut deadline));
        assert!(!passed(&mut deadline));
        assert!(!passed(&mut after(Duration::from_secs(60))));
        assert_eq!(after(Duration::MAX), None);
    }
}
