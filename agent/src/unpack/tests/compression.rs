//! Stored forms of a layer, and their digests.

use std::io::Write;
use std::sync::LazyLock;

use flate2::write::GzEncoder;
use protocol::spec::Compression::{self, Gzip, None, Zstd};

use super::tar::{Member, Tar};
use super::{Fixture, digest};

const LARGE: usize = 1_300_000;

/// A layer of more than one piece of the device, that does not compress well.
fn large() -> Vec<u8> {
    static CONTENT: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut state = 1u32;
        let mut content = vec![0; LARGE];
        content.fill_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0] & 0x3f
        });
        let large = Member { name: b"large", content: &content, ..Member::default() };
        Tar::new().file("small", "x").member(&large).finish()
    });
    CONTENT.clone()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

/// [`large`] in each form.
fn forms() -> Vec<(Compression, Vec<u8>)> {
    static FORMS: LazyLock<[Vec<u8>; 3]> = LazyLock::new(|| [large(), gzip(&large()), zstd(&large())]);
    [None, Gzip, Zstd].into_iter().zip(FORMS.clone()).collect()
}

fn unpacks(compression: Compression, blob: &[u8], content: &[u8]) {
    let tree = Fixture::new().layer(Tar::new().file("below", "")).stored(compression, blob, content).tree();
    assert_eq!(tree.content("small"), "x");
    assert_eq!(tree.get("large").content.len(), LARGE);
}

fn fails(compression: Compression, blob: &[u8], content: &[u8], reason: &str) {
    let error = Fixture::new().stored(compression, blob, content).error();
    assert!(error.contains(reason), "{error}");
}

#[test]
fn each_form_is_read() {
    let content = large();
    for (compression, blob) in forms() {
        unpacks(compression, &blob, &content);
    }
}

#[test]
fn forms_may_come_in_parts() {
    let content = large();
    let (first, second) = content.split_at(1_100_000);
    unpacks(Gzip, &[gzip(first), gzip(b""), gzip(second)].concat(), &content);
    unpacks(Gzip, &[gzip(&content), vec![0; 5000]].concat(), &content);
    let skippable = b"\x53\x2a\x4d\x18\x05\0\0\0hello";
    unpacks(Zstd, &[zstd(first), skippable.to_vec(), zstd(second), skippable.to_vec()].concat(), &content);
}

#[test]
fn something_else_behind_is_refused() {
    let content = Tar::new().finish();
    fails(Gzip, &[&gzip(&content)[..], b"junk"].concat(), &content, "gzip stream is broken");
    fails(Gzip, &[&gzip(&content)[..], &[0; 9], b"junk"].concat(), &content, "something else behind it");
    fails(Zstd, &[&zstd(&content)[..], b"junk"].concat(), &content, "zstd stream is broken");
    fails(Zstd, &[&zstd(&content)[..], b"\x53\x2a\x4d\x18\x05\0\0\0hell"].concat(), &content, "it ends early");
}

#[test]
fn streams_that_end_early_are_refused() {
    let content = large();
    for (compression, blob) in forms().split_off(1) {
        for length in [0, 1, 5, 1000, blob.len() / 2, blob.len() - 1] {
            let error = Fixture::new().stored(compression, &blob[..length], &content).error();
            assert!(error.contains("stream is broken") || error.contains("ends in the middle"), "{length}: {error}");
        }
    }
}

#[test]
fn the_wrong_form_is_refused() {
    let content = large();
    fails(Gzip, &content, &content, "gzip stream is broken");
    fails(Zstd, &gzip(&content), &content, "zstd stream is broken");
    fails(None, &gzip(&content), &gzip(&content), "tar archive is broken");
}

#[test]
fn digests_are_checked_on_both_sides_of_the_decompression() {
    let content = large();
    let other = digest(b"other");
    for (compression, blob) in forms() {
        let mut fixture = Fixture::new().stored(compression, &blob, &content);
        fixture.layers[0].diff_id.clone_from(&other);
        let got = digest(&content);
        assert_eq!(
            fixture.error(),
            format!(
                "Layer 1 of 1 can't be unpacked: the digest of its uncompressed archive is {got}, but the image says {other}"
            )
        );
        let mut fixture = Fixture::new().stored(compression, &blob, &content);
        fixture.layers[0].digest = Some(other.clone());
        let error = fixture.error();
        assert!(error.contains(&format!("its blob is {}, but the image says {other}", digest(&blob))), "{error}");
        // Where the image names none, there is none to check.
        let mut fixture = Fixture::new().stored(compression, &blob, &content);
        fixture.layers[0].digest = Option::None;
        fixture.tree();
    }
    let mut fixture = Fixture::new().bytes(&content);
    fixture.layers[0].diff_id = "md5:00".into();
    assert!(fixture.error().contains("\"md5:00\" is not sha256"));
}

#[test]
fn a_damaged_blob_is_called_that_and_not_what_came_of_it() {
    let content = large();
    for (compression, blob) in forms() {
        for at in [0, 150, 700, blob.len() / 2] {
            let fixture = Fixture::new().stored(compression, &blob, &content);
            let mut damaged = blob.clone();
            damaged[at] ^= 0x55;
            std::fs::write(fixture.device(), &damaged).unwrap();
            let expected = format!("is {}, but the image says {}", digest(&damaged), digest(&blob));
            let error = fixture.error();
            assert!(error.contains(&expected), "{compression:?} {at}: {error}");
        }
    }
}

#[test]
fn a_device_that_ends_before_the_layer_is_said_to() {
    let content = large();
    for (compression, blob) in forms() {
        let fixture = Fixture::new().stored(compression, &blob, &content);
        std::fs::File::options().write(true).open(fixture.device()).unwrap().set_len(8192).unwrap();
        let error = fixture.error();
        assert!(error.contains(&format!("ends {} bytes before", blob.len() - 8192)), "{error}");
    }
}

#[test]
fn a_missing_device_is_said_to_be() {
    let fixture = Fixture::new().bytes(b"");
    std::fs::remove_file(fixture.device()).unwrap();
    assert!(fixture.error().contains("the layer device can't be read: No such file"));
}
