//! A timer over a thread's own processor time, that sends the thread a signal.

use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::time::Duration;

use nix::errno::Errno;
use nix::unistd::gettid;

/// The timer. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Timer(libc::timer_t);

impl Timer {
    /// Sends the calling thread `signal` whenever it has used `interval` of processor time.
    #[expect(unsafe_code, reason = "nix can't make timers for threads with every libc, nor with real-time signals")]
    pub(super) fn start(signal: libc::c_int, interval: Duration) -> io::Result<Self> {
        // SAFETY: all of its fields are numbers and a pointer that nobody follows.
        let mut event: libc::sigevent = unsafe { MaybeUninit::zeroed().assume_init() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = signal;
        event.sigev_notify_thread_id = gettid().as_raw();
        let mut id: libc::timer_t = ptr::null_mut();
        // SAFETY: both point to values that live during the call.
        Errno::result(unsafe { libc::timer_create(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut event, &raw mut id) })?;
        let timer = Self(id);
        let every = libc::timespec {
            tv_sec: interval.as_secs().try_into().unwrap_or(libc::time_t::MAX),
            tv_nsec: interval.subsec_nanos().into(),
        };
        let times = libc::itimerspec { it_interval: every, it_value: every };
        // SAFETY: the timer is there, the times live during the call, and the old ones are not asked for.
        Errno::result(unsafe { libc::timer_settime(timer.0, 0, &raw const times, ptr::null_mut()) })?;
        Ok(timer)
    }
}

impl Drop for Timer {
    #[expect(unsafe_code, reason = "as in `start`")]
    fn drop(&mut self) {
        // SAFETY: the timer is there, and nothing knows of it any more.
        unsafe { libc::timer_delete(self.0) };
    }
}
