//! The fields of a tar header block (POSIX.1-1988 ustar, with GNU's binary numbers).
//!
//! The `tar` crate splits the block into fields; numbers are read here, because the crate refuses what writers leave empty,
//! and negative times. As in Go's `archive/tar`: blanks and zero bytes around octal digits are ignored, an empty field is
//! 0, and a first byte with its top bit set starts a two's complement number in big-endian order. Checksums may have
//! been added up from signed or unsigned bytes.

use tar::Header;

use super::error::Cause;
use super::stream::BLOCK;

/// Where the numbers of a header are: offset and length.
#[derive(Clone, Copy, Debug)]
pub struct Field(usize, usize, &'static str);

/// The permission bits.
pub const MODE: Field = Field(100, 8, "the mode in a header is not a number");
/// The owner.
pub const UID: Field = Field(108, 8, "the owner in a header is not a number");
/// The group.
pub const GID: Field = Field(116, 8, "the group in a header is not a number");
/// The length of the content.
pub const SIZE: Field = Field(124, 12, "the size in a header is not a number");
/// The modification time.
pub const MTIME: Field = Field(136, 12, "the time in a header is not a number");
/// The sum of the header's bytes.
const CHECKSUM: Field = Field(148, 8, "a header's checksum is not a number");
/// A device's major number.
pub const MAJOR: Field = Field(329, 8, "the device number in a header is not a number");
/// A device's minor number.
pub const MINOR: Field = Field(337, 8, "the device number in a header is not a number");

/// A header block whose checksum is right.
pub struct Block(Header);

impl Block {
    /// Takes a block that is not all zeros.
    pub fn new(bytes: &[u8; BLOCK]) -> Result<Self, Cause> {
        let mut header = Header::new_old();
        *header.as_mut_bytes() = *bytes;
        let block = Self(header);
        let expected = block.number(CHECKSUM)?;
        let Field(at, length, _) = CHECKSUM;
        let (mut unsigned, mut signed) = (0i64, 0i64);
        for (index, byte) in bytes.iter().enumerate() {
            let byte = if (at..at.saturating_add(length)).contains(&index) { b' ' } else { *byte };
            unsigned = unsigned.saturating_add(i64::from(byte));
            signed = signed.saturating_add(i64::from(byte.cast_signed()));
        }
        if expected != unsigned && expected != signed {
            return Err(Cause::Archive("a header's checksum is wrong"));
        }
        Ok(block)
    }

    /// The type of the entry.
    pub fn kind(&self) -> u8 {
        // The crate's own reader takes 0, the regular file of old archives, for '0'.
        let [kind] = self.0.as_old().linkflag;
        kind
    }

    /// The name, with the prefix that ustar keeps apart.
    pub fn name(&self) -> Vec<u8> {
        self.0.path_bytes().into_owned()
    }

    /// The text of a link.
    pub fn link(&self) -> Vec<u8> {
        self.0.link_name_bytes().map(|link| link.into_owned()).unwrap_or_default()
    }

    /// A number.
    pub fn number(&self, field: Field) -> Result<i64, Cause> {
        let Field(offset, length, error) = field;
        let bytes = self.0.as_bytes().get(offset..offset.saturating_add(length)).unwrap_or_default();
        parse(bytes).ok_or(Cause::Archive(error))
    }
}

/// The number that a field says.
fn parse(field: &[u8]) -> Option<i64> {
    match field.split_first() {
        Some((first, rest)) if first & 0x80 != 0 => binary(*first, rest),
        _ => octal(field),
    }
}

fn octal(field: &[u8]) -> Option<i64> {
    let blank = |byte: &u8| matches!(byte, b' ' | 0);
    let start = field.iter().position(|byte| !blank(byte)).unwrap_or(field.len());
    let end = field.iter().rposition(|byte| !blank(byte)).map_or(start, |last| last.saturating_add(1));
    let digits = field.get(start..end)?.split(|byte| *byte == 0).next()?;
    digits.iter().try_fold(0i64, |number, digit| match digit {
        b'0'..=b'7' => number.checked_mul(8)?.checked_add(i64::from(digit.wrapping_sub(b'0'))),
        _ => None,
    })
}

/// GNU's "base-256": the bit below the marker is the sign.
fn binary(first: u8, rest: &[u8]) -> Option<i64> {
    let negative = first & 0x40 != 0;
    let first = if negative { first | 0x80 } else { first & 0x7f };
    let start = i64::from(first.cast_signed());
    rest.iter().try_fold(start, |number, byte| number.checked_mul(256)?.checked_add(i64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_go_reads_them() {
        for (field, expected) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b" 644\0 7\0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"77777777", Some(0o77_777_777)),
            (b"0000648\0", None),
            (b"-000644\0", None),
            (b"\x80\0\0\0\0\0\x01\x02", Some(0x102)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", Some(i64::MAX)),
            (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None),
            (b"\xff\xff\xff\xff\x80\0\0\0\0\0\0\0", Some(i64::MIN)),
        ] {
            assert_eq!(parse(field), expected, "{}", field.escape_ascii());
        }
    }

    #[test]
    fn a_checksum_may_be_signed_or_unsigned_but_not_wrong() {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..2].copy_from_slice(b"\xffa");
        header.set_cksum();
        assert_eq!(Block::new(header.as_bytes()).unwrap().name(), b"\xffa");
        let unsigned = header.cksum().unwrap();
        header.as_old_mut().cksum.copy_from_slice(format!("{:06o}\0 ", unsigned - 256).as_bytes());
        assert!(Block::new(header.as_bytes()).is_ok());
        header.as_old_mut().cksum.copy_from_slice(format!("{:06o}\0 ", unsigned - 255).as_bytes());
        assert!(Block::new(header.as_bytes()).is_err());
    }
}
