//! Writes the metadata, once all is known: shared extended attributes, blocks of directories and symbolic links, inodes,
//! superblock.

use crate::directory;
use crate::error::Error;
use crate::format::{BLOCK, DataLayout, FileType, InodeRecord, SLOT, Superblock};
use crate::inode::{Extent, Inode, InodeId, Kind};
use crate::layout::{Layout, Place, Reachable, Shape};
use crate::output::Output;
use crate::sink::Sink;
use crate::writer::{Options, Writer};
use crate::xattr::Shared;

/// What an image is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// The size in bytes: a multiple of [`crate::BLOCK_SIZE`].
    pub size: u64,
    /// How many inodes it has, the root among them. A file with many names counts once.
    pub inodes: u64,
    /// How many blocks the content of files takes, zeros included.
    pub data_blocks: u64,
    /// How many blocks the metadata takes, the superblock's included.
    pub metadata_blocks: u64,
}

pub(crate) fn finish<O: Output>(mut writer: Writer<O>) -> Result<(O, Summary), Error> {
    let reachable = Reachable::new(&writer.inodes);
    let data_blocks = drop_unreachable(&mut writer, &reachable)?;
    let Writer { mut sink, options, inodes, xattrs, next_block, .. } = writer;
    let uses = reachable.order.iter().filter_map(|id| inodes.get(id.index()));
    let shared = xattrs.share(uses.map(|inode| &*inode.xattrs))?;
    let layout = Layout::new(&inodes, reachable, &shared);
    let areas = Areas::new(next_block, &layout, &shared, &options)?;

    let metadata = Metadata { inodes: &inodes, layout: &layout, shared: &shared };
    metadata.write_shared(Stream::new(&mut sink, areas.xattrs))?;
    metadata.write_data(Stream::new(&mut sink, areas.data))?;
    metadata.write_inodes(Stream::new(&mut sink, areas.inodes), areas.data)?;
    let inodes = layout.order.len() as u64;
    sink.write(0, &areas.superblock(&options, &layout, inodes).block())?;
    sink.flush()?;
    let size = u64::from(areas.end).saturating_mul(BLOCK as u64);
    let metadata_blocks = u64::from(areas.end.saturating_sub(areas.xattrs)).saturating_add(1);
    Ok((sink.into_output(), Summary { size, inodes, data_blocks, metadata_blocks }))
}

/// Forgets the content of files that aren't in the image. Returns how many blocks the others' takes.
fn drop_unreachable<O: Output>(writer: &mut Writer<O>, reachable: &Reachable) -> Result<u64, Error> {
    let mut blocks: u64 = 0;
    for index in 0..writer.inodes.len() {
        let Some(&Inode { kind: Kind::File(extent), .. }) = writer.inodes.get(index) else { continue };
        if InodeId::new(index).is_some_and(|id| reachable.contains(id)) {
            blocks = blocks.saturating_add(extent.blocks());
        } else {
            writer.discard(extent)?;
        }
    }
    Ok(blocks)
}

/// The first blocks of the metadata's areas, which follow each other.
#[derive(Debug)]
struct Areas {
    xattrs: u32,
    data: u32,
    inodes: u32,
    end: u32,
}

impl Areas {
    fn new(start: u64, layout: &Layout, shared: &Shared<'_>, options: &Options) -> Result<Self, Error> {
        let full = || options.full();
        let block = |block: u64| u32::try_from(block).map_err(|_| full());
        let data = start.saturating_add(shared.size().div_ceil(BLOCK as u64));
        let inodes = data.saturating_add(layout.data_blocks);
        let end = inodes.saturating_add(layout.inodes_size.div_ceil(BLOCK as u64));
        if end > options.block_limit() {
            return Err(full());
        }
        Ok(Self { xattrs: block(start)?, data: block(data)?, inodes: block(inodes)?, end: block(end)? })
    }

    fn superblock(&self, options: &Options, layout: &Layout, inodes: u64) -> Superblock {
        Superblock {
            // The root comes first, so its number is small.
            root: u16::try_from(layout.place(InodeId::ROOT).number).unwrap_or_default(),
            inodes,
            build_time: options.build_time,
            blocks: self.end,
            metadata_block: self.inodes,
            xattr_block: self.xattrs,
            uuid: options.uuid,
            volume_name: options.volume_name.bytes(),
        }
    }
}

/// Appends bytes from a block on, so that the sink gets whole blocks.
#[derive(Debug)]
struct Stream<'a, O> {
    sink: &'a mut Sink<O>,
    position: u64,
}

impl<'a, O: Output> Stream<'a, O> {
    fn new(sink: &'a mut Sink<O>, block: u32) -> Self {
        Self { sink, position: u64::from(block).saturating_mul(BLOCK as u64) }
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.sink.write(self.position, bytes)?;
        self.position = self.position.saturating_add(bytes.len() as u64);
        Ok(())
    }

