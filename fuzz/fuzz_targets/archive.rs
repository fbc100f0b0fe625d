//! The index of an image archive: whatever it says is inside the archive.
#![no_main]

use images::tar_index::TarIndex;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let length = bytes.len() as u64;
    let Ok(index) = TarIndex::read(bytes, length) else { return };
    for name in ["manifest.json", "index.json", "oci-layout", "a/layer.tar"] {
        if let Ok(Some(range)) = index.find(name.as_bytes()) {
            assert!(range.offset.checked_add(range.length).is_some_and(|end| end <= length));
        }
    }
});
