//! A task's heartbeat: what its supervisor leaves behind when it is killed.
//!
//! A thread writes the time and what was used so far to a small file, twice a second, so that whoever settles the task
//! knows its end to half a second. The file has two records, written in turn by one `pwrite` each and never grown, so
//! that a write that was torn, or found the disk full, leaves the one before. There is no fsync: the file is for a
//! supervisor that died, not for a host that lost its power. While the thread lives it holds the file's lock (flock(2)).
//!
//! The last beat has the task's end too ([`LastWord`]), before that is entered in the ledger: so it isn't lost where the ledger
//! can't be written.
//!
//! A record, little-endian: magic, sequence number, boot id, CLOCK_BOOTTIME in ns, wall clock in ms, which of the four
//! following are known, CPU time in ns, peak memory in bytes, bytes in, bytes out; the end; then the first 8 bytes of the
//! SHA-256 of all that.

mod last_word;

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::signal::{SigSet, SigmaskHow};
use sha2::{Digest as _, Sha256};

pub use self::last_word::LastWord;
use super::clock::{BootId, BootTime, Moment, timestamp};
use super::record::Used;

/// How often it is written.
const INTERVAL: Duration = Duration::from_millis(500);

/// The first bytes of a record, with the version of the format.
const MAGIC: [u8; 8] = *b"TRBEAT\0\x02";

/// What the checksum covers, and the whole record.
const NUMBERS: usize = 88;
const BODY: usize = NUMBERS + last_word::ROOM;
const RECORD: usize = BODY + 8;

/// The two places in the file: on blocks of their own.
const PLACES: [u64; 2] = [0, 4096];

/// Why there is no heartbeat.
#[derive(Debug, thiserror::Error)]
pub enum HeartbeatError {
    /// The file can't be written.
    #[error("The task's heartbeat {path} can't be written", path = .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// The thread can't be started.
    #[error("The thread that keeps the task's heartbeat can't be started")]
    Thread(#[source] io::Error),
}

/// A heartbeat that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beat {
    /// When it was written.
    pub at: Moment,
    /// What was used until then.
    pub used: Used,
    /// How the task ended, if its supervisor came so far.
    pub end: Option<LastWord>,
}

/// A running heartbeat. It stops when this is dropped; the file stays.
#[derive(Debug)]
pub struct Heartbeat {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    used: Option<Measure>,
    end: Option<LastWord>,
    /// Whether the end was written, or will never be.
    ended: bool,
    stop: bool,
}

impl State {
    /// Whether the next beat is due at once.
    fn is_urgent(&self) -> bool {
        self.stop || self.end.is_some() && !self.ended
    }
}

/// Tells what was used.
struct Measure(Box<dyn FnMut() -> Used + Send>);

impl std::fmt::Debug for Measure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Measure")
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Heartbeat {
    /// Starts a heartbeat in the file `path`; makes the file and the folders above it, open to their owner alone. The
    /// first beat is written when this returns. The thread takes no signals.
    ///
    /// # Errors
    /// [`HeartbeatError`].
    pub fn start(path: &Path) -> Result<Self, HeartbeatError> {
        let failed = |source| HeartbeatError::File { path: path.to_owned(), source };
        let mut pulse = Pulse::open(path).map_err(failed)?;
        // Both records, so that no later one needs room on the disk.
        for _ in PLACES {
            pulse.beat(Used::default(), None).map_err(failed)?;
        }
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        // A thread starts with the mask of its creator: what is blocked here never reaches it.
        let mask = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK);
        let thread = thread::Builder::new().name("heartbeat".into()).spawn(move || pulse.run(&theirs));
        if let Ok(mask) = mask {
            // It was this thread's mask, so it is one that can be set.
            let _ = mask.thread_set_mask();
        }
        Ok(Self { shared, thread: Some(thread.map_err(HeartbeatError::Thread)?) })
    }

    /// Has each beat say what this function gives as used so far.
    pub fn measure(&self, used: impl FnMut() -> Used + Send + 'static) {
        self.shared.lock().used = Some(Measure(Box::new(used)));
    }

    /// Has each beat say how the task ended. One that does is written when this returns, if it can be.
    pub fn end(&self, end: LastWord) {
        let mut state = self.shared.lock();
        state.end = Some(end);
        self.shared.changed.notify_all();
        let written = self.shared.changed.wait_while(state, |state| !state.ended);
        drop(written.unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The file, as its writer holds it.
#[derive(Debug)]
struct Pulse {
    file: File,
    boot_id: BootId,
    sequence: u64,
}

impl Pulse {
    fn open(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o600).open(path)?;
        lock(&file)?;
        let sequence = newest(&file).map_or(0, |(sequence, _)| sequence);
        Ok(Self { file, boot_id: BootId::current()?, sequence })
    }

    /// Beats until it is told to stop, and once more then.
    fn run(mut self, shared: &Shared) {
        let mut stop = false;
        while !stop {
            let waited = shared.changed.wait_timeout_while(shared.lock(), INTERVAL, |state| !state.is_urgent());
            let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
            let used = state.used.as_mut().map_or_else(Used::default, |Measure(used)| used());
            let end = state.end.clone();
            stop = state.stop;
            drop(state);
            let is_last = end.is_some();
            // One beat less is no reason to end a task; the next may succeed.
            let _ = self.beat(used, end);
            if is_last {
                shared.lock().ended = true;
                shared.changed.notify_all();
            }
        }
    }

    fn beat(&mut self, used: Used, end: Option<LastWord>) -> io::Result<()> {
        self.sequence = self.sequence.saturating_add(1);
        let beat = Beat { at: Moment::now_in(self.boot_id)?, used, end };
        let [even, odd] = PLACES;
        let place = if self.sequence.is_multiple_of(2) { even } else { odd };
        self.file.write_all_at(&encode(self.sequence, &beat), place)
    }
}

/// Takes the lock. Whoever asks whether it is taken has it for a moment, which is waited for.
fn lock(file: &File) -> io::Result<()> {
    const TRIES: u32 = 50;
    for _ in 1..TRIES {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(2)),
            result => return Ok(result?),
        }
    }
    Ok(file.try_lock()?)
}

