//! Writes the merged files into a directory, with as few system calls as it takes: on hosts that execute guest kernel
//! code in software each costs a third of a millisecond and more.
//!
//! A file is created with its mode, written, given its time and closed; owner, special mode bits and extended attributes cost
//! a call each where a file has them. Directories are made plain, and get their owner, mode and time when everything is
//! in place: so their times are those of the image, and no set-group-id directory passes its group on while files are
//! made in it. Every name is made with a call that fails where something is there already and that follows no link.
//!
//! The process must be root and have the umask 022, which [`Files::new`] sets.

use std::os::fd::{AsFd, BorrowedFd};

use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{
    FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, futimens, makedev, mkdirat, mknodat, umask, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, linkat, symlinkat, unlinkat, write};

use super::entry::{Metadata, Node, Time};
use super::error::Cause;
use super::merge::{Content, Sink};
use super::root::Root;
use super::tree::{NodeId, ROOT, Tree};
use super::xattr::{self, Subject};

/// The mode bits that creating a file under [`UMASK`] does not give it, or that a change of owner takes away again.
const NOT_CREATED: u32 = 0o7000 | UMASK;

/// The umask while files are made: the usual one, so that most modes need no call of their own.
const UMASK: u32 = 0o022;

/// What directories are made with, before their metadata is known for certain.
const DIRECTORY_MODE: u32 = 0o755;

/// The files below a directory.
#[derive(Debug)]
pub struct Files {
    root: Root,
    /// An extended attribute that the file system does not support, and one of the files that have it.
    unsupported: Option<(Vec<u8>, Vec<u8>)>,
}

impl Files {
    /// The files below `target`, of which there are none yet.
    pub fn new(target: BorrowedFd<'_>) -> Result<Self, Cause> {
        umask(mode_bits(UMASK));
        // Whatever the directory was made with, it must not pass on a group.
        fchmod(target, mode_bits(DIRECTORY_MODE)).map_err(Cause::write("setting the mode of the target directory"))?;
        Ok(Self { root: Root::new(target)?, unsupported: None })
    }

    /// An extended attribute that was left out because the file system does not support it, and a file that has it.
    pub fn unsupported(self) -> Option<(Vec<u8>, Vec<u8>)> {
        self.unsupported
    }

    fn set_xattrs(&mut self, tree: &Tree, id: NodeId, subject: Subject<'_>, metadata: &Metadata) -> Result<(), Cause> {
        if metadata.xattrs.is_empty() {
            return Ok(());
        }
        if let Some(name) = xattr::set(subject, &metadata.xattrs)? {
            self.unsupported.get_or_insert_with(|| (name, tree.path(id).0));
        }
        Ok(())
    }

    /// Sets what a fresh file, that is neither regular nor a directory, still lacks.
    fn finish_named(&mut self, tree: &Tree, id: NodeId, mode: Option<u32>, metadata: &Metadata) -> Result<(), Cause> {
        let parent = self.root.directory(tree, tree.parent(id))?;
        set_named(parent.as_fd(), tree.name(id), metadata, mode.filter(|mode| mode & NOT_CREATED != 0))?;
        self.set_xattrs(tree, id, Subject::Named(parent.as_fd(), tree.name(id)), metadata)?;
        set_time(parent.as_fd(), tree.name(id), metadata.mtime)
    }

    /// Gives the directories in `id` their metadata.
    fn finish_children(&mut self, tree: &Tree, id: NodeId, children: &[NodeId]) -> Result<(), Cause> {
        let parent = self.root.directory(tree, id)?;
        for child in children {
            let Some(directory) = tree.directory(*child) else { continue };
            let (name, metadata) = (tree.name(*child), &directory.metadata);
            let mode = Some(metadata.mode).filter(|mode| *mode != DIRECTORY_MODE);
            set_named(parent.as_fd(), name, metadata, mode)?;
            if !metadata.xattrs.is_empty() {
                let open = self.root.attributes(tree, *child)?;
                self.set_xattrs(tree, *child, Subject::Open(open.as_fd()), metadata)?;
            }
            set_time(parent.as_fd(), name, metadata.mtime)?;
        }
        Ok(())
    }
}

impl Sink for Files {
    fn directory(&mut self, tree: &Tree, id: NodeId) -> Result<(), Cause> {
        let parent = self.root.directory(tree, tree.parent(id))?;
        mkdirat(&*parent, tree.name(id), mode_bits(DIRECTORY_MODE)).map_err(Cause::write("making a directory"))
    }

    fn file(&mut self, tree: &Tree, id: NodeId, metadata: &Metadata, content: &mut dyn Content) -> Result<(), Cause> {
        let parent = self.root.directory(tree, tree.parent(id))?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(&*parent, tree.name(id), flags, mode_bits(metadata.mode & !NOT_CREATED))
            .map_err(Cause::write("creating a file"))?;
        copy(content, file.as_fd())?;
        if let Some((uid, gid)) = owner(metadata) {
            fchown(&file, Some(uid), Some(gid)).map_err(Cause::write("setting the owner"))?;
        }
        if metadata.mode & NOT_CREATED != 0 {
            fchmod(&file, mode_bits(metadata.mode)).map_err(Cause::write("setting the mode"))?;
        }
        self.set_xattrs(tree, id, Subject::Open(file.as_fd()), metadata)?;
        let time = time_spec(metadata.mtime);
        futimens(&file, &time, &time).map_err(Cause::write("setting the time"))
    }

