//! What can't be run is refused with a sentence that says why.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests may stop at the first thing that is wrong"
)]

mod common;

use std::fs::File;
use std::process::{Command, Stdio};

use common::{ENTRY, Launch, Vmm, file, kernel};
use vmm::config::{BlockConfig, ExtentConfig, FdIndex, PmemConfig, create_guest_memory};
use vmm::end::EndReason;

/// `hlt`: never reached.
const CODE: &[u8] = &[0xf4];

/// Where the fields of the ELF file of [`kernel`] are.
const MACHINE: usize = 18;
const CLASS: usize = 4;
const ENTRY_POINT: usize = 24;
const SEGMENT: usize = 64;

/// The VMM's words to this launch.
fn refusal(launch: Launch) -> String {
    match launch.run() {
        EndReason::VmmError { message } => message,
        other => panic!("the guest ran: {other}"),
    }
}

/// The VMM's words to a kernel whose bytes at `offset` are replaced.
fn refusal_of_kernel(offset: usize, bytes: &[u8]) -> String {
    let mut file = kernel(CODE);
    file[offset..offset + bytes.len()].copy_from_slice(bytes);
    refusal(Launch::kernel(&file))
}

#[track_caller]
fn assert_says(message: &str, part: &str) {
    assert!(message.contains(part), "{message:?} doesn't say {part:?}");
}

#[test]
fn a_file_that_is_no_kernel_is_named_for_what_it_is() {
    assert_says(&refusal(Launch::kernel(b"#!/bin/sh\n")), r##"isn't an ELF file (it starts with "#!/bin/s")"##);
    assert_says(&refusal(Launch::kernel(b"")), "isn't an ELF file");
    let mut bzimage = vec![0; 0x1000];
    bzimage[0x202..0x206].copy_from_slice(b"HdrS");
    assert_says(&refusal(Launch::kernel(&bzimage)), "is a bzImage");
    assert_says(&refusal_of_kernel(MACHINE, &[183, 0]), "64-bit aarch64");
    assert_says(&refusal_of_kernel(CLASS, &[1]), "32-bit x86-64");
}

#[test]
fn a_truncated_kernel_is_refused() {
    let whole = kernel(CODE);
    for length in [4, 63, 64, 100, whole.len() - 1] {
        assert_says(&refusal(Launch::kernel(&whole[..length])), "truncated");
    }
}

#[test]
fn a_kernel_whose_headers_lie_is_refused() {
    assert_says(&refusal_of_kernel(ENTRY_POINT, &(ENTRY + 1).to_le_bytes()), "entry point");
    let segment_is_empty = refusal_of_kernel(SEGMENT + 32, &0_u64.to_le_bytes());
    assert_says(&segment_is_empty, "entry point");
    assert_says(&refusal_of_kernel(SEGMENT + 24, &0x1000_u64.to_le_bytes()), "below 1 MiB");
    assert_says(&refusal_of_kernel(SEGMENT + 24, &u64::MAX.to_le_bytes()), "reaches up to");
    assert_says(&refusal_of_kernel(SEGMENT + 40, &u64::MAX.to_le_bytes()), "reaches up to");
    assert_says(&refusal_of_kernel(SEGMENT + 8, &u64::MAX.to_le_bytes()), "truncated");
    assert_says(&refusal_of_kernel(32, &u64::MAX.to_le_bytes()), "truncated");
    assert_says(&refusal_of_kernel(54, &[57, 0]), "program headers");
}

#[test]
fn a_kernel_that_needs_more_memory_is_refused() {
    assert_says(&refusal_of_kernel(SEGMENT + 40, &(64_u64 << 20).to_le_bytes()), "memory for it ends at 0x4000000");
}

#[test]
fn an_initramfs_that_is_empty_or_too_big_is_refused() {
    let mut launch = Launch::code(CODE);
    launch.descriptors[3] = file(b"");
    assert_says(&refusal(launch), "initramfs is empty");

    let mut launch = Launch::code(CODE);
    let big = File::from(file(b""));
    big.set_len(64 << 20).unwrap();
    launch.descriptors[3] = big.into();
    assert_says(&refusal(launch), "doesn't fit");
}

#[test]
fn sizes_out_of_range_are_refused() {
    let mut launch = Launch::code(CODE);
    launch.config.memory_mib = 32;
    launch.descriptors[1] = create_guest_memory(32).unwrap();
    assert_says(&refusal(launch), "64 to 262144 MiB of memory, not 32 MiB");

    let mut launch = Launch::code(CODE);
    launch.config.vcpus = 17;
    assert_says(&refusal(launch), "1 to 16 vCPUs, not 17");
}

#[test]
fn a_description_that_lies_about_descriptors_is_refused() {
    let mut launch = Launch::code(CODE);
    launch.descriptors.pop();
    assert_says(&refusal(launch), "refers to descriptor 3, but 3 descriptors came");

    let mut launch = Launch::code(CODE);
    launch.boot().kernel = FdIndex(3);
    assert_says(&refusal(launch), "descriptor 3 twice");

    let mut launch = Launch::code(CODE);
    let extent = ExtentConfig { file: FdIndex(1), offset: 0, length: 4096 };
    launch.config.blocks.push(BlockConfig { id: "a".into(), read_only: true, extents: vec![extent] });
    assert_says(&refusal(launch), "descriptor 1 twice");

    let mut launch = Launch::code(CODE);
    launch.descriptors[1] = create_guest_memory(65).unwrap();
    assert_says(&refusal(launch), "68157440 bytes long instead of 67108864");
}

#[test]
fn a_file_that_cannot_be_memory_is_refused() {
    let refusal_of = |file: File, length| {
        let mut launch = Launch::code(CODE);
        let file = launch.give(file.into());
        launch.config.pmems.push(PmemConfig { id: "image".into(), file, length });
        refusal(launch)
    };
    assert_says(&refusal_of(file(b"short").into(), 2 << 20), r#""image" is 5 bytes long instead of at least 2097152"#);
    assert_says(&refusal_of(File::open("/dev/zero").unwrap(), 2 << 20), "isn't a regular file");
    assert_says(&refusal_of(file(b"").into(), 4096), "multiple of 2097152");
    let far = File::from(file(b""));
    far.set_len(1 << 52).unwrap();
    assert_says(&refusal_of(far, 1 << 52), "physical addresses");
}

#[test]
fn a_descriptor_that_is_not_kvm_is_refused() {
    let mut launch = Launch::code(CODE);
    launch.descriptors[0] = File::open("/dev/null").unwrap().into();
    assert_says(&refusal(launch), "isn't /dev/kvm");
}

#[test]
fn a_command_line_that_is_too_long_is_refused() {
    let mut launch = Launch::code(CODE);
    launch.boot().extra_command_line = "x".repeat(2048);
    assert_says(&refusal(launch), "command line");
}

#[test]
fn a_first_message_that_is_no_description_is_refused() {
    let vmm = Vmm::spawn();
    nix::unistd::write(vmm.control.as_ref().unwrap(), b"{}").unwrap();
    let (EndReason::VmmError { message }, status) = vmm.finish() else { panic!("the guest ran") };
    assert_says(&message, "control message can't be decoded");
    assert_eq!(status.code(), Some(1));
}

#[test]
fn a_vmm_that_is_started_by_hand_says_so() {
    let output = Command::new(env!("CARGO_BIN_EXE_taskrun-vmm")).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_says(&String::from_utf8(output.stderr).unwrap(), "is started by taskrun");
}
