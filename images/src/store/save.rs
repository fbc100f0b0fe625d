//! Writing an image to an archive that holds an OCI image layout: what `oci-archive:` names.

use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::Arc;

use serde_json::json;

use super::error::{self, StoreError};
use super::image::needed_blobs;
use super::{Blob, Store, StoredImage};
use crate::document::{Manifest, REF_NAME};
use crate::manifest::Kind;

/// The annotation that holds an image's full name, for `ctr` and `docker load`.
const IMAGE_NAME: &str = "io.containerd.image.name";

impl Store {
    /// Writes an image to `out` as an archive, from its start to its end. The same image gives the same bytes.
    ///
    /// # Errors
    /// [`StoreError::Archive`] when `out` fails; [`StoreError::Image`].
    pub fn save(&self, image: &StoredImage, out: &mut dyn Write) -> Result<(), StoreError> {
        let (contents, manifest) = self.read_image(&image.name, &image.manifest)?;
        let mut blobs = Vec::new();
        for digest in needed_blobs(&image.manifest, &manifest) {
            let path = self.blob_path(&digest);
            let missing = || error::at(&path, "opened", None, io::ErrorKind::NotFound.into());
            blobs.push(self.blob(&digest)?.ok_or_else(missing)?);
        }
        let index = index(image, &manifest, &blobs);
        let written = write(out, &index, &blobs);
        drop(contents);
        written.map_err(StoreError::Archive)
    }
}

fn write(out: &mut dyn Write, index: &str, blobs: &[Blob]) -> io::Result<()> {
    let mut builder = tar::Builder::new(out);
    let small = [("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#), ("index.json", index)];
    for (name, text) in small {
        builder.append_data(&mut header(u64::try_from(text.len()).unwrap_or(0)), name, text.as_bytes())?;
    }
    for Blob { digest, file, length } in blobs {
        // The position is shared with others who got the same descriptor, so it is not used.
        let content = At { file: Arc::clone(file), offset: 0 }.take(*length);
        builder.append_data(&mut header(*length), format!("blobs/sha256/{}", digest.hex()), content)?;
    }
    builder.into_inner()?.flush()
}

/// The header of a file: everything in it but the length is fixed.
fn header(length: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(length);
    header.set_mode(0o644);
    header.set_mtime(0);
    header
}

/// The top of the layout.
fn index(image: &StoredImage, manifest: &Manifest, blobs: &[Blob]) -> String {
    let size = blobs.iter().find(|blob| blob.digest == image.manifest).map_or(0, |blob| blob.length);
    let docker = manifest.config.media_type.starts_with("application/vnd.docker.");
    let usual = if docker {
        "application/vnd.docker.distribution.manifest.v2+json"
    } else {
        "application/vnd.oci.image.manifest.v1+json"
    };
    let stated = manifest.media_type.as_deref().filter(|media_type| Kind::of(media_type) == Kind::Manifest);
    let mut annotations = json!({ IMAGE_NAME: image.name });
    let tag = crate::name::Name::parse(&image.name).ok().and_then(|name| name.tag);
    if let (Some(tag), Some(annotations)) = (tag, annotations.as_object_mut()) {
        annotations.insert(REF_NAME.into(), tag.into());
    }
    let descriptor = json!({
        "mediaType": stated.unwrap_or(usual),
        "digest": image.manifest,
        "size": size,
        "annotations": annotations,
    });
    json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [descriptor] })
        .to_string()
}

/// Reads a file from an offset on.
#[derive(Debug)]
struct At {
    file: Arc<File>,
    offset: u64,
}

impl Read for At {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = std::os::unix::fs::FileExt::read_at(&*self.file, buffer, self.offset)?;
        self.offset = self.offset.saturating_add(u64::try_from(read).unwrap_or(0));
        Ok(read)
    }
}
