//! Lists a tree of files, so that two unpackers can be compared entry by entry.
//!
//! A line has the path, type and mode, owner, modification time in nanoseconds, device number, size, hard-link group,
//! link target or digest of the content, and the extended attributes. Hard-link groups are named by their first path.

use std::collections::HashMap;
use std::ffi::{CString, OsStr};
use std::fs::{self, Metadata};
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// Directories that a container gets from its runtime, not from its image: only they themselves are listed.
const MOUNTED: [&str; 3] = ["dev", "proc", "sys"];

/// Prints the tree at `root`.
pub fn print(root: &Path) -> Result<()> {
    let mut links = HashMap::new();
    let mut out = std::io::stdout().lock();
    let mut pending = vec![PathBuf::new()];
    while let Some(relative) = pending.pop() {
        let path = root.join(&relative);
        let metadata = fs::symlink_metadata(&path).with_context(|| format!("Can't look at {}", path.display()))?;
        let line = describe(&path, &relative, &metadata, &mut links)?;
        out.write_all(line.as_bytes()).context("Can't print")?;
        let mounted = MOUNTED.iter().any(|name| relative == Path::new(name));
        if metadata.is_dir() && !mounted {
            pending.extend(children(&path, &relative)?);
        }
    }
    Ok(())
}

/// The entries of a directory, the last name first, so that the first is popped first.
fn children(path: &Path, relative: &Path) -> Result<Vec<PathBuf>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path).with_context(|| format!("Can't list {}", path.display()))? {
        names.push(entry.context("Can't list a directory")?.file_name());
    }
    names.sort();
    Ok(names.into_iter().rev().map(|name| relative.join(name)).collect())
}

fn describe(path: &Path, relative: &Path, metadata: &Metadata, links: &mut HashMap<u64, String>) -> Result<String> {
    let name = relative.as_os_str().as_bytes().escape_ascii().to_string();
    let kind = metadata.file_type();
    let mounted_or_root = relative.as_os_str().is_empty() || MOUNTED.iter().any(|known| relative == Path::new(known));
    // Mount points are the runtime's: their modes and times say nothing about the image.
    if mounted_or_root && metadata.is_dir() {
        return Ok(format!("/{name} directory\n"));
    }
    let content = if kind.is_symlink() {
        fs::read_link(path)?.as_os_str().as_bytes().escape_ascii().to_string()
    } else if kind.is_file() {
        hex(&Sha256::digest(fs::read(path)?))
    } else if kind.is_char_device() || kind.is_block_device() {
        format!("device {:#x}", metadata.rdev())
    } else {
        String::from("-")
    };
    let size = if metadata.is_file() { metadata.size() } else { 0 };
    let group = if metadata.nlink() > 1 && !metadata.is_dir() {
        links.entry(metadata.ino()).or_insert_with(|| name.clone()).clone()
    } else {
        String::from("-")
    };
    let (mode, uid, gid) = (metadata.mode(), metadata.uid(), metadata.gid());
    let time = format!("{}.{:09}", metadata.mtime(), metadata.mtime_nsec());
    let attributes = attributes(path)?;
    Ok(format!("/{name} {mode:o} {uid}:{gid} {time} {size} {content} link={group} {attributes}\n"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The extended attributes of an entry itself, sorted; those of the host's own security modules are left out.
fn attributes(path: &Path) -> Result<String> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut names: Vec<_> = list(&path).split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
    names.retain(|name| !name.is_empty() && name != b"security.selinux");
    names.sort();
    let mut text = String::from("xattrs=");
    for name in names {
        let value = value(&path, &CString::new(name.clone())?);
        text += &format!("{}:{},", OsStr::from_bytes(&name).display(), value.escape_ascii());
    }
    Ok(text)
}

#[expect(unsafe_code, reason = "the standard library has no extended attributes")]
fn list(path: &CString) -> Vec<u8> {
    let mut buffer = vec![0_u8; 64 << 10];
    // SAFETY: the path ends in NUL and the buffer has the length that is given.
    let length = unsafe { libc::llistxattr(path.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) };
    buffer.truncate(usize::try_from(length).unwrap_or(0));
    buffer
}

#[expect(unsafe_code, reason = "the standard library has no extended attributes")]
fn value(path: &CString, name: &CString) -> Vec<u8> {
    let mut buffer = vec![0_u8; 64 << 10];
    // SAFETY: both strings end in NUL and the buffer has the length that is given.
    let length = unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) };
    buffer.truncate(usize::try_from(length).unwrap_or(0));
    std::ffi::OsString::from_vec(buffer).into_vec()
}
