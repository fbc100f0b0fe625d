//! Roots on this machine: an image of ours mounted from a file, in a thread with a mount namespace of its own. Needs root.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use erofs::{Attributes, InodeId, Options, Special, Writer};
use nix::sched::{CloneFlags, unshare};
use protocol::spec::{EtcFile, ImageDevice, Mount, Root, TaskSpec, TmpfsMount};

use super::*;

type Image = Writer<Vec<u8>>;

fn attributes(mode: u16, uid: u32) -> Attributes {
    let mtime = erofs::Time { seconds: 1_000_000_000, nanoseconds: 7 };
    Attributes { mode, uid, mtime, ..Attributes::default() }
}

fn directory(image: &mut Image, parent: InodeId, name: &str) -> InodeId {
    let inode = image.directory(attributes(0o750, 33)).unwrap();
    image.link(parent, name.as_bytes(), inode).unwrap();
    inode
}

fn file(image: &mut Image, parent: InodeId, name: &str, content: &str) {
    let mut file = image.file(attributes(0o644, 0)).unwrap();
    file.write(content.as_bytes()).unwrap();
    let inode = file.finish().unwrap();
    image.link(parent, name.as_bytes(), inode).unwrap();
}

fn symlink(image: &mut Image, parent: InodeId, name: &str, target: &str) {
    let inode = image.symlink(target.as_bytes(), attributes(0o777, 0)).unwrap();
    image.link(parent, name.as_bytes(), inode).unwrap();
}

/// An image with a file and a device node, and what `fill` adds, as a root in a place of its own. `check` sees the root.
fn with_root(
    spec: TaskSpec,
    fill: impl FnOnce(&mut Image) + Send + 'static,
    check: impl FnOnce(&Path, Result<Vec<String>, RootError>) + Send + 'static,
) {
    let checked = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).expect("these tests need root");
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        let base = tempfile::tempdir().unwrap();
        mount(Some("tmpfs"), base.path(), Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        let mut image = Image::new(Vec::new(), Options::default());
        image.set_attributes(InodeId::ROOT, attributes(0o711, 5)).unwrap();
        file(&mut image, InodeId::ROOT, "file", "of the image");
        let null = image.special(Special::CharDevice { major: 1, minor: 3 }, attributes(0o666, 0)).unwrap();
        image.link(InodeId::ROOT, b"null", null).unwrap();
        fill(&mut image);
        let path = base.path().join("image.erofs");
        fs::write(&path, image.finish().unwrap().0).unwrap();
        let device = attach(&path);
        let image = ImageDevice { path: device.clone(), dax: spec.root.image.dax };
        let spec = TaskSpec { root: Root { image, ..spec.root.clone() }, ..spec };
        let places = Places::new(base.path());
        let aside = base.path().join("container");
        fs::create_dir(&aside).unwrap();
        let skeleton = Skeleton::build(&aside).unwrap();
        let result = mount_root(&places, &spec, 64 << 20, &skeleton);
        // It goes when nothing is mounted from it any more.
        losetup(&["--detach", &device]);
        check(places.root(), result);
        let _ = nix::mount::umount2(base.path(), nix::mount::MntFlags::MNT_DETACH);
    });
    if let Err(panic) = checked.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A loop device with this file: not every kernel mounts EROFS from a file itself.
fn attach(file: &Path) -> String {
    losetup(&["--find", "--show", "--read-only", file.to_str().unwrap()]).trim().to_owned()
}

