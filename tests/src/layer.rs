//! Layers made in memory: tar archives with any entry that the format can say, sensible or not.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

/// The modification time of entries that do not set their own, in seconds since 1970.
pub const MTIME: u64 = 1_700_000_000;

/// A tar archive under construction. Names are taken as they are: `../x` and `/x` are possible.
#[derive(Debug, Default)]
pub struct Layer {
    tar: Vec<u8>,
}

/// What an entry says about itself besides its name and content.
#[derive(Clone, Copy, Debug)]
pub struct Meta {
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
}

/// Root's, with these permission bits.
#[must_use]
pub fn mode(mode: u32) -> Meta {
    Meta { mode, uid: 0, gid: 0 }
}

impl Layer {
    /// An empty layer.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A directory.
    #[must_use]
    pub fn directory(self, name: impl AsRef<[u8]>, meta: Meta) -> Self {
        self.entry(EntryType::Directory, name.as_ref(), b"", meta, (0, 0), b"")
    }

    /// A file.
    #[must_use]
    pub fn file(self, name: impl AsRef<[u8]>, meta: Meta, content: impl AsRef<[u8]>) -> Self {
        self.entry(EntryType::Regular, name.as_ref(), b"", meta, (0, 0), content.as_ref())
    }

    /// A symbolic link.
    #[must_use]
    pub fn symlink(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.entry(EntryType::Symlink, name.as_ref(), target.as_ref(), mode(0o777), (0, 0), b"")
    }

    /// Another name of an entry.
    #[must_use]
    pub fn hard_link(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.entry(EntryType::Link, name.as_ref(), target.as_ref(), mode(0o644), (0, 0), b"")
    }

    /// A character device (`EntryType::Char`), block device or fifo.
    #[must_use]
    pub fn node(self, kind: EntryType, name: impl AsRef<[u8]>, meta: Meta, device: (u32, u32)) -> Self {
        self.entry(kind, name.as_ref(), b"", meta, device, b"")
    }

    /// Puts a PAX header before the next entry: names longer than the format's, attributes, exact times.
    #[must_use]
    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut body = Vec::new();
        for (key, value) in records {
            // A record's length counts its own digits.
            let rest = key.len().saturating_add(value.len()).saturating_add(3);
            let digits = |total: usize| total.to_string().len();
            let mut length = rest.saturating_add(digits(rest));
            length = rest.saturating_add(digits(length));
            body.extend_from_slice(format!("{length} {key}=").as_bytes());
            body.extend_from_slice(value);
            body.push(b'\n');
        }
        self.entry(EntryType::XHeader, b"PaxHeaders/0", b"", mode(0o644), (0, 0), &body)
    }

    /// Any entry. Long names get GNU's extra entry.
    #[must_use]
    #[expect(clippy::expect_used, reason = "the archive is made by the test itself")]
    pub fn entry(
        mut self,
        kind: EntryType,
        name: &[u8],
        target: &[u8],
        meta: Meta,
        device: (u32, u32),
        content: &[u8],
    ) -> Self {
        if name.len() > 100 {
            let long = [name, b"\0"].concat();
            self = self.entry(EntryType::GNULongName, b"././@LongLink", b"", mode(0), (0, 0), &long);
        }
        if target.len() > 100 {
            let long = [target, b"\0"].concat();
            self = self.entry(EntryType::GNULongLink, b"././@LongLink", b"", mode(0), (0, 0), &long);
        }
        let mut header = Header::new_gnu();
        let gnu = header.as_gnu_mut().expect("a GNU header");
        copy(&mut gnu.name, name);
        copy(&mut gnu.linkname, target);
        header.set_entry_type(kind);
        header.set_mode(meta.mode);
        header.set_uid(meta.uid);
        header.set_gid(meta.gid);
        header.set_mtime(MTIME);
        header.set_size(content.len() as u64);
        header.set_device_major(device.0).expect("a GNU header");
        header.set_device_minor(device.1).expect("a GNU header");
        header.set_cksum();
        self.tar.extend_from_slice(header.as_bytes());
        self.tar.extend_from_slice(content);
        self.tar.resize(self.tar.len().next_multiple_of(512), 0);
        self
    }

    /// The finished archive.
    #[must_use]
    pub fn tar(&self) -> Vec<u8> {
        let mut tar = self.tar.clone();
        tar.resize(tar.len().saturating_add(1024), 0);
        tar
    }

    /// The finished archive, compressed with gzip.
    ///
    /// # Panics
    /// Never: the output is in memory.
    #[must_use]
    #[expect(clippy::expect_used, reason = "writing to memory does not fail")]
    pub fn gzip(&self) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&self.tar()).expect("memory");
        encoder.finish().expect("memory")
    }

    /// The finished archive, compressed with Zstandard.
    #[must_use]
    pub fn zstd(&self) -> Vec<u8> {
        compress_to_vec(self.tar().as_slice(), CompressionLevel::Fastest)
    }
}

