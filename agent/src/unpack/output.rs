//! The output device: few, large, aligned, direct writes, by a thread of their own.
//!
//! On hosts that execute guest kernel code in software a system call costs a third of a millisecond and every page that the
//! kernel copies as much again, so what the image's writer gives in pieces is joined here to the size of a huge page and
//! written past the page cache, while the next piece is filled.
//!
//! ```text
//! write_at ─▶ window (2 MiB) ─ full, or something far away comes ─▶ writer thread ─▶ pwrite
//!                 ◀──────────────── written, empty again ─────────────┘
//! ```
//!
//! What is nowhere written reads as zeros, so blocks of zeros are left out by who writes. Small gaps of that kind ([`GAP`])
//! are filled, since a request more costs more than some blocks of zeros.
//!
//! What is discarded waits until the end, joined to as few requests as it takes; it is not written again.
//!
//! Invariants: writes reach the device in the order in which they come; after an error nothing more does.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use erofs::Output;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

use super::buffers::{Pages, SIZE};

/// What offsets and lengths are multiples of: satisfies `O_DIRECT` on every common block device.
const BLOCK: u64 = erofs::BLOCK_SIZE;

/// The longest gap between two pieces, in bytes, that is written as zeros to keep them together.
const GAP: usize = 64 << 10;

/// How many windows there are: one is filled, one is written.
const WINDOWS: usize = 2;

/// What the writer thread does.
#[derive(Debug)]
enum Job {
    Write { pages: Pages, length: usize, offset: u64 },
    Discard { offset: u64, length: u64 },
    Flush,
}

/// The pages of a write come back; the others have none.
type Done = io::Result<Option<Pages>>;

/// The part of the image that is being filled.
#[derive(Debug)]
struct Window {
    pages: Pages,
    offset: u64,
    length: usize,
}

/// An output device, or a file that stands for it. At first it must read as zeros.
#[derive(Debug)]
pub struct DeviceOutput {
    window: Option<Window>,
    /// The end of what was given so far: only behind it are gaps known to be zeros.
    end: u64,
    idle: Vec<Pages>,
    /// Starts and ends of what is to be discarded.
    discarded: Vec<(u64, u64)>,
    /// Jobs that have not come back.
    pending: usize,
    failed: bool,
    done: Receiver<Done>,
    /// Closed by dropping it, so that the thread ends.
    jobs: Option<Sender<Job>>,
    writer: Option<JoinHandle<()>>,
}

impl DeviceOutput {
    /// Opens the device.
    ///
    /// # Errors
    /// Those of `open(2)` and of starting a thread.
    pub fn open(path: &Path) -> io::Result<Self> {
        let open = |flags| File::options().write(true).custom_flags(flags).open(path);
        let file = match open(libc::O_DIRECT) {
            // Not on tmpfs before Linux 6.6.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => open(0)?,
            file => file?,
        };
        let (jobs, jobs_out) = channel();
        let (done_in, done) = channel();
        let writer =
            thread::Builder::new().name("output".into()).spawn(move || write_all(&file, &jobs_out, &done_in))?;
        let idle = std::iter::repeat_with(Pages::new).take(WINDOWS).collect();
        let discarded = Vec::new();
        Ok(Self {
            window: None,
            end: 0,
            idle,
            discarded,
            pending: 0,
            failed: false,
            done,
            jobs: Some(jobs),
            writer: Some(writer),
        })
    }

    /// Writes all that is left, and waits until the device has it for good.
    ///
    /// # Errors
    /// Those of the device.
    pub fn finish(mut self) -> io::Result<()> {
        self.flush_window()?;
        for (start, end) in joined(std::mem::take(&mut self.discarded)) {
            self.send(Job::Discard { offset: start, length: end.saturating_sub(start) })?;
        }
        self.send(Job::Flush)?;
        while self.pending > 0 {
            self.collect()?;
        }
        Ok(())
    }

    /// Where in the window `offset` is, when it can be written there.
    fn position(&self, offset: u64) -> Option<usize> {
        let window = self.window.as_ref()?;
        let position = usize::try_from(offset.checked_sub(window.offset)?).ok()?;
        let gap = position.checked_sub(window.length)?;
        let zeros = gap == 0 || gap <= GAP && window.offset.saturating_add(window.length as u64) >= self.end;
        (position < SIZE && zeros).then_some(position)
    }

