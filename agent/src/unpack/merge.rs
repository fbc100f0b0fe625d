//! Merges entries into the tree, layer by layer, and tells a [`Sink`] what that means for the files.
//!
//! What the OCI specification leaves open is done as umoci does it:
//! - A parent that is a symbolic link is followed inside the root; parents that are missing, also behind a dangling link,
//!   are made (see [`Metadata::implied`]); a parent that is a file is an error.
//! - A directory over a directory keeps its content and takes the new metadata, extended attributes included. Anything
//!   else replaces what was there with all that was in it; a directory also replaces a symbolic link to a directory.
//! - A hard link's target is looked up after the link's own name was cleared, through symbolic links in its parents but
//!   not in its last component (a symbolic link can have two names), and must exist by then.
//! - An entry for the root itself must be a directory and sets the root's metadata.

use super::archive::Archive;
use super::entry::{Entry, Kind, Metadata, Node};
use super::error::Cause;
use super::limits::{Allowance, Limits, TARGET_MAX};
use super::path;
use super::tree::{NodeId, NodeKind, Place, ROOT, Tree};
use super::whiteout::Whiteout;

/// Where the content of files comes from.
pub trait Content {
    /// Lends the next part of the content; empty at its end.
    fn lend(&mut self) -> Result<&[u8], Cause>;
}

impl Content for Archive<'_, '_> {
    fn lend(&mut self) -> Result<&[u8], Cause> {
        self.content()
    }
}

/// Where the merged files go. Each call comes when the tree has the node already; names are free and parents made
/// before.
pub trait Sink {
    /// Makes a directory.
    fn directory(&mut self, tree: &Tree, id: NodeId, metadata: &Metadata) -> Result<(), Cause>;
    /// Gives a directory other metadata.
    fn change(&mut self, tree: &Tree, id: NodeId, metadata: &Metadata) -> Result<(), Cause>;
    /// Makes a regular file.
    fn file(&mut self, tree: &Tree, id: NodeId, metadata: &Metadata, content: &mut dyn Content) -> Result<(), Cause>;
    /// Makes a symbolic link.
    fn symlink(&mut self, tree: &Tree, id: NodeId, text: &[u8], metadata: &Metadata) -> Result<(), Cause>;
    /// Makes a device node or FIFO.
    fn node(&mut self, tree: &Tree, id: NodeId, node: Node, metadata: &Metadata) -> Result<(), Cause>;
    /// Makes a further name for what `target` is, which is not a directory.
    fn link(&mut self, tree: &Tree, id: NodeId, target: NodeId) -> Result<(), Cause>;
    /// Removes a node. What was under it has been removed before.
    fn remove(&mut self, tree: &Tree, id: NodeId) -> Result<(), Cause>;
}

/// The tree so far, and the sink that holds its files.
#[derive(Debug)]
pub struct Merger<S> {
    tree: Tree,
    sink: S,
    entries: Allowance,
    memory: Allowance,
    limits: Limits,
    layer: usize,
}

impl<S: Sink> Merger<S> {
    /// An empty tree over an empty sink.
    pub fn new(sink: S, limits: &Limits) -> Self {
        let (entries, memory) = (Allowance::new(limits.entries), Allowance::new(limits.memory));
        Self { tree: Tree::new(), sink, entries, memory, limits: limits.clone(), layer: 0 }
    }

    /// The entries that follow belong to the next layer.
    pub fn start_layer(&mut self) {
        self.layer = self.layer.saturating_add(1);
    }

    /// Merges an entry. `content` is its content.
    pub fn entry(&mut self, entry: &Entry, content: &mut dyn Content) -> Result<(), Cause> {
        self.entries.take_entry()?;
        self.memory.take_memory(cost(entry))?;
        let components = path::clean(&entry.path)?;
        if let Some(whiteout) = Whiteout::new(&components)? {
            return self.hide(&components, &whiteout);
        }
        if let Kind::Unknown(kind) = entry.kind {
            let kind = path::escape(&[kind]);
            return Err(Cause::Unsupported(format!("entries of type {kind} are not supported")));
        }
        let Some((name, parents)) = components.split_last() else { return self.root(entry) };
        let parent = self.make_directories(parents)?;
        let existing = self.tree.child(parent, name);
        if let Some(id) = existing.filter(|id| entry.kind == Kind::Directory && self.tree.directory(*id).is_some()) {
            self.tree.touch(id, self.layer);
            return self.sink.change(&self.tree, id, &entry.metadata);
        }
        if let Some(id) = existing {
            self.remove(id)?;
        }
        self.create(parent, name, entry, content)
    }

    /// Ends the merge.
    pub fn finish(self) -> S {
        self.sink
    }

    fn root(&mut self, entry: &Entry) -> Result<(), Cause> {
        if entry.kind != Kind::Directory {
            return Err(Cause::Path("the image's root can only be a directory"));
        }
        self.sink.change(&self.tree, ROOT, &entry.metadata)
    }

    fn hide(&mut self, components: &[&[u8]], whiteout: &Whiteout<'_>) -> Result<(), Cause> {
        let parents = components.split_last().map_or(&[][..], |(_, parents)| parents);
        let Place { directory, missing } = self.tree.resolve(parents)?;
        if !missing.is_empty() {
            return Ok(());
        }
        whiteout.hidden(&self.tree, directory, self.layer).into_iter().try_for_each(|id| self.remove(id))
    }

