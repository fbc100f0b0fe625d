//! The whole story on the machine that runs the tests: real namespaces, real mounts, the machine's own `/usr` as the image,
//! and socket pairs in the place of vsock. Needs root.

mod support;

use protocol::message::{AgentMessage, ExitHow, FailureKind, HostMessage, Phase};
use protocol::spec::WindowSize;

use support::{Image, Task};

fn shell(script: &str) -> Task {
    Task::new(&["/bin/sh", "-c", script])
}

#[test]
fn the_exit_code_and_both_outputs_come_back_apart() {
    let ended = shell("echo out; echo error >&2; exit 42").run();
    assert_eq!(ended.how(), ExitHow::Code(42));
    assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("out\n", "error\n"));
    let kinds: Vec<_> = ended.messages.iter().filter(|one| !matches!(one, AgentMessage::Warning(_))).collect();
    assert!(matches!(
        kinds.as_slice(),
        [
            AgentMessage::Hello { version: protocol::VERSION, .. },
            AgentMessage::Phase(Phase::RootMounted),
            AgentMessage::Phase(Phase::Prepared),
            AgentMessage::Started,
            AgentMessage::Exited(_)
        ]
    ));
}

/// How many files a command may have open: Docker's number, where this machine lets it be raised.
fn open_files() -> String {
    let (_, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap();
    let may_raise = u64::from_str_radix(effective, 16).unwrap() & (1 << 24) != 0;
    if may_raise { 1 << 20 } else { hard.min(1 << 20) }.to_string()
}

#[test]
fn the_command_sees_a_container() {
    let ended = shell(
        "echo $$; hostname; grep ^0: /proc/1/cgroup; umask; ulimit -n; pwd; ls -x /dev; echo /fds $(ls /proc/self/fd)",
    )
    .run();
    let lines: Vec<&str> = ended.stdout.lines().collect();
    assert_eq!(lines[..6], ["1", "box", "0::/", "0022", &open_files(), "/srv/here"], "{}", ended.stdout);
    let devices: Vec<&str> = ended.stdout.lines().skip(6).take_while(|line| !line.starts_with('/')).collect();
    let mut devices: Vec<&str> = devices.iter().flat_map(|line| line.split_whitespace()).collect();
    devices.sort_unstable();
    let expected = "core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero";
    assert_eq!(devices.join(" "), expected);
    // The three streams, and the descriptor with which ls reads the directory.
    assert_eq!(ended.stdout.lines().last(), Some("/fds 0 1 2 3"));
}

#[test]
fn mounts_are_those_of_docker_and_nothing_of_the_host() {
    let ended = shell("cat /proc/self/mounts").run();
    let mounts: Vec<Vec<&str>> = ended.stdout.lines().map(|line| line.split(' ').collect()).collect();
    let options = |target: &str| {
        let mount = mounts.iter().find(|mount| mount[1] == target);
        mount.unwrap_or_else(|| panic!("no {target} in {}", ended.stdout))[3].to_owned()
    };
    for (target, expected) in [
        ("/proc", "rw,nosuid,nodev,noexec"),
        ("/sys", "ro,nosuid,nodev,noexec"),
        ("/sys/fs/cgroup", "ro,nosuid,nodev,noexec"),
        ("/dev", "rw,nosuid"),
        ("/dev/pts", "rw,nosuid,noexec"),
        ("/dev/shm", "rw,nosuid,nodev,noexec"),
        ("/dev/mqueue", "rw,nosuid,nodev,noexec"),
        ("/proc/sys", "ro,nosuid,nodev,noexec"),
    ] {
        assert!(options(target).starts_with(expected), "{target}: {}", options(target));
    }
    let known = ["/", "/usr", "/proc", "/sys", "/dev"];
    let stray = mounts.iter().find(|mount| {
        !known.contains(&mount[1]) && !["/proc/", "/sys/", "/dev/"].iter().any(|prefix| mount[1].starts_with(prefix))
    });
    assert_eq!(stray, None);
}

#[test]
fn root_has_dockers_capabilities_and_another_user_has_none() {
    let root = shell("grep ^Cap /proc/self/status").run().stdout.replace('\t', " ");
    let mask = "00000000a80425fb";
    assert_eq!(root, format!("CapInh: {0:016}\nCapPrm: {mask}\nCapEff: {mask}\nCapBnd: {mask}\nCapAmb: {0:016}\n", 0));
    let other = shell("grep ^Cap /proc/self/status").user("www").run().stdout.replace('\t', " ");
    assert_eq!(
        other,
        format!("CapInh: {0:016}\nCapPrm: {0:016}\nCapEff: {0:016}\nCapBnd: {mask}\nCapAmb: {0:016}\n", 0)
    );
}

#[test]
fn a_user_of_the_image_has_its_ids_its_home_and_its_streams() {
    let script = "id -u; id -g; id -G; echo $HOME; echo reopened >/dev/stdout; touch /dev/shm/mine && echo shared";
    let ended = shell(script).user("www").run();
    assert_eq!(ended.stdout, "33\n33\n33 4\n/srv/www\nreopened\nshared\n", "{}", ended.stderr);
}

#[test]
fn an_unknown_user_is_a_setting_that_is_wrong() {
    let failure = shell("true").user("nobody-here").run().failure();
    assert_eq!(failure.kind, FailureKind::Settings);
    assert!(failure.message.contains("unknown user \"nobody-here\""), "{}", failure.message);
}

#[test]
fn commands_that_cannot_be_executed_are_told_apart() {
    let kind = |command: &str| Task::new(&[command]).run().failure().kind;
    assert_eq!(kind("no-such-command"), FailureKind::NotFound);
    assert_eq!(kind("/no/such/command"), FailureKind::NotFound);
    assert_eq!(kind("/etc/passwd"), FailureKind::NotExecutable);
    assert_eq!(kind("/etc"), FailureKind::NotExecutable);
}

#[test]
fn a_command_without_slash_is_found_in_path() {
    assert_eq!(Task::new(&["sh", "-c", "exit 7"]).run().how(), ExitHow::Code(7));
}

#[test]
fn five_megabytes_pass_through_unchanged() {
    let input: Vec<u8> = (0..5_u32 << 20).map(|n| u8::try_from(n.wrapping_mul(2_654_435_761) >> 24).unwrap()).collect();
    let ended = Task::new(&["cat"]).stdin(input.clone()).run();
    assert_eq!(ended.how(), ExitHow::Code(0));
    assert!(ended.stdout_bytes == input, "{} bytes came back", ended.stdout_bytes.len());
}

#[test]
fn without_stdin_the_command_reads_nothing() {
    let ended = shell("readlink /proc/self/fd/0; cat").run();
    assert_eq!(ended.stdout, "/dev/null\n");
}

#[test]
fn both_outputs_at_once_arrive_whole_and_apart() {
    let script = "head -c 20M /dev/zero | tr '\\0' o & head -c 1M /dev/zero | tr '\\0' e >&2; wait";
    let ended = shell(script).run();
    assert_eq!((ended.stdout.len(), ended.stderr.len()), (20 << 20, 1 << 20));
    assert!(ended.stdout.bytes().all(|byte| byte == b'o') && ended.stderr.bytes().all(|byte| byte == b'e'));
}

#[test]
fn what_the_command_leaves_behind_ends_with_it() {
    let ended = shell("sleep 1000 & echo started; exit 3").run();
    assert_eq!((ended.how(), ended.stdout.as_str()), (ExitHow::Code(3), "started\n"));
}

#[test]
fn signals_reach_the_command() {
    let running = shell("trap 'echo caught; exit 5' TERM; echo ready; while :; do sleep 0.05; done").start();
    running.wait_for_output("ready\n");
    running.send(&HostMessage::Signal(libc::SIGTERM));
    let ended = running.finish();
    assert_eq!((ended.how(), ended.stdout.as_str()), (ExitHow::Code(5), "ready\ncaught\n"));

    let running = shell("echo ready; sleep 1000").start();
    running.wait_for_output("ready\n");
    running.send(&HostMessage::Signal(libc::SIGKILL));
    assert_eq!(running.finish().how(), ExitHow::Signal(9));
}

#[test]
fn a_signal_before_the_start_is_kept() {
    let ended = shell("sleep 1000").before(HostMessage::Signal(libc::SIGKILL)).run();
    assert_eq!(ended.how(), ExitHow::Signal(9));
}

#[test]
fn a_terminal_is_dev_pts_0_and_follows_the_window() {
    let script = "tty; stty size; trap 'stty size; exit 4' WINCH; echo ready; while :; do sleep 0.05; done";
    let running = shell(script).terminal(WindowSize { rows: 33, columns: 77 }).start();
    running.wait_for_output("/dev/pts/0\r\n33 77\r\nready\r\n");
    running.send(&HostMessage::Resize(WindowSize { rows: 10, columns: 20 }));
    let ended = running.finish();
    assert_eq!((ended.how(), ended.stdout.as_str()), (ExitHow::Code(4), "/dev/pts/0\r\n33 77\r\nready\r\n10 20\r\n"));
}

#[test]
fn control_c_interrupts_what_runs_in_the_terminal() {
    let script = "trap 'echo interrupted; exit 6' INT; echo ready; while :; do sleep 0.05; done";
    let running = shell(script).terminal(WindowSize { rows: 24, columns: 80 }).open_stdin().start();
    running.wait_for_output("ready\r\n");
    running.write(b"\x03");
    let ended = running.finish();
    assert_eq!(ended.how(), ExitHow::Code(6));
    assert!(ended.stdout.contains("interrupted"), "{:?}", ended.stdout);
}

#[test]
fn a_terminal_has_a_console_and_belongs_to_the_user() {
    let ended = shell("stat -c '%U %G' /dev/pts/0; echo shown >/dev/console; echo </dev/tty >/dev/tty")
        .terminal(WindowSize { rows: 24, columns: 80 })
        .user("www")
        .stdin(b"\n".to_vec())
        .run();
    assert!(ended.stdout.contains("www tty\r\n"), "{:?}", ended.stdout);
    assert!(ended.stdout.contains("shown\r\n"), "{:?}", ended.stdout);
}

#[test]
fn a_host_that_stops_reading_stops_the_command_and_not_the_agent() {
    let running = shell("head -c 64M /dev/zero; echo never >&2").start_unread();
    running.wait_until_blocked();
    running.send(&HostMessage::Signal(libc::SIGKILL));
    assert_eq!(running.finish().how(), ExitHow::Signal(9));
}

#[test]
fn a_host_that_goes_away_breaks_the_commands_pipe() {
    let running = shell("trap '' PIPE; while echo x; do :; done 2>/dev/null; exit 9").start_without_stdout();
    assert_eq!(running.finish().how(), ExitHow::Code(9));
}

#[test]
fn mount_points_that_lead_elsewhere_are_refused() {
    for target in ["dev", "proc", "sys"] {
        let failure = shell("true").image(Image::with_link(target, "/tmp")).run().failure();
        assert_eq!(failure.kind, FailureKind::Image, "{target}");
        assert!(failure.message.contains(&format!("/{target} is not a directory")), "{}", failure.message);
    }
}

#[test]
fn a_working_directory_cannot_lead_to_what_the_agent_has_open() {
    for number in 3..40 {
        let image = Image::with_link("leak", &format!("/proc/self/fd/{number}"));
        let ended = Task::new(&["/bin/pwd"]).cwd("/leak").image(image).run();
        assert_eq!(ended.failure().kind, FailureKind::Settings, "descriptor {number}");
    }
}

#[test]
fn a_passwd_that_is_a_fifo_is_refused_and_not_waited_for() {
    let failure = shell("true").image(Image::with_fifo("etc/passwd")).run().failure();
    assert_eq!(failure.kind, FailureKind::Image);
    assert!(failure.message.contains("/etc/passwd can't be read: it is not a regular file"), "{}", failure.message);
}

#[test]
fn an_image_without_mount_points_gets_them() {
    let ended = shell("ls -d /proc/self /sys/kernel /dev/null").image(Image::bare()).run();
    assert_eq!(ended.how(), ExitHow::Code(0), "{}", ended.stderr);
}

#[test]
fn a_read_only_root_has_its_mount_points_and_working_directory_and_takes_nothing_more() {
    let script = "pwd; touch /new 2>/dev/null || echo refused; echo x >/dev/shm/x && cat /dev/shm/x; ls -d /proc/self";
    let ended = shell(script).image(Image::bare()).read_only().run();
    assert_eq!(ended.stdout, "/srv/here\nrefused\nx\n/proc/self\n", "{}", ended.stderr);
}
