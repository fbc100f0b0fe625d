//! A state directory that many calls of taskrun share, with tasks in the background.
//!
//! What a single call leaves is looked at when it ends ([`crate::task`]); what tasks in the background leave, when they have
//! ended too: in [`Home::finish`].

use std::ffi::OsStr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::leftovers::{self, MARK};
use crate::place;
use crate::task::{Outcome, Task, taskrun};

/// After this long a process should be gone that was told to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// The name of the configuration file.
const CONFIGURATION: &str = "config.toml";

/// The state directory. When this is dropped, nothing runs any more.
#[derive(Debug)]
pub struct Home {
    directory: TempDir,
    temporary: TempDir,
    mark: String,
}

impl Home {
    /// An empty one, with the images that all tests share.
    ///
    /// # Panics
    /// When it can't be made.
    #[must_use]
    #[expect(clippy::expect_used, reason = "tests can't go on without it")]
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let [directory, temporary] = [(), ()].map(|()| tempfile::tempdir().expect("a temporary directory"));
        symlink(place::store(), directory.path().join("images")).expect("a link to the store");
        let mark = format!("home-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::SeqCst));
        Self { directory, temporary, mark }
    }

    /// A call with this state directory.
    #[must_use]
    pub fn call<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Task {
        let task = taskrun(arguments).env("TASKRUN_HOME", self.directory.path());
        task.env("TMPDIR", self.temporary.path()).env(MARK, &self.mark)
    }

    /// A program that is to use this state directory, and finds taskrun on its path.
    ///
    /// # Panics
    /// When taskrun has no folder.
    #[must_use]
    #[expect(clippy::expect_used, reason = "tests can't go on without it")]
    pub fn program(&self, program: &Path) -> Command {
        let folder = place::taskrun().canonicalize().expect("taskrun").parent().expect("a folder").to_owned();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(std::iter::once(folder).chain(std::env::split_paths(&path))).expect("a path");
        let mut command = Command::new(program);
        command
            .env("TASKRUN_HOME", self.directory.path())
            .env("TMPDIR", self.temporary.path())
            .env("TASKRUN_TEMPLATES", place::templates())
            .env("PATH", path)
            .env(MARK, &self.mark)
            .env_remove("TASKRUN_KERNEL")
            .env_remove("TASKRUN_LIBEXEC");
        command
    }

    /// Calls taskrun with these words, each behind a space, and expects success. Gives what it printed.
    ///
    /// # Panics
    /// When it fails.
    #[must_use]
    pub fn ask(&self, words: &str) -> String {
        self.expect(words, 0).text()
    }

    /// Calls taskrun with these words, and expects this exit code.
    ///
    /// # Panics
    /// When it gives another.
    #[must_use]
    pub fn expect(&self, words: &str, code: i32) -> Outcome {
        self.call(words.split(' ')).output().expect_code(code)
    }

    /// Starts a task in the background that runs this shell script, with these options. Gives its id.
    ///
    /// # Panics
    /// When it doesn't start.
    #[must_use]
    pub fn start(&self, options: &[&str], script: &str) -> String {
        let image = place::fixture("busybox:latest");
        let words = ["run", "-d", "--memory", "256MB"].into_iter().chain(options.iter().copied());
        let outcome = self.call(words.chain([&*image, "sh", "-c", script])).output().expect_code(0);
        assert_eq!(outcome.errors(), "");
        outcome.text()
    }

    /// All that is known of a task.
    ///
    /// # Panics
    /// When there is no such task.
    #[must_use]
    #[expect(clippy::expect_used, reason = "tests can't go on without it")]
    pub fn inspect(&self, task: &str) -> Value {
        let mut tasks: Vec<Value> = serde_json::from_str(&self.ask(&format!("inspect {task}"))).expect("JSON");
        tasks.pop().expect("a task")
    }

    /// The process id of a task's supervisor.
    ///
    /// # Panics
    /// When it has none.
    #[must_use]
    #[expect(clippy::expect_used, reason = "tests can't go on without it")]
    pub fn supervisor(&self, task: &str) -> Pid {
        Pid::from_raw(self.ask(&format!("inspect -f {{{{.Supervisor}}}} {task}")).parse().expect("a process"))
    }

