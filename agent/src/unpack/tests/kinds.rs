//! Every kind of entry arrives with everything that it says.

use super::Fixture;
use super::tar::{Member, Tar, record};
use super::tree::File;

const FILE: u32 = libc::S_IFREG;
const DIRECTORY: u32 = libc::S_IFDIR;

fn expected(mode: u32) -> File {
    File {
        mode,
        owner: (0, 0),
        mtime: (1_000_000_000, 0),
        device: (0, 0),
        xattrs: Vec::new(),
        content: Vec::new(),
        first: Vec::new(),
    }
}

#[test]
fn every_kind_arrives_with_all_that_it_says() {
    let owned = |name, kind, mode| Member { name, kind, mode, uid: 1000, gid: 70_000, ..Member::default() };
    let tar = Tar::new()
        .member(&Member { content: b"hello", ..owned(b"file", b'0', 0o4751) })
        .member(&owned(b"dir/", b'5', 0o3777))
        .member(&Member { link: b"/any where", ..owned(b"sym", b'2', 0o777) })
        .member(&Member { device: (1, 3), ..owned(b"chr", b'3', 0o666) })
        .member(&Member { device: (8, 300), ..owned(b"blk", b'4', 0o660) })
        .member(&owned(b"fifo", b'6', 0o622))
        .member(&Member { mode: 0, ..owned(b"none", b'0', 0) })
        .hard_link("second", "file")
        .hard_link("sym2", "sym");
    let tree = Fixture::new().layer(tar).tree();
    let owner = (1000, 70_000);
    for (name, first, expected) in [
        ("file", "file", File { owner, content: b"hello".to_vec(), ..expected(FILE | 0o4751) }),
        ("second", "file", File { owner, content: b"hello".to_vec(), ..expected(FILE | 0o4751) }),
        ("dir", "dir", File { owner, ..expected(DIRECTORY | 0o3777) }),
        ("sym", "sym", File { owner, content: b"/any where".to_vec(), ..expected(libc::S_IFLNK | 0o777) }),
        ("sym2", "sym", File { owner, content: b"/any where".to_vec(), ..expected(libc::S_IFLNK | 0o777) }),
        ("chr", "chr", File { owner, device: (1, 3), ..expected(libc::S_IFCHR | 0o666) }),
        ("blk", "blk", File { owner, device: (8, 300), ..expected(libc::S_IFBLK | 0o660) }),
        ("fifo", "fifo", File { owner, ..expected(libc::S_IFIFO | 0o622) }),
        ("none", "none", File { owner, ..expected(FILE) }),
    ] {
        assert_eq!(tree.get(name), &File { first: first.into(), ..expected }, "{name}");
    }
    // No entry describes the root.
    assert_eq!(tree.get(""), &File { mtime: (0, 0), ..expected(DIRECTORY | 0o755) });
}

#[test]
fn extended_attributes_arrive_on_every_kind_that_can_hold_them() {
    let capability = b"\x01\0\0\x02\x0a\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let user: &[(&str, &[u8])] = &[("SCHILY.xattr.user.b", b"2\n3"), ("SCHILY.xattr.user.a", b"1")];
    let trusted: &[(&str, &[u8])] = &[("SCHILY.xattr.trusted.t", b"\xff")];
    let tar = Tar::new()
        .member(&Member {
            name: b"file",
            uid: 5,
            mode: 0o2755,
            pax: &[("SCHILY.xattr.security.capability", capability)],
            content: b"x",
            ..Member::default()
        })
        .member(&Member { name: b"dir", kind: b'5', pax: user, ..Member::default() })
        .member(&Member { name: b"sym", kind: b'2', link: b"x", pax: trusted, ..Member::default() })
        .member(&Member { name: b"fifo", kind: b'6', pax: trusted, ..Member::default() })
        .member(&Member { name: b".", kind: b'5', mode: 0o700, pax: user, ..Member::default() });
    let tree = Fixture::new().layer(tar).tree();
    assert_eq!(tree.get("file").xattrs, [(b"security.capability".to_vec(), capability.to_vec())]);
    assert_eq!(tree.mode("file"), 0o2755);
    let user = [(b"user.a".to_vec(), b"1".to_vec()), (b"user.b".to_vec(), b"2\n3".to_vec())];
    assert_eq!(tree.get("dir").xattrs, user);
    assert_eq!(tree.get("").xattrs, user);
    assert_eq!(tree.get("sym").xattrs, [(b"trusted.t".to_vec(), b"\xff".to_vec())]);
    assert_eq!(tree.get("fifo").xattrs, [(b"trusted.t".to_vec(), b"\xff".to_vec())]);
}

