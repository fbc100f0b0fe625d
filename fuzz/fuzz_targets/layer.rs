//! Two layers, the second on top of the first, unpacked into an image in memory or refused.
#![no_main]

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};

use agent::unpack::{Cause, Limits, UnpackError, unpack_layers};
use libfuzzer_sys::fuzz_target;
use protocol::LAYER_ALIGNMENT;
use protocol::spec::{Compression, Layer};

fuzz_target!(|input: (u8, Vec<u8>, Vec<u8>)| {
    let (kind, lower, upper) = input;
    let compression = [Compression::None, Compression::Gzip, Compression::Zstd][usize::from(kind % 3)];
    let directory = tempfile::tempdir_in("/dev/shm").expect("a directory");
    let device = directory.path().join("device");
    let mut file = File::create(&device).expect("a file");
    let mut layers = Vec::new();
    let mut offset = 0_u64;
    for bytes in [lower, upper] {
        file.write_all(&bytes).expect("a file");
        let length = bytes.len() as u64;
        let end = (offset + length).next_multiple_of(LAYER_ALIGNMENT);
        file.set_len(end).expect("a file");
        file.seek(SeekFrom::Start(end)).expect("a file");
        let diff_id = format!("sha256:{}", "0".repeat(64));
        layers.push(Layer { offset, length, compression, digest: None, diff_id });
        offset = end;
    }
    let limits = Limits { entries: 1000, bytes: 16 << 20, image_bytes: 32 << 20, ..Limits::default() };
    // The digests are not known: each pass learns that of one layer, and the last one unpacks both.
    for _ in 0..=layers.len() {
        match unpack_layers(&device, &layers, Vec::new(), &limits, &mut |_| {}) {
            Ok((image, summary)) => {
                assert_eq!(summary.image_size, image.len() as u64);
                assert!(summary.image_size <= limits.image_bytes);
                return;
            }
            Err(UnpackError { layer, cause: Cause::Digest { got, .. }, .. }) => layers[layer - 1].diff_id = got,
            Err(_) => return,
        }
    }
    panic!("digests that were learned are right");
});
