//! What the runtime hands to a VMM: a description in JSON and the open descriptors that it refers to.
//!
//! Descriptors travel beside the JSON (`SCM_RIGHTS`), so the description names each by its place among them
//! ([`FdIndex`]). A description that names a place twice, or one that does not exist, is refused.

use serde::{Deserialize, Serialize};

/// A descriptor's place among those that came with the description.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FdIndex(pub usize);

/// A microVM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmConfig {
    /// Number of vCPUs, 1 to [`MAX_VCPUS`].
    pub vcpus: u8,
    /// Guest memory in MiB, at least [`MIN_MEMORY_MIB`]; the size of the memfd at `memory`.
    pub memory_mib: u32,
    /// `/dev/kvm`.
    pub kvm: FdIndex,
    /// A memfd of `memory_mib` MiB.
    pub memory: FdIndex,
    /// The kernel: an uncompressed `vmlinux` (ELF, x86-64).
    pub kernel: FdIndex,
    /// The initramfs.
    pub initramfs: FdIndex,
    /// Where the kernel's log goes, when it is wanted; the guest has a serial port only then.
    pub console: Option<FdIndex>,
    /// More words for the kernel's command line.
    pub extra_command_line: String,
    /// Block devices, in the order in which the guest finds them (`/dev/vda`, …).
    pub blocks: Vec<BlockConfig>,
    /// Host ports that the guest can connect to over vsock.
    pub channels: Vec<ChannelConfig>,
}

/// A block device whose content is a row of extents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockConfig {
    /// A name, for the guest's `serial` attribute and for messages; at most 20 bytes.
    pub id: String,
    /// Whether writes are refused.
    pub read_only: bool,
    /// The content. Each extent begins on a multiple of [`EXTENT_ALIGNMENT`]; the gap before the next reads as zeros.
    pub extents: Vec<ExtentConfig>,
}

/// A part of a file that is a part of a block device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtentConfig {
    /// The file.
    pub file: FdIndex,
    /// Where the part starts in the file, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub length: u64,
}

/// A host port on vsock, and the stream that its one connection is joined to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelConfig {
    /// The port, on the host's context id.
    pub port: u32,
    /// One end of an `AF_UNIX` stream socket pair.
    pub stream: FdIndex,
}

/// The most vCPUs of a microVM.
pub const MAX_VCPUS: u8 = 16;

/// The least memory of a microVM, in MiB: the kernel, the agent and a small image.
pub const MIN_MEMORY_MIB: u32 = 64;

/// The alignment of an extent on its block device, in bytes.
pub const EXTENT_ALIGNMENT: u64 = 4096;

/// Where each extent of a block device starts on it, and the size of the device, both in bytes.
///
/// The runtime and the device both use this, so that they agree. `None` when the sum does not fit into 63 bits.
#[must_use]
pub fn extent_layout(lengths: impl IntoIterator<Item = u64>) -> Option<(Vec<u64>, u64)> {
    let mut starts = Vec::new();
    let mut end = 0_u64;
    for length in lengths {
        starts.push(end);
        end = end.checked_add(length)?.checked_next_multiple_of(EXTENT_ALIGNMENT)?;
    }
    (end <= u64::try_from(i64::MAX).ok()?).then_some((starts, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_start_on_the_next_page() {
        assert_eq!(extent_layout([1, 4096, 4097, 0, 5]), Some((vec![0, 4096, 8192, 16384, 16384], 20480)));
        assert_eq!(extent_layout([]), Some((vec![], 0)));
    }

    #[test]
    fn a_size_that_does_not_fit_is_refused() {
        assert_eq!(extent_layout([u64::MAX]), None);
        assert_eq!(extent_layout([1 << 62, 1 << 62]), None);
    }
}
