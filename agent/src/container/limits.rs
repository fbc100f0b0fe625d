//! Resource limits of the command: what a process in a Docker container finds. Everything else is as the kernel gives it to
//! its first process.

use nix::errno::Errno;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, rlim_t, setrlimit};

/// The resources with soft and hard limit.
const LIMITS: [(Resource, rlim_t); 2] = [(Resource::RLIMIT_NOFILE, 1 << 20), (Resource::RLIMIT_NPROC, RLIM_INFINITY)];

/// Sets the limits of this process. Outside a guest, an agent that may not raise them takes all that it has.
///
/// # Errors
/// Those of `setrlimit(2)`.
pub fn apply() -> Result<(), Errno> {
    LIMITS.iter().try_for_each(|(resource, limit)| match setrlimit(*resource, *limit, *limit) {
        Err(Errno::EPERM) => {
            let (_, hard) = getrlimit(*resource)?;
            setrlimit(*resource, hard, hard)
        }
        result => result,
    })
}
