//! What the runtime hands to a VMM: a description in JSON and the open descriptors that it refers to.
//!
//! Descriptors travel beside the JSON (`SCM_RIGHTS`), so the description names each by its place among them
//! ([`FdIndex`]). A description that names a place twice, or one that does not exist, is refused.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::ftruncate;
use serde::{Deserialize, Serialize};

use crate::template::extents::{self, Extent};

/// A descriptor's place among those that came with the description.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FdIndex(pub usize);

/// A microVM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmConfig {
    /// Number of vCPUs, 1 to [`MAX_VCPUS`].
    pub vcpus: u8,
    /// The share of processors that the vCPUs hold themselves to, in units of which [`UNITS_PER_CPU`] are one processor, from
    /// [`Request::Pace`](crate::control::Request::Pace) on; `None` where nothing holds them, or a cgroup does.
    pub cpu_units: Option<u32>,
    /// Guest memory in MiB, at least [`MIN_MEMORY_MIB`]; the size of the memfd at `memory`.
    pub memory_mib: u32,
    /// `/dev/kvm`.
    pub kvm: FdIndex,
    /// How it starts.
    pub start: Start,
    /// Where the kernel's log goes, when it is wanted; the guest has a serial port only then.
    pub console: Option<FdIndex>,
    /// Block devices, in the order in which the guest finds them (`/dev/vda`, …).
    pub blocks: Vec<BlockConfig>,
    /// Persistent memory, in the order in which the guest finds it (`/dev/pmem0`, …).
    pub pmems: Vec<PmemConfig>,
    /// Host ports that the guest can connect to over vsock.
    pub channels: Vec<ChannelConfig>,
    /// What a saved guest is known to write soon after it goes on, as parts of the memory file: it is copied before. Nothing
    /// where a kernel boots.
    #[serde(default)]
    pub written: Vec<Extent>,
}

/// How a microVM starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// A kernel boots.
    Boot(Boot),
    /// A guest that was saved goes on: with the vCPUs and the memory that it had, at most [`MAX_TEMPLATE_DEVICES`] block
    /// devices and persistent memories, and no console.
    Restore(TemplateFiles),
}

/// What a kernel boots from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// A memfd of `memory_mib` MiB.
    pub memory: FdIndex,
    /// The kernel: an uncompressed `vmlinux` (ELF, x86-64).
    pub kernel: FdIndex,
    /// The initramfs.
    pub initramfs: FdIndex,
    /// More words for the kernel's command line.
    pub extra_command_line: String,
    /// Where the guest is saved when it says that it is ready ([`crate::devices::ready`]): the files of a template, empty
    /// and writable. The guest has [`SLOTS`] windows for virtio devices then, of which only the fixed ones are taken.
    pub save: Option<TemplateFiles>,
}

/// The files of a template ([`crate::template`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateFiles {
    /// The state of the machine.
    pub state: FdIndex,
    /// The content of its memory. Nobody may shorten it while a microVM has it.
    pub memory: FdIndex,
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

/// A file that the guest reads as memory, and can't write.
///
/// The runtime sees to it that nobody shortens the file while a microVM has it: a page that is gone ends the VMM when the
/// guest touches it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PmemConfig {
    /// A name for messages, as of a block device.
    pub id: String,
    /// The file: a regular one, open for reading.
    pub file: FdIndex,
    /// How much of the file, from its start, the guest sees, in bytes: a multiple of [`PMEM_ALIGNMENT`] that is no longer
    /// than the file.
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

/// Units in which shares of processors are counted: so many are one.
pub const UNITS_PER_CPU: u32 = 1024;

/// The most vCPUs of a microVM.
pub const MAX_VCPUS: u8 = 16;

/// The least memory of a microVM, in MiB: the kernel, the agent and a small image.
pub const MIN_MEMORY_MIB: u32 = 64;

/// The most memory of a microVM, in MiB; what fits beside the hole in 39 bits of physical address, the fewest of any CPU.
pub const MAX_MEMORY_MIB: u32 = 256 << 10;

/// The most block devices and persistent memories together: each has an interrupt line of its own, and vsock and the balloon
/// take two of the 19 that are there.
pub const MAX_DEVICES: usize = 17;

/// The windows for virtio devices in a guest that becomes a template. The first is vsock's, the last is the balloon's; the
/// others are for block devices and persistent memories that come with the restore.
pub const SLOTS: usize = 8;

/// The most block devices and persistent memories together of a guest that was restored.
pub const MAX_TEMPLATE_DEVICES: usize = SLOTS - 3;

/// The most that [`image_window`] is, in bytes.
const MAX_IMAGE_WINDOW: u64 = 4 << 30;

