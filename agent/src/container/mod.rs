//! The container: namespaces, file systems, devices, user, capabilities and limits around the command, the way Docker has
//! them. The network namespace stays the guest's.
//!
//! [`start`] makes one child process, which sets all this up around itself and executes the command. The command is PID 1
//! of its namespace, so when it ends the kernel ends everything that it left behind.
//!
//! # Layout
//! - [`mounts`], [`devices`], [`terminal`]: what it sees.
//! - [`user`], [`caps`]: who it is.
//! - [`cgroup`], [`limits`], [`oom`]: what it may use.
//! - [`exec`]: what it runs.

pub mod caps;
pub mod cgroup;
pub mod devices;
pub mod exec;
pub mod limits;
pub mod mounts;
pub mod oom;
pub mod terminal;
pub mod user;

use std::convert::Infallible;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Uid, chdir, fchown, mkdir, sethostname, setsid, write};
use protocol::message::FailureKind;
use protocol::spec::WindowSize;

use crate::failure::{Kind, quoted};
use crate::sys::{self, Child};
use exec::{Command, ExecError};
use mounts::MountError;
use terminal::Terminal;
use user::{User, UserError};

/// The namespaces that are new from the start; that of the cgroup follows when the cgroup has been entered.
const NAMESPACES: CloneFlags = CloneFlags::CLONE_NEWNS
    .union(CloneFlags::CLONE_NEWPID)
    .union(CloneFlags::CLONE_NEWUTS)
    .union(CloneFlags::CLONE_NEWIPC);

