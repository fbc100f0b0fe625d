//! Layouts that are right, and one test for each way in which they are not.

use std::os::unix::fs::FileExt as _;

use proptest::prelude::*;

use super::*;
use crate::Reference;
use crate::testing::{Memory, OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, configuration, index, platform, tagged};

/// The bytes of a layer.
fn bytes(layer: &LayerBlob) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(layer.length).unwrap()];
    layer.file.read_exact_at(&mut bytes, layer.offset).unwrap();
    bytes
}

/// The content of the only layer of the image that is opened.
fn opened(memory: &Memory, tag: Option<&str>) -> String {
    match open(memory, tag) {
        Ok(contents) => String::from_utf8(bytes(&contents.layers[0])).unwrap(),
        Err(error) => error.to_string(),
    }
}

fn error(memory: &Memory) -> String {
    open(memory, None).unwrap_err().to_string()
}

/// A layout whose only image has this manifest.
fn with_manifest(memory: Memory, manifest: &str) -> Memory {
    let manifest = memory.blob(OCI_MANIFEST, manifest, "");
    memory.index(&[&manifest]);
    memory
}

#[test]
fn a_directory_and_an_archive_hold_the_same_image() {
    let memory = Memory::layout();
    let config = memory.blob(OCI_CONFIG, configuration(&["one", "two", ""], "amd64"), "");
    let gzip = memory.blob(&format!("{OCI_LAYER}+gzip"), "gzip of one", "");
    let zstd = memory.blob("application/vnd.docker.image.rootfs.diff.tar.zstd", "zstd of two", "");
    let plain = memory.blob(OCI_LAYER, "", "");
    let memory = with_manifest(memory, &format!(r#"{{"config": {config}, "layers": [{gzip}, {zstd}, {plain}]}}"#));
    let directory = memory.directory();
    let archive = directory.path().join("archive.tar");
    std::fs::write(&archive, memory.archive()).unwrap();
    for reference in [format!("oci:{}", directory.path().display()), format!("oci-archive:{}", archive.display())] {
        let image = crate::open(&Reference::parse(&reference).unwrap()).unwrap();
        assert_eq!(image.reference, reference);
        assert_eq!(image.config.cmd, ["/bin/sh"]);
        let layers = image.layers.iter().map(|layer| (bytes(layer), layer.compression, layer.diff_id));
        let expected = [
            (b"gzip of one".to_vec(), crate::Compression::Gzip, Digest::of(b"one")),
            (b"zstd of two".to_vec(), crate::Compression::Zstd, Digest::of(b"two")),
            (Vec::new(), crate::Compression::None, Digest::of(b"")),
        ];
        assert!(layers.eq(expected));
        assert_eq!(image.layers[0].digest, Some(Digest::of(b"gzip of one")));
        assert_eq!(
            memory.files.borrow().get(&format!("blobs/sha256/{}", image.digest.hex())).map(|b| Digest::of(b)),
            Some(image.digest)
        );
    }
}

#[test]
fn a_tag_chooses_among_images() {
    let memory = Memory::layout();
    let (a, b) = (memory.image("a", "amd64", &tagged("a")), memory.image("b", "amd64", &tagged("b:1/x")));
    memory.index(&[&a, &b]);
    assert_eq!(opened(&memory, Some("a")), "a");
    assert_eq!(opened(&memory, Some("b:1/x")), "b");
    assert_eq!(opened(&memory, Some("c")), "place has no image tagged \"c\" (it has a, b:1/x)");
    assert_eq!(
        opened(&memory, None),
        "place has several images: say which by its tag, as in place:TAG (it has a, b:1/x)"
    );
    memory.index(&[&b]);
    assert_eq!(opened(&memory, None), "b");
}

#[test]
fn one_image_under_two_tags_is_one_image() {
    let memory = Memory::layout();
    let (a, b) = (memory.image("a", "amd64", &tagged("1")), memory.image("a", "amd64", &tagged("latest")));
    memory.index(&[&a, &b]);
    assert_eq!(opened(&memory, None), "a");
}

#[test]
fn images_without_tags_are_chosen_by_platform() {
    let memory = Memory::layout();
    let arm = memory.image("arm", "arm64", &platform("arm64", "v8"));
    let v3 = memory.image("v3", "amd64", &platform("amd64", "v3"));
    let plain = memory.image("plain", "amd64", &platform("amd64", ""));
    memory.index(&[&arm, &v3, &plain]);
    assert_eq!(opened(&memory, None), "plain");
    memory.index(&[&arm, &v3]);
    assert_eq!(opened(&memory, None), "v3");
    memory.index(&[&arm]);
    assert_eq!(opened(&memory, None), "The image in place is for linux/arm64/v8, and tasks run on linux/amd64");
    let twice = memory.image("other", "amd64", &platform("amd64", ""));
    memory.index(&[&plain, &twice]);
    assert!(opened(&memory, None).contains("several images"));
}

#[test]
fn nested_indexes_are_followed_to_a_depth() {
    let memory = Memory::layout();
    let attestation = r#""platform": {"os": "unknown", "architecture": "unknown"}"#;
    let attestation = memory.image("attestation", "amd64", attestation);
    let image = memory.image("image", "amd64", &platform("amd64", ""));
    let arm = memory.image("arm", "arm64", &platform("arm64", "v8"));
    let mut descriptor = memory.blob(OCI_INDEX, index(&[&attestation, &arm, &image]), &tagged("t"));
    memory.index(&[&descriptor]);
    assert_eq!(opened(&memory, Some("t")), "image");
    for _ in 0..4 {
        descriptor =
            memory.blob("application/vnd.docker.distribution.manifest.list.v2+json", index(&[&descriptor]), "");
    }
    memory.index(&[&descriptor]);
    assert!(opened(&memory, None).contains("lies too deep in other indexes"), "{}", opened(&memory, None));
    let only_arm = memory.blob(OCI_INDEX, index(&[&attestation, &arm]), "");
    memory.index(&[&only_arm]);
    assert_eq!(opened(&memory, None), "The image in place is for linux/arm64/v8, and tasks run on linux/amd64");
    let nothing = memory.blob(OCI_INDEX, index(&[]), "");
    memory.index(&[&nothing]);
    assert_eq!(opened(&memory, None), "place has no image in it");
    memory.index(&[]);
    assert_eq!(opened(&memory, None), "place has no image in it");
}

#[test]
fn an_image_whose_configuration_is_for_another_machine_is_refused() {
    let memory = Memory::layout();
    memory.index(&[&memory.image("x", "riscv64", "")]);
    assert_eq!(error(&memory), "The image in place is for linux/riscv64, and tasks run on linux/amd64");
}

#[test]
fn the_files_of_a_layout_must_be_there() {
    assert_eq!(error(&Memory::default()), "place has no file oci-layout, so it is not an OCI image layout");
    assert_eq!(error(&Memory::layout()), "place has no file index.json, so it is not an OCI image layout");
    let memory = Memory::layout();
    memory.put("index.json", "");
    assert_eq!(error(&memory), "The image in place is damaged: index.json is empty");
    memory.put("index.json", "{]");
    assert_eq!(error(&memory), "The image in place is damaged: index.json is not a valid document");
    memory.put("oci-layout", r#"{"imageLayoutVersion": "2.0.0"}"#);
    assert!(error(&memory).contains("has the version \"2.0.0\""));
}

#[test]
fn what_is_missing_is_named() {
    for what in ["the manifest", "the configuration", "the layer"] {
        let memory = Memory::layout();
        memory.index(&[&memory.image("x", "amd64", "")]);
        let blob = |bytes: &[u8]| match bytes {
            b"x" => "the layer",
            _ if bytes.starts_with(b"{\"schema") => "the manifest",
            _ => "the configuration",
        };
        memory.files.borrow_mut().retain(|name, bytes| !name.starts_with("blobs/") || blob(bytes) != what);
        let error = error(&memory);
        assert!(error.starts_with(&format!("The image in place is incomplete: {what} sha256:")), "{error}");
    }
}

#[test]
fn documents_with_other_content_are_refused_before_they_are_parsed() {
    for what in ["manifest", "configuration"] {
        let memory = Memory::layout();
        memory.index(&[&memory.image("x", "amd64", "")]);
        for bytes in memory.files.borrow_mut().values_mut() {
            let is_manifest = bytes.starts_with(b"{\"schemaVersion\": 2, \"config");
            if is_manifest == (what == "manifest") && (is_manifest || bytes.starts_with(b"{\"arch")) {
                bytes[0] = b' ';
            }
        }
        let error = error(&memory);
        assert!(error.contains("other content than its digest says") && error.contains(what), "{error}");
    }
}

#[test]
fn sizes_are_compared_with_the_descriptors() {
    for blob in ["x", "{\"arch"] {
        let memory = Memory::layout();
        memory.index(&[&memory.image("x", "amd64", "")]);
        for (name, bytes) in &mut *memory.files.borrow_mut() {
            if name.starts_with("blobs/") && bytes.starts_with(blob.as_bytes()) {
                bytes.push(b'\n');
            }
        }
        assert!(matches!(open(&memory, None), Err(ImageError::Size { .. })), "{blob}");
    }
}

#[test]
fn a_document_that_is_too_large_is_not_read() {
    let memory = Memory::layout();
    memory.put("index.json", vec![b' '; (4 << 20) + 1]);
    assert!(matches!(open(&memory, None), Err(ImageError::TooLarge { .. })));
}

#[test]
fn kinds_that_are_not_supported_are_named() {
    let cases = [
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "lies elsewhere"),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", "lies elsewhere"),
        ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "is encrypted"),
        ("application/vnd.oci.image.layer.v1.tar+bzip2", "is not supported"),
        ("application/vnd.oci.image.config.v1+json", "not that of a layer"),
        ("", "is not supported"),
    ];
    for (media_type, problem) in cases {
        let memory = Memory::layout();
        let config = memory.blob(OCI_CONFIG, configuration(&["x"], "amd64"), "");
        let layer = memory.blob(media_type, "x", "");
        let error = error(&with_manifest(memory, &format!(r#"{{"config": {config}, "layers": [{layer}]}}"#)));
        assert!(error.contains(problem) && error.contains("the layer sha256:"), "{error}");
    }
    let memory = Memory::layout();
    let config = memory.blob("application/vnd.cncf.helm.config.v1+json", "{}", "");
    let error_text = error(&with_manifest(memory, &format!(r#"{{"config": {config}, "layers": []}}"#)));
    assert!(error_text.contains("not the image of a container"), "{error_text}");
    let memory = Memory::layout();
    memory.index(&[&memory.blob("application/vnd.docker.distribution.manifest.v1+prettyjws", "{}", "")]);
    assert!(error(&memory).contains("schema 1"), "{}", error(&memory));
}

#[test]
fn a_document_that_is_two_things_is_refused() {
    let memory = Memory::layout();
    let config = memory.blob(OCI_CONFIG, configuration(&[], "amd64"), "");
    let both = format!(r#"{{"config": {config}, "layers": [], "manifests": []}}"#);
    for media_type in [OCI_MANIFEST, OCI_INDEX] {
        memory.index(&[&memory.blob(media_type, &both, "")]);
        assert!(error(&memory).contains("something else"), "{}", error(&memory));
    }
    let lies = format!(r#"{{"mediaType": "{OCI_INDEX}", "config": {config}, "layers": []}}"#);
    memory.index(&[&memory.blob(OCI_MANIFEST, &lies, "")]);
    assert!(error(&memory).contains("something else"), "{}", error(&memory));
}

#[test]
fn layers_are_counted() {
    let memory = Memory::layout();
    let config = memory.blob(OCI_CONFIG, configuration(&["x", "y"], "amd64"), "");
    let layer = memory.blob(OCI_LAYER, "x", "");
    let memory = with_manifest(memory, &format!(r#"{{"config": {config}, "layers": [{layer}]}}"#));
    assert_eq!(error(&memory), "The image in place is damaged: it has 1 layers, and its configuration names 2");
    let many = vec![layer; MAX_LAYERS + 1].join(",");
    let memory = with_manifest(memory, &format!(r#"{{"config": {config}, "layers": [{many}]}}"#));
    assert_eq!(error(&memory), "The image in place has 201 layers, more than the 200 that are allowed");
}

/// Changes one byte of a document, or cuts it.
fn damage(document: String, at: usize, byte: Option<u8>) -> Vec<u8> {
    let mut bytes = document.into_bytes();
    let at = at % bytes.len();
    match byte {
        Some(byte) => bytes[at] = byte,
        None => bytes.truncate(at),
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// One of the three documents is damaged, and those that lead to it name the damaged one: opening ends with an
    /// error or with an image whose layers are there.
    #[test]
    fn damaged_documents_never_panic(which in 0_usize..3, at: usize, byte in prop::option::of(any::<u8>())) {
        let memory = Memory::layout();
        let change = |number: usize, document: String| {
            if number == which { damage(document, at, byte) } else { document.into_bytes() }
        };
        let layer = memory.blob(OCI_LAYER, "x", "");
        let config = memory.blob(OCI_CONFIG, change(0, configuration(&["x"], "amd64")), "");
        let manifest = change(1, format!(r#"{{"schemaVersion": 2, "config": {config}, "layers": [{layer}]}}"#));
        let manifest = memory.blob(OCI_MANIFEST, manifest, &tagged("t"));
        memory.put("index.json", change(2, index(&[&manifest])));
        if let Ok(contents) = open(&memory, None) {
            prop_assert!(contents.layers.iter().all(|layer| bytes(layer) == b"x"));
        }
    }
}
