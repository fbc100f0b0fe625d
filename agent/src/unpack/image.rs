//! The merged files as an EROFS image, written while the layers are read: contents go straight to the output, names and
//! metadata stay in memory until the end.

use std::sync::atomic::{AtomicU64, Ordering};

use erofs::{Attributes, InodeId, Options, Output, Special, Writer};

use super::entry::{Metadata, Node};
use super::error::Cause;
use super::merge::{Content, Sink};
use super::tree::{NodeId, Tree};
use super::xattr::{self, Subject, Verdict};

/// The permissions of symbolic links, which mean nothing.
const SYMLINK_MODE: u32 = 0o777;

/// An image that is being written.
#[derive(Debug)]
pub struct Image<'a, O> {
    writer: Writer<Counted<'a, O>>,
    /// What each node of the tree is in the image, by its index.
    inodes: Vec<Option<InodeId>>,
    /// An extended attribute that was left out, and one of the files that have it.
    left_out: Option<(Vec<u8>, Vec<u8>)>,
}

impl<'a, O: Output> Image<'a, O> {
    /// An image of nothing but a root directory, of at most `limit` bytes. `written` is told how many bytes go to `output`.
    pub fn new(output: O, limit: u64, written: &'a AtomicU64) -> Result<Self, Cause> {
        let options = Options { max_size: limit, ..Options::default() };
        let mut writer = Writer::new(Counted { output, written }, options);
        let root = Metadata::implied();
        writer.set_attributes(InodeId::ROOT, attributes(&root, root.mode))?;
        Ok(Self { writer, inodes: vec![Some(InodeId::ROOT)], left_out: None })
    }

    /// An extended attribute that was left out, and a file that has it.
    pub fn left_out(&mut self) -> Option<(Vec<u8>, Vec<u8>)> {
        self.left_out.take()
    }

    /// Completes the image; gives the output back and says how many bytes the image has.
    pub fn finish(self) -> Result<(O, u64), Cause> {
        let (counted, summary) = self.writer.finish()?;
        Ok((counted.output, summary.size))
    }

    fn inode(&self, id: NodeId) -> Result<InodeId, Cause> {
        let inode = self.inodes.get(id.index()).copied().flatten();
        // Only a mistake in the merge could ask for what it has not made.
        inode.ok_or(Cause::Path("it is not in the image"))
    }

    /// Gives `inode` the node's name.
    fn place(&mut self, tree: &Tree, id: NodeId, inode: InodeId) -> Result<(), Cause> {
        let parent = self.inode(tree.parent(id))?;
        self.writer.link(parent, tree.name(id), inode)?;
        let index = id.index();
        if self.inodes.len() <= index {
            self.inodes.resize(index.saturating_add(1), None);
        }
        if let Some(slot) = self.inodes.get_mut(index) {
            *slot = Some(inode);
        }
        Ok(())
    }

    /// What an image holds of a node's metadata.
    fn attributes(
        &mut self,
        tree: &Tree,
        id: NodeId,
        subject: Subject,
        metadata: &Metadata,
    ) -> Result<Attributes, Cause> {
        let mut held = Vec::with_capacity(metadata.xattrs.len());
        for (name, value) in &metadata.xattrs {
            match xattr::judge(subject, name, value) {
                Verdict::Held => held.push((name.as_slice().into(), value.as_slice().into())),
                Verdict::PassedOver => {}
                Verdict::LeftOut => {
                    self.left_out.get_or_insert_with(|| (name.clone(), tree.path(id).0));
                }
                Verdict::Refused(errno) => return Err(Cause::Xattr { name: name.clone(), errno }),
            }
        }
        let mode = if subject == Subject::Symlink { SYMLINK_MODE } else { metadata.mode };
        Ok(Attributes { xattrs: held, ..attributes(metadata, mode) })
    }
}

impl<O: Output> Sink for Image<'_, O> {
    fn directory(&mut self, tree: &Tree, id: NodeId, metadata: &Metadata) -> Result<(), Cause> {
        let attributes = self.attributes(tree, id, Subject::Directory, metadata)?;
        let inode = self.writer.directory(attributes)?;
        self.place(tree, id, inode)
    }

    fn change(&mut self, tree: &Tree, id: NodeId, metadata: &Metadata) -> Result<(), Cause> {
        let attributes = self.attributes(tree, id, Subject::Directory, metadata)?;
        Ok(self.writer.set_attributes(self.inode(id)?, attributes)?)
    }

    fn file(&mut self, tree: &Tree, id: NodeId, metadata: &Metadata, content: &mut dyn Content) -> Result<(), Cause> {
        let attributes = self.attributes(tree, id, Subject::File, metadata)?;
        let mut file = self.writer.file(attributes)?;
        loop {
            let part = content.lend()?;
            if part.is_empty() {
                break;
            }
            file.write(part)?;
        }
        let inode = file.finish()?;
        self.place(tree, id, inode)
    }

    fn symlink(&mut self, tree: &Tree, id: NodeId, text: &[u8], metadata: &Metadata) -> Result<(), Cause> {
        let attributes = self.attributes(tree, id, Subject::Symlink, metadata)?;
        let inode = self.writer.symlink(text, attributes)?;
        self.place(tree, id, inode)
    }

    fn node(&mut self, tree: &Tree, id: NodeId, node: Node, metadata: &Metadata) -> Result<(), Cause> {
        let attributes = self.attributes(tree, id, Subject::Other, metadata)?;
        let special = match node {
            Node::Character(major, minor) => Special::CharDevice { major, minor },
            Node::Block(major, minor) => Special::BlockDevice { major, minor },
            Node::Fifo => Special::Fifo,
        };
        let inode = self.writer.special(special, attributes)?;
        self.place(tree, id, inode)
    }

    fn link(&mut self, tree: &Tree, id: NodeId, target: NodeId) -> Result<(), Cause> {
        let inode = self.inode(target)?;
        self.place(tree, id, inode)
    }

    fn remove(&mut self, tree: &Tree, id: NodeId) -> Result<(), Cause> {
        let parent = self.inode(tree.parent(id))?;
        Ok(self.writer.unlink(parent, tree.name(id))?)
    }
}

/// All but the extended attributes.
fn attributes(metadata: &Metadata, mode: u32) -> Attributes {
    let Metadata { uid, gid, mtime, .. } = *metadata;
    let mtime = erofs::Time { seconds: mtime.seconds, nanoseconds: mtime.nanoseconds };
    Attributes { mode: u16::try_from(mode & 0o7777).unwrap_or_default(), uid, gid, mtime, xattrs: Vec::new() }
}

/// Counts what is written.
#[derive(Debug)]
struct Counted<'a, O> {
    output: O,
    written: &'a AtomicU64,
}

impl<O: Output> Output for Counted<'_, O> {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
        self.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.output.write_at(offset, bytes)
    }

    fn discard(&mut self, offset: u64, length: u64) -> std::io::Result<()> {
        self.output.discard(offset, length)
    }
}
