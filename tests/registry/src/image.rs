//! Images made for tests: an OCI layout in a temporary directory.

use std::fs;
use std::io::Write as _;

use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
}

/// A layer of files.
#[derive(Clone, Debug)]
pub struct Layer {
    /// How it is compressed.
    pub compression: Compression,
    /// Paths and contents.
    pub files: Vec<(String, Vec<u8>)>,
}

/// An OCI layout, with nothing in it at first.
#[derive(Debug)]
pub struct ImageDir {
    directory: TempDir,
    rows: Vec<String>,
}

/// The digest of `bytes` as it is written.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// `length` bytes that can't be compressed, others for each `seed` (xorshift).
#[must_use]
pub fn bytes(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    let mut bytes: Vec<u8> = words.by_ref().take(length.div_ceil(8)).flatten().collect();
    bytes.truncate(length);
    bytes
}

impl Layer {
    /// A layer with one file, `name`, of `length` bytes that can't be compressed.
    #[must_use]
    pub fn noise(compression: Compression, name: &str, length: usize) -> Self {
        let seed = name.bytes().fold(7, |seed: u64, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
        Self { compression, files: vec![(name.into(), bytes(length, seed))] }
    }

    /// The tar archive, and it compressed.
    fn archive(&self) -> (Vec<u8>, Vec<u8>) {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in &self.files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, content.as_slice()).unwrap();
        }
        let tar = builder.into_inner().unwrap();
        let stored = match self.compression {
            Compression::None => tar.clone(),
            Compression::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(&tar).unwrap();
                encoder.finish().unwrap()
            }
            Compression::Zstd => {
                use ruzstd::encoding::{CompressionLevel, compress_to_vec};
                compress_to_vec(tar.as_slice(), CompressionLevel::Fastest)
            }
        };
        (tar, stored)
    }
}

impl ImageDir {
    /// An empty layout.
    #[must_use]
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("blobs/sha256")).unwrap();
        fs::write(directory.path().join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).unwrap();
        Self { directory, rows: Vec::new() }
    }

    /// A layout with one image, `latest`, of `layers`.
    #[must_use]
    pub fn of(layers: &[Layer]) -> Self {
        let mut dir = Self::new();
        dir.image("latest", layers);
        dir
    }

    /// How skopeo names the image `tag` in it.
    #[must_use]
    pub fn source(&self, tag: &str) -> String {
        format!("oci:{}:{tag}", self.directory.path().display())
    }

    /// Adds an image for this machine, and returns the digests of its layers as they are stored.
    pub fn image(&mut self, tag: &str, layers: &[Layer]) -> Vec<String> {
        let (manifest, digests) = self.manifest("amd64", layers, "");
        self.tag(tag, &manifest);
        digests
    }

    /// Adds an index of images, one for each architecture (`amd64`, `arm64/v8`).
    pub fn index(&mut self, tag: &str, images: &[(&str, &[Layer])]) {
        let rows: Vec<String> = images
            .iter()
            .map(|(architecture, layers)| {
                let (architecture, variant) = architecture.split_once('/').unwrap_or((architecture, ""));
                let variant = if variant.is_empty() { String::new() } else { format!(r#", "variant": "{variant}""#) };
                let platform = format!(r#", "platform": {{"os": "linux", "architecture": "{architecture}"{variant}}}"#);
                self.manifest(architecture, layers, &platform).0
            })
            .collect();
        let rows = rows.join(", ");
        let index = format!(r#"{{"schemaVersion": 2, "mediaType": "{INDEX}", "manifests": [{rows}]}}"#);
        let descriptor = self.blob(INDEX, index.as_bytes(), "");
        self.tag(tag, &descriptor);
    }

    /// Adds an artifact: a manifest whose configuration is not that of an image.
    pub fn artifact(&mut self, tag: &str, media_type: &str) {
        let config = self.blob(media_type, b"{}", "");
        let layer = self.blob("text/plain", b"hello", "");
        let manifest =
            format!(r#"{{"schemaVersion": 2, "mediaType": "{MANIFEST}", "config": {config}, "layers": [{layer}]}}"#);
        let descriptor = self.blob(MANIFEST, manifest.as_bytes(), "");
        self.tag(tag, &descriptor);
    }

    /// Adds the manifest of an image. Returns its descriptor and the digests of its layers.
    fn manifest(&mut self, architecture: &str, layers: &[Layer], more: &str) -> (String, Vec<String>) {
        let (mut descriptors, mut diff_ids, mut digests) = (Vec::new(), Vec::new(), Vec::new());
        for layer in layers {
            let (tar, stored) = layer.archive();
            let suffix = match layer.compression {
                Compression::None => "",
                Compression::Gzip => "+gzip",
                Compression::Zstd => "+zstd",
            };
            descriptors.push(self.blob(&format!("{LAYER}{suffix}"), &stored, ""));
            diff_ids.push(format!("\"{}\"", digest(&tar)));
            digests.push(digest(&stored));
        }
        let config = format!(
            r#"{{"architecture": "{architecture}", "os": "linux", "config": {{"Cmd": ["/bin/sh"]}},
            "rootfs": {{"type": "layers", "diff_ids": [{}]}}}}"#,
            diff_ids.join(", ")
        );
        let config = self.blob(CONFIG, config.as_bytes(), "");
        let descriptors = descriptors.join(", ");
        let manifest = format!(
            r#"{{"schemaVersion": 2, "mediaType": "{MANIFEST}", "config": {config}, "layers": [{descriptors}]}}"#
        );
        (self.blob(MANIFEST, manifest.as_bytes(), more), digests)
    }

    /// Adds a blob, and returns its descriptor.
    fn blob(&self, media_type: &str, bytes: &[u8], more: &str) -> String {
        let digest = digest(bytes);
        let path = self.directory.path().join("blobs/sha256").join(digest.trim_start_matches("sha256:"));
        fs::write(path, bytes).unwrap();
        format!(r#"{{"mediaType": "{media_type}", "digest": "{digest}", "size": {}{more}}}"#, bytes.len())
    }

    /// Adds a row to the layout's index; one with the same tag goes.
    fn tag(&mut self, tag: &str, descriptor: &str) {
        let name = format!(r#""annotations": {{"org.opencontainers.image.ref.name": "{tag}"}}"#);
        let row = descriptor.strip_suffix('}').unwrap().to_owned() + ", " + &name + "}";
        self.rows.retain(|other| !other.ends_with(&format!("{name}}}")));
        self.rows.push(row);
        let index = format!(r#"{{"schemaVersion": 2, "manifests": [{}]}}"#, self.rows.join(", "));
        fs::write(self.directory.path().join("index.json"), index).unwrap();
    }
}

impl Default for ImageDir {
    fn default() -> Self {
        Self::new()
    }
}
