//! When a task reached each phase: `--timings FILE`.
//!
//! The file is one JSON object. `clock` and `process_start_ns` let another program put the phases on its own time line;
//! `phases` is in the order in which they were reached, and a task that failed has those that it reached:
//!
//! ```json
//! {"version": 1, "clock": "CLOCK_MONOTONIC", "process_start_ns": 81726354, "exit_code": 0,
//!  "phases": [{"name": "image-opened", "at_ns": 82000000, "ms": 0.274}]}
//! ```
//!
//! `at_ns` is the reading of the clock, `ms` the time since `process_start_ns`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use nix::time::{ClockId, clock_gettime};
use serde::Serialize;

/// The version of the file's format.
const VERSION: u32 = 1;

/// The points on a task's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The image was pulled from a registry. Absent when it was in the store.
    ImagePulled,
    /// The image's manifest and configuration are read and checked.
    ImageOpened,
    /// The agent that unpacks the image reported from its microVM. Absent, as the next two, when that had been done before.
    UnpackAgentReady,
    /// That agent has unpacked the image.
    UnpackReported,
    /// The unpacked image is in the store.
    ImageUnpacked,
    /// The ledger has the task.
    Admitted,
    /// The template is found or made; without one, it is settled that the guest boots.
    TemplateReady,
    /// The VMM's process exists and has its descriptors.
    VmmStarted,
    /// The machine is built or restored; the guest's first instruction, or the next one of the template's, follows.
    GuestRunning,
    /// The agent reported from the guest: its kernel has booted.
    AgentReady,
    /// The agent has mounted the image.
    RootMounted,
    /// The agent is about to create the command's process.
    CommandPrepared,
    /// The command's first instruction is next.
    CommandStarted,
    /// The command was asked to stop. Absent when it was not.
    StopRequested,
    /// The command has ended.
    CommandExited,
    /// The command's output has ended and is written.
    OutputEnded,
    /// The VMM's process is gone, and with it the guest.
    VmmEnded,
    /// The ledger has the task's end; nothing is left of it.
    Finished,
}

/// The phases reached so far.
#[derive(Debug)]
pub struct Timings {
    start_ns: u64,
    reached: Vec<Reached>,
    listener: Option<Listener>,
}

/// Who is told of each phase when it is reached.
pub struct Listener(Box<dyn FnMut(Phase)>);

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Listener")
    }
}

/// When a clock was started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StartTime(u64);

/// A phase that was reached.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Reached {
    name: Phase,
    at_ns: u64,
    ms: f64,
}

#[derive(Serialize)]
struct Document<'a> {
    version: u32,
    clock: &'static str,
    process_start_ns: u64,
    exit_code: u8,
    phases: &'a [Reached],
}

impl Timings {
    /// Starts the clock; `main` calls this first.
    #[must_use]
    pub fn start() -> Self {
        Self { start_ns: monotonic_ns(), reached: Vec::new(), listener: None }
    }

    /// When the clock was started.
    pub(crate) fn start_time(&self) -> StartTime {
        StartTime(self.start_ns)
    }

    /// A clock that was started with another.
    pub(crate) fn started_at(StartTime(start_ns): StartTime) -> Self {
        Self { start_ns, reached: Vec::new(), listener: None }
    }

    /// The phases that were reached, for another thread.
    pub(crate) fn into_reached(self) -> Vec<Reached> {
        self.reached
    }

    /// Takes over what another thread has reached, with a clock that was started with this one.
    pub(crate) fn take_over(&mut self, reached: Vec<Reached>) {
        self.reached.extend(reached);
    }

    /// Notes that `phase` is reached now, the first time it is.
    pub fn reach(&mut self, phase: Phase) {
        if !self.has(phase) {
            let at_ns = monotonic_ns();
            self.reached.push(Reached { name: phase, at_ns, ms: milliseconds(at_ns.saturating_sub(self.start_ns)) });
            if let Some(Listener(listener)) = &mut self.listener {
                listener(phase);
            }
        }
    }

    /// Has `listener` told of each phase from now on, until [`Self::quiet`].
    pub fn listen(&mut self, listener: impl FnMut(Phase) + 'static) {
        self.listener = Some(Listener(Box::new(listener)));
    }

    /// Nobody is told of phases any more.
    pub fn quiet(&mut self) {
        self.listener = None;
    }

    /// Whether `phase` was reached.
    #[must_use]
    pub fn has(&self, phase: Phase) -> bool {
        self.reached.iter().any(|reached| reached.name == phase)
    }

    /// The file's content.
    fn json(&self, exit_code: u8) -> Result<Vec<u8>, serde_json::Error> {
        let document = Document {
            version: VERSION,
            clock: "CLOCK_MONOTONIC",
            process_start_ns: self.start_ns,
            exit_code,
            phases: &self.reached,
        };
        let mut json = serde_json::to_vec_pretty(&document)?;
        json.push(b'\n');
        Ok(json)
    }
}

