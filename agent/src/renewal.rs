//! Makes a guest that was saved this task's own: nothing random that it knew before can be told from what another guest of
//! the same template knows, and its clock stands where the template was made.
//!
//! The kernel's random number generator gets the host's seed, credited, and is keyed anew at once. What is derived from it
//! afterwards is this guest's own: the random bytes and addresses of every program, `/proc/sys/kernel/random/boot_id`, which
//! nothing reads before, TCP's secrets. The agent itself has drawn nothing from it before. All of that happens in a cold
//! boot too, so that both are the same from here on.
//!
//! What the kernel keeps to itself of earlier randomness stays: the canaries on the kernel stacks of processes that are there
//! already (its own threads, the agent, the container's first process). No program can read them.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};

use crate::ports::Ports;
use crate::sys;

/// Why this guest can't be told from others.
#[derive(Debug, thiserror::Error)]
pub enum RenewalError {
    /// The VMM can't be reached.
    #[error("The guest's /dev/port can't be used")]
    Ports(#[source] io::Error),
    /// The host's randomness can't be had.
    #[error("The guest gets no randomness from the host")]
    Seed(#[source] io::Error),
    /// The kernel doesn't take it.
    #[error("The guest's kernel doesn't take the host's randomness")]
    Generator(#[source] io::Error),
    /// The host's clock can't be had.
    #[error("The guest can't read the host's clock")]
    Clock(#[source] io::Error),
    /// The clock can't be set.
    #[error("The guest's clock can't be set")]
    SetClock(#[source] Errno),
}

/// Gives the kernel this guest's own randomness and the time.
///
/// # Errors
/// [`RenewalError`]; the guest must not go on then.
pub fn renew(ports: &Ports) -> Result<(), RenewalError> {
    let mut seed = ports.seed().map_err(RenewalError::Seed)?;
    let generator = OpenOptions::new().write(true).open("/dev/urandom");
    let seeded = generator.and_then(|generator| {
        sys::credit_entropy(generator.as_fd(), &seed)?;
        sys::reseed_generator(generator.as_fd())
    });
    seed.fill(0);
    std::hint::black_box(&seed);
    seeded.map_err(RenewalError::Generator)?;
    let now = ports.now().map_err(RenewalError::Clock)?;
    clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::from_duration(now)).map_err(RenewalError::SetClock)
}
