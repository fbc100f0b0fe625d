//! Random images: honest ones against a model, and damaged ones against panics and broken images.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::Fixture;
use super::tar::{Member, Tar};
use super::tree::Tree;

/// An entry of a random layer, over so few names that entries meet.
#[derive(Clone, Debug)]
enum Step {
    File(String),
    Directory(String, u32),
    Symlink(String, String),
    HardLink(String, String),
    Whiteout(String),
    Opaque(String),
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..4).prop_map(|names| names.join("/"))
}

/// Where a symbolic link leads: anywhere, also up and out.
fn text() -> impl Strategy<Value = String> {
    (prop::sample::select(vec!["", "/", "../", "../../", "gone/../"]), path())
        .prop_map(|(start, path)| start.to_owned() + &path)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => path().prop_map(Step::File),
        4 => (path(), prop::sample::select(vec![0o755, 0o700, 0o2775, 0o1777])).prop_map(|(at, mode)| Step::Directory(at, mode)),
        2 => (path(), text()).prop_map(|(at, to)| Step::Symlink(at, to)),
        1 => (path(), path()).prop_map(|(at, to)| Step::HardLink(at, to)),
        2 => path().prop_map(Step::Whiteout),
        1 => path().prop_map(Step::Opaque),
    ]
}

fn layers() -> impl Strategy<Value = Vec<Vec<Step>>> {
    prop::collection::vec(prop::collection::vec(step(), 0..12), 1..4)
}

/// What the model has at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Thing {
    /// A file, by its number: the same in all its names.
    File(usize),
    Directory(u32),
    Symlink(String),
}

/// Files by their path, as text, and the paths that the current layer has touched: the plainest form of the rules.
#[derive(Clone, Default)]
struct Model {
    things: BTreeMap<String, Thing>,
    touched: BTreeSet<String>,
    files: usize,
}

/// An image that must be refused.
struct Refused;

impl Model {
    /// The path of `name` with all links in it followed, from the directory `from`.
    fn follow(&self, from: &str, name: &str, links: &mut u32) -> Result<String, Refused> {
        let mut at = from.to_owned();
        for part in name.split('/') {
            match part {
                "" | "." => continue,
                ".." => {
                    at = at.rsplit_once('/').map_or(String::new(), |(parent, _)| parent.to_owned());
                    continue;
                }
                _ => {}
            }
            let next = join(&at, part);
            at = match self.things.get(&next) {
                Some(Thing::Symlink(text)) => {
                    *links += 1;
                    if *links > 40 {
                        return Err(Refused);
                    }
                    let from = if text.starts_with('/') { String::new() } else { at };
                    self.follow(&from, text, links)?
                }
                _ => next,
            };
        }
        Ok(at)
    }

    /// The directory that `path` is in, followed, and the path in it.
    fn place(&self, path: &str) -> Result<(String, String), Refused> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = self.follow("", parent, &mut 0)?;
        let path = join(&parent, name);
        Ok((parent, path))
    }

    fn remove(&mut self, path: &str) {
        let below = path.to_owned() + "/";
        self.things.retain(|name, _| name != path && !name.starts_with(&below));
    }

    fn make_directories(&mut self, path: &str) -> Result<(), Refused> {
        let ends: Vec<_> = path.match_indices('/').map(|(end, _)| end).chain([path.len()]).collect();
        for end in ends.into_iter().filter(|end| *end > 0) {
            match self.things.entry(path[..end].to_owned()).or_insert(Thing::Directory(0o755)) {
                Thing::Directory(_) => {}
                _ => return Err(Refused),
            }
        }
        Ok(())
    }

    fn touch(&mut self, path: &str) {
        self.touched.extend(path.match_indices('/').map(|(end, _)| path[..end].to_owned()).chain([path.to_owned()]));
    }

    fn make(&mut self, path: &str, thing: impl FnOnce(&mut Self) -> Result<Thing, Refused>) -> Result<(), Refused> {
        let (parent, path) = self.place(path)?;
        self.make_directories(&parent)?;
        self.remove(&path);
        let thing = thing(self)?;
        self.touch(&path);
        self.things.insert(path, thing);
        Ok(())
    }

    fn hide(&mut self, inside: &str, path: Option<&str>) {
        let below = if inside.is_empty() { String::new() } else { inside.to_owned() + "/" };
        let touched = std::mem::take(&mut self.touched);
        self.things.retain(|name, _| {
            let hidden =
                Some(name.as_str()) == path || (name.starts_with(&below) && !name.is_empty() && name != inside);
            !hidden || touched.contains(name)
        });
        self.touched = touched;
    }

    fn step(&mut self, step: &Step) -> Result<(), Refused> {
        match step {
            Step::File(path) => self.make(path, |model| {
                model.files += 1;
                Ok(Thing::File(model.files))
            }),
            Step::Symlink(path, text) => self.make(path, |_| Ok(Thing::Symlink(text.clone()))),
            Step::HardLink(path, target) => self.make(path, |model| {
                let (_, target) = model.place(target)?;
                model.things.get(&target).filter(|thing| !matches!(thing, Thing::Directory(_))).cloned().ok_or(Refused)
            }),
            Step::Directory(path, mode) => {
                let (parent, at) = self.place(path)?;
                if let Some(Thing::Directory(old)) = self.things.get_mut(&at) {
                    *old = *mode;
                    self.make_directories(&parent)?;
                    self.touch(&at);
                    return Ok(());
                }
                self.make(path, |_| Ok(Thing::Directory(*mode)))
            }
            Step::Whiteout(path) => {
                let (_, path) = self.place(path)?;
                self.hide(&path, Some(&path));
                Ok(())
            }
            Step::Opaque(path) => {
                let path = self.follow("", path, &mut 0)?;
                self.hide(&path, None);
                Ok(())
            }
        }
    }
}