    /// Adds zeros up to `position`, which is less than a block away.
    fn pad_to(&mut self, position: u64) -> Result<(), Error> {
        const ZEROS: [u8; BLOCK] = [0; BLOCK];
        let length = usize::try_from(position.saturating_sub(self.position)).unwrap_or(BLOCK);
        self.append(ZEROS.get(..length).unwrap_or(&ZEROS))
    }

    /// Adds zeros to the end of the block.
    fn fill_block(&mut self) -> Result<(), Error> {
        self.pad_to(self.position.next_multiple_of(BLOCK as u64))
    }
}

/// What the metadata is made from.
#[derive(Debug)]
struct Metadata<'a> {
    inodes: &'a [Inode],
    layout: &'a Layout,
    shared: &'a Shared<'a>,
}

impl Metadata<'_> {
    fn write_shared(&self, mut stream: Stream<'_, impl Output>) -> Result<(), Error> {
        self.shared.entries().try_for_each(|entry| stream.append(entry))?;
        stream.fill_block()
    }

    /// Writes the blocks of directories and symbolic links.
    fn write_data(&self, mut stream: Stream<'_, impl Output>) -> Result<(), Error> {
        let mut data = Vec::new();
        for (id, inode) in in_order(self.inodes, self.layout) {
            let shape = Shape::new(id, inode, self.shared);
            if shape.blocks > 0 {
                self.encode_data(id, inode, &mut data);
                stream.append(data.get(..data.len().saturating_sub(shape.inline)).unwrap_or_default())?;
                stream.fill_block()?;
            }
        }
        Ok(())
    }

    /// Writes the inodes. The blocks of directories and symbolic links start at `data_block`.
    fn write_inodes(&self, mut stream: Stream<'_, impl Output>, mut data_block: u32) -> Result<(), Error> {
        let start = stream.position;
        let (mut body, mut data) = (Vec::new(), Vec::new());
        for (number, (id, inode)) in (1..).zip(in_order(self.inodes, self.layout)) {
            let shape = Shape::new(id, inode, self.shared);
            let place = self.layout.place(id);
            body.clear();
            record(inode, number, place, &shape, data_block).encode(&mut body);
            self.shared.encode_body(&inode.xattrs, &mut body);
            if shape.inline > 0 {
                self.encode_data(id, inode, &mut data);
                body.extend_from_slice(data.get(data.len().saturating_sub(shape.inline)..).unwrap_or_default());
            }
            stream.pad_to(start.saturating_add(place.number.saturating_mul(SLOT)))?;
            stream.append(&body)?;
            data_block = data_block.saturating_add(u32::try_from(shape.blocks).unwrap_or(u32::MAX));
        }
        stream.fill_block()
    }

    /// Replaces `out` with all data of a directory or symbolic link.
    fn encode_data(&self, id: InodeId, inode: &Inode, out: &mut Vec<u8>) {
        out.clear();
        match &inode.kind {
            Kind::Symlink(target) => out.extend_from_slice(target),
            Kind::Directory(directory) => {
                let target = |id: InodeId| (self.layout.place(id).number, file_type(self.inodes, id).entry);
                for block in directory::blocks(&directory::entries(id, directory)) {
                    out.resize(out.len().next_multiple_of(BLOCK), 0);
                    directory::encode(block, target, out);
                }
            }
            Kind::File(_) | Kind::Special { .. } | Kind::Removed => {}
        }
    }
}

fn in_order<'a>(inodes: &'a [Inode], layout: &'a Layout) -> impl Iterator<Item = (InodeId, &'a Inode)> {
    layout.order.iter().filter_map(|&id| Some((id, inodes.get(id.index())?)))
}

fn file_type(inodes: &[Inode], id: InodeId) -> FileType {
    // Nothing that was removed has a name.
    inodes.get(id.index()).and_then(|inode| inode.kind.file_type()).unwrap_or(FileType::FILE)
}

/// The inode on disk. Its blocks, if it is a directory or symbolic link, start at `data_block`.
fn record(inode: &Inode, number: u32, place: Place, shape: &Shape, data_block: u32) -> InodeRecord {
    let data = match inode.kind {
        // Blocks are counted in 32 bits: `Options::block_limit`.
        Kind::File(Extent { block, size }) if size > 0 => u32::try_from(block).unwrap_or_default(),
        Kind::Special { device, .. } => device,
        _ if shape.blocks > 0 => data_block,
        _ => 0,
    };
    InodeRecord {
        layout: if shape.inline > 0 { DataLayout::Inline } else { DataLayout::Plain },
        xattr_size: shape.xattr_size,
        mode: inode.mode | inode.kind.file_type().map_or(0, |file_type| file_type.mode),
        size: shape.size,
        data,
        number,
        uid: inode.uid,
        gid: inode.gid,
        seconds: inode.mtime.seconds,
        nanoseconds: inode.mtime.nanoseconds,
        links: place.links,
    }
}
