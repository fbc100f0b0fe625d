//! PAX extended headers (POSIX.1-2001 pax Interchange Format): records `LENGTH KEY=VALUE\n` that add to or replace the
//! fields of the next header.
//!
//! Read as Go's `archive/tar` reads them, so that an image means here what it means to umoci, podman and containerd: values are
//! bytes and may hold newlines (the `tar` crate's reader cuts them there), a record with an empty value counts for
//! nothing, the last of several records with one key wins, extended attributes are those of `SCHILY.xattr.` (archives by
//! libarchive have them too, beside its own `LIBARCHIVE.xattr.`), owner and group names are ignored.

use std::collections::BTreeMap;

use super::entry::Time;
use super::error::Cause;

/// The prefix of extended attributes.
const XATTR: &[u8] = b"SCHILY.xattr.";

/// The prefix of GNU's descriptions of sparse files.
const SPARSE: &[u8] = b"GNU.sparse.";

/// The records of one extended header.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Records(BTreeMap<Vec<u8>, Vec<u8>>);

impl Records {
    /// Reads the content of an extended header.
    pub fn parse(mut bytes: &[u8]) -> Result<Self, Cause> {
        const BROKEN: Cause = Cause::Archive("an extended header is not made of records");
        let mut records = BTreeMap::new();
        while !bytes.is_empty() {
            let (key, value, rest) = record(bytes).ok_or(BROKEN)?;
            if is_text(key) && value.contains(&0) || key.is_empty() || key.contains(&0) {
                return Err(Cause::Archive("a record of an extended header contains a zero byte"));
            }
            records.insert(key.to_vec(), value.to_vec());
            bytes = rest;
        }
        Ok(Self(records))
    }

    /// The value of `key`, unless there is none or an empty one.
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        self.0.get(key.as_bytes()).map(Vec::as_slice).filter(|value| !value.is_empty())
    }

    /// The decimal value of `key`.
    pub fn number(&self, key: &str) -> Result<Option<i64>, Cause> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
        number.map(Some).ok_or(Cause::Archive("a number in an extended header is not one"))
    }

    /// The time under `key`.
    pub fn time(&self, key: &str) -> Result<Option<Time>, Cause> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let time = std::str::from_utf8(value).ok().and_then(parse_time);
        time.map(Some).ok_or(Cause::Archive("a time in an extended header is not one"))
    }

    /// Whether a GNU sparse file is described.
    pub fn is_sparse(&self) -> bool {
        self.0.range(SPARSE.to_vec()..).next().is_some_and(|(key, _)| key.starts_with(SPARSE))
    }

    /// The extended attributes, sorted by name.
    pub fn xattrs(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let from = self.0.range(XATTR.to_vec()..);
        from.map_while(|(key, value)| Some((key.strip_prefix(XATTR)?, value)))
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| (name.to_vec(), value.clone()))
            .collect()
    }
}

/// Splits the first record from the others.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().position(|byte| *byte == b' ')?;
    let digits = std::str::from_utf8(bytes.get(..space)?).ok()?;
    let length: usize = digits.parse().ok().filter(|_| digits.bytes().all(|digit| digit.is_ascii_digit()))?;
    let (record, rest) = bytes.split_at_checked(length)?;
    let body = record.get(space.checked_add(1)?..)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|byte| *byte == b'=')?;
    Some((body.get(..equals)?, body.get(equals.checked_add(1)?..)?, rest))
}

/// Whether the value of `key` is a name rather than any bytes.
fn is_text(key: &[u8]) -> bool {
    matches!(key, b"path" | b"linkpath" | b"uname" | b"gname")
}

/// `[-]SECONDS[.FRACTION]`; digits below nanoseconds are cut off.
fn parse_time(text: &str) -> Option<Time> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let padded = fraction.bytes().chain(std::iter::repeat(b'0')).take(9);
    let nanoseconds = padded
        .fold(0u32, |number, digit| number.saturating_mul(10).saturating_add(u32::from(digit.saturating_sub(b'0'))));
    if whole.starts_with('-') && nanoseconds > 0 {
        return Some(Time {
            seconds: seconds.checked_sub(1)?,
            nanoseconds: 1_000_000_000u32.saturating_sub(nanoseconds),
        });
    }
    Some(Time { seconds, nanoseconds })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_bytes_and_may_hold_newlines() {
        let records = Records::parse(b"12 path=a\nb\n26 SCHILY.xattr.user.x=\n\xff\n13 size=1234\n").unwrap();
        assert_eq!(records.get("path"), Some(&b"a\nb"[..]));
        assert_eq!(records.xattrs(), [(b"user.x".to_vec(), b"\n\xff".to_vec())]);
        assert_eq!(records.number("size").unwrap(), Some(1234));
        assert!(!records.is_sparse());
    }

    #[test]
    fn the_last_record_of_a_key_wins_and_empty_values_count_for_nothing() {
        let records = Records::parse(b"9 path=a\n9 path=b\n8 size=\n21 SCHILY.xattr.a.b=\n").unwrap();
        assert_eq!(records.get("path"), Some(&b"b"[..]));
        assert_eq!(records.number("size").unwrap(), None);
        assert!(records.xattrs().is_empty());
    }

    #[test]
    fn broken_records_are_refused() {
        for bytes in [
            &b"x"[..],
            b"9 path=a",
            b"8 path=a\n",
            b"11 path=a\n",
            b"99999999999999999999 path=a\n",
            b"+9 path=a\n",
            b"2 \n",
            b"4 =\n\n",
            b"0 path=a\n",
            b"10 path=a\0\n",
            b"7 nokey\n",
        ] {
            assert!(Records::parse(bytes).is_err(), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn times_have_nanoseconds_and_may_be_negative() {
        for (text, expected) in [
            ("1700000000", Some((1_700_000_000, 0))),
            ("1700000000.5", Some((1_700_000_000, 500_000_000))),
            ("1.1234567899", Some((1, 123_456_789))),
            ("-1", Some((-1, 0))),
            ("-1.25", Some((-2, 750_000_000))),
            ("-0.5", Some((-1, 500_000_000))),
            ("5.", Some((5, 0))),
            (".5", None),
            ("1.-5", None),
            ("1e5", None),
        ] {
            let expected = expected.map(|(seconds, nanoseconds)| Time { seconds, nanoseconds });
            assert_eq!(parse_time(text), expected, "{text}");
        }
    }
}
