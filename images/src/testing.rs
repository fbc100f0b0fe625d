//! Images made for the tests of this crate: files in memory, which become a layout, an archive, or neither.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::sync::Arc;

use tempfile::TempDir;

use crate::Digest;
use crate::error::ImageError;
use crate::files::{Extent, Files};

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// Files by name, which can be read as an image.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    pub(crate) files: RefCell<BTreeMap<String, Vec<u8>>>,
}

impl Files for Memory {
    fn place(&self) -> &str {
        "place"
    }

    fn find(&self, name: &str) -> Result<Option<Extent>, ImageError> {
        let files = self.files.borrow();
        let Some(bytes) = files.get(name) else { return Ok(None) };
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"before").unwrap();
        file.write_all(bytes).unwrap();
        file.write_all(b"behind").unwrap();
        Ok(Some(Extent { file: Arc::new(file), offset: 6, length: bytes.len() as u64 }))
    }
}

impl Memory {
    /// An image layout without an index.
    pub(crate) fn layout() -> Self {
        let memory = Self::default();
        memory.put("oci-layout", r#"{"imageLayoutVersion": "1.0.0"}"#);
        memory
    }

    pub(crate) fn put(&self, name: &str, bytes: impl AsRef<[u8]>) {
        self.files.borrow_mut().insert(name.into(), bytes.as_ref().to_vec());
    }

    /// Adds a blob. Returns its descriptor as JSON, `more` members included.
    pub(crate) fn blob(&self, media_type: &str, bytes: impl AsRef<[u8]>, more: &str) -> String {
        let bytes = bytes.as_ref();
        let digest = Digest::of(bytes);
        self.put(&format!("blobs/sha256/{}", digest.hex()), bytes);
        let comma = if more.is_empty() { "" } else { ", " };
        format!(r#"{{"mediaType": "{media_type}", "digest": "{digest}", "size": {}{comma}{more}}}"#, bytes.len())
    }

    /// Adds an image with one layer, `layer`. Returns its manifest's descriptor.
    pub(crate) fn image(&self, layer: &str, architecture: &str, more: &str) -> String {
        let config = configuration(&[layer], architecture);
        let config = self.blob(OCI_CONFIG, config, "");
        let layer = self.blob(OCI_LAYER, layer, "");
        let manifest = format!(r#"{{"schemaVersion": 2, "config": {config}, "layers": [{layer}]}}"#);
        self.blob(OCI_MANIFEST, manifest, more)
    }

    /// Writes `index.json`.
    pub(crate) fn index(&self, manifests: &[&str]) {
        self.put("index.json", index(manifests));
    }

    /// The files in a directory.
    pub(crate) fn directory(&self) -> TempDir {
        let temp = tempfile::tempdir().unwrap();
        for (name, bytes) in &*self.files.borrow() {
            let path = temp.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        temp
    }

    /// The files in a tar archive.
    pub(crate) fn archive(&self) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, bytes) in &*self.files.borrow() {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, bytes.as_slice()).unwrap();
        }
        builder.into_inner().unwrap()
    }
}

/// The configuration of an image with these layers' contents.
pub(crate) fn configuration(layers: &[&str], architecture: &str) -> String {
    let diff_ids: Vec<String> = layers.iter().map(|layer| format!("\"{}\"", Digest::of(layer.as_bytes()))).collect();
    format!(
        r#"{{"architecture": "{architecture}", "os": "linux", "config": {{"Cmd": ["/bin/sh"]}},
        "rootfs": {{"type": "layers", "diff_ids": [{}]}}}}"#,
        diff_ids.join(", ")
    )
}

/// An index of these descriptors.
pub(crate) fn index(manifests: &[&str]) -> String {
    format!(r#"{{"schemaVersion": 2, "manifests": [{}]}}"#, manifests.join(", "))
}

/// The members of a descriptor that say its tag.
pub(crate) fn tagged(tag: &str) -> String {
    format!(r#""annotations": {{"org.opencontainers.image.ref.name": "{tag}"}}"#)
}

/// The members of a descriptor that say its platform.
pub(crate) fn platform(architecture: &str, variant: &str) -> String {
    format!(r#""platform": {{"os": "linux", "architecture": "{architecture}", "variant": "{variant}"}}"#)
}
