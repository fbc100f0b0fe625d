//! BPF programs on tracepoints: bpf(2) and perf_event_open(2), as far as counting needs them.

use std::ffi::c_long;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use anyhow::{Context, Result};

use super::program::Instruction;

/// Commands of bpf(2).
const MAP_CREATE: c_long = 0;
const MAP_LOOK_UP: c_long = 1;
const MAP_UPDATE: c_long = 2;
const MAP_NEXT_KEY: c_long = 4;
const PROGRAM_LOAD: c_long = 5;

/// The flag of an update that changes nothing.
const NEW_ONLY: u64 = 1;

const MAP_TYPE_HASH: u32 = 1;
const PROGRAM_TYPE_TRACEPOINT: u32 = 5;

const PERF_TYPE_TRACEPOINT: u32 = 2;
/// `_IO('$', 0)` and `_IOW('$', 8, __u32)`.
const PERF_IOC_ENABLE: libc::c_ulong = 0x2400;
const PERF_IOC_SET_BPF: libc::c_ulong = 0x4004_2408;

/// `bpf_attr` for making a map.
#[repr(C)]
struct MapAttributes {
    kind: u32,
    key_size: u32,
    value_size: u32,
    entries: u32,
    flags: u32,
}

/// `bpf_attr` for reading a map.
#[repr(C)]
struct ElementAttributes {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// `bpf_attr` for loading a program.
#[repr(C)]
struct ProgramAttributes {
    kind: u32,
    length: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

/// The first version of `perf_event_attr`, which the kernel still takes.
#[repr(C)]
struct PerfAttributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    breakpoint_type: u32,
    config1: u64,
}

const _: () = assert!(size_of::<PerfAttributes>() == 64);

/// A hash map of the kernel's, with keys of `K` bytes and values of 8.
#[derive(Debug)]
pub struct Map<const K: usize>(OwnedFd);

impl<const K: usize> Map<K> {
    /// A map that has room for this many keys.
    pub fn new(entries: u32) -> io::Result<Self> {
        let key_size = u32::try_from(K).map_err(io::Error::other)?;
        let mut attributes = MapAttributes { kind: MAP_TYPE_HASH, key_size, value_size: 8, entries, flags: 0 };
        Ok(Self(descriptor(bpf(MAP_CREATE, &mut attributes)?)?))
    }

    /// Its descriptor, for a program.
    pub fn number(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Enters a value.
    pub fn insert(&self, key: [u8; K], value: u64) -> io::Result<()> {
        self.element(MAP_UPDATE, Some(&key), (&raw const value).addr(), 0).map(drop)
    }

    /// Enters a value, unless there is one.
    pub fn insert_new(&self, key: [u8; K], value: u64) -> io::Result<()> {
        match self.element(MAP_UPDATE, Some(&key), (&raw const value).addr(), NEW_ONLY) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            result => result.map(drop),
        }
    }

    /// All that is in it.
    pub fn entries(&self) -> io::Result<Vec<([u8; K], u64)>> {
        let mut entries = Vec::new();
        let mut last = None;
        while let Some(key) = self.next_key(last.as_ref())? {
            let mut value = 0_u64;
            self.element(MAP_LOOK_UP, Some(&key), (&raw mut value).addr(), 0)?;
            entries.push((key, value));
            last = Some(key);
        }
        Ok(entries)
    }

