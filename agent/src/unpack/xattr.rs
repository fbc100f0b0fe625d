//! Setting extended attributes.
//!
//! As umoci does it: `security.selinux` and `system.nfs4_acl` belong to the host's policy and are passed over; an attribute
//! that the file system has no support for (`ENOTSUP`) is passed over with one warning for the image; every other refusal is
//! an error, for an image that needs a file capability would not work without it.
#![expect(unsafe_code, reason = "nix has no extended attributes")]

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;

use super::error::Cause;

/// Attributes that are not an image's to set.
const PASSED_OVER: [&[u8]; 2] = [b"security.selinux", b"system.nfs4_acl"];

/// The file whose attributes are set.
#[derive(Clone, Copy, Debug)]
pub enum Subject<'a> {
    /// An open file or directory.
    Open(BorrowedFd<'a>),
    /// A name in a directory, not followed when it is a symbolic link. Needs /proc.
    Named(BorrowedFd<'a>, &'a [u8]),
}

/// Sets `attributes`, and gives the name of one that the file system does not support, if there was any.
pub fn set(subject: Subject<'_>, attributes: &[(Vec<u8>, Vec<u8>)]) -> Result<Option<Vec<u8>>, Cause> {
    let mut unsupported = None;
    for (name, value) in attributes.iter().filter(|(name, _)| !PASSED_OVER.contains(&name.as_slice())) {
        match set_one(subject, name, value) {
            Ok(()) => {}
            Err(Errno::ENOTSUP) => unsupported = Some(name.clone()),
            Err(Errno::ENOSPC) => return Err(Cause::Full { action: "setting an extended attribute" }),
            Err(errno) => return Err(Cause::Xattr { name: name.clone(), errno }),
        }
    }
    Ok(unsupported)
}

fn set_one(subject: Subject<'_>, name: &[u8], value: &[u8]) -> Result<(), Errno> {
    let name = CString::new(name).map_err(|_| Errno::EINVAL)?;
    let result = match subject {
        Subject::Open(file) => {
            let file = file.as_fd().as_raw_fd();
            // SAFETY: `file` is open, `name` ends in a zero byte and `value` has the length that is passed.
            unsafe { libc::fsetxattr(file, name.as_ptr(), value.as_ptr().cast(), value.len(), 0) }
        }
        Subject::Named(directory, file) => {
            // There is no such call relative to a directory before Linux 6.13.
            let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
            path.extend_from_slice(file);
            let path = CString::new(path).map_err(|_| Errno::EINVAL)?;
            // SAFETY: `path` and `name` end in a zero byte and `value` has the length that is passed.
            unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) }
        }
    };
    Errno::result(result).map(|_| ())
}

#[cfg(test)]
pub mod testing {
    //! Reading attributes back.

    use super::*;
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;

    /// The attributes of `path`, which is not followed, sorted by name.
    pub fn get(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
        let path = CString::new(path.as_os_str().as_bytes()).unwrap();
        let mut names = vec![0u8; 65536];
        // SAFETY: `path` ends in a zero byte and `names` has the length that is passed.
        let length = unsafe { libc::llistxattr(path.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
        names.truncate(usize::try_from(length).unwrap());
        let mut found: Vec<_> = names
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty())
            .map(|name| {
                let mut value = vec![0u8; 65536];
                let c_name = CString::new(name).unwrap();
                // SAFETY: the texts end in a zero byte and `value` has the length that is passed.
                let length =
                    unsafe { libc::lgetxattr(path.as_ptr(), c_name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
                value.truncate(usize::try_from(length).unwrap());
                (name.to_vec(), value)
            })
            .collect();
        found.sort();
        found
    }
}
