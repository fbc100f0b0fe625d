//! The image's file tree in memory: what the layers applied so far have left, by name.
//!
//! All look-ups happen here, never in the file system: a path is resolved against names and link texts that the archives
//! gave, with the tree's root as its only root. So no entry, however its path is written, can reach anything that no
//! entry made. Contents and metadata are not here; the [`super::merge::Sink`] has them.
//!
//! Invariants: a node is in its parent's `children` until it is removed, and removed nodes are in nobody's; ids are
//! never used twice; a node's `layer` is not below that of anything under it.

use std::collections::BTreeMap;

use super::error::Cause;
use super::limits::LINKS_MAX;

/// A node of a [`Tree`]; meaningful only for the tree that gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeId(usize);

impl NodeId {
    /// How many nodes were made before it.
    pub fn index(self) -> usize {
        self.0
    }
}

/// The root directory.
pub const ROOT: NodeId = NodeId(0);

/// What a node is, as far as paths and merging depend on it.
#[derive(Debug)]
pub enum NodeKind {
    /// A directory.
    Directory(Box<Directory>),
    /// A symbolic link with this text.
    Symlink(Box<[u8]>),
    /// Anything else.
    Other,
}

/// A directory of the tree.
#[derive(Debug, Default)]
pub struct Directory {
    /// What is in it.
    pub children: BTreeMap<Box<[u8]>, NodeId>,
}

#[derive(Debug)]
struct Node {
    parent: NodeId,
    name: Box<[u8]>,
    kind: NodeKind,
    /// The last layer that had an entry for it or for something under it.
    layer: usize,
}

/// A directory that exists, and what is missing below it.
#[derive(Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// The last directory on the way that exists.
    pub directory: NodeId,
    /// Names that are not there, or the first of which is not a directory.
    pub missing: Vec<&'a [u8]>,
}

/// The tree.
#[derive(Debug)]
pub struct Tree {
    nodes: Vec<Node>,
}

impl Tree {
    /// A tree of an empty root.
    pub fn new() -> Self {
        let kind = NodeKind::Directory(Box::default());
        Self { nodes: vec![Node { parent: ROOT, name: Box::default(), kind, layer: 0 }] }
    }

    /// What a node is.
    pub fn kind(&self, id: NodeId) -> &NodeKind {
        &self.node(id).kind
    }

