//! Starts taskrun as a caller would, with a state directory of its own, and checks that it leaves nothing.
//!
//! The state directories share one store of images (a link), since unpacking an image takes a boot of its own;
//! [`Task::own_store`] is for tests that are about the store. They share templates too; [`Task::own_templates`] is for tests
//! that are about those.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::leftovers::{self, MARK, Snapshot};
use crate::place;

/// The name of the store in a state directory.
const STORE: &str = "images";

/// The variable that names the folder of templates.
const TEMPLATES: &str = "TASKRUN_TEMPLATES";

/// With this variable in the tests' environment every guest of a task boots.
const COLD: &str = "TASKRUN_TEST_COLD";

/// After this long a test gives up on a task, even on the slowest host.
fn patience() -> Duration {
    Duration::from_secs(if place::suite() == place::Suite::Lab { 300 } else { 900 })
}

/// A call of taskrun.
#[derive(Debug)]
pub struct Task {
    command: Command,
    stdin: Input,
    run: Run,
}

/// A call's standard input.
#[derive(Debug)]
enum Input {
    Nothing,
    Bytes(Vec<u8>),
    Open,
}

/// What every call has: its mark, its directories and the host as it was.
#[derive(Debug)]
struct Run {
    mark: String,
    home: TempDir,
    temporary: TempDir,
    before: Snapshot,
}

/// What a call came to.
#[derive(Debug)]
pub struct Outcome {
    /// The exit code; `None` when a signal ended taskrun itself.
    pub code: Option<i32>,
    /// Everything on standard output.
    pub stdout: Vec<u8>,
    /// Everything on standard error.
    pub stderr: Vec<u8>,
    run: Run,
}

/// Calls taskrun with these arguments.
///
/// # Panics
/// When the test's own directories can't be made.
#[must_use]
#[expect(clippy::expect_used, reason = "tests can't go on without it")]
pub fn taskrun<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Task {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let mark = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::SeqCst));
    let [home, temporary] = [(), ()].map(|()| directory());
    let mut command = Command::new(place::taskrun());
    let arguments: Vec<_> = arguments.into_iter().map(|argument| argument.as_ref().to_owned()).collect();
    let has_share = arguments.iter().any(|argument| argument == "--cpu");
    let mut arguments = arguments.into_iter().peekable();
    let runs = arguments.next_if(|first| first == "run");
    let cold = runs.is_some() && std::env::var_os(COLD).is_some();
    command
        // The default share would be waited for, and few tests are about that.
        .args((runs.is_some() && !has_share).then_some(["run", "--cpu", "1"]).into_iter().flatten())
        .args(runs.filter(|_| has_share))
        .args(cold.then_some("--cold"))
        .args(arguments)
        .env("TASKRUN_HOME", home.path())
        .env("TMPDIR", temporary.path())
        .env(MARK, &mark);
    command.env_remove("TASKRUN_KERNEL").env_remove("TASKRUN_LIBEXEC").env_remove("DOCKER_CONFIG");
    command.env(TEMPLATES, place::templates());
    symlink(place::store(), home.path().join(STORE)).expect("a link to the store");
    Task { command, stdin: Input::Nothing, run: Run { mark, home, temporary, before: Snapshot::take() } }
}

/// A directory that is gone after the test.
#[expect(clippy::expect_used, reason = "tests can't go on without it")]
fn directory() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

impl Task {
    /// Gives the call a store of its own, which is empty.
    ///
    /// # Panics
    /// When the link to the shared one can't be removed.
    #[must_use]
    #[expect(clippy::expect_used, reason = "tests can't go on without it")]
    pub fn own_store(self) -> Self {
        std::fs::remove_file(self.home().join(STORE)).expect("the link to the shared store");
        self
    }

    /// Gives the call a folder of templates of its own, which is empty: in its state directory.
    #[must_use]
    pub fn own_templates(mut self) -> Self {
        self.command.env_remove(TEMPLATES);
        self
    }

