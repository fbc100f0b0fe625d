//! What a process holds of the host's memory, by proc_pid_status(5) and proc_pid_smaps(5).

use std::fs;
use std::path::Path;

use nix::unistd::Pid;

/// The memfd of a guest that booted.
const GUEST: &str = "/memfd:guest-memory";

/// The most that a process has held at once, with the pages of files that it maps, in KiB; `None` when it is gone.
#[must_use]
pub fn peak_kib(process: Pid) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    kib(status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?)
}

/// What a VMM holds now beside its guest's memory, in KiB: all but what it maps of `folders`, where images and templates are, and
/// the memory of a guest that booted. `None` when it is gone.
#[must_use]
pub fn beside_guest_kib(vmm: Pid, folders: &[&Path]) -> Option<u64> {
    let maps = fs::read_to_string(format!("/proc/{vmm}/smaps")).ok()?;
    let mut sum: u64 = 0;
    let mut counts = true;
    for line in maps.lines() {
        if let Some(resident) = line.strip_prefix("Rss:") {
            sum = sum.saturating_add(if counts { kib(resident)? } else { 0 });
        } else if line.split_whitespace().next().is_some_and(|word| !word.ends_with(':')) {
            // A mapping: addresses, permissions, offset, device and inode, then the path, if it is a file's.
            let path = line.find('/').and_then(|start| line.get(start..)).unwrap_or_default();
            counts = !path.starts_with(GUEST) && !folders.iter().any(|folder| Path::new(path).starts_with(folder));
        }
    }
    (sum > 0).then_some(sum)
}

fn kib(text: &str) -> Option<u64> {
    text.trim().trim_end_matches(" kB").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_can_be_measured() {
        let own = Pid::this();
        let program = std::env::current_exe().unwrap();
        let (peak, all) = (peak_kib(own).unwrap(), beside_guest_kib(own, &[]).unwrap());
        let without = beside_guest_kib(own, &[program.parent().unwrap()]).unwrap();
        // The kernel keeps the peak by counters that lag behind by some pages.
        assert!(without < all && all / 2 < peak && peak < all.saturating_mul(100), "{without} {all} {peak}");
        assert_eq!(peak_kib(Pid::from_raw(i32::MAX)), None);
    }
}
