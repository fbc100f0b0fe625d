//! The BPF program that counts guest kernel instructions, put together by hand: it is some forty instructions, and a compiler
//! for BPF would be one more thing to install.
//!
//! ```text
//! if this process isn't to be counted, or its guest has passed `until`, or passes it now: nothing
//! count[process, time, in an interrupt?, address / 16] += 1
//! ```
//!
//! The instructions are those of the kernel's `Documentation/bpf/standardization/instruction-set.rst`. R6 to R9 keep their
//! values over calls, R10 is the end of the stack, which grows down.

/// One instruction: opcode, registers, offset, immediate; eight bytes, as the kernel reads them.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    code: u8,
    /// The source in the upper half, the destination in the lower.
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// What is counted, and where the record of the tracepoint has the address.
#[derive(Clone, Copy, Debug)]
pub struct Counting {
    /// The offset of the field `rip`.
    pub rip_offset: i16,
    /// Times are in units of two to this power, in nanoseconds of `CLOCK_MONOTONIC`, and have 31 bits.
    pub time_shift: i32,
    /// Counting ends for a process when its guest comes to this address.
    pub until: Option<u64>,
    /// The addresses at which an interrupt of the timer begins and ends.
    pub interrupt: (u64, u64),
}

/// The bit of a count's time that says that it was in an interrupt of the timer.
pub const IN_INTERRUPT: u32 = 1 << 31;

/// The state of a process from which nothing has been counted yet, but will be.
pub const COUNTED: u64 = 0;

/// The state of a process that isn't counted.
pub const NOT_COUNTED: u64 = OVER.cast_unsigned() as u64;

/// Where the states hold anything for this process, which there is none of, processes that have no state aren't counted.
pub const OTHERS: u32 = 0;

/// The length of a key of the counts: process (4), time (4), address (8).
pub const COUNT_KEY: u32 = 16;

/// What the kernel aligns its functions to: finer addresses would tell nothing and take room.
const FUNCTION_ALIGNMENT: i32 = 16;

const LOOK_UP: i32 = 1;
const UPDATE: i32 = 2;
const NOW: i32 = 5;
const PROCESS: i32 = 14;

const RAX: u8 = 0;
const CONTEXT: u8 = 6;
const ADDRESS: u8 = 7;
const STATE: u8 = 8;
const STATE_BITS: u8 = 9;
const STACK: u8 = 10;

/// Places on the stack.
const PROCESS_AT: i16 = -16;
const TIME_AT: i16 = -12;
const ADDRESS_AT: i16 = -8;
const VALUE_AT: i16 = -24;
const STATE_KEY_AT: i16 = -28;
const OTHERS_KEY_AT: i16 = -32;

/// Bits of a process's state.
const OVER: i32 = 1;
const INTERRUPTED: i32 = 2;

/// The program. `counts` is a hash of [`COUNT_KEY`] to 8 bytes, `states` one of 4 bytes to 8.
pub fn assemble(counting: Counting, counts: i32, states: i32) -> Vec<Instruction> {
    let mut code = Code::default();
    code.copy(CONTEXT, 1);
    code.load(ADDRESS, CONTEXT, counting.rip_offset);
    code.copy(1, ADDRESS);
    code.and(1, -FUNCTION_ALIGNMENT);
    code.store(STACK, ADDRESS_AT, 1);
    code.call(PROCESS);
    code.shift_right(RAX, 32);
    code.store_half(STACK, PROCESS_AT, RAX);
    code.store_half(STACK, STATE_KEY_AT, RAX);
    find_state(&mut code, states);
    code.load(STATE_BITS, STATE, 0);
    let over = code.jump_if_bits(STATE_BITS, OVER);
    code.exit_at(over);
    if let Some(until) = counting.until {
        set_state_at(&mut code, until, OVER);
    }
    set_state_at(&mut code, counting.interrupt.0, INTERRUPTED);
    code.call(NOW);
    code.shift_right(RAX, counting.time_shift);
    code.and(RAX, i32::MAX);
    let quiet = code.jump_unless_bits(STATE_BITS, INTERRUPTED);
    code.or(RAX, i32::MIN);
    code.land(quiet);
    code.store_half(STACK, TIME_AT, RAX);
    set_state_at(&mut code, counting.interrupt.1, 0);
    count(&mut code, counts);
    code.finish()
}