    /// The directory that a node is.
    pub fn directory(&self, id: NodeId) -> Option<&Directory> {
        match &self.node(id).kind {
            NodeKind::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    /// The directory that a node is, to change its metadata.
    pub fn directory_mut(&mut self, id: NodeId) -> Option<&mut Directory> {
        match &mut self.node_mut(id).kind {
            NodeKind::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    /// The directory that a node is in; the root is in itself.
    pub fn parent(&self, id: NodeId) -> NodeId {
        self.node(id).parent
    }

    /// A node's name in its directory; empty for the root.
    pub fn name(&self, id: NodeId) -> &[u8] {
        &self.node(id).name
    }

    /// The last layer that had an entry for a node or for something under it.
    pub fn layer(&self, id: NodeId) -> usize {
        self.node(id).layer
    }

    /// The node with this name in a directory.
    pub fn child(&self, directory: NodeId, name: &[u8]) -> Option<NodeId> {
        self.directory(directory)?.children.get(name).copied()
    }

    /// A node's path from the root, without a slash at its start, and how many components it has.
    pub fn path(&self, mut id: NodeId) -> (Vec<u8>, usize) {
        let mut names = Vec::new();
        while id != ROOT {
            names.push(self.name(id));
            id = self.parent(id);
        }
        names.reverse();
        (names.join(&b'/'), names.len())
    }

    /// Where `components` lead, through symbolic links as umoci and containerd resolve them: an absolute link starts at
    /// the tree's root, `..` stops there, and a name that is missing, or is no directory, may be left again by `..`.
    pub fn resolve<'a>(&'a self, components: &[&'a [u8]]) -> Result<Place<'a>, Cause> {
        let mut pending: Vec<&[u8]> = components.iter().rev().copied().collect();
        let mut place = Place { directory: ROOT, missing: Vec::new() };
        let mut links = 0usize;
        while let Some(name) = pending.pop() {
            match name {
                b"" | b"." => continue,
                b".." => {
                    if place.missing.pop().is_none() {
                        place.directory = self.parent(place.directory);
                    }
                    continue;
                }
                _ => {}
            }
            let child = self.child(place.directory, name).filter(|_| place.missing.is_empty());
            match child.map(|id| (id, self.kind(id))) {
                Some((id, NodeKind::Directory(_))) => place.directory = id,
                Some((_, NodeKind::Symlink(text))) => {
                    links = links.saturating_add(1);
                    if links > LINKS_MAX {
                        return Err(Cause::Path("its path leads through more than 40 symbolic links"));
                    }
                    if text.starts_with(b"/") {
                        place.directory = ROOT;
                    }
                    pending.extend(text.split(|byte| *byte == b'/').rev());
                }
                Some((_, NodeKind::Other)) | None => place.missing.push(name),
            }
        }
        Ok(place)
    }

    /// Adds a node to a directory in which its name is free.
    pub fn insert(&mut self, parent: NodeId, name: &[u8], kind: NodeKind, layer: usize) -> NodeId {
        let id = NodeId(self.nodes.len());
        self.nodes.push(Node { parent, name: name.into(), kind, layer });
        if let Some(directory) = self.directory_mut(parent) {
            directory.children.insert(name.into(), id);
        }
        self.touch(id, layer);
        id
    }

    /// Notes that `layer` has an entry for a node.
    pub fn touch(&mut self, id: NodeId, layer: usize) {
        let mut id = id;
        self.node_mut(id).layer = layer;
        while id != ROOT {
            id = self.parent(id);
            if self.layer(id) == layer {
                break;
            }
            self.node_mut(id).layer = layer;
        }
    }

    /// A node and everything under it, what is inside a directory before the directory.
    pub fn subtree(&self, id: NodeId) -> Vec<NodeId> {
        let mut found = vec![id];
        let mut next = 0;
        while let Some(id) = found.get(next) {
            if let Some(directory) = self.directory(*id) {
                found.extend(directory.children.values().copied());
            }
            next = next.saturating_add(1);
        }
        // Parents were found before their children.
        found.reverse();
        found
    }

    /// Removes a node under which nothing is left.
    pub fn remove(&mut self, id: NodeId) {
        let node = self.node_mut(id);
        let (parent, name) = (node.parent, std::mem::take(&mut node.name));
        node.kind = NodeKind::Other;
        if let Some(directory) = self.directory_mut(parent) {
            directory.children.remove(&name);
        }
    }

    #[expect(clippy::indexing_slicing, reason = "ids are positions in this vector, which never shrinks")]
    fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0]
    }

    #[expect(clippy::indexing_slicing, reason = "ids are positions in this vector, which never shrinks")]
    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> NodeKind {
        NodeKind::Directory(Box::default())
    }

    fn resolved(tree: &Tree, path: &str) -> (String, String) {
        let parts: Vec<_> = path.split('/').map(str::as_bytes).collect();
        let place = tree.resolve(&parts).unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (text(tree.path(place.directory).0), text(place.missing.join(&b'/')))
    }

    #[test]
    fn links_are_followed_inside_the_root_only() {
        let mut tree = Tree::new();
        let a = tree.insert(ROOT, b"a", directory(), 0);
        tree.insert(a, b"b", directory(), 0);
        tree.insert(a, b"file", NodeKind::Other, 0);
        for (name, text) in [
            ("abs", "/a/b"),
            ("up", "../../../a"),
            ("out", "/../../etc"),
            ("dangling", "gone/x"),
            ("back", "gone/../a"),
            ("chain", "up/b"),
            ("through", "a/file/../b"),
        ] {
            tree.insert(ROOT, name.as_bytes(), NodeKind::Symlink(text.as_bytes().into()), 0);
        }
        tree.insert(a, b"sib", NodeKind::Symlink(b"b".as_slice().into()), 0);
        for (path, directory, missing) in [
            ("a/b", "a/b", ""),
            ("abs", "a/b", ""),
            ("up/b", "a/b", ""),
            ("out/passwd", "", "etc/passwd"),
            ("dangling/y", "", "gone/x/y"),
            ("back", "a", ""),
            ("chain", "a/b", ""),
            ("a/sib", "a/b", ""),
            ("a/file/x", "a", "file/x"),
            ("through", "a/b", ""),
        ] {
            assert_eq!(resolved(&tree, path), (directory.to_owned(), missing.to_owned()), "{path}");
        }
    }

    #[test]
    fn a_loop_of_links_ends() {
        let mut tree = Tree::new();
        tree.insert(ROOT, b"x", NodeKind::Symlink(b"y/y".as_slice().into()), 0);
        tree.insert(ROOT, b"y", NodeKind::Symlink(b"x/x".as_slice().into()), 0);
        assert!(matches!(tree.resolve(&[b"x"]), Err(Cause::Path(_))));
    }

    #[test]
    fn touching_marks_the_way_to_the_root() {
        let mut tree = Tree::new();
        let a = tree.insert(ROOT, b"a", directory(), 1);
        let b = tree.insert(a, b"b", directory(), 1);
        let c = tree.insert(a, b"c", NodeKind::Other, 1);
        tree.touch(b, 2);
        assert_eq!([ROOT, a, b, c].map(|id| tree.layer(id)), [2, 2, 2, 1]);
    }
}