    fn next_key(&self, key: Option<&[u8; K]>) -> io::Result<Option<[u8; K]>> {
        let mut next = [0; K];
        match self.element(MAP_NEXT_KEY, key, (&raw mut next).addr(), 0) {
            Ok(_) => Ok(Some(next)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn element(&self, command: c_long, key: Option<&[u8; K]>, value: usize, flags: u64) -> io::Result<c_long> {
        let key = key.map_or(0, |key| key.as_ptr().addr());
        let map = self.0.as_raw_fd().cast_unsigned();
        let mut attributes = ElementAttributes { map, padding: 0, key: key as u64, value: value as u64, flags };
        bpf(command, &mut attributes)
    }
}

/// A program that runs at each hit of a tracepoint, anywhere on the host, until it is dropped.
#[derive(Debug)]
pub struct Attached {
    _program: OwnedFd,
    _event: OwnedFd,
}

impl Attached {
    /// Loads a program and attaches it. `tracepoint` is its folder in tracefs.
    pub fn new(instructions: &[Instruction], tracepoint: &Path) -> Result<Self> {
        let path = tracepoint.join("id");
        let id = fs::read_to_string(&path).with_context(|| format!("{} can't be read", path.display()))?;
        let program = load(instructions)?;
        let event = open_event(id.trim().parse()?).context("The tracepoint can't be opened")?;
        control(&event, PERF_IOC_SET_BPF, program.as_raw_fd()).context("The program can't be attached")?;
        control(&event, PERF_IOC_ENABLE, 0).context("The tracepoint can't be enabled")?;
        Ok(Self { _program: program, _event: event })
    }
}

fn load(instructions: &[Instruction]) -> Result<OwnedFd> {
    let mut log = vec![0_u8; 64 << 10];
    let mut attributes = ProgramAttributes {
        kind: PROGRAM_TYPE_TRACEPOINT,
        length: u32::try_from(instructions.len())?,
        instructions: instructions.as_ptr().addr() as u64,
        license: c"Apache-2.0".as_ptr().addr() as u64,
        log_level: 1,
        log_size: u32::try_from(log.len())?,
        log: log.as_mut_ptr().addr() as u64,
        kernel_version: 0,
        flags: 0,
    };
    let loaded = bpf(PROGRAM_LOAD, &mut attributes).and_then(descriptor);
    loaded.with_context(|| {
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.trim_end_matches(['\0', '\n']).lines().collect();
        let last = lines.get(lines.len().saturating_sub(4)..).unwrap_or_default().join("; ");
        format!("The kernel refuses the counting program: {last}")
    })
}

/// bpf(2). Addresses in the attributes are of memory that the caller holds, and of the size that the command takes.
#[expect(unsafe_code, reason = "no library has bpf(2) alone")]
fn bpf<T>(command: c_long, attributes: &mut T) -> io::Result<c_long> {
    // SAFETY: the attributes are a plain structure of the size given, and what they point to is held by this module's callers
    // of it: keys and values of the map's sizes, instructions and a log of the lengths beside them.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A tracepoint, on the first CPU: a program that is attached to it runs on all.
#[expect(unsafe_code, reason = "no library has perf_event_open(2) alone")]
fn open_event(id: u64) -> io::Result<OwnedFd> {
    let attributes = PerfAttributes {
        kind: PERF_TYPE_TRACEPOINT,
        size: 64,
        config: id,
        sample_period: 1,
        sample_type: 0,
        read_format: 0,
        flags: 0,
        wakeup_events: 0,
        breakpoint_type: 0,
        config1: 0,
    };
    let (any_process, first_cpu, no_group, close_on_exec): (c_long, c_long, c_long, c_long) = (-1, 0, -1, 8);
    // SAFETY: the attributes are a plain structure of the size that is in it, and the call only reads them.
    let result = unsafe {
        let event = libc::SYS_perf_event_open;
        libc::syscall(event, &raw const attributes, any_process, first_cpu, no_group, close_on_exec)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { descriptor(result) }
}

#[expect(unsafe_code, reason = "no library has these requests")]
fn control(event: &OwnedFd, request: libc::c_ulong, argument: RawFd) -> io::Result<()> {
    // SAFETY: both requests take a number and touch no memory of ours.
    let result = unsafe { libc::ioctl(event.as_raw_fd(), request, argument) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[expect(unsafe_code, reason = "system calls give descriptors as numbers")]
fn descriptor(number: c_long) -> io::Result<OwnedFd> {
    let number = RawFd::try_from(number).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
