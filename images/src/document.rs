//! The JSON documents of the OCI image specification 1.1 and of Docker's schema 2, as far as a task needs them.
//!
//! The types take what Go's JSON takes where images in the wild need it: a missing list and `null` are an empty list.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};

use crate::digest::Digest;
use crate::platform::Platform;

/// The annotation that holds an image's tag in an image layout.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The file `oci-layout`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LayoutMarker {
    /// The version of the layout.
    pub image_layout_version: String,
}

/// A descriptor: what a blob is, and how to know it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// The kind of the blob.
    #[serde(default, deserialize_with = "null_is_default")]
    pub media_type: String,
    /// The digest of its bytes.
    pub digest: Digest,
    /// The number of its bytes.
    pub size: u64,
    /// The platform that it is for, in an index.
    pub platform: Option<Platform>,
    /// Anything else about it.
    #[serde(default, deserialize_with = "null_is_default")]
    pub annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// The tag, in an image layout's index.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.annotations.get(REF_NAME).map(String::as_str)
    }
}

/// An image index, or Docker's manifest list.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// The kind of this document, when it says it.
    pub media_type: Option<String>,
    /// Images, and further indexes.
    #[serde(default, deserialize_with = "null_is_default")]
    pub manifests: Vec<Descriptor>,
    /// Present when the document pretends to be a manifest too.
    pub config: Option<IgnoredAny>,
    /// Present when the document pretends to be a manifest too.
    pub layers: Option<IgnoredAny>,
}

/// An image manifest.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// The kind of this document, when it says it.
    pub media_type: Option<String>,
    /// The image's configuration.
    pub config: Descriptor,
    /// The image's layers, the lowest first.
    #[serde(default, deserialize_with = "null_is_default")]
    pub layers: Vec<Descriptor>,
    /// Present when the document pretends to be an index too.
    pub manifests: Option<IgnoredAny>,
}

/// An image's configuration.
#[derive(Clone, Debug, Deserialize)]
pub struct Configuration {
    /// The operating system that it is for, in Go's names.
    #[serde(default, deserialize_with = "null_is_default")]
    pub os: String,
    /// The processor architecture that it is for, in Go's names.
    #[serde(default, deserialize_with = "null_is_default")]
    pub architecture: String,
    /// The level of the architecture.
    #[serde(default, deserialize_with = "null_is_default")]
    pub variant: String,
    /// When it was made (RFC 3339).
    #[serde(default, deserialize_with = "null_is_default")]
    pub created: String,
    /// What its process is like.
    #[serde(default, deserialize_with = "null_is_default")]
    pub config: ProcessConfiguration,
    /// What its file system is made of.
    #[serde(default, deserialize_with = "null_is_default")]
    pub rootfs: RootFs,
}

/// The part of an image's configuration that its process is made from.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ProcessConfiguration {
    /// User and group.
    #[serde(deserialize_with = "null_is_default")]
    pub user: String,
    /// `NAME=value` each.
    #[serde(deserialize_with = "null_is_default")]
    pub env: Vec<String>,
    /// The fixed start of the command.
    #[serde(deserialize_with = "words")]
    pub entrypoint: Vec<String>,
    /// The rest of the command, unless the user gives one.
    #[serde(deserialize_with = "words")]
    pub cmd: Vec<String>,
    /// The working directory.
    #[serde(deserialize_with = "null_is_default")]
    pub working_dir: String,
    /// The signal that asks the process to end.
    #[serde(deserialize_with = "null_is_default")]
    pub stop_signal: String,
    /// Anything else about the image.
    #[serde(deserialize_with = "null_is_default")]
    pub labels: BTreeMap<String, String>,
    /// Ports that the process listens on, `PORT[/PROTOCOL]` each.
    #[serde(deserialize_with = "null_is_default")]
    pub exposed_ports: BTreeMap<String, IgnoredAny>,
    /// Directories for data that is not the image's.
    #[serde(deserialize_with = "null_is_default")]
    pub volumes: BTreeMap<String, IgnoredAny>,
    /// How to find out whether the process is well.
    pub healthcheck: Option<Healthcheck>,
}

/// How to find out whether a container's process is well: Docker's extension, which OCI images have too. Times are in
/// nanoseconds; 0 means that the default holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Healthcheck {
    /// `NONE`, `CMD` and a command, or `CMD-SHELL` and a line for the shell; empty to inherit it.
    #[serde(deserialize_with = "null_is_default")]
    pub test: Vec<String>,
    /// The time between two checks.
    #[serde(deserialize_with = "null_is_default")]
    pub interval: i64,
    /// The time after which a check has failed.
    #[serde(deserialize_with = "null_is_default")]
    pub timeout: i64,
    /// The time that the process has to start, in which failures don't count.
    #[serde(deserialize_with = "null_is_default")]
    pub start_period: i64,
    /// The time between two checks in that time.
    #[serde(deserialize_with = "null_is_default")]
    pub start_interval: i64,
    /// How many failures in a row make it unwell.
    #[serde(deserialize_with = "null_is_default")]
    pub retries: i64,
}

/// What an image's file system is made of.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct RootFs {
    /// The digests of the layers' uncompressed archives, the lowest first.
    #[serde(default, deserialize_with = "null_is_default")]
    pub diff_ids: Vec<Digest>,
}

/// An entry of `manifest.json` in an archive of `docker save`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DockerArchiveItem {
    /// The file that holds the configuration.
    pub config: String,
    /// The image's names.
    #[serde(default, deserialize_with = "null_is_default")]
    pub repo_tags: Vec<String>,
    /// The files that hold the layers, the lowest first.
    #[serde(default, deserialize_with = "null_is_default")]
    pub layers: Vec<String>,
}

/// Takes `null` as the default.
pub(crate) fn null_is_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Takes a list of words or, as Docker does, one word.
fn words<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Words {
        None,
        One(String),
        Many(Vec<String>),
    }
    Ok(match Words::deserialize(deserializer)? {
        Words::None => Vec::new(),
        Words::One(word) => vec![word],
        Words::Many(words) => words,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn null_and_absent_are_the_same() {
        let absent: Configuration = serde_json::from_str("{}").unwrap();
        assert!(absent.config.cmd.is_empty() && absent.rootfs.diff_ids.is_empty());
        let null = r#"{"architecture": null, "config": {"Cmd": null, "Env": null, "Labels": null, "Volumes": null,
            "ExposedPorts": null, "Entrypoint": null, "User": null, "Healthcheck": {"Test": ["NONE"]}},
            "rootfs": {"type": "layers", "diff_ids": null}}"#;
        let null: Configuration = serde_json::from_str(null).unwrap();
        assert!(null.config.entrypoint.is_empty() && null.architecture.is_empty());
    }

    #[test]
    fn a_command_may_be_one_word() {
        let config: ProcessConfiguration = serde_json::from_str(r#"{"Cmd": "sh", "Entrypoint": ["a", "b"]}"#).unwrap();
        assert_eq!((config.cmd, config.entrypoint), (vec!["sh".into()], vec!["a".into(), "b".into()]));
    }

    proptest! {
        #[test]
        fn hostile_documents_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            let _ = serde_json::from_slice::<Index>(&bytes);
            let _ = serde_json::from_slice::<Manifest>(&bytes);
            let _ = serde_json::from_slice::<Configuration>(&bytes);
            let _ = serde_json::from_slice::<Vec<DockerArchiveItem>>(&bytes);
        }
    }
}
