//! The guest's `/init`.
//!
//! There is no `fn main`: std's start-up code opens `/dev/null` when the standard streams are closed, as they are in a guest
//! without a console, and ends the process when it cannot. The initramfs has no such file, and the end of PID 1 is a panic.
#![no_main]

use std::os::raw::{c_char, c_int};

/// Called by the C library's start-up code.
#[expect(unsafe_code, reason = "the linker must find this name")]
// SAFETY: this is the program's only `main`, and has its signature.
#[unsafe(no_mangle)]
extern "C" fn main(_count: c_int, _arguments: *const *const c_char) -> c_int {
    agent::init::run()
}
