//! The structures on disk, as Linux's `fs/erofs/erofs_fs.h` has them. All numbers are little-endian.

/// The size of a block.
pub(crate) const BLOCK: usize = 1 << BLOCK_BITS;
const BLOCK_BITS: u8 = 12;
/// Inodes start at multiples of this; their numbers count it.
pub(crate) const SLOT: u64 = 32;
/// The size of an extended inode.
pub(crate) const INODE: usize = 64;
/// The size of a directory entry without its name.
pub(crate) const DIRENT: usize = 12;
/// The size of the head of an inode's extended attributes.
pub(crate) const XATTR_HEADER: usize = 12;
/// The size of an extended attribute without name and value; also what they are aligned to and counted in.
pub(crate) const XATTR_ENTRY: usize = 4;

const SUPERBLOCK_OFFSET: usize = 1024;
const MAGIC: u32 = 0xE0F5_E1E2;
/// The superblock has a checksum, inodes have modification times.
const FEATURES: u32 = 0x1 | 0x2;

/// Where an inode's data is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DataLayout {
    /// In blocks.
    Plain = 0,
    /// The last part behind the inode, the rest in blocks.
    Inline = 2,
}

/// The types that directory entries give, with the file type's bits in a mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileType {
    pub(crate) entry: u8,
    pub(crate) mode: u16,
}

impl FileType {
    pub(crate) const FILE: Self = Self { entry: 1, mode: 0o100_000 };
    pub(crate) const DIRECTORY: Self = Self { entry: 2, mode: 0o040_000 };
    pub(crate) const CHAR_DEVICE: Self = Self { entry: 3, mode: 0o020_000 };
    pub(crate) const BLOCK_DEVICE: Self = Self { entry: 4, mode: 0o060_000 };
    pub(crate) const FIFO: Self = Self { entry: 5, mode: 0o010_000 };
    pub(crate) const SOCKET: Self = Self { entry: 6, mode: 0o140_000 };
    pub(crate) const SYMLINK: Self = Self { entry: 7, mode: 0o120_000 };
}

/// The superblock's fields that differ between images.
#[derive(Debug)]
pub(crate) struct Superblock {
    pub(crate) root: u16,
    pub(crate) inodes: u64,
    pub(crate) build_time: i64,
    pub(crate) blocks: u32,
    pub(crate) metadata_block: u32,
    pub(crate) xattr_block: u32,
    pub(crate) uuid: [u8; 16],
    pub(crate) volume_name: [u8; 16],
}

impl Superblock {
    /// The block that holds the superblock.
    pub(crate) fn block(&self) -> Vec<u8> {
        let checksum = crc32c(&self.encode(0));
        let mut block = vec![0; SUPERBLOCK_OFFSET];
        block.append(&mut self.encode(checksum));
        block
    }

    /// The superblock to the end of its block, which is what the checksum covers.
    fn encode(&self, checksum: u32) -> Vec<u8> {
        let mut out = Vec::with_capacity(BLOCK);
        out.extend(MAGIC.to_le_bytes());
        out.extend(checksum.to_le_bytes());
        out.extend(FEATURES.to_le_bytes());
        // No extension slots follow the superblock.
        out.extend([BLOCK_BITS, 0]);
        out.extend(self.root.to_le_bytes());
        out.extend(self.inodes.to_le_bytes());
        out.extend(self.build_time.to_le_bytes());
        out.extend(0_u32.to_le_bytes());
        out.extend(self.blocks.to_le_bytes());
        out.extend(self.metadata_block.to_le_bytes());
        out.extend(self.xattr_block.to_le_bytes());
        out.extend(self.uuid);
        out.extend(self.volume_name);
        // No incompatible feature, further device, prefix of names or packed inode.
        out.resize(BLOCK - SUPERBLOCK_OFFSET, 0);
        out
    }
}

/// An inode on disk.
#[derive(Debug)]
pub(crate) struct InodeRecord {
    pub(crate) layout: DataLayout,
    /// The size of the extended attributes that follow.
    pub(crate) xattr_size: usize,
    pub(crate) mode: u16,
    pub(crate) size: u64,
    /// The first block of the data, or the device's number.
    pub(crate) data: u32,
    /// A number that no other inode has, for those who want 32 bits. The kernel doesn't use it.
    pub(crate) number: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) seconds: i64,
    pub(crate) nanoseconds: u32,
    pub(crate) links: u32,
}

