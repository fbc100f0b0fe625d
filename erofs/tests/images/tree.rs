//! A tree with one of everything, against all readers.

use erofs::{Attributes, Special, Time};

use super::model::{Make, Model, Part, Step, Tree, assert_same};
use super::{kernel, reader, tools};

/// A POSIX access control list as it is in an extended attribute: version 2, then tag, permissions and number.
fn access_list() -> Vec<u8> {
    let entries: [(u16, u16, u32); 5] =
        [(1, 7, u32::MAX), (2, 5, 1000), (4, 5, u32::MAX), (0x10, 5, u32::MAX), (0x20, 0, u32::MAX)];
    let encode = |(tag, permissions, id): (u16, u16, u32)| {
        [&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    [2_u32.to_le_bytes().to_vec(), entries.map(encode).concat()].concat()
}

/// `cap_net_raw+ep`.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn attributes(mode: u16, xattrs: &[(&str, &[u8])]) -> Attributes {
    Attributes {
        mode,
        uid: 70_000,
        gid: u32::MAX - 1,
        mtime: Time { seconds: -1, nanoseconds: 999_999_999 },
        xattrs: xattrs.iter().map(|(name, value)| (name.as_bytes().into(), (*value).into())).collect(),
    }
}

/// One of everything.
fn everything() -> (Vec<u8>, Tree, erofs::Summary) {
    let mut model = Model::new(Vec::new());
    let mut make = |directory, name: &str, what, attributes| {
        let step = Step::Make { directory, name: name.into(), what, attributes };
        model.step(&step).unwrap_or_else(|error| panic!("{name}: {error}"));
    };
    let list = access_list();
    let lists: [(&str, &[u8]); 3] =
        [("system.posix_acl_access", &list), ("system.posix_acl_default", &list), ("trusted.overlay.opaque", b"y")];
    // Directories are numbered from the root, in the order in which they are made.
    make(0, "directory", Make::Directory, attributes(0o7755, &lists));
    make(0, "second", Make::Directory, attributes(0o700, &lists));
    make(1, "inner", Make::Directory, attributes(0o1777, &[]));
    let shared = [("user.shared", &[b's'; 5000][..]), ("security.capability", &CAPABILITY)];
    make(1, "program", Make::File(vec![Part::Bytes { byte: b'p', length: 10_000 }]), attributes(0o4755, &shared));
    make(1, "other", Make::File(vec![Part::Bytes { byte: b'o', length: 4096 }]), attributes(0o755, &shared));
    let large = [("user.large", &[b'l'; 65_535][..]), ("user.empty", b"")];
    make(2, "large-xattr", Make::File(vec![Part::Bytes { byte: b'x', length: 1 }]), attributes(0o600, &large));
    make(2, "large-xattr-directory", Make::Directory, attributes(0o755, &large));
    make(2, "empty", Make::File(vec![]), attributes(0, &[]));
    let sparse = vec![Part::Skip(60_000), Part::Bytes { byte: b'm', length: 5 }, Part::Skip(60_000)];
    make(2, "sparse", Make::File(sparse), attributes(0o644, &[("user.a", b"1")]));
    for length in [1, 3900, 4032, 4033, 4095] {
        let target = Make::Symlink(vec![b't'; length]);
        make(3, &format!("link-{length}"), target, attributes(0o777, &[("trusted.t", b"1")]));
    }
    make(0, "null", Make::Special(Special::CharDevice { major: 1, minor: 3 }), attributes(0o666, &[]));
    make(0, "disk", Make::Special(Special::BlockDevice { major: 4095, minor: 0xf_ffff }), attributes(0o660, &[]));
    make(0, "pipe", Make::Special(Special::Fifo), attributes(0o600, &[("security.x", b"2")]));
    make(0, "socket", Make::Special(Special::Socket), attributes(0o600, &[]));
    // More than a block, several with long names, and names around the dots.
    for (directory, length) in [(1, 3), (2, 255)] {
        model.step(&Step::Fill { directory, count: 700, length }).unwrap();
    }
    for name in ["-", "+", "...", "..a", ".a", "\u{1}", "ä"] {
        model.step(&Step::Link { directory: 0, name: name.into(), target: 4 }).unwrap();
    }
    model.step(&Step::Change { target: 0, attributes: attributes(0o711, &[("user.root", b"r")]) }).unwrap();
    model.finish()
}

#[test]
fn erofs_rs_sees_everything() {
    let (image, tree, _) = everything();
    assert_same(&reader::read(&image), &tree, "erofs-rs");
}

#[test]
fn fsck_finds_everything_sound() {
    let (image, _, summary) = everything();
    tools::check(&image, &summary);
}

#[test]
fn the_kernel_sees_everything() {
    let (image, tree, _) = everything();
    if let Some(mount) = kernel::mount(&image) {
        assert_same(&mount.read(), &kernel::visible(&tree), "the kernel");
    }
}

/// The check can fail: a changed byte of the superblock, and of a directory.
#[test]
#[should_panic(expected = "fsck.erofs finds faults")]
fn fsck_sees_a_changed_superblock() {
    let (mut image, _, summary) = everything();
    image[1024 + 64] ^= 1;
    tools::check(&image, &summary);
}
