//! What lies where in a tar archive: one pass over its headers, skipping the data (POSIX.1-2001 pax interchange
//! format, with GNU's long names and base-256 numbers).
//!
//! Invariants: every range in an index lies within the archive; memory is bounded by [`MAX_ENTRIES`] and
//! [`MAX_NAME`], whatever the archive says.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;

use tar::{EntryType, Header, PaxExtensions};

/// The unit of a tar archive, in bytes.
const BLOCK: u64 = 512;

/// The most headers of an archive. Images have a few for each layer.
pub const MAX_ENTRIES: usize = 65_536;

/// The longest name that is remembered, in bytes. Names in images are shorter, and only those are asked for.
pub const MAX_NAME: usize = 1024;

/// The most bytes of an extended header or of a long name.
const MAX_EXTENSION: u64 = 1 << 20;

/// The most links on the way from a name to a file.
const MAX_LINKS: usize = 8;

/// Where a file's bytes lie in the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first byte.
    pub offset: u64,
    /// The number of bytes.
    pub length: u64,
}

/// The regular files and links of an archive, by name; of several with one name the last counts, as when unpacking.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TarIndex {
    entries: BTreeMap<Vec<u8>, Entry>,
}

/// Something that has a name.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    File(Range),
    /// A hard link or a symbolic link, with the name that it leads to from the top of the archive; `None` when it
    /// leads out.
    Link(Option<Vec<u8>>),
}

/// What a header gives a name to.
struct Named {
    name: Vec<u8>,
    /// `None` when it is neither file nor link.
    entry: Option<Entry>,
}

/// Why an archive can't be indexed or searched.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// Reading failed.
    #[error("It can't be read at byte {offset}")]
    Read {
        /// Where.
        offset: u64,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// There is nothing in the file.
    #[error("It is empty")]
    Empty,
    /// The archive ends too early.
    #[error("It ends in the middle, at byte {length}, where the entry at byte {offset} goes on: it is truncated")]
    Truncated {
        /// Where the entry starts.
        offset: u64,
        /// The length of the archive.
        length: u64,
    },
    /// A header is damaged.
    #[error("It has no valid header at byte {offset}")]
    Header {
        /// Where.
        offset: u64,
    },
    /// A header has a length that can't be.
    #[error("Its extended header at byte {offset} is too long or damaged")]
    Extension {
        /// Where.
        offset: u64,
    },
    /// A sparse file.
    #[error("Its entry at byte {offset} is a sparse file, which is not supported")]
    Sparse {
        /// Where.
        offset: u64,
    },
    /// Too many entries.
    #[error("It has more than the {MAX_ENTRIES} entries that are allowed")]
    TooMany,
    /// A link in the archive leads out of it.
    #[error("Its entry {name:?} is a link that leads out of the archive or in a circle")]
    Link {
        /// The entry.
        name: String,
    },
}

/// Something that can be read at any place.
pub trait ReadAt {
    /// Fills `buffer` from `offset` on.
    ///
    /// # Errors
    /// `UnexpectedEof` when there are not so many bytes; else the operating system's.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for File {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self, buffer, offset)
    }
}

impl ReadAt for [u8] {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).ok();
        let end = start.and_then(|start| start.checked_add(buffer.len()));
        let bytes = start.zip(end).and_then(|(start, end)| self.get(start..end));
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

impl TarIndex {
    /// Reads the headers of the archive of `length` bytes.
    ///
    /// # Errors
    /// [`TarError`], when the archive is damaged, truncated or beyond the limits.
    pub fn read(archive: &(impl ReadAt + ?Sized), length: u64) -> Result<Self, TarError> {
        if length == 0 {
            return Err(TarError::Empty);
        }
        let mut scan = Scan { archive, length, offset: 0, extensions: Extensions::default() };
        let mut index = Self::default();
        for _ in 0..MAX_ENTRIES {
            let Some(header) = scan.header()? else { return Ok(index) };
            if let Some(named) = scan.entry(&header)? {
                index.add(named);
            }
        }
        Err(TarError::TooMany)
    }

