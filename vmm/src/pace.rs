//! Holding the vCPUs to a share of the host's processors, where no cgroup does it.
//!
//! All vCPUs of a machine draw their processor time from one [`Pace`]. It fills by `units`/1024 seconds a second and holds a
//! tenth of a second of that, so that what an idle guest has not used is not saved up; it may be overdrawn, and a vCPU
//! that finds it empty waits until it is not, so that what was overdrawn is paid back and the share is exact in the long run.
//!
//! A vCPU that computes never leaves `KVM_RUN` by itself. A timer over its thread's own processor time ([`timer`]) interrupts
//! it after each [`SLICE`]; it never expires for a guest that sleeps. An interruption that comes while the thread is
//! outside `KVM_RUN` is lost, hence the look after some exits, which a guest can make as often as it likes.
//!
//! Nothing is held back before [`Pace::begin`]: a guest starts as fast as the host can.

mod timer;

use std::io;
use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};

use self::timer::Timer;
use crate::config::UNITS_PER_CPU;
use crate::ending::Ending;

/// How much processor time a vCPU uses between two looks, and the least that is there when it goes on after waiting.
const SLICE: Duration = Duration::from_millis(5);

/// How long it takes to fill what is empty. A share that is not used for longer is lost.
const PERIOD: Duration = Duration::from_millis(100);

/// After how many exits a vCPU looks, whatever the timer says.
const EXITS: u32 = 64;

/// The processor time that the vCPUs of a machine may use.
#[derive(Debug)]
pub struct Pace {
    /// 1024 are all of one processor.
    units: u32,
    pool: Mutex<Pool>,
}

#[derive(Debug)]
struct Pool {
    /// Nanoseconds of processor time; below zero when overdrawn.
    left: i64,
    /// When it was last filled; `None` before the beginning.
    filled: Option<Instant>,
}

impl Pace {
    /// A share of so many units; 1024 are all of one processor.
    #[must_use]
    pub fn new(units: u32) -> Self {
        Self { units: units.max(1), pool: Mutex::new(Pool { left: 0, filled: None }) }
    }

    /// From now on the share counts, and its first period is there to be used.
    pub fn begin(&self) {
        let mut pool = self.pool();
        if pool.filled.is_none() {
            *pool = Pool { left: self.share_of(PERIOD), filled: Some(Instant::now()) };
        }
    }

    /// Takes what a vCPU has used, and says how long it has to wait until it may go on.
    fn draw(&self, used: Duration, now: Instant) -> Option<Duration> {
        let mut pool = self.pool();
        let filled = pool.filled?;
        let more = self.share_of(now.saturating_duration_since(filled));
        let full = self.share_of(PERIOD).max(nanoseconds(SLICE));
        pool.left = pool.left.saturating_add(more).min(full).saturating_sub(nanoseconds(used));
        pool.filled = Some(now);
        (pool.left <= 0).then(|| self.time_for(nanoseconds(SLICE).saturating_sub(pool.left)))
    }

    /// The processor time that comes with so much time.
    fn share_of(&self, time: Duration) -> i64 {
        nanoseconds(time).saturating_mul(self.units.into()) / i64::from(UNITS_PER_CPU)
    }

    /// The time with which so much processor time comes.
    fn time_for(&self, share: i64) -> Duration {
        let time = share.saturating_mul(UNITS_PER_CPU.into()).checked_div(self.units.into());
        Duration::from_nanos(time.and_then(|time| u64::try_from(time).ok()).unwrap_or(0))
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The processor time of one vCPU: made, and used, by its thread alone.
#[derive(Debug)]
pub struct Meter<'a> {
    pace: &'a Pace,
    /// Interrupts the thread as long as this lives.
    _timer: Timer,
    /// The thread's processor time when it was last drawn.
    drawn: Duration,
    exits: u32,
}

impl<'a> Meter<'a> {
    /// A meter for the calling thread, which gets `signal` after each slice. The signal's handler does nothing.
    ///
    /// # Errors
    /// Those of the system calls.
    pub fn start(pace: &'a Pace, signal: libc::c_int) -> io::Result<Self> {
        Ok(Self { pace, _timer: Timer::start(signal, SLICE)?, drawn: own_time()?, exits: 0 })
    }

