//! What an image says about its process (OCI image specification, "Image Configuration", `config`).

use std::collections::{BTreeMap, BTreeSet};

use crate::digest::Digest;
use crate::document::{Configuration, Healthcheck, ProcessConfiguration};
use crate::error::ImageError;
use crate::files::Document;
use crate::platform::Platform;

/// What an image says about its process. No text in it has a NUL byte.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// The fixed start of the command.
    pub entrypoint: Vec<String>,
    /// The rest of the command, unless the caller gives one.
    pub cmd: Vec<String>,
    /// The environment, `NAME=value` each.
    pub env: Vec<String>,
    /// User and group, by name or number; empty for root.
    pub user: String,
    /// The working directory; empty for `/`.
    pub working_dir: String,
    /// The signal that asks the process to end, by name or number, as the image has it.
    pub stop_signal: Option<String>,
    /// Anything else about the image.
    pub labels: BTreeMap<String, String>,
    /// Ports that the process listens on, `PORT[/PROTOCOL]` each.
    pub exposed_ports: BTreeSet<String>,
    /// Directories for data that is not the image's.
    pub volumes: BTreeSet<String>,
    /// How to find out whether the process is well. It is kept, and nothing is done with it yet.
    pub healthcheck: Option<Healthcheck>,
    /// When the image was made, as it says itself (RFC 3339).
    pub created: Option<String>,
}

/// Reads an image's configuration: what it says, and the digests of its layers' contents.
///
/// Fails when the image is for another platform than this machine's.
pub(crate) fn read(document: &Document<'_>) -> Result<(ImageConfig, Vec<Digest>), ImageError> {
    let Configuration { os, architecture, variant, created, config, rootfs } = document.parse()?;
    let platform = Platform { os, architecture, variant };
    if !platform.fits() {
        return Err(ImageError::Platform { place: document.place.into(), offered: vec![platform] });
    }
    let created = Some(created).filter(|created| !created.is_empty());
    let config = ImageConfig { created, ..ImageConfig::from(config) };
    if has_nul(&config) {
        return Err(document.contradiction("has a NUL character in a command, a path or a variable"));
    }
    Ok((config, rootfs.diff_ids))
}

/// Whether a text that reaches the kernel has a NUL character, which would cut it there.
fn has_nul(config: &ImageConfig) -> bool {
    let lists = config.entrypoint.iter().chain(&config.cmd).chain(&config.env);
    let mut texts = lists.chain([&config.user, &config.working_dir]).chain(&config.stop_signal).chain(&config.volumes);
    texts.any(|text| text.contains('\0'))
}

impl From<ProcessConfiguration> for ImageConfig {
    fn from(config: ProcessConfiguration) -> Self {
        Self {
            entrypoint: config.entrypoint,
            cmd: config.cmd,
            env: config.env,
            user: config.user,
            working_dir: config.working_dir,
            stop_signal: Some(config.stop_signal).filter(|signal| !signal.is_empty()),
            labels: config.labels,
            exposed_ports: config.exposed_ports.into_keys().collect(),
            volumes: config.volumes.into_keys().collect(),
            healthcheck: config.healthcheck,
            created: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<(ImageConfig, Vec<Digest>), ImageError> {
        read(&Document { place: "x", what: "the configuration".into(), bytes: json.into() })
    }

    #[test]
    fn everything_that_matters_is_taken() {
        let digest = Digest::of(b"");
        let json = format!(
            r#"{{"architecture": "amd64", "os": "linux", "created": "2026-01-01T00:00:00Z", "history": [],
            "config": {{"User": "1000:app", "Env": ["A=b", "EMPTY="], "Entrypoint": ["/e"], "Cmd": ["a", ""],
            "WorkingDir": "/w", "StopSignal": "SIGINT", "Labels": {{"k": "v"}}, "ExposedPorts": {{"80/tcp": {{}}}},
            "Volumes": {{"/data": {{}}}},
            "Healthcheck": {{"Test": ["CMD-SHELL", "true"], "Interval": 30000000000, "Timeout": null, "Retries": 3}}}},
            "rootfs": {{"type": "layers", "diff_ids": ["{digest}"]}}}}"#
        );
        let (config, diff_ids) = parse(&json).unwrap();
        let expected = ImageConfig {
            entrypoint: vec!["/e".into()],
            cmd: vec!["a".into(), String::new()],
            env: vec!["A=b".into(), "EMPTY=".into()],
            user: "1000:app".into(),
            working_dir: "/w".into(),
            stop_signal: Some("SIGINT".into()),
            labels: [("k".into(), "v".into())].into(),
            exposed_ports: ["80/tcp".into()].into(),
            volumes: ["/data".into()].into(),
            healthcheck: Some(Healthcheck {
                test: vec!["CMD-SHELL".into(), "true".into()],
                interval: 30_000_000_000,
                retries: 3,
                ..Healthcheck::default()
            }),
            created: Some("2026-01-01T00:00:00Z".into()),
        };
        assert_eq!((config, diff_ids), (expected, vec![digest]));
    }

    #[test]
    fn an_image_for_another_machine_is_named() {
        let error = parse(r#"{"architecture": "arm64", "os": "linux", "variant": "v8"}"#).unwrap_err();
        assert_eq!(error.to_string(), "The image in x is for linux/arm64/v8, and tasks run on linux/amd64");
    }

    #[test]
    fn nul_characters_are_refused() {
        for config in [r#""Cmd": ["a\u0000"]"#, r#""Env": ["A=\u0000"]"#, r#""WorkingDir": "\u0000""#] {
            assert!(matches!(parse(&format!("{{\"config\": {{{config}}}}}")), Err(ImageError::Contradiction { .. })));
        }
    }
}
