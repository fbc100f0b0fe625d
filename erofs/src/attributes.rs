//! What callers say about inodes, and its checks.

use crate::error::Error;
use crate::format::{self, FileType};

/// What an inode has besides its content. The default is all zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Permissions, set-user-ID, set-group-ID and sticky bit: at most 0o7777. The type's bits are added.
    pub mode: u16,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// When it was modified last. EROFS has no other times.
    pub mtime: Time,
    /// Extended attributes: full names such as `user.mime_type`, and values. Their order doesn't matter.
    pub xattrs: Vec<Xattr>,
}

/// An extended attribute: name and value.
pub type Xattr = (Box<[u8]>, Box<[u8]>);

/// A point in time, since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Seconds. Before 1970 they are negative.
    pub seconds: i64,
    /// Nanoseconds after them: below 1 000 000 000.
    pub nanoseconds: u32,
}

/// What has no content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// A character device.
    CharDevice {
        /// Its major number.
        major: u32,
        /// Its minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Its major number.
        major: u32,
        /// Its minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

impl Special {
    /// Its type, and what an inode has for its device number.
    pub(crate) fn encode(self) -> Result<(FileType, u32), Error> {
        let (file_type, major, minor) = match self {
            Self::CharDevice { major, minor } => (FileType::CHAR_DEVICE, major, minor),
            Self::BlockDevice { major, minor } => (FileType::BLOCK_DEVICE, major, minor),
            Self::Fifo => (FileType::FIFO, 0, 0),
            Self::Socket => (FileType::SOCKET, 0, 0),
        };
        let device = format::device(major, minor).ok_or(Error::Device { major, minor })?;
        Ok((file_type, device))
    }
}

/// The name of a volume: up to 15 bytes. The default is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VolumeName([u8; 16]);

impl VolumeName {
    /// The longest name. The kernel wants a zero byte behind it.
    pub const MAX: usize = 15;

    /// Checks a name.
    pub fn new(name: &[u8]) -> Result<Self, Error> {
        let mut bytes = [0; 16];
        match bytes.get_mut(..name.len()) {
            Some(place) if name.len() <= Self::MAX && !name.contains(&0) => place.copy_from_slice(name),
            _ => return Err(Error::VolumeName { length: name.len(), limit: Self::MAX }),
        }
        Ok(Self(bytes))
    }

    pub(crate) fn bytes(self) -> [u8; 16] {
        self.0
    }
}

impl TryFrom<&str> for VolumeName {
    type Error = Error;

    fn try_from(name: &str) -> Result<Self, Error> {
        Self::new(name.as_bytes())
    }
}

/// The longest target of a symbolic link that Linux follows.
const TARGET_MAX: usize = 4095;

pub(crate) fn check_target(target: &[u8]) -> Result<(), Error> {
    if target.is_empty() || target.len() > TARGET_MAX || target.contains(&0) {
        return Err(Error::Target { length: target.len(), limit: TARGET_MAX });
    }
    Ok(())
}

/// Checks what needs no context.
pub(crate) fn check(attributes: &Attributes) -> Result<(), Error> {
    let Attributes { mode, mtime: Time { nanoseconds, .. }, .. } = *attributes;
    if mode > 0o7777 {
        return Err(Error::Mode { mode });
    }
    if nanoseconds >= 1_000_000_000 {
        return Err(Error::Time { nanoseconds });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_name_has_up_to_fifteen_bytes() {
        assert_eq!(VolumeName::new(b"abc").unwrap().bytes()[..4], *b"abc\0");
        assert!(VolumeName::try_from("123456789012345").is_ok());
        for bad in ["1234567890123456", "12345678901234567", "a\0"] {
            assert!(matches!(VolumeName::try_from(bad), Err(Error::VolumeName { .. })), "{bad}");
        }
    }
}
