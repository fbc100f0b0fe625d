//! Root file systems: keys, building, sharing.

use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::slice::from_ref;

use super::*;

fn key(text: &str) -> RootfsKey {
    RootfsKey::of(&[layer(text, None, Compression::None)])
}

#[test]
fn keys_follow_the_layers_and_their_order() {
    let a = || layer("a", Some(Digest::of(b"a")), Compression::None);
    let b = || layer("b", Some(Digest::of(b"b")), Compression::None);
    assert_eq!(RootfsKey::of(&[a(), b()]), RootfsKey::of(&[a(), b()]));
    assert_ne!(RootfsKey::of(&[a(), b()]), RootfsKey::of(&[b(), a()]));
    assert_ne!(RootfsKey::of(&[a()]), RootfsKey::of(&[a(), a()]));
    let unnamed = layer("a", None, Compression::None);
    assert_eq!(RootfsKey::of(&[unnamed]), RootfsKey::of(&[a()]), "stored as is, so the digests are the same");
}

/// A layer that says what it likes of its content must not get the key of one that has it.
#[test]
fn a_key_can_not_be_claimed() {
    let honest = LayerBlob { digest: Some(Digest::of(b"gzip of a")), ..layer("gzip of a", None, Compression::Gzip) };
    let honest = LayerBlob { diff_id: Digest::of(b"a"), ..honest };
    let liar = LayerBlob { file: layer("evil", None, Compression::Gzip).file, length: 4, ..honest.clone() };
    assert_eq!(RootfsKey::of(from_ref(&liar)), RootfsKey::of(from_ref(&honest)));
    verify_layers(from_ref(&honest)).unwrap();
    assert!(matches!(verify_layers(&[honest.clone(), liar.clone()]), Err(StoreError::Layer { .. })));
    let plain = LayerBlob { digest: None, compression: Compression::None, ..liar.clone() };
    assert!(matches!(verify_layers(&[plain]), Err(StoreError::Layer { .. })));
    let unnamed = |of: &LayerBlob| RootfsKey::of(&[LayerBlob { digest: None, ..of.clone() }]);
    assert_ne!(unnamed(&liar), unnamed(&honest), "each file for itself");
    assert_eq!(unnamed(&liar), unnamed(&liar));
    let short = LayerBlob { length: 100, ..honest };
    assert!(matches!(verify_layers(&[short]), Err(StoreError::ReadLayer { .. })));
}

#[test]
fn what_is_built_is_there_padded_and_protected() {
    let (_temp, store) = store();
    assert!(store.rootfs(&key("a")).unwrap().is_none());
    let BuildRootfs::Build(build) = store.build_rootfs(&key("a"), &mut || {}).unwrap() else { panic!("not built") };
    build.output().set_len(1 << 30).unwrap();
    build.output().write_all_at(b"image", 4096).unwrap();
    build.output().write_all_at(b"behind the end", 8192).unwrap();
    let built = build.commit(8192, None).unwrap();
    let rootfs = store.rootfs(&key("a")).unwrap().unwrap();
    assert_eq!((rootfs.length, rootfs.file.metadata().unwrap().len()), (2 << 20, 2 << 20));
    assert_eq!(rootfs.file.metadata().unwrap().ino(), built.file.metadata().unwrap().ino());
    let bytes = content(&rootfs.file);
    assert_eq!(&bytes[4096..4101], b"image");
    assert!(bytes[8192..].iter().all(|&byte| byte == 0));
    assert_eq!(rootfs.file.metadata().unwrap().permissions().mode() & 0o777, 0o400);
    assert!(rootfs.file.metadata().unwrap().blocks() * 512 < 1 << 20, "it stayed sparse");
    assert!(matches!(store.build_rootfs(&key("a"), &mut || {}).unwrap(), BuildRootfs::Present(_)));
    assert_valid(&store);
}

#[test]
fn a_build_that_is_given_up_leaves_nothing() {
    let (_temp, store) = store();
    let BuildRootfs::Build(build) = store.build_rootfs(&key("a"), &mut || {}).unwrap() else { panic!("not built") };
    build.output().set_len(1 << 30).unwrap();
    drop(build);
    assert!(files(&store, "rootfs").is_empty());
    let BuildRootfs::Build(build) = store.build_rootfs(&key("a"), &mut || {}).unwrap() else { panic!("not built") };
    assert!(matches!(build.commit(0, None), Err(StoreError::RootfsLength { .. })));
    assert!(files(&store, "rootfs").is_empty());
    let BuildRootfs::Build(build) = store.build_rootfs(&key("a"), &mut || {}).unwrap() else { panic!("not built") };
    assert!(matches!(build.commit(u64::MAX, None), Err(StoreError::RootfsLength { .. })));
}

#[test]
fn what_a_dead_builder_left_is_taken_over() {
    let (_temp, store) = store();
    let hex = key("a").hex();
    std::fs::write(store.building_path(&hex), "half").unwrap();
    std::fs::write(store.rootfs_path(&hex), "without a row").unwrap();
    assert!(store.rootfs(&key("a")).unwrap().is_none());
    let BuildRootfs::Build(build) = store.build_rootfs(&key("a"), &mut || {}).unwrap() else { panic!("not built") };
    assert_eq!(build.output().metadata().unwrap().len(), 0);
    build.output().write_all_at(b"x", 0).unwrap();
    build.commit(1, None).unwrap();
    assert_eq!(files(&store, "rootfs"), [format!("{hex}.erofs")]);
    assert_valid(&store);
}

#[test]
fn threads_build_once() {
    let (_temp, store) = store();
    let built = std::sync::atomic::AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| match Store::open(store.root()).unwrap().build_rootfs(&key("a"), &mut || {}).unwrap() {
                BuildRootfs::Present(rootfs) => assert_eq!(rootfs.length, 2 << 20),
                BuildRootfs::Build(build) => {
                    built.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    build.output().write_all_at(b"x", 0).unwrap();
                    build.commit(1, None).unwrap();
                }
            });
        }
    });
    assert_eq!(built.into_inner(), 1);
}

/// Not until whoever built it has used it to the end.
#[test]
fn who_waits_for_a_build_waits_until_it_is_complete() {
    let (_temp, store) = store();
    let BuildRootfs::Build(build) = store.build_rootfs(&key("a"), &mut || {}).unwrap() else { panic!("not built") };
    let (waits, waiting) = std::sync::mpsc::channel();
    let other = Store::open(store.root()).unwrap();
    let waiter = std::thread::spawn(move || {
        let present = other.build_rootfs(&key("a"), &mut || waits.send(()).unwrap()).unwrap();
        assert!(matches!(present, BuildRootfs::Present(_)));
    });
    waiting.recv().unwrap();
    build.output().write_all_at(b"x", 0).unwrap();
    let used = build.commit(1, None).unwrap();
    waiter.join().unwrap();
    drop(used);
}

#[test]
fn one_that_was_cut_short_is_not_handed_out() {
    let (_temp, store) = store();
    drop(build(&store, &key("a"), b"x", None));
    let path = store.rootfs_path(&key("a").hex());
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    File::options().write(true).open(&path).unwrap().set_len(4096).unwrap();
    assert!(matches!(store.rootfs(&key("a")), Err(StoreError::RootfsDamaged { .. })));
    assert_eq!(store.verify(true).unwrap().problems, [Problem::DamagedRootfs(key("a"))]);
    assert!(store.rootfs(&key("a")).unwrap().is_none());
    assert_valid(&store);
}
