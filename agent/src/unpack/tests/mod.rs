//! Layers made in memory, unpacked into a directory of this machine, and the directory read back. They need root, for
//! owners and device nodes.

mod compression;
mod hostile;
mod kinds;
mod merging;
mod properties;
mod tar;
mod tree;

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsFd;
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

/// An image on a device, and a directory to unpack it into.
struct Fixture {
    directory: TempDir,
    layers: Vec<Layer>,
    limits: Limits,
}

impl Fixture {
    /// An image of no layers. Beside the target, in the same directory, there is nothing but a canary.
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for name in ["target", "canary"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        fs::write(directory.path().join("canary/file"), "untouched").unwrap();
        File::create(directory.path().join("device")).unwrap();
        Self { directory, layers: Vec::new(), limits: Limits::default() }
    }

    fn target(&self) -> PathBuf {
        self.directory.path().join("target")
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

    fn unpack(&self) -> Result<Summary, UnpackError> {
        let target = File::open(self.target()).unwrap();
        let result = unpack_layers(&self.device(), &self.layers, target.as_fd(), &self.limits);
        self.check_canary();
        result
    }

    /// Unpacks and reads the target back.
    fn tree(&self) -> Tree {
        match self.unpack() {
            Ok(_) => Tree::read(&self.target()),
            Err(error) => panic!("{error}"),
        }
    }

    /// Unpacks, which must fail, and gives the sentence.
    fn error(&self) -> String {
        let error = self.unpack().expect_err("the image must be refused").to_string();
        assert!(!error.contains('\n') && error.starts_with(char::is_uppercase), "{error}");
        error
    }

    /// Checks that nothing has changed beside the target.
    fn check_canary(&self) {
        let mut names: Vec<_> = fs::read_dir(self.directory.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["canary", "device", "target"]);
        let canary = Tree::read(&self.directory.path().join("canary"));
        assert_eq!(canary.names(), ["", "file"]);
        assert_eq!(canary.content("file"), "untouched");
    }
}
