//! The tree: inodes are made, linked under names, and unlinked again.

use crate::attributes::{self, Attributes, Special, VolumeName};
use crate::error::{Error, printable};
use crate::file::FileWriter;
use crate::finish::{self, Summary};
use crate::format::BLOCK;
use crate::inode::{Directory, Extent, Inode, InodeId, Kind};
use crate::output::Output;
use crate::sink::Sink;
use crate::xattr::Xattrs;

/// The longest name of an entry.
const NAME_MAX: usize = 255;
/// The first block of file content: block 0 is the superblock's.
const FIRST_BLOCK: u64 = 1;

/// What describes an image as a whole. The default is all zero, without a limit.
#[derive(Clone, Debug)]
pub struct Options {
    /// When the file system was made, in seconds since 1970.
    pub build_time: i64,
    /// The file system's UUID.
    pub uuid: [u8; 16],
    /// The file system's name.
    pub volume_name: VolumeName,
    /// How many bytes the image may have.
    pub max_size: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { build_time: 0, uuid: [0; 16], volume_name: VolumeName::default(), max_size: u64::MAX }
    }
}

impl Options {
    /// How many blocks the image may have: the superblock counts them in 32 bits.
    pub(crate) fn block_limit(&self) -> u64 {
        (self.max_size / BLOCK as u64).min(u32::MAX.into())
    }

    pub(crate) fn full(&self) -> Error {
        Error::Full { limit: self.block_limit().saturating_mul(BLOCK as u64) }
    }
}

/// Writes an image: see [the crate](crate).
///
/// Inodes are made first, and linked under names then. What has no name at the end, or is in a directory that has none,
/// isn't in the image.
#[derive(Debug)]
pub struct Writer<O> {
    pub(crate) sink: Sink<O>,
    pub(crate) options: Options,
    pub(crate) inodes: Vec<Inode>,
    pub(crate) xattrs: Xattrs,
    /// The block where the next file starts.
    pub(crate) next_block: u64,
    /// The block after the last that was written. It is above `next_block` when a file was begun and not finished.
    pub(crate) written: u64,
    /// Content of the file that is being written, less than a block.
    pub(crate) partial: Vec<u8>,
}

impl<O: Output> Writer<O> {
    /// The root directory: also [`InodeId::ROOT`].
    pub const ROOT: InodeId = InodeId::ROOT;

    /// Starts an image with an empty root directory of mode 0755. `output` must read as zeros.
    pub fn new(output: O, options: Options) -> Self {
        let root = Inode {
            kind: Kind::Directory(Box::new(Directory::new(InodeId::ROOT))),
            names: 0,
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: attributes::Time::default(),
            xattrs: Box::default(),
        };
        Self {
            sink: Sink::new(output),
            options,
            inodes: vec![root],
            xattrs: Xattrs::default(),
            next_block: FIRST_BLOCK,
            written: FIRST_BLOCK,
            partial: Vec::new(),
        }
    }

    /// Makes a directory.
    pub fn directory(&mut self, attributes: Attributes) -> Result<InodeId, Error> {
        // Its own number is known only when it is there.
        let id = self.add(Kind::Removed, attributes)?;
        if let Some(inode) = self.inodes.get_mut(id.index()) {
            inode.kind = Kind::Directory(Box::new(Directory::new(id)));
        }
        Ok(id)
    }

    /// Makes a symbolic link.
    pub fn symlink(&mut self, target: &[u8], attributes: Attributes) -> Result<InodeId, Error> {
        attributes::check_target(target)?;
        self.add(Kind::Symlink(target.into()), attributes)
    }

    /// Makes a device, named pipe or socket.
    pub fn special(&mut self, special: Special, attributes: Attributes) -> Result<InodeId, Error> {
        let (file_type, device) = special.encode()?;
        self.add(Kind::Special { file_type, device }, attributes)
    }

