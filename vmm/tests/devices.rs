//! What a guest finds at its ports and addresses.

#![allow(clippy::panic, clippy::indexing_slicing, reason = "tests may stop at the first thing that is wrong")]

mod common;

use std::fs::File;
use std::io::{Read, pipe};
use std::os::fd::OwnedFd;

use common::{Launch, guest};
use vmm::config::FdIndex;
use vmm::end::EndReason;

guest! {
    /// Maps the GiB with the hole, and powers off if the first slot begins with virtio's magic number and version 2.
    find_virtio:
    "mov qword ptr [0xa018], 0xe003",
    "mov eax, 0xd0000083", "mov qword ptr [0xe400], rax",
    "mov eax, 0xd0000000",
    "mov dx, 0x510",
    "cmp dword ptr [rax], 0x74726976", "jne 6f",
    "cmp dword ptr [rax + 4], 2", "jne 6f",
    "mov al, 1", "out dx, al",
    "7: hlt", "jmp 7b",
    "6: mov al, 2", "out dx, al", "jmp 7b",
}

guest! {
    /// Powers off if ports and addresses without a device read as all ones.
    find_nothing:
    "mov dx, 0x1234", "in eax, dx",
    "mov dx, 0x510",
    "cmp eax, -1", "jne 6f",
    "mov eax, 0x10000000",
    "mov dword ptr [rax], 0",
    "cmp qword ptr [rax], -1", "jne 6f",
    "mov al, 1", "out dx, al",
    "7: hlt", "jmp 7b",
    "6: mov al, 2", "out dx, al", "jmp 7b",
}

guest! {
    print:
    "mov dx, 0x3f8",
    "mov al, 'H'", "out dx, al",
    "mov al, 'i'", "out dx, al",
    "mov dx, 0x510", "mov al, 1", "out dx, al",
    "7: hlt", "jmp 7b",
}

guest! {
    /// Routes line 4 to vector 0x30, lets the serial port interrupt, and powers off when the local APIC has it pending.
    wait_for_interrupt:
    "mov qword ptr [0xa018], 0xe003",
    "mov eax, 0xfec00083", "mov qword ptr [0xefb0], rax",
    "mov eax, 0xfee00083", "mov qword ptr [0xefb8], rax",
    "mov ebx, 0xfee00000", "mov dword ptr [rbx + 0xf0], 0x1ff",
    "mov ecx, 0xfec00000",
    "mov dword ptr [rcx], 0x19", "mov dword ptr [rcx + 0x10], 0",
    "mov dword ptr [rcx], 0x18", "mov dword ptr [rcx + 0x10], 0x30",
    "mov dx, 0x3f9", "mov al, 2", "out dx, al",
    "6: mov eax, dword ptr [rbx + 0x210]", "test eax, 0x10000", "jz 6b",
    "mov dx, 0x510", "mov al, 1", "out dx, al",
    "7: hlt", "jmp 7b",
}

/// Adds a console to a launch.
fn with_console(mut launch: Launch, console: impl Into<OwnedFd>) -> Launch {
    launch.config.console = Some(FdIndex(launch.descriptors.len()));
    launch.descriptors.push(console.into());
    launch
}

#[test]
fn an_interrupt_line_reaches_the_processor() {
    let console = File::options().write(true).open("/dev/null").unwrap();
    assert_eq!(with_console(Launch::code(&wait_for_interrupt()), console).run(), EndReason::PowerOff);
}

#[test]
fn the_first_slot_is_a_virtio_device() {
    assert_eq!(Launch::code(&find_virtio()).run(), EndReason::PowerOff);
}

#[test]
fn where_nothing_is_all_ones_are_read() {
    assert_eq!(Launch::code(&find_nothing()).run(), EndReason::PowerOff);
}

#[test]
fn the_serial_port_prints_when_it_is_there() {
    let (mut reader, writer) = pipe().unwrap();
    assert_eq!(with_console(Launch::code(&print()), writer).run(), EndReason::PowerOff);
    let mut printed = String::new();
    reader.read_to_string(&mut printed).unwrap();
    assert_eq!(printed, "Hi");

    assert_eq!(Launch::code(&print()).run(), EndReason::PowerOff, "without a console the port is empty");
}

#[test]
fn a_console_that_is_gone_does_not_stop_the_guest() {
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    assert_eq!(with_console(Launch::code(&print()), writer).run(), EndReason::PowerOff);
}
