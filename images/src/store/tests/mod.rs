//! The store, alone and with other threads and processes.

mod blobs;
mod crash;
mod full;
mod images;
mod locks;
mod model;
mod rootfs;

use std::fs::File;
use std::io::Write as _;
use std::process::{Child, Command};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use tempfile::TempDir;

use super::*;
use crate::image::{Compression, LayerBlob};
use crate::name::Name;
use crate::platform::Platform;
use crate::testing::{OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, configuration};

/// A process that is being started has, until its program runs, copies of all descriptors of this one, with their locks.
/// Tests that see whether something is in use keep others from starting processes.
static SPAWNING: RwLock<()> = RwLock::new(());

/// As long as this lives no process is started.
pub(super) fn calm() -> RwLockReadGuard<'static, ()> {
    SPAWNING.read().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a process.
pub(super) fn spawn(command: &mut Command) -> Child {
    let _spawning = SPAWNING.write().unwrap_or_else(PoisonError::into_inner);
    command.spawn().unwrap()
}

/// Where a test's store is.
pub(super) struct Place {
    temp: TempDir,
    _calm: Option<RwLockReadGuard<'static, ()>>,
}

impl Place {
    pub(super) fn path(&self) -> &Path {
        self.temp.path()
    }
}

/// A new store, for a test that starts no process.
pub(super) fn store() -> (Place, Store) {
    new_store(Some(calm()))
}

/// A new store, for a test that starts processes.
pub(super) fn store_of_many() -> (Place, Store) {
    new_store(None)
}

fn new_store(calm: Option<RwLockReadGuard<'static, ()>>) -> (Place, Store) {
    let temp = tempfile::tempdir().unwrap();
    let store = Store::open(&temp.path().join("images")).unwrap();
    (Place { temp, _calm: calm }, store)
}

pub(super) fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

/// A descriptor as JSON.
fn descriptor(media_type: &str, bytes: &[u8]) -> String {
    format!(r#"{{"mediaType": "{media_type}", "digest": "{}", "size": {}}}"#, Digest::of(bytes), bytes.len())
}

/// The manifest, the configuration and the layers of an image with these layers.
pub(super) fn documents(layers: &[&str]) -> Vec<Vec<u8>> {
    let config = configuration(layers, "amd64").into_bytes();
    let descriptors: Vec<String> = layers.iter().map(|layer| descriptor(OCI_LAYER, layer.as_bytes())).collect();
    let manifest =
        format!(r#"{{"config": {}, "layers": [{}]}}"#, descriptor(OCI_CONFIG, &config), descriptors.join(", "));
    let layers = layers.iter().map(|layer| layer.as_bytes().to_vec());
    [manifest.into_bytes(), config].into_iter().chain(layers).collect()
}

/// Puts an image into the store, as a pull does.
pub(super) fn pull(store: &Store, text: &str, layers: &[&str]) -> Result<StoredImage, StoreError> {
    let blobs: Vec<Blob> = documents(layers).iter().map(|bytes| store.put(bytes)).collect::<Result<_, _>>()?;
    let (name, manifest) = (name(text), blobs[0].digest);
    store.tag(&NewImage { name: &name, manifest, index: None, platform: Platform::host() })
}

/// The manifest's media type, for those who need it.
pub(super) const MANIFEST: &str = OCI_MANIFEST;

/// A layer that no store holds.
pub(super) fn layer(content: &str, digest: Option<Digest>, compression: Compression) -> LayerBlob {
    let mut file = tempfile::tempfile().unwrap();
    write!(file, "before{content}").unwrap();
    let (length, diff_id) = (content.len() as u64, Digest::of(content.as_bytes()));
    LayerBlob { file: Arc::new(file), offset: 6, length, compression, digest, diff_id }
}

/// Builds a root file system with this content.
pub(super) fn build(store: &Store, key: &RootfsKey, content: &[u8], manifest: Option<&Digest>) -> Rootfs {
    match store.build_rootfs(key, &mut || {}).unwrap() {
        BuildRootfs::Present(rootfs) => rootfs,
        BuildRootfs::Build(build) => {
            build.output().write_all(content).unwrap();
            build.commit(content.len() as u64, manifest).unwrap()
        }
    }
}

/// The key of a stored image's root file system.
pub(super) fn key_of(store: &Store, image: &StoredImage) -> RootfsKey {
    RootfsKey::of(&store.open_image(image).unwrap().layers)
}

/// A download that has to be made.
pub(super) fn partial(store: &Store, bytes: &[u8]) -> Partial {
    match store.download(&Digest::of(bytes), bytes.len() as u64, &mut || {}).unwrap() {
        Download::Partial(partial) => partial,
        Download::Present(_) => panic!("the blob is there already"),
    }
}

/// What a file holds.
pub(super) fn content(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    std::os::unix::fs::FileExt::read_exact_at(file, &mut bytes, 0).unwrap();
    bytes
}

/// The files in a directory of the store.
pub(super) fn files(store: &Store, directory: &str) -> Vec<String> {
    let list = prune::list(&store.root().join(directory)).unwrap();
    list.iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
}

/// Nothing is wrong with the store.
#[track_caller]
pub(super) fn assert_valid(store: &Store) {
    let report = store.verify(false).unwrap();
    assert!(report.problems.is_empty(), "{report:?}");
}