    fn symlink(&mut self, tree: &Tree, id: NodeId, text: &[u8], metadata: &Metadata) -> Result<(), Cause> {
        let parent = self.root.directory(tree, tree.parent(id))?;
        symlinkat(text, &*parent, tree.name(id)).map_err(Cause::write("making a symbolic link"))?;
        self.finish_named(tree, id, None, metadata)
    }

    fn node(&mut self, tree: &Tree, id: NodeId, node: Node, metadata: &Metadata) -> Result<(), Cause> {
        let parent = self.root.directory(tree, tree.parent(id))?;
        let (kind, device) = match node {
            Node::Character(major, minor) => (SFlag::S_IFCHR, makedev(major.into(), minor.into())),
            Node::Block(major, minor) => (SFlag::S_IFBLK, makedev(major.into(), minor.into())),
            Node::Fifo => (SFlag::S_IFIFO, 0),
        };
        let mode = metadata.mode & !NOT_CREATED;
        mknodat(&*parent, tree.name(id), kind, mode_bits(mode), device).map_err(Cause::write("making a node"))?;
        self.finish_named(tree, id, Some(metadata.mode), metadata)
    }

    fn link(&mut self, tree: &Tree, id: NodeId, target: NodeId) -> Result<(), Cause> {
        let from = self.root.directory(tree, tree.parent(target))?;
        let to = self.root.directory(tree, tree.parent(id))?;
        linkat(&*from, tree.name(target), &*to, tree.name(id), AtFlags::empty())
            .map_err(Cause::write("making a hard link"))
    }

    fn remove(&mut self, tree: &Tree, id: NodeId) -> Result<(), Cause> {
        let parent = self.root.directory(tree, tree.parent(id))?;
        let flag = if tree.directory(id).is_some() { UnlinkatFlags::RemoveDir } else { UnlinkatFlags::NoRemoveDir };
        unlinkat(&*parent, tree.name(id), flag).map_err(Cause::write("removing what a layer hides"))
    }

    fn finish(&mut self, tree: &Tree) -> Result<(), Cause> {
        let mut pending = vec![ROOT];
        while let Some(id) = pending.pop() {
            let Some(directory) = tree.directory(id) else { continue };
            let children: Vec<_> =
                directory.children.values().copied().filter(|id| tree.directory(*id).is_some()).collect();
            if !children.is_empty() {
                self.finish_children(tree, id, &children)?;
                pending.extend(children);
            }
        }
        let Some(root) = tree.directory(ROOT) else { return Ok(()) };
        let metadata = &root.metadata;
        let open = self.root.attributes(tree, ROOT)?;
        fchown(&open, Some(Uid::from_raw(metadata.uid)), Some(Gid::from_raw(metadata.gid)))
            .map_err(Cause::write("setting the owner of the root"))?;
        fchmod(&open, mode_bits(metadata.mode)).map_err(Cause::write("setting the mode of the root"))?;
        self.set_xattrs(tree, ROOT, Subject::Open(open.as_fd()), metadata)?;
        let time = time_spec(metadata.mtime);
        futimens(&open, &time, &time).map_err(Cause::write("setting the time of the root"))
    }
}

fn copy(content: &mut dyn Content, file: BorrowedFd<'_>) -> Result<(), Cause> {
    loop {
        let mut part = content.lend()?;
        if part.is_empty() {
            return Ok(());
        }
        while !part.is_empty() {
            let written = write(file, part).map_err(Cause::write("writing a file"))?;
            part = part.get(written..).unwrap_or_default();
        }
    }
}

/// Sets the owner, if it is not root, and `mode`, of a file that was just made under `name` and is no symbolic link when
/// it has a mode.
fn set_named(parent: BorrowedFd<'_>, name: &[u8], metadata: &Metadata, mode: Option<u32>) -> Result<(), Cause> {
    if let Some((uid, gid)) = owner(metadata) {
        fchownat(parent, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)
            .map_err(Cause::write("setting the owner"))?;
    }
    if let Some(mode) = mode {
        fchmodat(parent, name, mode_bits(mode), FchmodatFlags::FollowSymlink)
            .map_err(Cause::write("setting the mode"))?;
    }
    Ok(())
}

fn set_time(parent: BorrowedFd<'_>, name: &[u8], time: Time) -> Result<(), Cause> {
    let time = time_spec(time);
    utimensat(parent, name, &time, &time, UtimensatFlags::NoFollowSymlink).map_err(Cause::write("setting the time"))
}

/// The owner and group to set, unless they are root's, which a file has when it is made.
fn owner(metadata: &Metadata) -> Option<(Uid, Gid)> {
    let owner = (Uid::from_raw(metadata.uid), Gid::from_raw(metadata.gid));
    (metadata.uid != 0 || metadata.gid != 0).then_some(owner)
}

fn mode_bits(mode: u32) -> Mode {
    Mode::from_bits_truncate(mode)
}

fn time_spec(time: Time) -> TimeSpec {
    TimeSpec::new(time.seconds, time.nanoseconds.into())
}