#[test]
fn a_refused_attribute_is_an_error_that_names_it_and_a_forbidden_one_is_passed_over() {
    let refused: &[(&str, &[u8])] = &[("SCHILY.xattr.security.capability", b"nonsense")];
    let tar = Tar::new().member(&Member { name: b"bin/ping", pax: refused, ..Member::default() });
    let error = Fixture::new().layer(tar).error();
    assert_eq!(
        error,
        "Entry \"bin/ping\" of layer 1 of 1 can't be unpacked: its extended attribute \"security.capability\" can't be \
         set: Invalid argument"
    );
    let selinux: &[(&str, &[u8])] = &[("SCHILY.xattr.security.selinux", b"label")];
    let tree =
        Fixture::new().layer(Tar::new().member(&Member { name: b"a", pax: selinux, ..Member::default() })).tree();
    assert!(tree.get("a").xattrs.is_empty());
}

#[test]
fn an_attribute_without_support_becomes_one_warning() {
    let unknown: &[(&str, &[u8])] = &[("SCHILY.xattr.nosuch.thing", b"x")];
    let tar = Tar::new().member(&Member { name: b"a", pax: unknown, ..Member::default() }).member(&Member {
        name: b"b",
        pax: unknown,
        ..Member::default()
    });
    let (_, summary) = Fixture::new().layer(tar).unpack().unwrap();
    assert_eq!(summary.entries, 2);
    assert_eq!(
        summary.warnings,
        ["Extended attributes such as \"nosuch.thing\" of \"a\" can't be held and were left out"]
    );
}

#[test]
fn nothing_in_an_image_speaks_to_the_overlay_above_it() {
    let pax: &[(&str, &[u8])] =
        &[("SCHILY.xattr.trusted.overlay.redirect", b"/etc"), ("SCHILY.xattr.trusted.kept", b"x")];
    let tar = Tar::new().member(&Member { name: b"a", kind: b'5', pax, ..Member::default() }).file("a/b", "");
    let (image, summary) = Fixture::new().layer(tar).unpack().unwrap();
    assert_eq!(super::Tree::read(&image).get("a").xattrs, [(b"trusted.kept".to_vec(), b"x".to_vec())]);
    assert!(summary.warnings[0].contains("trusted.overlay.redirect"), "{:?}", summary.warnings);
}

#[test]
fn names_are_long_and_bytes() {
    let long = [&[b'd'; 200][..], &[b'e'; 255]].join(&b'/');
    let odd = b"\xff\xfe\n\x01";
    let mut linked = Vec::from(*b"");
    linked.extend([b'l'; 300]);
    let gnu = [b'g'; 230];
    let tar = Tar::new()
        .member(&Member { name: &long, content: b"pax", ..Member::default() })
        .member(&Member { name: odd, content: b"odd", ..Member::default() })
        .member(&Member { name: b"link", kind: b'2', link: &linked, ..Member::default() })
        .raw(b'L', b"././@LongLink", &[&gnu[..], b"\0"].concat())
        .raw(b'K', b"././@LongLink", &[&long[..], b"\0"].concat())
        .hard_link("short", "short");
    let tree = Fixture::new().layer(tar).tree();
    assert_eq!(tree.0[&long].content, b"pax");
    assert_eq!(tree.0[&odd[..]].content, b"odd");
    assert_eq!(tree.get("link").content, linked);
    assert_eq!(tree.0[&gnu[..]].first, long);
}