/// How long the persistent memory of a guest that becomes a template is, in bytes. A guest from the template finds its first
/// persistent memory there if that is no longer: its kernel knows the pages already, so that it is as quick with a large image as
/// with a small one. What the kernel keeps of the pages takes a 32nd of the memory.
#[must_use]
pub const fn image_window(memory_mib: u32) -> u64 {
    let wanted = (memory_mib as u64) << 21;
    if wanted < MAX_IMAGE_WINDOW { wanted } else { MAX_IMAGE_WINDOW }
}

/// The most persistent memories.
pub const MAX_PMEMS: usize = 4;

/// The unit of a persistent memory's length, in bytes: what Linux maps at once, and takes as memory at once.
pub const PMEM_ALIGNMENT: u64 = 2 << 20;

/// The longest name of a block device, in bytes (virtio 1.2, section 5.2.6.1).
pub const MAX_BLOCK_ID: usize = 20;

/// The alignment of an extent on its block device, in bytes.
pub const EXTENT_ALIGNMENT: u64 = 4096;

/// Why a description is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The number of vCPUs is out of range.
    #[error("A microVM has 1 to {MAX_VCPUS} vCPUs, not {0}")]
    Vcpus(u8),
    /// The size of the memory is out of range.
    #[error("A microVM has {MIN_MEMORY_MIB} to {MAX_MEMORY_MIB} MiB of memory, not {0} MiB")]
    Memory(u32),
    /// There are too many devices.
    #[error("A microVM has at most {MAX_DEVICES} block devices and persistent memories, not {0}")]
    Devices(usize),
    /// A guest that is to be saved has something that is not part of a template.
    #[error("A microVM that becomes a template has no block devices, no persistent memory and no console")]
    SaveWithDevices,
    /// A saved guest has no serial port.
    #[error("A microVM that starts from a template has no console")]
    RestoreWithConsole,
    /// There are too many devices for a saved guest.
    #[error(
        "A microVM that starts from a template has at most {MAX_TEMPLATE_DEVICES} block devices and persistent memories, not {0}"
    )]
    RestoreDevices(usize),
    /// What is to be copied is no part of the memory, or nothing is there to copy from.
    #[error("The parts of memory to copy for the guest aren't whole pages of a template's memory, in order")]
    Written,
    /// There are too many persistent memories.
    #[error("A microVM has at most {MAX_PMEMS} persistent memories, not {0}")]
    Pmems(usize),
    /// The name of a persistent memory is unusable or is used twice.
    #[error(
        "The name {0:?} of a persistent memory isn't 1 to {MAX_BLOCK_ID} printable ASCII characters, or is used twice"
    )]
    PmemId(String),
    /// The length of a persistent memory is none that it can have.
    #[error("Persistent memory {id:?} is {length} bytes long, which isn't a multiple of {PMEM_ALIGNMENT} above 0")]
    PmemLength {
        /// The device.
        id: String,
        /// Its length.
        length: u64,
    },
    /// The name of a block device is unusable or is used twice.
    #[error("The name {0:?} of a block device isn't 1 to {MAX_BLOCK_ID} printable ASCII characters, or is used twice")]
    BlockId(String),
    /// The extents of a block device don't fit into 63 bits.
    #[error("The extents of block device {0:?} are longer than a block device can be")]
    Extents(String),
    /// A port is used twice.
    #[error("Vsock port {0} is given twice")]
    Port(u32),
    /// A place is named that no descriptor came for.
    #[error("The description refers to descriptor {index}, but {count} descriptors came with it")]
    NoDescriptor {
        /// The place.
        index: usize,
        /// How many descriptors came.
        count: usize,
    },
    /// A descriptor is meant for two things.
    #[error("The description refers to descriptor {0} twice")]
    DescriptorTwice(usize),
    /// A descriptor came that nothing refers to.
    #[error("Descriptor {0} came with the description, but it doesn't refer to it")]
    DescriptorUnused(usize),
}

