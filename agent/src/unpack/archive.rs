//! The entries of a tar stream: headers joined with the GNU and PAX extensions that go before them.
//!
//! The meaning is that of Go's `archive/tar`, which umoci, podman, containerd and Docker unpack layers with:
//! - GNU long names (`L`, `K`) win over PAX names, which win over the header's; among several of a kind the last wins.
//! - Global PAX headers (`g`) are passed over (podman and Docker do so; umoci refuses them).
//! - Links, directories and devices have no content, whatever size their headers say.
//! - The archive ends at two blocks of zeros, or where the stream does. One block of zeros before another header is an
//!   error. What comes behind the end belongs to the stream's digest and is not looked at.
//! - Sparse files are refused (umoci and podman refuse GNU's `S`), and so are all types that are neither POSIX's nor
//!   named here.

use super::entry::{Entry, Kind, Metadata, Node, Time};
use super::error::Cause;
use super::header::{self, Block, Field};
use super::path::escape;
use super::pax::Records;
use super::stream::{BLOCK, Stream};

/// The longest extension header that is read, in bytes, as in Go.
const EXTENSION_MAX: u64 = 1 << 20;

/// What the extension headers before an entry said.
#[derive(Debug, Default)]
struct Extensions {
    records: Records,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

/// A tar archive that is being read.
pub struct Archive<'a, 's> {
    stream: Stream<'a, 's>,
    /// What is left of the content of the current entry, and the padding behind it.
    content: u64,
    padding: u64,
    /// The name of the entry that is being read, for errors.
    name: Option<Vec<u8>>,
}

impl<'a, 's> Archive<'a, 's> {
    /// The archive in `stream`.
    pub fn new(stream: Stream<'a, 's>) -> Self {
        Self { stream, content: 0, padding: 0, name: None }
    }

    /// The name of the entry that is being read, as far as it is known.
    pub fn name(&self) -> Option<&[u8]> {
        self.name.as_deref()
    }

    /// The next entry, or `None` at the end. Its content can be read until this is called again.
    pub fn next(&mut self) -> Result<Option<Entry>, Cause> {
        self.pass_content()?;
        self.name = None;
        let mut extensions = Extensions::default();
        while let Some(block) = self.header()? {
            match block.kind() {
                b'x' => extensions.records = Records::parse(&self.extension(&block)?)?,
                b'L' => extensions.long_name = Some(text(self.extension(&block)?)),
                b'K' => extensions.long_link = Some(text(self.extension(&block)?)),
                b'g' => {
                    self.extension(&block)?;
                    extensions = Extensions::default();
                }
                _ => return self.entry(&block, extensions).map(Some),
            }
        }
        Ok(None)
    }

    /// Lends the next part of the current entry's content; empty at its end.
    pub fn content(&mut self) -> Result<&[u8], Cause> {
        let part = self.stream.lend(self.content)?;
        if part.is_empty() && self.content > 0 {
            return Err(Cause::Truncated("a file"));
        }
        self.content = self.content.saturating_sub(part.len() as u64);
        Ok(part)
    }

    /// Reads to the end of the stream and checks its digest.
    pub fn finish(self) -> Result<(), Cause> {
        self.stream.finish()
    }

    /// Passes over what is left of the current entry.
    fn pass_content(&mut self) -> Result<(), Cause> {
        if self.stream.skip(self.content)? < self.content {
            return Err(Cause::Truncated("a file"));
        }
        // Padding may be missing where the stream ends.
        self.stream.skip(self.padding)?;
        (self.content, self.padding) = (0, 0);
        Ok(())
    }

    /// The next header block, or `None` at the end of the archive.
    fn header(&mut self) -> Result<Option<Block>, Cause> {
        const ZEROS: [u8; BLOCK] = [0; BLOCK];
        match self.stream.block()? {
            None => Ok(None),
            Some(ZEROS) => match self.stream.block()? {
                None | Some(ZEROS) => Ok(None),
                Some(_) => Err(Cause::Archive("there is a header behind a block of zeros")),
            },
            Some(bytes) => Block::new(&bytes).map(Some),
        }
    }

