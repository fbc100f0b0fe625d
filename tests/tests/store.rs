//! The store of images through the commands: pulls from a real registry, kills, full disks, two at once, removal in use.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use e2e::image::{GZIP_LAYER, Image, Stored};
use e2e::layer::{Layer, many_files, mode};
use e2e::leftovers::TEST_MOUNT;
use e2e::place::{Suite, fixture, suite};
use e2e::task::{Outcome, Task, taskrun};
use serde_json::Value;
use tempfile::{TempDir, tempdir};
use test_registry::{Fault, Format, Proxy, Registry};

/// An image with a shell and so many bytes that can't be compressed away, as a layout, and its source for a push.
fn layout(megabytes: u64) -> Result<(TempDir, String)> {
    let directory = tempdir()?;
    let noise = test_registry::bytes(usize::try_from(megabytes << 20)?, 7);
    let big = Layer::new().file("noise", mode(0o644), noise);
    let reference = Image::with_shell()?.layer(&big, Stored::Gzip).write(directory.path())?;
    Ok((directory, reference))
}

/// A registry with [`layout`]'s image as `team/tool:1`, and the image's name there.
fn registry(megabytes: u64) -> Result<(Registry, String)> {
    let registry = Registry::plain();
    let (_directory, source) = layout(megabytes)?;
    registry.push(&source, "team/tool:1", Format::Keep);
    let name = format!("{}/team/tool:1", registry.address());
    Ok((registry, name))
}

/// What `taskrun image verify` finds, in the store of an earlier call.
fn verify(home: &Path) -> Result<Value> {
    let outcome = in_home(["image", "verify", "--format", "json"], home).output();
    let report: Value = serde_json::from_slice(&outcome.stdout).with_context(|| outcome.errors())?;
    ensure!(report.get("valid") == Some(&Value::Bool(true)), "the store is not valid: {report:#}");
    Ok(report)
}

/// A call with this state directory.
fn in_home<const N: usize>(arguments: [&str; N], home: &Path) -> Task {
    taskrun(arguments).env("TASKRUN_HOME", home)
}

fn text(outcome: Outcome) -> String {
    outcome.expect_code(0).text()
}

#[test]
fn a_pulled_image_runs_and_is_looked_after() -> Result<()> {
    let (_registry, name) = registry(1)?;
    let home = tempdir()?;
    let digest = text(in_home(["pull", &name], home.path()).output());
    assert!(digest.starts_with("sha256:"), "{digest}");
    let list = text(in_home(["image", "ls"], home.path()).output());
    assert!(list.contains(&name) && !list.ends_with('-'), "{list}");
    assert_eq!(text(in_home(["image", "ls", "-q"], home.path()).output()), digest);
    assert_eq!(text(in_home(["run", "--pull", "never", &name, "echo", "it runs"], home.path()).output()), "it runs");
    let details: Value = serde_json::from_str(&text(in_home(["image", "inspect", &name], home.path()).output()))?;
    assert_eq!(details.pointer("/0/Digest").and_then(Value::as_str), Some(&*digest));

    let archive = home.path().join("saved.tar");
    let file = archive.display().to_string();
    assert_eq!(text(in_home(["image", "save", "-o", &file, &name], home.path()).output()), "");
    let saved = format!("oci-archive:{file}");
    assert_eq!(text(in_home(["run", &saved, "echo", "from the archive"], home.path()).output()), "from the archive");

    verify(home.path())?;
    let removed = text(in_home(["image", "rm", &name], home.path()).output());
    assert!(removed.contains("Untagged:") && removed.contains("Freed:"), "{removed}");
    assert_eq!(text(in_home(["image", "ls", "-q"], home.path()).output()), "");
    in_home(["run", "--pull", "never", &name, "true"], home.path())
        .output()
        .expect_failure(125, &["--pull never", &name]);
    verify(home.path())?;
    Ok(())
}

#[test]
fn a_changed_tag_is_picked_up_by_pull_always_only() -> Result<()> {
    let registry = Registry::plain();
    let name = format!("{}/tool", registry.address());
    let home = tempdir()?;
    let push = |version: &str| -> Result<()> {
        let directory = tempdir()?;
        let layer = Layer::new().file("version", mode(0o644), version);
        let source = Image::with_shell()?.layer(&layer, Stored::Zstd).write(directory.path())?;
        registry.push(&source, "tool:latest", Format::Keep);
        Ok(())
    };
    let version =
        |policy: &str| text(in_home(["run", "--pull", policy, &name, "cat", "/version"], home.path()).output());
    push("one")?;
    assert_eq!(version("missing"), "one");
    push("two")?;
    assert_eq!(version("missing"), "one");
    assert_eq!(version("always"), "two");
    // What the old image had alone is garbage now.
    let pruned = text(in_home(["image", "prune"], home.path()).output());
    assert!(pruned.contains("Deleted:"), "{pruned}");
    assert_eq!(version("never"), "two");
    verify(home.path())?;
    Ok(())
}