impl VmConfig {
    /// Checks everything that can be checked without looking at the descriptors, of which `descriptors` came.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate(&self, descriptors: usize) -> Result<(), ConfigError> {
        if !(1..=MAX_VCPUS).contains(&self.vcpus) {
            return Err(ConfigError::Vcpus(self.vcpus));
        }
        if !(MIN_MEMORY_MIB..=MAX_MEMORY_MIB).contains(&self.memory_mib) {
            return Err(ConfigError::Memory(self.memory_mib));
        }
        let devices = self.blocks.len().saturating_add(self.pmems.len());
        if devices > MAX_DEVICES {
            return Err(ConfigError::Devices(devices));
        }
        self.validate_start(devices)?;
        self.validate_blocks()?;
        self.validate_pmems()?;
        let mut ports = BTreeSet::new();
        if let Some(channel) = self.channels.iter().find(|channel| !ports.insert(channel.port)) {
            return Err(ConfigError::Port(channel.port));
        }
        self.validate_descriptors(descriptors)
    }

    fn validate_start(&self, devices: usize) -> Result<(), ConfigError> {
        match &self.start {
            Start::Boot(Boot { save: Some(_), .. }) if devices > 0 || self.console.is_some() => {
                Err(ConfigError::SaveWithDevices)
            }
            Start::Restore(_) if self.console.is_some() => Err(ConfigError::RestoreWithConsole),
            Start::Restore(_) if devices > MAX_TEMPLATE_DEVICES => Err(ConfigError::RestoreDevices(devices)),
            Start::Boot(_) if !self.written.is_empty() => Err(ConfigError::Written),
            Start::Restore(_) if !extents::are_right(&self.written, u64::from(self.memory_mib) << 20) => {
                Err(ConfigError::Written)
            }
            Start::Boot(_) | Start::Restore(_) => Ok(()),
        }
    }

    fn validate_blocks(&self) -> Result<(), ConfigError> {
        let mut ids = BTreeSet::new();
        for block in &self.blocks {
            if !is_id(&block.id) || !ids.insert(&block.id) {
                return Err(ConfigError::BlockId(block.id.clone()));
            }
            let overflows = |extent: &ExtentConfig| extent.offset.checked_add(extent.length).is_none();
            let layout = extent_layout(block.extents.iter().map(|extent| extent.length));
            if layout.is_none() || block.extents.iter().any(overflows) {
                return Err(ConfigError::Extents(block.id.clone()));
            }
        }
        Ok(())
    }

    fn validate_pmems(&self) -> Result<(), ConfigError> {
        if self.pmems.len() > MAX_PMEMS {
            return Err(ConfigError::Pmems(self.pmems.len()));
        }
        let mut ids = BTreeSet::new();
        for PmemConfig { id, length, .. } in &self.pmems {
            if !is_id(id) || !ids.insert(id) {
                return Err(ConfigError::PmemId(id.clone()));
            }
            if *length == 0 || !length.is_multiple_of(PMEM_ALIGNMENT) {
                return Err(ConfigError::PmemLength { id: id.clone(), length: *length });
            }
        }
        Ok(())
    }

    /// Each descriptor has one use; only extents share files, among themselves.
    fn validate_descriptors(&self, count: usize) -> Result<(), ConfigError> {
        let singles = [self.kvm].into_iter().chain(self.start.descriptors()).chain(self.console);
        let singles = singles.chain(self.channels.iter().map(|channel| channel.stream));
        let singles = singles.chain(self.pmems.iter().map(|pmem| pmem.file));
        let extents = self.blocks.iter().flat_map(|block| &block.extents).map(|extent| extent.file);
        let mut used = BTreeSet::new();
        for FdIndex(index) in singles {
            if !used.insert(index) {
                return Err(ConfigError::DescriptorTwice(index));
            }
        }
        let files: BTreeSet<usize> = extents.map(|FdIndex(index)| index).collect();
        if let Some(index) = files.intersection(&used).next() {
            return Err(ConfigError::DescriptorTwice(*index));
        }
        used.extend(files);
        if let Some(&index) = used.last().filter(|&&index| index >= count) {
            return Err(ConfigError::NoDescriptor { index, count });
        }
        (0..count).find(|index| !used.contains(index)).map_or(Ok(()), |index| Err(ConfigError::DescriptorUnused(index)))
    }
}

impl Start {
    fn descriptors(&self) -> Vec<FdIndex> {
        let of_template = |files: &TemplateFiles| [files.state, files.memory];
        match self {
            Self::Boot(boot) => {
                let own = [boot.memory, boot.kernel, boot.initramfs].into_iter();
                own.chain(boot.save.iter().flat_map(of_template)).collect()
            }
            Self::Restore(files) => of_template(files).to_vec(),
        }
    }
}

/// Whether a device can have this name.
fn is_id(id: &str) -> bool {
    (1..=MAX_BLOCK_ID).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Creates the memory of a guest: a memfd of `mib` MiB of zeros that can't change its size any more, so that no holder
/// of the descriptor can take pages away under a running guest.
///
/// # Errors
/// Those of the system calls.
pub fn create_guest_memory(mib: u32) -> io::Result<OwnedFd> {
    let memory = memfd_create(c"guest-memory", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    ftruncate(&memory, i64::from(mib) << 20)?;
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&memory, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(memory)
}

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
mod tests;
