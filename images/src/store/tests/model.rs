//! Random sequences of operations, beside a model of the store.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const LAYERS: [&[&str]; 3] = [&["base", "x"], &["base", "y"], &["y"]];
const NAMES: [&str; 3] = ["a", "b", "c"];

#[derive(Clone, Debug)]
enum Operation {
    Pull { name: usize, image: usize },
    BreakOff { image: usize, blobs: usize },
    Build { image: usize, local: bool },
    HoldImage { name: usize },
    HoldRootfs { image: usize },
    Release,
    Remove { name: usize },
    Prune,
    PruneAll,
    Reopen,
}

fn operation() -> impl Strategy<Value = Operation> {
    let (name, image) = (|| 0..NAMES.len(), || 0..LAYERS.len());
    prop_oneof![
        4 => (name(), image()).prop_map(|(name, image)| Operation::Pull { name, image }),
        1 => (image(), 1..4_usize).prop_map(|(image, blobs)| Operation::BreakOff { image, blobs }),
        3 => (image(), any::<bool>()).prop_map(|(image, local)| Operation::Build { image, local }),
        2 => name().prop_map(|name| Operation::HoldImage { name }),
        2 => image().prop_map(|image| Operation::HoldRootfs { image }),
        2 => Just(Operation::Release),
        3 => name().prop_map(|name| Operation::Remove { name }),
        1 => Just(Operation::Prune),
        1 => Just(Operation::PruneAll),
        1 => Just(Operation::Reopen),
    ]
}

/// Digests of blobs and of keys.
type Held = BTreeSet<String>;

#[derive(Debug, Default)]
struct Model {
    names: BTreeMap<usize, usize>,
    blobs: BTreeSet<String>,
    /// Root file systems by their image, and whether they were made for it.
    rootfs: BTreeMap<usize, bool>,
    held: Vec<Held>,
}

fn blobs_of(image: usize) -> BTreeSet<String> {
    documents(LAYERS[image]).iter().map(|bytes| Digest::of(bytes).hex()).collect()
}

fn key(image: usize) -> RootfsKey {
    let layers = LAYERS[image].iter();
    let layers = layers.map(|text| layer(text, Some(Digest::of(text.as_bytes())), Compression::None));
    RootfsKey::of(&layers.collect::<Vec<_>>())
}

impl Model {
    fn is_held(&self, what: &str) -> bool {
        self.held.iter().any(|held| held.contains(what))
    }

    fn needed(&self) -> BTreeSet<String> {
        self.names.values().flat_map(|&image| blobs_of(image)).collect()
    }

    fn is_named(&self, image: usize) -> bool {
        self.names.values().any(|&named| named == image)
    }

    /// Removes a name. `false` when that is refused, because something that would go is in use.
    fn remove(&mut self, name: usize) -> bool {
        let Some(image) = self.names.remove(&name) else { return true };
        if self.is_named(image) {
            return true;
        }
        let garbage: Vec<String> = blobs_of(image).difference(&self.needed()).cloned().collect();
        let rootfs = self.rootfs.contains_key(&image) && self.is_held(&key(image).hex());
        if rootfs || garbage.iter().any(|blob| self.is_held(blob)) {
            self.names.insert(name, image);
            return false;
        }
        self.rootfs.remove(&image);
        self.blobs.retain(|blob| !garbage.contains(blob));
        true
    }

    fn prune(&mut self) {
        let needed = self.needed();
        let blobs = std::mem::take(&mut self.blobs);
        self.blobs = blobs.into_iter().filter(|blob| needed.contains(blob) || self.is_held(blob)).collect();
        let rootfs = std::mem::take(&mut self.rootfs);
        let stays =
            |&(image, made_for): &(usize, bool)| !made_for || self.is_named(image) || self.is_held(&key(image).hex());
        self.rootfs = rootfs.into_iter().filter(stays).collect();
    }
}

/// A store, and what is held of it.
struct Real {
    store: Store,
    held: Vec<(Vec<LayerBlob>, Option<Rootfs>)>,
}