#[test]
fn a_registry_that_cannot_be_used_is_one_sentence() -> Result<()> {
    let registry = Registry::plain();
    let unknown = format!("{}/no/such:tag", registry.address());
    taskrun(["pull", &unknown]).own_store().output().expect_failure(125, &["no/such", "tag"]);
    taskrun(["run", &unknown, "true"]).own_store().output().expect_failure(125, &["no/such", "tag"]);
    taskrun(["run", "127.0.0.1:1/x", "true"]).own_store().output().expect_failure(125, &["127.0.0.1:1"]);
    taskrun(["pull", "oci:somewhere"]).output().expect_failure(125, &["oci:somewhere"]);
    Ok(())
}

#[test]
fn a_connection_cut_inside_a_layer_is_taken_up_again() -> Result<()> {
    let (registry, _) = registry(4)?;
    let proxy = Proxy::start(registry.address());
    proxy.fault("/blobs/", Fault::Cut(1 << 20), 2);
    let name = format!("{}/team/tool:1", proxy.address());
    let home = tempdir()?;
    let _ = in_home(["pull", "--download-only", &name], home.path()).output().expect_code(0);
    assert!(proxy.requests("/blobs/").iter().any(|request| request.range.is_some()), "nothing was resumed");
    verify(home.path())?;
    Ok(())
}

#[test]
fn a_blob_that_lies_is_refused_and_not_kept() -> Result<()> {
    let (registry, _) = registry(2)?;
    let proxy = Proxy::start(registry.address());
    proxy.fault("/blobs/", Fault::Flip, 100);
    let name = format!("{}/team/tool:1", proxy.address());
    let home = tempdir()?;
    in_home(["pull", &name], home.path()).output().expect_failure(125, &["sha256:"]);
    verify(home.path())?;
    // The manifest was honest; nothing that lied is there, nor a part of it.
    let files = |folder: &str| -> Result<usize> { Ok(fs::read_dir(home.path().join("images").join(folder))?.count()) };
    assert_eq!((files("blobs/sha256")?, files("partial")?), (1, 0));
    Ok(())
}

#[test]
fn two_pulls_at_once_download_once_and_unpack_once() -> Result<()> {
    let (registry, _) = registry(3)?;
    let proxy = Proxy::start(registry.address());
    let name = format!("{}/team/tool:1", proxy.address());
    let home = tempdir()?;
    let pulls = [(), ()].map(|()| in_home(["pull", &name], home.path()).start());
    let [one, two] = pulls.map(|pull| text(pull.finish()));
    assert_eq!(one, two);
    let mut paths: Vec<_> = proxy.requests("/blobs/").into_iter().map(|request| request.path).collect();
    let requests = paths.len();
    paths.sort();
    paths.dedup();
    assert_eq!(paths.len(), requests, "a blob was downloaded twice");
    let report = verify(home.path())?;
    assert_eq!(report.get("rootfs"), Some(&Value::from(1)));
    Ok(())
}

/// Kills `arguments` at so many moments, spread over the time that all of it takes, and verifies the store after each.
fn kill_at_moments<const N: usize>(home: &Path, name: &str, arguments: [&str; N], moments: u32) -> Result<()> {
    let _ = in_home(["image", "rm", "-f", name], home).output().expect_code(0);
    let started = Instant::now();
    let _ = in_home(arguments, home).output().expect_code(0);
    let takes = started.elapsed();
    for moment in 0..moments {
        let _ = in_home(["image", "rm", "-f", name], home).output().expect_code(0);
        let pull = in_home(arguments, home).start();
        // The moment is the point here: there is no event to wait for.
        thread::sleep(takes.saturating_mul(moment) / moments);
        pull.kill();
        verify(home).with_context(|| format!("killed after {moment}/{moments} of {takes:?}"))?;
    }
    Ok(())
}

