//! The host's randomness (`getrandom`).

use std::io;

/// Random bytes, at most 256: so many come whole or not at all.
///
/// # Errors
/// Those of `getrandom`, which a host that has started doesn't have.
#[expect(unsafe_code, reason = "getrandom has no safe wrapper among the dependencies")]
pub fn bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0_u8; N];
    // SAFETY: the pointer and the length are those of `bytes`.
    let length = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if usize::try_from(length) == Ok(N) { Ok(bytes) } else { Err(io::Error::last_os_error()) }
}
