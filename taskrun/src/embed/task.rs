//! What to run, and how it is started.

use std::ffi::OsString;
use std::io;
use std::net::IpAddr;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use images::env::EnvChange;
use images::reference::ReferenceError;

use super::running::{self, Ended, Output, RunningTask};
use super::{Home, Stdio};
use crate::cli::{mounts, task_args};
use crate::events::{Event, Listeners, What};
use crate::image::PullPolicy;
use crate::ledger::{self, LedgerError};
use crate::run::etc::RESOLV_CONF;
use crate::run::request::RunRequest;
use crate::run::surroundings::{Admitted, Ends, Surroundings};
use crate::run::{RunError, life};
use crate::timings::Timings;
use crate::voice::Voice;

/// Why a task can't be started, or not be asked for something.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// The image's name is wrong.
    #[error(transparent)]
    Image(#[from] ReferenceError),
    /// A setting can't be.
    #[error("The task's {what} can't be {value:?}: {problem}")]
    Setting {
        /// Which.
        what: &'static str,
        /// What was given.
        value: String,
        /// Why not.
        problem: String,
    },
    /// It can't be run.
    #[error(transparent)]
    Run(#[from] Box<RunError>),
    /// A stream can't be made.
    #[error("The task's streams can't be made")]
    Stdio(#[source] io::Error),
    /// There is no thread for it.
    #[error("The task's thread can't be started")]
    Thread(#[source] io::Error),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// It can't be asked.
    #[error("The task can't be asked for its end")]
    Ask(#[source] io::Error),
    /// It can't be read.
    #[error("The task's output can't be read")]
    Output(#[source] io::Error),
    /// Its thread panicked before the ledger had it.
    #[error("The task's thread panicked")]
    Lost,
}

impl From<RunError> for TaskError {
    fn from(error: RunError) -> Self {
        Self::Run(Box::new(error))
    }
}

/// A task to run: an image, a command, a size. What isn't set is as with `taskrun run`, except that standard streams go nowhere.
///
/// Values are written as on the command line of `taskrun run`. What is wrong with one is said when the task is started.
#[derive(Debug)]
pub struct Task {
    request: Result<RunRequest, TaskError>,
    stdin: Stdio,
    stdout: Stdio,
    stderr: Stdio,
    listeners: Listeners,
}

impl Task {
    /// A task of this image: `[docker://]NAME[:TAG][@DIGEST]` in a registry, `oci:DIR[:TAG]`, `oci-archive:FILE` or
    /// `docker-archive:FILE`.
    #[must_use]
    pub fn new(image: &str) -> Self {
        let request = RunRequest::of_image(image).map_err(TaskError::from).map(|mut request| {
            request.image.quiet = true;
            request.network.resolv_conf = std::fs::read_to_string(RESOLV_CONF).unwrap_or_default();
            request
        });
        Self::with(request)
    }

    /// The task that `taskrun run` was asked for.
    pub(crate) fn of(request: RunRequest) -> Self {
        Self::with(Ok(request))
    }

    fn with(request: Result<RunRequest, TaskError>) -> Self {
        let null = Stdio::null;
        Self { request, stdin: null(), stdout: null(), stderr: null(), listeners: Listeners::default() }
    }

    /// The command and its arguments, instead of the image's own; behind the image's entrypoint where it has one.
    #[must_use]
    pub fn command<S: Into<OsString>>(self, words: impl IntoIterator<Item = S>) -> Self {
        self.set(|request| request.arguments = words.into_iter().map(Into::into).collect())
    }

    /// A program instead of the image's entrypoint; an empty one takes it away.
    #[must_use]
    pub fn entrypoint(self, program: impl Into<OsString>) -> Self {
        self.set(|request| request.entrypoint = Some(program.into()))
    }

    /// An environment variable, instead of the image's of that name.
    #[must_use]
    pub fn env(self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.set(|request| {
            request.env.push(EnvChange::Set { name: name.into().into_vec(), value: value.into().into_vec() });
        })
    }

    /// The working directory, an absolute path.
    #[must_use]
    pub fn workdir(self, directory: impl Into<PathBuf>) -> Self {
        let directory = directory.into();
        if !directory.is_absolute() {
            return self.refuse("working directory", &directory.to_string_lossy(), "it must be an absolute path");
        }
        self.set(|request| request.workdir = Some(directory.into()))
    }

    /// The user, and the group, by name or number: `USER[:GROUP]`.
    #[must_use]
    pub fn user(self, user: impl Into<String>) -> Self {
        self.set(|request| request.user = Some(user.into()))
    }

    /// vCPUs, from 0.25 to 16, or cpu units, from 256 to 16384: `"0.5"`, `"512"`.
    #[must_use]
    pub fn cpu(self, cpu: &str) -> Self {
        self.read("CPU", cpu, FromStr::from_str, |request, cpu| request.cpu = cpu)
    }

    /// The microVM's memory in MiB, or with a unit: `"512"`, `"2GB"`.
    #[must_use]
    pub fn memory(self, memory: &str) -> Self {
        self.read("memory", memory, FromStr::from_str, |request, memory| request.memory = memory)
    }

    /// Keeps what the task writes on a scratch disk of this size, `"20GB"`, and not in its memory.
    #[must_use]
    pub fn disk(self, size: &str) -> Self {
        self.read("disk", size, FromStr::from_str, |request, size| request.disk = Some(size))
    }

    /// An empty file system in memory: `PATH[:OPTIONS]`, the options being docker's (`size=64m`, `mode=1770`, …).
    #[must_use]
    pub fn tmpfs(self, mount: &str) -> Self {
        self.read("tmpfs", mount, mounts::tmpfs, |request, mount| request.tmpfs.push(mount))
    }

    /// Mounts the root file system read-only.
    #[must_use]
    pub fn read_only(self) -> Self {
        self.set(|request| request.read_only = true)
    }

    /// A name for `/etc/hosts`.
    #[must_use]
    pub fn add_host(self, name: impl Into<String>, address: IpAddr) -> Self {
        self.set(|request| request.network.hosts.push((name.into(), address)))
    }

    /// A name for the task, by which other commands find it. No other task has it that wasn't removed.
    #[must_use]
    pub fn name(self, name: &str) -> Self {
        self.read("name", name, task_args::name, |request, name| request.name = Some(name))
    }

    /// A label, by which lists and usage are filtered.
    #[must_use]
    pub fn label(self, key: &str, value: &str) -> Self {
        if key.is_empty() || key.contains('=') {
            return self.refuse("label", key, "a label's key is not empty and has no =");
        }
        self.set(|request| {
            request.labels.insert(key.to_owned(), value.to_owned());
        })
    }

    /// Keeps nothing but the task's usage when it has ended: lists don't show it.
    #[must_use]
    pub fn remove(self) -> Self {
        self.set(|request| request.remove = true)
    }

    /// Stops the task when its command has run this long.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        self.set(|request| request.timeout = Some(timeout))
    }

    /// How long it may take to stop before it is killed: 30 s unless it is said here.
    #[must_use]
    pub fn stop_timeout(self, timeout: Duration) -> Self {
        self.set(|request| request.stop_timeout = timeout)
    }

    /// When the image is pulled: where it is missing, unless it is said here.
    #[must_use]
    pub fn pull(self, when: PullPolicy) -> Self {
        self.set(|request| request.image.policy = when)
    }

    /// Where its input comes from; from nowhere unless it is said here.
    #[must_use]
    pub fn stdin(self, stdin: impl Into<Stdio>) -> Self {
        Self { stdin: stdin.into(), ..self }
    }

    /// Where its output goes; nowhere unless it is said here.
    #[must_use]
    pub fn stdout(self, stdout: impl Into<Stdio>) -> Self {
        Self { stdout: stdout.into(), ..self }
    }

    /// Where its standard error goes; nowhere unless it is said here.
    #[must_use]
    pub fn stderr(self, stderr: impl Into<Stdio>) -> Self {
        Self { stderr: stderr.into(), ..self }
    }

    /// Tells `listener` what happens to the task, from the task's threads: it should be quick.
    #[must_use]
    pub fn on_event(mut self, listener: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        self.listeners.add(listener);
        self
    }

    /// Starts the task in a thread of its own. When this returns the ledger has it; its image is still to be got.
    ///
    /// # Errors
    /// [`TaskError`], when a setting is wrong, the host can't run tasks, or the ledger can't be written.
    pub fn start(self, home: &Home) -> Result<RunningTask, TaskError> {
        let Self { request, stdin, stdout, stderr, listeners } = self;
        let mut request = request?;
        request.stdin = !stdin.is_null();
        request.image.libexec.clone_from(&home.libexec);
        request.image.kernel.clone_from(&home.kernel);
        let (stdin, input) = stdin.input().map_err(TaskError::Stdio)?;
        let (stdout, output) = stdout.output(io::stdout()).map_err(TaskError::Stdio)?;
        let (stderr, errors) = stderr.output(io::stderr()).map_err(TaskError::Stdio)?;
        let (admitted, admission) = mpsc::channel();
        let heard = listeners.clone();
        let surroundings = Surroundings {
            home: home.folder.clone(),
            ends: Ends { stdin, stdout, stderr },
            attached: false,
            voice: Voice::to(move |text| heard.tell(None, None, What::Warning(text.to_owned()))),
            listeners,
            admitted: Some(admitted),
        };
        let (end, ended) = running::end();
        let live = move || -> Result<(), RunError> {
            let lived = life::live(&request, surroundings, &mut Timings::start())?;
            // Nobody has to wait for it.
            let _ = end.send(lived.into());
            Ok(())
        };
        let thread = thread::Builder::new().name("task".to_owned()).spawn(live).map_err(TaskError::Thread)?;
        // The thread lets go of its end when it can't admit the task.
        match admission.recv() {
            Ok(Admitted { id, requests }) => {
                let mut task = RunningTask::new(id, home.folder.clone(), requests, ended);
                (task.stdin, task.stdout, task.stderr) = (input, output, errors);
                Ok(task)
            }
            Err(mpsc::RecvError) => match thread.join() {
                Ok(Err(error)) => Err(error.into()),
                _ => Err(TaskError::Lost),
            },
        }
    }

    /// Runs the task to its end, and collects what it writes.
    ///
    /// # Errors
    /// [`TaskError`].
    pub fn output(self, home: &Home) -> Result<Output, TaskError> {
        let task = self.stdout(Stdio::piped()).stderr(Stdio::piped()).start(home)?;
        task.wait_with_output().map_err(TaskError::Output)
    }

    /// Runs the task to its end as this process's own: with its streams, its terminal and its signals, as `taskrun run` does.
    pub(crate) fn run_attached(self, timings: &mut Timings) -> Result<Ended, TaskError> {
        let listeners = self.listeners;
        let heard = listeners.clone();
        let voice = Voice::to(move |text| {
            crate::errors::say(text);
            heard.tell(None, None, What::Warning(text.to_owned()));
        });
        let surroundings = Surroundings {
            home: ledger::home::resolve().map_err(RunError::from)?,
            ends: Ends::own().map_err(RunError::Ends)?,
            attached: true,
            voice,
            listeners,
            admitted: None,
        };
        Ok(life::live(&self.request?, surroundings, timings)?.into())
    }

    fn set(mut self, change: impl FnOnce(&mut RunRequest)) -> Self {
        if let Ok(request) = &mut self.request {
            change(request);
        }
        self
    }

    fn read<T, E: std::fmt::Display>(
        self,
        what: &'static str,
        value: &str,
        read: impl FnOnce(&str) -> Result<T, E>,
        set: impl FnOnce(&mut RunRequest, T),
    ) -> Self {
        match read(value) {
            Ok(read) => self.set(|request| set(request, read)),
            Err(problem) => self.refuse(what, value, &problem.to_string()),
        }
    }

    /// Remembers the first problem.
    fn refuse(self, what: &'static str, value: &str, problem: &str) -> Self {
        let refused = || TaskError::Setting { what, value: value.to_owned(), problem: problem.to_owned() };
        Self { request: self.request.and_then(|_| Err(refused())), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(task: Task) -> String {
        task.start(&Home::at("/no/such/home")).unwrap_err().to_string()
    }

    #[test]
    fn the_first_wrong_setting_is_told_at_the_start() {
        let task = || Task::new("oci:/no/such/layout");
        assert!(problem(Task::new("what:ever@x")).contains("what"));
        assert!(problem(task().memory("16MB").cpu("none")).starts_with("The task's memory can't be \"16MB\": "));
        assert!(problem(task().cpu("none").memory("1GB")).contains("CPU"));
        assert!(problem(task().workdir("src")).contains("absolute"));
        assert!(problem(task().name("a b")).contains("name"));
        assert!(problem(task().label("", "x")).contains("label"));
    }
}
