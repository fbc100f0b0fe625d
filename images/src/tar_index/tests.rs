//! Archives of the tar crate's making, archives with single bytes changed, and bytes that are no archive.

use proptest::prelude::*;
use tar::Builder;

use super::*;

fn header(kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o644);
    header
}

/// An archive with these entries: kind, name, link target, data.
fn archive(entries: &[(EntryType, &str, &str, &[u8])]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (kind, name, link, data) in entries {
        let mut header = header(*kind, data.len() as u64);
        header.set_path(name).unwrap();
        if !link.is_empty() {
            header.set_link_name_literal(link).unwrap();
        }
        header.set_cksum();
        builder.append(&header, *data).unwrap();
    }
    builder.into_inner().unwrap()
}

fn index(archive: &[u8]) -> Result<TarIndex, TarError> {
    TarIndex::read(archive, archive.len() as u64)
}

/// The content of a file.
fn content<'a>(archive: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let Range { offset, length } = index(archive).unwrap().find(name.as_bytes()).unwrap()?;
    let (offset, length) = (usize::try_from(offset).unwrap(), usize::try_from(length).unwrap());
    Some(&archive[offset..offset + length])
}

const FILE: EntryType = EntryType::Regular;

#[test]
fn files_are_found_by_name() {
    let archive = archive(&[
        (EntryType::Directory, "blobs/", "", b""),
        (FILE, "./index.json", "", b"{}"),
        (FILE, "blobs//a", "", &[7; 513]),
        (FILE, "empty", "", b""),
        (EntryType::Fifo, "fifo", "", b""),
    ]);
    assert_eq!(content(&archive, "index.json"), Some(&b"{}"[..]));
    assert_eq!(content(&archive, "blobs/a"), Some(&[7; 513][..]));
    assert_eq!(content(&archive, "empty"), Some(&b""[..]));
    for name in ["blobs", "blobs/", "fifo", "none", "", "./index.json"] {
        assert_eq!(content(&archive, name), None, "{name}");
    }
}

#[test]
fn the_last_of_one_name_counts() {
    let files = archive(&[(FILE, "a", "", b"1"), (FILE, "./a", "", b"2")]);
    assert_eq!(content(&files, "a"), Some(&b"2"[..]));
    let hidden = archive(&[(FILE, "a", "", b"1"), (EntryType::Directory, "a/", "", b"")]);
    assert_eq!(content(&hidden, "a"), None);
}

#[test]
fn links_lead_to_files_within_the_archive() {
    let archive = archive(&[
        (FILE, "one/layer.tar", "", b"layer"),
        (EntryType::Symlink, "two/layer.tar", "../one/layer.tar", b""),
        (EntryType::Symlink, "three/layer.tar", "../two/./layer.tar", b""),
        (EntryType::Link, "hard", "one/layer.tar", b""),
        (EntryType::Symlink, "dangling", "none", b""),
    ]);
    for name in ["two/layer.tar", "three/layer.tar", "hard"] {
        assert_eq!(content(&archive, name), Some(&b"layer"[..]), "{name}");
    }
    assert_eq!(content(&archive, "dangling"), None);
}

#[test]
fn links_out_of_the_archive_or_in_circles_are_refused() {
    let archive = archive(&[
        (EntryType::Symlink, "up", "../etc/shadow", b""),
        (EntryType::Symlink, "absolute", "/etc/shadow", b""),
        (EntryType::Link, "hard", "../x", b""),
        (EntryType::Symlink, "self", "self", b""),
        (EntryType::Symlink, "tick", "tock", b""),
        (EntryType::Symlink, "tock", "tick", b""),
    ]);
    let index = index(&archive).unwrap();
    for name in ["up", "absolute", "hard", "self", "tick"] {
        assert!(matches!(index.find(name.as_bytes()), Err(TarError::Link { .. })), "{name}");
    }
}

#[test]
fn names_that_lead_out_of_the_archive_are_nobodys() {
    let mut header = header(FILE, 1);
    header.as_mut_bytes()[..4].copy_from_slice(b"../x");
    header.set_cksum();
    let mut builder = Builder::new(Vec::new());
    builder.append(&header, &b"x"[..]).unwrap();
    assert_eq!(index(&builder.into_inner().unwrap()).unwrap(), TarIndex::default());
}

