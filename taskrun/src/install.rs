//! Where the files of an installation are.
//!
//! ```text
//! PREFIX/bin/taskrun
//! PREFIX/libexec/taskrun/{taskrun-vmm, vmlinux, initramfs.cpio}
//! ```
//!
//! The tree is found from the running binary, so it works wherever it was put. `TASKRUN_LIBEXEC` names another folder
//! instead of `libexec/taskrun`. A program that is not in such a tree, since it runs tasks by the library, takes the tree of the
//! `taskrun` on the `PATH`.

use std::env;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

/// The variable that names another folder than `libexec/taskrun`.
const LIBEXEC_VARIABLE: &str = "TASKRUN_LIBEXEC";

/// The program of the VMM.
const VMM: &str = "taskrun-vmm";

/// How to get files that are missing.
const INSTALL: &str = "run scripts/build in a source tree and scripts/install PREFIX, or set TASKRUN_LIBEXEC";

/// The files that a task needs besides its image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installation {
    /// The program of the VMM.
    pub vmm: PathBuf,
    /// The guest kernel.
    pub kernel: PathBuf,
    /// The guest's first file system, with the agent in it.
    pub initramfs: PathBuf,
}

/// A file of the installation that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The running binary's place is unknown.
    #[error("taskrun can't find its own place: set TASKRUN_LIBEXEC to the folder of taskrun-vmm")]
    NoPlace(#[source] io::Error),
    /// The VMM is missing.
    #[error("The VMM {0:?} can't be executed ({INSTALL})")]
    Vmm(PathBuf, #[source] io::Error),
    /// The initramfs is missing.
    #[error("The guest's initramfs {0:?} can't be read ({INSTALL})")]
    Initramfs(PathBuf, #[source] io::Error),
    /// The kernel is missing.
    #[error(
        "The guest kernel {0:?} can't be read (build one with scripts/build, or name one with --kernel FILE or \
         TASKRUN_KERNEL)"
    )]
    Kernel(PathBuf, #[source] io::Error),
    /// The kernel is none.
    #[error(
        "The guest kernel {path:?} is not an uncompressed vmlinux (an x86-64 ELF file) but {what}: name another \
         with --kernel FILE or TASKRUN_KERNEL"
    )]
    NotAKernel {
        /// The file.
        path: PathBuf,
        /// What it looks like.
        what: &'static str,
    },
}

impl Installation {
    /// Finds the files; `kernel` replaces the installed one. Nothing is opened.
    ///
    /// # Errors
    /// [`InstallError::NoPlace`].
    pub fn locate(kernel: Option<&Path>) -> Result<Self, InstallError> {
        Self::locate_in(None, kernel)
    }

    /// Finds the files, in `libexec` when that is given.
    ///
    /// # Errors
    /// [`InstallError::NoPlace`].
    pub fn locate_in(libexec: Option<&Path>, kernel: Option<&Path>) -> Result<Self, InstallError> {
        let named = || env::var_os(LIBEXEC_VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(libexec) = libexec.map(Path::to_owned).or_else(named) {
            return Ok(Self::in_folder(&libexec, kernel));
        }
        let own = Self::in_folder(&libexec_of(&env::current_exe().map_err(InstallError::NoPlace)?), kernel);
        if own.vmm.exists() {
            return Ok(own);
        }
        let on_path = env::var_os("PATH").and_then(|path| of_program_on(&path));
        Ok(on_path.map_or(own, |libexec| Self::in_folder(&libexec, kernel)))
    }

    fn in_folder(libexec: &Path, kernel: Option<&Path>) -> Self {
        Self {
            vmm: libexec.join(VMM),
            kernel: kernel.map_or_else(|| libexec.join("vmlinux"), Path::to_owned),
            initramfs: libexec.join("initramfs.cpio"),
        }
    }

    /// Opens the kernel and makes sure that it looks like one.
    ///
    /// # Errors
    /// [`InstallError::Kernel`] and [`InstallError::NotAKernel`].
    pub fn open_kernel(&self) -> Result<File, InstallError> {
        let unreadable = |source| InstallError::Kernel(self.kernel.clone(), source);
        let mut file = open_file(&self.kernel).map_err(unreadable)?;
        let mut start = Vec::new();
        // The VMM reads at offsets of its own, so this does not disturb it.
        Read::by_ref(&mut file).take(KERNEL_START).read_to_end(&mut start).map_err(unreadable)?;
        match not_a_kernel(&start) {
            None => Ok(file),
            Some(what) => Err(InstallError::NotAKernel { path: self.kernel.clone(), what }),
        }
    }

    /// Opens the initramfs.
    ///
    /// # Errors
    /// [`InstallError::Initramfs`].
    pub fn open_initramfs(&self) -> Result<File, InstallError> {
        open_file(&self.initramfs).map_err(|source| InstallError::Initramfs(self.initramfs.clone(), source))
    }

    /// Makes sure that the VMM can be executed.
    ///
    /// # Errors
    /// [`InstallError::Vmm`].
    pub fn check_vmm(&self) -> Result<(), InstallError> {
        access(&self.vmm, AccessFlags::X_OK).map_err(|error| InstallError::Vmm(self.vmm.clone(), error.into()))
    }
}

fn libexec_of(executable: &Path) -> PathBuf {
    let prefix = executable.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
    prefix.join("libexec/taskrun")
}

/// The folder of the first `taskrun` in these directories that has one.
fn of_program_on(path: &OsStr) -> Option<PathBuf> {
    let programs = env::split_paths(path).filter_map(|folder| folder.join("taskrun").canonicalize().ok());
    programs.map(|program| libexec_of(&program)).find(|libexec| libexec.join(VMM).exists())
}

fn open_file(path: &Path) -> io::Result<File> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() { Err(io::ErrorKind::IsADirectory.into()) } else { Ok(file) }
}

