//! What several layers make together.

use super::Fixture;
use super::tar::{Member, Tar};

/// The names below the root after these layers.
fn names(layers: impl IntoIterator<Item = Tar>) -> Vec<String> {
    let tree = layers.into_iter().fold(Fixture::new(), Fixture::layer).tree();
    tree.names().into_iter().filter(|name| !name.is_empty()).collect()
}

fn lower() -> Tar {
    Tar::new().directory("a").file("a/1", "").file("a/2", "").directory("a/sub").file("a/sub/x", "").file("b", "")
}

#[test]
fn a_whiteout_hides_files_and_trees_of_lower_layers() {
    assert_eq!(names([lower(), Tar::new().file("a/.wh.1", "")]), ["a", "a/2", "a/sub", "a/sub/x", "b"]);
    assert_eq!(names([lower(), Tar::new().file(".wh.a", "")]), ["b"]);
    assert_eq!(names([lower(), Tar::new().file("a/.wh.sub", "").file(".wh.b", "")]), ["a", "a/1", "a/2"]);
    // Of whatever type, and also when there is nothing to hide.
    assert_eq!(names([lower(), Tar::new().directory(".wh.a").symlink(".wh.gone", "b").file("q/.wh.z", "")]), ["b"]);
}

#[test]
fn a_whiteout_spares_its_own_layer_wherever_it_stands() {
    let new = || Tar::new().directory("a").file("a/new", "");
    let expected = ["a", "a/new", "b"];
    assert_eq!(names([lower(), new().file(".wh.a", "")]), expected);
    let mut before = Tar::new().file(".wh.a", "");
    before = before.directory("a").file("a/new", "");
    assert_eq!(names([lower(), before]), expected);
    // The same name: the new file stays.
    assert_eq!(names([lower(), Tar::new().file("b", "").file(".wh.b", "").file(".wh.a", "")]), ["b"]);
}

#[test]
fn an_opaque_directory_hides_lower_content_wherever_the_marker_stands() {
    let expected = ["a", "a/new", "a/sub", "a/sub/y", "b"];
    let first = Tar::new().directory("a").file("a/.wh..wh..opq", "").file("a/new", "").file("a/sub/y", "");
    assert_eq!(names([lower(), first]), expected);
    let last = Tar::new().file("a/new", "").file("a/sub/y", "").file("a/.wh..wh..opq", "");
    assert_eq!(names([lower(), last]), expected);
    assert_eq!(names([lower(), Tar::new().file(".wh..wh..opq", "")]), [] as [&str; 0]);
    // Of nothing, and of a file.
    let nothing = Tar::new().file("q/.wh..wh..opq", "").file("b/.wh..wh..opq", "");
    assert_eq!(names([lower(), nothing]).len(), 6);
}

#[test]
fn a_third_layer_brings_back_what_the_second_hid() {
    let tree = Fixture::new()
        .layer(lower())
        .layer(Tar::new().file(".wh.a", ""))
        .layer(Tar::new().file("a/1", "again").file("a/.wh.2", ""))
        .tree();
    assert_eq!(tree.names(), ["", "a", "a/1", "b"]);
    assert_eq!(tree.content("a/1"), "again");
}

#[test]
fn a_whiteout_acts_where_a_link_in_its_path_leads() {
    let lower = lower().symlink("to", "a/sub");
    assert_eq!(names([lower, Tar::new().file("to/.wh.x", "")]), ["a", "a/1", "a/2", "a/sub", "b", "to"]);
}

#[test]
fn directories_and_others_replace_each_other() {
    let tree = Fixture::new().layer(lower()).layer(Tar::new().file("a", "now a file").directory("b")).tree();
    assert_eq!(tree.names(), ["", "a", "b"]);
    assert_eq!(tree.content("a"), "now a file");
    assert_eq!(tree.get("b").mode, libc::S_IFDIR | 0o755);
    // Within one layer too, and links are replaced themselves, not what they lead to.
    let tar = Tar::new().symlink("b2", "b").file("b", "old").file("b2", "new").directory("d").symlink("l", "d");
    let tree = Fixture::new().layer(tar.directory("l").file("l/in", "")).tree();
    assert_eq!(tree.names(), ["", "b", "b2", "d", "l", "l/in"]);
    assert_eq!((tree.content("b"), tree.content("b2")), ("old".into(), "new".into()));
}

