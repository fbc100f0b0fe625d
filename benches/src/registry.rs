//! A registry on loopback: Debian's `docker-registry`, with its blobs in a temporary folder.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use anyhow::{Context, Result};

use crate::command;

/// A running registry; it ends with this.
#[derive(Debug)]
pub struct Registry {
    process: Child,
    address: String,
}

impl Registry {
    /// Starts one that keeps everything in `folder`, on a port that is free.
    pub fn start(folder: &Path) -> Result<Self> {
        let config = folder.join("config.yml");
        let storage = folder.join("storage");
        let text = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {storage:?}}}}}\nhttp: {{addr: \"127.0.0.1:0\"}}\n\
             log: {{accesslog: {{disabled: true}}}}\n"
        );
        fs::write(&config, text).context("The registry's configuration can't be written")?;
        let mut process = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("docker-registry can't be started")?;
        let log = process.stderr.take();
        let mut registry = Self { process, address: String::new() };
        let mut lines = BufReader::new(log.context("docker-registry has no log")?).lines();
        let address = lines.by_ref().find_map(|line| address(&line.ok()?));
        registry.address = address.context("docker-registry ended before it listened")?;
        // It would stop at a pipe that is full, and end at one that is closed.
        thread::spawn(move || lines.for_each(drop));
        Ok(registry)
    }

    /// Copies an image into it and gives its reference there, as skopeo and taskrun write it.
    pub fn put(&self, image: &str, name: &str) -> Result<String> {
        let target = format!("docker://{}/{name}:latest", self.address);
        let mut skopeo = Command::new("skopeo");
        skopeo.args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false", image, &target]);
        command::run(&mut skopeo)?;
        Ok(target)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The address in the line of the log that says where it listens.
fn address(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("listening on ")?;
    rest.split(['"', ',', ' ']).next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_tells_the_address() {
        let line = r#"time="2026-01-01T00:00:00Z" level=info msg="listening on 127.0.0.1:35667" go.version=go1.19.8"#;
        assert_eq!(address(line).as_deref(), Some("127.0.0.1:35667"));
        assert_eq!(address("level=info msg=\"redis not configured\""), None);
    }
}