fn losetup(arguments: &[&str]) -> String {
    let output = Command::new("losetup").args(arguments).output().unwrap();
    assert!(output.status.success(), "losetup {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn volume(path: &str) -> Mount {
    Mount::Volume { path: path.into() }
}

fn tmpfs(path: &str) -> Mount {
    Mount::Tmpfs(TmpfsMount { path: path.into(), size: Some(1 << 20), mode: 0o1777, ..TmpfsMount::default() })
}

fn etc(path: &str) -> EtcFile {
    EtcFile { path: path.into(), content: b"ours".to_vec(), mode: 0o644 }
}

fn with_mounts(mounts: &[Mount]) -> TaskSpec {
    TaskSpec { mounts: mounts.to_vec(), ..TaskSpec::default() }
}

fn with_files(paths: &[&str]) -> TaskSpec {
    TaskSpec { files: paths.iter().map(|path| etc(path)).collect(), ..TaskSpec::default() }
}

fn read(root: &Path, path: &str) -> String {
    fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn options(path: &Path) -> String {
    let mounts = fs::read_to_string("/proc/thread-self/mounts").unwrap();
    let found = mounts.lines().rev().find(|line| line.split(' ').nth(1) == path.to_str());
    found.unwrap_or_else(|| panic!("{} is not mounted in {mounts}", path.display())).to_owned()
}

fn make_read_only(root: &Path) {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | MsFlags::MS_NODEV;
    mount(None::<&str>, root, None::<&str>, flags, None::<&str>).unwrap();
}

#[test]
fn a_root_shows_the_image_takes_writes_and_has_no_devices() {
    with_root(
        TaskSpec::default(),
        |_| {},
        |root, result| {
            assert_eq!(result.unwrap(), [] as [String; 0]);
            let metadata = fs::metadata(root).unwrap();
            assert_eq!((metadata.mode() & 0o7777, metadata.uid()), (0o711, 5));
            assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (1_000_000_000, 7));
            assert_eq!(read(root, "file"), "of the image");
            fs::write(root.join("file"), "changed").unwrap();
            assert_eq!(read(root, "file"), "changed");
            assert!(fs::metadata(root.join("null")).unwrap().file_type().is_char_device());
            assert_eq!(fs::read(root.join("null")).unwrap_err().raw_os_error(), Some(libc::EACCES));
            assert!(options(root).contains("nodev"), "{}", options(root));
        },
    );
}

#[test]
fn an_image_that_cannot_be_mapped_is_mounted_with_a_warning_or_quietly_by_the_kernel() {
    let mut spec = TaskSpec::default();
    spec.root.image.dax = true;
    with_root(
        spec,
        |_| {},
        |root, result| {
            // Linux falls back by itself for what is not memory, or refuses; both must lead to a root.
            let warnings = result.unwrap();
            assert!(warnings.iter().all(|warning| warning.contains("DAX")), "{warnings:?}");
            assert_eq!(read(root, "file"), "of the image");
        },
    );
}

#[test]
fn a_volume_keeps_its_content_and_takes_writes_in_a_read_only_root() {
    let fill = |image: &mut Image| {
        let data = directory(image, InodeId::ROOT, "data");
        file(image, data, "kept", "content");
        symlink(image, InodeId::ROOT, "link", "/../data");
        file(image, data, "other", "x");
    };
    let mounts = [volume("/link"), volume("/new/deep")];
    with_root(with_mounts(&mounts), fill, |root, result| {
        result.unwrap();
        make_read_only(root);
        assert_eq!(read(root, "data/kept"), "content");
        fs::write(root.join("data/kept"), "changed").unwrap();
        fs::remove_file(root.join("data/other")).unwrap();
        let metadata = fs::metadata(root.join("data")).unwrap();
        assert_eq!((metadata.mode() & 0o7777, metadata.uid()), (0o750, 33));
        fs::write(root.join("new/deep/file"), "x").unwrap();
        assert_eq!(fs::write(root.join("file"), "x").unwrap_err().raw_os_error(), Some(libc::EROFS));
        for place in ["data", "new/deep"] {
            assert!(options(&root.join(place)).contains("nodev"));
        }
    });
}

#[test]
fn parents_come_first_and_memory_takes_the_place_of_a_volume() {
    let fill = |image: &mut Image| {
        let data = directory(image, InodeId::ROOT, "data");
        let sub = directory(image, data, "sub");
        file(image, sub, "kept", "content");
        let scratch = directory(image, InodeId::ROOT, "scratch");
        file(image, scratch, "hidden", "x");
    };
    let mounts = [volume("/data/sub/"), volume("/scratch"), tmpfs("/data"), tmpfs("//scratch")];
    with_root(with_mounts(&mounts), fill, |root, result| {
        result.unwrap();
        assert_eq!(read(root, "data/sub/kept"), "content");
        let scratch = options(&root.join("scratch"));
        assert!(scratch.starts_with("tmpfs ") && scratch.contains("nosuid,nodev,noexec"), "{scratch}");
        assert_eq!(fs::read_dir(root.join("scratch")).unwrap().count(), 0);
        assert_eq!(fs::metadata(root.join("scratch")).unwrap().mode() & 0o7777, 0o1777);
        assert!(fs::write(root.join("scratch/big"), vec![0; 2 << 20]).is_err());
    });
}

#[test]
fn files_go_where_links_lead_inside_the_root() {
    let fill = |image: &mut Image| {
        let etc = directory(image, InodeId::ROOT, "etc");
        file(image, etc, "hosts", "of the image");
        symlink(image, etc, "resolv.conf", "../run/systemd/resolve.conf");
        symlink(image, etc, "hostname", "/../../../../out/hostname");
    };
    with_root(with_files(&["/etc/hosts", "/etc/resolv.conf", "/etc/hostname"]), fill, |root, result| {
        result.unwrap();
        make_read_only(root);
        for place in ["etc/hosts", "run/systemd/resolve.conf", "out/hostname"] {
            assert_eq!(read(root, place), "ours", "{place}");
            fs::write(root.join(place), "changed").unwrap();
        }
        assert!(!Path::new("/out").exists());
    });
}

#[test]
fn shared_memory_may_have_another_size_and_file_systems_in_it() {
    // What the image has there leads nowhere: the container's own /dev covers it.
    let fill = |image: &mut Image| {
        let dev = directory(image, InodeId::ROOT, "dev");
        symlink(image, dev, "shm", "/srv");
    };
    with_root(with_mounts(&[tmpfs("//dev/./shm/")]), fill, |root, result| {
        result.unwrap();
        assert!(options(&root.join("dev")).contains("nosuid"), "{}", options(&root.join("dev")));
        let shm = options(&root.join("dev/shm"));
        assert!(shm.contains("nosuid,nodev,noexec") && shm.contains("size=1024k"), "{shm}");
        assert!(!root.join("srv").exists());
    });
    with_root(with_mounts(&[tmpfs("/dev/shm/deep/er")]), fill, |root, result| {
        result.unwrap();
        let (shm, deeper) = (options(&root.join("dev/shm")), options(&root.join("dev/shm/deep/er")));
        assert!(shm.contains("size=65536k") && deeper.contains("size=1024k"), "{shm} {deeper}");
        let mounts = fs::read_to_string("/proc/thread-self/mounts").unwrap();
        assert_eq!(mounts.matches("rootfs/dev/shm ").count(), 1, "{mounts}");
    });
    let linked = |image: &mut Image| symlink(image, InodeId::ROOT, "dev", "/srv");
    with_root(with_mounts(&[tmpfs("/dev/shm")]), linked, |_, result| {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), FailureKind::Settings);
        assert!(error.to_string().contains("it is a symbolic link of the image"), "{error}");
    });
}

