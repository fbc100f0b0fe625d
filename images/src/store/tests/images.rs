//! Names, what is shown of images, removing, pruning, verifying, saving.

use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::Reference;

#[test]
fn a_name_means_an_image_until_it_means_another() {
    let (_temp, store) = store();
    assert!(store.find(&name("app")).unwrap().is_none());
    let first = pull(&store, "app", &["one"]).unwrap();
    assert_eq!(first.name, "docker.io/library/app:latest");
    assert_eq!(store.find(&name("docker.io/library/app")).unwrap(), Some(first.clone()));
    let second = pull(&store, "app", &["two"]).unwrap();
    assert_ne!(first.manifest, second.manifest);
    assert_eq!(store.images().unwrap().as_slice(), std::slice::from_ref(&second));
    let image = store.open_image(&second).unwrap();
    assert_eq!((image.digest, image.layers.len()), (second.manifest, 1));
    assert_eq!(content(&image.layers[0].file), b"two");
    assert_eq!(image.layers[0].digest, Some(Digest::of(b"two")));
    assert_valid(&store);
    // The first is nobody's now.
    assert_eq!(store.prune(&PruneOptions::default()).unwrap().blobs.len(), 3);
}

#[test]
fn an_image_that_is_not_complete_gets_no_name() {
    let (_temp, store) = store();
    let parts = documents(&["one", "two"]);
    for bytes in &parts[..3] {
        store.put(bytes).unwrap();
    }
    let name = name("app");
    let new = NewImage { name: &name, manifest: Digest::of(&parts[0]), index: None, platform: Platform::host() };
    let error = store.tag(&new).unwrap_err();
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("is missing"), "{error:?}");
    assert!(store.images().unwrap().is_empty());
    store.put(&parts[3]).unwrap();
    let index = Some(Digest::of(b"not there"));
    assert!(matches!(store.tag(&NewImage { index, ..new.clone() }), Err(StoreError::Image { .. })));
    store.tag(&new).unwrap();
}

#[test]
fn the_list_tells_shared_from_unique() {
    let (_temp, store) = store();
    pull(&store, "a", &["base layer", "a"]).unwrap();
    let b = pull(&store, "b", &["base layer", "bb"]).unwrap();
    let summaries = store.summaries().unwrap();
    assert_eq!(summaries.iter().map(|summary| summary.shared).collect::<Vec<_>>(), [10, 10]);
    let documents: usize = documents(&["base layer", "bb"])[..2].iter().map(Vec::len).sum();
    assert_eq!(summaries[1].unique, documents as u64 + 2);
    assert!(summaries[1].rootfs.is_none());
    build(&store, &key_of(&store, &b), b"x", Some(&b.manifest));
    let details = store.inspect(&b).unwrap();
    assert_eq!(details.summary.rootfs.unwrap().length, 2 << 20);
    assert_eq!((details.layers.len(), details.config.cmd), (2, vec!["/bin/sh".to_owned()]));
}

#[test]
fn removing_takes_what_nobody_else_needs() {
    let (_temp, store) = store();
    let a = pull(&store, "a", &["base", "a"]).unwrap();
    pull(&store, "a:2", &["base", "a"]).unwrap();
    pull(&store, "b", &["base", "b"]).unwrap();
    let key = key_of(&store, &a);
    drop(build(&store, &key, b"x", Some(&a.manifest)));
    let first = store.remove("a", false).unwrap();
    assert_eq!(first.untagged, ["docker.io/library/a:latest"]);
    assert!(first.blobs.is_empty() && first.rootfs.is_empty() && first.freed == 0);
    let second = store.remove("a:2", false).unwrap();
    assert_eq!((second.blobs.len(), second.rootfs), (3, vec![key]));
    assert!(second.freed > 0 && !second.blobs.contains(&Digest::of(b"base")));
    assert!(store.rootfs(&key).unwrap().is_none());
    store.remove("b", false).unwrap();
    assert!(files(&store, "blobs/sha256").is_empty() && files(&store, "rootfs").is_empty());
    assert!(matches!(store.remove("b", true), Err(StoreError::NoSuchImage(_))));
}

#[test]
fn an_image_can_be_removed_by_its_digest() {
    let (_temp, store) = store();
    let image = pull(&store, "a", &["a"]).unwrap();
    pull(&store, "b", &["a"]).unwrap();
    let prefix = &image.manifest.hex()[..12];
    assert!(matches!(store.remove(prefix, false), Err(StoreError::Ambiguous { names, .. }) if names.len() == 2));
    for text in ["sha256:", "sha256:ab", "abc", "zzzzzz", "", "%%%%", "____"] {
        assert!(matches!(store.remove(text, true), Err(StoreError::NoSuchImage(_))), "{text}");
    }
    assert_eq!(store.remove(&format!("sha256:{prefix}"), true).unwrap().untagged.len(), 2);
    assert!(store.images().unwrap().is_empty());
}

