//! The options of `taskrun pull` and `taskrun image`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum, ValueHint};
use images::platform::Platform;

use crate::bytes::Bytes;
use crate::image::login::Login;

const PULL_HELP: &str = "Prints the digest of the image's manifest. Exit codes: 0, or 125 when the image can't be had.";

/// The options of `taskrun pull`.
#[derive(Debug, Args)]
#[command(after_help = PULL_HELP)]
pub struct PullArgs {
    /// The image, such as docker.io/library/python:3.13 or python:3.13
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// What pulling it needs to know.
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// Only download it; the first task then unpacks it
    #[arg(long)]
    pub download_only: bool,
    /// Boot the guest that unpacks it instead of starting it from a template
    #[arg(long)]
    pub cold: bool,
    /// Use this guest kernel to unpack it [env: TASKRUN_KERNEL]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub kernel: Option<PathBuf>,
}

/// What pulling needs to know.
#[derive(Debug, Args)]
pub struct RegistryArgs {
    /// The platform to pull a multi-platform image for, such as linux/amd64 [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_parser = platform, help_heading = "Image")]
    pub platform: Option<Platform>,
    /// Log in to the registry, with a password that is asked for if it isn't given; without it ~/.docker/config.json says how
    #[arg(long, value_name = "USER[:PASSWORD]", value_parser = credentials, help_heading = "Image")]
    pub creds: Option<Login>,
    /// Show no progress
    #[arg(short, long, help_heading = "Image")]
    pub quiet: bool,
}

/// The subcommands of `taskrun image`.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// List the images in the store
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Print what is known of images, as JSON
    Inspect(InspectArgs),
    /// Remove images
    #[command(visible_alias = "remove")]
    Rm(RmArgs),
    /// Remove what nothing refers to, or what was not used for longest
    Prune(PruneArgs),
    /// Read everything in the store and compare it with its digests
    Verify(VerifyArgs),
    /// Write an image to an OCI archive
    Save(SaveArgs),
}

/// The options of `taskrun image ls`.
#[derive(Debug, Args)]
pub struct LsArgs {
    /// How to print it
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub format: Format,
    /// Print only the digests
    #[arg(short, long)]
    pub quiet: bool,
}

/// The options of `taskrun image inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// Names, or digests of manifests, whole or their start
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
}

/// The options of `taskrun image rm`.
#[derive(Debug, Args)]
pub struct RmArgs {
    /// Names, or digests of manifests, whole or their start
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
    /// Remove an image with all its names, and ignore images that are not there
    #[arg(short, long)]
    pub force: bool,
    /// How to print what was removed
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub format: Format,
}

/// The options of `taskrun image prune`.
#[derive(Debug, Args)]
pub struct PruneArgs {
    /// Remove all images that no task uses
    #[arg(short, long)]
    pub all: bool,
    /// Remove images, the least recently used first, until the store takes no more than this
    #[arg(long, value_name = "SIZE")]
    pub keep_storage: Option<Bytes>,
    /// How to print what was removed
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub format: Format,
}

/// The options of `taskrun image verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Remove what is damaged, so that it is pulled or unpacked again when it is needed
    #[arg(long)]
    pub repair: bool,
    /// How to print what was found
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub format: Format,
}

/// The options of `taskrun image save`.
#[derive(Debug, Args)]
pub struct SaveArgs {
    /// The image's name or digest
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// The archive to write; standard output when absent
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,
}

/// How a command prints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// Reads `OS/ARCH[/VARIANT]` or an architecture alone.
fn platform(text: &str) -> Result<Platform, String> {
    let word = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let parts: Vec<&str> = text.split('/').collect();
    let (os, architecture, variant) = match parts[..] {
        [architecture] => ("linux", architecture, ""),
        [os, architecture] => (os, architecture, ""),
        [os, architecture, variant] if word(variant) => (os, architecture, variant),
        _ => ("", "", ""),
    };
    if !word(os) || !word(architecture) {
        return Err("Write OS/ARCH or OS/ARCH/VARIANT, such as linux/amd64".to_owned());
    }
    Ok(Platform { os: os.into(), architecture: architecture.into(), variant: variant.into() })
}

/// Reads `USER[:PASSWORD]`.
fn credentials(text: &str) -> Result<Login, String> {
    Login::parse(text).ok_or_else(|| "Write USER or USER:PASSWORD".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_have_two_or_three_parts() {
        let text = |text: &str| platform(text).map(|platform| platform.to_string());
        assert_eq!(text("linux/amd64"), Ok("linux/amd64".into()));
        assert_eq!(text("arm64"), Ok("linux/arm64".into()));
        assert_eq!(text("linux/arm/v7"), Ok("linux/arm/v7".into()));
        for bad in ["", "linux/", "/amd64", "linux/arm/", "a/b/c/d", "linux/am d"] {
            assert!(text(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn credentials_need_a_user() {
        assert!(credentials("user:pass:word").is_ok());
        assert!(credentials(":password").is_err());
    }
}