/// How much of a kernel file [`not_a_kernel`] looks at: past the boot protocol's signature and the program headers.
const KERNEL_START: u64 = 4096;

/// What a file is that starts like this, unless it is an x86-64 ELF executable for the kernel's half of the addresses.
fn not_a_kernel(start: &[u8]) -> Option<&'static str> {
    const ELF_64_LITTLE_ENDIAN: [u8; 6] = [0x7f, b'E', b'L', b'F', 2, 1];
    const EM_X86_64: [u8; 2] = [62, 0];
    if start.starts_with(&ELF_64_LITTLE_ENDIAN) {
        if start.get(18..20) != Some(&EM_X86_64) {
            return Some("an ELF file for another machine");
        }
        (!has_kernel_segment(start)).then_some("an ordinary program")
    } else if start.get(0x202..0x206) == Some(b"HdrS") {
        Some("a compressed bzImage")
    } else if start.is_empty() {
        Some("an empty file")
    } else {
        Some("something else")
    }
}

/// Whether an ELF file's first segments include one for the upper half of the addresses (System V ABI, "Program
/// Header").
fn has_kernel_segment(elf: &[u8]) -> bool {
    const PT_LOAD: [u8; 4] = [1, 0, 0, 0];
    const HEADER: usize = 56;
    let number = |at: usize| elf.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
    let headers = number(0x20).and_then(|offset| usize::try_from(offset).ok()).and_then(|offset| elf.get(offset..));
    headers.unwrap_or_default().chunks_exact(HEADER).any(|header| {
        let address = header.get(16..).and_then(|rest| rest.first_chunk()).map(|bytes| u64::from_le_bytes(*bytes));
        header.starts_with(&PT_LOAD) && address.is_some_and(|address| address >> 63 == 1)
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_tree_is_found_from_the_binary() {
        assert_eq!(libexec_of(Path::new("/opt/x/bin/taskrun")), Path::new("/opt/x/libexec/taskrun"));
        let tree = Installation::in_folder(Path::new("/l"), None);
        assert_eq!((tree.vmm, tree.kernel), ("/l/taskrun-vmm".into(), "/l/vmlinux".into()));
        assert_eq!(Installation::in_folder(Path::new("/l"), Some(Path::new("/k"))).kernel, Path::new("/k"));
    }

    #[test]
    fn a_program_elsewhere_finds_the_tree_of_the_one_on_the_path() {
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path().canonicalize().unwrap();
        for file in ["bin/taskrun", "libexec/taskrun/taskrun-vmm", "x/other/taskrun"] {
            fs::create_dir_all(tree.join(file).parent().unwrap()).unwrap();
            fs::write(tree.join(file), "").unwrap();
        }
        let path = env::join_paths([tree.join("none"), tree.join("x/other"), tree.join("bin")]).unwrap();
        assert_eq!(of_program_on(&path), Some(tree.join("libexec/taskrun")));
        assert_eq!(of_program_on(tree.join("x/other").as_os_str()), None);
    }

    fn open(name: &str, content: &[u8]) -> Result<File, InstallError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        Installation::in_folder(folder.path(), Some(&path)).open_kernel()
    }

    #[test]
    fn only_what_looks_like_a_vmlinux_is_a_kernel() {
        let mut elf = vec![0; 64 + 56];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        (elf[18], elf[0x20]) = (62, 64);
        elf[64] = 1;
        assert!(open("program", &elf).unwrap_err().to_string().contains("an ordinary program"));
        elf[64 + 16..64 + 24].copy_from_slice(&0xffff_ffff_8100_0000_u64.to_le_bytes());
        assert!(open("vmlinux", &elf).is_ok());
        elf[18] = 183;
        assert!(open("arm", &elf).unwrap_err().to_string().contains("another machine"));
        let mut bzimage = vec![0; 1024];
        bzimage[0x202..0x206].copy_from_slice(b"HdrS");
        assert!(open("bzImage", &bzimage).unwrap_err().to_string().contains("a compressed bzImage"));
        assert!(open("empty", b"").unwrap_err().to_string().contains("an empty file"));
        assert!(open("text", b"#!/bin/sh\n").unwrap_err().to_string().contains("something else"));
    }

    proptest::proptest! {
        #[test]
        fn no_file_makes_it_panic(mut start in proptest::collection::vec(proptest::num::u8::ANY, 0..256), elf: bool) {
            if elf && start.len() > 0x28 {
                start[..6].copy_from_slice(b"\x7fELF\x02\x01");
                (start[18], start[19]) = (62, 0);
            }
            let _ = not_a_kernel(&start);
        }
    }

    #[test]
    fn a_missing_kernel_names_the_remedy() {
        let tree = Installation::in_folder(Path::new("/no/such"), None);
        let error = crate::errors::chain(&tree.open_kernel().unwrap_err());
        assert!(error.contains("\"/no/such/vmlinux\"") && error.contains("--kernel") && error.contains("No such file"));
        let folder = Installation::in_folder(Path::new("/l"), Some(Path::new("/")));
        assert!(crate::errors::chain(&folder.open_kernel().unwrap_err()).contains("directory"));
    }
}