    /// The content of an extension header.
    fn extension(&mut self, block: &Block) -> Result<Vec<u8>, Cause> {
        self.expect_content(block.number(header::SIZE)?)?;
        if self.content > EXTENSION_MAX {
            return Err(Cause::Archive("an extended header is longer than 1 MiB"));
        }
        let mut bytes = Vec::new();
        while self.content > 0 {
            bytes.extend_from_slice(self.content()?);
        }
        self.pass_content()?;
        Ok(bytes)
    }

    /// Notes that `size` bytes of content follow.
    fn expect_content(&mut self, size: i64) -> Result<(), Cause> {
        self.content = u64::try_from(size).map_err(|_| Cause::Archive("the size in a header is negative"))?;
        self.padding = self.content.wrapping_neg() % BLOCK as u64;
        Ok(())
    }

    fn entry(&mut self, block: &Block, extensions: Extensions) -> Result<Entry, Cause> {
        let Extensions { records, long_name, long_link } = extensions;
        let pick = |long: Option<Vec<u8>>, key, short: Vec<u8>| {
            long.filter(|text| !text.is_empty()).or_else(|| records.get(key).map(<[u8]>::to_vec)).unwrap_or(short)
        };
        let path = pick(long_name, "path", block.name());
        self.name = Some(path.clone());
        let link = pick(long_link, "linkpath", block.link());
        let kind = kind(block, &path, link)?;
        let size = records.number("size")?.map_or_else(|| block.number(header::SIZE), Ok)?;
        match kind {
            Kind::File | Kind::Unknown(_) => self.expect_content(size)?,
            _ => {}
        }
        if records.is_sparse() || block.kind() == b'S' {
            return Err(Cause::Unsupported("sparse files in an archive are not supported".into()));
        }
        Ok(Entry { path, kind, metadata: metadata(block, &records)? })
    }
}

/// A text up to its first zero byte.
fn text(mut bytes: Vec<u8>) -> Vec<u8> {
    let length = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    bytes.truncate(length);
    bytes
}

fn kind(block: &Block, path: &[u8], link: Vec<u8>) -> Result<Kind, Cause> {
    Ok(match block.kind() {
        b'0' => Kind::File,
        // In archives from before POSIX a slash at the end marks a directory.
        0 if path.ends_with(b"/") => Kind::Directory,
        0 => Kind::File,
        b'1' => Kind::HardLink(link),
        b'2' => Kind::Symlink(link),
        b'3' => Kind::Node(Node::Character(device(block, header::MAJOR, 12)?, device(block, header::MINOR, 20)?)),
        b'4' => Kind::Node(Node::Block(device(block, header::MAJOR, 12)?, device(block, header::MINOR, 20)?)),
        b'5' => Kind::Directory,
        b'6' => Kind::Node(Node::Fifo),
        other => Kind::Unknown(other),
    })
}

/// A device number of at most `bits` bits, as Linux has them.
fn device(block: &Block, field: Field, bits: u32) -> Result<u32, Cause> {
    let number = block.number(field)?;
    let fits = u32::try_from(number).ok().filter(|number| number.checked_shr(bits) == Some(0));
    fits.ok_or(Cause::Archive("a device number is out of range"))
}

fn metadata(block: &Block, records: &Records) -> Result<Metadata, Cause> {
    let id = |key, field| -> Result<u32, Cause> {
        let number = records.number(key)?.map_or_else(|| block.number(field), Ok)?;
        // The highest is what system calls take for "leave it".
        let fits = u32::try_from(number).ok().filter(|id| *id != u32::MAX);
        fits.ok_or_else(|| {
            Cause::Unsupported(format!("its owner {} is out of range", escape(number.to_string().as_bytes())))
        })
    };
    let mtime = match records.time("mtime")? {
        Some(time) => time,
        None => Time { seconds: block.number(header::MTIME)?, nanoseconds: 0 },
    };
    let mode = block.number(header::MODE)? & 0o7777;
    Ok(Metadata {
        mode: u32::try_from(mode).unwrap_or_default(),
        uid: id("uid", header::UID)?,
        gid: id("gid", header::GID)?,
        mtime,
        xattrs: records.xattrs(),
    })
}
