//! The content of directories: blocks of entries in the order of their names, each block with its entries first, then
//! their names.

use crate::format::{BLOCK, DIRENT};
use crate::inode::{Directory, InodeId};

/// An entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) inode: InodeId,
}

/// All entries of `directory`, which is `inode`: also `.` and `..`, which sort among the others.
pub(crate) fn entries(inode: InodeId, directory: &Directory) -> Vec<Entry<'_>> {
    let mut entries = Vec::with_capacity(directory.entries.len().saturating_add(2));
    entries.extend(directory.entries.iter().map(|(name, &inode)| Entry { name, inode }));
    for special in [Entry { name: b".", inode }, Entry { name: b"..", inode: directory.parent }] {
        let place = entries.partition_point(|entry| entry.name < special.name);
        entries.insert(place, special);
    }
    entries
}

/// How the entries fall into blocks: the entries of each block, which are full blocks but for the last.
pub(crate) fn blocks<'a, 'b>(entries: &'b [Entry<'a>]) -> impl Iterator<Item = &'b [Entry<'a>]> {
    let mut rest = entries;
    std::iter::from_fn(move || {
        let mut size = 0;
        let fits = |entry: &&Entry<'_>| {
            size += DIRENT + entry.name.len();
            size <= BLOCK
        };
        // Names have up to 255 bytes, so there is always room for the first.
        let count = rest.iter().take_while(fits).count();
        let (block, after) = rest.split_at(count);
        rest = after;
        (!block.is_empty()).then_some(block)
    })
}

/// How many bytes the entries of a block take.
pub(crate) fn block_size(block: &[Entry<'_>]) -> usize {
    block.iter().map(|entry| DIRENT + entry.name.len()).sum()
}

/// Adds a block to `out`, without what fills it up. `target` gives an inode's number and type.
pub(crate) fn encode(block: &[Entry<'_>], target: impl Fn(InodeId) -> (u64, u8), out: &mut Vec<u8>) {
    let mut name_offset = block.len() * DIRENT;
    for entry in block {
        let (number, file_type) = target(entry.inode);
        out.extend(number.to_le_bytes());
        // Within a block, so below 4096.
        out.extend(u16::try_from(name_offset).unwrap_or(u16::MAX).to_le_bytes());
        out.extend([file_type, 0]);
        name_offset += entry.name.len();
    }
    block.iter().for_each(|entry| out.extend_from_slice(entry.name));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_sort_among_the_names() {
        let mut directory = Directory::new(InodeId::ROOT);
        for name in ["a", "-", "...", ".a"] {
            directory.entries.insert(name.as_bytes().into(), InodeId::ROOT);
        }
        let names: Vec<_> = entries(InodeId::ROOT, &directory).iter().map(|entry| entry.name.to_vec()).collect();
        assert_eq!(names, ["-", ".", "..", "...", ".a", "a"].map(|name| name.as_bytes().to_vec()));
    }

    #[test]
    fn an_entry_points_to_its_name() {
        let mut out = Vec::new();
        let entry = |name| Entry { name, inode: InodeId::ROOT };
        encode(&[entry(b"ab"), entry(b"c")], |_| (0x0102, 7), &mut out);
        let expected = b"\x02\x01\0\0\0\0\0\0\x18\0\x07\0\x02\x01\0\0\0\0\0\0\x1a\0\x07\0abc";
        assert_eq!(out, expected);
    }

    #[test]
    fn a_block_takes_what_fits() {
        // 4096 = 15 * (12 + 255) + 91
        let (long, short, shorter) = ([b'x'; 255], [b'y'; 79], [b'z'; 80]);
        let entry = |name| Entry { name, inode: InodeId::ROOT };
        let mut entries = vec![entry(&long[..]); 15];
        entries.push(entry(&short));
        assert_eq!(blocks(&entries).map(block_size).collect::<Vec<_>>(), [4096]);
        entries.pop();
        entries.push(entry(&shorter));
        assert_eq!(blocks(&entries).map(block_size).collect::<Vec<_>>(), [4005, 92]);
        assert_eq!(blocks(&[]).count(), 0);
    }
}
