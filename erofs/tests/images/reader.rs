//! Reads an image with the crate erofs-rs. The fuzz target uses it too.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;

use erofs::{Special, Time};
use erofs_rs::EroFS;
use erofs_rs::backend::SliceImage;
use erofs_rs::types::Inode;

use super::model::{Seen, SeenKind, Tree};

/// All that is in the image.
pub fn read(image: &[u8]) -> Tree {
    let reader = EroFS::new(SliceImage::new(image)).expect("a superblock");
    let mut numbers = BTreeMap::new();
    let root = reader.get_inode(reader.super_block().root_inode_id()).expect("the root's inode");
    numbers.insert(Vec::new(), root);
    for entry in reader.walk_dir("/").expect("the root directory") {
        let entry = entry.expect("an entry");
        let path = entry.dir_entry.path().as_bytes().strip_prefix(b"/").expect("an absolute path").to_vec();
        assert_eq!(entry.dir_entry.file_type().is_dir(), entry.inode.is_dir(), "an entry has its inode's type");
        assert!(numbers.insert(path, entry.inode).is_none(), "a path twice");
    }
    let mut firsts = BTreeMap::new();
    let mut see = |(path, inode): (Vec<u8>, Inode)| {
        let first = firsts.entry(inode.id()).or_insert_with(|| path.clone()).clone();
        let seen = see(&reader, inode, first);
        (path, seen)
    };
    numbers.into_iter().map(&mut see).collect()
}

fn see(reader: &EroFS<SliceImage<'_>>, inode: Inode, first: Vec<u8>) -> Seen {
    let (seconds, nanoseconds) = inode.modified_unix();
    Seen {
        kind: kind(reader, inode),
        mode: u16::try_from(inode.permissions().mode()).expect("permissions"),
        uid: inode.uid(),
        gid: inode.gid(),
        mtime: Time { seconds, nanoseconds },
        links: inode.nlink(),
        xattrs: reader.xattrs_inode(inode).expect("extended attributes"),
        first,
    }
}

fn kind(reader: &EroFS<SliceImage<'_>>, inode: Inode) -> SeenKind {
    let file_type = inode.file_type();
    if inode.is_dir() {
        return SeenKind::Directory;
    }
    if inode.is_file() {
        let mut content = Vec::new();
        reader.open_inode_file(inode).expect("a file").read_to_end(&mut content).expect("its content");
        return SeenKind::File(content);
    }
    if inode.is_symlink() {
        return SeenKind::Symlink(reader.read_link_inode(inode).expect("a target").into_vec());
    }
    let device = inode.device();
    SeenKind::Special(match device {
        Some((major, minor)) if file_type.is_char_device() => Special::CharDevice { major, minor },
        Some((major, minor)) => Special::BlockDevice { major, minor },
        None if file_type.is_fifo() => Special::Fifo,
        None => Special::Socket,
    })
}