    /// Finds a regular file by name, following links within the archive. `None` when there is none.
    ///
    /// # Errors
    /// [`TarError::Link`] when links lead out of the archive or in a circle.
    pub fn find(&self, name: &[u8]) -> Result<Option<Range>, TarError> {
        let link = || TarError::Link { name: String::from_utf8_lossy(name).into_owned() };
        let mut current = name;
        for _ in 0..=MAX_LINKS {
            match self.entries.get(current) {
                None => return Ok(None),
                Some(Entry::File(range)) => return Ok(Some(*range)),
                Some(Entry::Link(target)) => current = target.as_ref().ok_or_else(link)?,
            }
        }
        Err(link())
    }

    /// Remembers an entry; one of another kind hides what had its name before.
    fn add(&mut self, Named { name, entry }: Named) {
        match entry {
            Some(entry) if name.len() <= MAX_NAME => drop(self.entries.insert(name, entry)),
            _ => drop(self.entries.remove(&name)),
        }
    }
}

/// What the entries before an entry say about it.
#[derive(Debug, Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

/// A pass over an archive.
struct Scan<'a, A: ?Sized> {
    archive: &'a A,
    length: u64,
    offset: u64,
    extensions: Extensions,
}

impl<A: ReadAt + ?Sized> Scan<'_, A> {
    /// The next header, or `None` at the end: two blocks of zeros, or nothing at all.
    fn header(&mut self) -> Result<Option<Header>, TarError> {
        if self.offset == self.length {
            return Ok(None);
        }
        let offset = self.offset;
        let mut header = Header::new_old();
        self.read(header.as_mut_bytes())?;
        if header.as_bytes().iter().all(|&byte| byte == 0) {
            let mut second = [0; 512];
            if self.offset == self.length {
                return Ok(None);
            }
            self.read(&mut second)?;
            return if second.iter().all(|&byte| byte == 0) { Ok(None) } else { Err(TarError::Header { offset }) };
        }
        let sum = checksum(header.as_bytes());
        if header.cksum().ok() != Some(sum) {
            return Err(TarError::Header { offset });
        }
        Ok(Some(header))
    }

    /// The named thing that `header` describes, if it describes one. The next header comes behind its data.
    fn entry(&mut self, header: &Header) -> Result<Option<Named>, TarError> {
        let start = self.offset.saturating_sub(BLOCK);
        let kind = header.entry_type();
        if self.extension(header, kind, start)? {
            return Ok(None);
        }
        let Extensions { path, link, size } = std::mem::take(&mut self.extensions);
        let size = match size {
            // These have no data, whatever the size field says.
            _ if is_header_only(kind) => 0,
            Some(size) => size,
            None => header.entry_size().map_err(|_| TarError::Header { offset: start })?,
        };
        let range = Range { offset: self.offset, length: size };
        self.skip(size, start)?;
        let path = path.unwrap_or_else(|| header.path_bytes().into_owned());
        let Some(name) = normalize(b"", &path) else { return Ok(None) };
        let target = || link.clone().or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned));
        let entry = match kind {
            EntryType::GNUSparse => return Err(TarError::Sparse { offset: start }),
            EntryType::Regular | EntryType::Continuous if !path.ends_with(b"/") => Some(Entry::File(range)),
            EntryType::Link => Some(Entry::Link(target().and_then(|target| normalize(b"", &target)))),
            EntryType::Symlink => Some(Entry::Link(target().and_then(|target| normalize(parent(&name), &target)))),
            _ => None,
        };
        Ok(Some(Named { name, entry }))
    }

    /// Takes an entry that only says something about the next one. Returns whether it was such an entry.
    fn extension(&mut self, header: &Header, kind: EntryType, start: u64) -> Result<bool, TarError> {
        let damaged = TarError::Extension { offset: start };
        if !matches!(
            kind,
            EntryType::GNULongName | EntryType::GNULongLink | EntryType::XHeader | EntryType::XGlobalHeader
        ) {
            return Ok(false);
        }
        let size = header.entry_size().ok().filter(|&size| size <= MAX_EXTENSION);
        let Some(size) = size else { return Err(damaged) };
        let data = self.offset;
        self.skip(size, start)?;
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        self.archive.read_exact_at(&mut bytes, data).map_err(|source| TarError::Read { offset: data, source })?;
        match kind {
            EntryType::GNULongName => self.extensions.path = Some(until_nul(bytes)),
            EntryType::GNULongLink => self.extensions.link = Some(until_nul(bytes)),
            EntryType::XHeader => self.extensions.read_pax(&bytes, start)?,
            _ => {}
        }
        Ok(true)
    }

    /// Goes on behind `size` bytes of data and their padding. The padding of the last entry may be missing.
    fn skip(&mut self, size: u64, start: u64) -> Result<(), TarError> {
        let end = self.offset.checked_add(size).filter(|&end| end <= self.length);
        let Some(end) = end else { return Err(TarError::Truncated { offset: start, length: self.length }) };
        self.offset = end.checked_next_multiple_of(BLOCK).map_or(self.length, |end| end.min(self.length));
        Ok(())
    }

    /// Reads one block and goes on behind it.
    fn read(&mut self, block: &mut [u8; 512]) -> Result<(), TarError> {
        let end = self.offset.checked_add(BLOCK).filter(|&end| end <= self.length);
        let Some(end) = end else { return Err(TarError::Truncated { offset: self.offset, length: self.length }) };
        let read = self.archive.read_exact_at(block, self.offset);
        read.map_err(|source| TarError::Read { offset: self.offset, source })?;
        self.offset = end;
        Ok(())
    }
}