#[test]
fn an_image_in_use_is_not_removed() {
    let (_temp, store) = store();
    let image = pull(&store, "a", &["a", "b"]).unwrap();
    let key = key_of(&store, &image);
    let rootfs = build(&store, &key, b"x", Some(&image.manifest));
    let all = PruneOptions { all: true, keep_storage: Some(0) };
    let other = Store::open(store.root()).unwrap();
    for _ in 0..2 {
        let error = other.remove("a", true).unwrap_err();
        assert!(error.to_string().contains("docker.io/library/a:latest is in use"), "{error}");
        let pruned = other.prune(&all).unwrap();
        assert_eq!((pruned.in_use, pruned.freed), (vec![image.name.clone()], 0));
        assert_eq!(store.images().unwrap().len(), 1);
        assert!(store.summaries().unwrap()[0].rootfs.is_some());
    }
    drop(rootfs);
    let layers = store.open_image(&image).unwrap();
    assert!(matches!(other.remove("a", true), Err(StoreError::InUse { .. })));
    drop(layers);
    assert_eq!(other.prune(&all).unwrap().untagged, [image.name]);
    assert!(files(&store, "blobs/sha256").is_empty() && files(&store, "rootfs").is_empty());
}

#[test]
fn pruning_removes_what_is_dead_and_keeps_the_rest() {
    let (_temp, store) = store();
    let image = pull(&store, "a", &["a"]).unwrap();
    let local = RootfsKey::of(&[layer("local", None, Compression::None)]);
    drop(build(&store, &local, b"x", None));
    let old = pull(&store, "b", &["b"]).unwrap();
    let orphan = key_of(&store, &old);
    drop(build(&store, &orphan, b"x", Some(&old.manifest)));
    pull(&store, "b", &["c"]).unwrap();
    let held = store.put(b"held by a pull").unwrap();
    drop(store.put(b"of a pull that died").unwrap());
    let mut running = partial(&store, b"running");
    running.write(b"run").unwrap();
    drop(partial(&store, b"dead"));
    std::fs::write(store.building_path(&"0".repeat(64)), "dead").unwrap();
    std::fs::write(store.rootfs_path(&"1".repeat(64)), "dead").unwrap();
    std::fs::write(store.root().join("rootfs/notes"), "not ours").unwrap();
    let leftovers = store.verify(false).unwrap().leftovers.len();
    let removed = store.prune(&PruneOptions::default()).unwrap();
    assert_eq!(removed.blobs.len(), 4, "three of the old image, one of the dead pull");
    assert_eq!(removed.leftovers.len(), 2);
    assert_eq!(removed.rootfs.len(), 2);
    assert!(removed.rootfs.contains(&orphan) && !removed.rootfs.contains(&local));
    assert_eq!(removed.in_use.len(), 2, "{:?}", removed.in_use);
    assert_eq!(leftovers, 10, "with the orphan's file it is a root file system, so it is none of them");
    assert!(store.blob(&held.digest).unwrap().is_some());
    assert!(store.root().join("rootfs/notes").exists());
    assert!(store.open_image(&image).is_ok() && store.rootfs(&local).unwrap().is_some());
    running.write(b"ning").unwrap();
    drop((running.commit().unwrap(), held));
    let all = store.prune(&PruneOptions { all: true, keep_storage: None }).unwrap();
    assert_eq!((all.untagged.len(), all.rootfs), (2, vec![local]));
    assert!(files(&store, "blobs/sha256").is_empty());
}

#[test]
fn the_least_recently_used_is_evicted_first() {
    let (_temp, store) = store();
    let big = |byte: u8| String::from_utf8(vec![byte; 1 << 20]).unwrap();
    let images = [b'a', b'b', b'c'].map(|byte| {
        let image = pull(&store, &format!("{}", char::from(byte)), &[&big(byte)]).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(5));
        image
    });
    store.open_image(&images[0]).unwrap();
    let size = store.real_size().unwrap();
    let removed = store.prune(&PruneOptions { all: false, keep_storage: Some(size) }).unwrap();
    assert!(removed.untagged.is_empty());
    let removed = store.prune(&PruneOptions { all: false, keep_storage: Some(size - (1 << 19)) }).unwrap();
    assert_eq!(removed.untagged, [images[1].name.clone()]);
    assert!(store.real_size().unwrap() <= size - (1 << 19));
    let held = store.open_image(&images[2]).unwrap();
    let removed = store.prune(&PruneOptions { all: false, keep_storage: Some(0) }).unwrap();
    assert_eq!((removed.untagged, removed.in_use), (vec![images[0].name.clone()], vec![images[2].name.clone()]));
    drop(held);
}