    /// Looks after an exit of `KVM_RUN`, which may have been `interrupted`, and waits until the vCPU may go on, or has
    /// nothing to go on for any more.
    ///
    /// # Errors
    /// Those of the system calls.
    pub fn after_exit(&mut self, interrupted: bool, ending: &Ending) -> io::Result<()> {
        self.exits = self.exits.saturating_add(1);
        if !interrupted && self.exits < EXITS {
            return Ok(());
        }
        self.exits = 0;
        while ending.reason().is_none() {
            let time = own_time()?;
            let used = time.saturating_sub(self.drawn);
            self.drawn = time;
            let Some(wait) = self.pace.draw(used, Instant::now()) else { break };
            let mut end = [PollFd::new(ending.as_fd(), PollFlags::POLLIN)];
            match ppoll(&mut end, Some(TimeSpec::from(wait)), None) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// The processor time of the calling thread.
fn own_time() -> io::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

fn nanoseconds(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A pace that has begun, at the time it began.
    fn begun(units: u32) -> (Pace, Instant) {
        let pace = Pace::new(units);
        pace.begin();
        let start = pace.pool().filled.unwrap();
        (pace, start)
    }

    #[test]
    fn nothing_is_held_back_before_the_beginning() {
        let pace = Pace::new(256);
        assert_eq!(pace.draw(1000 * MS, Instant::now()), None);
        pace.begin();
        assert_eq!(pace.pool().left, 25_000_000);
    }

    #[test]
    fn the_share_of_a_busy_guest_is_exact() {
        for units in [256, 512, 1536, 15 * 1024 + 1] {
            let (pace, start) = begun(units);
            let vcpus = u64::from(units.div_ceil(1024));
            // All vCPUs run; the timer is late by a different time each slice, and so is each wake-up.
            let (mut now, mut used) = (start, Duration::ZERO);
            for slice in 0..20_000_u32 {
                let ran = SLICE + (slice % 7) * MS;
                now += ran;
                let mut wait = None;
                for _ in 0..vcpus {
                    used += ran;
                    wait = pace.draw(ran, now).or(wait);
                }
                while let Some(time) = wait {
                    now += time + MS / 10;
                    wait = pace.draw(Duration::ZERO, now);
                }
            }
            let share = used.as_secs_f64() / (now - start).as_secs_f64() * 1024.0 / f64::from(units);
            assert!((0.999..1.001).contains(&share), "{units}: {share}");
        }
    }

    #[test]
    fn what_an_idle_guest_leaves_is_not_saved_up() {
        let (pace, start) = begun(512);
        let hour = start + Duration::from_secs(3600);
        assert_eq!(pace.draw(Duration::ZERO, hour), None);
        assert_eq!(pace.draw(49 * MS, hour), None);
        // Overdrawn by 9 ms, and a slice of 5 ms is to be there: 14 ms at half of a processor.
        assert_eq!(pace.draw(10 * MS, hour), Some(28 * MS));
        assert_eq!(pace.draw(Duration::ZERO, hour + 28 * MS), None);
    }

    #[test]
    fn a_thread_that_computes_is_interrupted_and_waits() {
        extern "C" fn nothing(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
        let signal = libc::SIGVTALRM;
        vmm_sys_util::signal::register_signal_handler(signal, nothing).unwrap();
        let (pace, start) = begun(256);
        let ending = Ending::new().unwrap();
        let used = thread::scope(|scope| {
            let computing = || {
                let mut meter = Meter::start(&pace, signal).unwrap();
                while ending.reason().is_none() {
                    std::hint::black_box((0..1000_u32).sum::<u32>());
                    meter.after_exit(false, &ending).unwrap();
                }
                own_time().unwrap()
            };
            let thread = scope.spawn(computing);
            thread::sleep(2000 * MS);
            ending.end(crate::end::EndReason::PowerOff);
            thread.join().unwrap()
        });
        let most = start.elapsed() / 4 + pace.time_for(0) + 50 * MS;
        assert!(used < most, "{used:?} of {most:?}");
    }
}
