//! The files that a task sees: its root, what it may write, volumes, file systems in memory, scratch disks, `/etc`.

use anyhow::Result;
use e2e::image::{Image, Stored};
use e2e::layer::{Layer, Meta, mode};
use e2e::place::fixture;
use e2e::task::{Task, taskrun};
use serde_json::{Value, json};
use tempfile::tempdir;

/// `taskrun run OPTIONS busybox sh -c SCRIPT`.
fn shell(options: &[&str], script: &str) -> Task {
    let image = fixture("busybox:latest");
    taskrun(["run"].iter().chain(options).copied().chain([&*image, "sh", "-c", script]))
}

fn text(task: Task) -> String {
    task.output().expect_code(0).text()
}

#[test]
fn the_image_is_mapped_and_what_is_written_is_in_memory() {
    let script = "awk '$2 == \"/\" {print $3}' /proc/mounts; echo kept >/etc/new; cat /etc/new; \
        echo more >>/etc/group; tail -n 1 /etc/group; rm /etc/passwd; ls /etc/passwd 2>&1 | grep -c 'No such'; \
        rm -r /srv && mkdir /srv && ls -A /srv | wc -l";
    assert_eq!(text(shell(&[], script)), "overlay\nkept\nmore\n1\n0");
}

#[test]
fn as_a_block_device_the_image_is_the_same() {
    let script = "busybox md5sum /bin/busybox; ls /bin | wc -l";
    let mapped = text(shell(&["--image-device", "pmem"], script));
    assert_eq!(text(shell(&["--image-device", "blk"], script)), mapped);
    assert!(mapped.contains("/bin/busybox"), "{mapped}");
}

#[test]
fn a_read_only_root_leaves_the_mounts_writable() {
    let script = "touch /x 2>&1 | grep -c Read-only; touch /etc/x 2>&1 | grep -c Read-only; \
        for f in /dev/shm/x /run/x /etc/hosts; do echo y >>$f && echo $f; done; \
        echo z >/run/exe; chmod 755 /run/exe; /run/exe 2>&1 | grep -c denied";
    let written = text(shell(&["--read-only", "--tmpfs", "/run:size=1m"], script));
    assert_eq!(written, "1\n1\n/dev/shm/x\n/run/x\n/etc/hosts\n1");
}

#[test]
fn a_tmpfs_has_the_size_and_the_mode_that_were_asked_for() {
    let script = "df -k /cache/deep | tail -n 1 | awk '{print $2}'; stat -c '%a %u %g' /cache/deep; ls -A /cache/deep | wc -l; \
        head -c 2m /dev/zero >/cache/deep/big 2>/dev/null || echo full";
    let options = ["--tmpfs", "/cache/deep:size=1m,mode=750,uid=7,gid=8"];
    assert_eq!(text(shell(&options, script)), "1024\n750 7 8\n0\nfull");
}

#[test]
fn shared_memory_has_the_size_that_was_asked_for() {
    let script = "df -k /dev/shm /dev/shm/deep | awk 'NR > 1 {print $2}'; grep -c ' /dev/shm ' /proc/mounts; \
        ls /dev/null /dev/pts/ptmx; touch /dev/shm/x /dev/shm/deep/x && head -c 3m /dev/zero 2>/dev/null >/dev/shm/y || echo full";
    let expected = "1\n/dev/null\n/dev/pts/ptmx\nfull";
    let options = ["--read-only", "--tmpfs", "/dev/shm/deep:size=1m", "--tmpfs", "/dev/shm:size=2m"];
    assert_eq!(text(shell(&options, script)), format!("2048\n1024\n{expected}"));
}

#[test]
fn what_a_task_writes_counts_as_its_memory() {
    let script = "head -c 300m /dev/zero >/big";
    let outcome = shell(&["--memory", "128MB"], script).output();
    assert_ne!(outcome.code, Some(0), "{}", outcome.errors());
}

#[test]
fn a_scratch_disk_holds_more_than_the_memory_and_is_gone_afterwards() {
    let script = "head -c 200m /dev/zero | tr '\\0' x >/big; stat -c %s /big; df -k / | tail -n 1 | awk '{print ($2 > 900000)}'; \
        echo over >>/etc/group; tail -n 1 /etc/group";
    let outcome = shell(&["--memory", "128MB", "--disk", "1GB"], script).output().expect_code(0);
    assert_eq!(outcome.text(), format!("{}\n1\nover", 200 << 20));
    taskrun(["run", "--disk", "1KB", &fixture("busybox:latest"), "true"]).output().expect_failure(125, &["16 MB"]);
}

