//! The root file system of a task: its image, read-only, under a layer that takes what the task writes.
//!
//! ```text
//! IMAGE   erofs     the image, from persistent memory (DAX) or a block device
//! UPPER   tmpfs     of nearly all memory, or ext4 on the scratch device
//!         ├ root, root-work       the layer above the image, and overlayfs's own
//!         ├ 0, 0-work, …          the same for each volume
//!         └ files-0, …            the files that take the place of the image's
//! ROOT    overlay   becomes the command's root
//! ```
//!
//! All of it is mounted in the container's mount namespace, before there is a process of the task: nobody changes what is
//! looked up here meanwhile, and only [`mounts`] looks up paths of the image, name by name ([`resolve`]). What is written
//! to the upper file system counts against the memory of the process that writes it. The task never sees the mounts but
//! ROOT and what is mounted inside it.
//!
//! Nothing that an image carries is interpreted: overlayfs follows no redirects, metacopies or indexes, attributes that speak
//! to it were left out when the image was unpacked, and no device node of the image works (`nodev`), as in a container of
//! Docker's.

mod mounts;
mod resolve;

#[cfg(test)]
mod tests;

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, chown};
use protocol::message::FailureKind;
use protocol::spec::{ImageDevice, TaskSpec};

use crate::container::mounts::MountError;
use crate::container::skeleton::Skeleton;
use crate::failure::{Kind, sentence};
use crate::sys;

/// Memory that the upper layer cannot take: this much and a 64th of the guest's.
const RESERVE: u64 = 16 << 20;

/// One file for each so many bytes of memory: a file costs about 1 KiB of the kernel's memory.
const BYTES_PER_FILE: u64 = 4096;

/// What is set for every overlay: that nothing but names and whiteouts in the upper layer means anything.
const OVERLAY: &str = "redirect_dir=nofollow,metacopy=off,index=off";

/// The scratch device vanishes with the guest: nothing on it need survive a crash.
const SCRATCH: &str = "discard,nobarrier,noinit_itable";