#[test]
fn a_pull_or_unpacking_that_is_killed_at_any_moment_leaves_a_valid_store() -> Result<()> {
    let (_registry, name) = registry(8)?;
    let home = tempdir()?;
    kill_at_moments(home.path(), &name, ["pull", "--download-only", &name], 12)?;
    // Each boots a guest, which is most of the time and where the moments are least different.
    let moments = if suite() == Suite::Direct { 4 } else { 8 };
    kill_at_moments(home.path(), &name, ["pull", &name], moments)?;
    let digest = text(in_home(["pull", &name], home.path()).output());
    assert!(digest.starts_with("sha256:"), "{digest}");
    assert_eq!(text(in_home(["run", "--pull", "never", &name, "echo", "alive"], home.path()).output()), "alive");
    let _ = in_home(["image", "prune"], home.path()).output().expect_code(0);
    let report = verify(home.path())?;
    assert_eq!(report.get("leftovers"), Some(&Value::Array(Vec::new())), "{report:#}");
    Ok(())
}

/// A small file system, gone when this is.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn new(megabytes: u64) -> Result<Self> {
        let directory = tempdir()?;
        let image = directory.path().join("image");
        fs::File::create(&image)?.set_len(megabytes << 20)?;
        let root = directory.path().join(TEST_MOUNT);
        fs::create_dir(&root)?;
        let run = |program: &str, arguments: &[&std::ffi::OsStr]| -> Result<()> {
            let status = Command::new(program).args(arguments).status()?;
            ensure!(status.success(), "{program} failed");
            Ok(())
        };
        run("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), image.as_os_str()])?;
        run("mount", &["-o".as_ref(), "loop".as_ref(), image.as_os_str(), root.as_os_str()])?;
        Ok(Self(directory))
    }

    fn root(&self) -> std::path::PathBuf {
        self.0.path().join(TEST_MOUNT)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.root()).status();
    }
}

#[test]
fn a_full_disk_is_said_and_leaves_a_valid_store() -> Result<()> {
    let (_registry, name) = registry(24)?;
    // Too small for the download, then for the unpacked image beside it.
    for megabytes in [20, 44] {
        let disk = SmallDisk::new(megabytes)?;
        let home = disk.root();
        in_home(["run", &name, "true"], &home).output().expect_failure(125, &["full", "taskrun image prune"]);
        verify(&home)?;
        let _ = in_home(["image", "prune", "--all"], &home).output().expect_code(0);
        verify(&home)?;
    }
    Ok(())
}

#[test]
fn what_a_task_uses_is_not_removed() -> Result<()> {
    let (_registry, name) = registry(1)?;
    let home = tempdir()?;
    let mut task =
        in_home(["run", "-i", &name, "sh", "-c", "echo ready; cat /noise | wc -c; read x; md5sum /noise"], home.path())
            .open_stdin()
            .start();
    task.read_until("ready\n");
    let pruned = text(in_home(["image", "prune", "--all"], home.path()).output());
    assert!(pruned.contains("In use"), "{pruned}");
    let pruned = text(in_home(["image", "prune", "--keep-storage", "0"], home.path()).output());
    assert!(pruned.contains("In use"), "{pruned}");
    in_home(["image", "rm", &name], home.path()).output().expect_failure(1, &["in use", &name]);
    drop(task.child.stdin.take());
    let outcome = task.finish().expect_code(0);
    assert!(outcome.text().contains("/noise"), "{}", outcome.text());
    let pruned = text(in_home(["image", "prune", "--all"], home.path()).output());
    assert!(pruned.contains("Untagged"), "{pruned}");
    verify(home.path())?;
    Ok(())
}

#[test]
fn limits_of_unpacking_can_be_set() -> Result<()> {
    let home = tempdir()?;
    let run = |config: &str, words: &[&str]| -> Result<()> {
        fs::write(home.path().join("config.toml"), config)?;
        in_home(["run", &fixture("busybox:latest"), "true"], home.path()).output().expect_failure(125, words);
        Ok(())
    };
    run("[unpack]\nmax-entries = 5\n", &["5"])?;
    run("[unpack]\nmax-bytes = \"100KB\"\n", &["102400"])?;
    let (blob, diff_id) = many_files(1_000_000);
    let directory = tempdir()?;
    let many = Image::new().blob(blob, GZIP_LAYER, diff_id).write(directory.path())?;
    fs::write(home.path().join("config.toml"), "[unpack]\nmax-entries = 1000\n")?;
    in_home(["run", &many, "true"], home.path()).output().expect_failure(125, &["many/0000/998", "1000 entries"]);
    run("[unpack]\nmax-byte = 1\n", &["config.toml", "line 2", "max-byte"])?;
    fs::remove_file(home.path().join("config.toml"))?;
    assert_eq!(text(in_home(["run", &fixture("busybox:latest"), "echo", "now"], home.path()).output()), "now");
    Ok(())
}