/// Leaves the address of the process's state in `STATE`.
fn find_state(code: &mut Code, states: i32) {
    look_up(code, states, STATE_KEY_AT);
    let found = code.jump_unless_zero(RAX);
    code.set(1, OTHERS.cast_signed());
    code.store_half(STACK, OTHERS_KEY_AT, 1);
    look_up(code, states, OTHERS_KEY_AT);
    let others = code.jump_unless_zero(RAX);
    code.exit_at(others);
    code.store_zero(STACK, VALUE_AT);
    update(code, states, STATE_KEY_AT);
    look_up(code, states, STATE_KEY_AT);
    code.land(found);
    let missing = code.jump_if_zero(RAX);
    code.exit_at(missing);
    code.copy(STATE, RAX);
}

/// Makes the process's state these bits when the guest is at this address.
fn set_state_at(code: &mut Code, address: u64, bits: i32) {
    code.load_constant(1, address);
    let elsewhere = code.jump_unless_equal(ADDRESS, 1);
    code.set(STATE_BITS, bits);
    code.store(STATE, 0, STATE_BITS);
    code.land(elsewhere);
}

/// Adds one to the count. The first of an address is entered; two vCPUs that enter the same at once can lose one.
fn count(code: &mut Code, counts: i32) {
    look_up(code, counts, PROCESS_AT);
    let missing = code.jump_if_zero(RAX);
    code.set(1, 1);
    code.add_to(RAX, 0, 1);
    code.exit();
    code.land(missing);
    code.set(1, 1);
    code.store(STACK, VALUE_AT, 1);
    update(code, counts, PROCESS_AT);
}

fn look_up(code: &mut Code, map: i32, key: i16) {
    code.load_map(1, map);
    code.point(2, key);
    code.call(LOOK_UP);
}

/// Enters what is at `VALUE_AT`.
fn update(code: &mut Code, map: i32, key: i16) {
    code.load_map(1, map);
    code.point(2, key);
    code.point(3, VALUE_AT);
    code.set(4, 0);
    code.call(UPDATE);
}

/// A forward jump whose target isn't known yet.
#[must_use]
struct Jump(usize);

/// Instructions, and the jumps to the end.
#[derive(Default)]
struct Code {
    instructions: Vec<Instruction>,
    to_exit: Vec<usize>,
}

impl Code {
    fn push(&mut self, code: u8, destination: u8, source: u8, offset: i16, immediate: i32) {
        self.instructions.push(Instruction { code, registers: source << 4 | destination, offset, immediate });
    }

    fn copy(&mut self, to: u8, from: u8) {
        self.push(0xbf, to, from, 0, 0);
    }

    fn set(&mut self, register: u8, value: i32) {
        self.push(0xb7, register, 0, 0, value);
    }

    fn and(&mut self, register: u8, value: i32) {
        self.push(0x57, register, 0, 0, value);
    }

    fn or(&mut self, register: u8, value: i32) {
        self.push(0x47, register, 0, 0, value);
    }

    fn shift_right(&mut self, register: u8, bits: i32) {
        self.push(0x77, register, 0, 0, bits);
    }

    /// `register` becomes the address of a place on the stack.
    fn point(&mut self, register: u8, place: i16) {
        self.copy(register, STACK);
        self.push(0x07, register, 0, 0, place.into());
    }

    fn load(&mut self, to: u8, base: u8, offset: i16) {
        self.push(0x79, to, base, offset, 0);
    }

    fn store(&mut self, base: u8, offset: i16, from: u8) {
        self.push(0x7b, base, from, offset, 0);
    }

    fn store_half(&mut self, base: u8, offset: i16, from: u8) {
        self.push(0x63, base, from, offset, 0);
    }

    fn store_zero(&mut self, base: u8, offset: i16) {
        self.push(0x7a, base, 0, offset, 0);
    }

