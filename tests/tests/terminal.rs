//! `-t`, and the question for a password: a person at a terminal.

use anyhow::Result;
use e2e::image::Image;
use e2e::place::fixture;
use e2e::task::{Running, taskrun};
use e2e::terminal::Terminal;
use nix::sys::signal::Signal;
use nix::sys::termios::LocalFlags;
use test_registry::{Format, Options, Registry};

fn shell(terminal: &Terminal, script: &str) -> Running {
    let image = fixture("busybox:latest");
    taskrun(["run", "-it", &image, "sh", "-c", script]).start_on(&terminal.device)
}

#[test]
fn the_command_has_a_terminal_that_follows_the_window() {
    let mut terminal = Terminal::new(33, 101);
    let script = "tty; stty size; trap 'stty size; exit 9' WINCH; echo ready; while :; do sleep 0.05; done";
    let task = shell(&terminal, script);
    let start = terminal.wait_for("ready");
    assert!(start.contains("/dev/pts/0\r\n") && start.contains("33 101\r\n"), "{start:?}");
    terminal.resize(44, 55);
    // The test is not taskrun's session leader, so it passes on what the kernel would tell the foreground process.
    task.signal(Signal::SIGWINCH);
    terminal.wait_for("44 55");
    let _ = task.finish().expect_code(9);
}

#[test]
fn keys_reach_the_command_and_the_terminal_is_restored() {
    let mut terminal = Terminal::new(24, 80);
    let before = terminal.settings();
    let task = shell(&terminal, "trap 'echo interrupted; exit 5' INT; echo ready; while :; do sleep 0.05; done");
    terminal.wait_for("ready");
    assert!(!terminal.settings().local_flags.contains(LocalFlags::ICANON), "not raw while the task runs");
    terminal.type_keys("\u{3}");
    terminal.wait_for("interrupted");
    let _ = task.finish().expect_code(5);
    assert_eq!(terminal.settings(), before, "the terminal is not as it was");
}

#[test]
fn the_terminal_is_restored_when_taskrun_fails_or_is_told_to_end() {
    let mut terminal = Terminal::new(24, 80);
    let before = terminal.settings();
    let image = fixture("busybox:latest");
    let task = taskrun(["run", "-it", "-u", "nobody-knows", &image]).start_on(&terminal.device);
    let _ = task.finish().expect_code(125);
    terminal.wait_for("nobody-knows");
    assert_eq!(terminal.settings(), before);
    let task = shell(&terminal, "echo ready; sleep 1000");
    terminal.wait_for("ready");
    // The third request is the user's last word.
    for _ in 0..3 {
        task.signal_and_wait(Signal::SIGTERM);
    }
    let _ = task.finish().expect_code(137);
    assert_eq!(terminal.settings(), before);
}

#[test]
fn input_without_a_terminal_cannot_be_one() {
    let image = fixture("busybox:latest");
    taskrun(["run", "-it", &image]).stdin("").output().expect_failure(125, &["TTY"]);
}

#[test]
fn a_password_is_asked_for_and_does_not_show() -> Result<()> {
    let user = ("somebody".to_owned(), "a:sécret".to_owned());
    let registry = Registry::start(Options { htpasswd: Some(user), ..Options::default() });
    let directory = tempfile::tempdir()?;
    registry.push(&Image::with_shell()?.write(directory.path())?, "team/tool:1", Format::Keep);
    let name = format!("{}/team/tool:1", registry.address());
    let pull = || taskrun(["pull", "--download-only", "--creds", "somebody", &name]).own_store();

    let mut terminal = Terminal::new(24, 80);
    let before = terminal.settings();
    let task = pull().start_on(&terminal.device);
    terminal.wait_for("Password of \"somebody\": ");
    terminal.type_keys("nothing\u{15}a:sécretx\u{7f}\r");
    let screen = terminal.wait_for("sha256:");
    assert!(!screen.contains("cret") && !screen.contains("nothing"), "{screen:?}");
    let _ = task.finish().expect_code(0);
    assert_eq!(terminal.settings(), before);

    let task = pull().start_on(&terminal.device);
    terminal.wait_for("Password of \"somebody\": ");
    terminal.type_keys("a:sé\u{3}");
    terminal.wait_for("No password was given");
    let _ = task.finish().expect_code(125);
    assert_eq!(terminal.settings(), before);

    pull().output().expect_failure(125, &["no terminal", "--creds USER:PASSWORD"]);
    Ok(())
}