/// Why the command was not started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No process.
    #[error("The command's process can't be made")]
    Clone(#[source] io::Error),
    /// It was killed on the way.
    #[error("The command's process was killed before it could execute the command")]
    Killed,
    /// The cgroup.
    #[error("The command's cgroup can't be entered")]
    Cgroup(#[source] Errno),
    /// The hostname.
    #[error("The hostname can't be set")]
    Hostname(#[source] Errno),
    /// The file systems.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The device nodes.
    #[error("The container's /dev can't be filled")]
    Devices(#[source] Errno),
    /// The terminal.
    #[error("The command's terminal can't be made")]
    Terminal(#[source] io::Error),
    /// The streams.
    #[error("The command's standard streams can't be set up")]
    Streams(#[source] io::Error),
    /// The user.
    #[error(transparent)]
    User(#[from] UserError),
    /// The working directory.
    #[error("The working directory {path} can't be used")]
    WorkingDirectory {
        /// The quoted path.
        path: String,
        /// Why.
        #[source]
        source: Errno,
    },
    /// Limits, ids or capabilities.
    #[error("The command's {what} can't be set")]
    Rights {
        /// Which of them.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The command.
    #[error(transparent)]
    Exec(#[from] ExecError),
}

impl Kind for StartError {
    fn kind(&self) -> FailureKind {
        match self {
            Self::Mount(error) => error.kind(),
            Self::User(error) => error.kind(),
            Self::Exec(error) => error.kind(),
            Self::WorkingDirectory { .. } | Self::Hostname(_) => FailureKind::Settings,
            Self::Clone(_)
            | Self::Killed
            | Self::Cgroup(_)
            | Self::Devices(_)
            | Self::Terminal(_)
            | Self::Streams(_)
            | Self::Rights { .. } => FailureKind::Internal,
        }
    }
}

/// The standard streams of the command.
#[derive(Clone, Copy, Debug)]
pub enum Streams<'a> {
    /// These descriptors; without the first, `/dev/null`.
    Pipes {
        /// Standard input.
        stdin: Option<BorrowedFd<'a>>,
        /// Standard output.
        stdout: BorrowedFd<'a>,
        /// Standard error.
        stderr: BorrowedFd<'a>,
    },
    /// A terminal of this size.
    Terminal(WindowSize),
}

/// Everything that is needed to start the command.
#[derive(Debug)]
pub struct Plan<'a> {
    /// Where the root file system is mounted.
    pub root: &'a Path,
    /// Whether the command may write to its mounts only.
    pub read_only: bool,
    /// The hostname to set.
    pub hostname: &'a str,
    /// The user as in the image configuration.
    pub user: &'a str,
    /// The working directory.
    pub cwd: &'a [u8],
    /// `cgroup.procs` of the command's cgroup.
    pub cgroup: BorrowedFd<'a>,
    /// Its standard streams.
    pub streams: Streams<'a>,
    /// What to execute.
    pub command: Command,
}

/// A command that runs.
#[derive(Debug)]
pub struct Started {
    /// Its process.
    pub child: Child,
    /// The agent's end of its terminal.
    pub terminal: Option<OwnedFd>,
}

/// Starts the command; returns when its `execve` has succeeded.
///
/// # Errors
/// All of [`StartError`].
pub fn start(mut plan: Plan<'_>) -> Result<Started, StartError> {
    let mut setup = Setup { plan: &mut plan, terminal: None, complete: false };
    let (child, error) = sys::spawn(NAMESPACES, &mut || setup.run()).map_err(StartError::Clone)?;
    let Setup { terminal, complete, .. } = setup;
    if let Some(error) = error.or_else(|| (!complete).then_some(StartError::Killed)) {
        // Its exit code says nothing that the error does not.
        let _ = sys::wait(&child);
        return Err(error);
    }
    // The command has its own copies of the terminal's other end.
    Ok(Started { child, terminal: terminal.map(|terminal| terminal.master) })
}

/// What the child does. Its memory is the agent's; its descriptors are as well until [`Self::place_streams`].
struct Setup<'s, 'a> {
    plan: &'s mut Plan<'a>,
    /// Opened by the child, owned by the agent.
    terminal: Option<Terminal>,
    /// Whether everything up to the `execve` has been done.
    complete: bool,
}

impl Setup<'_, '_> {
    /// The ordered script.
    fn run(&mut self) -> Result<Infallible, StartError> {
        self.enter_namespaces()?;
        self.build_file_systems()?;
        self.place_streams()?;
        let user = user::resolve(self.plan.user)?;
        give_streams_to(user.uid)?;
        umask(Mode::from_bits_truncate(0o022));
        enter_directory(self.plan.cwd)?;
        if self.plan.read_only {
            // Everything that had to be made in it is there.
            mounts::seal_root()?;
        }
        become_user(&user)?;
        sys::reset_signals();
        self.plan.command.set_default_home(&user.home);
        self.complete = true;
        Ok(self.plan.command.execute()?)
    }

    fn enter_namespaces(&self) -> Result<(), StartError> {
        write(self.plan.cgroup, b"0").map_err(StartError::Cgroup)?;
        unshare(CloneFlags::CLONE_NEWCGROUP).map_err(StartError::Cgroup)?;
        // A new process is no leader of a process group, so this cannot fail.
        let _ = setsid();
        sethostname(self.plan.hostname).map_err(StartError::Hostname)
    }

    fn build_file_systems(&mut self) -> Result<(), StartError> {
        umask(Mode::empty());
        mounts::enter_root(self.plan.root)?;
        mounts::mount_all()?;
        devices::create().map_err(StartError::Devices)?;
        if let Streams::Terminal(size) = self.plan.streams {
            self.terminal = Some(Terminal::open(size).map_err(StartError::Terminal)?);
            devices::create_console().map_err(StartError::Devices)?;
            mounts::bind(Path::new(terminal::PATH), devices::CONSOLE)?;
        }
        Ok(mounts::mask()?)
    }

    /// Leaves this process the standard streams and no other descriptor: neither the command nor a path below `/proc/self/fd`
    /// in the image can reach what the agent has open.
    fn place_streams(&self) -> Result<(), StartError> {
        let place = || -> io::Result<()> {
            unshare(CloneFlags::CLONE_FILES)?;
            match (&self.terminal, self.plan.streams) {
                (Some(terminal), _) => (0..3).try_for_each(|fd| sys::duplicate_onto(terminal.peer.as_fd(), fd))?,
                (None, Streams::Pipes { stdin, stdout, stderr }) => {
                    let null =
                        stdin.is_none().then(|| open("/dev/null", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()));
                    let null = null.transpose()?;
                    let stdin = stdin.or_else(|| null.as_ref().map(AsFd::as_fd));
                    stdin.map_or(Ok(()), |stdin| sys::duplicate_onto(stdin, 0))?;
                    sys::duplicate_onto(stdout, 1)?;
                    sys::duplicate_onto(stderr, 2)?;
                }
                (None, Streams::Terminal(_)) => {}
            }
            sys::close_from(3)?;
            if self.terminal.is_some() { sys::take_controlling_terminal() } else { Ok(()) }
        };
        place().map_err(StartError::Streams)
    }
}

/// Makes `uid` the owner of the pipes or the terminal, so that the command can open `/dev/stdout` again.
fn give_streams_to(uid: u32) -> Result<(), StartError> {
    if uid == 0 {
        return Ok(());
    }
    for stream in [io::stdin().as_fd(), io::stdout().as_fd(), io::stderr().as_fd()] {
        let stat = nix::sys::stat::fstat(stream).map_err(|error| StartError::Streams(error.into()))?;
        // Not /dev/null: that is everybody's.
        if stat.st_rdev != nix::sys::stat::makedev(1, 3) {
            fchown(stream, Some(Uid::from_raw(uid)), None).map_err(|error| StartError::Streams(error.into()))?;
        }
    }
    Ok(())
}

/// Enters the working directory; makes it, as root's and with mode 755, where it is missing.
fn enter_directory(path: &[u8]) -> Result<(), StartError> {
    let path = if path.is_empty() { b"/" } else { path };
    let failed = |source| StartError::WorkingDirectory { path: quoted(path), source };
    let whole = CString::new(path).map_err(|_| failed(Errno::EINVAL))?;
    match chdir(whole.as_c_str()) {
        Err(Errno::ENOENT) => {}
        result => return result.map_err(failed),
    }
    let ends = path.iter().enumerate().skip(1).filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
    for end in ends.chain([path.len()]) {
        match mkdir(path.get(..end).unwrap_or(path), Mode::from_bits_truncate(0o755)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    chdir(whole.as_c_str()).map_err(failed)
}

fn become_user(user: &User) -> Result<(), StartError> {
    let failed = |what| move |source| StartError::Rights { what, source };
    limits::apply().map_err(io::Error::from).map_err(failed("resource limits"))?;
    caps::drop_bounding().map_err(failed("capabilities"))?;
    sys::set_identity(user.uid, user.gid, &user.groups).map_err(failed("user and groups"))?;
    caps::limit(user.uid).map_err(failed("capabilities"))
}