    /// Adds `from` to what is in memory, in one step.
    fn add_to(&mut self, base: u8, offset: i16, from: u8) {
        self.push(0xdb, base, from, offset, 0);
    }

    /// A constant of 64 bits takes two instructions.
    fn load_constant(&mut self, register: u8, value: u64) {
        self.load_wide(register, 0, (value & 0xffff_ffff) as u32, (value >> 32) as u32);
    }

    /// A map is named by its descriptor; the kernel puts its address there.
    fn load_map(&mut self, register: u8, map: i32) {
        self.load_wide(register, 1, map.cast_unsigned(), 0);
    }

    fn load_wide(&mut self, register: u8, kind: u8, low: u32, high: u32) {
        self.push(0x18, register, kind, 0, low.cast_signed());
        self.push(0, 0, 0, 0, high.cast_signed());
    }

    fn call(&mut self, helper: i32) {
        self.push(0x85, 0, 0, 0, helper);
    }

    fn exit(&mut self) {
        self.set(RAX, 0);
        self.push(0x95, 0, 0, 0, 0);
    }

    fn jump(&mut self, code: u8, register: u8, other: u8, value: i32) -> Jump {
        self.push(code, register, other, 0, value);
        Jump(self.instructions.len().saturating_sub(1))
    }

    fn jump_if_zero(&mut self, register: u8) -> Jump {
        self.jump(0x15, register, 0, 0)
    }

    fn jump_unless_zero(&mut self, register: u8) -> Jump {
        self.jump(0x55, register, 0, 0)
    }

    fn jump_unless_equal(&mut self, register: u8, other: u8) -> Jump {
        self.jump(0x5d, register, other, 0)
    }

    fn jump_if_bits(&mut self, register: u8, bits: i32) -> Jump {
        self.jump(0x45, register, 0, bits)
    }

    /// Jumps where none of the bits is set: over a jump that is taken where one is.
    fn jump_unless_bits(&mut self, register: u8, bits: i32) -> Jump {
        let set = self.jump_if_bits(register, bits);
        let unset = self.jump(0x05, 0, 0, 0);
        self.land(set);
        unset
    }

    /// The jump's target is what comes next.
    fn land(&mut self, Jump(from): Jump) {
        let distance = self.instructions.len().saturating_sub(from).saturating_sub(1);
        if let Some(jump) = self.instructions.get_mut(from) {
            jump.offset = i16::try_from(distance).unwrap_or(i16::MAX);
        }
    }

    /// The jump's target is the end.
    fn exit_at(&mut self, Jump(from): Jump) {
        self.to_exit.push(from);
    }

    fn finish(mut self) -> Vec<Instruction> {
        for from in std::mem::take(&mut self.to_exit) {
            self.land(Jump(from));
        }
        self.exit();
        self.instructions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_go_forward_and_stay_inside() {
        let counting = Counting { rip_offset: 8, time_shift: 24, until: Some(1 << 40), interrupt: (1, 2) };
        let code = assemble(counting, 3, 4);
        let mut jumps = 0;
        for (index, instruction) in code.iter().enumerate() {
            let is_jump = instruction.code & 7 == 5 && ![0x85, 0x95].contains(&instruction.code);
            if is_jump {
                let target = index + 1 + usize::try_from(instruction.offset).unwrap();
                assert!(instruction.offset > 0 && target < code.len(), "{index}: {instruction:?}");
                jumps += 1;
            }
        }
        assert_eq!(jumps, 10);
        assert_eq!(code.last().map(|last| last.code), Some(0x95));
    }

    #[test]
    fn instructions_are_as_the_kernel_reads_them() {
        assert_eq!(size_of::<Instruction>(), 8);
        let mut code = Code::default();
        code.load_constant(1, 0xffff_ffff_8100_0000);
        let low = Instruction { code: 0x18, registers: 1, offset: 0, immediate: 0x8100_0000_u32.cast_signed() };
        let high = Instruction { code: 0, registers: 0, offset: 0, immediate: -1 };
        assert_eq!(code.instructions, [low, high]);
    }
}
