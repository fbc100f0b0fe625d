//! A child process that shares this process's memory and takes turns with it.
//!
//! Only one of the two runs at any time, as with `vfork`: the other sleeps until it is handed the turn. But here the child can
//! give it back, so that it may be made, with namespaces of its own, long before it is known which program it executes, and
//! do work of its parent's from inside its namespaces. No page tables are copied, which is the dearest part of a fork.
//!
//! The turn is one word, a futex: who has the turn changes it and wakes the other. The kernel itself sets it to [`GONE`] and
//! wakes the parent when the child leaves the shared memory, by executing a program or by ending (`CLONE_CHILD_CLEARTID`).
//! The descriptor table is shared as well, until the child unshares `CLONE_FILES`: what it opens, the parent has too.
#![expect(unsafe_code, reason = "a process that shares memory is made and kept in turn")]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::raw::{c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use nix::sched::CloneFlags;
use nix::unistd::Pid;

use crate::sys::{self, Child};

/// The stack of the child until it executes a program.
const STACK: usize = 128 << 10;

/// The exit code of a child that ends without having executed a program.
const CHILD_FAILED: c_int = 125;

/// The values of the turn. The kernel writes 0 when the child is gone.
const GONE: u32 = 0;
const PARENTS: u32 = 1;
const CHILDS: u32 = 2;

/// What became of the child's turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The child has done its work and sleeps again.
    Back,
    /// The child executed a program, or ended.
    Gone,
}

/// A child that sleeps until it gets work.
#[derive(Debug)]
pub struct Companion {
    /// Taken by [`Self::into_child`].
    child: Option<Child>,
    shared: Box<Shared>,
    /// The child's; freed only when it is gone.
    _stack: Vec<u128>,
}

/// What both look at.
#[derive(Debug)]
struct Shared {
    turn: AtomicU32,
    /// A `*mut &mut dyn FnMut()` of the parent's, valid while it is the child's turn.
    work: AtomicPtr<c_void>,
}

impl Companion {
    /// Makes a child with new `namespaces`.
    ///
    /// # Errors
    /// Those of `clone(2)`.
    pub fn new(namespaces: CloneFlags) -> io::Result<Self> {
        let mut stack = vec![0_u128; STACK / size_of::<u128>()];
        let top = stack.as_mut_ptr_range().end;
        let shared = Box::new(Shared { turn: AtomicU32::new(PARENTS), work: AtomicPtr::new(ptr::null_mut()) });
        let address = (&raw const *shared).cast_mut().cast::<c_void>();
        let mut pidfd: c_int = -1;
        let flags = libc::CLONE_VM | libc::CLONE_FILES | libc::CLONE_PIDFD | libc::CLONE_CHILD_CLEARTID | libc::SIGCHLD;
        // SAFETY: the stack is 16-byte aligned, and it and `shared` live until the child is gone (see `drop`). The child takes its
        // first turn only when it is given one, and from then on never runs at the same time as this thread, so nothing that
        // either uses (thread-local storage, the allocator, `work`) is used by both at once. Between its turns it touches its
        // own stack and `turn`; its futex call sets `errno` only when the turn has changed, and then this thread is on its way
        // to sleep and reads none.
        let pid = unsafe {
            let turn = shared.turn.as_ptr();
            let nothing = ptr::null_mut::<c_void>();
            libc::clone(enter, top.cast(), flags | namespaces.bits(), address, &raw mut pidfd, nothing, turn)
        };
        if pid < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: with CLONE_PIDFD the kernel stored a new descriptor that nothing else owns.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        Ok(Self { child: Some(Child { pid: Pid::from_raw(pid), pidfd }), shared, _stack: stack })
    }

    /// Has the child do `work`, and waits until it has or is gone.
    pub fn run(&mut self, mut work: &mut dyn FnMut()) -> Turn {
        if self.is_gone() {
            return Turn::Gone;
        }
        self.shared.work.store((&raw mut work).cast(), Ordering::Relaxed);
        self.shared.hand_over(PARENTS, CHILDS);
        self.shared.wait_while(CHILDS);
        if self.is_gone() { Turn::Gone } else { Turn::Back }
    }

    /// The process of a child that is gone from this memory, which runs a program or has ended; `None` while it is there.
    pub fn into_child(mut self) -> Option<Child> {
        if self.is_gone() { self.child.take() } else { None }
    }

    fn is_gone(&self) -> bool {
        self.shared.turn.load(Ordering::Acquire) == GONE
    }
}

