//! Each way in which a guest can end has a reason of its own, and nothing of the VMM stays behind.

#![allow(clippy::panic, clippy::indexing_slicing, reason = "tests may stop at the first thing that is wrong")]

mod common;

use std::os::unix::process::ExitStatusExt;

use common::{ENTRY, Launch, guest};
use vmm::control::VmmEvent;
use vmm::end::EndReason;

guest! {
    power_off:
    "mov dx, 0x510", "mov al, 1", "out dx, al",
    "7: hlt", "jmp 7b",
}

guest! {
    reset:
    // As Linux does: wait until the controller is ready.
    "7: in al, 0x64", "test al, 2", "jnz 7b",
    "mov al, 0xfe", "out 0x64, al",
    "7: hlt", "jmp 7b",
}

guest! {
    panic:
    "mov dx, 0x511",
    "mov al, 'O'", "out dx, al",
    "mov al, 'h'", "out dx, al",
    "mov dx, 0x510", "mov al, 2", "out dx, al",
    "7: hlt", "jmp 7b",
}

guest! {
    /// The panic's text in one instruction: each byte is an access of its own.
    panic_by_string:
    "lea rsi, [rip + 6f]", "mov ecx, 5", "mov dx, 0x511", "rep outsb",
    "mov dx, 0x510", "mov al, 2", "out dx, al",
    "7: hlt", "jmp 7b",
    "6: .ascii \"No no\"",
}

guest! {
    /// There are no handlers: the first fault, a page fault beyond the first GiB, is followed by two more.
    triple_fault:
    "mov eax, 0x80000000", "mov al, [rax]",
    "7: hlt", "jmp 7b",
}

guest! {
    /// An x87 load from where no memory is: KVM has to emulate it, and no KVM can.
    not_emulated:
    "mov eax, 0x10000000", "fld qword ptr [rax]",
    "7: hlt", "jmp 7b",
}

guest! {
    sleep:
    "7: hlt", "jmp 7b",
}

guest! {
    spin:
    "7: jmp 7b",
}

#[test]
fn power_off_is_the_orderly_end() {
    assert_eq!(Launch::code(&power_off()).run(), EndReason::PowerOff);
}

#[test]
fn the_keyboard_controller_resets() {
    assert_eq!(Launch::code(&reset()).run(), EndReason::Reset);
}

#[test]
fn a_panic_brings_its_text() {
    assert_eq!(Launch::code(&panic()).run(), EndReason::Panic { message: "Oh".into() });
    assert_eq!(Launch::code(&panic_by_string()).run(), EndReason::Panic { message: "No no".into() });
}

#[test]
fn a_fault_without_a_handler_is_a_triple_fault() {
    let EndReason::TripleFault(fault) = Launch::code(&triple_fault()).run() else {
        panic!("the guest ended in another way")
    };
    assert_eq!(fault.vcpu, 0);
    // KVM on AMD resets the vCPU before it says so.
    assert!([ENTRY + 5, 0xfff0].contains(&fault.rip), "{fault}");
}

#[test]
fn an_instruction_that_kvm_cannot_emulate_is_named() {
    let EndReason::EmulationFailure { rip, bytes } = Launch::code(&not_emulated()).run() else {
        panic!("the guest ended in another way")
    };
    assert_eq!(rip, ENTRY + 5);
    assert!(bytes.starts_with(&[0xdd, 0x00]), "{bytes:x?}");
}

#[test]
fn a_vmm_that_is_killed_says_nothing_more() {
    let mut vmm = Launch::code(&sleep()).start();
    assert_eq!(vmm.event(), Some(VmmEvent::Running));
    vmm.child.kill().unwrap();
    assert_eq!(vmm.event(), None);
    assert_eq!(vmm.child.wait().unwrap().signal(), Some(9));
}

#[test]
fn a_vmm_ends_with_its_runtime() {
    for code in [sleep(), spin()] {
        let mut vmm = Launch::code(&code).start();
        assert_eq!(vmm.event(), Some(VmmEvent::Running));
        drop(vmm.control.take());
        assert_eq!(vmm.child.wait().unwrap().code(), Some(1));
    }
}

#[test]
fn a_vmm_that_is_never_told_anything_ends_with_its_runtime() {
    let mut vmm = common::Vmm::spawn();
    drop(vmm.control.take());
    assert_eq!(vmm.child.wait().unwrap().code(), Some(1));
}