#[test]
fn volumes_keep_what_the_image_has_there_and_can_be_written() -> Result<()> {
    let layer = Layer::new()
        .directory("data/", Meta { mode: 0o750, uid: 7, gid: 8 })
        .file("data/seed", mode(0o644), "seed\n")
        .directory("real/", mode(0o755))
        .file("real/inside", mode(0o644), "inside\n")
        .symlink("alias", "real");
    let volumes = json!({"/data": {}, "/made/by/volume": {}, "/alias": {}});
    let directory = tempdir()?;
    let image = Image::with_shell()?.layer(&layer, Stored::Gzip).set("Volumes", volumes).write(directory.path())?;
    let script = "cat /data/seed /alias/inside; stat -c '%a %u %g' /data; echo x >>/data/seed; cat /data/seed; \
        touch /data/new /made/by/volume/new /real/new && ls /data /made/by/volume /real; touch /x 2>&1 | grep -c Read-only";
    let expected =
        "seed\ninside\n750 7 8\nseed\nx\n/data:\nnew\nseed\n\n/made/by/volume:\nnew\n\n/real:\ninside\nnew\n1";
    for options in [&["--read-only"][..], &["--read-only", "--disk", "64MB"]] {
        let words = ["run"].iter().chain(options).copied().chain([&*image, "sh", "-c", script]);
        assert_eq!(text(taskrun(words)), expected, "{options:?}");
    }
    Ok(())
}

#[test]
fn the_files_in_etc_say_who_the_task_is() -> Result<()> {
    let script = "cat /etc/hostname; grep -w named /etc/hosts; grep -w db /etc/hosts; grep nameserver /etc/resolv.conf; \
        echo mine >/etc/hostname; cat /etc/hostname; stat -c %a /etc/hosts /etc/hostname /etc/resolv.conf";
    let options = ["--hostname", "named", "--add-host", "db:10.0.0.7", "--dns", "10.9.8.7"];
    let expected = "named\n127.0.0.1\tnamed\n10.0.0.7\tdb\nnameserver 10.9.8.7\nmine\n644\n644\n644";
    assert_eq!(text(shell(&options, script)), expected);

    // Links lead nowhere but into the image, and what the image lacks is made.
    let layer = Layer::new().symlink("etc/resolv.conf", "../../../../run/resolve/stub.conf").file(
        "etc/.wh.hostname",
        mode(0o644),
        "",
    );
    let directory = tempdir()?;
    let image = Image::with_shell()?.layer(&layer, Stored::Plain).write(directory.path())?;
    let script = "cat /run/resolve/stub.conf; cat /etc/hostname; hostname";
    let task = taskrun(["run", "--dns", "10.9.8.7", "--hostname", "named", &image, "sh", "-c", script]);
    assert_eq!(
        text(task).lines().filter(|line| !line.starts_with("search")).collect::<Vec<_>>().join("\n"),
        "nameserver 10.9.8.7\nnamed\nnamed"
    );
    Ok(())
}

#[test]
fn the_devices_below_the_root_cannot_be_reached() {
    let script = "ls /dev/vda /dev/pmem0 2>&1 | grep -c 'No such'; \
        for d in $(cat /sys/class/block/*/dev | tr : ' ' | tr ' ' ,); do \
            mknod /node b ${d%,*} ${d#*,}; head -c 1 /node >/dev/null 2>&1 && echo read; rm /node; done; echo done";
    assert_eq!(text(shell(&[], script)), "2\ndone");
}

#[test]
fn the_second_task_of_an_image_downloads_and_unpacks_nothing() -> Result<()> {
    let directory = tempdir()?;
    let phases = |task: Task, name: &str| -> Result<(Vec<String>, e2e::task::Outcome)> {
        let file = directory.path().join(name);
        let outcome = task.output().expect_code(0);
        let document: Value = serde_json::from_slice(&std::fs::read(&file)?)?;
        let phases = document.get("phases").and_then(Value::as_array).cloned().unwrap_or_default();
        let names = phases.iter().filter_map(|phase| phase.get("name")?.as_str().map(str::to_owned));
        Ok((names.collect(), outcome))
    };
    let words = |name: &str| {
        let file = directory.path().join(name).display().to_string();
        ["run".to_owned(), "--timings".to_owned(), file, fixture("busybox:latest"), "true".to_owned()]
    };
    let (first, outcome) = phases(taskrun(words("first")).own_store(), "first")?;
    assert!(first.contains(&"image-unpacked".to_owned()), "{first:?}");
    let (second, _) = phases(outcome.again(words("second")), "second")?;
    assert!(!second.contains(&"image-unpacked".to_owned()), "{second:?}");
    assert!(second.contains(&"root-mounted".to_owned()), "{second:?}");
    Ok(())
}
