//! Runs programs that nobody has read, each in a microVM of its own, all at once: a grader of homework, the tools of an agent.
//!
//! ```sh
//! grade IMAGE INTERPRETER FILE...          # grade docker.io/library/python:3.13 python3 alice.py bob.py
//! ```
//!
//! Each file is given to the interpreter's standard input in a task that has a quarter of a vCPU, 256 MB, a minute, and no
//! network. What it prints is shown when it is done, and what it cost.

use std::error::Error;
use std::fs;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use taskrun::{Ended, Home, RunningTask, Stdio, Task};

/// What is kept of a program's output; one that writes more is killed.
const LONGEST: u64 = 64 << 10;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let (Some(image), Some(interpreter)) = (words.next(), words.next()) else {
        return Err("usage: grade IMAGE INTERPRETER FILE...".into());
    };
    let home = Home::from_environment()?;
    let files: Vec<PathBuf> = words.map(PathBuf::from).collect();
    let grades = thread::scope(|scope| {
        let (home, image, interpreter) = (&home, &image, &interpreter);
        let grade = |file| scope.spawn(move || grade(home, image, interpreter, file));
        let graders: Vec<_> = files.iter().map(grade).collect();
        graders
            .into_iter()
            .map(|grader| grader.join().unwrap_or_else(|_| Err("a grader panicked".into())))
            .collect::<Vec<_>>()
    });
    let prices = home.prices()?;
    let mut costs = Vec::new();
    for (file, grade) in files.iter().zip(grades) {
        let (ended, output) = grade?;
        println!("== {}: {}", file.display(), ended.reason);
        io::stdout().write_all(&output)?;
        let Some(record) = ended.record else { continue };
        let (cost, end) = (prices.cost(&record).unwrap_or_default(), record.end.as_ref());
        let seconds = end.map_or(0, |end| end.billed_seconds);
        println!("-- exit code {}, {seconds} s billed, {} {cost:.6}", ended.exit_code, prices.currency);
        costs.push(cost);
    }
    let (count, sum) = (costs.len(), costs.into_iter().sum::<taskrun::Cost>());
    println!("{count} tasks: {} {sum:.6} ({})", prices.currency, prices.name);
    Ok(())
}

/// Runs one of them. Gives how it ended and the start of what it printed.
fn grade(home: &Home, image: &str, interpreter: &str, file: &PathBuf) -> Result<(Ended, Vec<u8>)> {
    let program = fs::read(file)?;
    let mut task = Task::new(image)
        .command([interpreter])
        .cpu("0.25")
        .memory("256MB")
        .label("grader", &file.to_string_lossy())
        .timeout(Duration::from_secs(60))
        .stop_timeout(Duration::from_secs(1))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .on_event(|event| {
            if let taskrun::What::Warning(text) = &event.what {
                eprintln!("{text}");
            }
        })
        .start(home)?;
    let mut stdin = task.stdin.take().ok_or("no input")?;
    // A program that ends early leaves the rest of its text unread.
    let feeder = thread::spawn(move || drop(stdin.write_all(&program)));
    let output = read(&mut task)?;
    let ended = task.wait();
    let _ = feeder.join();
    Ok((ended, output))
}

/// Reads what a task prints, up to a limit.
fn read(task: &mut RunningTask) -> Result<Vec<u8>> {
    let mut output = Vec::new();
    let mut stdout = task.stdout.take().ok_or("no output")?;
    Read::by_ref(&mut stdout).take(LONGEST).read_to_end(&mut output)?;
    if stdout.read(&mut [0])? > 0 {
        task.kill(9)?;
    }
    Ok(output)
}