#[test]
fn what_an_image_makes_impossible_is_said_and_reaches_nothing_outside() {
    let fill = |image: &mut Image| {
        symlink(image, InodeId::ROOT, "etc", "/proc/self/root");
        symlink(image, InodeId::ROOT, "a", "b");
        symlink(image, InodeId::ROOT, "b", "a");
        symlink(image, InodeId::ROOT, "top", "..");
        directory(image, InodeId::ROOT, "directory");
    };
    for (spec, expected) in [
        (with_files(&["/etc/hosts"]), "/dev, /proc and /sys are there"),
        (with_files(&["/directory"]), "the image has a directory there"),
        (with_files(&["/file/hosts"]), "something else than a directory"),
        (with_files(&["etc/hosts"]), "not absolute"),
        (with_mounts(&[volume("/a/x")]), "40 symbolic links"),
        (with_mounts(&[volume("/file")]), "something else than a directory"),
        (with_mounts(&[volume("/")]), "it is the root itself"),
        (with_mounts(&[tmpfs("/top")]), "it is the root itself"),
        (with_mounts(&[tmpfs("/dev")]), "/dev, /proc and /sys are there"),
        (with_mounts(&[tmpfs("/dev/shm"), tmpfs("/dev/mqueue")]), "/dev, /proc and /sys are there"),
        (with_mounts(&[tmpfs("/dev/shm/../pts")]), "/dev, /proc and /sys are there"),
        (with_mounts(&[volume("/dev/shm")]), "/dev, /proc and /sys are there"),
    ] {
        with_root(spec, fill, move |_, result| {
            let error = result.unwrap_err();
            assert_eq!(error.kind(), FailureKind::Settings);
            assert!(error.to_string().contains(expected), "{error}");
        });
    }
}

#[test]
fn the_writable_layer_leaves_a_reserve() {
    assert_eq!(upper_options(1 << 30), "mode=755,size=1040187392,nr_inodes=262144");
    assert_eq!(upper_options(0), "mode=755,size=4096,nr_inodes=1");
}

#[test]
fn paths_in_overlay_options_are_escaped() {
    assert_eq!(escape(&PathBuf::from("/a:b,c\\d")), b"/a\\:b\\,c\\\\d");
}
