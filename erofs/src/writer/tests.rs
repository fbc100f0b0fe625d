use super::*;
use crate::attributes::Time;

fn plain() -> Attributes {
    Attributes { mode: 0o644, ..Attributes::default() }
}

fn writer() -> Writer<Vec<u8>> {
    Writer::new(Vec::new(), Options::default())
}

/// A file of `content` under `name` in the root.
fn add_file(writer: &mut Writer<Vec<u8>>, name: &[u8], content: &[u8]) -> InodeId {
    let mut file = writer.file(plain()).unwrap();
    file.write(content).unwrap();
    let id = file.finish().unwrap();
    writer.link(InodeId::ROOT, name, id).unwrap();
    id
}

#[test]
fn names_that_linux_has_not_are_refused() {
    let mut writer = writer();
    let id = writer.symlink(b"x", plain()).unwrap();
    for name in [&b""[..], b".", b"..", b"a/b", b"a\0b", &[b'x'; 256]] {
        assert!(matches!(writer.link(InodeId::ROOT, name, id), Err(Error::Name { .. })), "{name:?}");
    }
    writer.link(InodeId::ROOT, &[b'x'; 255], id).unwrap();
    assert!(matches!(writer.link(InodeId::ROOT, &[b'x'; 255], id), Err(Error::Exists { .. })));
    assert!(matches!(writer.link(id, b"a", id), Err(Error::NotADirectory { .. })));
    assert!(matches!(writer.unlink(InodeId::ROOT, b"b"), Err(Error::NotFound { .. })));
}

#[test]
fn a_directory_has_one_name_and_is_not_inside_itself() {
    let mut writer = writer();
    let (outer, inner) = (writer.directory(plain()).unwrap(), writer.directory(plain()).unwrap());
    writer.link(outer, b"inner", inner).unwrap();
    for (directory, inode) in [(inner, outer), (outer, outer), (outer, InodeId::ROOT), (InodeId::ROOT, inner)] {
        assert!(matches!(writer.link(directory, b"x", inode), Err(Error::DirectoryLink { .. })));
    }
    writer.link(InodeId::ROOT, b"outer", outer).unwrap();
    assert!(matches!(writer.unlink(InodeId::ROOT, b"outer"), Err(Error::NotEmpty { .. })));
    writer.unlink(outer, b"inner").unwrap();
    writer.unlink(InodeId::ROOT, b"outer").unwrap();
    assert!(matches!(writer.link(InodeId::ROOT, b"outer", outer), Err(Error::Removed)));
    assert!(matches!(writer.set_attributes(outer, plain()), Err(Error::Removed)));
}

#[test]
fn attributes_out_of_range_are_refused() {
    let mut writer = writer();
    let mode = Attributes { mode: 0o10000, ..plain() };
    assert!(matches!(writer.directory(mode.clone()), Err(Error::Mode { .. })));
    assert!(matches!(writer.set_attributes(InodeId::ROOT, mode), Err(Error::Mode { .. })));
    let mtime = Time { seconds: 0, nanoseconds: 1_000_000_000 };
    assert!(matches!(writer.file(Attributes { mtime, ..plain() }), Err(Error::Time { .. })));
    for target in [&b""[..], b"a\0", &[b'x'; 4096]] {
        assert!(matches!(writer.symlink(target, plain()), Err(Error::Target { .. })));
    }
    let device = Special::BlockDevice { major: 4096, minor: 0 };
    assert!(matches!(writer.special(device, plain()), Err(Error::Device { .. })));
}

#[test]
fn what_is_removed_is_discarded_with_its_last_name() {
    let mut writer = writer();
    let id = add_file(&mut writer, b"a", &[1; 5000]);
    writer.link(InodeId::ROOT, b"b", id).unwrap();
    add_file(&mut writer, b"c", &[2; 10]);
    writer.unlink(InodeId::ROOT, b"a").unwrap();
    writer.unlink(InodeId::ROOT, b"b").unwrap();
    let (image, summary) = writer.finish().unwrap();
    assert_eq!(image[4096..3 * 4096], [0; 2 * 4096]);
    assert_eq!(image[3 * 4096..3 * 4096 + 10], [2; 10]);
    assert_eq!((summary.inodes, summary.data_blocks, summary.metadata_blocks), (2, 1, 2));
    assert_eq!(summary.size, 5 * 4096);
}