fn step(real: &mut Real, model: &mut Model, operation: &Operation) {
    let store = &real.store;
    match *operation {
        Operation::Pull { name, image } => {
            pull(store, NAMES[name], LAYERS[image]).unwrap();
            model.names.insert(name, image);
            model.blobs.extend(blobs_of(image));
        }
        Operation::BreakOff { image, blobs } => {
            for bytes in documents(LAYERS[image]).iter().take(blobs) {
                model.blobs.insert(store.put(bytes).unwrap().digest.hex());
            }
        }
        Operation::Build { image, local } => {
            let manifest = Digest::of(&documents(LAYERS[image])[0]);
            build(store, &key(image), b"x", (!local).then_some(&manifest));
            model.rootfs.entry(image).or_insert(!local);
        }
        Operation::HoldImage { name } => {
            let Some(stored) = store.find(&super::name(NAMES[name])).unwrap() else { return };
            let layers = store.open_image(&stored).unwrap().layers;
            model.held.push(layers.iter().map(|layer| layer.diff_id.hex()).collect());
            real.held.push((layers, None));
        }
        Operation::HoldRootfs { image } => {
            let rootfs = store.rootfs(&key(image)).unwrap();
            assert_eq!(rootfs.is_some(), model.rootfs.contains_key(&image));
            if rootfs.is_some() {
                model.held.push([key(image).hex()].into());
                real.held.push((Vec::new(), rootfs));
            }
        }
        Operation::Release => drop((real.held.pop(), model.held.pop())),
        Operation::Remove { name } => match store.remove(NAMES[name], false) {
            Ok(_) => assert!(model.remove(name)),
            Err(StoreError::NoSuchImage(_)) => assert!(!model.names.contains_key(&name)),
            Err(StoreError::InUse { .. }) => assert!(!model.remove(name)),
            Err(error) => panic!("{error:?}"),
        },
        Operation::Prune => {
            store.prune(&PruneOptions::default()).unwrap();
            model.prune();
        }
        Operation::PruneAll => prune_all(store, model),
        Operation::Reopen => real.store = Store::open(store.root()).unwrap(),
    }
}

/// What goes depends on the order, because of what images share; whatever it is, it has to be free, and what stays has
/// to be in use.
fn prune_all(store: &Store, model: &mut Model) {
    let removed = store.prune(&PruneOptions { all: true, keep_storage: None }).unwrap();
    model.prune();
    let gone = |name: usize| removed.untagged.contains(&super::name(NAMES[name]).to_string());
    model.names.retain(|&name, _| !gone(name));
    for &image in model.names.values() {
        let used = blobs_of(image).iter().any(|blob| model.is_held(blob)) || model.is_held(&key(image).hex());
        assert!(used, "an image was kept that nobody uses");
    }
    let needed = model.needed();
    let (held, names) = (&model.held, &model.names);
    let is_held = |what: &str| held.iter().any(|held| held.contains(what));
    model.blobs.retain(|blob| needed.contains(blob) || is_held(blob));
    model.rootfs.retain(|&image, _| names.values().any(|&named| named == image) || is_held(&key(image).hex()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_sequence_of_operations_does_what_it_should(operations in prop::collection::vec(operation(), 1..24)) {
        let (_temp, store) = store();
        let (mut real, mut model) = (Real { store, held: Vec::new() }, Model::default());
        for operation in &operations {
            step(&mut real, &mut model, operation);
            let names: BTreeMap<String, Digest> =
                real.store.images().unwrap().into_iter().map(|image| (image.name, image.manifest)).collect();
            let expected = model.names.iter();
            let expected = expected.map(|(&name, &image)| {
                (super::name(NAMES[name]).to_string(), Digest::of(&documents(LAYERS[image])[0]))
            });
            prop_assert_eq!(names, expected.collect());
            prop_assert_eq!(files(&real.store, "blobs/sha256"), model.blobs.iter().cloned().collect::<Vec<_>>());
            let rootfs: BTreeSet<String> = files(&real.store, "rootfs").into_iter().collect();
            prop_assert_eq!(rootfs, model.rootfs.keys().map(|&image| format!("{}.erofs", key(image).hex())).collect());
        }
        assert_valid(&real.store);
    }
}
