//! Images made in memory and written as OCI layouts (OCI image specification, "Image Layout").

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::layer::{Layer, mode};
use crate::place;

/// The media types of OCI layers.
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// The same, compressed with gzip.
pub const GZIP_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// How a layer is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// As it is.
    Plain,
    /// With gzip.
    Gzip,
    /// With Zstandard.
    Zstd,
}

/// An image under construction.
#[derive(Debug)]
pub struct Image {
    layers: Vec<(Vec<u8>, &'static str, String)>,
    /// The image configuration, to be changed at will.
    pub config: Value,
}

impl Default for Image {
    fn default() -> Self {
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["sh"]},
            "rootfs": {"type": "layers", "diff_ids": []},
        });
        Self { layers: Vec::new(), config }
    }
}

/// The digest of these bytes, as OCI writes it.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

impl Image {
    /// An image without layers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An image with a shell: Debian's static busybox and the probe.
    ///
    /// # Errors
    /// When they are not there.
    pub fn with_shell() -> Result<Self> {
        Ok(Self::new().layer(&shell()?, Stored::Gzip))
    }

    /// Adds a layer on top.
    #[must_use]
    pub fn layer(self, layer: &Layer, stored: Stored) -> Self {
        let (blob, media_type) = match stored {
            Stored::Plain => (layer.tar(), LAYER),
            Stored::Gzip => (layer.gzip(), GZIP_LAYER),
            Stored::Zstd => (layer.zstd(), "application/vnd.oci.image.layer.v1.tar+zstd"),
        };
        self.blob(blob, media_type, digest(&layer.tar()))
    }

    /// Adds a layer's blob as it is, with what the image is to say of it.
    #[must_use]
    pub fn blob(mut self, blob: Vec<u8>, media_type: &'static str, diff_id: String) -> Self {
        self.layers.push((blob, media_type, diff_id));
        self
    }

    /// Sets a field of the configuration's `config`.
    #[must_use]
    pub fn set(mut self, field: &str, value: Value) -> Self {
        if let Some(config) = self.config.get_mut("config").and_then(Value::as_object_mut) {
            config.insert(field.to_owned(), value);
        }
        self
    }

    /// Writes the image as the layout `directory`, tagged `latest`, and gives its reference.
    ///
    /// # Errors
    /// When a file can't be written.
    pub fn write(mut self, directory: &Path) -> Result<String> {
        let blobs = directory.join("blobs/sha256");
        fs::create_dir_all(&blobs).context("Can't make the layout")?;
        let store = |bytes: &[u8]| -> Result<(String, usize)> {
            let digest = digest(bytes);
            let name = digest.strip_prefix("sha256:").unwrap_or_default();
            fs::write(blobs.join(name), bytes).context("Can't write a blob")?;
            Ok((digest, bytes.len()))
        };
        let mut descriptors = Vec::new();
        let mut diff_ids = Vec::new();
        for (blob, media_type, diff_id) in &self.layers {
            let (digest, size) = store(blob)?;
            descriptors.push(json!({"mediaType": media_type, "digest": digest, "size": size}));
            diff_ids.push(diff_id.clone());
        }
        if let Some(list) = self.config.pointer_mut("/rootfs/diff_ids") {
            *list = json!(diff_ids);
        }
        let (config, config_size) = store(&serde_json::to_vec(&self.config)?)?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": config_size},
            "layers": descriptors,
        });
        let (manifest, manifest_size) = store(&serde_json::to_vec(&manifest)?)?;
        let index = json!({"schemaVersion": 2, "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": manifest,
            "size": manifest_size,
            "annotations": {"org.opencontainers.image.ref.name": "latest"},
        }]});
        fs::write(directory.join("index.json"), serde_json::to_vec(&index)?)?;
        fs::write(directory.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        Ok(format!("oci:{}:latest", directory.display()))
    }
}

/// A layer with a shell, its usual commands, the probe, and the directories that a runtime mounts over.
///
/// # Errors
/// When the programs are not there.
pub fn shell() -> Result<Layer> {
    let busybox = fs::read("/bin/busybox").context("Can't read /bin/busybox (Debian's busybox-static)")?;
    let probe = fs::read(place::probe()).context("Can't read the probe")?;
    let mut layer = Layer::new();
    for name in ["bin", "dev", "etc", "proc", "sys"] {
        layer = layer.directory(name, mode(0o755));
    }
    layer = layer.file("bin/busybox", mode(0o755), busybox).file("bin/probe", mode(0o755), probe);
    for applet in ["sh", "cat", "echo", "ls", "sleep", "id", "stat"] {
        layer = layer.symlink(format!("bin/{applet}"), "busybox");
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n";
    Ok(layer.file("etc/passwd", mode(0o644), passwd).file(
        "etc/group",
        mode(0o644),
        "root:x:0:\napp:x:1000:\nextra:x:2000:app\n",
    ))
}
