//! What the runtime hands to the agent: an image to unpack, or a task to run, each with everything that the agent needs to
//! know, distilled from the image's configuration and the command line. The agent never sees an OCI document.
//!
//! Strings that Linux treats as bytes (arguments, environment, paths) are bytes here.

use serde::{Deserialize, Serialize};

/// An image to unpack from [`crate::LAYER_DEVICE`] to [`crate::OUTPUT_DEVICE`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnpackSpec {
    /// The image's layers, the lowest first.
    pub layers: Vec<Layer>,
    /// Where the unpacking gives up.
    pub limits: UnpackLimits,
}

/// What an image may hold, over all its layers together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnpackLimits {
    /// Entries in the archives, and directories made for entries that have none.
    pub entries: u64,
    /// Bytes of the uncompressed archives.
    pub bytes: u64,
    /// Bytes of the unpacked EROFS image, holes included.
    pub image_bytes: u64,
}

/// A layer of the image, on [`crate::LAYER_DEVICE`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// Where it starts on the device, in bytes; a multiple of [`crate::LAYER_ALIGNMENT`].
    pub offset: u64,
    /// Its length in bytes, as stored (compressed).
    pub length: u64,
    /// How it is compressed.
    pub compression: Compression,
    /// The digest of the bytes on the device, as `sha256:<64 hex digits>`, where the image names one.
    pub digest: Option<String>,
    /// The digest of the uncompressed tar archive, as `sha256:<64 hex digits>`.
    pub diff_id: String,
}

/// How a layer's tar archive is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// gzip (RFC 1952), any number of members.
    Gzip,
    /// Zstandard (RFC 8878), any number of frames.
    Zstd,
}

/// A task: a root file system and a process to run in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSpec {
    /// The root file system.
    pub root: Root,
    /// The process to run.
    pub process: Process,
    /// The hostname that the process sees.
    pub hostname: String,
    /// Where its standard streams lead.
    pub stdio: Stdio,
    /// Files that take the place of the image's.
    pub files: Vec<EtcFile>,
    /// What is mounted in the root file system, in any order.
    pub mounts: Vec<Mount>,
}

/// A task's root file system: a read-only image with a layer above it for what the task writes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// The image.
    pub image: ImageDevice,
    /// A block device with an ext4 file system that takes what the task writes; memory takes it where there is none.
    pub scratch: Option<String>,
    /// Whether the task may write to nothing but its mounts.
    pub read_only: bool,
}

/// The device with an image's EROFS file system.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageDevice {
    /// Its path in the guest, such as [`crate::IMAGE_PMEM`].
    pub path: String,
    /// Whether it is memory that the task can map directly.
    pub dax: bool,
}

/// A file that is mounted over the image's, and that the task may write to even where its root is read-only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EtcFile {
    /// Its absolute path, such as `/etc/hosts`.
    pub path: Vec<u8>,
    /// What is in it.
    pub content: Vec<u8>,
    /// Its permission bits.
    pub mode: u32,
}

/// Something that is mounted in a task's root file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mount {
    /// An empty file system in memory.
    Tmpfs(TmpfsMount),
    /// What the image has there, writable even where the root is read-only.
    Volume {
        /// Its absolute path.
        path: Vec<u8>,
    },
}

/// An empty file system in memory. Nothing in it is executed, is a device or sets a user unless that is said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TmpfsMount {
    /// Its absolute path.
    pub path: Vec<u8>,
    /// The most it may hold, in bytes.
    pub size: Option<u64>,
    /// The permission bits of its root.
    pub mode: u32,
    /// The owner of its root.
    pub uid: u32,
    /// The group of its root.
    pub gid: u32,
    /// Whether it cannot be written to.
    pub read_only: bool,
    /// Whether files in it can be executed.
    pub exec: bool,
    /// Whether set-user-id bits in it count.
    pub suid: bool,
    /// Whether device nodes in it work.
    pub dev: bool,
}

/// The process to run, before the agent has resolved anything against the image's files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// The command and its arguments; never empty. `argv[0]` without a slash is looked up in `PATH`.
    pub argv: Vec<Vec<u8>>,
    /// The environment, `NAME=value` each, in order, names unique. The agent adds `HOME` when it is absent.
    pub env: Vec<Vec<u8>>,
    /// The working directory, absolute; made when the image has none there.
    pub cwd: Vec<u8>,
    /// The user: ``, `user`, `uid`, `user:group`, `uid:gid` and their mixtures, as in the image configuration; names
    /// are looked up in the image's own `/etc/passwd` and `/etc/group`.
    pub user: String,
}

/// Where the standard streams of the process lead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stdio {
    /// Whether the caller's standard input is passed on ([`crate::port::STDIN`]); `/dev/null` otherwise.
    pub stdin: bool,
    /// A terminal of this size; pipes otherwise.
    pub terminal: Option<WindowSize>,
}

/// The size of a terminal, in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}
