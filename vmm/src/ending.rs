//! Who notices first that the guest has ended says so here, once; the main thread waits for it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::OnceLock;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::end::EndReason;

/// The end of the guest, before and after it has come. Devices and vCPUs share it.
#[derive(Debug)]
pub struct Ending {
    first: OnceLock<EndReason>,
    wake: EventFd,
}

impl Ending {
    /// A guest that has not ended.
    ///
    /// # Errors
    /// When there is no event descriptor to be had.
    pub fn new() -> io::Result<Self> {
        Ok(Self { first: OnceLock::new(), wake: EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)? })
    }

    /// Ends the guest for this reason. Only the first reason counts: what follows is its consequence.
    pub fn end(&self, reason: EndReason) {
        if self.first.set(reason).is_ok() {
            // Can't fail: the counter is far from full, and a blocked write would fail, not wait.
            drop(self.wake.write(1));
        }
    }

    /// Why the guest has ended, once it has.
    #[must_use]
    pub fn reason(&self) -> Option<&EndReason> {
        self.first.get()
    }
}

/// The descriptor becomes readable when the guest has ended, and stays so.
impl AsFd for Ending {
    #[expect(unsafe_code, reason = "EventFd does not implement AsFd")]
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as `wake`, which the result borrows.
        unsafe { BorrowedFd::borrow_raw(self.wake.as_raw_fd()) }
    }
}

#[cfg(test)]
mod tests {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;

    #[test]
    fn the_first_reason_counts_and_wakes() {
        let ending = Ending::new().unwrap();
        let is_readable = || {
            let mut fds = [PollFd::new(ending.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::ZERO).unwrap() == 1
        };
        assert!(!is_readable());
        ending.end(EndReason::Reset);
        ending.end(EndReason::PowerOff);
        assert_eq!(ending.reason(), Some(&EndReason::Reset));
        assert!(is_readable());
        assert!(is_readable());
    }
}
