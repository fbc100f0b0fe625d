//! Directories of the target, opened so that nothing outside it can be meant.
//!
//! The tree in memory has already resolved every link, so a path that comes here consists of real directories that this
//! unpacking made. `openat2` is told exactly that: beneath the target, through no symbolic link and onto no other file
//! system. Were the tree ever wrong, or the target changed from elsewhere, the kernel refuses.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use super::error::Cause;
use super::tree::{NodeId, ROOT, Tree};

/// How many directories are kept open: an archive goes through one after the other, and a link needs two.
const OPEN: usize = 4;

/// The directories of the target.
#[derive(Debug)]
pub struct Root {
    root: Rc<OwnedFd>,
    /// Those opened last, the newest at the end. Ids are never used twice, so an entry cannot become wrong.
    open: Vec<(NodeId, Rc<OwnedFd>)>,
}

impl Root {
    /// The target directory, which must be empty and changed by nobody else.
    pub fn new(target: BorrowedFd<'_>) -> Result<Self, Cause> {
        let root = target.try_clone_to_owned().map_err(|error| {
            let errno = nix::errno::Errno::from_raw(error.raw_os_error().unwrap_or_default());
            Cause::Write { action: "opening the target directory", errno }
        })?;
        Ok(Self { root: Rc::new(root), open: Vec::with_capacity(OPEN) })
    }

    /// A directory, as a descriptor that serves to reach what is in it and for nothing else.
    pub fn directory(&mut self, tree: &Tree, id: NodeId) -> Result<Rc<OwnedFd>, Cause> {
        if id == ROOT {
            return Ok(Rc::clone(&self.root));
        }
        if let Some((_, open)) = self.open.iter().find(|(known, _)| *known == id) {
            return Ok(Rc::clone(open));
        }
        let opened = Rc::new(self.open_beneath(tree, id, OFlag::O_PATH)?);
        if self.open.len() >= OPEN {
            self.open.remove(0);
        }
        self.open.push((id, Rc::clone(&opened)));
        Ok(opened)
    }

    /// A directory, opened for changing its own attributes.
    pub fn attributes(&mut self, tree: &Tree, id: NodeId) -> Result<OwnedFd, Cause> {
        self.open_beneath(tree, id, OFlag::O_RDONLY)
    }

    fn open_beneath(&self, tree: &Tree, id: NodeId, access: OFlag) -> Result<OwnedFd, Cause> {
        let (mut path, _) = tree.path(id);
        if path.is_empty() {
            path.push(b'.');
        }
        let how = OpenHow::new().flags(access | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC).resolve(
            ResolveFlag::RESOLVE_BENEATH
                | ResolveFlag::RESOLVE_NO_SYMLINKS
                | ResolveFlag::RESOLVE_NO_MAGICLINKS
                | ResolveFlag::RESOLVE_NO_XDEV,
        );
        openat2(&*self.root, path.as_slice(), how).map_err(Cause::write("opening a directory"))
    }
}