impl Drop for Companion {
    fn drop(&mut self) {
        // A child that is there sleeps. None of it may be left when its memory is freed.
        if let Some(child) = &self.child {
            let _ = sys::send_signal(child, libc::SIGKILL);
            let _ = sys::wait(child);
        }
    }
}

impl Shared {
    /// Gives the other the turn, unless the kernel has said meanwhile that the child is gone.
    fn hand_over(&self, from: u32, to: u32) {
        if self.turn.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            self.futex(libc::FUTEX_WAKE, 1);
        }
    }

    /// Sleeps for as long as the turn is this one.
    fn wait_while(&self, turn: u32) {
        while self.turn.load(Ordering::Acquire) == turn {
            self.futex(libc::FUTEX_WAIT, turn);
        }
    }

    /// Not a private futex: the kernel wakes the one at the child's end as a shared one.
    fn futex(&self, operation: c_int, value: u32) {
        let forever = ptr::null::<libc::timespec>();
        // SAFETY: the word outlives the call, and there is no timeout to read. Whatever comes back, the word is looked at again.
        unsafe { libc::syscall(libc::SYS_futex, self.turn.as_ptr(), operation, value, forever) };
    }
}

/// The child's whole life in the shared memory.
extern "C" fn enter(shared: *mut c_void) -> c_int {
    // SAFETY: the parent keeps it until this process is gone.
    let shared = unsafe { &*shared.cast::<Shared>() };
    loop {
        shared.wait_while(PARENTS);
        let work = shared.work.load(Ordering::Relaxed).cast::<&mut dyn FnMut()>();
        // SAFETY: it is this process's turn, so the parent sleeps in `run`, whose `work` this is.
        match unsafe { work.as_mut() } {
            Some(work) => work(),
            None => return CHILD_FAILED,
        }
        shared.hand_over(CHILDS, PARENTS);
    }
}

#[cfg(test)]
mod tests {
    use nix::unistd::{dup, getpid};
    use protocol::message::ExitHow;

    use super::*;

    fn companion() -> Companion {
        Companion::new(CloneFlags::empty()).unwrap()
    }

    #[test]
    fn work_is_done_in_another_process_and_seen_in_this_one() {
        let mut companion = companion();
        let mut pids = Vec::new();
        for _ in 0..3 {
            assert_eq!(companion.run(&mut || pids.push(getpid())), Turn::Back);
        }
        let pid = companion.child.as_ref().unwrap().pid;
        assert_eq!(pids, [pid; 3]);
        assert_ne!(pid, getpid());
        assert!(companion.into_child().is_none());
    }

    #[test]
    fn what_a_child_opens_is_its_parents_until_it_unshares() {
        let mut companion = companion();
        let mut shared = None;
        let turn = companion.run(&mut || {
            shared = Some(dup(io::stderr()).unwrap());
            nix::sched::unshare(CloneFlags::CLONE_FILES).unwrap();
            sys::close_from(0).unwrap();
        });
        assert_eq!(turn, Turn::Back);
        assert!(nix::sys::stat::fstat(shared.unwrap()).is_ok());
    }

    #[test]
    fn a_child_that_executes_a_program_is_gone_and_can_be_signalled_and_waited_for() {
        let mut companion = companion();
        let command = c"/bin/sleep";
        let turn = companion.run(&mut || {
            let _ = nix::unistd::execve(command, &[command, c"1000"], &[] as &[&std::ffi::CStr]);
        });
        assert_eq!(turn, Turn::Gone);
        assert_eq!(companion.run(&mut || panic!("nobody is there")), Turn::Gone);
        let child = companion.into_child().unwrap();
        sys::send_signal(&child, 34).unwrap();
        assert_eq!(sys::wait(&child).unwrap(), ExitHow::Signal(34));
    }

    #[test]
    fn a_child_that_is_killed_in_its_turn_is_gone() {
        let mut companion = companion();
        let mut begun = false;
        let turn = companion.run(&mut || {
            begun = true;
            nix::sys::signal::kill(getpid(), nix::sys::signal::SIGKILL).unwrap();
            panic!("the signal is delivered before the call returns");
        });
        assert_eq!((turn, begun), (Turn::Gone, true));
        assert_eq!(sys::wait(&companion.into_child().unwrap()).unwrap(), ExitHow::Signal(9));
    }

    #[test]
    fn a_companion_that_is_given_up_leaves_no_process() {
        let companion = companion();
        let pid = companion.child.as_ref().unwrap().pid;
        drop(companion);
        assert_eq!(nix::sys::signal::kill(pid, None), Err(nix::errno::Errno::ESRCH));
    }
}
