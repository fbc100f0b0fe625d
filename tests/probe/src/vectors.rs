//! Two processes on one vCPU keep patterns of their own in the vector registers and hand the vCPU to each other.
//!
//! A kernel (or a VMM below it) that saves less than the whole registers at a switch leaves one process with the other's
//! upper halves. Each round loads sixteen 32-byte patterns, lets the other process run, and compares.

use std::arch::asm;
use std::io::{PipeReader, PipeWriter, Read, Write};

use anyhow::{Context, Result, bail, ensure};

/// Sixteen registers of 32 bytes.
#[repr(C, align(32))]
#[derive(Clone, Copy, PartialEq, Eq)]
struct Registers([[u8; 32]; 16]);

impl Registers {
    /// A pattern that differs in every byte position, register, round and process.
    fn pattern(seed: u64) -> Self {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        };
        Self(std::array::from_fn(|_| std::array::from_fn(|_| next())))
    }
}

/// Runs `rounds` rounds in each of two processes; prints how many were right, and fails when any was wrong.
pub fn run(rounds: u64) -> Result<()> {
    ensure!(std::is_x86_feature_detected!("avx"), "this CPU has no AVX");
    pin_to_first_cpu()?;
    let (mine_in, other_out) = std::io::pipe()?;
    let (other_in, mine_out) = std::io::pipe()?;
    match fork()? {
        0 => {
            drop((mine_in, mine_out));
            let wrong = play(rounds, 1, other_in, other_out).unwrap_or(rounds);
            std::process::exit(i32::from(wrong != 0));
        }
        child => {
            drop((other_in, other_out));
            // The parent moves first: this byte wakes the child.
            let wrong = play_first(rounds, mine_in, mine_out)?;
            let child_failed = wait(child)?;
            let mut out = std::io::stdout();
            writeln!(
                out,
                "{} of {rounds} rounds wrong, other process {}",
                wrong,
                if child_failed { "wrong" } else { "right" }
            )?;
            if wrong != 0 || child_failed {
                bail!("vector registers did not survive");
            }
            Ok(())
        }
    }
}

fn play_first(rounds: u64, turn: PipeReader, mut pass: PipeWriter) -> Result<u64> {
    pass.write_all(&[0])?;
    play(rounds, 2, turn, pass)
}

/// In each round: fill the registers, give the vCPU away, wait for it, compare.
fn play(rounds: u64, process: u64, mut turn: PipeReader, mut pass: PipeWriter) -> Result<u64> {
    let mut wrong = 0;
    let mut byte = [0];
    turn.read_exact(&mut byte)?;
    for round in 0..rounds {
        let expected = Registers::pattern(round << 8 | process);
        let found = across_a_switch(&expected, &pass, &turn);
        wrong += u64::from(found != expected);
    }
    // The other process may be waiting for its last turn, or gone already.
    let _ = pass.write_all(&[0]);
    Ok(wrong)
}

/// Loads the registers, makes the two system calls that pass the turn and take it back, and stores the registers.
///
/// All in one assembly block: no library code may touch the registers in between.
#[expect(unsafe_code, reason = "only assembly says what is in a register")]
fn across_a_switch(pattern: &Registers, pass: &PipeWriter, turn: &PipeReader) -> Registers {
    use std::os::fd::AsRawFd;
    let mut found = Registers([[0; 32]; 16]);
    let mut byte = 0_u8;
    // SAFETY: the pointers are to live, aligned values of 512 bytes and one byte; the system calls are write(pass, &byte,
    // 1) and read(turn, &byte, 1), which clobber rax, rcx and r11 only. AVX was checked by the caller.
    unsafe {
        asm!(
            "vmovdqa ymm0, [{p}]", "vmovdqa ymm1, [{p}+32]", "vmovdqa ymm2, [{p}+64]", "vmovdqa ymm3, [{p}+96]",
            "vmovdqa ymm4, [{p}+128]", "vmovdqa ymm5, [{p}+160]", "vmovdqa ymm6, [{p}+192]", "vmovdqa ymm7, [{p}+224]",
            "vmovdqa ymm8, [{p}+256]", "vmovdqa ymm9, [{p}+288]", "vmovdqa ymm10, [{p}+320]", "vmovdqa ymm11, [{p}+352]",
            "vmovdqa ymm12, [{p}+384]", "vmovdqa ymm13, [{p}+416]", "vmovdqa ymm14, [{p}+448]", "vmovdqa ymm15, [{p}+480]",
            "mov eax, 1", "mov edi, {pass:e}", "mov edx, 1", "syscall",
            "xor eax, eax", "mov edi, {turn:e}", "mov edx, 1", "syscall",
            "vmovdqa [{f}], ymm0", "vmovdqa [{f}+32], ymm1", "vmovdqa [{f}+64], ymm2", "vmovdqa [{f}+96], ymm3",
            "vmovdqa [{f}+128], ymm4", "vmovdqa [{f}+160], ymm5", "vmovdqa [{f}+192], ymm6", "vmovdqa [{f}+224], ymm7",
            "vmovdqa [{f}+256], ymm8", "vmovdqa [{f}+288], ymm9", "vmovdqa [{f}+320], ymm10", "vmovdqa [{f}+352], ymm11",
            "vmovdqa [{f}+384], ymm12", "vmovdqa [{f}+416], ymm13", "vmovdqa [{f}+448], ymm14", "vmovdqa [{f}+480], ymm15",
            p = in(reg) pattern,
            f = in(reg) &raw mut found,
            pass = in(reg) pass.as_raw_fd(),
            turn = in(reg) turn.as_raw_fd(),
            in("rsi") &raw mut byte,
            out("rax") _, out("rcx") _, out("rdx") _, out("rdi") _, out("r11") _,
            out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _, out("ymm4") _, out("ymm5") _, out("ymm6") _, out("ymm7") _,
            out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _, out("ymm12") _, out("ymm13") _, out("ymm14") _, out("ymm15") _,
        );
    }
    found
}

#[expect(unsafe_code, reason = "the standard library cannot choose CPUs")]
fn pin_to_first_cpu() -> Result<()> {
    // SAFETY: an all-zero cpu_set_t is an empty set, and CPU 0 is within its size.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(0, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set)
    };
    ensure!(result == 0, "can't stay on one CPU: {}", std::io::Error::last_os_error());
    Ok(())
}

#[expect(unsafe_code, reason = "the standard library cannot fork")]
fn fork() -> Result<libc::pid_t> {
    // SAFETY: this program has one thread, so the child may go on as the parent would.
    let pid = unsafe { libc::fork() };
    if pid < 0 { Err(std::io::Error::last_os_error()).context("can't fork") } else { Ok(pid) }
}

#[expect(unsafe_code, reason = "the child was made with fork")]
fn wait(child: libc::pid_t) -> Result<bool> {
    let mut status = 0;
    // SAFETY: the status is written to a live variable.
    let pid = unsafe { libc::waitpid(child, &raw mut status, 0) };
    ensure!(pid == child, "can't wait: {}", std::io::Error::last_os_error());
    Ok(status != 0)
}
