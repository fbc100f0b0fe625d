//! The `taskrun` command: reads the command line, does what it says, and ends with docker's exit codes.

use std::env;
use std::ffi::OsStr;
use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Context;
use taskrun::cli::args::{Command, RunArgs};
use taskrun::cli::image_args::PullArgs;
use taskrun::cli::usage_args::{MetricsArgs, UsageArgs, UsageCommand};
use taskrun::cli::{self, resolve};
use taskrun::ledger::home;
use taskrun::run::request::RunRequest;
use taskrun::task::commands;
use taskrun::task::detach::{self, Started};
use taskrun::timings::Timings;
use taskrun::{doctor, errors, image, metrics, run, template, usage};

/// The exit code of a failed command that runs no task and pulls no image.
const EXIT_FAILED: u8 = 1;

fn main() -> ExitCode {
    let timings = Timings::start();
    let exit_code = match cli::parse(env::args_os()) {
        Ok(Command::Run(args)) => run_task(*args, timings),
        Ok(Command::Pull(args)) => or_say(pull(args), errors::EXIT_TASKRUN_FAILED),
        Ok(Command::Image(command)) => {
            or_say(image::commands::run(command, &mut io::stdout()).map_err(Into::into), EXIT_FAILED)
        }
        Ok(Command::Template(command)) => {
            or_say(template::commands::run(command, &mut io::stdout()).map_err(Into::into), EXIT_FAILED)
        }
        Ok(Command::Ps(args)) => or_say(commands::ps(&args, &mut io::stdout()).map_err(Into::into), EXIT_FAILED),
        Ok(Command::Inspect(args)) => {
            or_say(commands::inspect(&args, &mut io::stdout()).map_err(Into::into), EXIT_FAILED)
        }
        Ok(Command::Logs(args)) => {
            or_say(commands::logs(&args, &mut io::stdout(), &mut io::stderr()).map_err(Into::into), EXIT_FAILED)
        }
        Ok(Command::Wait(args)) => or_say(commands::wait(&args, &mut io::stdout()).map_err(Into::into), EXIT_FAILED),
        Ok(Command::Stop(args)) => or_say(commands::stop(&args, &mut io::stdout()).map_err(Into::into), EXIT_FAILED),
        Ok(Command::Kill(args)) => or_say(commands::kill(&args, &mut io::stdout()).map_err(Into::into), EXIT_FAILED),
        Ok(Command::Rm(args)) => or_say(commands::rm(&args, &mut io::stdout()).map_err(Into::into), EXIT_FAILED),
        Ok(Command::Usage(args)) => or_say(print_usage(&args), EXIT_FAILED),
        Ok(Command::Metrics(args)) => or_say(print_metrics(&args), EXIT_FAILED),
        Ok(Command::Doctor(args)) => {
            let kernel = resolve::kernel(args.kernel, &|name: &OsStr| env::var_os(name));
            or_say(
                doctor::run(kernel.as_deref(), &mut io::stdout()).context("The report can't be written"),
                EXIT_FAILED,
            )
        }
        Err(refused) => {
            refused.print();
            refused.exit_code
        }
    };
    ExitCode::from(exit_code)
}

fn run_task(args: RunArgs, timings: Timings) -> u8 {
    let request = resolve::run(args, &resolve::caller()).map_err(anyhow::Error::from);
    let run = |request: RunRequest| match request.detach && !detach::is_supervisor() {
        true => run_detached(),
        false => Ok(run::run(request, timings)),
    };
    or_say(request.and_then(run), errors::EXIT_TASKRUN_FAILED)
}

/// Starts the supervisor and prints the id of its task.
fn run_detached() -> anyhow::Result<u8> {
    match detach::start()? {
        Started::Running(id) => {
            // The task runs, whether or not anybody reads its id.
            let _ = writeln!(io::stdout(), "{id}");
            Ok(0)
        }
        Started::Failed(exit_code) => Ok(exit_code),
    }
}

fn pull(args: PullArgs) -> anyhow::Result<u8> {
    let download_only = args.download_only;
    let request = resolve::pull(args, &|name: &OsStr| env::var_os(name))?;
    Ok(image::commands::pull(&request, download_only, &mut io::stdout())?)
}

fn print_usage(args: &UsageArgs) -> anyhow::Result<u8> {
    let home = home::resolve()?;
    let mut out = io::stdout().lock();
    match args.command {
        Some(UsageCommand::Verify) => Ok(if usage::verify(&home, &mut out)? { 0 } else { EXIT_FAILED }),
        None => Ok(usage::run(&home, &args.query(), &mut out).map(|()| 0)?),
    }
}

fn print_metrics(args: &MetricsArgs) -> anyhow::Result<u8> {
    metrics::run(&home::resolve()?, args.textfile.as_deref(), &mut io::stdout().lock())?;
    Ok(0)
}

/// The exit code; that of a failure after the failure was told.
fn or_say(result: anyhow::Result<u8>, failed: u8) -> u8 {
    result.unwrap_or_else(|error| {
        errors::say(&errors::chain(error.as_ref()));
        failed
    })
}
