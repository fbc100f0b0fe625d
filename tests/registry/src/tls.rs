//! A private certificate authority, made with `openssl`.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A certificate authority and a certificate of it for this machine.
#[derive(Debug)]
pub struct Authority {
    /// The authority's own certificate, in PEM.
    pub ca: PathBuf,
    /// The server's certificate, for `localhost`, 127.0.0.1 and ::1.
    pub certificate: PathBuf,
    /// The server's key.
    pub key: PathBuf,
}

impl Authority {
    /// Makes one in `directory`.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        let path = |name: &str| directory.join(name);
        let (ca, ca_key, certificate, key) = (path("ca.pem"), path("ca.key"), path("server.pem"), path("server.key"));
        let request = |subject: &str, key: &Path, out: &Path, more: &[&str]| {
            let mut openssl = Command::new("openssl");
            openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]);
            openssl.args(["-days", "2", "-subj", subject, "-keyout"]).arg(key).arg("-out").arg(out).args(more);
            let output = openssl.output().expect("openssl is needed (package openssl)");
            assert!(output.status.success(), "openssl failed: {}", String::from_utf8_lossy(&output.stderr));
        };
        let authority = ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign"];
        request("/CN=taskrun test authority", &ca_key, &ca, &authority);
        let names = "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1";
        let (ca_text, ca_key) = (ca.display().to_string(), ca_key.display().to_string());
        let server =
            ["-addext", names, "-addext", "basicConstraints=critical,CA:FALSE", "-CA", &ca_text, "-CAkey", &ca_key];
        request("/CN=localhost", &key, &certificate, &server);
        Self { ca, certificate, key }
    }
}
