//! Which files a layer hides (OCI image specification, "Whiteouts").
//!
//! `.wh.NAME` hides NAME, `.wh..wh..opq` everything in its directory. Both apply to what lower layers left there and never
//! to entries of their own layer, wherever they stand in it: what the layer itself has touched stays, and of a directory
//! that it has touched, what it has not touched goes. The type of a whiteout entry does not matter.

use super::error::Cause;
use super::tree::{NodeId, Tree};

const PREFIX: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// The prefix of names that AUFS kept for itself; Docker and podman pass over them.
const AUFS: &[u8] = b".wh..wh.";

/// What an entry hides.
#[derive(Debug, PartialEq, Eq)]
pub enum Whiteout<'a> {
    /// This name in its directory.
    Name(&'a [u8]),
    /// All that is in its directory.
    Opaque,
    /// Nothing: it is AUFS's own.
    Nothing,
}

impl<'a> Whiteout<'a> {
    /// What the entry with these cleaned components hides, or `None` when it is an ordinary one.
    pub fn new(components: &[&'a [u8]]) -> Result<Option<Self>, Cause> {
        let Some((name, parents)) = components.split_last() else { return Ok(None) };
        if parents.iter().any(|parent| parent.starts_with(AUFS)) {
            return Ok(Some(Self::Nothing));
        }
        match name.strip_prefix(PREFIX) {
            None => Ok(None),
            Some(_) if *name == OPAQUE => Ok(Some(Self::Opaque)),
            Some(_) if name.starts_with(AUFS) => Ok(Some(Self::Nothing)),
            // Joined to a path as text, these would hide the directory itself or the one above.
            Some(b"" | b"." | b"..") => Err(Cause::Path("the whiteout names no file")),
            Some(hidden) => Ok(Some(Self::Name(hidden))),
        }
    }

    /// The topmost nodes that this hides in `directory`, when it is part of `layer`.
    pub fn hidden(&self, tree: &Tree, directory: NodeId, layer: usize) -> Vec<NodeId> {
        let mut hidden = Vec::new();
        let mut kept = Vec::new();
        let mut sort = |id: NodeId| if tree.layer(id) < layer { &mut hidden } else { &mut kept }.push(id);
        match self {
            Self::Nothing => {}
            Self::Opaque => kept.push(directory),
            Self::Name(name) => tree.child(directory, name).into_iter().for_each(&mut sort),
        }
        while let Some(id) = kept.pop() {
            for child in tree.directory(id).into_iter().flat_map(|directory| directory.children.values()) {
                if tree.layer(*child) < layer { &mut hidden } else { &mut kept }.push(*child);
            }
        }
        hidden
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(path: &str) -> Result<Option<Whiteout<'_>>, Cause> {
        Whiteout::new(&path.split('/').map(str::as_bytes).collect::<Vec<_>>())
    }

    #[test]
    fn names_are_told_apart() {
        assert_eq!(parsed("a/.wh.b").unwrap(), Some(Whiteout::Name(b"b")));
        assert_eq!(parsed("a/.wh..b").unwrap(), Some(Whiteout::Name(b".b")));
        assert_eq!(parsed("a/.wh..wh..opq").unwrap(), Some(Whiteout::Opaque));
        assert_eq!(parsed(".wh..wh.plnk/1.2").unwrap(), Some(Whiteout::Nothing));
        assert_eq!(parsed(".wh..wh.aufs").unwrap(), Some(Whiteout::Nothing));
        assert_eq!(parsed("a/.whb").unwrap(), None);
        assert_eq!(parsed(".wh.a/b").unwrap(), None);
        for path in ["a/.wh.", "a/.wh..", "a/.wh..."] {
            assert!(parsed(path).is_err(), "{path}");
        }
    }
}