/// Why a task's root could not be mounted.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// One of the file systems it is made of.
    #[error("The task's {what} can't be mounted")]
    Mount {
        /// Which one.
        what: &'static str,
        /// Why.
        #[source]
        source: Errno,
    },
    /// A directory or file that it needs.
    #[error("{path} can't be made in the guest")]
    Make {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The image cannot take a mount or file where one is asked for.
    #[error("Nothing can be mounted at {path}: {problem}")]
    Target {
        /// The path as it was given, quoted.
        path: String,
        /// Why.
        problem: &'static str,
    },
    /// The container's own file systems.
    #[error(transparent)]
    Container(#[from] MountError),
    /// A mount inside the root.
    #[error("The {what} at {path} can't be mounted")]
    Inside {
        /// What was mounted.
        what: &'static str,
        /// The path as it was given, quoted.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Kind for RootError {
    fn kind(&self) -> FailureKind {
        match self {
            Self::Target { .. } => FailureKind::Settings,
            Self::Container(error) => error.kind(),
            Self::Mount { .. } | Self::Make { .. } | Self::Inside { .. } => FailureKind::Internal,
        }
    }
}

/// Where the file systems are mounted.
#[derive(Clone, Debug)]
pub struct Places {
    image: PathBuf,
    upper: PathBuf,
    root: PathBuf,
}

impl Places {
    /// Directories in `base`, which are not there yet.
    #[must_use]
    pub fn new(base: &Path) -> Self {
        Self { image: base.join("image"), upper: base.join("upper"), root: base.join("rootfs") }
    }

    /// The task's root.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }
}

/// Mounts the root of a task, with everything in it that the task asks for, in a guest with `memory` bytes. Returns what the
/// user should know. That the root is read-only in the end is for the container, which still makes directories in it.
///
/// # Errors
/// All of [`RootError`].
pub fn mount_root(
    places: &Places,
    spec: &TaskSpec,
    memory: u64,
    skeleton: &Skeleton,
) -> Result<Vec<String>, RootError> {
    for place in [&places.image, &places.upper, &places.root] {
        make_directory(place)?;
    }
    let warning = mount_image(&places.image, &spec.root.image)?;
    mount_upper(&places.upper, spec.root.scratch.as_deref(), memory)?;
    let volatile = spec.root.scratch.is_some();
    let overlay = Overlay { lower: &places.image, upper: &places.upper, name: "root", volatile };
    overlay.mount(&places.root)?.map_err(|source| RootError::Mount { what: "root", source })?;
    mounts::mount_all(places, spec, skeleton)?;
    Ok(warning.into_iter().collect())
}

/// Mounts the image; without DAX, and with a warning, where that is refused.
fn mount_image(target: &Path, image: &ImageDevice) -> Result<Option<String>, RootError> {
    let attempt = |data| {
        let flags = MsFlags::MS_RDONLY | MsFlags::MS_NODEV | MsFlags::MS_NOATIME;
        mount(Some(image.path.as_str()), target, Some("erofs"), flags, data)
            .map_err(|source| RootError::Mount { what: "image", source })
    };
    if !image.dax {
        return attempt(None::<&str>).map(|()| None);
    }
    // What the kernel looked at when a template was made was not the image yet. Where there is nothing to forget, it is the
    // mount that fails.
    let _ = File::open(&image.path).and_then(|device| sys::forget_cached(device.as_fd()));
    let Err(refused) = attempt(Some("dax=always")) else { return Ok(None) };
    attempt(None)?;
    Ok(Some(format!("The image is not mapped directly (DAX) and takes more memory: {}", sentence(&refused))))
}

fn mount_upper(target: &Path, scratch: Option<&str>, memory: u64) -> Result<(), RootError> {
    let failed = |what| move |source| RootError::Mount { what, source };
    let flags = MsFlags::MS_NODEV | MsFlags::MS_NOATIME;
    if let Some(device) = scratch {
        return mount(Some(device), target, Some("ext4"), flags, Some(SCRATCH)).map_err(failed("scratch disk"));
    }
    let data = upper_options(memory);
    mount(Some("tmpfs"), target, Some("tmpfs"), flags, Some(data.as_str())).map_err(failed("writable layer"))
}

/// As much as the task may take, so that the kernel keeps what it needs.
fn upper_options(memory: u64) -> String {
    // Zero would mean no limit.
    let size = memory.saturating_sub(RESERVE).saturating_sub(memory / 64).max(BYTES_PER_FILE);
    let files = (memory / BYTES_PER_FILE).max(1);
    format!("mode=755,size={size},nr_inodes={files}")
}

/// A writable view of a directory of the image.
struct Overlay<'a> {
    lower: &'a Path,
    /// The upper file system.
    upper: &'a Path,
    /// The name of the upper layer there.
    name: &'a str,
    /// Whether `fsync` need not reach the disk.
    volatile: bool,
}

impl Overlay<'_> {
    /// Mounts it. The inner error is the mount's.
    fn mount(&self, target: &Path) -> Result<Result<(), Errno>, RootError> {
        let (upper, work) = (self.upper.join(self.name), self.upper.join(format!("{}-work", self.name)));
        make_directory(&upper)?;
        make_directory(&work)?;
        let lower = std::fs::symlink_metadata(self.lower).map_err(made(self.lower))?;
        take_after(&upper, &lower).map_err(made(&upper))?;
        let volatile = if self.volatile { ",volatile" } else { "" };
        let [lower, upper, work] = [self.lower, &upper, &work].map(escape);
        let data = [
            b"lowerdir=",
            lower.as_slice(),
            b",upperdir=",
            &upper,
            b",workdir=",
            &work,
            format!(",{OVERLAY}{volatile}").as_bytes(),
        ]
        .concat();
        Ok(mount(Some("overlay"), target, Some("overlay"), MsFlags::MS_NODEV, Some(data.as_slice())))
    }
}

/// A path as overlayfs's options want it: colons separate layers, commas options.
fn escape(path: &Path) -> Vec<u8> {
    use std::os::unix::ffi::OsStrExt;
    let bytes = path.as_os_str().as_bytes().iter();
    bytes.flat_map(|byte| [Some(b'\\').filter(|_| b"\\:,".contains(byte)), Some(*byte)]).flatten().collect()
}

/// Gives a fresh directory the owner, permissions and time of another: overlayfs shows the topmost one's.
fn take_after(path: &Path, other: &Metadata) -> io::Result<()> {
    if (other.uid(), other.gid()) != (0, 0) {
        chown(path, Some(Uid::from_raw(other.uid())), Some(Gid::from_raw(other.gid())))?;
    }
    let mode = other.permissions().mode() & 0o7777;
    if mode != DIRECTORY_MODE {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    }
    let time = TimeSpec::new(other.mtime(), other.mtime_nsec());
    Ok(utimensat(AT_FDCWD, path, &time, &time, UtimensatFlags::NoFollowSymlink)?)
}

/// What directories are made with; the agent's umask is 022 or 0.
const DIRECTORY_MODE: u32 = 0o755;

fn make_directory(path: &Path) -> Result<(), RootError> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().mode(DIRECTORY_MODE).create(path).map_err(made(path))
}

fn made(path: &Path) -> impl Fn(io::Error) -> RootError {
    move |source| RootError::Make { path: path.to_owned(), source }
}
