//! Where a device registers descriptors of its own with the device thread.
//!
//! Registrations are edge-triggered: a descriptor is reported when it becomes ready, not for as long as it is. So a peer
//! that is slow, or gone, costs nothing while a device has no use for its descriptor, and a device that got an event
//! must remember it until the descriptor says `EAGAIN`. Setting the same interest again reports a ready descriptor again.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

/// The bit of an epoll token's lower half that tells a device's own descriptors from its queues.
pub(super) const OWN: u32 = 1 << 31;

/// A device's part of the device thread's epoll.
#[derive(Clone, Debug)]
pub struct Sources {
    epoll: Arc<Epoll>,
    slot: u32,
}

impl Sources {
    /// The sources of the device in slot `slot` of the thread that waits on `epoll`.
    pub(super) const fn new(epoll: Arc<Epoll>, slot: u32) -> Self {
        Self { epoll, slot }
    }

    /// Reports `fd` as [`Event::Source`](super::Event::Source)`(token, …)` on each edge of `interest`; errors and
    /// hang-ups are always reported.
    ///
    /// # Errors
    /// Those of `epoll_ctl`.
    pub fn add(&self, token: u32, fd: BorrowedFd<'_>, interest: EventSet) -> io::Result<()> {
        self.control(ControlOperation::Add, token, fd, interest)
    }

    /// Changes the interest in a registered descriptor.
    ///
    /// # Errors
    /// Those of `epoll_ctl`.
    pub fn modify(&self, token: u32, fd: BorrowedFd<'_>, interest: EventSet) -> io::Result<()> {
        self.control(ControlOperation::Modify, token, fd, interest)
    }

    /// Forgets a descriptor, before it is closed.
    ///
    /// # Errors
    /// Those of `epoll_ctl`.
    pub fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.epoll.ctl(ControlOperation::Delete, fd.as_raw_fd(), EpollEvent::default())
    }

    fn control(&self, what: ControlOperation, token: u32, fd: BorrowedFd<'_>, interest: EventSet) -> io::Result<()> {
        let data = (u64::from(self.slot) << 32) | u64::from(token | OWN);
        self.epoll.ctl(what, fd.as_raw_fd(), EpollEvent::new(interest | EventSet::EDGE_TRIGGERED, data))
    }
}