    /// A window that starts at `offset`; what was in the last one is on its way.
    fn open_window(&mut self, offset: u64) -> io::Result<()> {
        self.flush_window()?;
        while self.idle.is_empty() {
            self.collect()?;
        }
        self.window = self.idle.pop().map(|pages| Window { pages, offset, length: 0 });
        Ok(())
    }

    fn flush_window(&mut self) -> io::Result<()> {
        match self.window.take() {
            Some(Window { pages, offset, length }) if length > 0 => self.send(Job::Write { pages, length, offset }),
            Some(Window { pages, .. }) => {
                self.idle.push(pages);
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn send(&mut self, job: Job) -> io::Result<()> {
        if self.failed {
            return Err(stopped());
        }
        if self.jobs.as_ref().is_none_or(|jobs| jobs.send(job).is_err()) {
            // The thread has ended: among what came back is why.
            while self.pending > 0 {
                self.collect()?;
            }
            return Err(stopped());
        }
        self.pending = self.pending.saturating_add(1);
        Ok(())
    }

    /// Waits for a job to come back.
    fn collect(&mut self) -> io::Result<()> {
        let done = self.done.recv().unwrap_or_else(|_| Err(stopped()));
        self.pending = self.pending.saturating_sub(1);
        self.failed |= done.is_err();
        self.idle.extend(done?);
        Ok(())
    }

    /// Adds the first of `bytes` to the window, at `position`, and says how many.
    fn fill(&mut self, position: usize, bytes: &[u8]) -> usize {
        let Some(window) = &mut self.window else { return 0 };
        if let Some(gap) = window.pages.get_mut(window.length..position) {
            gap.fill(0);
        }
        let Some(room) = window.pages.get_mut(position..) else { return 0 };
        let count = room.len().min(bytes.len());
        if let (Some(to), Some(from)) = (room.get_mut(..count), bytes.get(..count)) {
            to.copy_from_slice(from);
        }
        window.length = position.saturating_add(count);
        count
    }
}

impl Output for DeviceOutput {
    fn write_at(&mut self, mut offset: u64, mut bytes: &[u8]) -> io::Result<()> {
        check_aligned(offset, bytes.len() as u64)?;
        while !bytes.is_empty() {
            let position = match self.position(offset) {
                Some(position) => position,
                None => {
                    self.open_window(offset)?;
                    0
                }
            };
            let count = self.fill(position, bytes);
            offset = offset.saturating_add(count as u64);
            self.end = self.end.max(offset);
            bytes = bytes.get(count..).unwrap_or_default();
        }
        Ok(())
    }

    fn discard(&mut self, offset: u64, length: u64) -> io::Result<()> {
        check_aligned(offset, length)?;
        self.discarded.push((offset, offset.saturating_add(length)));
        Ok(())
    }
}

impl Drop for DeviceOutput {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(writer) = self.writer.take() {
            // A panic there has been reported there.
            let _ = writer.join();
        }
    }
}

/// The same ranges, sorted, with those that touch made one.
fn joined(mut ranges: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    ranges.sort_unstable();
    ranges.dedup_by(|next, last| {
        let touch = next.0 <= last.1;
        if touch {
            last.1 = last.1.max(next.1);
        }
        touch
    });
    ranges
}

fn stopped() -> io::Error {
    io::Error::other("the output device failed before")
}

fn check_aligned(offset: u64, length: u64) -> io::Result<()> {
    if offset.is_multiple_of(BLOCK) && length.is_multiple_of(BLOCK) {
        Ok(())
    } else {
        Err(io::ErrorKind::InvalidInput.into())
    }
}

/// The writer thread: ends with its queue, or at the first failure.
fn write_all(file: &File, jobs: &Receiver<Job>, done: &Sender<Done>) {
    for job in jobs {
        let result = match job {
            Job::Write { pages, length, offset } => {
                let bytes = pages.get(..length).unwrap_or_default();
                file.write_all_at(bytes, offset).map(|()| Some(pages))
            }
            Job::Discard { offset, length } => punch(file, offset, length).map(|()| None),
            Job::Flush => file.sync_data().map(|()| None),
        };
        let failed = result.is_err();
        if done.send(result).is_err() || failed {
            return;
        }
    }
}

/// Makes a range read as zeros again, without taking room where that can be had: on a block device this is a request to
/// write zeros that may unmap.
fn punch(file: &File, offset: u64, length: u64) -> io::Result<()> {
    let signed = |value| i64::try_from(value).map_err(|_| io::ErrorKind::InvalidInput);
    let mode = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    match fallocate(file, mode, signed(offset)?, signed(length)?) {
        Err(Errno::EOPNOTSUPP | Errno::ENODEV | Errno::EINVAL) => {}
        result => return Ok(result?),
    }
    let zeros = Pages::new();
    let (mut offset, mut left) = (offset, length);
    while left > 0 {
        let part = usize::try_from(left).unwrap_or(usize::MAX).min(zeros.len());
        file.write_all_at(zeros.get(..part).unwrap_or_default(), offset)?;
        offset = offset.saturating_add(part as u64);
        left = left.saturating_sub(part as u64);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use proptest::prelude::*;

    use super::*;

    const BLOCK_SIZE: usize = 4096;

    /// An empty file.
    fn file() -> tempfile::NamedTempFile {
        tempfile::NamedTempFile::new().unwrap()
    }

    #[test]
    fn pieces_arrive_where_they_belong_and_holes_stay_holes() {
        let file = file();
        let mut output = DeviceOutput::open(file.path()).unwrap();
        let piece = vec![7_u8; 5 << 20];
        output.write_at(4096, &piece).unwrap();
        output.write_at(1 << 30, &[1; BLOCK_SIZE]).unwrap();
        output.write_at((1 << 30) + 8192, &[2; BLOCK_SIZE]).unwrap();
        output.write_at(0, &[3; BLOCK_SIZE]).unwrap();
        output.finish().unwrap();
        let read = |offset: u64, length: usize| {
            let mut bytes = vec![0; length];
            file.as_file().read_exact_at(&mut bytes, offset).unwrap();
            bytes
        };
        assert_eq!(read(0, BLOCK_SIZE), [3; BLOCK_SIZE]);
        assert!(read(4096, 5 << 20) == piece);
        let tail = [[1; BLOCK_SIZE], [0; BLOCK_SIZE], [2; BLOCK_SIZE]].concat();
        assert_eq!(read(1 << 30, 3 * BLOCK_SIZE), tail);
        assert!(file.as_file().metadata().unwrap().blocks() * 512 < 8 << 20);
    }

    #[test]
    fn what_is_discarded_reads_as_zeros_also_before_it_was_written() {
        let file = file();
        let mut output = DeviceOutput::open(file.path()).unwrap();
        output.write_at(4096, &[7; 3 * BLOCK_SIZE]).unwrap();
        output.discard(8192, 4096).unwrap();
        output.write_at(16384, &[8; BLOCK_SIZE]).unwrap();
        output.finish().unwrap();
        let bytes = std::fs::read(file.path()).unwrap();
        let blocks: Vec<u8> = bytes.chunks(BLOCK_SIZE).map(|block| block[17]).collect();
        assert_eq!(blocks, [0, 7, 0, 7, 8]);
    }

    #[test]
    fn a_full_device_is_an_error_and_stays_one() {
        let mut output = DeviceOutput::open(Path::new("/dev/full")).unwrap();
        let piece = vec![7_u8; 8 << 20];
        let error = output.write_at(0, &piece).and_then(|()| output.finish()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    }

    #[test]
    fn parts_of_blocks_are_refused() {
        let file = file();
        let mut output = DeviceOutput::open(file.path()).unwrap();
        assert!(output.write_at(1, &[0; BLOCK_SIZE]).is_err());
        assert!(output.write_at(0, &[0; 5]).is_err());
        assert!(output.discard(0, 5).is_err());
    }

    #[test]
    fn ranges_that_touch_are_one() {
        assert_eq!(joined(vec![(8, 12), (0, 4), (4, 8), (20, 24), (21, 22)]), [(0, 12), (20, 24)]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_order_of_writes_gives_the_same_as_memory(
            writes in prop::collection::vec((0..1200_u64, 1..600_usize), 1..12),
            discards in prop::collection::vec((0..1200_u64, 1..600_u64), 0..12),
        ) {
            let file = file();
            let mut output = DeviceOutput::open(file.path()).unwrap();
            let mut memory = Vec::new();
            for output in [&mut output as &mut dyn Output, &mut memory] {
                for (number, (block, count)) in (1_u8..).zip(&writes) {
                    output.write_at(block * BLOCK, &vec![number; count * BLOCK_SIZE]).unwrap();
                }
                for (block, count) in &discards {
                    output.discard(block * BLOCK, count * BLOCK).unwrap();
                }
            }
            output.finish().unwrap();
            let mut bytes = std::fs::read(file.path()).unwrap();
            bytes.resize(bytes.len().max(memory.len()), 0);
            memory.resize(bytes.len(), 0);
            prop_assert!(bytes == memory);
        }
    }
}
