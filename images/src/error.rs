//! Why an image can't be opened: one sentence for each cause, which names the place and the thing.

use std::io;

use crate::name::Name;
use crate::platform::Platform;
use crate::tar_index::TarError;

/// Why an image can't be opened. `place` is the directory or archive that the image is in, as the user wrote it;
/// `what` is the thing in it, such as `the layer sha256:…`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The directory or archive can't be opened or read.
    #[error("The image in {place} can't be opened")]
    Open {
        /// The directory or archive.
        place: String,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// A file in the directory or archive can't be read.
    #[error("The file {name} of the image in {place} can't be read")]
    Read {
        /// The directory or archive.
        place: String,
        /// The file in it.
        name: String,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// Something else than a regular file where one is needed.
    #[error("{place} is not a regular file, as an image archive has to be")]
    NotAFile {
        /// The path.
        place: String,
    },
    /// Something else than a regular file in an image layout.
    #[error("The file {name} of the image in {place} is not a regular file")]
    NotAFileInside {
        /// The directory.
        place: String,
        /// The file in it.
        name: String,
    },
    /// A symbolic link in an image layout leads out of it.
    #[error(
        "The file {name} of the image in {place} is a symbolic link that leads out of that directory: \
         copy the image with `cp -rL` first"
    )]
    LeadsOut {
        /// The directory.
        place: String,
        /// The file in it.
        name: String,
    },
    /// The whole archive is compressed.
    #[error("The archive {place} is compressed with {tool}: decompress it with `{tool} -d` first")]
    CompressedArchive {
        /// The archive.
        place: String,
        /// The program that decompresses it.
        tool: &'static str,
    },
    /// The archive is broken.
    #[error("The archive {place} is damaged or not a tar archive")]
    Tar {
        /// The archive.
        place: String,
        /// What is wrong with it.
        #[source]
        source: TarError,
    },
    /// A file without which this is no image.
    #[error("{place} has no file {name}, so it is not {format}")]
    NotAnImage {
        /// The directory or archive.
        place: String,
        /// The file that is missing.
        name: &'static str,
        /// What was looked for.
        format: &'static str,
    },
    /// An image layout of a version to come.
    #[error("The image layout in {place} has the version {version:?}; only 1.x is supported")]
    LayoutVersion {
        /// The directory or archive.
        place: String,
        /// Its version.
        version: String,
    },
    /// A blob is not there.
    #[error("The image in {place} is incomplete: {what} is missing")]
    Missing {
        /// The directory or archive.
        place: String,
        /// What is missing.
        what: String,
    },
    /// A blob has another size than its descriptor says.
    #[error("The image in {place} is damaged: {what} has {actual} bytes instead of {expected}")]
    Size {
        /// The directory or archive.
        place: String,
        /// The blob.
        what: String,
        /// The bytes that its descriptor promises.
        expected: u64,
        /// The bytes that it has.
        actual: u64,
    },
    /// A blob has other content than its digest says.
    #[error("The image in {place} is damaged: {what} has other content than its digest says")]
    Digest {
        /// The directory or archive.
        place: String,
        /// The blob.
        what: String,
    },
    /// A document has no bytes.
    #[error("The image in {place} is damaged: {what} is empty")]
    Empty {
        /// The directory or archive.
        place: String,
        /// The document.
        what: String,
    },
    /// A document is larger than any honest one.
    #[error("The image in {place} can't be used: {what} has {length} bytes, more than the {limit} that are allowed")]
    TooLarge {
        /// The directory or archive.
        place: String,
        /// The document.
        what: String,
        /// Its size in bytes.
        length: u64,
        /// The most that is allowed, in bytes.
        limit: u64,
    },
    /// A document is not the JSON that it should be.
    #[error("The image in {place} is damaged: {what} is not a valid document")]
    Json {
        /// The directory or archive.
        place: String,
        /// The document.
        what: String,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// A document contradicts itself or what led to it.
    #[error("The image in {place} is damaged: {what} {problem}")]
    Contradiction {
        /// The directory or archive.
        place: String,
        /// The document.
        what: String,
        /// What is wrong with it, as the rest of the sentence.
        problem: &'static str,
    },
    /// A thing of a kind that is not supported.
    #[error("The image in {place} can't be used: {what} has the media type {media_type:?}, {problem}")]
    MediaType {
        /// The directory or archive.
        place: String,
        /// The thing.
        what: String,
        /// Its media type.
        media_type: String,
        /// Why that is no good, as the rest of the sentence.
        problem: &'static str,
    },
    /// A layer that is compressed in a way that is not supported.
    #[error("The image in {place} can't be used: {what} is compressed with {method}; gzip and zstd are supported")]
    Compression {
        /// The archive.
        place: String,
        /// The layer.
        what: String,
        /// The compression.
        method: &'static str,
    },
    /// There are no images.
    #[error("{place} has no image in it")]
    NoImage {
        /// The directory or archive.
        place: String,
    },
    /// The tag, name or index is not there.
    #[error("{place} has no image {wanted}{}", offer(.offered))]
    NoSuchImage {
        /// The directory or archive.
        place: String,
        /// What was looked for, with its kind.
        wanted: String,
        /// The tags or names that are there.
        offered: Vec<String>,
    },
    /// There are several images and nothing says which is meant.
    #[error("{place} has several images: say which by its tag, as in {place}:TAG{}", offer(.offered))]
    Ambiguous {
        /// The directory or archive.
        place: String,
        /// The tags or names that are there.
        offered: Vec<String>,
    },
    /// The image is for other machines.
    #[error("The image in {place} is for {}, and tasks run on {}", list(.offered), Platform::host())]
    Platform {
        /// The directory or archive.
        place: String,
        /// The platforms that there are images for.
        offered: Vec<Platform>,
    },
    /// The platform that was asked for is not there.
    #[error("The image in {place} is for {}, and not for {wanted}", list(.offered))]
    NoSuchPlatform {
        /// The directory, archive or name.
        place: String,
        /// What was asked for.
        wanted: Platform,
        /// The platforms that there are images for.
        offered: Vec<Platform>,
    },
    /// More layers than images have.
    #[error("The image in {place} has {count} layers, more than the {} that are allowed", crate::MAX_LAYERS)]
    TooManyLayers {
        /// The directory or archive.
        place: String,
        /// How many.
        count: usize,
    },
    /// The manifest and the configuration disagree.
    #[error("The image in {place} is damaged: it has {layers} layers, and its configuration names {diff_ids}")]
    LayerCount {
        /// The directory or archive.
        place: String,
        /// The layers of the manifest.
        layers: usize,
        /// The layers of the configuration.
        diff_ids: usize,
    },
    /// The image is in a registry.
    #[error("Registries are not supported yet: use oci:, oci-archive: or docker-archive: instead of {name}")]
    Registry {
        /// The image's name.
        name: Name,
    },
}

