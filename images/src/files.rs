//! Named files in some place: what the image formats are read from. A directory and an archive are such places; the
//! formats can't tell them apart.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::digest::Digest;
use crate::error::ImageError;

/// The most bytes of a document (index, manifest, configuration): the limit that registries and other engines have.
pub const MAX_DOCUMENT: u64 = 4 << 20;

/// A place with named files in it.
pub(crate) trait Files {
    /// The place, as the user wrote it.
    fn place(&self) -> &str;

    /// Finds a file by its path in the place, slashes between components. `None` when it does not exist.
    fn find(&self, name: &str) -> Result<Option<Extent>, ImageError>;
}

/// A part of an open regular file.
#[derive(Clone, Debug)]
pub(crate) struct Extent {
    pub(crate) file: Arc<File>,
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// What is expected of a document's bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

/// A document that was found, and the name that messages give it.
#[derive(Debug)]
pub(crate) struct Document<'a> {
    pub(crate) place: &'a str,
    pub(crate) what: String,
    pub(crate) bytes: Vec<u8>,
}

impl<'a> Document<'a> {
    /// Reads the document at `extent`, checked against what led to it.
    pub(crate) fn read(
        files: &'a dyn Files,
        extent: &Extent,
        what: String,
        expected: Option<Expected>,
    ) -> Result<Self, ImageError> {
        let place = files.place();
        let Extent { file, offset, length } = extent;
        let size = expected.map_or(*length, |expected| expected.size);
        if size != *length {
            return Err(ImageError::Size { place: place.into(), what, expected: size, actual: *length });
        }
        if *length == 0 {
            return Err(ImageError::Empty { place: place.into(), what });
        }
        let buffer = usize::try_from(*length).ok().filter(|_| *length <= MAX_DOCUMENT);
        let Some(buffer) = buffer else {
            return Err(ImageError::TooLarge { place: place.into(), what, length: *length, limit: MAX_DOCUMENT });
        };
        let mut bytes = vec![0; buffer];
        let read = file.read_exact_at(&mut bytes, *offset);
        read.map_err(|source| ImageError::Read { place: place.into(), name: what.clone(), source })?;
        if expected.is_some_and(|expected| Digest::of(&bytes) != expected.digest) {
            return Err(ImageError::Digest { place: place.into(), what });
        }
        Ok(Self { place, what, bytes })
    }

    /// Parses the document.
    pub(crate) fn parse<T: DeserializeOwned>(&self) -> Result<T, ImageError> {
        serde_json::from_slice(&self.bytes).map_err(|source| ImageError::Json {
            place: self.place.into(),
            what: self.what.clone(),
            source,
        })
    }

    /// The error for a document that contradicts itself.
    pub(crate) fn contradiction(&self, problem: &'static str) -> ImageError {
        ImageError::Contradiction { place: self.place.into(), what: self.what.clone(), problem }
    }
}
