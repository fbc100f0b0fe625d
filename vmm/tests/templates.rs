//! Guests that are saved when they say that they are ready, and others that go on where they stopped.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests may stop at the first thing that is wrong"
)]

mod common;

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::{Launch, MEMORY_MIB, file, guest, kvm};
use vmm::config::{FdIndex, Start, TemplateFiles};
use vmm::control::VmmEvent;
use vmm::end::EndReason;
use vmm::template;

guest! {
    /// Keeps something in registers and memory, says that it is ready, and powers off if it doesn't find it again. Otherwise
    /// its panic tells what the clock and the seed give: two letters from A to P for each byte.
    remember:
    "mov rax, cr4", "or eax, 0x200", "mov cr4, rax",
    "mov rbx, 0x1122334455667788", "mov qword ptr [0x300000], rbx", "movdqu xmm3, xmmword ptr [0x300000]",
    "mov dx, 0x512", "mov al, 1", "out dx, al",
    "movdqu xmmword ptr [0x300100], xmm3",
    "cmp qword ptr [0x300100], rbx", "jne 6f",
    "cmp qword ptr [0x300000], rbx", "jne 6f",
    "cmp qword ptr [0x2ff000], 0", "jne 6f",
    "mov rcx, 0x1122334455667788", "cmp rbx, rcx", "jne 6f",
    "mov qword ptr [0x300000], 0", "mov qword ptr [0x2ff000], 1",
    "mov ecx, 0x518",
    "3: mov edx, ecx", "in al, dx", "mov bl, al", "mov dx, 0x511",
    "shr al, 4", "add al, 'A'", "out dx, al",
    "mov al, bl", "and al, 15", "add al, 'A'", "out dx, al",
    "inc ecx", "cmp ecx, 0x540", "jne 3b",
    "mov dx, 0x510", "mov al, 2", "out dx, al",
    "7: hlt", "jmp 7b",
    "6: mov dx, 0x510", "mov al, 1", "out dx, al", "jmp 7b",
}

guest! {
    /// Starts all other processors, each of which counts for itself in real mode, and takes the interrupts of its local
    /// APIC's timer. Powers off when, after it said that it is ready, all of them count on and the timer still interrupts.
    /// How many others there are is at 0x2f0000, a byte that the image has behind the instructions.
    count_and_tick:
    "mov qword ptr [0xa018], 0xe003",
    "mov eax, 0xfee00083", "mov qword ptr [0xefb8], rax",
    "lea rsp, [0x2e0000]",
    // The others' code, less than 64 bytes, to 0x30000.
    "lea rsi, [rip + 2f]", "mov edi, 0x30000", "mov ecx, 64", "rep movsb",
    // The timer's vector 0x40 in an interrupt table at 0x31000.
    "lea rax, [rip + 4f]", "mov edi, 0x31400",
    "mov word ptr [rdi], ax", "mov word ptr [rdi + 2], 0x10", "mov word ptr [rdi + 4], 0x8e00",
    "shr rax, 16", "mov word ptr [rdi + 6], ax", "mov dword ptr [rdi + 8], 0", "mov dword ptr [rdi + 12], 0",
    "mov word ptr [0x32000], 0xfff", "mov qword ptr [0x32002], 0x31000", "lidt [0x32000]",
    "mov ebx, 0xfee00000", "mov dword ptr [rbx + 0xf0], 0x1ff",
    "mov dword ptr [rbx + 0x3e0], 0xb", "mov dword ptr [rbx + 0x320], 0x20040",
    // INIT and twice start-up at 0x30000, to all but this one.
    "mov dword ptr [rbx + 0x300], 0xc4500",
    "mov dword ptr [rbx + 0x300], 0xc4630", "mov dword ptr [rbx + 0x300], 0xc4630",
    "mov dword ptr [rbx + 0x380], 1000000",
    "movzx r9d, byte ptr [rip + 9f]",
    "sti",
    "5: movzx eax, byte ptr [0x30200]", "cmp eax, r9d", "jne 5b",
    "5: cmp dword ptr [0x32010], 2", "jb 5b",
    "mov dx, 0x512", "mov al, 1", "out dx, al",
    // Two more ticks, and each counter moves.
    "mov r8d, dword ptr [0x32010]", "add r8d, 2",
    "5: hlt", "cmp dword ptr [0x32010], r8d", "jb 5b",
    "xor esi, esi",
    "6: cmp esi, r9d", "je 6f",
    "mov eax, dword ptr [rsi * 4 + 0x30210]",
    "5: cmp dword ptr [rsi * 4 + 0x30210], eax", "je 5b",
    "inc esi", "jmp 6b",
    "6: mov dx, 0x510", "mov al, 1", "out dx, al",
    "7: hlt", "jmp 7b",
    "4: push rax", "mov eax, 0xfee000b0", "mov dword ptr [rax], 0", "pop rax", "inc dword ptr [0x32010]", "iretq",
    ".code16",
    "2: mov ax, 1", "lock xadd word ptr cs:[0x200], ax", "mov di, ax", "shl di, 2",
    "7: inc dword ptr cs:[di + 0x210]", "jmp 7b",
    ".code64",
}

