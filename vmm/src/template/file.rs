//! The envelope of a state file: what it is, how long it is, and a checksum of what is in it.
//!
//! ```text
//! 0   8  "taskrunT"
//! 8   4  FORMAT, little endian like all numbers
//! 12  8  the length of the rest behind the checksum
//! 20  16 XXH3 of the rest, 128 bits
//! 36     a MachineState, in postcard's encoding
//! ```
//!
//! The checksum finds what a disk or an interrupted copy has done. It doesn't make the content trusted: whoever can write the
//! file can write the checksum. So it is one that takes no time: each task's start waits for it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use twox_hash::XxHash3_128;

use super::state::MachineState;
use super::{FORMAT, TemplateError};

const MAGIC: &[u8; 8] = b"taskrunT";
const HEADER: usize = 8 + 4 + 8 + 16;

/// The longest state file that is read, in bytes: some 20 KiB for each vCPU.
const MAX_LENGTH: u64 = 2 << 20;

/// The bytes of a state file.
///
/// # Errors
/// When the state can't be encoded, which doesn't happen.
pub fn encode(state: &MachineState) -> Result<Vec<u8>, TemplateError> {
    let body = postcard::to_stdvec(state).map_err(TemplateError::Encode)?;
    let mut bytes = Vec::with_capacity(HEADER.saturating_add(body.len()));
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&FORMAT.to_le_bytes());
    bytes.extend_from_slice(&(body.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&XxHash3_128::oneshot(&body).to_le_bytes());
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

/// The state in a state file, checked as far as it can be without KVM.
///
/// # Errors
/// When the bytes are no state file, or a damaged one.
pub fn decode(bytes: &[u8]) -> Result<MachineState, TemplateError> {
    let (magic, rest) = bytes.split_first_chunk::<8>().ok_or(TemplateError::NotState)?;
    if magic != MAGIC {
        return Err(TemplateError::NotState);
    }
    let (format, rest) = rest.split_first_chunk().ok_or(TemplateError::Damaged("it is too short"))?;
    match u32::from_le_bytes(*format) {
        FORMAT => {}
        other => return Err(TemplateError::Format(other)),
    }
    let (length, rest) = rest.split_first_chunk().ok_or(TemplateError::Damaged("it is too short"))?;
    let (checksum, body) = rest.split_first_chunk().ok_or(TemplateError::Damaged("it is too short"))?;
    if u64::from_le_bytes(*length) != body.len() as u64 {
        return Err(TemplateError::Damaged("its length is wrong"));
    }
    if XxHash3_128::oneshot(body) != u128::from_le_bytes(*checksum) {
        return Err(TemplateError::Damaged("its checksum is wrong"));
    }
    let (state, rest): (MachineState, _) = postcard::take_from_bytes(body).map_err(TemplateError::Decode)?;
    if !rest.is_empty() {
        return Err(TemplateError::Damaged("something is behind its end"));
    }
    state.check()?;
    Ok(state)
}

/// The content of a state file, from its start.
pub(super) fn read(file: &File) -> Result<Vec<u8>, TemplateError> {
    let length = file.metadata().map_err(TemplateError::ReadState)?.len();
    let length = usize::try_from(length.min(MAX_LENGTH.saturating_add(1))).unwrap_or(usize::MAX);
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0).map_err(TemplateError::ReadState)?;
    if bytes.len() as u64 > MAX_LENGTH {
        return Err(TemplateError::Damaged("it is too long"));
    }
    Ok(bytes)
}

/// Makes `bytes` the content of a state file.
pub(super) fn write(file: &File, bytes: &[u8]) -> Result<(), TemplateError> {
    let write = || -> io::Result<()> {
        file.set_len(0)?;
        file.write_all_at(bytes, 0)
    };
    write().map_err(TemplateError::WriteState)
}
