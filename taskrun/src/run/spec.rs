//! From an image and a request to the task that the agent gets.

use std::os::unix::ffi::{OsStrExt, OsStringExt};

use images::Image;
use images::command::NoCommand;
use protocol::frame::{self, FrameError};
use protocol::message::HostMessage;
use protocol::spec::{Mount, Process, Root, Stdio, TaskSpec, WindowSize};

use super::etc;
use super::request::RunRequest;
use super::signals;

/// What the default of a stop signal is, SIGTERM.
const DEFAULT_STOP_SIGNAL: i32 = 15;

/// Why an image and a request make no task.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// There is no command.
    #[error(transparent)]
    Command(#[from] NoCommand),
    /// The image's stop signal is none.
    #[error("The image's stop signal {0:?} is not a signal")]
    StopSignal(String),
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

/// The task for the agent, as the message that carries it. `root` is where the guest finds its root file system.
///
/// # Errors
/// [`SpecError`].
pub fn task(
    image: &Image,
    request: &RunRequest,
    hostname: &str,
    root: Root,
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
        root,
        process,
        hostname: hostname.to_owned(),
        stdio: Stdio { stdin: request.stdin, terminal },
        files: etc::files(hostname, &request.network),
        mounts: mounts(image, request),
    };
    let message = HostMessage::Run(Box::new(spec));
    frame::encode(&message).map_err(SpecError::TooLong)?;
    Ok(message)
}

/// The volumes of the image and the caller's own mounts. A mount of the caller takes the place of a volume.
fn mounts(image: &Image, request: &RunRequest) -> Vec<Mount> {
    let taken = |path: &[u8]| request.tmpfs.iter().any(|tmpfs| same_path(&tmpfs.path, path));
    let volumes = image.config.volumes.iter().map(|path| absolute(path).into_bytes());
    let volumes = volumes.filter(|path| !taken(path)).map(|path| Mount::Volume { path });
    volumes.chain(request.tmpfs.iter().cloned().map(Mount::Tmpfs)).collect()
}

/// Whether two paths differ in nothing but slashes.
fn same_path(one: &[u8], other: &[u8]) -> bool {
    let components = |path: &'_ [u8]| -> Vec<Vec<u8>> {
        path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".").map(<[u8]>::to_vec).collect()
    };
    components(one) == components(other)
}

/// An image's working directory: its root when it names none.
fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use images::{Digest, ImageConfig};
    use protocol::spec::{ImageDevice, TmpfsMount};

    use super::*;

    fn image(config: ImageConfig) -> Image {
        Image { reference: "oci:x".into(), digest: Digest::of(b"manifest"), config, layers: Vec::new() }
    }

    fn root() -> Root {
        let image = ImageDevice { path: protocol::IMAGE_PMEM.to_owned(), dax: true };
        Root { image, scratch: None, read_only: false }
    }

    fn request() -> RunRequest {
        RunRequest::of_image("oci:x").unwrap()
    }

    fn spec(config: ImageConfig, request: &RunRequest) -> TaskSpec {
        match task(&image(config), request, "host", root(), None).unwrap() {
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
    fn a_tmpfs_takes_the_place_of_a_volume() {
        let config = ImageConfig { volumes: ["/data", "srv//www/"].map(str::to_owned).into(), ..shell() };
        let mut request = request();
        let tmpfs = TmpfsMount { path: b"/srv/www".to_vec(), ..TmpfsMount::default() };
        request.tmpfs = vec![tmpfs.clone()];
        let mounts = spec(config, &request).mounts;
        assert_eq!(mounts, [Mount::Volume { path: b"/data".to_vec() }, Mount::Tmpfs(tmpfs)]);
    }

    #[test]
    fn a_task_has_the_files_that_say_who_it_is() {
        let files = spec(shell(), &request()).files;
        let paths: Vec<_> = files.iter().map(|file| file.path.as_slice()).collect();
        assert_eq!(paths, [&b"/etc/hosts"[..], b"/etc/hostname", b"/etc/resolv.conf"]);
    }

    #[test]
    fn an_image_without_a_command_needs_one() {
        let error = task(&image(ImageConfig::default()), &request(), "host", root(), None).unwrap_err();
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
        assert!(matches!(task(&image(shell()), &request, "host", root(), None), Err(SpecError::TooLong(_))));
    }
}
