//! Starting a VMM: everything it needs is opened here and handed over, and nothing else reaches it.
//! The process itself is [`super::process`]'s.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use vmm::config::{self, BlockConfig, ChannelConfig, ExtentConfig, FdIndex, PmemConfig, VmConfig, create_guest_memory};
use vmm::control::{self, ControlError};
use vmm::template;

use super::Vmm;
use crate::cpu::{CpuError, Share};
use crate::install::{InstallError, Installation};
use crate::kvm::{self, KvmError};

/// Why a VMM could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// KVM can't be used.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// A file of the installation can't be used.
    #[error(transparent)]
    Install(#[from] InstallError),
    /// The guest's memory can't be made.
    #[error("The guest's memory of {mib} MiB can't be created")]
    Memory {
        /// Its size.
        mib: u32,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A socket can't be made.
    #[error("A socket for the guest can't be created")]
    Socket(#[source] io::Error),
    /// Descriptors can't be kept from the VMM.
    #[error("The open files of this process can't be kept from the VMM")]
    Seal(#[source] io::Error),
    /// There is nowhere to write messages to.
    #[error("The VMM's messages can't be written")]
    Messages(#[source] io::Error),
    /// The VMM can't be held to its share of processors.
    #[error(transparent)]
    Cpu(#[from] CpuError),
    /// The VMM did not take its configuration.
    #[error("The VMM did not take its configuration")]
    Config(#[source] ControlError),
}

/// What every microVM needs of this host, open.
#[derive(Debug)]
pub struct Host {
    kvm: File,
    kernel: File,
    initramfs: File,
    installation: Installation,
    /// Where VMMs say what they have to say, instead of standard error.
    messages: Option<File>,
}

impl Host {
    /// Opens what every microVM needs, and so finds out early what is missing. `kernel` replaces the installed one.
    ///
    /// # Errors
    /// [`LaunchError`], with the remedy.
    pub fn open(kernel: Option<&Path>) -> Result<Self, LaunchError> {
        Self::of(Installation::locate(kernel)?)
    }

    /// Opens what every microVM needs, from this installation.
    ///
    /// # Errors
    /// [`LaunchError`], with the remedy.
    pub fn of(installation: Installation) -> Result<Self, LaunchError> {
        let (kvm, kernel, initramfs) = (kvm::open()?, installation.open_kernel()?, installation.open_initramfs()?);
        installation.check_vmm()?;
        Ok(Self { kvm, kernel, initramfs, installation, messages: None })
    }

    /// VMMs that are started from now on write their messages, and the logs of guests' kernels, to this file instead of
    /// standard error.
    pub fn write_messages_to(&mut self, file: File) {
        self.messages = Some(file);
    }

    /// `/dev/kvm`.
    #[must_use]
    pub fn kvm(&self) -> &File {
        &self.kvm
    }

    /// Where the rest is.
    #[must_use]
    pub fn installation(&self) -> &Installation {
        &self.installation
    }
}

/// A microVM to start.
#[derive(Debug, Default)]
pub struct Plan {
    /// Number of vCPUs.
    pub vcpus: u8,
    /// The share of processors that its VMM is held to; `None` leaves it all of its vCPUs.
    pub share: Option<Share>,
    /// Guest memory, in MiB.
    pub memory_mib: u32,
    /// Whether the guest kernel's log goes to standard error.
    pub console: bool,
    /// Whether the guest boots, even where it could start from a template.
    pub cold: bool,
    /// Block devices, in the guest's order (`/dev/vda`, …).
    pub disks: Vec<Disk>,
    /// Persistent memory, in the guest's order (`/dev/pmem0`, …).
    pub pmems: Vec<Pmem>,
    /// Vsock ports that the agent may connect to.
    pub ports: Vec<u32>,
}

impl Plan {
    /// The virtio windows of the devices that a guest from a template has not seen, in the guest's order; the first window is
    /// vsock's.
    #[must_use]
    pub fn slots(&self) -> Vec<u8> {
        let known = usize::from(self.pmem_is_known());
        (1..).take(self.disks.len().saturating_add(self.pmems.len()).saturating_sub(known)).collect()
    }

    /// Whether the first persistent memory takes the place of the template's own.
    fn pmem_is_known(&self) -> bool {
        self.pmems.first().is_some_and(|pmem| pmem.length <= config::image_window(self.memory_mib))
    }

    /// The guest's path of the first persistent memory. A template's own, which is too short for it, comes before it.
    #[must_use]
    pub fn first_pmem(&self, restored: bool) -> String {
        format!("/dev/pmem{}", u8::from(restored && !self.pmem_is_known()))
    }

    /// Whether a guest from a template can have all of this.
    #[must_use]
    pub fn fits_template(&self) -> bool {
        !self.console && self.slots().len() <= config::MAX_TEMPLATE_DEVICES
    }
}

/// What a microVM starts from.
#[derive(Clone, Copy, Debug)]
pub enum Start<'a> {
    /// The kernel.
    Boot,
    /// The kernel; when its agent is ready the guest is saved to these files, and ends.
    Save(TemplateFiles<'a>),
    /// A guest that was saved.
    Restore(TemplateFiles<'a>),
}

/// The files of a template.
#[derive(Clone, Copy, Debug)]
pub struct TemplateFiles<'a> {
    /// The state of everything but the memory.
    pub state: &'a File,
    /// The memory.
    pub memory: &'a File,
    /// Parts of it that are copied before a guest goes on, since it is known to write them.
    pub written: &'a [template::extents::Extent],
}

/// A block device.
#[derive(Debug)]
pub struct Disk {
    /// Its name, for messages.
    pub id: &'static str,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Its content, each part on a multiple of [`vmm::config::EXTENT_ALIGNMENT`].
    pub extents: Vec<Extent>,
}

/// A part of a file that is a part of a block device.
#[derive(Clone, Debug)]
pub struct Extent {
    /// The file; disks may share it.
    pub file: Arc<File>,
    /// Where the part starts in it, in bytes.
    pub offset: u64,
    /// Its length, in bytes.
    pub length: u64,
}

/// A file that the guest maps, read-only.
#[derive(Debug)]
pub struct Pmem {
    /// Its name, for messages.
    pub id: &'static str,
    /// The file.
    pub file: Arc<File>,
    /// Its length, a multiple of [`vmm::config::PMEM_ALIGNMENT`].
    pub length: u64,
}

/// A VMM that was started.
#[derive(Debug)]
pub struct Launched {
    /// Its process.
    pub vmm: Vmm,
    /// The runtime's ends of the ports, in the plan's order.
    pub channels: Vec<UnixStream>,
}

/// Starts the VMM of a microVM.
///
/// # Errors
/// [`LaunchError`]; no process is left then.
pub fn launch(host: &Host, plan: &Plan, start: Start<'_>) -> Result<Launched, LaunchError> {
    let mib = plan.memory_mib;
    let memory = create_guest_memory(mib).map_err(|source| LaunchError::Memory { mib, source })?;
    let pairs = plan.ports.iter().map(|_| UnixStream::pair().map_err(LaunchError::Socket));
    let (channels, ends): (Vec<_>, Vec<_>) = pairs.collect::<Result<Vec<_>, _>>()?.into_iter().unzip();

    let stderr = io::stderr();
    let mut given = Given::default();
    let mut config = VmConfig {
        vcpus: plan.vcpus,
        cpu_units: None,
        memory_mib: mib,
        kvm: given.add(host.kvm.as_fd()),
        start: match start {
            Start::Boot => config::Start::Boot(given.boot(host, &memory, None)),
            Start::Save(files) => config::Start::Boot(given.boot(host, &memory, Some(files))),
            Start::Restore(files) => config::Start::Restore(given.template(files)),
        },
        console: plan.console.then(|| given.add(host.messages.as_ref().map_or(stderr.as_fd(), AsFd::as_fd))),
        blocks: blocks(&plan.disks, &mut given),
        pmems: plan
            .pmems
            .iter()
            .map(|pmem| PmemConfig { id: pmem.id.to_owned(), file: given.add(pmem.file.as_fd()), length: pmem.length })
            .collect(),
        channels: plan
            .ports
            .iter()
            .zip(&ends)
            .map(|(port, end)| ChannelConfig { port: *port, stream: given.add(end.as_fd()) })
            .collect(),
        written: match start {
            Start::Restore(files) => files.written.to_vec(),
            Start::Boot | Start::Save(_) => Vec::new(),
        },
    };
    let mut vmm = Vmm::spawn(&host.installation, host.messages.as_ref())?;
    config.cpu_units = plan.share.as_ref().map(|share| vmm.hold_to(share)).transpose()?.flatten();
    control::send_config(vmm.control(), &config, &given.descriptors).map_err(LaunchError::Config)?;
    Ok(Launched { vmm, channels })
}

/// The block devices; a file that several extents lie in is given once.
fn blocks<'a>(disks: &'a [Disk], given: &mut Given<'a>) -> Vec<BlockConfig> {
    let mut files: Vec<(&Arc<File>, FdIndex)> = Vec::new();
    let mut index_of = |file: &'a Arc<File>| {
        let known = files.iter().find(|(known, _)| Arc::ptr_eq(known, file)).map(|(_, index)| *index);
        known.unwrap_or_else(|| {
            let index = given.add(file.as_fd());
            files.push((file, index));
            index
        })
    };
    let mut extent = |extent: &'a Extent| ExtentConfig {
        file: index_of(&extent.file),
        offset: extent.offset,
        length: extent.length,
    };
    let block = |disk: &'a Disk| BlockConfig {
        id: disk.id.to_owned(),
        read_only: disk.read_only,
        extents: disk.extents.iter().map(&mut extent).collect(),
    };
    disks.iter().map(block).collect()
}

/// The descriptors that the VMM gets.
#[derive(Debug, Default)]
struct Given<'a> {
    descriptors: Vec<BorrowedFd<'a>>,
}

impl<'a> Given<'a> {
    fn add(&mut self, descriptor: BorrowedFd<'a>) -> FdIndex {
        self.descriptors.push(descriptor);
        FdIndex(self.descriptors.len().saturating_sub(1))
    }

    fn boot(&mut self, host: &'a Host, memory: &'a OwnedFd, save: Option<TemplateFiles<'a>>) -> config::Boot {
        config::Boot {
            memory: self.add(memory.as_fd()),
            kernel: self.add(host.kernel.as_fd()),
            initramfs: self.add(host.initramfs.as_fd()),
            extra_command_line: String::new(),
            save: save.map(|files| self.template(files)),
        }
    }

    fn template(&mut self, files: TemplateFiles<'a>) -> config::TemplateFiles {
        config::TemplateFiles { state: self.add(files.state.as_fd()), memory: self.add(files.memory.as_fd()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_in_one_file_share_its_descriptor() {
        let [archive, other] = [(), ()].map(|()| Arc::new(File::open("/dev/null").unwrap()));
        let extent = |file: &Arc<File>, offset| Extent { file: Arc::clone(file), offset, length: 7 };
        let disks = [
            Disk {
                id: "layers",
                read_only: true,
                extents: vec![extent(&archive, 512), extent(&other, 0), extent(&archive, 4096)],
            },
            Disk { id: "output", read_only: false, extents: vec![extent(&other, 0)] },
        ];
        let kvm = File::open("/dev/null").unwrap();
        let mut given = Given::default();
        given.add(kvm.as_fd());
        let blocks = blocks(&disks, &mut given);
        let extents = |block: &BlockConfig| -> Vec<_> {
            block.extents.iter().map(|extent| (extent.file.0, extent.offset)).collect()
        };
        assert_eq!(extents(&blocks[0]), [(1, 512), (2, 0), (1, 4096)]);
        assert_eq!(extents(&blocks[1]), [(2, 0)]);
        assert_eq!(given.descriptors.len(), 3);
        assert!(blocks[0].read_only && !blocks[1].read_only);
    }
}
