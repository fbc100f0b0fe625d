//! A full disk: a small file system of its own, which only root can mount.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::Command;

use super::*;

/// A file system of 2 MiB.
struct Small {
    temp: TempDir,
}

impl Small {
    /// `None` when this process may not mount one, which is said.
    fn mount() -> Option<Self> {
        if fs::metadata("/proc/self").unwrap().uid() != 0 {
            eprintln!("NOT RUN: only root can mount the small file system that this test needs");
            return None;
        }
        let temp = tempfile::tempdir().unwrap();
        let mut command = Command::new("mount");
        let mut mount = spawn(command.args(["-t", "tmpfs", "-o", "size=2m", "none"]).arg(temp.path()));
        if mount.wait().is_ok_and(|status| status.success()) {
            return Some(Self { temp });
        }
        eprintln!("NOT RUN: the small file system that this test needs can't be mounted");
        None
    }

    fn root(&self) -> PathBuf {
        self.temp.path().join("images")
    }

    /// Fills what is left, and runs `action`.
    fn filled<T>(&self, action: impl FnOnce() -> T) -> T {
        let path = self.temp.path().join("filler");
        let mut filler = File::create(&path).unwrap();
        while filler.write_all(&[1; 4096]).is_ok() {}
        let result = action();
        fs::remove_file(path).unwrap();
        result
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = spawn(Command::new("umount").arg("-l").arg(self.temp.path())).wait();
    }
}

#[test]
fn a_download_that_does_not_fit_is_removed() {
    let Some(small) = Small::mount() else { return };
    let store = Store::open(&small.root()).unwrap();
    let image = pull(&store, "a", &["a"]).unwrap();
    let bytes = vec![1; 4 << 20];
    let mut download = partial(&store, &bytes);
    let error = bytes.chunks(1 << 16).find_map(|chunk| download.write(chunk).err()).expect("it does not fit");
    let StoreError::Full { directory, needed, .. } = &error else { panic!("{error:?}") };
    assert_eq!(directory, &store.partials());
    assert!(needed.is_some_and(|needed| (2 << 20..4 << 20).contains(&needed)), "{needed:?}");
    assert!(error.to_string().contains("taskrun image prune"), "{error}");
    drop(download);
    assert!(files(&store, "partial").is_empty());
    assert_valid(&store);
    pull(&store, "b", &["b"]).unwrap();
    assert!(store.open_image(&image).is_ok());
}

#[test]
fn a_full_disk_fails_a_pull_and_nothing_else() {
    let Some(small) = Small::mount() else { return };
    let store = Store::open(&small.root()).unwrap();
    let image = pull(&store, "a", &["a"]).unwrap();
    let key = key_of(&store, &image);
    drop(build(&store, &key, b"x", Some(&image.manifest)));
    let many: Vec<String> = (0..100).map(|number| format!("layer {number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let error = small.filled(|| {
        // What is there can be used.
        assert!(store.open_image(&image).is_ok() && store.rootfs(&key).unwrap().is_some());
        pull(&store, "b", &many).unwrap_err()
    });
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    assert_valid(&store);
    assert!(files(&store, "partial").is_empty());
    pull(&store, "b", &many).unwrap();
}

#[test]
fn a_root_file_system_that_does_not_fit_leaves_nothing() {
    let Some(small) = Small::mount() else { return };
    let store = Store::open(&small.root()).unwrap();
    let key = RootfsKey::of(&[layer("a", None, Compression::None)]);
    let BuildRootfs::Build(build) = store.build_rootfs(&key, &mut || {}).unwrap() else { panic!("not built") };
    assert!(build.output().write_all(&vec![1; 4 << 20]).is_err());
    drop(build);
    assert!(files(&store, "rootfs").is_empty());
    assert_valid(&store);
}
