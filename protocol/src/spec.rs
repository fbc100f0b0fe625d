//! The task that the runtime hands to the agent: everything it needs to know, distilled from the image's configuration
//! and the command line. The agent never sees an OCI document.
//!
//! Strings that Linux treats as bytes (arguments, environment, paths) are bytes here.

use serde::{Deserialize, Serialize};

/// A task: an image and a process to run in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSpec {
    /// The image's layers, the lowest first.
    pub layers: Vec<Layer>,
    /// The process to run.
    pub process: Process,
    /// The hostname that the process sees.
    pub hostname: String,
    /// Where its standard streams lead.
    pub stdio: Stdio,
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
