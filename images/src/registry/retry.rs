//! How long to wait before something is tried again: twice as long each time, a little different for everyone, so that
//! many clients of a registry that stumbled don't come back at once.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::Duration;

/// How often something is tried without progress.
const ATTEMPTS: u32 = 5;

/// Counts the attempts.
#[derive(Debug)]
pub(super) struct Backoff {
    base: Duration,
    failed: u32,
}

impl Backoff {
    /// No attempt yet; the first pause is about `base`.
    pub(super) fn new(base: Duration) -> Self {
        Self { base, failed: 0 }
    }

    /// There was progress: the count starts again.
    pub(super) fn reset(&mut self) {
        self.failed = 0;
    }

    /// An attempt failed: the pause before the next one, or `None` when that was the last.
    pub(super) fn failed(&mut self) -> Option<Duration> {
        self.failed = self.failed.saturating_add(1);
        if self.failed >= ATTEMPTS {
            return None;
        }
        let pause = self.base.saturating_mul(1 << self.failed.saturating_sub(1).min(16));
        // From half to one and a half of it.
        let random = u32::try_from(RandomState::new().build_hasher().finish() % 1024).unwrap_or(0);
        Some(pause / 2 + pause.saturating_mul(random) / 1024)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pauses_double_and_end() {
        let base = Duration::from_secs(1);
        let mut backoff = Backoff::new(base);
        for expected in [1, 2, 4, 8] {
            let pause = backoff.failed().unwrap();
            assert!((base * expected / 2..=base * expected * 3 / 2).contains(&pause), "{pause:?}");
        }
        assert_eq!(backoff.failed(), None);
        backoff.reset();
        assert!(backoff.failed().is_some());
    }
}