#[test]
fn what_is_damaged_is_found_and_repaired() {
    let (_temp, store) = store();
    let image = pull(&store, "a", &["a", "b"]).unwrap();
    let sound = pull(&store, "sound", &["b"]).unwrap();
    let key = key_of(&store, &image);
    drop(build(&store, &key, b"x", Some(&image.manifest)));
    let spoil = |path: &Path| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
        File::options().write(true).open(path).unwrap().write_all(b"X").unwrap();
    };
    spoil(&store.blob_path(&Digest::of(b"a")));
    spoil(&store.rootfs_path(&key.hex()));
    let expected = [Problem::DamagedBlob(Digest::of(b"a")), Problem::DamagedRootfs(key)];
    let report = store.verify(false).unwrap();
    assert_eq!((report.problems.as_slice(), report.is_valid()), (expected.as_slice(), false));
    let report = store.verify(true).unwrap();
    let missing = Problem::MissingBlob { image: image.name.clone(), blob: Digest::of(b"a") };
    assert_eq!(report.problems, [expected[0].clone(), missing, expected[1].clone()]);
    assert!(report.is_valid());
    assert_valid(&store);
    assert_eq!(store.images().unwrap(), [sound]);
    let again = pull(&store, "a", &["a", "b"]).unwrap();
    assert!(store.rootfs(&key_of(&store, &again)).unwrap().is_none());
    // A file that somebody removed.
    std::fs::remove_file(store.blob_path(&again.manifest)).unwrap();
    assert!(!store.verify(false).unwrap().is_valid());
    store.verify(true).unwrap();
    assert!(store.find(&name("a")).unwrap().is_none());
}

#[test]
fn a_missing_root_file_system_is_found_and_forgotten() {
    let (_temp, store) = store();
    let key = RootfsKey::of(&[layer("local", None, Compression::None)]);
    drop(build(&store, &key, b"x", None));
    std::fs::remove_file(store.rootfs_path(&key.hex())).unwrap();
    assert!(store.rootfs(&key).unwrap().is_none());
    assert_eq!(store.verify(true).unwrap().problems, [Problem::MissingRootfs(key)]);
    assert_valid(&store);
}

#[test]
fn a_saved_image_is_the_same_image() {
    let (temp, store) = store();
    let image = pull(&store, "localhost:5000/app:v1", &["one", "two", ""]).unwrap();
    let (mut first, mut second) = (Vec::new(), Vec::new());
    store.save(&image, &mut first).unwrap();
    store.save(&image, &mut second).unwrap();
    assert_eq!(first, second);
    let path = temp.path().join("saved.tar");
    std::fs::write(&path, first).unwrap();
    let reference = Reference::parse(&format!("oci-archive:{}:v1", path.display())).unwrap();
    let saved = crate::open(&reference).unwrap();
    assert_eq!(saved.digest, image.manifest);
    assert_eq!(RootfsKey::of(&saved.layers), key_of(&store, &image));
    verify_layers(&saved.layers).unwrap();
    assert!(String::from_utf8_lossy(&std::fs::read(&path).unwrap()).contains(MANIFEST));
    let mut full = File::options().write(true).open("/dev/full").unwrap();
    assert!(matches!(store.save(&image, &mut full), Err(StoreError::Archive(_))));
}

#[test]
fn an_index_that_is_newer_or_damaged_is_refused() {
    let (temp, store) = store();
    store.index().change(|transaction| transaction.pragma_update(None, "user_version", 99)).unwrap();
    let root = store.root().to_owned();
    drop(store);
    let error = Store::open(&root).unwrap_err();
    assert!(matches!(error, StoreError::Newer { found: 99, .. }), "{error}");
    let root = temp.path().join("other");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(root.join("index.db"), "this is some text and no database, for more than a page".repeat(99))
        .unwrap();
    let error = Store::open(&root).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("remove it"));
    std::fs::write(temp.path().join("file"), "").unwrap();
    assert!(matches!(Store::open(&temp.path().join("file/x")), Err(StoreError::Directory { .. })));
}

#[test]
fn many_can_make_the_store_at_once() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().join("images");
    let barrier = std::sync::Barrier::new(12);
    std::thread::scope(|scope| {
        for number in 0..12 {
            let (root, barrier) = (&root, &barrier);
            scope.spawn(move || {
                barrier.wait();
                pull(&Store::open(root).unwrap(), &format!("app{number}"), &["layer"]).unwrap();
            });
        }
    });
    let store = Store::open(&root).unwrap();
    assert_eq!(store.images().unwrap().len(), 12);
    assert_valid(&store);
}
