//! Images that try to get out, to break the unpacking, or to use the guest up. There is no file system to get out into;
//! that a path means what it should is checked all the same.

use super::tar::{Member, Tar, record};
use super::{Fixture, unpack_layers};

fn refused(tar: Tar, reason: &str) {
    let error = Fixture::new().layer(Tar::new().file("ok", "")).layer(tar).error();
    assert!(error.contains(reason), "{error}");
    assert!(error.to_lowercase().contains("layer 2 of 2"), "{error}");
}

#[test]
fn paths_upwards_stay_inside() {
    let tar = Tar::new()
        .file("../canary/file", "evil")
        .file("a/../../../canary/evil", "evil")
        .file("/canary/abs", "evil")
        .directory("../..")
        .file("../canary/.wh.x", "");
    let tree = Fixture::new().layer(tar).tree();
    assert_eq!(tree.names(), ["", "canary", "canary/abs", "canary/evil", "canary/file"]);
}

#[test]
fn links_out_stay_inside() {
    for text in ["../canary", "/../../../../canary", "../../../../../../../../../../tmp/.."] {
        let tar = Tar::new().symlink("out", text).file("out/evil", "evil").file("out/file", "evil");
        let tree = Fixture::new().layer(tar).layer(Tar::new().file("out/.wh.evil", "")).tree();
        assert_eq!(tree.content("out"), text);
    }
    let tree = Fixture::new().layer(Tar::new().symlink("out", "/etc/x").file("out/evil", "evil")).tree();
    assert_eq!(tree.names(), ["", "etc", "etc/x", "etc/x/evil", "out"]);
}

#[test]
fn links_swapped_for_directories_stay_inside() {
    // A directory that was opened, then replaced by a link out, then written through.
    let tar = Tar::new()
        .directory("d")
        .file("d/1", "")
        .symlink("d", "../canary")
        .file("d/2", "evil")
        .directory("d")
        .file("d/3", "");
    let tree = Fixture::new().layer(tar).tree();
    assert_eq!(tree.names(), ["", "canary", "canary/2", "d", "d/3"]);
}

#[test]
fn files_are_never_written_through_a_link() {
    let tar = Tar::new().symlink("f", "../canary/file").file("f", "evil");
    assert_eq!(Fixture::new().layer(tar).tree().content("f"), "evil");
    // Nor attributes, owners and times.
    let tar = Tar::new().symlink("f", "../canary/file").member(&Member {
        name: b"g",
        kind: b'1',
        link: b"f",
        uid: 1,
        mode: 0o777,
        ..Member::default()
    });
    assert_eq!(Fixture::new().layer(tar).tree().content("g"), "../canary/file");
}

#[test]
fn hard_links_out_lead_nowhere() {
    for target in ["../canary/file", "/canary/file", "/etc/passwd", "../../../../../../etc/passwd", "out/file"] {
        let tar = Tar::new().symlink("out", "../canary").hard_link("h", target);
        refused(tar, &format!("its hard link target \"{target}\" does not exist"));
    }
    refused(Tar::new().hard_link("h", "h"), "does not exist");
    refused(Tar::new().directory("d").hard_link("h", "d"), "is a directory");
    refused(Tar::new().hard_link("h", "/"), "is a directory");
    refused(Tar::new().file("d/f", "").hard_link("d", "d/f"), "does not exist");
}

#[test]
fn the_root_stays_a_directory() {
    for kind in [b'0', b'1', b'2', b'3', b'6'] {
        for name in ["", ".", "/", "..", "a/.."] {
            let member = Member { name: name.as_bytes(), kind, link: b"x", ..Member::default() };
            refused(Tar::new().member(&member), "the image's root can only be a directory");
        }
    }
}

#[test]
fn whiteouts_cannot_hide_directories_above() {
    for name in [".wh.", "d/.wh..", "d/.wh..."] {
        refused(Tar::new().file("d/f", "").file(name, ""), "the whiteout names no file");
    }
}

