//! Extended attributes: each distinct one is in memory once, encoded, and on disk once where that is smaller.

use std::collections::HashMap;
use std::sync::Arc;

use crate::attributes::Xattr;
use crate::error::{Error, printable};
use crate::format::{XATTR_ENTRY, XATTR_HEADER, XATTRS_MAX};

/// The prefixes of names that EROFS has numbers for.
const PREFIXES: [(&[u8], u8); 3] = [(b"user.", 1), (b"trusted.", 4), (b"security.", 6)];
/// Whole names that EROFS has numbers for.
const NAMES: [(&[u8], u8); 2] = [(b"system.posix_acl_access", 2), (b"system.posix_acl_default", 3)];
/// The longest name that Linux has.
const NAME_MAX: usize = 255;
/// An inode counts its shared attributes in a byte.
const SHARED_MAX: usize = u8::MAX as usize;

/// All extended attributes of an image.
#[derive(Debug, Default)]
pub(crate) struct Xattrs {
    ids: HashMap<Arc<[u8]>, u32>,
    /// Encoded as on disk, padded.
    entries: Vec<Arc<[u8]>>,
}

impl Xattrs {
    /// The attributes' ids, in the order of their names.
    pub(crate) fn intern(&mut self, mut xattrs: Vec<Xattr>) -> Result<Box<[u32]>, Error> {
        xattrs.sort();
        if let Some([_, (name, _)]) = xattrs.array_windows().find(|[(a, _), (b, _)]| a == b) {
            return Err(Error::Xattr { name: printable(name), problem: "it is there twice" });
        }
        let entries = xattrs.iter().map(|(name, value)| encode(name, value)).collect::<Result<Vec<_>, _>>()?;
        let size = entries.iter().map(Vec::len).fold(XATTR_HEADER, usize::saturating_add);
        if size > XATTRS_MAX {
            return Err(Error::XattrsSize { size, limit: XATTRS_MAX });
        }
        entries.into_iter().map(|entry| self.id(entry)).collect()
    }

    fn id(&mut self, entry: Vec<u8>) -> Result<u32, Error> {
        if let Some(&id) = self.ids.get(entry.as_slice()) {
            return Ok(id);
        }
        let what = "different extended attributes";
        let id = u32::try_from(self.entries.len()).map_err(|_| Error::TooMany { what })?;
        let entry: Arc<[u8]> = entry.into();
        self.ids.insert(Arc::clone(&entry), id);
        self.entries.push(entry);
        Ok(id)
    }

    /// Decides which attributes are shared. `uses` gives the ids of each inode.
    pub(crate) fn share<'a>(&self, uses: impl Iterator<Item = &'a [u32]>) -> Result<Shared<'_>, Error> {
        let mut counts = vec![0_usize; self.entries.len()];
        for &id in uses.flatten() {
            if let Some(count) = counts.get_mut(id as usize) {
                *count = count.saturating_add(1);
            }
        }
        let mut shared = Shared { entries: &self.entries, places: Vec::with_capacity(counts.len()), size: 0 };
        for (entry, count) in self.entries.iter().zip(counts) {
            let alone = entry.len().saturating_mul(count);
            let together = entry.len().saturating_add(XATTR_ENTRY.saturating_mul(count));
            let place = if together < alone { Some(shared.add(entry)?) } else { None };
            shared.places.push(place);
        }
        Ok(shared)
    }
}

/// Which attributes are shared, and where.
#[derive(Debug)]
pub(crate) struct Shared<'a> {
    entries: &'a [Arc<[u8]>],
    /// For each attribute its place among the shared ones, if it is.
    places: Vec<Option<u32>>,
    /// The size of the shared ones, in bytes.
    size: u64,
}

impl Shared<'_> {
    fn add(&mut self, entry: &[u8]) -> Result<u32, Error> {
        let place = u32::try_from(self.size / XATTR_ENTRY as u64);
        self.size = self.size.saturating_add(entry.len() as u64);
        place.map_err(|_| Error::TooMany { what: "shared extended attributes" })
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// The shared attributes in the order of their places.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &[u8]> {
        self.entries.iter().zip(&self.places).filter(|(_, place)| place.is_some()).map(|(entry, _)| &**entry)
    }

    /// How many bytes an inode with these attributes needs for them.
    pub(crate) fn body_size(&self, ids: &[u32]) -> usize {
        let Split { places, inline } = self.split(ids);
        match places.len().saturating_mul(XATTR_ENTRY).saturating_add(inline.iter().map(|entry| entry.len()).sum()) {
            0 => 0,
            size => XATTR_HEADER.saturating_add(size),
        }
    }

    /// Adds what follows an inode with these attributes.
    pub(crate) fn encode_body(&self, ids: &[u32], out: &mut Vec<u8>) {
        if ids.is_empty() {
            return;
        }
        let Split { places, inline } = self.split(ids);
        // No name filter: the superblock doesn't have that feature.
        out.extend(0_u32.to_le_bytes());
        out.push(u8::try_from(places.len()).unwrap_or(u8::MAX));
        out.extend([0; 7]);
        places.iter().for_each(|place| out.extend(place.to_le_bytes()));
        inline.iter().for_each(|entry| out.extend_from_slice(entry));
    }

    fn split(&self, ids: &[u32]) -> Split<'_> {
        let mut split = Split { places: Vec::new(), inline: Vec::new() };
        for &id in ids {
            let place = self.places.get(id as usize).copied().flatten();
            match (place, self.entries.get(id as usize)) {
                (Some(place), _) if split.places.len() < SHARED_MAX => split.places.push(place),
                (_, Some(entry)) => split.inline.push(entry),
                (_, None) => {}
            }
        }
        split
    }
}