#[test]
fn ustar_prefixes_and_binary_numbers_are_read() {
    let mut header = tar::Header::new_ustar();
    let ustar = header.as_ustar_mut().unwrap();
    ustar.prefix[..3].copy_from_slice(b"a/b");
    ustar.name[..1].copy_from_slice(b"c");
    header.set_mode(0o600);
    header.set_uid(3_000_000_000);
    header.set_gid(7);
    header.set_mtime(1);
    // A time before the epoch: -1 in GNU's binary form.
    header.as_old_mut().mtime = [0xff; 12];
    let tree = Fixture::new().layer(Tar::new().header(header, b'0', b"")).tree();
    assert_eq!(tree.get("a/b/c").owner, (3_000_000_000, 7));
    assert_eq!(tree.get("a/b/c").mtime, (-1, 0));
    // Directories without an entry.
    assert_eq!((tree.mode("a"), tree.get("a").mtime), (0o755, (0, 0)));
}

#[test]
fn pax_records_replace_the_fields_of_the_header() {
    let pax: &[(&str, &[u8])] = &[
        ("path", b"real/name"),
        ("uid", b"4000000000"),
        ("gid", b"12"),
        ("mtime", b"1700000000.123456789"),
        ("uname", b"nobody"),
        ("comment", b"x"),
    ];
    let tar = Tar::new()
        .raw(b'g', b"global", &record("path", b"global"))
        .member(&Member { name: b"other", pax, content: b"abc", ..Member::default() })
        .member(&Member { name: b"neg", pax: &[("mtime", b"-1.5")], ..Member::default() })
        .member(&Member {
            name: b"link",
            kind: b'2',
            link: b"x",
            pax: &[("mtime", b"5.25"), ("linkpath", b"y")],
            ..Member::default()
        })
        .member(&Member { name: b"dir", kind: b'5', mode: 0o755, pax: &[("mtime", b"6.75")], ..Member::default() })
        .file("dir/inside", "");
    let tree = Fixture::new().layer(tar).tree();
    let file = tree.get("real/name");
    assert_eq!((file.owner, file.mtime), ((4_000_000_000, 12), (1_700_000_000, 123_456_789)));
    assert_eq!(tree.get("neg").mtime, (-2, 500_000_000));
    assert_eq!((tree.get("link").mtime, tree.content("link")), ((5, 250_000_000), "y".into()));
    assert_eq!(tree.get("dir").mtime, (6, 750_000_000));
    assert!(!tree.names().contains(&"global".into()));
}

#[test]
fn a_size_in_a_pax_record_counts_and_that_of_a_link_does_not() {
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..1].copy_from_slice(b"h");
    header.as_old_mut().linkname[..1].copy_from_slice(b"a");
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.as_old_mut().linkflag = *b"1";
    header.set_size(5000);
    header.set_cksum();
    let mut bytes = Tar::new().raw(b'x', b"pax", &record("size", b"3")).raw(b'0', b"a", b"").unfinished();
    bytes.extend(*b"abc");
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes.extend(header.as_bytes());
    bytes.extend(Tar::new().file("b", "after").finish());
    let tree = Fixture::new().bytes(&bytes).tree();
    assert_eq!(tree.content("a"), "abc");
    assert_eq!(tree.content("b"), "after");
    assert_eq!(tree.get("h").first, b"a");
}

#[test]
fn old_archives_mark_directories_with_a_slash() {
    let mut header = tar::Header::new_old();
    header.as_old_mut().name[..2].copy_from_slice(b"d/");
    header.set_mode(0o711);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(9);
    let tree = Fixture::new().layer(Tar::new().header(header, 0, b"")).tree();
    assert_eq!((tree.get("d").mode, tree.get("d").mtime), (DIRECTORY | 0o711, (9, 0)));
}

#[test]
fn large_contents_arrive_whole() {
    let content: Vec<u8> = (0..5_000_000u32).flat_map(|number| (number % 251) as u8..=(number % 251) as u8).collect();
    let tar = Tar::new().member(&Member { name: b"big", content: &content, ..Member::default() }).file("after", "x");
    let tree = Fixture::new().layer(tar).tree();
    assert!(tree.get("big").content == content);
    assert_eq!(tree.content("after"), "x");
}
