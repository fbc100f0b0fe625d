//! Whom the out-of-memory killer killed, from the kernel's log.
//!
//! The log is read only after the cgroup has counted a kill, and only what was logged since the command's start.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;

/// The most records that are read: an out-of-memory report lists every process.
const MOST_RECORDS: usize = 4096;

/// The largest record of `/dev/kmsg`.
const LARGEST_RECORD: usize = 8 << 10;

/// The longest name of a process (`TASK_COMM_LEN` and room for escapes).
const LONGEST_NAME: usize = 64;

/// The kernel's log from one moment on.
#[derive(Debug)]
pub struct KernelLog {
    file: File,
}

impl KernelLog {
    /// The log from now on; `None` where there is none.
    pub fn from_now() -> Option<Self> {
        let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg").ok()?;
        file.seek(SeekFrom::End(0)).ok()?;
        Some(Self { file })
    }

    /// The name of the last process that the out-of-memory killer killed.
    pub fn last_victim(mut self) -> Option<String> {
        let mut record = vec![0; LARGEST_RECORD];
        let mut victim = None;
        for _ in 0..MOST_RECORDS {
            match self.file.read(&mut record) {
                Ok(0) => break,
                Ok(count) => {
                    let text = String::from_utf8_lossy(record.get(..count).unwrap_or_default());
                    victim = victim_in(&text).map(str::to_owned).or(victim);
                }
                // Records that were overwritten before they were read.
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
                Err(_) => break,
            }
        }
        victim
    }
}

/// The process that a record such as `3,523,91,-;Memory cgroup out of memory: Killed process 87 (python3) total-vm:…` names.
fn victim_in(record: &str) -> Option<&str> {
    let (_, message) = record.split_once(';')?;
    let (reason, rest) = message.split_once("Killed process ")?;
    // Only the kernel's own wording: a process name in an earlier part of the line could be anything.
    if !matches!(
        reason,
        "Out of memory: " | "Memory cgroup out of memory: " | "Out of memory (oom_kill_allocating_task): "
    ) {
        return None;
    }
    let (_, rest) = rest.split_once(" (")?;
    // A name may hold parentheses itself, what follows it may not.
    let (name, _) = rest.split_once(") total-vm:")?;
    (name.len() <= LONGEST_NAME).then_some(name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_victim_of_either_killer_is_named() {
        let memcg =
            "3,523,9100,-;Memory cgroup out of memory: Killed process 87 (python3) total-vm:9kB, anon-rss:1kB, UID:0\n";
        let global = "3,7,91,-;Out of memory: Killed process 3 (a) b (c) total-vm:9kB, anon-rss:1kB\n SUBSYSTEM=x\n";
        assert_eq!(victim_in(memcg), Some("python3"));
        assert_eq!(victim_in(global), Some("a) b (c"));
    }

    #[test]
    fn other_records_name_nobody() {
        for record in [
            "",
            "6,1,2,-;Linux version 6.12",
            "3,7,91,-;oom-kill:constraint=CONSTRAINT_MEMCG,task=Killed process 1 (x) total-vm:1,pid=4",
            "3,7,91,-;Out of memory: Killed process 3 (",
            "3,7,91,-;Out of memory: Killed process ",
        ] {
            assert_eq!(victim_in(record), None, "{record}");
        }
    }

    proptest! {
        #[test]
        fn hostile_records_never_panic(record in ".{0,80}(;Out of memory: Killed process )?.{0,80}") {
            if let Some(name) = victim_in(&record) {
                prop_assert!(name.len() <= LONGEST_NAME);
            }
        }
    }
}