    /// The VMM that this supervisor has started.
    ///
    /// # Panics
    /// When it has none.
    #[must_use]
    #[expect(clippy::expect_used, reason = "tests can't go on without it")]
    pub fn vmm(&self, supervisor: Pid) -> Pid {
        let line = format!("PPid:\t{supervisor}");
        let is_child = |pid: i32| {
            std::fs::read_to_string(format!("/proc/{pid}/status"))
                .is_ok_and(|status| status.lines().any(|own| own == line))
        };
        Pid::from_raw(self.processes().into_iter().find(|(pid, _)| is_child(*pid)).expect("a VMM").0)
    }

    /// The sizes of a task's log files.
    ///
    /// # Panics
    /// When they can't be read.
    #[must_use]
    #[expect(clippy::expect_used, reason = "tests can't go on without it")]
    pub fn log_sizes(&self, id: &str) -> Vec<u64> {
        let files = leftovers::files(&self.tasks().join(id)).into_iter();
        let logs =
            files.filter(|path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"log.")));
        logs.map(|path| path.metadata().expect("a file").len()).collect()
    }

    /// Gives it a store of its own, which is empty.
    ///
    /// # Panics
    /// When the link to the shared one can't be removed.
    #[must_use]
    #[expect(clippy::expect_used, reason = "tests can't go on without it")]
    pub fn own_store(self) -> Self {
        std::fs::remove_file(self.path().join("images")).expect("the link to the shared store");
        self
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Writes its configuration file.
    ///
    /// # Panics
    /// When it can't be written.
    #[expect(clippy::expect_used, reason = "tests can't go on without it")]
    pub fn configure(&self, text: &str) {
        std::fs::write(self.path().join(CONFIGURATION), text).expect("a file");
    }

    /// The folders of the tasks.
    #[must_use]
    pub fn tasks(&self) -> PathBuf {
        self.directory.path().join("tasks")
    }

    /// The processes that run for this state directory: process id and command line.
    #[must_use]
    pub fn processes(&self) -> Vec<(i32, String)> {
        leftovers::processes(&self.mark)
    }

    /// Waits until no process is left.
    ///
    /// # Panics
    /// When that takes too long.
    pub fn wait_for_silence(&self) {
        let limit = Instant::now() + PATIENCE;
        loop {
            let processes = self.processes();
            if processes.is_empty() {
                return;
            }
            assert!(Instant::now() < limit, "left behind: processes {processes:?}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Removes what has ended, and checks that nothing is left but the ledger.
    ///
    /// # Panics
    /// When something is.
    pub fn finish(self) {
        self.wait_for_silence();
        let ended = self.ask("ps -aq");
        if !ended.is_empty() {
            let _ = self.ask(&format!("rm {}", ended.replace('\n', " ")));
        }
        assert_eq!(self.ask("ps -aq"), "");
        assert_eq!(self.expect("usage verify", 0).errors(), "");
        let shared =
            |path: &Path| path.strip_prefix(self.directory.path()).is_ok_and(|path| path.starts_with("images"));
        let mut files = leftovers::files(self.directory.path());
        files.retain(|path| {
            let name = path.file_name().map(OsStr::as_encoded_bytes).unwrap_or_default();
            !shared(path) && !name.starts_with(b"ledger") && name != CONFIGURATION.as_bytes()
        });
        files.extend(leftovers::files(self.temporary.path()));
        assert!(files.is_empty(), "left behind: files {files:?}");
        // A folder without a heartbeat is left alone for a minute: its supervisor may be about to make one.
        let limit = Instant::now() + Duration::from_secs(90);
        while self.tasks().read_dir().is_ok_and(|mut tasks| tasks.next().is_some()) {
            assert!(Instant::now() < limit, "left behind: folders of tasks");
            thread::sleep(Duration::from_millis(500));
            assert_eq!(self.ask("ps -aq"), "");
        }
    }
}

impl Default for Home {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // Only where a test failed: a supervisor ends its VMM, or that notices.
        for (pid, _) in self.processes() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}
