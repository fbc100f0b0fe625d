//! The container: namespaces, file systems, devices, user, capabilities and limits around the command, the way Docker has
//! them. The network namespace stays the guest's.
//!
//! [`Container::prepare`] makes one child process ([`crate::companion`]) with everything around it that is the same for all
//! commands; a guest that is saved for a template has that already. [`Container::start`] does the rest and has the child execute
//! the command. The command is PID 1 of its namespace, so when it ends the kernel ends everything that it left behind.
//!
//! # Layout
//! - [`skeleton`], [`devices`], [`mounts`], [`terminal`]: what it sees.
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
pub mod skeleton;
pub mod terminal;
pub mod user;

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::DirBuilder;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Uid, chdir, fchown, mkdir, sethostname, setsid, write};
use protocol::message::FailureKind;
use protocol::spec::WindowSize;

use crate::companion::{Companion, Turn};
use crate::failure::{Kind, quoted};
use crate::sys::{self, Child};
use cgroup::{Cgroup, CgroupError};
use exec::{Command, ExecError};
use mounts::MountError;
use skeleton::Skeleton;
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
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// Its door.
    #[error("The command's cgroup can't be entered")]
    Enter(#[source] Errno),
    /// Its mount namespace.
    #[error("The command's mount namespace can't be opened")]
    Namespace(#[source] Errno),
    /// The place for the file systems that every container has.
    #[error("The container's place {path} can't be made")]
    Place {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The hostname.
    #[error("The hostname can't be set")]
    Hostname(#[source] Errno),
    /// The file systems.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// A terminal's second name.
    #[error("The container's /dev/console can't be made")]
    Console(#[source] Errno),
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
            Self::Cgroup(error) => error.kind(),
            Self::User(error) => error.kind(),
            Self::Exec(error) => error.kind(),
            Self::WorkingDirectory { .. } | Self::Hostname(_) => FailureKind::Settings,
            Self::Clone(_)
            | Self::Killed
            | Self::Enter(_)
            | Self::Namespace(_)
            | Self::Place { .. }
            | Self::Console(_)
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
    /// What it may use, and what it used.
    pub cgroup: Cgroup,
}

/// A container without a root and without a command: its process sleeps.
#[derive(Debug)]
pub struct Container {
    companion: Companion,
    skeleton: Skeleton,
    cgroup: Cgroup,
    /// Its mount namespace.
    mounts: OwnedFd,
}

impl Container {
    /// Makes a container, with its cgroup below the cgroup2 file system `cgroups` and its file systems on `place`, which is not
    /// there yet.
    ///
    /// # Errors
    /// All of [`StartError`] that need no command.
    pub fn prepare(place: &Path, cgroups: &Path) -> Result<Self, StartError> {
        DirBuilder::new()
            .mode(0o755)
            .create(place)
            .map_err(|source| StartError::Place { path: place.into(), source })?;
        let cgroup = Cgroup::create(cgroups, CGROUP)?;
        let mut companion = Companion::new(NAMESPACES).map_err(StartError::Clone)?;
        let (skeleton, mounts) = in_turn(&mut companion, || prepare_process(place, cgroup.entrance()))??;
        Ok(Self { companion, skeleton, cgroup, mounts })
    }

    /// Does `work` in the container's process, so that what it mounts is mounted in the container.
    ///
    /// # Errors
    /// [`StartError::Killed`]
    pub fn inside<T>(&mut self, work: impl FnOnce(&Skeleton) -> T) -> Result<T, StartError> {
        let Self { companion, skeleton, .. } = self;
        in_turn(companion, || work(skeleton))
    }

    /// The command's cgroup.
    pub fn cgroup(&mut self) -> &mut Cgroup {
        &mut self.cgroup
    }

    /// Starts the command; returns when its `execve` has succeeded.
    ///
    /// # Errors
    /// All of [`StartError`].
    pub fn start(self, mut plan: Plan<'_>) -> Result<Started, StartError> {
        let Self { mut companion, skeleton, cgroup, mounts } = self;
        let mut setup = Setup { plan: &mut plan, skeleton: &skeleton, terminal: None, complete: false };
        let mut failed = None;
        let turn = companion.run(&mut || {
            let Err(error) = setup.run();
            failed = Some(error);
        });
        let Setup { terminal, complete, .. } = setup;
        match (failed, turn) {
            (Some(error), _) => Err(error),
            (None, Turn::Gone) if complete => {
                let child = companion.into_child().ok_or(StartError::Killed)?;
                // The kernel would take its mounts apart, one by one, before it says that the command has ended. Held, they go
                // with the guest.
                std::mem::forget(mounts);
                // The command has its own copies of the terminal's other end.
                Ok(Started { child, terminal: terminal.map(|terminal| terminal.master), cgroup })
            }
            (None, _) => Err(StartError::Killed),
        }
    }
}

/// The name of the command's cgroup.
const CGROUP: &str = "task";

/// Does `work` in the companion's process, which is there again afterwards.
fn in_turn<T>(companion: &mut Companion, work: impl FnOnce() -> T) -> Result<T, StartError> {
    let mut work = Some(work);
    let mut done = None;
    companion.run(&mut || done = work.take().map(|work| work()));
    done.ok_or(StartError::Killed)
}

/// What the container's process does before anything is known of its command. The descriptor is of its mount namespace, and the
/// agent's as well.
fn prepare_process(place: &Path, cgroup: BorrowedFd<'_>) -> Result<(Skeleton, OwnedFd), StartError> {
    let mounts = open("/proc/self/ns/mnt", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty());
    let mounts = mounts.map_err(StartError::Namespace)?;
    write(cgroup, b"0").map_err(StartError::Enter)?;
    unshare(CloneFlags::CLONE_NEWCGROUP).map_err(StartError::Enter)?;
    // A new process is no leader of a process group, so this cannot fail.
    let _ = setsid();
    umask(Mode::empty());
    let skeleton = Skeleton::build(place)?;
    let failed = |what| move |source| StartError::Rights { what, source };
    limits::apply().map_err(io::Error::from).map_err(failed("resource limits"))?;
    caps::drop_bounding().map_err(failed("capabilities"))?;
    Ok((skeleton, mounts))
}

/// What the child does. Its memory is the agent's; its descriptors are as well until [`Self::place_streams`].
struct Setup<'s, 'a> {
    plan: &'s mut Plan<'a>,
    skeleton: &'s Skeleton,
    /// Opened by the child, owned by the agent.
    terminal: Option<Terminal>,
    /// Whether everything up to the `execve` has been done.
    complete: bool,
}

impl Setup<'_, '_> {
    /// The ordered script.
    fn run(&mut self) -> Result<Infallible, StartError> {
        sethostname(self.plan.hostname).map_err(StartError::Hostname)?;
        self.enter_root()?;
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

    fn enter_root(&mut self) -> Result<(), StartError> {
        self.skeleton.move_into(self.plan.root)?;
        mounts::enter_root(self.plan.root)?;
        if let Streams::Terminal(size) = self.plan.streams {
            self.terminal = Some(Terminal::open(size).map_err(StartError::Terminal)?);
            devices::create_console().map_err(StartError::Console)?;
            mounts::bind(Path::new(terminal::PATH), devices::CONSOLE)?;
        }
        Ok(())
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
    sys::set_identity(user.uid, user.gid, &user.groups).map_err(failed("user and groups"))?;
    caps::limit(user.uid).map_err(failed("capabilities"))
}
