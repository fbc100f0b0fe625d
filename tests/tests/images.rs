//! Images: every transport, every kind of entry, hostile layers, broken files.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use e2e::image::{GZIP_LAYER, Image, Stored, digest, shell};
use e2e::layer::{Layer, many_files, mode};
use e2e::place::{Suite, fixture, fixtures, suite};
use e2e::task::taskrun;
use serde_json::json;
use tar::EntryType;
use tempfile::{TempDir, tempdir};

/// Writes an image and gives the directory that holds it and its reference.
fn write(image: Image) -> Result<(TempDir, String)> {
    let directory = tempdir()?;
    let reference = image.write(directory.path())?;
    Ok((directory, reference))
}

/// The image with a shell and one more layer.
fn with_layer(layer: &Layer) -> Result<(TempDir, String)> {
    write(Image::with_shell()?.layer(layer, Stored::Gzip))
}

#[test]
fn archives_run_as_they_are() -> Result<()> {
    for archive in ["oci-archive:{}/busybox.oci.tar", "docker-archive:{}/busybox.docker.tar"] {
        let reference = archive.replace("{}", fixtures().to_str().context("a path in UTF-8")?);
        let outcome = taskrun(["run", &reference, "echo", "hello"]).output().expect_code(0);
        assert_eq!(outcome.text(), "hello", "{reference}");
    }
    Ok(())
}

#[test]
fn a_hard_image_unpacks_as_umoci_unpacks_it() -> Result<()> {
    let expected = fs::read_to_string(fixtures().join("hard.tree"))?;
    let outcome = taskrun(["run", &fixture("hard:latest"), "/bin/probe", "tree", "/"]).output().expect_code(0);
    let found = outcome.text();
    // Every task gets these files, and so the directory changes.
    let given = ["/etc ", "/etc/hostname ", "/etc/hosts ", "/etc/resolv.conf "];
    let compared = |line: &&str| !given.iter().any(|path| line.starts_with(path));
    let found: Vec<_> = found.lines().filter(compared).collect();
    let expected: Vec<_> = expected.lines().filter(compared).collect();
    let missing: Vec<_> = expected.iter().filter(|line| !found.contains(line)).collect();
    let extra: Vec<_> = found.iter().filter(|line| !expected.contains(line)).collect();
    assert!(missing.is_empty() && extra.is_empty(), "missing or different:\n{missing:#?}\nunexpected:\n{extra:#?}");
    assert!(expected.len() > 40, "the list is too short to prove anything");
    Ok(())
}

#[test]
fn layers_that_reach_outside_stay_inside() -> Result<()> {
    let layer = Layer::new()
        .file("../../climbed", mode(0o644), "1\n")
        .file("/absolute", mode(0o644), "2\n")
        .symlink("up", "../../../../../..")
        .file("up/through-up", mode(0o644), "3\n")
        .symlink("slash", "/")
        .file("slash/through-slash", mode(0o644), "4\n")
        .symlink("proc-root", "/proc/1/root")
        .symlink("last", "/etc/replaced")
        .file("last", mode(0o644), "5\n")
        .hard_link("hard", "../../../etc/passwd");
    let (_directory, image) = with_layer(&layer)?;
    let script = "cd /; cat climbed absolute through-up through-slash last; ls etc; head -n 1 hard";
    let outcome = taskrun(["run", &image, "sh", "-c", script]).output().expect_code(0);
    assert_eq!(
        outcome.text(),
        "1\n2\n3\n4\n5\ngroup\nhostname\nhosts\npasswd\nresolv.conf\nroot:x:0:0:root:/root:/bin/sh"
    );
    Ok(())
}

#[test]
fn hard_links_and_devices_cannot_reach_the_guests_own_files() -> Result<()> {
    let (_directory, image) = with_layer(&Layer::new().hard_link("stolen", "/init"))?;
    taskrun(["run", &image, "true"]).output().expect_failure(125, &["stolen", "layer 2 of 2"]);
    // A device node is only a name: the guest has no disk but the image's own layers, and those can't be changed.
    let (_directory, image) = with_layer(&Layer::new().node(EntryType::Block, "disk", mode(0o666), (254, 0)))?;
    let script = "echo x 2>/dev/null >disk; echo write $?";
    let outcome = taskrun(["run", &image, "sh", "-c", script]).output().expect_code(0);
    assert_eq!(outcome.text(), "write 1");
    Ok(())
}

#[test]
fn a_damaged_layer_is_refused_by_its_digest() -> Result<()> {
    let layer = Layer::new().file("file", mode(0o644), vec![b'x'; 5000]);
    let directory = tempdir()?;
    let image = Image::with_shell()?.layer(&layer, Stored::Plain).write(directory.path())?;
    let blob = blob(directory.path(), &digest(&layer.tar()));
    let mut bytes = fs::read(&blob)?;
    *bytes.get_mut(1000).context("a byte")? ^= 1;
    fs::write(&blob, bytes)?;
    taskrun(["run", &image, "true"]).output().expect_failure(125, &["Layer 2 of 2", "digest", &digest(&layer.tar())]);
    Ok(())
}

fn blob(layout: &Path, digest: &str) -> PathBuf {
    layout.join("blobs").join(digest.replace(':', "/"))
}

#[test]
fn an_archive_cut_inside_a_layer_is_refused() -> Result<()> {
    let whole = Layer::new().file("file", mode(0o644), vec![b'x'; 50_000]);
    let mut gzip = whole.gzip();
    gzip.truncate(gzip.len() / 2);
    let (_directory, image) =
        write(Image::new().layer(&shell()?, Stored::Plain).blob(gzip, GZIP_LAYER, digest(&whole.tar())))?;
    taskrun(["run", &image, "true"]).output().expect_failure(125, &["Layer 2 of 2"]);
    Ok(())
}

