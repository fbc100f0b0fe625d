//! Who holds what, across threads, copies of descriptors and processes.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

const ALL: PruneOptions = PruneOptions { all: true, keep_storage: None };

/// A descriptor that another process has is the same open file, whether it came by SCM_RIGHTS or as its standard input:
/// so is the lock.
#[test]
fn a_lock_lives_as_long_as_any_process_has_the_file() {
    let (_temp, store) = store_of_many();
    let blob = store.put(b"text").unwrap();
    let digest = blob.digest;
    let copy = blob.file.try_clone().unwrap();
    let mut child = spawn(Command::new("sleep").arg("1000").stdin(Stdio::from(copy)));
    drop(blob);
    assert_eq!(store.prune(&ALL).unwrap().in_use, [digest.to_string()]);
    child.kill().unwrap();
    child.wait().unwrap();
    let _calm = calm();
    assert_eq!(store.prune(&ALL).unwrap().blobs, [digest]);
}

#[test]
fn a_copy_in_the_same_process_counts_too() {
    let (_temp, store) = store();
    let blob = store.put(b"text").unwrap();
    let (copy, clone) = (blob.file.try_clone().unwrap(), blob.clone());
    drop(blob);
    assert_eq!(store.prune(&ALL).unwrap().in_use.len(), 1);
    drop(clone);
    assert_eq!(store.prune(&ALL).unwrap().in_use.len(), 1);
    drop(copy);
    assert_eq!(store.prune(&ALL).unwrap().blobs.len(), 1);
}

/// The virtual machine that writes an output may outlive the process that started it.
#[test]
fn an_output_that_somebody_still_writes_is_not_taken_over() {
    let (_temp, store) = store_of_many();
    let path = store.building_path(&"0".repeat(64));
    // A builder that dies doesn't unlock: the descriptor is just closed.
    let output = File::create(&path).unwrap();
    output.lock().unwrap();
    let mut child = spawn(Command::new("sleep").arg("1000").stdin(Stdio::from(output)));
    assert_eq!(store.prune(&ALL).unwrap().in_use, [path.display().to_string()]);
    child.kill().unwrap();
    child.wait().unwrap();
    let _calm = calm();
    assert_eq!(store.prune(&ALL).unwrap().leftovers, [path]);
}

/// Whoever gets a file from the store has the right one, and it stays as long as it is held.
#[test]
fn readers_race_with_the_collector() {
    let (_temp, store) = store();
    let end = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let store = Store::open(store.root()).unwrap();
                while !end.load(Ordering::Relaxed) {
                    store.prune(&ALL).unwrap();
                    if let Err(error) = store.remove("app", true) {
                        let harmless = matches!(error, StoreError::InUse { .. } | StoreError::NoSuchImage(_));
                        assert!(harmless, "{error:?}");
                    }
                }
            });
        }
        let readers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let store = Store::open(store.root()).unwrap();
                    for _ in 0..60 {
                        read_once(&store);
                    }
                })
            })
            .collect();
        let results: Vec<_> = readers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        end.store(true, Ordering::Relaxed);
        assert!(results.iter().all(Result::is_ok));
    });
    assert_valid(&store);
}

/// Pulls, opens and builds. Between these steps the collector may take everything.
fn read_once(store: &Store) {
    let stored = pull(store, "app", &["base", "top"]).unwrap();
    let image = match store.open_image(&stored) {
        Ok(image) => image,
        Err(StoreError::Image { .. }) => return,
        Err(error) => panic!("{error:?}"),
    };
    let key = RootfsKey::of(&image.layers);
    let rootfs = build(store, &key, b"image", Some(&stored.manifest));
    assert_eq!(content(&image.layers[1].file), b"top");
    assert!(store.blob_path(&Digest::of(b"top")).exists());
    assert_eq!(&content(&rootfs.file)[..5], b"image");
    let path = store.rootfs_path(&key.hex());
    assert!(lock::names(&path, &rootfs.file).unwrap(), "it is in use and yet was removed or replaced");
    assert!(store.rootfs(&key).unwrap().is_some());
}
