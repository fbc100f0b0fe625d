//! Which extended attributes a file of the image gets: what Linux would say to `setxattr(2)`, asked before there is a file
//! system.
//!
//! As umoci does it: `security.selinux` and `system.nfs4_acl` belong to the host's policy and are passed over; an attribute
//! that cannot be held (`ENOTSUP`) is left out with one warning for the image; what Linux refuses otherwise is an error, for an
//! image that needs a file capability would not work without it.
//!
//! `trusted.overlay.*` is left out too, with a warning: it would speak to the overlay that a task's root is made of, which
//! shows none of these attributes to the task anyway.

use nix::errno::Errno;

/// Attributes that are not an image's to set.
const PASSED_OVER: [&[u8]; 2] = [b"security.selinux", b"system.nfs4_acl"];

/// Those of overlayfs.
const OVERLAY: &[u8] = b"trusted.overlay.";

/// The largest value, in bytes: what Linux allows, less one that EROFS has no room for.
const VALUE_MAX: usize = 65_535;

/// The longest name, in bytes.
const NAME_MAX: usize = 255;

/// What a file is, as far as attributes depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// Anything else.
    Other,
}

/// What becomes of an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The image holds it.
    Held,
    /// It does not count.
    PassedOver,
    /// It is left out, and the user should know.
    LeftOut,
    /// The image is refused.
    Refused(Errno),
}

/// What becomes of an attribute of `subject`.
pub fn judge(subject: Subject, name: &[u8], value: &[u8]) -> Verdict {
    use Verdict::{Held, LeftOut, PassedOver, Refused};
    if PASSED_OVER.contains(&name) {
        return PassedOver;
    }
    if name.starts_with(OVERLAY) {
        return LeftOut;
    }
    if name.len() > NAME_MAX {
        return Refused(Errno::ERANGE);
    }
    if name.contains(&0) {
        return Refused(Errno::EINVAL);
    }
    if value.len() > VALUE_MAX {
        return Refused(Errno::E2BIG);
    }
    match name {
        b"system.posix_acl_access" | b"system.posix_acl_default" if subject == Subject::Symlink => LeftOut,
        b"system.posix_acl_default" if subject != Subject::Directory => Refused(Errno::EACCES),
        b"system.posix_acl_access" | b"system.posix_acl_default" => {
            if is_access_list(value) {
                Held
            } else {
                Refused(Errno::EINVAL)
            }
        }
        b"security.capability" if !is_capability(value) => Refused(Errno::EINVAL),
        _ => in_namespace(subject, name),
    }
}

fn in_namespace(subject: Subject, name: &[u8]) -> Verdict {
    let rest = |prefix: &[u8]| name.strip_prefix(prefix);
    let any_may_have = rest(b"trusted.").or_else(|| rest(b"security."));
    match (rest(b"user."), any_may_have) {
        (Some(b""), _) | (_, Some(b"")) => Verdict::Refused(Errno::EINVAL),
        // Permissions of links and devices say nothing about who may read or write them.
        (Some(_), _) if matches!(subject, Subject::Symlink | Subject::Other) => Verdict::Refused(Errno::EPERM),
        (Some(_), _) | (_, Some(_)) => Verdict::Held,
        (None, None) => Verdict::LeftOut,
    }
}

/// Whether this is a `vfs_cap_data` of version 2 or 3 (linux/capability.h).
fn is_capability(value: &[u8]) -> bool {
    let revision = value.first_chunk().map(|bytes| u32::from_le_bytes(*bytes) & 0xff00_0000);
    matches!((revision, value.len()), (Some(0x0200_0000), 20) | (Some(0x0300_0000), 24))
}

/// Whether this is a `posix_acl_xattr` of version 2 whose entries have tags that there are (linux/posix_acl.h).
fn is_access_list(value: &[u8]) -> bool {
    const TAGS: [u16; 6] = [0x01, 0x02, 0x04, 0x08, 0x10, 0x20];
    let Some((version, entries)) = value.split_first_chunk() else { return false };
    let (entries, rest) = entries.as_chunks::<8>();
    let known = |entry: &[u8; 8]| {
        let [low, high, permissions, above, ..] = *entry;
        TAGS.contains(&u16::from_le_bytes([low, high])) && permissions <= 7 && above == 0
    };
    u32::from_le_bytes(*version) == 2 && rest.is_empty() && entries.iter().all(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPABILITY: &[u8] = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    const ACCESS_LIST: &[u8] = b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x20\0\x04\0\xff\xff\xff\xff";

    #[test]
    fn attributes_are_judged_as_linux_would() {
        use Subject::{Directory, File, Other, Symlink};
        use Verdict::{Held, LeftOut, PassedOver, Refused};
        for (subject, name, value, expected) in [
            (File, &b"user.a"[..], &b""[..], Held),
            (Directory, b"user.a", b"x", Held),
            (Symlink, b"user.a", b"x", Refused(Errno::EPERM)),
            (Other, b"user.a", b"x", Refused(Errno::EPERM)),
            (Symlink, b"trusted.a", b"x", Held),
            (Other, b"security.a", b"x", Held),
            (File, b"user.", b"x", Refused(Errno::EINVAL)),
            (File, b"trusted.", b"x", Refused(Errno::EINVAL)),
            (File, b"nosuch.a", b"x", LeftOut),
            (File, b"user", b"x", LeftOut),
            (File, b"system.other", b"x", LeftOut),
            (File, b"security.selinux", b"x", PassedOver),
            (File, b"trusted.overlay.redirect", b"/etc", LeftOut),
            (Directory, b"trusted.overlay.opaque", b"y", LeftOut),
            (File, b"security.capability", CAPABILITY, Held),
            (File, b"security.capability", b"nonsense", Refused(Errno::EINVAL)),
            (File, b"system.posix_acl_access", ACCESS_LIST, Held),
            (File, b"system.posix_acl_access", b"\x01\0\0\0", Refused(Errno::EINVAL)),
            (File, b"system.posix_acl_default", ACCESS_LIST, Refused(Errno::EACCES)),
            (Directory, b"system.posix_acl_default", ACCESS_LIST, Held),
            (Symlink, b"system.posix_acl_access", ACCESS_LIST, LeftOut),
        ] {
            assert_eq!(judge(subject, name, value), expected, "{subject:?} {}", name.escape_ascii());
        }
        assert_eq!(judge(File, b"user.a", &[0; 65_536]), Refused(Errno::E2BIG));
        assert_eq!(judge(File, &[&b"user."[..], &[b'n'; 251]].concat(), b""), Refused(Errno::ERANGE));
    }
}
