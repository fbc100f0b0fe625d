//! Programs that run tasks: by the library, and in any language by the lines of `--events`.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use anyhow::{Context, Result};
use e2e::home::Home;
use e2e::place::{self, fixture};
use serde_json::{Value, json};

/// The words of a run of this script.
fn run<'a>(options: &[&'a str], image: &'a str, script: &'a str) -> Vec<&'a str> {
    let words = ["run", "--memory", "256MB"].into_iter().chain(options.iter().copied());
    words.chain([image, "sh", "-c", script]).collect()
}

#[test]
fn a_program_runs_several_tasks_at_once_and_has_their_bills() -> Result<()> {
    let (home, folder) = (Home::new(), tempfile::tempdir()?);
    let programs = [
        ("three.sh", "echo out of three; echo not shown >&2; exit 3"),
        ("much.sh", "yes | head -c 1000000; sleep 1000"),
        ("host.sh", "cat /etc/hostname; read nothing || echo at its end"),
    ];
    for (name, text) in programs {
        fs::write(folder.path().join(name), text)?;
    }
    let mut grade = home.program(&place::example("grade"));
    grade.current_dir(folder.path()).args([&*fixture("busybox:latest"), "sh"]).args(programs.map(|(name, _)| name));
    let output = grade.stdin(Stdio::null()).output()?;
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && errors.is_empty(), "{text}\n{errors}");
    for part in [
        "== three.sh: The command exited with code 3\nout of three\n-- exit code 3, ",
        "== much.sh: The command was ended by signal 9\ny\n",
        "at its end\n-- exit code 0, ",
        " s billed, USD 0.00",
        "3 tasks: USD 0.00",
    ] {
        assert!(text.contains(part), "no {part:?} in: {text}");
    }
    assert_eq!(text.matches("y\n").count(), 32 << 10, "more is shown than is kept");
    let tasks: Vec<Value> = serde_json::from_str(&home.ask("ps -a --format json"))?;
    let codes: Vec<_> = tasks.iter().map(|task| (&task["labels"]["grader"], &task["exit_code"])).collect();
    for (name, code) in [("three.sh", 3), ("much.sh", 137), ("host.sh", 0)] {
        assert!(codes.contains(&(&json!(name), &json!(code))), "{codes:?}");
    }
    let host = tasks.iter().find(|task| task["labels"]["grader"] == "host.sh").context("a task")?;
    let id = host["id"].as_str().context("an id")?;
    assert!(text.contains(&id[..12]), "its hostname is not its id: {text}");
    home.finish();
    Ok(())
}

#[test]
fn what_happens_to_a_task_is_written_as_lines() -> Result<()> {
    let (home, folder) = (Home::new(), tempfile::tempdir()?);
    let (image, file) = (fixture("busybox:latest"), folder.path().join("events"));
    let into_file = format!("exec \"$0\" \"$@\" 7>{}", file.display());
    let call =
        home.call(run(&["--events", "7", "--name", "seen"], &image, "echo hello; ls /proc/self/fd | wc -l; exit 4"));
    let outcome = call.behind(&["sh", "-c", &into_file]).output().expect_code(4);
    assert!(outcome.text().starts_with("hello"), "{}", outcome.text());
    let text = fs::read_to_string(&file)?;
    let events: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let seen: Vec<_> = events.iter().filter_map(|event| event["status"].as_str().or(event["stamp"].as_str())).collect();
    let expected = ["PROVISIONING", "pullStartedAt", "pullStoppedAt", "PENDING", "ACTIVATING", "RUNNING"];
    assert_eq!(seen, [expected.as_slice(), &["executionStoppedAt", "DEPROVISIONING"]].concat(), "{text}");
    let task = home.inspect("seen");
    assert!(events.iter().all(|event| event["task"] == task["id"]), "{text}");
    assert!(events.is_sorted_by_key(|event| event["at"].as_str()), "{text}");
    let at = |name: &str| events.iter().find(|event| event["status"] == name).map(|event| event["at"].clone());
    assert_eq!(
        (at("PROVISIONING"), at("RUNNING")),
        (Some(task["created_at"].clone()), Some(task["started_at"].clone()))
    );
    let last = events.last().context("a line")?;
    assert_eq!((&last["type"], &last["at"], &last["record"]), (&json!("stopped"), &task["stopped_at"], &task));
    assert_eq!(last["record"]["exit_code"], json!(4));
    home.finish();
    Ok(())
}

#[test]
fn a_task_in_the_background_goes_on_telling() -> Result<()> {
    let home = Home::new();
    let image = fixture("busybox:latest");
    let mut command = home.program(std::path::Path::new("sh"));
    // Standard output is the reader's pipe; the id goes to standard error.
    let script = "exec taskrun run -d --memory 256MB --events 3 \"$@\" 3>&1 >&2";
    let words = ["-c", script, "sh", &image, "sh", "-c", "trap 'exit 5' TERM; while :; do sleep 0.1; done"];
    let mut caller = command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let lines = BufReader::new(caller.stdout.take().context("a pipe")?).lines();
    assert!(caller.wait()?.success());
    let mut last = Value::Null;
    for line in lines {
        last = serde_json::from_str(&line?)?;
        if last["status"] == "RUNNING" {
            assert_eq!(home.ask(&format!("stop {}", last["task"].as_str().context("an id")?)).len(), 32);
        }
    }
    let record = &last["record"];
    assert_eq!((&record["exit_code"], &record["stop_code"]), (&json!(5), &json!("UserInitiated")), "{last:#}");
    home.finish();
    Ok(())
}

#[test]
fn a_descriptor_that_takes_no_events_is_refused_before_anything_is_done() {
    let home = Home::new();
    let image = fixture("busybox:latest");
    for (number, redirection, words) in
        [("9", "", "not open"), ("1", "", "not open"), ("4", "4</dev/null", "can't be written to")]
    {
        for options in [&["--events", number][..], &["--events", number, "-d"]] {
            let script = format!("exec \"$0\" \"$@\" {redirection}");
            let call = home.call(run(options, &image, "echo ran")).behind(&["sh", "-c", &script]);
            call.output().expect_failure(125, &["--events", number, words]);
        }
    }
    assert_eq!(home.ask("ps -aq"), "");
    // Nobody reads, and the task runs all the same.
    let gone = "\"$0\" \"$@\" 3>&1 >/dev/null | true";
    let _ = home.call(run(&["--events", "3"], &image, "exit 6")).behind(&["sh", "-c", gone]).output().expect_code(0);
    assert_eq!(home.ask("ps -a --format {{.ExitCode}}"), "6");
    home.finish();
}
