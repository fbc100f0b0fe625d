//! Who holds which memory: a process's share of its mappings (PSS), a file's pages in the page cache.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use crate::command;
use crate::host::field;

/// Proportional set sizes, in bytes: a page that n mappings share counts as 1/n in each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pss {
    /// Of mapped root file systems: files with the suffix `.erofs`.
    pub image: u64,
    /// Of guests' memory: memfds, and templates that are mapped privately.
    pub guest: u64,
    /// The part of guests' memory that isn't a template's, but the guest's own: not shared with anyone.
    pub guest_own: u64,
    /// Of everything else.
    pub rest: u64,
    /// The part of everything else that the process has written: its private dirty memory.
    pub rest_dirty: u64,
}

impl Pss {
    /// What a process holds.
    pub fn of(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/smaps");
        let smaps = fs::read_to_string(&path).with_context(|| format!("{path} can't be read"))?;
        Ok(Self::parse(&smaps))
    }

    fn parse(smaps: &str) -> Self {
        let mut pss = Self::default();
        let mut mapped = "";
        for line in smaps.lines() {
            if let Some(path) = mapping(line) {
                mapped = path;
            } else if let Some((name, bytes)) = amount(line) {
                pss.add(mapped, name, bytes);
            }
        }
        pss
    }

    /// Adds a line of a mapping.
    fn add(&mut self, mapped: &str, name: &str, bytes: u64) {
        let is_memfd = mapped.starts_with("/memfd:");
        let is_guest = is_memfd || mapped.ends_with("/memory");
        let sums: &mut [&mut u64] = match name {
            "Pss" if mapped.ends_with(".erofs") => &mut [&mut self.image],
            "Pss" if is_memfd => &mut [&mut self.guest, &mut self.guest_own],
            "Pss" if is_guest => &mut [&mut self.guest],
            "Pss" => &mut [&mut self.rest],
            // What a private mapping of a file has that isn't the file's.
            "Anonymous" if is_guest && !is_memfd => &mut [&mut self.guest_own],
            "Private_Dirty" if !is_guest => &mut [&mut self.rest_dirty],
            _ => &mut [],
        };
        for sum in sums {
            **sum = sum.saturating_add(bytes);
        }
    }

    /// All processes' together.
    pub fn sum(all: impl IntoIterator<Item = Self>) -> Self {
        all.into_iter().fold(Self::default(), |sum, pss| Self {
            image: sum.image.saturating_add(pss.image),
            guest: sum.guest.saturating_add(pss.guest),
            guest_own: sum.guest_own.saturating_add(pss.guest_own),
            rest: sum.rest.saturating_add(pss.rest),
            rest_dirty: sum.rest_dirty.saturating_add(pss.rest_dirty),
        })
    }
}

/// The path in the line that starts a mapping (`START-END PERMS OFFSET DEVICE INODE PATH`), empty for memory without a
/// file; `None` for other lines. The kernel marks files that have no name any more.
fn mapping(line: &str) -> Option<&str> {
    let (start, _) = line.split_once(' ')?.0.split_once('-')?;
    u64::from_str_radix(start, 16).ok()?;
    let path = line.splitn(6, ' ').nth(5).unwrap_or_default().trim_start();
    Some(path.strip_suffix(" (deleted)").unwrap_or(path))
}

/// A line of a mapping that is an amount.
fn amount(line: &str) -> Option<(&str, u64)> {
    let (name, value) = line.split_once(':')?;
    Some((name, kibibytes(value.trim())?))
}

/// `12 kB` in bytes.
fn kibibytes(text: &str) -> Option<u64> {
    text.strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The host's memory that holds files' pages, without that of shared memory such as guests'.
pub fn file_pages() -> Result<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo").context("/proc/meminfo can't be read")?;
    let bytes =
        |name| field(&meminfo, name).and_then(kibibytes).with_context(|| format!("/proc/meminfo has no {name}"));
    Ok(bytes("Cached")?.saturating_sub(bytes("Shmem")?))
}

/// How much of a file is in the page cache.
pub fn resident(file: &Path) -> Result<u64> {
    let line =
        command::first_line(Command::new("fincore").args(["--bytes", "--noheadings", "--output", "RES"]).arg(file))?;
    line.trim().parse().with_context(|| format!("fincore says {line:?}"))
}

