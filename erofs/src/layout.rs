//! Where the metadata goes: the order of the inodes, their numbers and sizes. Nothing is written yet.

use crate::directory;
use crate::format::{BLOCK, INODE, SLOT};
use crate::inode::{Inode, InodeId, Kind};
use crate::xattr::Shared;

/// The root's number has 16 bits, so it comes first. But 0 isn't possible: tools take `st_ino` 0 for no file.
const FIRST_NUMBER: u64 = 1;

/// Where an inode is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Place {
    /// Its number: its place in the inodes' area, in slots. 0 if it isn't in the image.
    pub(crate) number: u64,
    /// `st_nlink`.
    pub(crate) links: u32,
}

/// Where everything is.
#[derive(Debug)]
pub(crate) struct Layout {
    /// The inodes of the image in the order of their numbers.
    pub(crate) order: Vec<InodeId>,
    /// For each inode of the writer.
    places: Vec<Place>,
    /// The size of the inodes' area in bytes.
    pub(crate) inodes_size: u64,
    /// How many blocks directories and symbolic links take.
    pub(crate) data_blocks: u64,
}

/// What an inode takes of the metadata.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Shape {
    /// `st_size`.
    pub(crate) size: u64,
    /// Blocks of its own.
    pub(crate) blocks: u64,
    pub(crate) xattr_size: usize,
    /// The part of its data that follows it.
    pub(crate) inline: usize,
}

impl Shape {
    pub(crate) fn new(id: InodeId, inode: &Inode, shared: &Shared<'_>) -> Self {
        let shape = Self { xattr_size: shared.body_size(&inode.xattrs), ..Self::default() };
        match &inode.kind {
            Kind::File(extent) => Self { size: extent.size, ..shape },
            Kind::Symlink(target) => shape.with_data(0, target.len()),
            Kind::Directory(directory) => {
                let entries = directory::entries(id, directory);
                let mut sizes = directory::blocks(&entries).map(directory::block_size);
                let first = sizes.next().unwrap_or_default();
                let (full, last) = sizes.fold((0, first), |(full, _), size| (full + 1, size));
                shape.with_data(full, last)
            }
            Kind::Special { .. } | Kind::Removed => shape,
        }
    }

    /// With data of `full` blocks and `last` bytes, which go behind the inode if one block has room for both.
    fn with_data(self, full: u64, last: usize) -> Self {
        let size = full.saturating_mul(BLOCK as u64).saturating_add(last as u64);
        if INODE + self.xattr_size + last <= BLOCK {
            Self { size, blocks: full, inline: last, ..self }
        } else {
            Self { size, blocks: full.saturating_add(1), inline: 0, ..self }
        }
    }

    /// What the inode takes in the inodes' area.
    fn body(&self) -> usize {
        INODE + self.xattr_size + self.inline
    }

    /// Where it goes when `position` is free: not across blocks, or, when it is larger than a block, not with its fixed
    /// part.
    fn place(&self, position: u64) -> u64 {
        let position = position.next_multiple_of(SLOT);
        let together = if self.body() <= BLOCK { self.body() } else { INODE };
        let room = BLOCK as u64 - position % BLOCK as u64;
        if together as u64 <= room { position } else { position.saturating_add(room) }
    }
}

impl Layout {
    /// Lays out what is reachable from the root.
    pub(crate) fn new(inodes: &[Inode], reachable: Reachable, shared: &Shared<'_>) -> Self {
        let Reachable { order, places } = reachable;
        let mut layout = Self { order, places, inodes_size: FIRST_NUMBER * SLOT, data_blocks: 0 };
        for &id in &layout.order {
            let (Some(inode), Some(place)) = (inodes.get(id.index()), layout.places.get_mut(id.index())) else {
                continue;
            };
            let shape = Shape::new(id, inode, shared);
            let position = shape.place(layout.inodes_size);
            place.number = position / SLOT;
            layout.inodes_size = position.saturating_add(shape.body() as u64);
            layout.data_blocks = layout.data_blocks.saturating_add(shape.blocks);
        }
        layout
    }

    pub(crate) fn place(&self, id: InodeId) -> Place {
        self.places.get(id.index()).copied().unwrap_or_default()
    }
}

/// What is reachable from the root.
#[derive(Debug)]
pub(crate) struct Reachable {
    /// Each inode once: the root, then each directory's entries together.
    pub(crate) order: Vec<InodeId>,
    /// With the links counted.
    places: Vec<Place>,
}

impl Reachable {
    pub(crate) fn new(inodes: &[Inode]) -> Self {
        let mut reachable = Self { order: vec![InodeId::ROOT], places: vec![Place::default(); inodes.len()] };
        reachable.add_links(InodeId::ROOT, 2);
        let mut pending = vec![InodeId::ROOT];
        while let Some(id) = pending.pop() {
            let Some(Kind::Directory(directory)) = inodes.get(id.index()).map(|inode| &inode.kind) else { continue };
            let first = pending.len();
            for &child in directory.entries.values() {
                if matches!(inodes.get(child.index()), Some(Inode { kind: Kind::Directory(_), .. })) {
                    reachable.add_links(id, 1);
                    reachable.add_links(child, 2);
                    reachable.order.push(child);
                    pending.push(child);
                } else if reachable.add_links(child, 1) {
                    reachable.order.push(child);
                }
            }
            // The first subdirectory's entries come first.
            if let Some(subdirectories) = pending.get_mut(first..) {
                subdirectories.reverse();
            }
        }
        reachable
    }

    pub(crate) fn contains(&self, id: InodeId) -> bool {
        self.places.get(id.index()).is_some_and(|place| place.links > 0)
    }

    /// Whether these are the first links.
    fn add_links(&mut self, id: InodeId, count: u32) -> bool {
        let Some(place) = self.places.get_mut(id.index()) else { return false };
        let first = place.links == 0;
        place.links = place.links.saturating_add(count);
        first
    }
}
