//! What a guest finds at its ports and addresses.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests may stop at the first thing that is wrong"
)]

mod common;

use std::fs::File;
use std::io::{Read, pipe};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use common::{Launch, file, guest, kvm};
use vmm::config::{BlockConfig, ExtentConfig, FdIndex, PMEM_ALIGNMENT, PmemConfig};
use vmm::end::EndReason;
use vmm::vm::supports_pmem;

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

guest! {
    /// Maps the first 2 MiB at 4 GiB and powers off if they begin with "image", also after a write, with virtio-pmem in slot 1.
    read_pmem:
    "mov qword ptr [0xa018], 0xe003",
    "mov eax, 0xd0000083", "mov qword ptr [0xe400], rax",
    "mov qword ptr [0xa020], 0xf003",
    "mov rax, 0x100000083", "mov qword ptr [0xf000], rax",
    "mov ebx, 0xd0001000",
    "mov dx, 0x510",
    "cmp dword ptr [rbx + 8], 27", "jne 6f",
    "mov rcx, 0x100000000",
    "cmp dword ptr [rbx + 0x100], 0", "jne 6f",
    "cmp dword ptr [rbx + 0x104], 1", "jne 6f",
    "cmp dword ptr [rbx + 0x108], 0x200000", "jne 6f",
    "cmp dword ptr [rcx], 0x67616d69", "jne 6f",
    "mov dword ptr [rcx], 0", "mov byte ptr [rcx + 0x1fffff], 1",
    "cmp dword ptr [rcx], 0x67616d69", "jne 6f",
    "cmp byte ptr [rcx + 0x1fffff], 0", "jne 6f",
    "mov al, 1", "out dx, al",
    "7: hlt", "jmp 7b",
    "6: mov al, 2", "out dx, al", "jmp 7b",
}

guest! {
    /// Drives the disk in slot 1: writes what is at 4 GiB, a file, to sector 1, and powers off if that is done.
    write_disk:
    "mov qword ptr [0xa018], 0xe003",
    "mov eax, 0xd0000083", "mov qword ptr [0xe400], rax",
    "mov ebx, 0xd0001000",
    "mov dword ptr [rbx + 0x70], 0", "mov dword ptr [rbx + 0x70], 1", "mov dword ptr [rbx + 0x70], 3",
    "mov dword ptr [rbx + 0x24], 1", "mov dword ptr [rbx + 0x20], 1", "mov dword ptr [rbx + 0x70], 11",
    "mov dword ptr [rbx + 0x30], 0", "mov dword ptr [rbx + 0x38], 8",
    "mov dword ptr [rbx + 0x80], 0x200000", "mov dword ptr [rbx + 0x84], 0",
    "mov dword ptr [rbx + 0x90], 0x201000", "mov dword ptr [rbx + 0x94], 0",
    "mov dword ptr [rbx + 0xa0], 0x202000", "mov dword ptr [rbx + 0xa4], 0",
    "mov dword ptr [rbx + 0x44], 1", "mov dword ptr [rbx + 0x70], 15",
    // The chain: a header (write, sector 1), 512 bytes of the file, the status.
    "mov dword ptr [0x203000], 1", "mov dword ptr [0x203008], 1", "mov byte ptr [0x203020], 0xff",
    "mov edi, 0x200000",
    "mov dword ptr [rdi], 0x203000", "mov dword ptr [rdi + 8], 16", "mov dword ptr [rdi + 12], 0x10001",
    "mov dword ptr [rdi + 20], 1", "mov dword ptr [rdi + 24], 512", "mov dword ptr [rdi + 28], 0x20001",
    "mov dword ptr [rdi + 32], 0x203020", "mov dword ptr [rdi + 40], 1", "mov dword ptr [rdi + 44], 2",
    "mov word ptr [0x201002], 1",
    "mov dword ptr [rbx + 0x50], 0",
    "6: cmp word ptr [0x202002], 1", "jne 6b",
    "mov al, byte ptr [0x203020]", "inc al",
    "mov dx, 0x510", "out dx, al",
    "7: hlt", "jmp 7b",
}

/// A file of 2 MiB that begins with "image".
fn image() -> File {
    let image = File::from(file(b"image of something"));
    image.set_len(2 << 20).unwrap();
    image
}

/// Adds persistent memory to a launch.
fn with_pmem(mut launch: Launch, file: File) -> Launch {
    let file = launch.give(file.into());
    launch.config.pmems.push(PmemConfig { id: "image".into(), file, length: PMEM_ALIGNMENT });
    launch
}

#[test]
fn persistent_memory_is_read_and_stays_as_it_is() {
    let file = image();
    let launch = with_pmem(Launch::code(&read_pmem()), file.try_clone().unwrap());
    assert_eq!(launch.run(), EndReason::PowerOff);
    let mut content = [0; 18];
    file.read_exact_at(&mut content, 0).unwrap();
    assert_eq!(&content, b"image of something");
}

#[test]
fn a_disk_takes_what_is_read_from_persistent_memory() {
    let disk = File::from(file(&[0xee; 8192]));
    let mut launch = with_pmem(Launch::code(&write_disk()), image());
    let index = launch.give(disk.try_clone().unwrap().into());
    let extent = ExtentConfig { file: index, offset: 0, length: 8192 };
    launch.config.blocks.push(BlockConfig { id: "disk".into(), read_only: false, extents: vec![extent] });
    assert_eq!(launch.run(), EndReason::PowerOff);
    let mut content = [0; 8192];
    disk.read_exact_at(&mut content, 0).unwrap();
    assert_eq!(&content[512..530], b"image of something");
    assert!(content[..512].iter().chain(&content[1024..]).all(|byte| *byte == 0xee));
    assert!(content[530..1024].iter().all(|byte| *byte == 0));
}

#[test]
fn this_kvm_can_have_persistent_memory() {
    assert!(supports_pmem(kvm().as_fd()));
    assert!(!supports_pmem(File::open("/dev/null").unwrap().as_fd()));
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