/// Takes a file out of the page cache.
pub fn evict(file: &Path) -> Result<()> {
    let open = File::open(file).with_context(|| format!("{} can't be read", file.display()))?;
    // Pages that are not written yet would stay.
    open.sync_all().with_context(|| format!("{} can't be written back", file.display()))?;
    posix_fadvise(&open, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)
        .with_context(|| format!("{} can't be taken out of the page cache", file.display()))
}

/// The processes below `ancestor` whose command has this name.
pub fn descendants(ancestor: u32, name: &str) -> Result<Vec<u32>> {
    let mut processes = Vec::new();
    for entry in fs::read_dir("/proc").context("/proc can't be read")? {
        // A process may end while it is looked at.
        let stat = fs::read_to_string(entry?.path().join("stat")).unwrap_or_default();
        processes.extend(parse_stat(&stat));
    }
    let mut family = vec![ancestor];
    let mut index = 0;
    while let Some(&parent) = family.get(index) {
        family.extend(processes.iter().filter(|process| process.parent == parent).map(|process| process.pid));
        index = index.saturating_add(1);
    }
    let found: Vec<u32> = processes
        .iter()
        .filter(|process| family.contains(&process.pid) && process.name == name)
        .map(|p| p.pid)
        .collect();
    if found.is_empty() {
        bail!("Process {ancestor} has no {name} below it");
    }
    Ok(found)
}

#[derive(Debug, PartialEq, Eq)]
struct Process {
    pid: u32,
    parent: u32,
    name: String,
}

/// `PID (NAME) STATE PARENT …`; a name may hold anything, parentheses too.
fn parse_stat(stat: &str) -> Option<Process> {
    let (pid, rest) = stat.split_once(" (")?;
    let (name, rest) = rest.rsplit_once(") ")?;
    let parent = rest.split(' ').nth(1)?;
    Some(Process { pid: pid.parse().ok()?, parent: parent.parse().ok()?, name: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const SMAPS: &str = "\
7f1c00000000-7f1c06400000 r--s 00000000 fe:00 1234                       /home/u/images/rootfs/a b.erofs
Size:             102400 kB
Pss:               10240 kB
Pss_Dirty:             0 kB
7f1c08000000-7f1c10000000 rw-s 00000000 00:01 77                         /memfd:guest (deleted)
Pss:               20000 kB
7f1c18000000-7f1c20000000 rw-p 00000000 fe:00 78                         /var/templates/1/memory
Pss:                5000 kB
Private_Dirty:      2000 kB
Anonymous:          2000 kB
7f1c20000000-7f1c20001000 rw-p 00000000 00:00 0
Pss:                   4 kB
7f1c20000000-7f1c20001000 rw-p 00000000 00:00 0                          [heap]
Pss:                   8 kB
Private_Dirty:         4 kB
Anonymous:             8 kB
VmFlags: rd wr
";

    #[test]
    fn shares_are_told_apart_by_what_is_mapped() {
        let pss = Pss::parse(SMAPS);
        let guest = Pss { guest: 25000 << 10, guest_own: 22000 << 10, ..Pss::default() };
        assert_eq!(pss, Pss { image: 10240 << 10, rest: 12 << 10, rest_dirty: 4 << 10, ..guest });
        assert_eq!(Pss::sum([pss, pss]).image, 20480 << 10);
        assert!(Pss::of(std::process::id()).unwrap().rest > 0);
    }

    #[test]
    fn a_name_with_parentheses_does_not_hide_the_parent() {
        let process = Process { pid: 7, parent: 3, name: "a) S 9 (b".to_owned() };
        assert_eq!(parse_stat("7 (a) S 9 (b) S 3 7 7 0\n"), Some(process));
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn descendants_are_found_through_other_processes() {
        let mut child =
            Command::new("sh").args(["-c", "sh -c 'cat; :'; :"]).stdin(std::process::Stdio::piped()).spawn().unwrap();
        while descendants(child.id(), "cat").is_err() {
            std::thread::yield_now();
        }
        assert_eq!(descendants(std::process::id(), "cat").unwrap(), descendants(child.id(), "cat").unwrap());
        assert!(descendants(child.id(), "no such name").is_err());
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    #[test]
    fn a_file_that_was_just_written_is_resident() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&[1; 100_000]).unwrap();
        assert!(resident(file.path()).unwrap() >= 100_000);
        evict(file.path()).unwrap();
        assert!(file_pages().unwrap() > 0);
    }
}