/// The last beat in the file `path`, if there is one.
#[must_use]
pub fn read(path: &Path) -> Option<Beat> {
    newest(&File::open(path).ok()?).map(|(_, beat)| beat)
}

/// Whether a heartbeat runs in the file `path`.
#[must_use]
pub fn is_held(path: &Path) -> bool {
    // The lock, if it was free, is given up with the file.
    File::open(path).is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

fn newest(file: &File) -> Option<(u64, Beat)> {
    let read = |place| {
        let mut record = [0; RECORD];
        file.read_exact_at(&mut record, place).ok()?;
        decode(&record)
    };
    PLACES.into_iter().filter_map(read).max_by_key(|(sequence, _)| *sequence)
}

fn checksum(body: &[u8]) -> [u8; 8] {
    let mut sum = [0; 8];
    sum.iter_mut().zip(Sha256::digest(body)).for_each(|(byte, hashed)| *byte = hashed);
    sum
}

fn encode(sequence: u64, beat: &Beat) -> Vec<u8> {
    let Used { cpu_ns, peak_memory_bytes, bytes_in, bytes_out } = beat.used;
    let used = [cpu_ns, peak_memory_bytes, bytes_in, bytes_out];
    let known =
        (0_u32..).zip(used).filter(|(_, value)| value.is_some()).fold(0_u64, |known, (bit, _)| known | 1 << bit);
    let (boot_id, ns) = beat.at.boot.map_or(([0; 16], 0), |boot| (boot.boot_id.to_bytes(), boot.ns));
    let mut record = Vec::with_capacity(RECORD);
    record.extend(MAGIC);
    record.extend(sequence.to_le_bytes());
    record.extend(boot_id);
    record.extend(ns.to_le_bytes());
    record.extend(beat.at.wall.as_millisecond().to_le_bytes());
    record.extend(known.to_le_bytes());
    used.iter().for_each(|value| record.extend(value.unwrap_or(0).to_le_bytes()));
    record.extend(LastWord::encode(beat.end.as_ref()));
    record.extend(checksum(&record));
    record
}

fn decode(record: &[u8; RECORD]) -> Option<(u64, Beat)> {
    let (body, sum) = record.split_at(BODY);
    if checksum(body) != sum {
        return None;
    }
    let (body, end) = body.split_at(NUMBERS);
    let (magic, body) = body.split_first_chunk::<8>()?;
    let (sequence, body) = body.split_first_chunk::<8>()?;
    let (boot_id, body) = body.split_first_chunk::<16>()?;
    let mut numbers = body.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes));
    let (ns, wall, known) = (numbers.next()?, numbers.next()?, numbers.next()?);
    let mut used = (0_u32..).zip(numbers).map(|(bit, value)| (known >> bit & 1 == 1).then_some(value));
    let used =
        Used { cpu_ns: used.next()?, peak_memory_bytes: used.next()?, bytes_in: used.next()?, bytes_out: used.next()? };
    let boot = BootTime { boot_id: BootId::from_bytes(*boot_id), ns };
    let at = Moment { wall: timestamp(i64::try_from(wall).unwrap_or(0)), boot: Some(boot) };
    (*magic == MAGIC).then_some((u64::from_le_bytes(*sequence), Beat { at, used, end: LastWord::decode(end) }))
}

#[cfg(test)]
mod tests;
