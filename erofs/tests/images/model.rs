//! A tree in memory that is built along with an image, to compare with what readers see. The fuzz target uses it too.

use std::collections::BTreeMap;

use erofs::{Attributes, Error, InodeId, Options, Output, Special, Summary, Time, Writer};

/// What a reader sees under each path. The root's is empty.
pub type Tree = BTreeMap<Vec<u8>, Seen>;

/// What a reader sees of an inode.
#[derive(Clone, PartialEq, Eq)]
pub struct Seen {
    pub kind: SeenKind,
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Time,
    pub links: u32,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first path that leads to this inode.
    pub first: Vec<u8>,
}

/// What a reader sees of an inode's content.
#[derive(Clone, PartialEq, Eq)]
pub enum SeenKind {
    Directory,
    File(Vec<u8>),
    Symlink(Vec<u8>),
    Special(Special),
}

/// A step of building an image. Numbers choose among what is there.
#[derive(Clone, Debug)]
pub enum Step {
    /// Makes something in a directory.
    Make { directory: usize, name: Vec<u8>, what: Make, attributes: Attributes },
    /// Makes many symbolic links in a directory, so that it takes blocks of its own.
    Fill { directory: usize, count: u16, length: u8 },
    /// Gives something a further name.
    Link { directory: usize, name: Vec<u8>, target: usize },
    /// Takes a name away.
    Unlink { directory: usize, entry: usize },
    /// Replaces attributes.
    Change { target: usize, attributes: Attributes },
    /// Begins a file and drops it.
    Abandon { content: Vec<Part> },
}

/// What is made.
#[derive(Clone, Debug)]
pub enum Make {
    Directory,
    File(Vec<Part>),
    Symlink(Vec<u8>),
    Special(Special),
}

/// A part of a file.
#[derive(Clone, Debug)]
pub enum Part {
    Bytes { byte: u8, length: u16 },
    Skip(u16),
}

/// An inode of the model. Its number in [`Model::nodes`] is its identity.
struct Node {
    id: InodeId,
    attributes: Attributes,
    kind: NodeKind,
    names: u32,
}

enum NodeKind {
    Directory(BTreeMap<Vec<u8>, usize>),
    Other(SeenKind),
    Removed,
}

/// The tree and the image.
pub struct Model<O> {
    writer: Writer<O>,
    nodes: Vec<Node>,
}

/// Builds an image in memory. Steps that the writer refuses change nothing.
pub fn build(steps: &[Step]) -> (Vec<u8>, Tree, Summary) {
    let mut model = Model::new(Vec::new());
    for step in steps {
        // Refusals leave both as they were; those that shouldn't come show in the comparison.
        let _ = model.step(step);
    }
    model.finish()
}

impl<O: Output + std::fmt::Debug> Model<O> {
    pub fn new(output: O) -> Self {
        let attributes = Attributes { mode: 0o755, ..Attributes::default() };
        let kind = NodeKind::Directory(BTreeMap::new());
        let root = Node { id: InodeId::ROOT, attributes, kind, names: 1 };
        Self { writer: Writer::new(output, Options::default()), nodes: vec![root] }
    }

    pub fn step(&mut self, step: &Step) -> Result<(), Error> {
        match step {
            Step::Make { directory, name, what, attributes } => self.make(*directory, name, what, attributes),
            Step::Fill { directory, count, length } => (0..*count).try_for_each(|number| {
                let name = format!("{number:0length$}", length = usize::from(*length));
                let what = Make::Symlink(name.clone().into_bytes());
                self.make(*directory, name.as_bytes(), &what, &Attributes::default())
            }),
            Step::Link { directory, name, target } => self.link(*directory, name, *target),
            Step::Unlink { directory, entry } => self.unlink(*directory, *entry),
            Step::Change { target, attributes } => {
                let target = target % self.nodes.len();
                self.writer.set_attributes(self.nodes[target].id, attributes.clone())?;
                self.nodes[target].attributes = attributes.clone();
                Ok(())
            }
            Step::Abandon { content } => {
                let mut file = self.writer.file(Attributes::default())?;
                content.iter().try_for_each(|part| match *part {
                    Part::Bytes { byte, length } => file.write(&vec![byte; length.into()]),
                    Part::Skip(length) => file.skip(length.into()),
                })
            }
        }
    }

    /// Ends both. The tree is as readers are to see it.
    pub fn finish(self) -> (O, Tree, Summary) {
        let mut tree = Tree::new();
        self.collect(0, Vec::new(), &mut tree);
        let mut paths: BTreeMap<Vec<u8>, Vec<Vec<u8>>> = BTreeMap::new();
        for (path, seen) in &tree {
            paths.entry(seen.first.clone()).or_default().push(path.clone());
        }
        for seen in tree.values_mut() {
            let paths = &paths[&seen.first];
            seen.first = paths[0].clone();
            if seen.kind != SeenKind::Directory {
                seen.links = u32::try_from(paths.len()).expect("a few");
            }
        }
        let (output, summary) = self.writer.finish().expect("the image is finished");
        (output, tree, summary)
    }

