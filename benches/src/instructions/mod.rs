//! Counts the instructions of guest kernels on hosts that emulate them, with the tracepoint `kvm:kvm_emulate_insn`.
//!
//! On a deprivileged host KVM emulates guest kernel mode one instruction at a time and passes the tracepoint at each. A BPF
//! program adds them up in the kernel, so that none is lost, however many there are: by process, because other guests run
//! too; by time, so that a task's phases can be told apart; apart for interrupts of the timer, of which a slow host has more.
//! An instruction that is repeated (`rep movs`) is counted once, as long as the emulator goes on with it.
//!
//! # Layout
//! - [`program`]: the BPF program. [`bpf`]: loading it. [`symbols`]: names of addresses. [`profile`]: what the counts come to.

mod bpf;
mod profile;
mod program;
mod symbols;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

pub use self::profile::{Profile, grouped};
pub use self::symbols::Symbols;

use self::bpf::{Attached, Map};
use self::program::{COUNT_KEY, COUNTED, Counting, IN_INTERRUPT, NOT_COUNTED, OTHERS};

/// The most different keys of counts; 64 bytes and more of kernel memory each.
const MAX_COUNTS: u32 = 1 << 21;

/// The most processes that are told apart.
const MAX_PROCESSES: u32 = 4096;

/// Where an interrupt of the timer begins, and where any interrupt ends.
const INTERRUPT: (&str, &str) = ("asm_sysvec_apic_timer_interrupt", "native_irq_return_iret");

/// Where the kernel goes to user mode, the first time when it starts `/init`.
const TO_USER: &str = "swapgs_restore_regs_and_return_to_usermode";

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// From a guest's first instruction to the first of its user mode.
    Boot,
    /// Everything.
    Whole,
}

/// How many instructions at one address or in the 16 bytes from there, in one stretch of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    pub process: u32,
    /// The start of the stretch, in nanoseconds of `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    pub in_interrupt: bool,
    pub address: u64,
    pub instructions: u64,
}

/// Counts guests until it is dropped: at first all that are started on this host.
#[derive(Debug)]
pub struct Counter {
    counts: Map<{ COUNT_KEY as usize }>,
    states: Map<4>,
    _attached: Attached,
    time_shift: i32,
}

impl Counter {
    /// Begins to count.
    pub fn start(span: Span, symbols: &Symbols) -> Result<Self> {
        let tracepoint = tracepoint()?;
        let format = fs::read_to_string(tracepoint.join("format")).context("The tracepoint's format can't be read")?;
        // Stretches of 67 ms; of 3 days.
        let time_shift = if span == Span::Whole { 26 } else { 48 };
        let counts = Map::new(MAX_COUNTS).context("The map for the counts can't be made")?;
        let states = Map::new(MAX_PROCESSES).context("The map for the processes can't be made")?;
        let counting = Counting {
            rip_offset: field_offset(&format, "rip").context("The tracepoint has no field \"rip\"")?,
            time_shift,
            until: (span == Span::Boot).then(|| symbols.address(TO_USER)).transpose()?,
            interrupt: (symbols.address(INTERRUPT.0)?, symbols.address(INTERRUPT.1)?),
        };
        let program = program::assemble(counting, counts.number(), states.number());
        let attached = Attached::new(&program, &tracepoint)?;
        Ok(Self { counts, states, _attached: attached, time_shift })
    }

    /// Counts only this process's guest from now on, so that there is room for it.
    pub fn only(&self, process: u32) -> Result<()> {
        self.states.insert_new(process.to_ne_bytes(), COUNTED).context("A process can't be counted")?;
        self.leave_out(OTHERS)?;
        for (other, _) in self.states.entries().context("The processes can't be read")? {
            if u32::from_ne_bytes(other) != process {
                self.leave_out(u32::from_ne_bytes(other))?;
            }
        }
        Ok(())
    }

    fn leave_out(&self, process: u32) -> Result<()> {
        self.states.insert(process.to_ne_bytes(), NOT_COUNTED).context("A process can't be left out")
    }

    /// What one process's guest has run.
    pub fn of(&self, process: u32) -> Result<Vec<Count>> {
        let entries = self.counts.entries().context("The counts can't be read")?;
        if entries.len() >= MAX_COUNTS as usize {
            bail!("There were more addresses than there is room to count");
        }
        let counts = entries.iter().map(|(key, instructions)| decode(*key, *instructions, self.time_shift));
        let counts: Vec<Count> = counts.filter(|count| count.process == process).collect();
        if counts.is_empty() {
            bail!("KVM has emulated no instruction for process {process}, as far as this process can see");
        }
        Ok(counts)
    }
}

/// A count by its key, in the order in which the program puts it together.
fn decode(key: [u8; COUNT_KEY as usize], instructions: u64, time_shift: i32) -> Count {
    let [p0, p1, p2, p3, t0, t1, t2, t3, address @ ..] = key;
    let time = u32::from_le_bytes([t0, t1, t2, t3]);
    Count {
        process: u32::from_le_bytes([p0, p1, p2, p3]),
        at_ns: u64::from(time & !IN_INTERRUPT) << time_shift,
        in_interrupt: time & IN_INTERRUPT != 0,
        address: u64::from_le_bytes(address),
        instructions,
    }
}

/// The tracepoint's folder.
fn tracepoint() -> Result<PathBuf> {
    let folders = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"].map(Path::new);
    let event = |folder: &&Path| folder.join("events/kvm/kvm_emulate_insn");
    let found = folders.iter().map(event).find(|path| path.join("id").exists());
    found.context("There is no tracepoint kvm:kvm_emulate_insn: is tracefs mounted, and is this root?")
}

/// The offset of a field in a tracepoint's record, by its `format`.
fn field_offset(format: &str, name: &str) -> Option<i16> {
    let line = format.lines().find(|line| {
        let declaration = line.trim().strip_prefix("field:").and_then(|line| line.split(';').next());
        declaration.is_some_and(|declaration| declaration.split_whitespace().next_back() == Some(name))
    })?;
    line.split("offset:").nth(1)?.split(';').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fields_offset_is_found_by_its_name() {
        let format = "name: kvm_emulate_insn\nformat:\n\tfield:int common_pid;\toffset:4;\tsize:4;\n\n\
            \tfield:__u64 rip;\toffset:8;\tsize:8;\tsigned:0;\n\nprint fmt: \"%llx\", REC->rip";
        assert_eq!(field_offset(format, "rip"), Some(8));
        assert_eq!(field_offset(format, "common_pid"), Some(4));
        assert_eq!(field_offset(format, "pid"), None);
    }

    #[test]
    fn keys_are_read_as_the_program_writes_them() {
        let mut key = [0; 16];
        key[..4].copy_from_slice(&77_u32.to_le_bytes());
        key[4..8].copy_from_slice(&(5 | IN_INTERRUPT).to_le_bytes());
        key[8..].copy_from_slice(&0xffff_ffff_8100_0000_u64.to_le_bytes());
        let address = 0xffff_ffff_8100_0000;
        let expected = Count { process: 77, at_ns: 5 << 24, in_interrupt: true, address, instructions: 9 };
        assert_eq!(decode(key, 9, 24), expected);
    }
}
