//! The control messages of both directions.

use serde::{Deserialize, Serialize};

use crate::spec::{TaskSpec, WindowSize};

/// What the runtime says to the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostMessage {
    /// The task to run; the first message, sent once, after the agent's `Hello`.
    Run(Box<TaskSpec>),
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
    /// Something the user should know that does not stop the task, as one sentence.
    Warning(String),
    /// The command has ended; the last message, sent after its output was delivered.
    Exited(ExitStatus),
    /// The command was never started; the last message.
    Failed(Failure),
}

/// Points on the agent's way to the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// The image's layers are unpacked and their digests were right.
    Unpacked,
    /// The command's file systems, user and limits are resolved; it is about to be created.
    Prepared,
}

/// How the command ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitStatus {
    /// How its main process ended.
    pub how: ExitHow,
    /// Set when the kernel killed a process of the task because its memory was used up.
    pub out_of_memory: Option<OutOfMemory>,
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

/// Why a command could not be started.
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