#[test]
fn names_that_cannot_be_are_refused() {
    refused(Tar::new().file(&"n".repeat(256), ""), "longer than 255 bytes");
    refused(Tar::new().file(&"n/".repeat(1001), ""), "more than the 1000 components");
    refused(Tar::new().file(&format!("{}/", "n".repeat(250)).repeat(17), ""), "longer than the 4000");
    refused(Tar::new().member(&Member { name: b"x", pax: &[("path", b"a\0b")], ..Member::default() }), "zero byte");
    refused(Tar::new().symlink("s", ""), "the symbolic link is empty");
    refused(Tar::new().symlink("s", &"t".repeat(4096)), "longer than 4095 bytes");
    // Through links a path may become longer than it was written.
    let long = format!("{}/", "n".repeat(200)).repeat(19);
    let tar = Tar::new()
        .directory(&long)
        .symlink("s", &long)
        .directory("s/mmmmmmmm")
        .file(&format!("s/{}", "x".repeat(200)), "");
    refused(tar, "longer than the 4000");
}

#[test]
fn loops_of_links_end() {
    refused(Tar::new().symlink("a", "b").symlink("b", "a").file("a/x", ""), "40 symbolic links");
}

#[test]
fn files_are_no_directories() {
    refused(Tar::new().file("ok/x", ""), "\"ok\" is not a directory");
    refused(Tar::new().symlink("l", "ok").file("l/y/x", ""), "\"ok\" is not a directory");
}

#[test]
fn device_tricks_are_refused_or_harmless() {
    let device = |device| Member { name: b"dev", kind: b'4', device, ..Member::default() };
    refused(Tar::new().member(&device((1 << 12, 0))), "a device number is out of range");
    refused(Tar::new().member(&device((0, 1 << 20))), "a device number is out of range");
    // A device cannot be written to: it is replaced.
    let tar = Tar::new().member(&device((7, 0))).file("dev", "content");
    assert_eq!(Fixture::new().layer(tar).tree().content("dev"), "content");
    let tar = Tar::new().member(&device((7, 0))).file("dev/x", "content");
    refused(tar, "\"dev\" is not a directory");
}

