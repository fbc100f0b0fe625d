//! The tree of files in an EROFS image, read back completely by a reader that is not ours.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;

use erofs_rs::EroFS;
use erofs_rs::backend::SliceImage;
use erofs_rs::types::Inode;

/// What is at one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Type and permissions.
    pub mode: u32,
    pub owner: (u32, u32),
    pub mtime: (i64, i64),
    pub device: (u32, u32),
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The content of a file or the text of a symbolic link.
    pub content: Vec<u8>,
    /// The first path of the same file.
    pub first: Vec<u8>,
}

/// All that is in an image, by path; the root has an empty one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree(pub BTreeMap<Vec<u8>, File>);

impl Tree {
    /// Reads `image`.
    pub fn read(image: &[u8]) -> Self {
        let image = EroFS::new(SliceImage::new(image)).unwrap();
        let mut files = BTreeMap::new();
        let mut names = BTreeMap::new();
        let root = image.super_block().root_inode_id();
        let mut pending = vec![(Vec::new(), root)];
        while let Some((name, number)) = pending.pop() {
            let inode = image.get_inode(number).unwrap();
            if inode.is_dir() {
                pending.extend(children(&image, &name));
            }
            names.entry(number).or_insert_with(Vec::new).push((name.clone(), inode.nlink()));
            files.insert(name, file(&image, inode));
        }
        for (number, names) in names {
            let first = names.iter().map(|(name, _)| name).min().unwrap();
            for (name, links) in &names {
                let file = files.get_mut(name).unwrap();
                let directory = file.mode & libc::S_IFMT == libc::S_IFDIR;
                assert!(directory || *links as usize == names.len(), "inode {number} has {links} links: {names:?}");
                file.first.clone_from(first);
            }
        }
        Self(files)
    }

    /// The paths, in order.
    pub fn names(&self) -> Vec<String> {
        self.0.keys().map(|name| name.escape_ascii().to_string()).collect()
    }

    pub fn get(&self, name: &str) -> &File {
        self.0.get(name.as_bytes()).unwrap_or_else(|| panic!("{name} is missing among {:?}", self.names()))
    }

    /// The content of a file or text of a link.
    pub fn content(&self, name: &str) -> String {
        String::from_utf8_lossy(&self.get(name).content).into_owned()
    }

    /// The permissions of a file, without its type.
    pub fn mode(&self, name: &str) -> u32 {
        self.get(name).mode & 0o7777
    }
}

type Image<'a> = EroFS<SliceImage<'a>>;

/// The paths and inode numbers of what is in the directory `name`.
fn children(image: &Image<'_>, name: &[u8]) -> Vec<(Vec<u8>, u64)> {
    let path = [b"/", name].concat();
    let entries = image.read_dir(path.as_slice()).unwrap().map(|entry| entry.unwrap().dir_entry);
    let entries = entries.filter(|entry| !matches!(entry.file_name(), b"." | b".."));
    entries
        .map(|entry| {
            let name = if name.is_empty() { entry.file_name().to_vec() } else { [name, entry.file_name()].join(&b'/') };
            (name, entry.nid())
        })
        .collect()
}

fn file(image: &Image<'_>, inode: Inode) -> File {
    let kind = inode.file_type().as_raw_mode();
    let content = match kind {
        libc::S_IFREG => {
            let mut bytes = vec![0; usize::try_from(inode.data_size()).unwrap()];
            let file = image.open_inode_file(inode).unwrap();
            let mut at = 0;
            while at < bytes.len() {
                let count = file.read_at(&mut bytes[at..], at as u64).unwrap();
                assert!(count > 0);
                at += count;
            }
            bytes
        }
        libc::S_IFLNK => image.read_link_inode(inode).unwrap().into_vec(),
        _ => Vec::new(),
    };
    let (seconds, nanoseconds) = inode.modified_unix();
    File {
        mode: kind | inode.permissions().mode() & 0o7777,
        owner: (inode.uid(), inode.gid()),
        mtime: (seconds, nanoseconds.into()),
        device: inode.device().unwrap_or_default(),
        xattrs: image.xattrs_inode(inode).unwrap().into_iter().collect(),
        content,
        first: Vec::new(),
    }
}