/// The file for the time stamps can't be written.
#[derive(Debug, thiserror::Error)]
#[error("The timings can't be written to {path:?}")]
pub struct TimingsError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Where the time stamps go.
#[derive(Debug)]
pub struct TimingsFile {
    path: PathBuf,
    target: Target,
}

#[derive(Debug)]
enum Target {
    /// A file, replaced in one step at the end.
    Replace,
    /// Something that is no file, such as a pipe; open already.
    Stream(File),
}

impl TimingsFile {
    /// Makes sure that `path` can be written at the end. Leaves nothing behind.
    ///
    /// # Errors
    /// [`TimingsError`] when it can't.
    pub fn prepare(path: &Path) -> Result<Self, TimingsError> {
        let prepare = || match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
            Ok(metadata) if !metadata.is_file() => {
                let stream = OpenOptions::new().write(true).open(path)?;
                Ok(Self { path: path.to_owned(), target: Target::Stream(stream) })
            }
            _ => {
                // Through a symbolic link to the file itself, so that the link stays.
                let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
                tempfile::tempfile_in(folder(&path))?;
                Ok(Self { path, target: Target::Replace })
            }
        };
        prepare().map_err(|source| TimingsError { path: path.to_owned(), source })
    }

    /// Writes the time stamps, in one step: a reader sees the old file or the whole new one.
    ///
    /// # Errors
    /// [`TimingsError`] when it can't be written.
    pub fn write(self, timings: &Timings, exit_code: u8) -> Result<(), TimingsError> {
        let Self { path, target } = self;
        let write = || {
            let json = timings.json(exit_code)?;
            match target {
                Target::Stream(mut stream) => stream.write_all(&json),
                Target::Replace => {
                    let mut file = tempfile::Builder::new().prefix(".taskrun-timings-").tempfile_in(folder(&path))?;
                    file.write_all(&json)?;
                    file.persist(&path).map(drop).map_err(|error| error.error)
                }
            }
        };
        write().map_err(|source| TimingsError { path: path.clone(), source })
    }
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn monotonic_ns() -> u64 {
    let Ok(now) = clock_gettime(ClockId::CLOCK_MONOTONIC) else { return 0 };
    let seconds = u64::try_from(now.tv_sec()).unwrap_or(0);
    let nanoseconds = u64::try_from(now.tv_nsec()).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}

/// Exact to the microsecond for 285 years.
fn milliseconds(ns: u64) -> f64 {
    (ns / 1000) as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(json: &serde_json::Value) -> Vec<&str> {
        json["phases"].as_array().unwrap().iter().map(|phase| phase["name"].as_str().unwrap()).collect()
    }

    #[test]
    fn phases_are_written_in_order_once_and_replace_the_file_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.json");
        fs::write(&path, "old").unwrap();
        let file = TimingsFile::prepare(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        let mut timings = Timings::start();
        timings.reach(Phase::ImageOpened);
        timings.reach(Phase::CommandStarted);
        timings.reach(Phase::ImageOpened);
        file.write(&timings, 42).unwrap();

        let json: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(names(&json), ["image-opened", "command-started"]);
        assert_eq!((json["version"].as_u64(), json["exit_code"].as_u64()), (Some(1), Some(42)));
        let start = json["process_start_ns"].as_u64().unwrap();
        let at: Vec<u64> =
            json["phases"].as_array().unwrap().iter().map(|phase| phase["at_ns"].as_u64().unwrap()).collect();
        assert!(start > 0 && start <= at[0] && at[0] <= at[1]);
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(left.len(), 1);
    }

    #[test]
    fn milliseconds_keep_microseconds_however_long_it_took() {
        assert_eq!(milliseconds(1_234_999).to_string(), "1.234");
        assert_eq!(milliseconds(86_400 * 365 * 1_000_000_000 + 1_000).to_string(), "31536000000.001");
    }

    #[test]
    fn a_file_that_cannot_be_written_is_refused_before_the_task() {
        let error = TimingsFile::prepare(Path::new("/no/such/folder/t.json")).unwrap_err();
        assert!(
            crate::errors::chain(&error).starts_with("The timings can't be written to \"/no/such/folder/t.json\": ")
        );
        assert!(TimingsFile::prepare(Path::new("/")).is_err());
    }

    #[test]
    fn a_symbolic_link_stays_and_its_file_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        TimingsFile::prepare(&link).unwrap().write(&Timings::start(), 0).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(fs::read(&file).unwrap().starts_with(b"{"));
    }

    #[test]
    fn what_is_no_file_is_written_as_it_is() {
        TimingsFile::prepare(Path::new("/dev/null")).unwrap().write(&Timings::start(), 0).unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }
}