#[test]
fn other_types_are_refused_by_name() {
    refused(Tar::new().raw(b'7', b"c", b""), "entries of type \"7\" are not supported");
    refused(Tar::new().raw(b'S', b"s", b""), "sparse files");
    refused(Tar::new().raw(0xff, b"s", b""), "entries of type \"\\xff\"");
    let sparse: &[(&str, &[u8])] = &[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0")];
    refused(Tar::new().member(&Member { name: b"s", pax: sparse, ..Member::default() }), "sparse files");
}

#[test]
fn owners_out_of_range_are_refused() {
    for uid in [u64::from(u32::MAX), 1 << 32, u64::MAX >> 1] {
        refused(Tar::new().member(&Member { name: b"f", uid, ..Member::default() }), "out of range");
    }
    refused(Tar::new().member(&Member { name: b"f", pax: &[("gid", b"-1")], ..Member::default() }), "out of range");
}

#[test]
fn archives_that_end_early_are_refused() {
    let bytes = Tar::new().file("a", "0123456789").unfinished();
    for (length, reason) in [(100, "a block"), (512, "a file"), (515, "a file")] {
        let error = Fixture::new().bytes(&bytes[..length]).error();
        assert!(error.contains(reason), "{length}: {error}");
    }
    // Without the padding, and without an end, it is still whole.
    for length in [522, 1024] {
        assert_eq!(Fixture::new().bytes(&bytes[..length]).tree().content("a"), "0123456789");
    }
}

#[test]
fn broken_headers_are_refused() {
    let bytes = Tar::new().file("a", "x").file("b", "").finish();
    let mut wrong = bytes.clone();
    wrong[1024] = b'c';
    assert!(Fixture::new().bytes(&wrong).error().contains("checksum is wrong"));
    let hole = [&bytes[..1024], &[0; 512], &bytes[1024..]].concat();
    assert!(Fixture::new().bytes(&hole).error().contains("behind a block of zeros"));
    refused(Tar::new().raw(b'x', b"pax", b"nonsense"), "not made of records");
    refused(Tar::new().raw(b'x', b"pax", &record("size", b"-1")).file("a", ""), "size in a header is negative");
    refused(Tar::new().raw(b'x', b"pax", &record("mtime", b"now")).file("a", ""), "a time in an extended header");
    refused(Tar::new().raw(b'x', b"pax", &record("comment", &vec![b'x'; 1 << 20])).file("a", ""), "longer than 1 MiB");
}

#[test]
fn what_comes_behind_the_end_is_only_hashed() {
    let mut bytes = Tar::new().file("a", "").finish();
    bytes.extend(Tar::new().file("b", "").finish());
    bytes.extend(*b"anything");
    assert_eq!(Fixture::new().bytes(&bytes).tree().names(), ["", "a"]);
}

#[test]
fn limits_hold() {
    let files = |count| (0..count).fold(Tar::new(), |tar, number| tar.file(&format!("f{number}"), ""));
    let mut fixture = Fixture::new().layer(files(6)).layer(files(5));
    fixture.limits.entries = 10;
    assert!(fixture.error().contains("more than 10 entries"));

    let mut fixture = Fixture::new().layer(Tar::new().file("a/b/c/d/e", ""));
    fixture.limits.entries = 4;
    assert!(fixture.error().contains("more than 4 entries"));

    let mut fixture = Fixture::new().layer(files(1)).layer(files(100));
    fixture.limits.bytes = 10_000;
    assert!(fixture.error().contains("larger than 10000 bytes"));

    let mut fixture = Fixture::new().layer(files(100));
    fixture.limits.memory = 20_000;
    assert!(fixture.error().contains("take more than the 0 MiB of memory"));
    // Attributes and links count as well.
    let large = vec![b'x'; 60_000];
    let pax: &[(&str, &[u8])] = &[("SCHILY.xattr.user.a", &large)];
    let mut fixture = Fixture::new().layer(Tar::new().member(&Member { name: b"f", pax, ..Member::default() }));
    fixture.limits.memory = 50_000;
    assert!(fixture.error().contains("names and attributes take more"));

    let content = vec![b'x'; 100_000];
    let large = Member { name: b"f", content: &content, ..Member::default() };
    let mut fixture = Fixture::new().layer(Tar::new().member(&large));
    fixture.limits.image_bytes = 64 << 10;
    assert!(fixture.error().contains("the unpacked image would be larger than 65536 bytes"));

    // A file that claims 10 GiB and has nothing.
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..1].copy_from_slice(b"a");
    header.set_mode(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.as_old_mut().linkflag = *b"0";
    header.set_size(10 << 30);
    header.set_cksum();
    assert!(Fixture::new().bytes(header.as_bytes()).error().contains("in the middle of a file"));
}

/// A stream that becomes a thousand times as long.
#[test]
fn a_bomb_ends_at_the_limit_and_is_not_read_to_its_end() {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..1].copy_from_slice(b"a");
    header.set_mode(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.as_old_mut().linkflag = *b"0";
    header.set_size(10 << 30);
    header.set_cksum();
    encoder.write_all(header.as_bytes()).unwrap();
    let piece = vec![0; 1 << 20];
    (0..512).for_each(|_| encoder.write_all(&piece).unwrap());
    let mut fixture = Fixture::new().stored(protocol::spec::Compression::Gzip, &encoder.finish().unwrap(), b"");
    fixture.limits.bytes = 16 << 20;
    let result = unpack_layers(&fixture.device(), &fixture.layers, NoData, &fixture.limits, &mut |_| {});
    let error = result.map(|_| ()).unwrap_err().to_string();
    assert_eq!(
        error,
        "Entry \"a\" of layer 1 of 1 can't be unpacked: the image is larger than 16777216 bytes uncompressed"
    );
}

/// An output for an image in which nothing is written before its end.
#[derive(Debug)]
struct NoData;

impl erofs::Output for NoData {
    fn write_at(&mut self, _: u64, _: &[u8]) -> std::io::Result<()> {
        panic!("zeros are not written")
    }

    fn discard(&mut self, _: u64, _: u64) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn an_error_names_layer_and_entry_in_one_printable_sentence() {
    let tar = Tar::new().member(&Member { name: b"bad\n\x1b[2J\xff", kind: b'1', link: b"gone", ..Member::default() });
    assert_eq!(
        Fixture::new().layer(Tar::new()).layer(tar).error(),
        "Entry \"bad\\n\\x1b[2J\\xff\" of layer 2 of 2 can't be unpacked: its hard link target \"gone\" does not exist"
    );
}
