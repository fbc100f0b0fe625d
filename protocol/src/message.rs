//! The control messages of both directions.

use serde::{Deserialize, Serialize};

use crate::spec::{TaskSpec, UnpackSpec, WindowSize};

/// What the runtime says to the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostMessage {
    /// Devices are in these virtio windows that the guest's kernel has found empty. Sent before the job, to a guest from a
    /// template.
    Attach(Vec<u8>),
    /// The task to run. This or [`Self::Unpack`] is the guest's one job, sent once, after the agent's `Hello`.
    Run(Box<TaskSpec>),
    /// The image to unpack.
    Unpack(Box<UnpackSpec>),
    /// Send this signal (Linux x86-64 number) to the command. Before the command runs it is kept and sent at its start.
    Signal(i32),
    /// The caller's terminal changed its size.
    Resize(WindowSize),
}

/// What the agent says to the runtime.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AgentMessage {
    /// The agent runs; the first message.
    Hello {
        /// [`crate::VERSION`] of the agent.
        version: u32,
        /// The guest kernel's release, as `uname -r` prints it.
        kernel: String,
    },
    /// The agent passed this point.
    Phase(Phase),
    /// The command's `execve` succeeded: its first instruction is next.
    Started,
    /// Something the user should know that does not stop the job, as one sentence.
    Warning(String),
    /// How far the unpacking is; at most about ten times a second.
    Progress(UnpackProgress),
    /// The image is unpacked and written; the last message.
    Unpacked(UnpackReport),
    /// The command has ended; the last message, sent after its output was delivered.
    Exited(ExitStatus),
    /// The command was never started, or the image not unpacked; the last message.
    Failed(Failure),
}

/// Points on the agent's way to the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// The command's root file system is mounted.
    RootMounted,
    /// The command's file systems, user and limits are resolved; it is about to be created.
    Prepared,
}

/// How far the unpacking of an image is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnpackProgress {
    /// Bytes of the layers, as stored, that have been read.
    pub read: u64,
    /// Bytes of the unpacked image that have been written.
    pub written: u64,
}

/// What was unpacked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnpackReport {
    /// The size of the EROFS image at the start of the output device, in bytes; a multiple of 4096.
    pub image_size: u64,
    /// Entries of all layers, whiteouts included.
    pub entries: u64,
    /// The digests of the uncompressed layers, the lowest first: the agent has computed them and found them as the image says.
    pub diff_ids: Vec<String>,
}

/// How the command ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitStatus {
    /// How its main process ended.
    pub how: ExitHow,
    /// Set when the kernel killed a process of the task because its memory was used up.
    pub out_of_memory: Option<OutOfMemory>,
    /// The most memory that the task's processes held at once, in bytes, where the guest's kernel counts it.
    pub peak_memory: Option<u64>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitHow {
    /// It called `exit` with this code.
    Code(u8),
    /// It was ended by this signal.
    Signal(u8),
}

/// A kill by the kernel's out-of-memory killer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutOfMemory {
    /// How many processes of the task were killed.
    pub kills: u64,
    /// The name of the last one, where the kernel's log still had it.
    pub process: Option<String>,
}

/// Why a command could not be started or an image not be unpacked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What kind of failure it was; decides the exit code.
    pub kind: FailureKind,
    /// One sentence for the user: the thing, the cause and, where there is one, the remedy.
    pub message: String,
}

/// The kinds of [`Failure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// The command was not found: exit code 127.
    NotFound,
    /// The command is there and cannot be executed: exit code 126.
    NotExecutable,
    /// The image is broken or hostile: exit code 125.
    Image,
    /// The task's settings do not fit its image, such as an unknown user: exit code 125.
    Settings,
    /// The agent or the guest failed: exit code 125.
    Internal,
}
