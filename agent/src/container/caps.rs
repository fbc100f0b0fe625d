//! Capabilities: Docker's default set.
//!
//! The bounding set keeps the fourteen that Docker keeps. Root has them effective and permitted; another user has none until it
//! executes a set-user-id program or one with file capabilities, which the bounding set then limits. Nothing is inheritable or
//! ambient.

use std::io;

use crate::sys;

/// What Docker leaves a container, by the numbers of `linux/capability.h`.
const KEPT: [u32; 14] = [
    0,  // CHOWN
    1,  // DAC_OVERRIDE
    3,  // FOWNER
    4,  // FSETID
    5,  // KILL
    6,  // SETGID
    7,  // SETUID
    8,  // SETPCAP
    10, // NET_BIND_SERVICE
    13, // NET_RAW
    18, // SYS_CHROOT
    27, // MKNOD
    29, // AUDIT_WRITE
    31, // SETFCAP
];

/// The capabilities that the structures of the kernel have room for.
const MOST: u32 = 64;

/// The kept capabilities as the kernel's bit mask.
pub fn mask() -> u64 {
    KEPT.iter().fold(0, |mask, capability| mask | 1_u64.wrapping_shl(*capability))
}

/// Takes everything else out of the bounding set. Needs `CAP_SETPCAP`, so before [`limit`] and before the user changes.
///
/// # Errors
/// Those of `PR_CAPBSET_DROP`.
pub fn drop_bounding() -> io::Result<()> {
    for capability in (0..MOST).filter(|capability| !KEPT.contains(capability)) {
        if !sys::drop_bounding(capability)? {
            break;
        }
    }
    Ok(())
}

/// Leaves root the kept capabilities and anybody else none. After the user has changed.
///
/// # Errors
/// Those of `capset(2)`.
pub fn limit(uid: u32) -> io::Result<()> {
    sys::set_capabilities(if uid == 0 { mask() } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_is_the_one_that_a_docker_container_shows() {
        assert_eq!(mask(), 0xa804_25fb);
    }
}
