//! Debian's `docker-registry` as a child process.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::tls::Authority;

/// How long the registry may take to start.
const PATIENCE: Duration = Duration::from_secs(30);

/// What kind of registry.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Only this user, with this password, may do anything.
    pub htpasswd: Option<(String, String)>,
    /// HTTPS, with a certificate of a private authority.
    pub tls: bool,
}

/// What skopeo makes of an image when it puts it there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// As it is.
    Keep,
    /// Docker's schema 2.
    Docker,
}

/// A running registry. It ends when it is dropped.
#[derive(Debug)]
pub struct Registry {
    process: Child,
    directory: TempDir,
    address: SocketAddr,
    authority: Option<Authority>,
    options: Options,
}

impl Registry {
    /// Starts a registry without users and without TLS.
    #[must_use]
    pub fn plain() -> Self {
        Self::start(Options::default())
    }

    /// Starts a registry, and waits until it answers.
    #[must_use]
    pub fn start(options: Options) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = options.tls.then(|| Authority::new(directory.path()));
        // Another process may take the port that was free a moment ago: then the next one is tried.
        for _ in 0..10 {
            let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let config = directory.path().join("config.yml");
            fs::write(&config, configuration(directory.path(), address, authority.as_ref(), &options)).unwrap();
            let mut process = spawn(&config);
            if answers(&mut process, address) {
                return Self { process, directory, address, authority, options };
            }
            let _ = process.wait();
        }
        panic!("docker-registry does not start");
    }

    /// Where it is, `HOST:PORT`.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// The certificate of the authority that vouches for it, in PEM.
    #[must_use]
    pub fn ca(&self) -> &Path {
        &self.authority.as_ref().expect("a registry with TLS").ca
    }

    /// The directory of its files, for tests that damage them.
    #[must_use]
    pub fn storage(&self) -> PathBuf {
        self.directory.path().join("storage")
    }

    /// Puts the image `source`, as skopeo names it (`oci:DIR:TAG`), there as `name`, `PATH:TAG`. All of its platforms.
    pub fn push(&self, source: &str, name: &str, format: Format) {
        let mut skopeo = Command::new("skopeo");
        skopeo.args(["copy", "--quiet", "--all", "--insecure-policy", "--dest-tls-verify=false"]);
        match format {
            // Else it would compress plain layers.
            Format::Keep => skopeo.arg("--preserve-digests"),
            Format::Docker => skopeo.args(["--format", "v2s2"]),
        };
        if let Some((user, password)) = &self.options.htpasswd {
            skopeo.args(["--dest-creds", &format!("{user}:{password}")]);
        }
        let output = skopeo.arg(source).arg(format!("docker://{}/{name}", self.address)).output();
        let output = output.expect("skopeo is needed (package skopeo)");
        assert!(output.status.success(), "skopeo failed: {}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(config: &Path) -> Child {
    let mut command = Command::new("docker-registry");
    command.arg("serve").arg(config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let parent = nix::unistd::getpid();
    let die = move || {
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
        // The parent may have died before that.
        if nix::unistd::getppid() == parent { Ok(()) } else { Err(std::io::ErrorKind::NotConnected.into()) }
    };
    #[expect(unsafe_code, reason = "only code between fork and exec can tie the child's life to this thread's")]
    // SAFETY: prctl and getppid are system calls that are safe to make between fork and exec; nothing is allocated.
    let command = unsafe { command.pre_exec(die) };
    command.spawn().expect("docker-registry is needed (package docker-registry)")
}

/// Waits until the registry takes connections. `false` when it ended before.
fn answers(process: &mut Child, address: SocketAddr) -> bool {
    let mut lines = BufReader::new(process.stderr.take().unwrap()).lines().map_while(Result::ok);
    // The line comes just before the port is open.
    if !lines.any(|line| line.contains("listening on")) {
        return false;
    }
    // It would die of a broken pipe.
    std::thread::spawn(move || lines.for_each(drop));
    let start = Instant::now();
    while TcpStream::connect(address).is_err() {
        if start.elapsed() > PATIENCE || process.try_wait().unwrap().is_some() {
            return false;
        }
        std::thread::yield_now();
    }
    true
}

/// The registry's configuration, in YAML.
fn configuration(directory: &Path, address: SocketAddr, authority: Option<&Authority>, options: &Options) -> String {
    let storage = directory.join("storage");
    let mut text = format!(
        "version: 0.1\nlog: {{accesslog: {{disabled: true}}, level: info}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n\
         \x20 delete: {{enabled: true}}\nhttp:\n  addr: {address}\n",
        storage.display()
    );
    if let Some(Authority { certificate, key, .. }) = authority {
        let (certificate, key) = (certificate.display(), key.display());
        text.push_str(&format!("  tls: {{certificate: {certificate}, key: {key}}}\n"));
    }
    if let Some((user, password)) = &options.htpasswd {
        let file = directory.join("htpasswd");
        let output = Command::new("htpasswd").args(["-Bbn", user, password]).output();
        let output = output.expect("htpasswd is needed (package apache2-utils)");
        assert!(output.status.success());
        fs::write(&file, output.stdout).unwrap();
        text.push_str(&format!("auth:\n  htpasswd: {{realm: test, path: {}}}\n", file.display()));
    }
    text
}