    /// Sets an environment variable of taskrun itself.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Gives taskrun this on its standard input; without it there is nothing.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Input::Bytes(bytes.into());
        self
    }

    /// Gives taskrun a standard input that stays open until the test closes it ([`Running::child`]).
    #[must_use]
    pub fn open_stdin(mut self) -> Self {
        self.stdin = Input::Open;
        self
    }

    /// Puts the call behind another program: `program arguments… taskrun …`.
    #[must_use]
    pub fn behind(mut self, words: &[&str]) -> Self {
        let (program, arguments) = words.split_first().unwrap_or((&"env", &[]));
        let mut outer = Command::new(program);
        outer.args(arguments).arg(self.command.get_program()).args(self.command.get_args());
        for (name, value) in self.command.get_envs() {
            match value {
                Some(value) => outer.env(name, value),
                None => outer.env_remove(name),
            };
        }
        self.command = outer;
        self
    }

    /// The state directory of this call.
    #[must_use]
    pub fn home(&self) -> &Path {
        self.run.home.path()
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// When it can't be started, does not end, or leaves something behind.
    #[must_use]
    pub fn output(self) -> Outcome {
        self.start().finish()
    }

    /// Starts it, and collects its standard error.
    ///
    /// # Panics
    /// When it can't be started.
    #[must_use]
    pub fn start(self) -> Running {
        let (mut running, stderr) = self.start_unheard();
        running.stderr = Some(collect(stderr));
        running
    }

    /// Starts it, with its standard error for the test to read.
    ///
    /// # Panics
    /// When it can't be started.
    #[must_use]
    #[expect(clippy::expect_used, reason = "tests can't go on without it")]
    pub fn start_unheard(mut self) -> (Running, ChildStderr) {
        let stdin = if matches!(self.stdin, Input::Nothing) { Stdio::null() } else { Stdio::piped() };
        self.command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.command.spawn().expect("taskrun starts");
        if let Input::Bytes(bytes) = std::mem::replace(&mut self.stdin, Input::Nothing)
            && let Some(mut pipe) = child.stdin.take()
        {
            // A task that does not read its input must not hold up the test.
            thread::spawn(move || pipe.write_all(&bytes));
        }
        let stderr = child.stderr.take().expect("a pipe");
        (Running { child, stderr: None, run: self.run }, stderr)
    }

    /// Starts it with a terminal (or anything else) as its three standard streams.
    ///
    /// # Panics
    /// When it can't be started.
    #[must_use]
    #[expect(clippy::expect_used, reason = "tests can't go on without it")]
    pub fn start_on(mut self, terminal: &OwnedFd) -> Running {
        let copy = || Stdio::from(terminal.try_clone().expect("a descriptor"));
        self.command.stdin(copy()).stdout(copy()).stderr(copy());
        let child = self.command.spawn().expect("taskrun starts");
        Running { child, stderr: None, run: self.run }
    }
}

/// A call that is under way.
#[derive(Debug)]
pub struct Running {
    /// The process; its standard output is for the test to read or leave.
    pub child: Child,
    stderr: Option<JoinHandle<Vec<u8>>>,
    run: Run,
}