impl InodeRecord {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        const EXTENDED: u16 = 1;
        let format = EXTENDED | ((self.layout as u16) << 1);
        out.extend(format.to_le_bytes());
        out.extend(xattr_count(self.xattr_size).to_le_bytes());
        out.extend(self.mode.to_le_bytes());
        out.extend(0_u16.to_le_bytes());
        out.extend(self.size.to_le_bytes());
        out.extend(self.data.to_le_bytes());
        out.extend(self.number.to_le_bytes());
        out.extend(self.uid.to_le_bytes());
        out.extend(self.gid.to_le_bytes());
        out.extend(self.seconds.to_le_bytes());
        out.extend(self.nanoseconds.to_le_bytes());
        out.extend(self.links.to_le_bytes());
        out.extend([0; 16]);
    }
}

/// The largest size of an inode's extended attributes: `i_xattr_icount` has 16 bits.
pub(crate) const XATTRS_MAX: usize = XATTR_HEADER + (u16::MAX as usize - 1) * XATTR_ENTRY;

/// `i_xattr_icount`: the header counts as one.
fn xattr_count(size: usize) -> u16 {
    match size.checked_sub(XATTR_HEADER) {
        // The size was checked against `XATTRS_MAX` when the attributes were set.
        Some(entries) => u16::try_from(1 + entries / XATTR_ENTRY).unwrap_or(u16::MAX),
        None => 0,
    }
}

/// The kernel's `new_encode_dev`, or nothing if the numbers are too large for it.
pub(crate) fn device(major: u32, minor: u32) -> Option<u32> {
    (major < 1 << 12 && minor < 1 << 20).then_some((minor & 0xff) | (major << 8) | ((minor & !0xff) << 12))
}

/// CRC-32C as EROFS uses it: from all ones, and not inverted at the end.
fn crc32c(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82F6_3B78;
    bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (POLYNOMIAL & (crc & 1).wrapping_neg()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_crc_32c() {
        // The check value of the CRC catalogue, which is inverted at the end.
        assert_eq!(!crc32c(b"123456789"), 0xE306_9283);
    }

    #[test]
    fn device_numbers_are_encoded_as_in_the_kernel() {
        assert_eq!(device(1, 3), Some(0x103));
        assert_eq!(device(0xabc, 0x12345), Some(0x123a_bc45));
        assert_eq!(device(4095, (1 << 20) - 1), Some(u32::MAX));
        assert_eq!((device(4096, 0), device(0, 1 << 20)), (None, None));
    }

    #[test]
    fn structures_have_their_sizes() {
        let superblock = Superblock {
            root: 0x1122,
            inodes: 0,
            build_time: -1,
            blocks: 0x3344_5566,
            metadata_block: 0,
            xattr_block: 0,
            uuid: [7; 16],
            volume_name: [b'x'; 16],
        };
        let block = superblock.block();
        assert_eq!(block.len(), BLOCK);
        assert_eq!(block[1024..1028], MAGIC.to_le_bytes());
        assert_eq!(block[1038..1040], [0x22, 0x11]);
        assert_eq!(block[1060..1064], [0x66, 0x55, 0x44, 0x33]);
        assert_eq!(block[1072..1104], [[7; 16], [b'x'; 16]].concat());
        let mut inode = Vec::new();
        let record = InodeRecord {
            layout: DataLayout::Inline,
            xattr_size: 16,
            mode: 0o644,
            size: 1,
            data: 2,
            number: 3,
            uid: 4,
            gid: 5,
            seconds: -6,
            nanoseconds: 7,
            links: 8,
        };
        record.encode(&mut inode);
        assert_eq!(inode.len(), INODE);
        assert_eq!(inode[..4], [5, 0, 2, 0]);
        assert_eq!(inode[44..48], 8_u32.to_le_bytes());
    }

    #[test]
    fn the_largest_extended_attributes_have_the_largest_count() {
        assert_eq!(xattr_count(XATTRS_MAX), u16::MAX);
        assert_eq!((xattr_count(0), xattr_count(XATTR_HEADER), xattr_count(XATTR_HEADER + 4)), (0, 1, 2));
    }
}