/// At most so many names are offered.
const MAX_OFFERED: usize = 8;

/// The names that are there, as the end of a sentence.
fn offer(offered: &[String]) -> String {
    if offered.is_empty() { " (none of them has a name)".into() } else { format!(" (it has {})", list(offered)) }
}

/// Names with commas between them. They come from the image: control characters are escaped.
fn list<T: ToString>(items: &[T]) -> String {
    let shown: Vec<String> = items.iter().take(MAX_OFFERED).map(|item| printable(&item.to_string())).collect();
    let more = items.len().checked_sub(MAX_OFFERED).filter(|&more| more > 0);
    shown.join(", ") + &more.map_or_else(String::new, |more| format!(" and {more} more"))
}

/// As much of a hostile text as belongs into a message, without its control characters.
pub(crate) fn printable(text: &str) -> String {
    let shown = text.chars().take(160);
    shown.flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_an_image_can_not_drive_the_terminal() {
        let error = ImageError::Ambiguous { place: "x".into(), offered: vec!["\u{1b}[2J".into()] };
        assert!(!error.to_string().contains('\u{1b}'));
    }

    #[test]
    fn a_long_list_is_cut() {
        let offered = (0..100).map(|n| format!("t{n}")).collect();
        let error = ImageError::NoSuchImage { place: "x".into(), wanted: "tagged \"v\"".into(), offered };
        assert_eq!(
            error.to_string(),
            "x has no image tagged \"v\" (it has t0, t1, t2, t3, t4, t5, t6, t7 and 92 more)"
        );
    }
}
