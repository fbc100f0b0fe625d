//! What a VMM's process has used of its host, while it runs and when it is gone.
//!
//! Read by others than who waits for the process, so the last look is taken before its number is free for another.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

/// What was used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// Processor time of all of its threads, in nanoseconds.
    pub cpu_ns: Option<u64>,
    /// The most memory of its own that it was seen to hold, in bytes: what the guest has written, and the VMM itself. What
    /// others share with it, the image's pages and those of a template, is not in it.
    pub peak_memory_bytes: Option<u64>,
}

/// Measures one process.
#[derive(Debug)]
pub struct Meter(Mutex<State>);

#[derive(Debug)]
struct State {
    /// While the process is there.
    sources: Option<Sources>,
    last: Measured,
}

#[derive(Debug)]
struct Sources {
    clock: Option<ClockId>,
    /// `/proc/PID/status`; for the process that was there when it was opened, and no other.
    status: Option<File>,
}

impl Meter {
    /// Measures a child of this process that nobody has waited for.
    #[must_use]
    pub fn of(child: u32) -> Self {
        let clock = i32::try_from(child).ok().and_then(|pid| clock_getcpuclockid(Pid::from_raw(pid)).ok());
        let status = File::open(format!("/proc/{child}/status")).ok();
        Self(Mutex::new(State { sources: Some(Sources { clock, status }), last: Measured::default() }))
    }

    /// Looks at it.
    #[must_use]
    pub fn measure(&self) -> Measured {
        self.state().measure()
    }

    /// Looks for the last time: the process has ended and is about to be waited for.
    pub fn finish(&self) {
        let mut state = self.state();
        state.measure();
        state.sources = None;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn measure(&mut self) -> Measured {
        if let Some(sources) = &self.sources {
            self.last.cpu_ns = sources.cpu_ns().max(self.last.cpu_ns);
            self.last.peak_memory_bytes = sources.memory_bytes().max(self.last.peak_memory_bytes);
        }
        self.last
    }
}

impl Sources {
    fn cpu_ns(&self) -> Option<u64> {
        let time = clock_gettime(self.clock?).ok()?;
        let seconds = u64::try_from(time.tv_sec()).ok()?;
        seconds.checked_mul(1_000_000_000)?.checked_add(u64::try_from(time.tv_nsec()).ok()?)
    }

    fn memory_bytes(&self) -> Option<u64> {
        let mut text = vec![0; 4096];
        let length = self.status.as_ref()?.read_at(&mut text, 0).ok()?;
        memory_in(&String::from_utf8_lossy(text.get(..length)?))
    }
}

/// The memory of a process that is its own, in bytes, by the text of proc_pid_status(5).
fn memory_in(status: &str) -> Option<u64> {
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    };
    kib("RssAnon:")?.checked_add(kib("RssShmem:")?)?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use nix::sys::wait::{Id, WaitPidFlag, waitid};

    use super::*;

    #[test]
    fn a_process_is_measured_until_nothing_is_left_of_it() {
        let mut child =
            Command::new("sh").args(["-c", "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done"]).spawn().unwrap();
        let meter = Meter::of(child.id());
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        let mut most = None;
        while most.is_none() {
            most = meter.measure().peak_memory_bytes;
        }
        waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).unwrap();
        meter.finish();
        let last = meter.measure();
        child.wait().unwrap();
        assert_eq!(meter.measure(), last);
        assert!(last.cpu_ns > Some(1_000_000) && last.peak_memory_bytes >= most, "{last:?}");
    }

    #[test]
    fn memory_of_its_own_is_told_from_what_is_shared() {
        let text = "VmHWM:\t  900 kB\nRssAnon:\t     100 kB\nRssFile:\t  500 kB\nRssShmem:\t      28 kB\n";
        assert_eq!(memory_in(text), Some(128 << 10));
        assert_eq!(memory_in("Name:\tx\nState:\tZ (zombie)\n"), None);
    }
}
