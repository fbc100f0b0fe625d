//! Hosts and installations that lack something: one sentence each, with the remedy.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::Result;
use e2e::image::{Image, Stored};
use e2e::layer::{Layer, mode};
use e2e::place::{fixture, taskrun as binary};
use e2e::task::taskrun;
use tempfile::tempdir;

#[test]
fn without_dev_kvm_the_remedy_is_named() {
    // A mount namespace of its own, in which /dev has no kvm.
    let nodes = "mknod -m 666 /dev/null c 1 3 && mknod -m 666 /dev/urandom c 1 9";
    let script = format!("mount -t tmpfs none /dev && {nodes} && exec \"$0\" \"$@\"");
    let wrapper = ["unshare", "--mount", "sh", "-c", &script];
    let image = fixture("busybox:latest");
    taskrun(["run", &image, "true"]).behind(&wrapper).output().expect_failure(125, &["/dev/kvm", "kvm_"]);
}

#[test]
fn without_permission_the_remedy_is_named() -> Result<()> {
    let directory = tempdir()?;
    let image = Image::new().layer(&Layer::new().directory("x", mode(0o755)), Stored::Plain).write(directory.path())?;
    let task = taskrun(["run", &image, "true"]);
    for path in [directory.path(), task.home()] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777))?;
    }
    let script = "chmod 600 /dev/kvm; exec setpriv --reuid=65534 --regid=65534 --clear-groups \"$0\" \"$@\"";
    task.behind(&["sh", "-c", script]).output().expect_failure(125, &["/dev/kvm", "group"]);
    Ok(())
}

#[test]
fn kernels_that_are_none_are_refused() -> Result<()> {
    let directory = tempdir()?;
    let image = fixture("busybox:latest");
    let run = |kernel: &str| taskrun(["run", "--kernel", kernel, &image, "true"]).output();
    run("/no/such/kernel").expect_failure(125, &["/no/such/kernel", "--kernel"]);
    let text = directory.path().join("text");
    fs::write(&text, "not a kernel, but long enough to be looked at\n".repeat(100))?;
    run(&text.display().to_string()).expect_failure(125, &["ELF"]);
    let zero = directory.path().join("empty");
    fs::write(&zero, "")?;
    run(&zero.display().to_string()).expect_failure(125, &["ELF"]);
    let elf = "/bin/busybox";
    run(elf).expect_failure(125, &["kernel"]);
    taskrun(["run", &image, "true"]).env("TASKRUN_KERNEL", "/no/such").output().expect_failure(125, &["/no/such"]);
    Ok(())
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    let image = fixture("busybox:latest");
    taskrun(["run", "--memory", "16MB", &image]).output().expect_failure(125, &["16", "memory"]);
    taskrun(["run", "--cpu", "17", &image]).output().expect_failure(125, &["17", "cpu"]);
    taskrun(["run", "--cpu", "0", &image]).output().expect_failure(125, &["cpu"]);
}

#[test]
fn an_installation_without_its_parts_says_which() -> Result<()> {
    let directory = tempdir()?;
    let image = fixture("busybox:latest");
    let run = || taskrun(["run", &image, "true"]).env("TASKRUN_LIBEXEC", directory.path()).output();
    run().expect_failure(125, &["vmlinux", "scripts/build"]);
    let libexec = binary().with_file_name("../libexec/taskrun");
    for (part, next) in [("vmlinux", "initramfs.cpio"), ("initramfs.cpio", "taskrun-vmm")] {
        fs::copy(libexec.join(part), directory.path().join(part))?;
        run().expect_failure(125, &[next]);
    }
    Ok(())
}

#[test]
fn the_installed_tree_runs_from_another_place() -> Result<()> {
    let directory = tempdir()?;
    let tree = binary();
    let tree = tree.parent().and_then(|bin| bin.parent()).map(|tree| tree.display().to_string()).unwrap_or_default();
    let copied = std::process::Command::new("cp").args(["-a", &format!("{tree}/.")]).arg(directory.path()).status()?;
    assert!(copied.success());
    let image = fixture("busybox:latest");
    let wrapper = format!("shift; exec {}/bin/taskrun \"$@\"", directory.path().display());
    let outcome = taskrun(["run", &image, "echo", "moved"]).behind(&["sh", "-c", &wrapper, "sh"]).output();
    assert_eq!(outcome.expect_code(0).text(), "moved");
    Ok(())
}

#[test]
fn doctor_says_what_this_host_can_do() {
    let healthy = taskrun(["doctor"]).output().expect_code(0);
    assert!(healthy.text().contains("/dev/kvm"), "{}", healthy.text());
    let broken = taskrun(["doctor"]).env("TASKRUN_KERNEL", "/no/such/kernel").output().expect_code(1);
    assert!(broken.text().contains("/no/such/kernel"), "{}", broken.text());
}