    /// Makes a regular file. Its content goes through what this returns, one file at a time.
    pub fn file(&mut self, attributes: Attributes) -> Result<FileWriter<'_, O>, Error> {
        self.reclaim()?;
        let id = self.add(Kind::File(Extent { block: 0, size: 0 }), attributes)?;
        Ok(FileWriter::new(self, id))
    }

    /// Replaces what `inode` has besides its content.
    pub fn set_attributes(&mut self, inode: InodeId, attributes: Attributes) -> Result<(), Error> {
        self.live(inode)?;
        attributes::check(&attributes)?;
        let Attributes { mode, uid, gid, mtime, xattrs } = attributes;
        let xattrs = self.xattrs.intern(xattrs)?;
        let inode = self.live_mut(inode)?;
        (inode.mode, inode.uid, inode.gid, inode.mtime, inode.xattrs) = (mode, uid, gid, mtime, xattrs);
        Ok(())
    }

    /// Gives `inode` a name in `directory`. A directory can have only one, all else any number.
    pub fn link(&mut self, directory: InodeId, name: &[u8], inode: InodeId) -> Result<(), Error> {
        check_name(name)?;
        if self.directory_of(directory, name)?.entries.contains_key(name) {
            return Err(Error::Exists { name: printable(name) });
        }
        let target = self.live(inode)?;
        let names = target.names.checked_add(1).ok_or(Error::TooMany { what: "names of one file" })?;
        if let Kind::Directory(child) = &target.kind {
            let inside_itself = directory == inode || !child.entries.is_empty() && self.is_inside(directory, inode);
            if inode == InodeId::ROOT || names > 1 || inside_itself {
                return Err(Error::DirectoryLink { name: printable(name) });
            }
        }
        let target = self.live_mut(inode)?;
        target.names = names;
        if let Kind::Directory(child) = &mut target.kind {
            child.parent = directory;
        }
        self.directory_mut(directory, name)?.entries.insert(name.into(), inode);
        Ok(())
    }

    /// Takes the name away again. What has no other name is removed: it can't be linked again. A directory must be
    /// empty.
    pub fn unlink(&mut self, directory: InodeId, name: &[u8]) -> Result<(), Error> {
        let missing = || Error::NotFound { name: printable(name) };
        let id = *self.directory_of(directory, name)?.entries.get(name).ok_or_else(missing)?;
        let inode = self.live(id)?;
        if matches!(&inode.kind, Kind::Directory(child) if !child.entries.is_empty()) {
            return Err(Error::NotEmpty { name: printable(name) });
        }
        self.directory_mut(directory, name)?.entries.remove(name);
        let inode = self.live_mut(id)?;
        inode.names = inode.names.saturating_sub(1);
        if inode.names > 0 {
            return Ok(());
        }
        inode.xattrs = Box::default();
        match std::mem::replace(&mut inode.kind, Kind::Removed) {
            Kind::File(extent) => self.discard(extent),
            _ => Ok(()),
        }
    }

    /// Writes the metadata. Returns the output, which has all of the image then, and what the image is like.
    pub fn finish(mut self) -> Result<(O, Summary), Error> {
        self.reclaim()?;
        finish::finish(self)
    }

    fn add(&mut self, kind: Kind, attributes: Attributes) -> Result<InodeId, Error> {
        attributes::check(&attributes)?;
        let Attributes { mode, uid, gid, mtime, xattrs } = attributes;
        let xattrs = self.xattrs.intern(xattrs)?;
        let id = InodeId::new(self.inodes.len()).ok_or(Error::TooMany { what: "inodes" })?;
        self.inodes.push(Inode { kind, names: 0, mode, uid, gid, mtime, xattrs });
        Ok(id)
    }

    fn live(&self, id: InodeId) -> Result<&Inode, Error> {
        let inode = self.inodes.get(id.index());
        inode.filter(|inode| !matches!(inode.kind, Kind::Removed)).ok_or(Error::Removed)
    }

    fn live_mut(&mut self, id: InodeId) -> Result<&mut Inode, Error> {
        let inode = self.inodes.get_mut(id.index());
        inode.filter(|inode| !matches!(inode.kind, Kind::Removed)).ok_or(Error::Removed)
    }

    /// The directory that is to have the entry `name`.
    fn directory_of(&self, id: InodeId, name: &[u8]) -> Result<&Directory, Error> {
        match &self.live(id)?.kind {
            Kind::Directory(directory) => Ok(directory),
            _ => Err(Error::NotADirectory { name: printable(name) }),
        }
    }

    fn directory_mut(&mut self, id: InodeId, name: &[u8]) -> Result<&mut Directory, Error> {
        match &mut self.live_mut(id)?.kind {
            Kind::Directory(directory) => Ok(directory),
            _ => Err(Error::NotADirectory { name: printable(name) }),
        }
    }

    /// Whether the directory `id` is `ancestor` or somewhere in it.
    fn is_inside(&self, mut id: InodeId, ancestor: InodeId) -> bool {
        loop {
            match self.inodes.get(id.index()).map(|inode| &inode.kind) {
                Some(Kind::Directory(directory)) if id != ancestor && directory.parent != id => id = directory.parent,
                _ => return id == ancestor,
            }
        }
    }

    /// Forgets a file's content.
    pub(crate) fn discard(&mut self, extent: Extent) -> Result<(), Error> {
        if extent.size == 0 {
            return Ok(());
        }
        let bytes = |blocks: u64| blocks.saturating_mul(BLOCK as u64);
        self.sink.discard(bytes(extent.block), bytes(extent.blocks()))
    }

    /// Forgets what was written of a file that was begun and not finished.
    fn reclaim(&mut self) -> Result<(), Error> {
        self.partial.clear();
        let size = self.written.saturating_sub(self.next_block).saturating_mul(BLOCK as u64);
        let block = self.next_block;
        self.next_block = self.next_block.max(self.written);
        self.discard(Extent { block, size })
    }
}

fn check_name(name: &[u8]) -> Result<(), Error> {
    let problem = match name {
        [] => "it is empty",
        b"." | b".." => "every directory has it already",
        _ if name.len() > NAME_MAX => "it is longer than 255 bytes",
        _ if name.contains(&b'/') => "it has a slash",
        _ if name.contains(&0) => "it has a zero byte",
        _ => return Ok(()),
    };
    Err(Error::Name { name: printable(name), problem })
}

#[cfg(test)]
mod tests;
