//! The messages between the taskrun runtime on the host and the agent in the guest.
//!
//! The guest connects to the host over virtio-vsock, one connection per [`port`]. It serves one of two jobs. A task:
//!
//! ```text
//! guest agent                                   taskrun
//!   connect CONTROL ───────────────────────────────▶
//!   Hello {version, kernel} ───────────────────────▶
//!   ◀──────── Attach(slots), to a guest from a template
//!   ◀──────────────────────────────── Run(TaskSpec)
//!   Phase(RootMounted), Phase(Prepared) ───────────▶
//!   connect STDIN / STDOUT / STDERR ═══════════════▶   raw bytes, half close is end of file
//!   Started ───────────────────────────────────────▶
//!   ◀───────────────────── Signal, Resize, at any time
//!   Exited(ExitStatus) or Failed(Failure) ─────────▶   then the guest powers off
//! ```
//!
//! Or the unpacking of an image, from [`LAYER_DEVICE`] to [`OUTPUT_DEVICE`]:
//!
//! ```text
//!   Hello {version, kernel} ───────────────────────▶
//!   ◀─────────────────────────── Unpack(UnpackSpec)
//!   Progress(UnpackProgress), … ───────────────────▶
//!   Unpacked(UnpackReport) or Failed(Failure) ─────▶   then the guest powers off
//! ```
//!
//! Control messages are frames: a `u32` length in little-endian order and that many bytes of
//! [postcard](https://postcard.jamesmunns.com/wire-format). Both sides treat the other as hostile: a frame longer than
//! [`frame::MAX_FRAME`] or one that does not decode ends the connection.
//!
//! # Layout
//! - [`message`]: the messages of both directions.
//! - [`spec`]: what the runtime hands to the agent: a task, or an image to unpack.
//! - [`frame`]: how messages become bytes.

pub mod frame;
pub mod message;
pub mod spec;

/// The version of the messages. The agent announces it in [`message::AgentMessage::Hello`]; the runtime refuses another.
pub const VERSION: u32 = 4;

/// The host's context id on vsock (`VMADDR_CID_HOST`).
pub const HOST_CID: u32 = 2;

/// The guest's context id on vsock. Each VMM has a bus of its own, so every guest has the same.
pub const GUEST_CID: u32 = 3;

/// The host's vsock ports that the agent connects to; each takes one connection.
pub mod port {
    /// Framed control messages.
    pub const CONTROL: u32 = 1024;
    /// The command's standard input, host to guest; only when the task has [`crate::spec::Stdio::stdin`].
    pub const STDIN: u32 = 1025;
    /// The command's standard output, or everything that its terminal prints.
    pub const STDOUT: u32 = 1026;
    /// The command's standard error; not used with a terminal.
    pub const STDERR: u32 = 1027;
}

/// The block device on which the agent finds the layers of an image that it is to unpack.
pub const LAYER_DEVICE: &str = "/dev/vda";

/// The block device to which the agent writes the unpacked image, from its first byte on. It must read as zeros before.
pub const OUTPUT_DEVICE: &str = "/dev/vdb";

/// The persistent-memory device with a task's image, as [`spec::ImageDevice::path`] names it.
pub const IMAGE_PMEM: &str = "/dev/pmem0";

/// Alignment of each layer on [`LAYER_DEVICE`], in bytes.
pub const LAYER_ALIGNMENT: u64 = 4096;