#[test]
fn a_directory_over_a_directory_keeps_its_content_and_takes_all_metadata() {
    let directory = |mode, mtime, xattr| Member {
        name: b"a",
        kind: b'5',
        mode,
        uid: mtime,
        mtime,
        pax: xattr,
        ..Member::default()
    };
    let first: &[(&str, &[u8])] = &[("SCHILY.xattr.user.old", b"1")];
    let second: &[(&str, &[u8])] = &[("SCHILY.xattr.user.new", b"2")];
    let tree = Fixture::new()
        .layer(Tar::new().member(&directory(0o2770, 5, first)).file("a/1", ""))
        .layer(Tar::new().member(&directory(0o700, 6, second)).file("a/2", ""))
        .tree();
    assert_eq!(tree.names(), ["", "a", "a/1", "a/2"]);
    let a = tree.get("a");
    assert_eq!((a.mode & 0o7777, a.owner, a.mtime), (0o700, (6, 0), (6, 0)));
    assert_eq!(a.xattrs, [(b"user.new".to_vec(), b"2".to_vec())]);
}

#[test]
fn directory_times_outlast_what_happens_inside() {
    let tree = Fixture::new()
        .layer(Tar::new().directory("a").directory("a/b").file("a/b/1", ""))
        .layer(Tar::new().file("a/b/2", "").file("a/b/.wh.1", "").hard_link("a/3", "a/b/2"))
        .tree();
    assert_eq!(tree.get("a").mtime, (1_000_000_000, 0));
    assert_eq!(tree.get("a/b").mtime, (1_000_000_000, 0));
}

#[test]
fn a_set_group_id_directory_passes_nothing_on() {
    let sgid = Member { name: b"s", kind: b'5', mode: 0o2775, gid: 50, ..Member::default() };
    let tree = Fixture::new().layer(Tar::new().member(&sgid).file("s/f", "").file("s/deep/f", "")).tree();
    assert_eq!((tree.get("s").owner, tree.mode("s")), ((0, 50), 0o2775));
    assert_eq!(tree.get("s/f").owner, (0, 0));
    assert_eq!((tree.get("s/deep").owner, tree.mode("s/deep")), ((0, 0), 0o755));
}

#[test]
fn an_entry_behind_a_link_goes_where_the_link_leads_inside_the_root() {
    let tree = Fixture::new()
        .layer(
            Tar::new()
                .directory("usr/lib")
                .symlink("lib", "usr/lib")
                .symlink("var", "/usr/gone")
                .symlink("up", "../.."),
        )
        .layer(Tar::new().file("lib/x", "").file("var/y", "").file("up/z", ""))
        .tree();
    assert_eq!(tree.names(), ["", "lib", "up", "usr", "usr/gone", "usr/gone/y", "usr/lib", "usr/lib/x", "var", "z"]);
    assert_eq!(tree.content("lib"), "usr/lib");
}

#[test]
fn hard_links_reach_through_layers_and_links() {
    let tree = Fixture::new()
        .layer(Tar::new().file("usr/bin/a", "a").symlink("bin", "/usr/bin").symlink("s", "usr/bin/a"))
        .layer(Tar::new().hard_link("b", "/bin/a").hard_link("t", "s").hard_link("usr/bin/c", "./b"))
        .tree();
    assert_eq!(tree.get("b").first, b"b");
    assert_eq!(tree.get("usr/bin/a").first, b"b");
    assert_eq!(tree.get("usr/bin/c").first, b"b");
    // A link to a symbolic link is one itself.
    assert_eq!((tree.get("t").first.as_slice(), tree.content("t")), (&b"s"[..], "usr/bin/a".into()));
    // Replacing one name leaves the others alone.
    let tree =
        Fixture::new().layer(Tar::new().file("a", "old").hard_link("b", "a")).layer(Tar::new().file("a", "new")).tree();
    assert_eq!((tree.content("a"), tree.content("b")), ("new".into(), "old".into()));
}

#[test]
fn an_image_of_no_layers_is_an_empty_root() {
    let tree = Fixture::new().tree();
    assert_eq!(tree.names(), [""]);
    assert_eq!(Fixture::new().layer(Tar::new()).bytes(b"").tree().names(), [""]);
}