    /// The directory that `components` lead to, made where it is missing.
    fn make_directories(&mut self, components: &[&[u8]]) -> Result<NodeId, Cause> {
        let Place { directory, missing } = self.tree.resolve(components)?;
        let missing: Vec<Box<[u8]>> = missing.into_iter().map(Into::into).collect();
        if let Some(id) = missing.first().and_then(|name| self.tree.child(directory, name)) {
            return Err(Cause::NotADirectory(self.tree.path(id).0));
        }
        missing.iter().try_fold(directory, |parent, name| {
            self.entries.take_entry()?;
            self.memory.take_memory(node_cost(name.len()))?;
            path::check_component(name)?;
            self.make_directory(parent, name, &Metadata::implied())
        })
    }

    fn make_directory(&mut self, parent: NodeId, name: &[u8], metadata: &Metadata) -> Result<NodeId, Cause> {
        let id = self.insert(parent, name, NodeKind::Directory(Box::default()))?;
        self.sink.directory(&self.tree, id, metadata)?;
        Ok(id)
    }

    fn create(&mut self, parent: NodeId, name: &[u8], entry: &Entry, content: &mut dyn Content) -> Result<(), Cause> {
        let metadata = &entry.metadata;
        match &entry.kind {
            Kind::Directory => self.make_directory(parent, name, metadata).map(|_| ()),
            Kind::File => {
                let id = self.insert(parent, name, NodeKind::Other)?;
                self.sink.file(&self.tree, id, metadata, content)
            }
            Kind::Symlink(text) => {
                check_link_text(text)?;
                let id = self.insert(parent, name, NodeKind::Symlink(text.as_slice().into()))?;
                self.sink.symlink(&self.tree, id, text, metadata)
            }
            Kind::Node(node) => {
                let id = self.insert(parent, name, NodeKind::Other)?;
                self.sink.node(&self.tree, id, *node, metadata)
            }
            Kind::HardLink(text) => {
                let target = self.link_target(text)?;
                let kind = match self.tree.kind(target) {
                    NodeKind::Symlink(text) => NodeKind::Symlink(text.clone()),
                    _ => NodeKind::Other,
                };
                let id = self.insert(parent, name, kind)?;
                self.sink.link(&self.tree, id, target)
            }
            // Refused before anything was removed for it.
            Kind::Unknown(_) => Ok(()),
        }
    }

    fn insert(&mut self, parent: NodeId, name: &[u8], kind: NodeKind) -> Result<NodeId, Cause> {
        let (path, depth) = self.tree.path(parent);
        let length = path.len().saturating_add(name.len()).saturating_add(1);
        self.limits.check_path(length, depth.saturating_add(1))?;
        Ok(self.tree.insert(parent, name, kind, self.layer))
    }

    fn link_target(&self, text: &[u8]) -> Result<NodeId, Cause> {
        let components = path::clean(text)?;
        let missing = || Cause::LinkTargetMissing(text.to_vec());
        let Some((name, parents)) = components.split_last() else {
            return Err(Cause::LinkTargetDirectory(text.to_vec()));
        };
        let place = self.tree.resolve(parents)?;
        if !place.missing.is_empty() {
            return Err(missing());
        }
        let target = self.tree.child(place.directory, name).ok_or_else(missing)?;
        match self.tree.kind(target) {
            NodeKind::Directory(_) => Err(Cause::LinkTargetDirectory(text.to_vec())),
            _ => Ok(target),
        }
    }

    fn remove(&mut self, id: NodeId) -> Result<(), Cause> {
        for id in self.tree.subtree(id) {
            self.sink.remove(&self.tree, id)?;
            self.tree.remove(id);
        }
        Ok(())
    }
}

/// The memory that a node takes at most besides its texts: here, in the image's metadata, and while that is written.
const BYTES_PER_NODE: u64 = 512;

/// The memory that a node takes whose name has `name` bytes.
fn node_cost(name: usize) -> u64 {
    // The tree has it twice and the image once.
    BYTES_PER_NODE.saturating_add((name as u64).saturating_mul(3))
}

/// The memory that an entry takes.
fn cost(entry: &Entry) -> u64 {
    let name = entry.path.rsplit(|byte| *byte == b'/').find(|part| !part.is_empty()).unwrap_or_default();
    let text = if let Kind::Symlink(text) = &entry.kind { text.len() } else { 0 };
    let attributes = entry.metadata.xattrs.iter().map(|(name, value)| name.len().saturating_add(value.len()) as u64);
    let attributes = attributes.fold(0, |sum: u64, length| sum.saturating_add(length).saturating_add(64));
    node_cost(name.len()).saturating_add((text as u64).saturating_mul(2)).saturating_add(attributes)
}

/// Checks that Linux can hold a symbolic link with this text.
fn check_link_text(text: &[u8]) -> Result<(), Cause> {
    match text.len() {
        0 => Err(Cause::Path("the symbolic link is empty")),
        length if length > TARGET_MAX => Err(Cause::Path("the symbolic link is longer than 4095 bytes")),
        _ if text.contains(&0) => Err(Cause::Path("the symbolic link contains a zero byte")),
        _ => Ok(()),
    }
}