/// A template.
struct Template {
    state: File,
    memory: File,
}

impl Template {
    /// The template of a guest of these instructions.
    fn of(code: &[u8], vcpus: u8) -> Self {
        let files = [(); 2].map(|()| File::from(file(b"")));
        let mut launch = Launch::code(code);
        launch.config.vcpus = vcpus;
        let [state, memory] = files.each_ref().map(|file| launch.give(file.try_clone().unwrap().into()));
        launch.boot().save = Some(TemplateFiles { state, memory });
        assert_eq!(launch.run(), EndReason::Ready);
        let [state, memory] = files;
        template::verify(&state, &memory).unwrap();
        Self { state, memory }
    }

    /// A guest that starts from it.
    fn restore(&self) -> Launch {
        let give = |file: &File| OwnedFd::from(file.try_clone().unwrap());
        let mut launch = Launch::code(b"");
        launch.descriptors = vec![kvm(), give(&self.state), give(&self.memory)];
        launch.config.start = Start::Restore(TemplateFiles { state: FdIndex(1), memory: FdIndex(2) });
        launch
    }

    fn state(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.state.metadata().unwrap().len()).unwrap()];
        self.state.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    /// The same with another state.
    fn with_state(&self, state: &[u8]) -> Self {
        Self { state: file(state).into(), memory: self.memory.try_clone().unwrap() }
    }
}