/// An inode's attributes.
struct Split<'a> {
    /// Places of shared ones.
    places: Vec<u32>,
    inline: Vec<&'a [u8]>,
}

/// An attribute as it is on disk.
fn encode(name: &[u8], value: &[u8]) -> Result<Vec<u8>, Error> {
    let error = |problem| Error::Xattr { name: printable(name), problem };
    if name.len() > NAME_MAX {
        return Err(error("its name is longer than 255 bytes"));
    }
    if name.contains(&0) {
        return Err(error("its name has a zero byte"));
    }
    let (suffix, index) = split_name(name).ok_or_else(|| {
        error("EROFS has only names in user., trusted. and security., and the POSIX access control lists in system.")
    })?;
    let value_size = u16::try_from(value.len()).map_err(|_| error("its value is longer than 65535 bytes"))?;
    let name_size = u8::try_from(suffix.len()).map_err(|_| error("its name is longer than 255 bytes"))?;
    let mut out = vec![name_size, index];
    out.extend(value_size.to_le_bytes());
    out.extend_from_slice(suffix);
    out.extend_from_slice(value);
    out.resize(out.len().next_multiple_of(XATTR_ENTRY), 0);
    Ok(out)
}

/// The part of a name that is stored, and the number for the rest.
fn split_name(name: &[u8]) -> Option<(&[u8], u8)> {
    if let Some((_, index)) = NAMES.iter().find(|(whole, _)| *whole == name) {
        return Some((&[], *index));
    }
    let found = PREFIXES.iter().find_map(|(prefix, index)| Some((name.strip_prefix(*prefix)?, *index)));
    found.filter(|(suffix, _)| !suffix.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intern(xattrs: &mut Xattrs, pairs: &[(&str, &[u8])]) -> Result<Box<[u32]>, Error> {
        xattrs.intern(pairs.iter().map(|(name, value)| (name.as_bytes().into(), (*value).into())).collect())
    }

    #[test]
    fn names_have_the_kernels_numbers() {
        assert_eq!(encode(b"user.a", b"b").unwrap(), [1, 1, 1, 0, b'a', b'b', 0, 0]);
        assert_eq!(encode(b"security.capability", b"").unwrap()[..4], [10, 6, 0, 0]);
        assert_eq!(encode(b"trusted.x", b"").unwrap()[..4], [1, 4, 0, 0]);
        assert_eq!(encode(b"system.posix_acl_access", b"ab").unwrap(), [0, 2, 2, 0, b'a', b'b', 0, 0]);
        assert_eq!(encode(b"system.posix_acl_default", b"").unwrap(), [0, 3, 0, 0]);
    }

    #[test]
    fn what_has_no_place_is_refused() {
        let long = format!("user.{}", "x".repeat(251));
        let mut xattrs = Xattrs::default();
        for name in ["", "user.", "user", "system.posix_acl", "system.posix_acl_access2", "other.x", "user.a\0", &long]
        {
            assert!(matches!(intern(&mut xattrs, &[(name, b"")]), Err(Error::Xattr { .. })), "{name}");
        }
        assert!(matches!(intern(&mut xattrs, &[("user.a", &[0; 65536])]), Err(Error::Xattr { .. })));
        assert!(matches!(intern(&mut xattrs, &[("user.a", b"1"), ("user.a", b"2")]), Err(Error::Xattr { .. })));
        let large: Vec<(String, Vec<u8>)> = (0..5).map(|i| (format!("user.{i}"), vec![0; 60_000])).collect();
        let large: Vec<(&str, &[u8])> = large.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
        assert!(matches!(intern(&mut xattrs, &large), Err(Error::XattrsSize { .. })));
        assert!(intern(&mut xattrs, &large[..4]).is_ok());
    }

    #[test]
    fn what_many_inodes_have_is_shared() {
        let mut xattrs = Xattrs::default();
        let a = intern(&mut xattrs, &[("user.shared", b"value"), ("user.own", b"1")]).unwrap();
        let b = intern(&mut xattrs, &[("user.own", b"2"), ("user.shared", b"value")]).unwrap();
        let shared = xattrs.share([&*a, &*b].into_iter()).unwrap();
        assert_eq!(shared.entries().collect::<Vec<_>>(), [b"\x06\x01\x05\0sharedvalue\0"]);
        assert_eq!(shared.size(), 16);
        let mut body = Vec::new();
        shared.encode_body(&b, &mut body);
        assert_eq!(body, *b"\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\x03\x01\x01\0own2");
        assert_eq!(body.len(), shared.body_size(&b));
    }

    #[test]
    fn an_inode_has_at_most_255_shared_ones() {
        let mut xattrs = Xattrs::default();
        let names: Vec<String> = (0..300).map(|i| format!("user.{i:04}")).collect();
        let pairs: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b"value"[..])).collect();
        let ids = intern(&mut xattrs, &pairs).unwrap();
        let shared = xattrs.share([&*ids, &*ids].into_iter()).unwrap();
        let mut body = Vec::new();
        shared.encode_body(&ids, &mut body);
        assert_eq!(body[4], 255);
        assert_eq!(body.len(), 12 + 255 * 4 + 45 * 16);
        assert_eq!(body.len(), shared.body_size(&ids));
    }
}
