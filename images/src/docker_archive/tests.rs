//! Archives of `docker save` that are right, and one test for each way in which they are not.

use super::*;
use crate::Reference;
use crate::testing::{Memory, configuration};

/// An archive with one image of one layer.
fn archive(layer: &[u8]) -> Memory {
    let memory = Memory::default();
    let config = configuration(&["x"], "amd64");
    memory.put(&config_name(&config), &config);
    memory.put("a/layer.tar", layer);
    memory.put("manifest.json", format!("[{}]", item(&config, "", "\"a/layer.tar\"")));
    memory
}

fn config_name(config: &str) -> String {
    format!("{}.json", Digest::of(config.as_bytes()).hex())
}

fn item(config: &str, tags: &str, layers: &str) -> String {
    format!(r#"{{"Config": "{}", "RepoTags": [{tags}], "Layers": [{layers}]}}"#, config_name(config))
}

fn error(memory: &Memory) -> String {
    open(memory, None).unwrap_err().to_string()
}

#[test]
fn an_image_is_found_through_the_real_archive() {
    let memory = archive(b"\x1f\x8b\x08 and so on");
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("x.tar");
    std::fs::write(&path, memory.archive()).unwrap();
    let image = crate::open(&Reference::parse(&format!("docker-archive:{}", path.display())).unwrap()).unwrap();
    assert_eq!(image.digest, Digest::of(configuration(&["x"], "amd64").as_bytes()));
    let [layer] = image.layers.as_slice() else { panic!("one layer") };
    assert_eq!((layer.compression, layer.length, layer.digest), (Compression::Gzip, 13, None));
    assert_eq!(layer.diff_id, Digest::of(b"x"));
    let mut bytes = [0; 13];
    layer.file.read_exact_at(&mut bytes, layer.offset).unwrap();
    assert_eq!(&bytes, b"\x1f\x8b\x08 and so on");
}

#[test]
fn the_first_bytes_tell_the_compression() {
    let cases: [(&[u8], Compression); 4] = [
        (b"", Compression::None),
        (b"\x1f", Compression::None),
        (b"etc/passwd\0\0\0", Compression::None),
        (b"\x28\xb5\x2f\xfd.", Compression::Zstd),
    ];
    for (bytes, compression) in cases {
        assert_eq!(open(&archive(bytes), None).unwrap().layers[0].compression, compression, "{bytes:?}");
    }
    assert!(error(&archive(b"\xfd7zXZ\0....")).contains("the layer a/layer.tar is compressed with xz"));
    assert!(error(&archive(b"BZh9.......")).contains("bzip2"));
}

#[test]
fn one_of_several_images_is_chosen_by_name_or_place() {
    let memory = archive(b"x");
    let config = configuration(&["x"], "amd64");
    let other = configuration(&[], "amd64");
    memory.put(&config_name(&other), &other);
    let (a, b) =
        (item(&config, "\"busybox:latest\", \"b:1\"", "\"a/layer.tar\""), item(&other, "\"localhost:5000/c:2\"", ""));
    memory.put("manifest.json", format!("[{a}, {b}]"));
    let chosen = |text: &str| {
        let Ok(Reference::DockerArchive { select, .. }) = Reference::parse(&format!("docker-archive:x{text}")) else {
            panic!("{text} is a reference");
        };
        open(&memory, select.as_ref()).map(|contents| contents.layers.len()).map_err(|error| error.to_string())
    };
    assert_eq!(chosen(":busybox"), Ok(1));
    assert_eq!(chosen(":docker.io/library/b:1"), Ok(1));
    assert_eq!(chosen(":localhost:5000/c:2"), Ok(0));
    assert_eq!(chosen(":@1"), Ok(0));
    assert!(chosen(":@2").unwrap_err().starts_with("place has no image at place @2"));
    assert!(chosen(":c").unwrap_err().starts_with("place has no image named docker.io/library/c:latest (it has"));
    assert!(chosen("").unwrap_err().starts_with("place has several images"));
    memory.put("manifest.json", "[]");
    assert_eq!(chosen(""), Err("place has no image in it".into()));
}

#[test]
fn what_is_missing_or_damaged_is_named() {
    assert_eq!(error(&Memory::default()), "place has no file manifest.json, so it is not an archive of docker save");
    let memory = archive(b"x");
    memory.files.borrow_mut().remove("a/layer.tar");
    assert_eq!(error(&memory), "The image in place is incomplete: the layer a/layer.tar is missing");
    let memory = archive(b"x");
    memory.files.borrow_mut().retain(|name, _| name.len() < 60);
    assert!(error(&memory).starts_with("The image in place is incomplete: the configuration "));
    let memory = archive(b"x");
    memory.files.borrow_mut().iter_mut().filter(|(name, _)| name.len() > 60).for_each(|(_, bytes)| bytes.push(b' '));
    assert!(error(&memory).contains("other content than its digest says"));
    let memory = archive(b"x");
    memory.put("manifest.json", "");
    assert_eq!(error(&memory), "The image in place is damaged: manifest.json is empty");
    let memory = archive(b"x");
    memory.put("manifest.json", format!("[{}]", item(&configuration(&["x"], "amd64"), "", "")));
    assert_eq!(error(&memory), "The image in place is damaged: it has 0 layers, and its configuration names 1");
}
