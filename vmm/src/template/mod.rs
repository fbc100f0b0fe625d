//! Templates: a guest that has booted, saved, so that others start where it stopped.
//!
//! ```text
//!  Start::Boot, save ──▶ boot ──▶ READY ──▶ vCPUs and devices stop ──▶ state file, memory file
//!                                                                           │        │ MAP_PRIVATE
//!  Start::Restore ──────────────────────▶ runs on behind the `out` ◀────────┴────────┘
//! ```
//!
//! The state file is small and holds everything but the memory: it is read and checked wholly at each restore. The memory
//! file is as long as the memory and sparse. What it holds is mapped privately when a guest is restored, and never read
//! here, so that a restore takes as long as the guest's own accesses; [`verify`] reads it, once, for the runtime. Both are
//! files that someone can have damaged: they are parsed like everything that comes from outside.
//!
//! A template holds nothing that differs between tasks, and no randomness that a task may rely on: guests that start from
//! it ask for their own ([`crate::devices::seed`], [`crate::devices::clock`]).
//!
//! # Layout
//! - [`state`]: what a state file says; [`file`]: its envelope.
//! - [`extents`]: which parts of the memory a memory file holds; [`memory`]: writing and mapping one.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;

use kvm_ioctls::Kvm;

use crate::arch::{self, StateError};
use crate::vm::{self, VmError};

pub mod extents;
mod file;
pub mod memory;
pub mod state;

pub use file::{decode, encode};

/// The version of the files; it changes with anything that is in them.
pub const FORMAT: u32 = 6;

/// Why a template can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The state can't be read.
    #[error("The state file of the template can't be read")]
    ReadState(#[source] io::Error),
    /// The memory can't be read.
    #[error("The memory file of the template can't be read")]
    ReadMemory(#[source] io::Error),
    /// The state can't be written.
    #[error("The state file of the template can't be written")]
    WriteState(#[source] io::Error),
    /// The memory can't be written.
    #[error("The memory file of the template can't be written")]
    WriteMemory(#[source] io::Error),
    /// It is something else.
    #[error("The state file of the template isn't one")]
    NotState,
    /// It is of another version.
    #[error("The template has format {0}, and this VMM reads format {FORMAT}: make it anew")]
    Format(u32),
    /// It is damaged.
    #[error("The state file of the template is damaged ({0}): make it anew")]
    Damaged(&'static str),
    /// It can't be encoded.
    #[error("The state of the machine can't be encoded")]
    Encode(#[source] postcard::Error),
    /// It has the right checksum, and is wrong.
    #[error("The state file of the template can't be decoded")]
    Decode(#[source] postcard::Error),
    /// The memory is too short, or too long.
    #[error("The memory file of the template is {actual} bytes long instead of {expected}")]
    MemoryLength {
        /// The size of the guest's memory.
        expected: u64,
        /// The length of the file.
        actual: u64,
    },
    /// The memory is damaged.
    #[error("The memory file of the template is damaged: make it anew")]
    MemoryDigest,
    /// The host is another.
    #[error("The template was made on another host, or before an update of this one's kernel: make it anew")]
    Host,
    /// The guest is another.
    #[error("The template is of a microVM with {saved} vCPUs, and this one has {wanted}")]
    Vcpus {
        /// In the template.
        saved: usize,
        /// In the description.
        wanted: usize,
    },
    /// The guest is another.
    #[error("The template is of a microVM with {saved} MiB of memory, and this one has {wanted} MiB")]
    MemorySize {
        /// In the template.
        saved: u32,
        /// In the description.
        wanted: u32,
    },
    /// Memory can't be mapped.
    #[error("The memory of the template can't be mapped")]
    Map(#[source] io::Error),
    /// It isn't KVM.
    #[error(transparent)]
    Kvm(#[from] VmError),
    /// KVM does not answer.
    #[error(transparent)]
    State(#[from] StateError),
}

/// A digest of all that a saved guest needs to find again on a host, in hexadecimal digits: the CPU as KVM supports it, KVM's
/// kind and registers, the host's kernel. `kvm` is a descriptor of `/dev/kvm`. A restore checks it too.
///
/// # Errors
/// When it isn't KVM, or does not answer.
pub fn host_identity(kvm: BorrowedFd<'_>) -> Result<String, TemplateError> {
    identity(&vm::borrow(kvm)?)
}

/// The same, of KVM itself.
pub(crate) fn identity(kvm: &Kvm) -> Result<String, TemplateError> {
    Ok(arch::host_identity(kvm)?)
}

/// Checks both files of a template wholly, the digest of the memory included.
///
/// # Errors
/// When they can't be read or are damaged.
pub fn verify(state: &File, memory: &File) -> Result<(), TemplateError> {
    let state = decode(&file::read(state)?)?;
    memory::check_length(memory, state.memory_size())?;
    if memory::digest(memory, &state.extents)? == state.memory_digest {
        Ok(())
    } else {
        Err(TemplateError::MemoryDigest)
    }
}

/// Reads a state file.
pub(crate) fn read(file: &File) -> Result<state::MachineState, TemplateError> {
    decode(&file::read(file)?)
}

/// Writes a state file.
pub(crate) fn write(file: &File, state: &state::MachineState) -> Result<(), TemplateError> {
    file::write(file, &encode(state)?)
}

#[cfg(test)]
mod tests;
