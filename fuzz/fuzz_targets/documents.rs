//! Texts that name or describe images.
#![no_main]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use images::document::{Configuration, DockerArchiveItem, Index, Manifest};
use images::env::{parse_file, parse_option};
use images::reference::Reference;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = serde_json::from_slice::<Index>(bytes);
    let _ = serde_json::from_slice::<Manifest>(bytes);
    let _ = serde_json::from_slice::<Configuration>(bytes);
    let _ = serde_json::from_slice::<Vec<DockerArchiveItem>>(bytes);
    let _ = parse_file(bytes, |_| None);
    let _ = parse_option(OsStr::from_bytes(bytes), |_| None);
    if let Some(reference) = std::str::from_utf8(bytes).ok().and_then(|text| Reference::parse(text).ok()) {
        // What is printed means the same.
        assert_eq!(Reference::parse(&reference.to_string()).ok().as_ref(), Some(&reference));
    }
});