    fn make(&mut self, directory: usize, name: &[u8], what: &Make, attributes: &Attributes) -> Result<(), Error> {
        let writer = &mut self.writer;
        let (id, kind) = match what {
            Make::Directory => (writer.directory(attributes.clone())?, NodeKind::Directory(BTreeMap::new())),
            Make::Symlink(target) => {
                (writer.symlink(target, attributes.clone())?, NodeKind::Other(SeenKind::Symlink(target.clone())))
            }
            Make::Special(special) => {
                (writer.special(*special, attributes.clone())?, NodeKind::Other(SeenKind::Special(*special)))
            }
            Make::File(parts) => {
                let (mut file, mut content) = (writer.file(attributes.clone())?, Vec::new());
                for part in parts {
                    match *part {
                        Part::Bytes { byte, length } => {
                            let bytes = vec![byte; length.into()];
                            file.write(&bytes)?;
                            content.extend(bytes);
                        }
                        Part::Skip(length) => {
                            file.skip(length.into())?;
                            content.resize(content.len() + usize::from(length), 0);
                        }
                    }
                }
                (file.finish()?, NodeKind::Other(SeenKind::File(content)))
            }
        };
        self.nodes.push(Node { id, attributes: attributes.clone(), kind, names: 0 });
        self.link(directory, name, self.nodes.len() - 1)
    }

    fn link(&mut self, directory: usize, name: &[u8], target: usize) -> Result<(), Error> {
        let (directory, target) = (self.directory(directory), target % self.nodes.len());
        self.writer.link(self.nodes[directory].id, name, self.nodes[target].id)?;
        self.nodes[target].names += 1;
        if let NodeKind::Directory(entries) = &mut self.nodes[directory].kind {
            assert!(entries.insert(name.into(), target).is_none(), "a name twice");
        }
        Ok(())
    }

    fn unlink(&mut self, directory: usize, entry: usize) -> Result<(), Error> {
        let directory = self.directory(directory);
        let NodeKind::Directory(entries) = &self.nodes[directory].kind else { return Ok(()) };
        let Some((name, &target)) = entries.iter().nth(entry % entries.len().max(1)) else { return Ok(()) };
        let name = name.clone();
        self.writer.unlink(self.nodes[directory].id, &name)?;
        if let NodeKind::Directory(entries) = &mut self.nodes[directory].kind {
            entries.remove(&name);
        }
        self.nodes[target].names -= 1;
        if self.nodes[target].names == 0 {
            self.nodes[target].kind = NodeKind::Removed;
        }
        Ok(())
    }

    /// A directory, the one that `choice` says among all.
    fn directory(&self, choice: usize) -> usize {
        let is_directory = |index: &usize| matches!(self.nodes[*index].kind, NodeKind::Directory(_));
        let directories: Vec<usize> = (0..self.nodes.len()).filter(is_directory).collect();
        directories[choice % directories.len()]
    }

    /// Adds what is at `path`, with its number in place of its first path and without its links.
    fn collect(&self, index: usize, path: Vec<u8>, tree: &mut Tree) {
        let Node { attributes, kind, .. } = &self.nodes[index];
        let (kind, links) = match kind {
            NodeKind::Directory(entries) => {
                let mut links = 2;
                for (name, &child) in entries {
                    links += u32::from(matches!(self.nodes[child].kind, NodeKind::Directory(_)));
                    let path = if path.is_empty() { name.clone() } else { [&path[..], b"/", name].concat() };
                    self.collect(child, path, tree);
                }
                (SeenKind::Directory, links)
            }
            NodeKind::Other(kind) => (kind.clone(), 0),
            NodeKind::Removed => panic!("{index} was removed and is in the tree"),
        };
        let seen = Seen {
            kind,
            mode: attributes.mode,
            uid: attributes.uid,
            gid: attributes.gid,
            mtime: attributes.mtime,
            links,
            xattrs: attributes.xattrs.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect(),
            first: index.to_string().into_bytes(),
        };
        tree.insert(path, seen);
    }
}

/// Fails with what differs, and only that.
pub fn assert_same(seen: &Tree, expected: &Tree, reader: &str) {
    for (path, expected) in expected {
        let seen = seen.get(path);
        let path = String::from_utf8_lossy(path);
        let seen = seen.unwrap_or_else(|| panic!("{reader} doesn't see {path:?}"));
        assert!(seen == expected, "{reader} sees {path:?} as\n{seen:#?} instead of\n{expected:#?}");
    }
    let more = seen.keys().find(|path| !expected.contains_key(*path));
    assert!(more.is_none(), "{reader} sees {:?}", more.map(|path| String::from_utf8_lossy(path)));
}

impl std::fmt::Debug for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kind, mode, uid, gid, mtime, links, xattrs, first } = self;
        let what = match kind {
            SeenKind::Directory => "directory".into(),
            SeenKind::File(content) => format!("file of {} bytes", content.len()),
            SeenKind::Symlink(target) => format!("symbolic link to {:?}", String::from_utf8_lossy(target)),
            SeenKind::Special(special) => format!("{special:?}"),
        };
        write!(f, "{what}, mode {mode:o}, {uid}:{gid}, {mtime:?}, {links} links, first ")?;
        writeln!(f, "{:?}", String::from_utf8_lossy(first))?;
        xattrs.iter().try_for_each(|(name, value)| writeln!(f, "{}={value:?}", String::from_utf8_lossy(name)))
    }
}