/// What a guest that has run [`remember`] read of the clock and the seed.
fn told(reason: &EndReason) -> (Duration, [u8; 32]) {
    let EndReason::Panic { message } = reason else { panic!("{reason}") };
    let nibbles: Vec<u8> = message.bytes().map(|letter| letter - b'A').collect();
    let bytes: Vec<u8> = nibbles.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    let (clock, seed) = bytes.split_at(8);
    (Duration::from_nanos(u64::from_le_bytes(clock.try_into().unwrap())), seed.try_into().unwrap())
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

/// Whether the template has these bytes anywhere.
fn contains(template: &Template, needle: &[u8]) -> bool {
    let state = template.state();
    let extents = template::decode(&state).unwrap().extents.into_iter().map(|extent| {
        let mut bytes = vec![0; usize::try_from(extent.length).unwrap()];
        template.memory.read_exact_at(&mut bytes, extent.start).unwrap();
        bytes
    });
    let found = |bytes: Vec<u8>| bytes.windows(needle.len()).any(|window| window == needle);
    extents.chain([state.clone()]).any(found)
}

/// The message of a VMM that refuses.
fn refusal(launch: Launch) -> String {
    let EndReason::VmmError { message } = launch.run() else { panic!("the VMM runs it") };
    message
}

#[test]
fn guests_go_on_where_one_was_saved_each_with_a_seed_of_its_own() {
    let template = Template::of(&remember(), 1);
    let before = now();
    assert!(contains(&template, &0x1122_3344_5566_7788_u64.to_le_bytes()));
    let seeds = [(); 2].map(|()| {
        let vmm = template.restore().start();
        assert_eq!(vmm.event(), Some(VmmEvent::Running));
        assert_eq!(vmm.event(), Some(VmmEvent::Seeded));
        let (clock, seed) = told(&vmm.finish().0);
        assert!((before..=now()).contains(&clock), "{clock:?}");
        assert!(!contains(&template, &seed[..8]) && !contains(&template, &seed[24..]));
        seed
    });
    assert_ne!(seeds[0], seeds[1]);
    // What the guests wrote is theirs.
    template::verify(&template.state, &template.memory).unwrap();
}

#[test]
fn a_guest_that_is_not_saved_does_the_same() {
    let before = now();
    let vmm = Launch::code(&remember()).start();
    assert_eq!(vmm.event(), Some(VmmEvent::Running));
    assert_eq!(vmm.event(), Some(VmmEvent::Seeded));
    let (clock, seed) = told(&vmm.finish().0);
    assert!((before..=now()).contains(&clock), "{clock:?}");
    assert!(seed.iter().collect::<BTreeSet<_>>().len() > 8, "{seed:?}");
}

#[test]
fn a_memory_file_is_sparse() {
    let template = Template::of(&remember(), 1);
    let metadata = template.memory.metadata().unwrap();
    assert_eq!(metadata.len(), u64::from(MEMORY_MIB) << 20);
    // A file in memory can have pages of 2 MiB.
    assert!(metadata.blocks() * 512 < metadata.len() / 4, "{} blocks", metadata.blocks());
}

#[test]
fn processors_and_timers_go_on() {
    for vcpus in [1, 2, 4] {
        let mut code = count_and_tick();
        code.push(vcpus - 1);
        let template = Template::of(&code, vcpus);
        for _ in 0..2 {
            let mut launch = template.restore();
            launch.config.vcpus = vcpus;
            assert_eq!(launch.run(), EndReason::PowerOff, "{vcpus} vCPUs");
        }
    }
}

#[test]
fn a_template_that_is_not_whole_is_refused() {
    let template = Template::of(&remember(), 1);
    let state = template.state();
    let message = refusal(template.with_state(&state[..state.len() - 1]).restore());
    assert!(message.contains("damaged"), "{message}");
    let mut flipped = state.clone();
    flipped[state.len() / 2] ^= 1;
    let message = refusal(template.with_state(&flipped).restore());
    assert!(message.contains("damaged"), "{message}");
    let message = refusal(template.with_state(b"").restore());
    assert!(message.contains("isn't one"), "{message}");

    let short = Template { state: template.state.try_clone().unwrap(), memory: file(b"short").into() };
    assert!(template::verify(&short.state, &short.memory).is_err());
    let message = refusal(short.restore());
    assert!(message.contains("5 bytes long instead of 67108864"), "{message}");

    // The VMM doesn't read the memory; the runtime does, with this.
    let byte = template::extents::PAGE;
    let place = template::decode(&state).unwrap().extents[0].start + byte / 2;
    template.memory.write_all_at(&[0xa5], place).unwrap();
    let error = template::verify(&template.state, &template.memory).unwrap_err();
    assert!(error.to_string().contains("memory file of the template is damaged"), "{error}");
}

#[test]
fn a_template_of_another_machine_is_refused() {
    let template = Template::of(&remember(), 1);
    let mut launch = template.restore();
    launch.config.vcpus = 2;
    let message = refusal(launch);
    assert!(message.contains("1 vCPUs, and this one has 2"), "{message}");
    let mut launch = template.restore();
    launch.config.memory_mib += 1;
    let message = refusal(launch);
    assert!(message.contains("64 MiB of memory, and this one has 65"), "{message}");

    let change = |change: fn(&mut template::state::MachineState)| {
        let mut state = template::decode(&template.state()).unwrap();
        change(&mut state);
        refusal(template.with_state(&template::encode(&state).unwrap()).restore())
    };
    let message = change(|state| state.host.push('x'));
    assert!(message.contains("another host"), "{message}");
    let message = change(|state| state.devices[0].slot = 1);
    assert!(message.contains("no virtio slot 1"), "{message}");
    let message = change(|state| state.extents[0].start += 1);
    assert!(message.contains("memory that there isn't"), "{message}");
}

#[test]
fn the_identity_of_a_host_is_always_the_same() {
    use std::os::fd::AsFd;
    let identities: BTreeSet<String> = (0..20).map(|_| template::host_identity(kvm().as_fd()).unwrap()).collect();
    assert_eq!(identities.len(), 1, "{identities:?}");
    assert!(template::host_identity(file(b"").as_fd()).is_err());
}