impl Running {
    /// Sends a signal to taskrun.
    ///
    /// # Panics
    /// When it is gone.
    #[expect(clippy::expect_used, reason = "tests can't go on without it")]
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("taskrun is there");
    }

    /// Sends a signal to taskrun and waits until it has taken it: equal signals that wait together count as one.
    ///
    /// # Panics
    /// When it is gone.
    pub fn signal_and_wait(&self, signal: Signal) {
        self.signal(signal);
        let bit = 1_u64 << (signal as i32).saturating_sub(1);
        let pending = || {
            let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
            let mask = status.lines().find_map(|line| line.strip_prefix("ShdPnd:").map(str::trim).map(str::to_owned));
            mask.and_then(|mask| u64::from_str_radix(&mask, 16).ok()).is_some_and(|mask| mask & bit != 0)
        };
        while pending() {
            thread::yield_now();
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(i32::MAX))
    }

    /// The VMM's process id.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    #[expect(clippy::expect_used, reason = "tests can't go on without it")]
    pub fn vmm(&self) -> i32 {
        let processes = leftovers::processes(&self.run.mark);
        processes.iter().find(|(_, command)| command.contains("taskrun-vmm")).expect("a VMM").0
    }

    /// Reads standard output up to and with `text`.
    ///
    /// # Panics
    /// When output ends before that.
    #[expect(clippy::expect_used, reason = "tests can't go on without it")]
    pub fn read_until(&mut self, text: &str) -> String {
        let stdout = self.child.stdout.as_mut().expect("piped standard output");
        let mut seen = Vec::new();
        let mut byte = [0];
        while !seen.ends_with(text.as_bytes()) {
            let count = stdout.read(&mut byte).expect("readable standard output");
            assert_ne!(count, 0, "output ended without {text:?}: {}", String::from_utf8_lossy(&seen));
            seen.extend_from_slice(&byte);
        }
        String::from_utf8_lossy(&seen).into_owned()
    }

    /// Kills taskrun itself and waits until its VMM has noticed and is gone too.
    ///
    /// # Panics
    /// When the VMM outlives it.
    #[expect(clippy::expect_used, reason = "tests can't go on without it")]
    pub fn kill(mut self) {
        // It may be over already.
        let _ = kill(self.pid(), Signal::SIGKILL);
        self.child.wait().expect("a child");
        let limit = Instant::now() + Duration::from_secs(20);
        while !leftovers::processes(&self.run.mark).is_empty() {
            assert!(Instant::now() < limit, "the VMM outlived taskrun");
            thread::yield_now();
        }
    }

    /// Waits for its end, collects the rest, and looks for what it left behind.
    ///
    /// # Panics
    /// When it does not end or leaves something behind.
    #[must_use]
    #[expect(clippy::expect_used, reason = "tests can't go on without it")]
    pub fn finish(mut self) -> Outcome {
        let stdout = self.child.stdout.take().map(collect);
        let status = self.wait();
        let stdout = stdout.map(|thread| thread.join().expect("readable output")).unwrap_or_default();
        let stderr = self.stderr.map(|thread| thread.join().expect("readable output")).unwrap_or_default();
        let outcome = Outcome { code: status.code(), stdout, stderr, run: self.run };
        outcome.assert_nothing_left();
        outcome
    }

    /// Waits for the process, and kills it when it takes too long.
    #[expect(clippy::expect_used, reason = "tests can't go on without it")]
    fn wait(&mut self) -> ExitStatus {
        let pid = self.pid();
        let (done, ended) = std::sync::mpsc::channel::<()>();
        let started = Instant::now();
        let watchdog = thread::spawn(move || {
            if ended.recv_timeout(patience()) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                let _ = kill(pid, Signal::SIGKILL);
            }
        });
        let status = self.child.wait().expect("a child");
        drop(done);
        let _ = watchdog.join();
        assert!(started.elapsed() < patience(), "taskrun did not end within {:?}", patience());
        status
    }
}

fn collect(mut stream: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        bytes
    })
}

impl Outcome {
    /// Standard output as text, without its last line break.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end_matches(['\r', '\n']).to_owned()
    }

    /// Standard error as text.
    #[must_use]
    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// The state directory of the call.
    #[must_use]
    pub fn home(&self) -> &Path {
        self.run.home.path()
    }

    /// Checks the exit code, and shows everything when it is another.
    ///
    /// # Panics
    /// When it is another.
    #[must_use]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout: {}\nstderr: {}", self.text(), self.errors());
        self
    }

    /// Checks that it failed with this exit code and one sentence that has all these words.
    ///
    /// # Panics
    /// When it did not.
    pub fn expect_failure(self, code: i32, words: &[&str]) {
        let outcome = self.expect_code(code);
        let errors = outcome.errors();
        assert_eq!(errors.trim_end().lines().count(), 1, "not one sentence: {errors}");
        assert!(errors.starts_with("taskrun: "), "not taskrun's own words: {errors}");
        for word in words {
            assert!(errors.contains(word), "no {word:?} in: {errors}");
        }
    }

    /// Another call with the state directory of this one.
    #[must_use]
    pub fn again<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Task {
        taskrun(arguments).env("TASKRUN_HOME", self.home())
    }

    fn assert_nothing_left(&self) {
        let processes = leftovers::processes(&self.run.mark);
        assert!(processes.is_empty(), "left behind: processes {processes:?}");
        let mut files = leftovers::files(self.run.temporary.path());
        let lasts = |path: &Path| {
            let path = path.strip_prefix(self.home()).unwrap_or(path);
            path.starts_with(STORE)
                || path.starts_with("templates")
                || path.as_os_str().as_encoded_bytes().starts_with(b"ledger")
        };
        files.extend(leftovers::files(self.home()).into_iter().filter(|path| !lasts(path)));
        assert!(files.is_empty(), "left behind: files {files:?}");
        self.run.before.assert_unchanged();
    }
}
