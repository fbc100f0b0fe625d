//! What a template depends on. Everything that could make a saved guest wrong, or another than a booted one, is an input;
//! the key is a hash over them.
//!
//! The files of the installation count by their content. Hashing them takes longer than starting a task, so each digest is
//! remembered under the file's identity (device, inode, size, times of its last changes).

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::files;
use crate::microvm::Host;

/// The folder of remembered digests.
pub(super) const DIGESTS: &str = "digests";

/// How much of a file is read at once.
const CHUNK: usize = 1 << 20;

/// Why the inputs can't be found out.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A file can't be read.
    #[error("The file {path:?}, of which a template is made, can't be read")]
    File {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The host can't be asked.
    #[error("The processor that a template is made for can't be found out")]
    Host(#[source] vmm::template::TemplateError),
}

/// What a template is made of and for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inputs {
    /// The version of its files.
    pub format: u32,
    /// The digest of the guest kernel.
    pub kernel: String,
    /// The digest of the initramfs, with the agent.
    pub initramfs: String,
    /// The digest of the VMM.
    pub vmm: String,
    /// What its processor and KVM can do.
    pub host: String,
    /// vCPUs.
    pub vcpus: u8,
    /// Memory, in MiB.
    pub memory_mib: u32,
}

/// The name of a template: 64 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key(String);

impl Key {
    /// The whole name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its start, for people.
    #[must_use]
    pub fn short(&self) -> &str {
        short(&self.0)
    }
}

/// The start of a key, for people.
pub(super) fn short(key: &str) -> &str {
    key.get(..12).unwrap_or(key)
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Inputs {
    /// The inputs of a template of this size on this host. Digests are remembered in `folder`.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn of(folder: &Path, host: &Host, vcpus: u8, memory_mib: u32) -> Result<Self, KeyError> {
        let installation = host.installation();
        let digest = |path: &Path| {
            let file = File::open(path).and_then(|file| digest(folder, file));
            file.map_err(|source| KeyError::File { path: path.to_owned(), source })
        };
        Ok(Self {
            format: vmm::template::FORMAT,
            kernel: digest(&installation.kernel)?,
            initramfs: digest(&installation.initramfs)?,
            vmm: digest(&installation.vmm)?,
            host: vmm::template::host_identity(host.kvm().as_fd()).map_err(KeyError::Host)?,
            vcpus,
            memory_mib,
        })
    }

    /// The key of the template.
    #[must_use]
    pub fn key(&self) -> Key {
        let Self { format, kernel, initramfs, vmm, host, vcpus, memory_mib } = self;
        let text = format!("{format}\n{kernel}\n{initramfs}\n{vmm}\n{host}\n{vcpus}\n{memory_mib}\n");
        Key(hex(&Sha256::digest(text)))
    }
}

/// The digest of a file, from memory where it hasn't changed since.
fn digest(folder: &Path, mut file: File) -> io::Result<String> {
    let is = file.metadata()?;
    let identity = format!(
        "{:x}-{:x}-{:x}-{:x}.{:x}-{:x}.{:x}",
        is.dev(),
        is.ino(),
        is.size(),
        is.mtime(),
        is.mtime_nsec(),
        is.ctime(),
        is.ctime_nsec()
    );
    let memory = folder.join(DIGESTS).join(identity);
    match fs::read_to_string(&memory) {
        Ok(digest) if digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()) => return Ok(digest),
        _ => {}
    }
    let mut hash = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        let count = file.read(&mut chunk)?;
        if count == 0 {
            break;
        }
        hash.update(chunk.get(..count).unwrap_or_default());
    }
    let digest = hex(&hash.finalize());
    // A digest that isn't remembered is taken again.
    let _ = remember(&memory, &digest);
    Ok(digest)
}

fn remember(memory: &Path, digest: &str) -> io::Result<()> {
    let folder = memory.parent().unwrap_or(Path::new("."));
    files::create_folder(folder)?;
    files::replace(memory, digest.as_bytes())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs() -> Inputs {
        let text = |text: &str| text.to_owned();
        Inputs {
            format: 1,
            kernel: text("k"),
            initramfs: text("i"),
            vmm: text("v"),
            host: text("h"),
            vcpus: 1,
            memory_mib: 128,
        }
    }

    #[test]
    fn every_input_changes_the_key() {
        let changes: [fn(&mut Inputs); 7] = [
            |inputs| inputs.format = 2,
            |inputs| inputs.kernel.push('x'),
            |inputs| inputs.initramfs.push('x'),
            |inputs| inputs.vmm.push('x'),
            |inputs| inputs.host.push('x'),
            |inputs| inputs.vcpus = 2,
            |inputs| inputs.memory_mib = 129,
        ];
        let mut keys = vec![inputs().key().0];
        for change in changes {
            let mut changed = inputs();
            change(&mut changed);
            keys.push(changed.key().0);
        }
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), 8);
        assert_eq!(inputs().key().short().len(), 12);
    }

    #[test]
    fn a_digest_is_remembered_until_the_file_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "one").unwrap();
        let first = digest(folder.path(), File::open(&path).unwrap()).unwrap();
        assert_eq!(first, hex(&Sha256::digest("one")));
        let memory = fs::read_dir(folder.path().join(DIGESTS)).unwrap().next().unwrap().unwrap().path();
        let other = "0".repeat(64);
        fs::write(&memory, &other).unwrap();
        assert_eq!(digest(folder.path(), File::open(&path).unwrap()).unwrap(), other, "from memory");
        fs::write(&memory, "nonsense").unwrap();
        assert_eq!(digest(folder.path(), File::open(&path).unwrap()).unwrap(), first, "a damaged memory is none");
        fs::write(&path, "second").unwrap();
        assert_eq!(digest(folder.path(), File::open(&path).unwrap()).unwrap(), hex(&Sha256::digest("second")));
    }
}