impl Extensions {
    /// Takes what matters from a pax extended header.
    fn read_pax(&mut self, bytes: &[u8], start: u64) -> Result<(), TarError> {
        for record in PaxExtensions::new(bytes) {
            let record = record.map_err(|_| TarError::Extension { offset: start })?;
            let value = record.value_bytes();
            match record.key_bytes() {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => {
                    let size = record.value().ok().and_then(|value| value.parse().ok());
                    self.size = Some(size.ok_or(TarError::Extension { offset: start })?);
                }
                key if key.starts_with(b"GNU.sparse.") => return Err(TarError::Sparse { offset: start }),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Whether entries of this kind have no data.
fn is_header_only(kind: EntryType) -> bool {
    matches!(
        kind,
        EntryType::Link
            | EntryType::Symlink
            | EntryType::Char
            | EntryType::Block
            | EntryType::Directory
            | EntryType::Fifo
    )
}

/// The sum of a header's bytes, its checksum field counted as blanks.
fn checksum(header: &[u8; 512]) -> u32 {
    let (before, rest) = header.split_at(148);
    let (_, behind) = rest.split_at(8);
    let sum = |bytes: &[u8]| bytes.iter().map(|&byte| u32::from(byte)).sum::<u32>();
    sum(before) + 8 * u32::from(b' ') + sum(behind)
}

/// What stands before the first NUL.
fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len()));
    bytes
}

/// The directory of a normalized name.
fn parent(name: &[u8]) -> &[u8] {
    name.iter().rposition(|&byte| byte == b'/').and_then(|slash| name.get(..slash)).unwrap_or(b"")
}

/// `path`, seen from the normalized name `base`, as components joined by slashes. `None` when it is empty, absolute
/// or leads out.
fn normalize(base: &[u8], path: &[u8]) -> Option<Vec<u8>> {
    if path.starts_with(b"/") {
        return None;
    }
    let mut components: Vec<&[u8]> = Vec::new();
    for component in base.split(|&byte| byte == b'/').chain(path.split(|&byte| byte == b'/')) {
        match component {
            b"" | b"." => {}
            b".." => drop(components.pop()?),
            _ => components.push(component),
        }
    }
    (!components.is_empty()).then(|| components.join(&b'/'))
}

#[cfg(test)]
mod tests;
