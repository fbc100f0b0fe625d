//! The `/init` of a guest whose start is measured, the same under every VMM.
//!
//! ```text
//! out 0x3f8, 0xa5    the first serial port, which every VMM has: "the guest has come to its first program"
//! out 0x512, 1       where taskrun saves the guest; nobody answers elsewhere
//! again and again:   out 0x3f8, 0xa5 ("it still runs"); once, in 0x520 … 0x53f, by which taskrun, whose saved guests have
//!                    no serial port, knows the same
//! ```
//!
//! It goes to the ports through `/dev/port`, so that the kernel needs no driver for the serial port. Two kilobytes, with
//! no C library: what is measured is the kernel and the VMM. Run as anything but process 1 it does nothing, since a host has
//! such ports too.
#![no_main]
// Where panics unwind, which is never in the guest, the standard library has to be there for it.
#![cfg_attr(panic = "abort", no_std)]
#![expect(unsafe_code, reason = "without a C library, entry and system calls are ours")]

use core::arch::{asm, naked_asm};
use core::hint::spin_loop;

/// What goes to the serial port; no VMM prints this byte in its own messages, which are text.
const MARK: u8 = 0xa5;

const SERIAL: usize = 0x3f8;
const READY: usize = 0x512;
const SEED: usize = 0x520;

/// The pauses between two marks, half a millisecond or so.
const PAUSES: u32 = 10_000;

const PREAD: usize = 17;
const PWRITE: usize = 18;
const OPEN: usize = 2;
const GETPID: usize = 39;
const EXIT: usize = 60;
const MKNOD: usize = 133;

const READ_WRITE: usize = 2;
const CHARACTER_DEVICE: usize = 0o020_600;
/// `/dev/port` is character device 1:4.
const PORT_DEVICE: usize = 1 << 8 | 4;

#[cfg(panic = "abort")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    exit()
}

/// Where the kernel enters, with an aligned stack and no return address on it, which the call puts there.
// SAFETY: this is the program's only entry; the kernel has no claim on any register, and `start` does not return.
#[unsafe(no_mangle)]
#[unsafe(naked)]
extern "C" fn _start() -> ! {
    naked_asm!("xor ebp, ebp", "call {start}", "ud2", start = sym start);
}

extern "C" fn start() -> ! {
    if system_call(GETPID, 0, 0, 0, 0) == 1 {
        mark_for_ever();
    }
    exit()
}

fn exit() -> ! {
    loop {
        system_call(EXIT, 1, 0, 0, 0);
    }
}

fn mark_for_ever() -> ! {
    let path = c"/dev/port".as_ptr().addr();
    system_call(MKNOD, path, CHARACTER_DEVICE, PORT_DEVICE, 0);
    let ports = system_call(OPEN, path, READ_WRITE, 0, 0);
    let write = |byte: &u8, port| system_call(PWRITE, ports, (&raw const *byte).addr(), 1, port);
    let mut seed = [0_u8; 32];
    write(&MARK, SERIAL);
    write(&1, READY);
    let mut first = true;
    loop {
        write(&MARK, SERIAL);
        if first {
            system_call(PREAD, ports, (&raw mut seed).addr(), seed.len(), SEED);
            first = false;
        }
        (0..PAUSES).for_each(|_| spin_loop());
    }
}

/// A system call with up to four arguments, addresses among them; a failure comes back as a very large number.
fn system_call(number: usize, first: usize, second: usize, third: usize, fourth: usize) -> usize {
    let result;
    // SAFETY: the callers pass addresses of memory that they hold and that is as long as they say; the kernel changes no
    // other memory, and no registers but these.
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") first, in("rsi") second, in("rdx") third,
            in("r10") fourth, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}