#[test]
fn a_wrong_diff_id_is_refused() -> Result<()> {
    let layer = Layer::new().file("file", mode(0o644), "x");
    let (_directory, image) = write(Image::with_shell()?.blob(layer.gzip(), GZIP_LAYER, digest(b"another")))?;
    taskrun(["run", &image, "true"]).output().expect_failure(125, &["Layer 2 of 2", &digest(b"another")]);
    Ok(())
}

#[test]
fn broken_layouts_are_one_sentence_each() -> Result<()> {
    let layer = Layer::new().file("file", mode(0o644), "x");
    let broken = |change: &dyn Fn(&Path) -> Result<()>, words: &[&str]| -> Result<()> {
        let directory = tempdir()?;
        let image = Image::new().layer(&layer, Stored::Plain).write(directory.path())?;
        change(directory.path())?;
        taskrun(["run", &image, "true"]).output().expect_failure(125, words);
        Ok(())
    };
    let layer_digest = digest(&layer.tar());
    let layer_blob = |layout: &Path| blob(layout, &layer_digest);
    broken(&|layout| Ok(fs::write(layout.join("index.json"), "")?), &["index.json"])?;
    broken(&|layout| Ok(fs::remove_file(layout.join("index.json"))?), &["index.json"])?;
    broken(&|layout| Ok(fs::remove_file(layer_blob(layout))?), &[&layer_digest])?;
    broken(&|layout| Ok(fs::write(layer_blob(layout), "short")?), &[&layer_digest, "5"])?;
    let manifest = |layout: &Path| -> Result<PathBuf> {
        let index: serde_json::Value = serde_json::from_slice(&fs::read(layout.join("index.json"))?)?;
        let digest = index.pointer("/manifests/0/digest").and_then(|digest| digest.as_str()).context("a digest")?;
        Ok(blob(layout, digest))
    };
    let other_bytes = |layout: &Path| {
        let path = manifest(layout)?;
        let text = fs::read_to_string(&path)?.replace("schemaVersion\":2", "schemaVersion\":3");
        Ok(fs::write(path, text)?)
    };
    broken(&other_bytes, &["digest"])?;
    Ok(())
}

#[test]
fn images_that_cannot_run_here_are_one_sentence_each() -> Result<()> {
    let mut foreign = Image::new().layer(&Layer::new().directory("x", mode(0o755)), Stored::Plain);
    *foreign.config.get_mut("architecture").context("a field")? = json!("riscv64");
    let (_directory, image) = write(foreign)?;
    taskrun(["run", &image, "true"]).output().expect_failure(125, &["riscv64"]);
    let no_command =
        Image::new().layer(&Layer::new().directory("x", mode(0o755)), Stored::Plain).set("Cmd", json!(null));
    let (_directory, image) = write(no_command)?;
    taskrun(["run", &image]).output().expect_failure(125, &["command"]);
    let (_directory, image) = write(Image::with_shell()?)?;
    taskrun(["run", "--user", "nobody-knows", &image, "true"]).output().expect_failure(125, &["nobody-knows"]);
    taskrun(["run", &image.replace(":latest", ":missing"), "true"]).output().expect_failure(125, &["missing"]);
    Ok(())
}

/// Each has an inode, a name, a tar header and a block of the image, which is work and memory for who unpacks it.
#[test]
fn a_million_tiny_files_become_an_image() -> Result<()> {
    let count = if suite() == Suite::Full { 1_000_000 } else { 10_000 };
    let (blob, diff_id) = many_files(count);
    let (_directory, image) = write(Image::with_shell()?.blob(blob, GZIP_LAYER, diff_id))?;
    let last = count / 1000 - 1;
    let script = format!("cat /many/0000/000 /many/0003/219 /many/{last:04}/998; ls /many/{last:04} | busybox wc -l");
    let outcome = taskrun(["run", "--memory", "1GB", &image, "sh", "-c", &script]).own_store().output().expect_code(0);
    assert_eq!(outcome.text(), "0981000");
    Ok(())
}

/// Debuggers and tracers do it, and the pages of a mapped image are not the guest's memory.
#[test]
fn another_process_reads_through_mappings_of_the_image() -> Result<()> {
    let content = (0..300_000_u32).flat_map(u32::to_le_bytes).take(1_000_001).collect::<Vec<u8>>();
    let (_directory, image) = with_layer(&Layer::new().file("data", mode(0o644), content))?;
    for device in ["pmem", "blk"] {
        let options = ["run", "--image-device", device, &image, "/bin/probe", "peek", "/data"];
        let outcome = taskrun(options).output().expect_code(0);
        assert_eq!(outcome.text(), "shared 1000001\nprivate 1000001", "{device}");
    }
    Ok(())
}

#[test]
fn an_image_may_be_larger_than_the_tasks_memory() -> Result<()> {
    let layer = Layer::new().file("zeros", mode(0o644), vec![0; 136 << 20]);
    let (_directory, image) = with_layer(&layer)?;
    // A template has a place for images up to twice its memory; a longer one gets a device of its own.
    for memory in ["128MB", "64MB"] {
        let outcome = taskrun(["run", "--memory", memory, &image, "sh", "-c", "wc -c </zeros"]).output();
        assert_eq!(outcome.expect_code(0).text(), (136 << 20).to_string(), "{memory}");
    }
    Ok(())
}