#[test]
fn long_names_come_from_gnu_and_pax_headers() {
    let long = format!("blobs/{}/x", "d".repeat(150));
    let mut builder = Builder::new(Vec::new());
    let mut gnu = Header::new_gnu();
    gnu.set_size(3);
    builder.append_data(&mut gnu, &long, &b"gnu"[..]).unwrap();
    let pax_name = format!("{long}.pax");
    builder.append_pax_extensions([("path", pax_name.as_bytes()), ("mtime", b"1.5")]).unwrap();
    let mut pax = header(FILE, 3);
    pax.set_path("short").unwrap();
    pax.set_cksum();
    builder.append(&pax, &b"pax"[..]).unwrap();
    // What a header says is for the next entry alone.
    let mut plain = header(FILE, 5);
    plain.set_path("plain").unwrap();
    plain.set_cksum();
    builder.append(&plain, &b"plain"[..]).unwrap();
    let archive = builder.into_inner().unwrap();
    assert_eq!(content(&archive, &long), Some(&b"gnu"[..]));
    assert_eq!(content(&archive, &pax_name), Some(&b"pax"[..]));
    assert_eq!(content(&archive, "plain"), Some(&b"plain"[..]));
    assert_eq!(content(&archive, "short"), None);
}

#[test]
fn a_pax_size_counts_more_than_the_header() {
    let mut builder = Builder::new(Vec::new());
    builder.append_pax_extensions([("size", &b"600"[..])]).unwrap();
    let mut bytes = builder.into_inner().unwrap();
    bytes.truncate(bytes.len() - 1024);
    let rest = archive(&[(FILE, "a", "", &[9; 600]), (FILE, "b", "", b"b")]);
    bytes.extend_from_slice(&rest);
    let at = bytes.len() - rest.len();
    // The header itself says 0.
    let mut header = header(FILE, 0);
    header.set_path("a").unwrap();
    header.set_cksum();
    bytes[at..at + 512].copy_from_slice(header.as_bytes());
    assert_eq!(content(&bytes, "a"), Some(&[9; 600][..]));
    assert_eq!(content(&bytes, "b"), Some(&b"b"[..]));
}

#[test]
fn sparse_files_are_refused() {
    let gnu = archive(&[(EntryType::GNUSparse, "a", "", b"x")]);
    assert!(matches!(index(&gnu), Err(TarError::Sparse { offset: 0 })));
    let mut builder = Builder::new(Vec::new());
    builder.append_pax_extensions([("GNU.sparse.major", &b"1"[..])]).unwrap();
    assert!(matches!(index(&builder.into_inner().unwrap()), Err(TarError::Sparse { .. })));
}

#[test]
fn every_cut_is_noticed_or_leaves_whole_entries() {
    let whole = archive(&[(FILE, "a", "", &[1; 700]), (FILE, "b", "", &[2; 20])]);
    for length in 1..whole.len() {
        match index(&whole[..length]) {
            Err(TarError::Truncated { .. }) => {}
            Ok(index) => {
                // Ends between entries, in the padding, or in the zeros behind them: nothing is cut in two.
                let a = index.find(b"a").unwrap().unwrap();
                assert!(a.offset + a.length <= length as u64);
                assert_eq!(index.find(b"b").unwrap().is_some(), length >= 512 + 1024 + 512 + 20, "{length}");
            }
            Err(error) => panic!("{length}: {error}"),
        }
    }
    assert!(matches!(index(b""), Err(TarError::Empty)));
}

#[test]
fn sizes_beyond_the_archive_are_refused() {
    for size in [513, 1 << 33, u64::MAX, u64::MAX - 511] {
        for kind in [FILE, EntryType::XHeader, EntryType::GNULongName, EntryType::XGlobalHeader] {
            let mut header = header(kind, 0);
            header.set_size(size);
            header.set_cksum();
            let mut bytes = header.as_bytes().to_vec();
            bytes.extend_from_slice(&[0; 512]);
            assert!(matches!(index(&bytes), Err(TarError::Truncated { .. } | TarError::Extension { .. })), "{size}");
        }
    }
}

