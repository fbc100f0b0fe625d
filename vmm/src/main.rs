//! `taskrun-vmm`: one microVM. Started by `taskrun` with the control socket as standard input; it has no options.

use std::io;
use std::os::fd::AsFd;
use std::process::{self, ExitCode};

use vmm::control;
use vmm::end::EndReason;
use vmm::machine;

/// The exit code when the VMM failed, or the runtime was gone.
const FAILED: u8 = 1;

/// The exit code when it isn't started as it should be.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    // A panic in any thread is the end of the VMM, also in builds that unwind.
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        print(info);
        process::abort();
    }));

    let stdin = io::stdin();
    if let Err(error) = control::check(stdin.as_fd()) {
        eprintln!("taskrun-vmm is started by taskrun, with a control socket as standard input: {error}");
        return ExitCode::from(USAGE);
    }
    let code = match machine::serve(stdin.as_fd()) {
        None | Some(EndReason::VmmError { .. }) => FAILED,
        Some(_) => 0,
    };
    // Ends threads that are still busy with a machine that nobody waits for any more.
    process::exit(code.into());
}
