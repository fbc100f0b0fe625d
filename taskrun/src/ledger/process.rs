//! Which process watches a task, so that any other can tell whether it still does.
//!
//! A pid alone says nothing: it is given again. With the time of its start and the id of its boot it names one process
//! for ever (proc_pid_stat(5), fields 3 and 22).

use std::fs;
use std::io;

use super::clock::BootId;

/// A process, told from all others before and after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Process {
    /// Its pid.
    pub pid: u32,
    /// When it started, in clock ticks since the boot.
    pub start_ticks: u64,
    /// The boot.
    pub boot_id: BootId,
}

impl Process {
    /// This process.
    ///
    /// # Errors
    /// Those of `/proc`.
    pub fn own() -> io::Result<Self> {
        let boot_id = BootId::current()?;
        let pid = std::process::id();
        let stat = Stat::read(pid)?;
        Ok(Self { pid, start_ticks: stat.start_ticks, boot_id })
    }

    /// Whether it runs. One that has ended and waits for its parent (a zombie) does not. Where `/proc` doesn't tell, it
    /// counts as running: a task must not be ended under its supervisor.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        match BootId::current() {
            Ok(boot_id) if boot_id != self.boot_id => return false,
            _ => {}
        }
        match Stat::read(self.pid) {
            Ok(stat) => stat.start_ticks == self.start_ticks && !matches!(stat.state, 'Z' | 'X' | 'x'),
            // ESRCH: it went away while it was read.
            Err(error) => !(error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)),
        }
    }
}

/// What `/proc/PID/stat` says of a process.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    state: char,
    start_ticks: u64,
}

impl Stat {
    fn read(pid: u32) -> io::Result<Self> {
        // The name in it is any bytes.
        let bytes = fs::read(format!("/proc/{pid}/stat"))?;
        Self::parse(&String::from_utf8_lossy(&bytes)).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// The name, in parentheses, may hold parentheses and spaces; nothing behind it does.
    fn parse(text: &str) -> Option<Self> {
        let (_, fields) = text.rsplit_once(')')?;
        let mut fields = fields.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        // The state was field 3.
        let start_ticks = fields.nth(18)?.parse().ok()?;
        Some(Self { state, start_ticks })
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn process(pid: u32) -> Process {
        Process { pid, start_ticks: Stat::read(pid).unwrap().start_ticks, boot_id: BootId::current().unwrap() }
    }

    #[test]
    fn this_process_is_alive_and_no_other_with_its_pid_is() {
        let own = Process::own().unwrap();
        assert!(own.is_alive());
        assert!(!Process { start_ticks: own.start_ticks + 1, ..own }.is_alive());
        assert!(!Process { boot_id: BootId::from_bytes([7; 16]), ..own }.is_alive());
    }

    #[test]
    fn a_process_that_was_killed_is_not_alive_even_before_its_parent_knows() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let process = process(child.id());
        assert!(process.is_alive());
        child.kill().unwrap();
        while process.is_alive() {
            std::thread::yield_now();
        }
        assert!(fs::exists(format!("/proc/{}", process.pid)).unwrap(), "it is a zombie");
        child.wait().unwrap();
        assert!(!process.is_alive());
    }

    #[test]
    fn a_name_can_not_pass_for_fields() {
        let rest = (4..=21).map(|field| field.to_string()).collect::<Vec<_>>().join(" ");
        let parsed = Stat::parse(&format!("1 (a) Z 0) (b) R {rest} 4711 23"));
        assert_eq!(parsed, Some(Stat { state: 'R', start_ticks: 4711 }));
        assert_eq!(Stat::parse("1 (a) R 1 2"), None);
        assert_eq!(Stat::parse(""), None);
    }
}
