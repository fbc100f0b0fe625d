//! Large files and many entries.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};

use erofs::{Attributes, InodeId, Options, Writer};

use super::{kernel, tools};

const GIB: u64 = 1 << 30;

/// A file of 5 GiB, then one of 3 GiB, both almost all holes; the output is sparse.
#[test]
fn files_over_four_gib_are_addressed() {
    let image = tempfile::NamedTempFile::new().expect("a temporary file");
    let output = image.reopen().expect("the file again");
    let mut writer = Writer::new(output, Options::default());
    for (name, size) in [("five", 5 * GIB), ("three", 3 * GIB)] {
        let mut file = writer.file(Attributes { mode: 0o644, ..Attributes::default() }).unwrap();
        file.write(b"start").unwrap();
        file.skip(size - 8).unwrap();
        file.write(b"end").unwrap();
        let file = file.finish().unwrap();
        writer.link(InodeId::ROOT, name.as_bytes(), file).unwrap();
    }
    let (output, summary) = writer.finish().unwrap();
    let metadata = output.metadata().unwrap();
    assert_eq!(metadata.len(), summary.size);
    assert!(metadata.blocks() * 512 < 1 << 20, "{} blocks are allocated", metadata.blocks());
    let Some(mount) = kernel::mount_file(image.path()) else { return };
    for (name, size) in [("five", 5 * GIB), ("three", 3 * GIB)] {
        let file = File::open(mount.path().join(name)).unwrap();
        assert_eq!(file.metadata().unwrap().len(), size);
        let mut bytes = [1; 6];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(bytes, *b"start\0");
        file.read_exact_at(&mut bytes, size - 6).unwrap();
        assert_eq!(bytes, *b"\0\0\0end");
    }
}

/// A directory of 50 000 files and 500 directories of 100.
#[test]
fn a_hundred_thousand_entries_are_found() {
    let mut writer = Writer::new(Vec::new(), Options::default());
    let attributes = || Attributes { mode: 0o755, ..Attributes::default() };
    let directory = |writer: &mut Writer<Vec<u8>>, name: &str| {
        let directory = writer.directory(attributes()).unwrap();
        writer.link(InodeId::ROOT, name.as_bytes(), directory).unwrap();
        directory
    };
    let add = |writer: &mut Writer<Vec<u8>>, directory, number: u32| {
        let mut file = writer.file(attributes()).unwrap();
        file.write(&number.to_le_bytes()).unwrap();
        let file = file.finish().unwrap();
        writer.link(directory, format!("file-{number}").as_bytes(), file).unwrap();
    };
    let wide = directory(&mut writer, "wide");
    (0..50_000).for_each(|number| add(&mut writer, wide, number));
    for outer in 0..500 {
        let small = directory(&mut writer, &format!("small-{outer}"));
        (0..100).for_each(|number| add(&mut writer, small, number));
    }
    let (image, summary) = writer.finish().unwrap();
    assert_eq!(summary.inodes, 100_502);
    tools::check(&image, &summary);
    let Some(mount) = kernel::mount(&image) else { return };
    for number in [0_u32, 9, 12_345, 49_999] {
        let content = std::fs::read(mount.path().join(format!("wide/file-{number}"))).unwrap();
        assert_eq!(content, number.to_le_bytes());
    }
    assert!(!mount.path().join("wide/file-50000").exists());
    assert_eq!(std::fs::read_dir(mount.path().join("wide")).unwrap().count(), 50_000);
    assert_eq!(std::fs::read(mount.path().join("small-499/file-99")).unwrap(), 99_u32.to_le_bytes());
}
