//! Layers made in memory, unpacked into an image in memory, and the image read back by another crate.

mod compression;
mod hostile;
mod kinds;
mod merging;
mod properties;
mod tar;
mod tree;

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use protocol::LAYER_ALIGNMENT;
use protocol::spec::{Compression, Layer};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::{Limits, Summary, UnpackError, unpack_layers};
use tar::Tar;
use tree::Tree;

/// The digest of `bytes`.
fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// Layers on a device.
struct Fixture {
    directory: TempDir,
    layers: Vec<Layer>,
    limits: Limits,
}

impl Fixture {
    /// An image of no layers.
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        File::create(directory.path().join("device")).unwrap();
        Self { directory, layers: Vec::new(), limits: Limits::default() }
    }

    fn device(&self) -> PathBuf {
        self.directory.path().join("device")
    }

    /// Adds a layer from its stored and its uncompressed bytes.
    fn stored(mut self, compression: Compression, blob: &[u8], content: &[u8]) -> Self {
        let mut device = File::options().append(true).open(self.device()).unwrap();
        let offset = device.metadata().unwrap().len();
        device.write_all(blob).unwrap();
        let end = (offset + blob.len() as u64).next_multiple_of(LAYER_ALIGNMENT);
        device.set_len(end).unwrap();
        self.layers.push(Layer {
            offset,
            length: blob.len() as u64,
            compression,
            digest: Some(digest(blob)),
            diff_id: digest(content),
        });
        self
    }

    /// Adds an uncompressed layer of any bytes.
    fn bytes(self, content: &[u8]) -> Self {
        self.stored(Compression::None, content, content)
    }

    /// Adds an uncompressed layer.
    fn layer(self, tar: Tar) -> Self {
        self.bytes(&tar.finish())
    }

    fn unpack(&self) -> Result<(Vec<u8>, Summary), UnpackError> {
        unpack_layers(&self.device(), &self.layers, Vec::new(), &self.limits, &mut |_| {})
    }

    /// Unpacks and reads the image back.
    fn tree(&self) -> Tree {
        match self.unpack() {
            Ok((image, summary)) => {
                assert_eq!(summary.image_size, image.len() as u64);
                Tree::read(&image)
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Unpacks, which must fail, and gives the sentence.
    fn error(&self) -> String {
        let error = self.unpack().expect_err("the image must be refused").to_string();
        assert!(!error.contains('\n') && error.starts_with(char::is_uppercase), "{error}");
        error
    }
}