#[test]
fn headers_are_checked() {
    let mut bytes = archive(&[(FILE, "a", "", b"x"), (FILE, "b", "", b"y")]);
    bytes[1024] ^= 1;
    assert!(matches!(index(&bytes), Err(TarError::Header { offset: 1024 })));
    // One block of zeros is no end.
    let mut bytes = archive(&[(FILE, "a", "", b"x")]);
    let more = archive(&[(FILE, "b", "", b"y")]);
    bytes.truncate(1024 + 512);
    bytes.extend_from_slice(&more);
    assert!(matches!(index(&bytes), Err(TarError::Header { offset: 1024 })));
}

#[test]
fn entries_are_counted_and_long_names_forgotten() {
    let mut header = header(FILE, 0);
    header.set_path("a").unwrap();
    header.set_cksum();
    let block = header.as_bytes();
    assert!(matches!(index(&block.repeat(MAX_ENTRIES + 1)), Err(TarError::TooMany)));
    let mut builder = Builder::new(Vec::new());
    let long = "x".repeat(MAX_NAME + 1);
    builder.append_pax_extensions([("path", long.as_bytes())]).unwrap();
    builder.append(&header, &b""[..]).unwrap();
    assert_eq!(index(&builder.into_inner().unwrap()).unwrap(), TarIndex::default());
}

/// Names of one to three short components, some of them links' targets.
fn entries() -> impl Strategy<Value = Vec<(u8, String, String, Vec<u8>)>> {
    let name = "(\\./)?[ab]{1,2}(/[ab]{1,2}){0,2}";
    prop::collection::vec((0_u8..4, name, "(\\.\\./){0,2}[ab]{1,2}", prop::collection::vec(any::<u8>(), 0..1100)), 0..8)
}

proptest! {
    /// The tar crate, reading the same archive, finds the same files with the same content.
    #[test]
    fn the_tar_crate_agrees(entries in entries()) {
        let kinds = [FILE, FILE, EntryType::Symlink, EntryType::Directory];
        let entries: Vec<(EntryType, &str, &str, &[u8])> = entries
            .iter()
            .map(|(kind, name, link, data)| {
                let kind = kinds[usize::from(*kind)];
                (kind, name.as_str(), link.as_str(), if kind == FILE { data.as_slice() } else { &[] })
            })
            .collect();
        let bytes = archive(&entries);
        let mut expected = BTreeMap::new();
        for entry in tar::Archive::new(bytes.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = normalize(b"", &entry.path_bytes()).unwrap();
            let mut content = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
            expected.remove(&name);
            if entry.header().entry_type() == FILE {
                expected.insert(name, content);
            }
        }
        let index = index(&bytes).unwrap();
        for (name, entry) in &index.entries {
            if let Entry::File(Range { offset, length }) = entry {
                let (offset, length) = (usize::try_from(*offset).unwrap(), usize::try_from(*length).unwrap());
                prop_assert_eq!(expected.remove(name), Some(bytes[offset..offset + length].to_vec()));
            }
        }
        prop_assert!(expected.is_empty(), "{:?} are missing", expected.keys());
    }

    /// Whatever the bytes are, the ranges of an index lie in the archive, and finding ends.
    #[test]
    fn ranges_lie_in_the_archive(entries in entries(), changes in prop::collection::vec((any::<usize>(), any::<u8>()), 0..4)) {
        let entries: Vec<(EntryType, &str, &str, &[u8])> = entries
            .iter()
            .map(|(kind, name, link, data)| {
                (EntryType::new(b"0125xLgS"[usize::from(*kind)]), name.as_str(), link.as_str(), data.as_slice())
            })
            .collect();
        let mut bytes = archive(&entries);
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
            // Make the checksum right again, so that the change is not merely noticed by that.
            let start = at / 512 * 512;
            let mut header = Header::new_old();
            header.as_mut_bytes().copy_from_slice(&bytes[start..start + 512]);
            header.set_cksum();
            bytes[start..start + 512].copy_from_slice(header.as_bytes());
        }
        if let Ok(index) = index(&bytes) {
            for name in index.entries.keys() {
                if let Ok(Some(Range { offset, length })) = index.find(name) {
                    prop_assert!(offset + length <= bytes.len() as u64);
                }
            }
        }
    }

    #[test]
    fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        let _ = index(&bytes);
    }
}