fn join(parent: &str, name: &str) -> String {
    if parent.is_empty() { name.to_owned() } else { format!("{parent}/{name}") }
}

/// The model's tree, or `None` when the image must be refused.
fn expected(layers: &[Vec<Step>]) -> Option<BTreeMap<String, Thing>> {
    let (accepted, things) = accepted(layers);
    (accepted.concat().len() == layers.concat().len()).then_some(things)
}

/// The layers without the entries for which the image must be refused, and the tree that they make.
fn accepted(layers: &[Vec<Step>]) -> (Vec<Vec<Step>>, BTreeMap<String, Thing>) {
    let mut model = Model::default();
    let mut kept = Vec::new();
    for layer in layers {
        model.touched.clear();
        let mut steps = Vec::new();
        for step in layer {
            let mut next = model.clone();
            if next.step(step).is_ok() {
                model = next;
                steps.push(step.clone());
            }
        }
        kept.push(steps);
    }
    (kept, model.things)
}

/// The archives of these layers. Each file's content is its number.
fn archives(layers: &[Vec<Step>]) -> Vec<Tar> {
    let mut files = 0;
    let mut archive = |tar: Tar, step: &Step| match step {
        Step::File(path) => {
            files += 1;
            tar.file(path, &files.to_string())
        }
        Step::Directory(path, mode) => {
            tar.member(&Member { name: path.as_bytes(), kind: b'5', mode: *mode, ..Member::default() })
        }
        Step::Symlink(path, text) => tar.symlink(path, text),
        Step::HardLink(path, target) => tar.hard_link(path, target),
        Step::Whiteout(path) => {
            let (parent, name) = path.rsplit_once('/').unwrap_or((".", path));
            tar.file(&format!("{parent}/.wh.{name}"), "")
        }
        Step::Opaque(path) => tar.file(&format!("{path}/.wh..wh..opq"), ""),
    };
    layers.iter().map(|layer| layer.iter().fold(Tar::new(), &mut archive)).collect()
}

/// The image as the model would have it.
fn observed(tree: &Tree) -> BTreeMap<String, Thing> {
    let things = tree.0.iter().filter(|(path, _)| !path.is_empty()).map(|(path, file)| {
        let text = String::from_utf8(file.content.clone()).unwrap();
        let thing = match file.mode & libc::S_IFMT {
            libc::S_IFDIR => Thing::Directory(file.mode & 0o7777),
            libc::S_IFLNK => Thing::Symlink(text),
            _ => Thing::File(text.parse().unwrap()),
        };
        (String::from_utf8(path.clone()).unwrap(), thing)
    });
    things.collect()
}

/// Bytes to put into an archive: where, what, and whether the header they are in is made right again.
fn damage() -> impl Strategy<Value = Vec<(prop::sample::Index, Vec<u8>, bool)>> {
    let bytes = prop_oneof![
        prop::collection::vec(any::<u8>(), 1..16),
        prop::sample::select(vec![
            b"../".to_vec(),
            b"/".to_vec(),
            b".wh.".to_vec(),
            b"\0".to_vec(),
            b"77777777777".to_vec()
        ]),
    ];
    prop::collection::vec((any::<prop::sample::Index>(), bytes, prop::bool::weighted(0.8)), 1..6)
}

fn damaged(mut archive: Vec<u8>, damage: &[(prop::sample::Index, Vec<u8>, bool)]) -> Vec<u8> {
    for (index, bytes, repair) in damage {
        let at = index.index(archive.len());
        let end = archive.len().min(at + bytes.len());
        archive[at..end].copy_from_slice(&bytes[..end - at]);
        let block = at / 512 * 512;
        if let Some(header) = archive.get_mut(block..block + 512).filter(|_| *repair) {
            header[148..156].fill(b' ');
            let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
            header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        }
    }
    archive
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_images_unpack_as_the_model_says(layers in layers()) {
        let (layers, things) = accepted(&layers);
        let tree = archives(&layers).into_iter().fold(Fixture::new(), Fixture::layer).tree();
        prop_assert_eq!(observed(&tree), things);
    }

    #[test]
    fn random_images_are_refused_when_the_model_says_so(layers in layers()) {
        let fixture = archives(&layers).into_iter().fold(Fixture::new(), Fixture::layer);
        prop_assert_eq!(fixture.unpack().is_ok(), expected(&layers).is_some());
    }

    #[test]
    fn damaged_images_give_an_error_or_a_whole_image(layers in layers(), damage in damage(), on in any::<prop::sample::Index>()) {
        let damaged_layer = on.index(layers.len());
        let archives = archives(&layers).into_iter().enumerate().map(|(number, tar)| {
            let bytes = tar.finish();
            if number == damaged_layer { damaged(bytes, &damage) } else { bytes }
        });
        let mut fixture = archives.fold(Fixture::new(), |fixture, bytes| fixture.bytes(&bytes));
        fixture.limits.entries = 1000;
        if let Ok((image, _)) = fixture.unpack() {
            Tree::read(&image);
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..3000), start in 0..4usize) {
        use protocol::spec::Compression;
        let magic: &[u8] = [&b""[..], b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"\x50\x2a\x4d\x18"][start];
        let bytes = [magic, &bytes].concat();
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let _ = Fixture::new().stored(compression, &bytes, b"").unpack();
        }
    }
}