fn copy(field: &mut [u8], text: &[u8]) {
    for (place, byte) in field.iter_mut().zip(text) {
        *place = *byte;
    }
}

/// A layer with so many files, of one byte each and a thousand in a directory, compressed with gzip, and its diff ID. The
/// archive itself, of 1 KiB for each, is never held. The file number 1,234,567 is `many/1234/567` and holds a `7`.
///
/// # Panics
/// When it can't be compressed.
#[must_use]
#[expect(clippy::expect_used, reason = "tests can't go on without it")]
pub fn many_files(count: u64) -> (Vec<u8>, String) {
    let mut header = Header::new_gnu();
    header.set_mtime(MTIME);
    let mut hash = Sha256::new();
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let mut add = |bytes: &[u8]| {
        hash.update(bytes);
        encoder.write_all(bytes).expect("memory");
    };
    for number in 0..count {
        let (directory, name) = (number / 1000, number % 1000);
        if name == 0 {
            header.set_path(format!("many/{directory:04}/")).expect("a short name");
            header.set_entry_type(EntryType::Directory);
            header.set_mode(0o755);
            header.set_size(0);
            header.set_cksum();
            add(header.as_bytes());
        }
        header.set_path(format!("many/{directory:04}/{name:03}")).expect("a short name");
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o644);
        header.set_size(1);
        header.set_cksum();
        add(header.as_bytes());
        let mut block = [0; 512];
        block[0] = b'0' + u8::try_from(number % 10).expect("a digit");
        add(&block);
    }
    add(&[0; 1024]);
    (encoder.finish().expect("memory"), diff_id(hash))
}

/// How OCI writes the digest of an archive.
fn diff_id(hash: Sha256) -> String {
    let hex: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// A layer with one file of so many zeros, compressed with gzip, and its diff ID. The archive itself is never held: it is
/// made of members that repeat.
///
/// # Panics
/// When it can't be compressed.
#[must_use]
#[expect(clippy::expect_used, reason = "tests can't go on without it")]
pub fn zeros(name: &str, length: u64) -> (Vec<u8>, String) {
    const MEMBER: usize = 64 << 20;
    let member = |bytes: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).expect("memory");
        encoder.finish().expect("memory")
    };
    let mut header = Header::new_gnu();
    header.set_path(name).expect("a short name");
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_mtime(MTIME);
    header.set_size(length);
    header.set_cksum();
    let zeros = vec![0; MEMBER];
    let compressed = member(&zeros);
    // The last member ends the file and the archive.
    let whole = length / MEMBER as u64;
    let rest = usize::try_from(length % MEMBER as u64).expect("less than a member").next_multiple_of(512);
    let end = vec![0; rest.saturating_add(1024)];
    let mut blob = member(header.as_bytes());
    let mut hash = Sha256::new();
    hash.update(header.as_bytes());
    for _ in 0..whole {
        blob.extend_from_slice(&compressed);
        hash.update(&zeros);
    }
    blob.extend_from_slice(&member(&end));
    hash.update(&end);
    (blob, diff_id(hash))
}
