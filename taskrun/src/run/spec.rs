//! From an image and a request to the task that the agent gets and the block device that carries the image's layers.

use std::os::unix::ffi::{OsStrExt, OsStringExt};

use images::command::NoCommand;
use images::{Image, LayerBlob};
use protocol::frame::{self, FrameError};
use protocol::message::HostMessage;
use protocol::spec::{Compression, Layer, Process, Stdio, TaskSpec, WindowSize};

use super::request::RunRequest;
use super::signals;

/// What the default of a stop signal is, SIGTERM.
const DEFAULT_STOP_SIGNAL: i32 = 15;

// The device's layout is the VMM's, its meaning the protocol's.
const _: () = assert!(vmm::config::EXTENT_ALIGNMENT == protocol::LAYER_ALIGNMENT);

/// Why an image and a request make no task.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// There is no command.
    #[error(transparent)]
    Command(#[from] NoCommand),
    /// The image's stop signal is none.
    #[error("The image's stop signal {0:?} is not a signal")]
    StopSignal(String),
    /// The layers are too long for any block device.
    #[error("The image's layers are larger than a block device can be")]
    Layers,
    /// The command line and environment are too long.
    #[error("The command's arguments and environment are too long")]
    TooLong(#[source] FrameError),
}

/// The signal that asks a task of this image to stop.
///
/// # Errors
/// [`SpecError::StopSignal`].
pub fn stop_signal(image: &Image) -> Result<i32, SpecError> {
    match &image.config.stop_signal {
        Some(name) => signals::number(name).ok_or_else(|| SpecError::StopSignal(name.clone())),
        None => Ok(DEFAULT_STOP_SIGNAL),
    }
}

/// The task for the agent, as the message that carries it.
///
/// # Errors
/// [`SpecError`].
pub fn task(
    image: &Image,
    request: &RunRequest,
    hostname: &str,
    terminal: Option<WindowSize>,
) -> Result<HostMessage, SpecError> {
    let config = &image.config;
    let command = images::command::command_line(config, request.entrypoint.as_deref(), &request.arguments)?;
    let process = Process {
        argv: command.into_iter().map(OsStringExt::into_vec).collect(),
        env: images::env::environment(config, hostname, terminal.is_some(), &request.env),
        cwd: match &request.workdir {
            Some(workdir) => workdir.as_bytes().to_vec(),
            None => absolute(&config.working_dir).into_bytes(),
        },
        user: request.user.clone().unwrap_or_else(|| config.user.clone()),
    };
    let spec = TaskSpec {
        layers: layers(&image.layers)?,
        process,
        hostname: hostname.to_owned(),
        stdio: Stdio { stdin: request.stdin, terminal },
    };
    let message = HostMessage::Run(Box::new(spec));
    frame::encode(&message).map_err(SpecError::TooLong)?;
    Ok(message)
}

/// Where each layer is on the block device.
fn layers(blobs: &[LayerBlob]) -> Result<Vec<Layer>, SpecError> {
    let lengths = blobs.iter().map(|blob| blob.length);
    let (starts, _) = vmm::config::extent_layout(lengths).ok_or(SpecError::Layers)?;
    let layer = |(blob, offset): (&LayerBlob, u64)| Layer {
        offset,
        length: blob.length,
        compression: match blob.compression {
            images::Compression::None => Compression::None,
            images::Compression::Gzip => Compression::Gzip,
            images::Compression::Zstd => Compression::Zstd,
        },
        digest: blob.digest.map(|digest| digest.to_string()),
        diff_id: blob.diff_id.to_string(),
    };
    Ok(blobs.iter().zip(starts).map(layer).collect())
}

/// An image's working directory: its root when it names none.
fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::fs::File;
    use std::sync::Arc;
    use std::time::Duration;

    use images::{Digest, ImageConfig, Reference};

    use super::*;
    use crate::size::{Cpu, Memory};

    fn blob(length: u64, compression: images::Compression, digest: Option<Digest>) -> LayerBlob {
        let file = Arc::new(File::open("/dev/null").unwrap());
        LayerBlob { file, offset: 512, length, compression, digest, diff_id: Digest::of(b"tar") }
    }

    fn image(config: ImageConfig) -> Image {
        let layers = vec![
            blob(5000, images::Compression::Gzip, Some(Digest::of(b"blob"))),
            blob(1, images::Compression::Zstd, None),
            blob(1024, images::Compression::None, None),
        ];
        Image { reference: "oci:x".into(), digest: Digest::of(b"manifest"), config, layers }
    }

    fn request() -> RunRequest {
        RunRequest {
            image: Reference::parse("oci:x").unwrap(),
            arguments: Vec::new(),
            entrypoint: None,
            env: Vec::new(),
            workdir: None,
            user: None,
            hostname: None,
            stdin: false,
            terminal: false,
            cpu: Cpu::DEFAULT,
            memory: Memory::DEFAULT,
            timeout: None,
            stop_timeout: Duration::from_secs(30),
            kernel: None,
            console: false,
            timings: None,
        }
    }

    fn spec(config: ImageConfig, request: &RunRequest) -> TaskSpec {
        match task(&image(config), request, "host", None).unwrap() {
            HostMessage::Run(spec) => *spec,
            other => panic!("{other:?}"),
        }
    }

    fn shell() -> ImageConfig {
        ImageConfig { cmd: vec!["sh".into()], user: "app".into(), working_dir: "srv".into(), ..ImageConfig::default() }
    }

    #[test]
    fn the_image_speaks_where_the_caller_is_silent() {
        let spec = spec(shell(), &request());
        assert_eq!(spec.process.argv, [b"sh"]);
        assert_eq!((spec.process.user.as_str(), spec.process.cwd.as_slice()), ("app", b"/srv".as_slice()));
        assert!(spec.process.env.contains(&b"HOSTNAME=host".to_vec()));
        assert_eq!((spec.hostname.as_str(), spec.stdio), ("host", Stdio::default()));
    }

    #[test]
    fn the_caller_overrides_the_image() {
        let mut request = request();
        request.arguments = vec![OsString::from_vec(b"\xff".to_vec())];
        request.entrypoint = Some("/bin/echo".into());
        request.user = Some("0".into());
        request.workdir = Some("/tmp".into());
        let spec = spec(shell(), &request);
        assert_eq!(spec.process.argv, [b"/bin/echo".to_vec(), b"\xff".to_vec()]);
        assert_eq!((spec.process.user.as_str(), spec.process.cwd.as_slice()), ("0", b"/tmp".as_slice()));
    }

    #[test]
    fn layers_lie_where_the_device_has_them() {
        let layers = spec(shell(), &request()).layers;
        let places: Vec<_> = layers.iter().map(|layer| (layer.offset, layer.length, layer.compression)).collect();
        let expected = [(0, 5000, Compression::Gzip), (8192, 1, Compression::Zstd), (12288, 1024, Compression::None)];
        assert_eq!(places, expected);
        assert_eq!(layers[0].digest, Some(Digest::of(b"blob").to_string()));
        assert_eq!((&layers[1].digest, &layers[1].diff_id), (&None, &Digest::of(b"tar").to_string()));
    }

    #[test]
    fn an_image_without_a_command_needs_one() {
        let error = task(&image(ImageConfig::default()), &request(), "host", None).unwrap_err();
        assert!(matches!(error, SpecError::Command(_)), "{error}");
    }

    #[test]
    fn the_stop_signal_is_the_images() {
        let of = |signal: Option<&str>| {
            stop_signal(&image(ImageConfig { stop_signal: signal.map(str::to_owned), ..ImageConfig::default() }))
        };
        assert!(matches!(of(None), Ok(15)));
        assert!(matches!(of(Some("SIGQUIT")), Ok(3)));
        assert!(matches!(of(Some("SIGNOTHING")), Err(SpecError::StopSignal(_))));
    }

    #[test]
    fn a_command_that_is_too_long_is_refused_before_anything_starts() {
        let mut request = request();
        request.arguments = vec!["x".repeat(5 << 20).into()];
        assert!(matches!(task(&image(shell()), &request, "host", None), Err(SpecError::TooLong(_))));
    }
}
