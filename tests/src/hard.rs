//! An image that is hard to unpack: every kind of entry, in three layers that take away from each other.
//!
//! What is right is what Debian's `umoci unpack` makes of it. Every directory is an entry of its own, since tools differ
//! in what they give to directories that are only implied.

use tar::EntryType;

use crate::layer::{Layer, Meta, mode};

/// The three layers, the lowest first.
#[must_use]
pub fn layers() -> [Layer; 3] {
    [lowest(), middle(), highest()]
}

/// A name of 240 bytes below a directory of 200: neither fits into a plain header.
fn long_name() -> String {
    format!("kinds/{}/{}", "d".repeat(200), "f".repeat(240))
}

fn lowest() -> Layer {
    let odd = Meta { mode: 0o640, uid: 1234, gid: 4_000_000_000 };
    let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    Layer::new()
        .directory("kinds/", mode(0o755))
        .file("kinds/plain", mode(0o644), "plain\n")
        .file("kinds/empty", mode(0o000), "")
        .file("kinds/owned", odd, vec![7; 70_000])
        .file("kinds/setuid", mode(0o4755), "#!/bin/sh\n")
        .file("kinds/setgid", Meta { mode: 0o2750, uid: 5, gid: 6 }, "x")
        .directory("kinds/sticky", mode(0o1777))
        .symlink("kinds/relative", "plain")
        .symlink("kinds/dangling", "/nowhere/at/all")
        .symlink("kinds/long-target", "t/".repeat(150))
        .hard_link("kinds/second-name", "kinds/plain")
        .hard_link("kinds/third-name", "kinds/second-name")
        .hard_link("kinds/link-to-link", "kinds/relative")
        .node(EntryType::Char, "kinds/null", mode(0o666), (1, 3))
        .node(EntryType::Block, "kinds/disk", mode(0o660), (8, 300))
        .node(EntryType::Fifo, "kinds/fifo", Meta { mode: 0o600, uid: 9, gid: 9 }, (0, 0))
        .directory(format!("kinds/{}/", "d".repeat(200)), mode(0o700))
        .file(long_name(), mode(0o644), "long\n")
        .file(b"kinds/not-utf8-\xff\xfe", mode(0o644), "bytes\n")
        .file("kinds/line\nbreak", mode(0o644), "odd\n")
        .pax(&[("mtime", b"1234567890.123456789"), ("SCHILY.xattr.user.note", b"kept\0whole")])
        .file("kinds/attributes", mode(0o644), "x")
        .pax(&[("SCHILY.xattr.security.capability", capability)])
        .file("kinds/capable", mode(0o755), "x")
        .pax(&[("path", "kinds/päx-näme".as_bytes()), ("uid", b"70000"), ("gid", b"80000")])
        .file("kinds/short", mode(0o644), "pax\n")
        .directory("kept/", mode(0o755))
        .file("kept/below", mode(0o644), "below\n")
        .file("kept/gone", mode(0o644), "gone\n")
        .directory("kept/gone-tree", mode(0o755))
        .file("kept/gone-tree/file", mode(0o644), "gone\n")
        .directory("opaque/", mode(0o755))
        .file("opaque/below", mode(0o644), "hidden\n")
        .directory("opaque/tree", mode(0o755))
        .file("opaque/tree/below", mode(0o644), "hidden\n")
        .directory("turns", mode(0o755))
        .directory("turns/directory-to-file", mode(0o755))
        .file("turns/directory-to-file/inside", mode(0o644), "hidden\n")
        .file("turns/file-to-directory", mode(0o644), "hidden\n")
        .symlink("turns/link-to-file", "elsewhere")
        .file("turns/rewritten", mode(0o600), "first\n")
        .hard_link("turns/rewritten-link", "turns/rewritten")
}

fn middle() -> Layer {
    Layer::new()
        .directory("kept/", Meta { mode: 0o750, uid: 3, gid: 4 })
        .file("kept/.wh.gone", mode(0o644), "")
        .file("kept/.wh.gone-tree", mode(0o644), "")
        .file("kept/added", mode(0o644), "added\n")
        .directory("opaque/", mode(0o711))
        .file("opaque/.wh..wh..opq", mode(0o644), "")
        .file("opaque/above", mode(0o644), "above\n")
        .directory("turns/", mode(0o755))
        .file("turns/directory-to-file", mode(0o644), "a file now\n")
        .directory("turns/file-to-directory", mode(0o755))
        .file("turns/file-to-directory/inside", mode(0o644), "a directory now\n")
        .file("turns/link-to-file", mode(0o644), "a file now\n")
        .file("turns/rewritten", mode(0o644), "second\n")
}

fn highest() -> Layer {
    Layer::new()
        .directory("kept/", mode(0o755))
        .file("kept/gone", mode(0o644), "back again\n")
        .hard_link("kept/linked-below", "kept/below")
        .directory("opaque/", mode(0o755))
        .directory("opaque/tree", mode(0o755))
        .file("opaque/tree/new", mode(0o644), "new\n")
}