#[test]
fn what_has_no_name_or_no_end_is_discarded() {
    let mut writer = writer();
    let mut file = writer.file(plain()).unwrap();
    file.write(&[1; 4097]).unwrap();
    drop(file);
    let lost = writer.directory(plain()).unwrap();
    let mut file = writer.file(plain()).unwrap();
    file.write(&[2; 4096]).unwrap();
    let file = file.finish().unwrap();
    writer.link(lost, b"file", file).unwrap();
    let mut file = writer.file(plain()).unwrap();
    file.write(&[3; 8192]).unwrap();
    drop(file);
    let (image, summary) = writer.finish().unwrap();
    assert_eq!((summary.inodes, summary.data_blocks), (1, 0));
    let superblock = image.len() - 4096;
    assert!(image[4096..superblock].iter().all(|&byte| byte == 0));
}

#[test]
fn a_limit_is_kept() {
    let options = Options { max_size: 4 * 4096 + 4095, ..Options::default() };
    let mut writer = Writer::new(Vec::new(), options);
    let mut file = writer.file(plain()).unwrap();
    file.write(&[1; 4096]).unwrap();
    assert!(matches!(file.write(&[1; 4097]), Err(Error::Full { limit: 16384 })));
    file.skip(4096).unwrap();
    let file = file.finish().unwrap();
    writer.link(InodeId::ROOT, b"file", file).unwrap();
    // Metadata may not pass it either.
    for index in 0..100_u32 {
        let inode = writer.symlink(&[b'x'; 1000], plain()).unwrap();
        writer.link(InodeId::ROOT, &index.to_le_bytes().map(|byte| byte.max(1)), inode).ok();
    }
    assert!(matches!(writer.finish(), Err(Error::Full { limit: 16384 })));
    let mut writer = Writer::new(Vec::new(), Options::default());
    let mut file = writer.file(plain()).unwrap();
    assert!(matches!(file.skip(1 << 44), Err(Error::Full { .. })));
    assert!(matches!(file.skip(u64::MAX), Err(Error::Full { .. })));
}

#[test]
fn zeros_are_not_written() {
    /// Remembers what was written where.
    #[derive(Default)]
    struct Calls(Vec<(u64, usize)>);
    impl Output for Calls {
        fn write_at(&mut self, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
            self.0.push((offset / 4096, bytes.len() / 4096));
            assert_eq!((offset % 4096, bytes.len() % 4096), (0, 0));
            Ok(())
        }
        fn discard(&mut self, _: u64, _: u64) -> std::io::Result<()> {
            panic!("nothing was removed");
        }
    }
    let mut writer = Writer::new(Calls::default(), Options::default());
    let mut file = writer.file(plain()).unwrap();
    file.write(&[1; 100]).unwrap();
    file.skip(5 * 4096 - 50).unwrap();
    file.write(&[2; 4096]).unwrap();
    file.write(&[0; 3 * 4096]).unwrap();
    let file = file.finish().unwrap();
    writer.link(InodeId::ROOT, b"file", file).unwrap();
    let (calls, _) = writer.finish().unwrap();
    // Of the file with the blocks 1 to 10 the first and where the twos are; then metadata and superblock.
    assert_eq!(calls.0, [(1, 1), (6, 2), (11, 1), (0, 1)]);
}

#[test]
fn the_outputs_failure_is_told() {
    #[derive(Debug)]
    struct Broken;
    impl Output for Broken {
        fn write_at(&mut self, _: u64, _: &[u8]) -> std::io::Result<()> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn discard(&mut self, _: u64, _: u64) -> std::io::Result<()> {
            Ok(())
        }
    }
    let error = Writer::new(Broken, Options::default()).finish().unwrap_err();
    assert!(matches!(error, Error::Output { offset: 4096, .. }), "{error}");
}
