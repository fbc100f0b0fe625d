//! Two layers, the second on top of the first: unpacked or refused, and nothing outside the target changes.
#![no_main]

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsFd;

use agent::unpack::{Limits, unpack_layers};
use libfuzzer_sys::fuzz_target;
use protocol::spec::{Compression, Layer};

fuzz_target!(|input: (u8, Vec<u8>, Vec<u8>)| {
    let (kind, lower, upper) = input;
    let compression = [Compression::None, Compression::Gzip, Compression::Zstd][usize::from(kind % 3)];
    let directory = tempfile::tempdir_in("/dev/shm").expect("a directory");
    let target = directory.path().join("target");
    fs::create_dir(&target).expect("a directory");
    let device = directory.path().join("device");
    let mut file = File::create(&device).expect("a file");
    let mut layers = Vec::new();
    let mut offset = 0_u64;
    for bytes in [lower, upper] {
        file.write_all(&bytes).expect("a file");
        let length = bytes.len() as u64;
        let end = (offset + length).next_multiple_of(4096);
        file.set_len(end).expect("a file");
        std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(end)).expect("a file");
        // No digest can be right, so every input ends in an error, after all of it was unpacked.
        let diff_id = format!("sha256:{}", "0".repeat(64));
        layers.push(Layer { offset, length, compression, digest: None, diff_id });
        offset = end;
    }
    let limits = Limits { entries: 1000, bytes: 16 << 20, ..Limits::default() };
    let root = File::open(&target).expect("a directory");
    let _ = unpack_layers(&device, &layers, root.as_fd(), &limits);
    let mut names: Vec<_> =
        fs::read_dir(directory.path()).expect("a directory").flatten().map(|entry| entry.file_name()).collect();
    names.sort();
    assert_eq!(names, ["device", "target"]);
});
