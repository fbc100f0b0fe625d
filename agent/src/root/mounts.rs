//! What is mounted in a task's root: volumes, file systems in memory, and files that take the place of the image's.
//!
//! Parents come before what is in them, so that nothing is covered. A file system in memory takes the place of a volume at
//! the same path. The container's own file systems come later and would cover what is mounted here, so nothing is mounted there;
//! but `/dev/shm` may be a file system of the task's own size, and have others in it: then `/dev` is moved here already.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use protocol::spec::{EtcFile, Mount, TaskSpec, TmpfsMount};

use super::resolve::{self, ResolveError, Wanted};
use super::{Overlay, Places, RootError, make_directory};
use crate::container::skeleton::Skeleton;
use crate::failure::quoted;

/// What the container mounts itself.
const RESERVED: [&str; 3] = ["dev", "proc", "sys"];

/// What may be mounted there all the same.
const SHARED_MEMORY: &str = "dev/shm";

const TMPFS: &str = "file system in memory";

/// Mounts everything that `spec` asks for in the root.
pub fn mount_all(places: &Places, spec: &TaskSpec, skeleton: &Skeleton) -> Result<(), RootError> {
    let volatile = spec.root.scratch.is_some();
    move_shared_memory(places, &spec.mounts, skeleton)?;
    for (number, entry) in in_order(&spec.mounts).into_iter().enumerate() {
        match entry {
            Mount::Tmpfs(tmpfs) => mount_tmpfs(places, tmpfs)?,
            Mount::Volume { path } => mount_volume(places, path, &number.to_string(), volatile)?,
        }
    }
    spec.files.iter().enumerate().try_for_each(|(number, file)| place_file(places, file, &format!("files-{number}")))
}

/// The mounts that count, parents first.
fn in_order(mounts: &[Mount]) -> Vec<&Mount> {
    let mut sorted: Vec<_> = mounts.iter().map(|mount| (names(path(mount)), mount)).collect();
    // With the same path, the file system in memory comes first and stays; of several, the last that was given.
    sorted.reverse();
    sorted.sort_by(|(a, one), (b, other)| a.cmp(b).then_with(|| is_volume(one).cmp(&is_volume(other))));
    sorted.dedup_by(|(next, _), (kept, _)| next == kept);
    sorted.into_iter().map(|(_, mount)| mount).collect()
}

fn path(mount: &Mount) -> &[u8] {
    match mount {
        Mount::Tmpfs(TmpfsMount { path, .. }) | Mount::Volume { path } => path,
    }
}

/// The names that a path has, but for those that say nothing.
fn names(path: &[u8]) -> Vec<&[u8]> {
    path.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b".")).collect()
}

/// Whether a path is `/dev/shm` or in it, by its name alone: no link of the image leads there.
fn is_in_shared_memory(path: &[u8]) -> bool {
    let names = names(path);
    names.starts_with(&[b"dev", &b"shm"[..]]) && !names.contains(&&b".."[..])
}

/// Moves the container's `/dev` in, without `/dev/shm` if that is asked for, where something is to be mounted in them.
fn move_shared_memory(places: &Places, mounts: &[Mount], skeleton: &Skeleton) -> Result<(), RootError> {
    let wanted = mounts.iter().filter_map(|mount| match mount {
        Mount::Tmpfs(TmpfsMount { path, .. }) if is_in_shared_memory(path) => Some(names(path).len()),
        Mount::Tmpfs(_) | Mount::Volume { .. } => None,
    });
    let Some(depth) = wanted.min() else { return Ok(()) };
    if place_anywhere(places, TMPFS, b"/dev", Wanted::Directory)? != Path::new("dev") {
        return Err(RootError::Target { path: quoted(b"/dev"), problem: "it is a symbolic link of the image" });
    }
    skeleton.move_dev(&places.root)?;
    if depth == names(SHARED_MEMORY.as_bytes()).len() {
        skeleton.remove_shared_memory(&places.root)?;
    }
    Ok(())
}

fn is_volume(mount: &Mount) -> bool {
    matches!(mount, Mount::Volume { .. })
}

/// Where `path` really is, relative to the root; made where it is missing.
fn place(places: &Places, what: &'static str, path: &[u8], wanted: Wanted) -> Result<PathBuf, RootError> {
    let place = place_anywhere(places, what, path, wanted)?;
    let refused = |problem| Err(RootError::Target { path: quoted(path), problem });
    if place.as_os_str().is_empty() {
        return refused("it is the root itself");
    }
    if RESERVED.iter().any(|reserved| place.starts_with(reserved)) {
        return refused("the task's own /dev, /proc and /sys are there");
    }
    Ok(place)
}

/// The same, also where only the container mounts something.
fn place_anywhere(places: &Places, what: &'static str, path: &[u8], wanted: Wanted) -> Result<PathBuf, RootError> {
    let refused = |problem| RootError::Target { path: quoted(path), problem };
    resolve::make(&places.root, path, wanted).map_err(|error| match error {
        ResolveError::Path(problem) => refused(problem),
        ResolveError::System(source) => RootError::Inside { what, path: quoted(path), source },
    })
}

fn inside(what: &'static str, path: &[u8]) -> impl Fn(Errno) -> RootError {
    let path = quoted(path);
    move |errno| RootError::Inside { what, path: path.clone(), source: errno.into() }
}

fn mount_tmpfs(places: &Places, tmpfs: &TmpfsMount) -> Result<(), RootError> {
    // The names of those in /dev/shm lead nowhere else: what is there was mounted here.
    let find = if is_in_shared_memory(&tmpfs.path) { place_anywhere } else { place };
    let place = find(places, TMPFS, &tmpfs.path, Wanted::Directory)?;
    let flags = [
        (!tmpfs.suid, MsFlags::MS_NOSUID),
        (!tmpfs.dev, MsFlags::MS_NODEV),
        (!tmpfs.exec, MsFlags::MS_NOEXEC),
        (tmpfs.read_only, MsFlags::MS_RDONLY),
    ];
    let flags = flags.iter().filter(|(set, _)| *set).fold(MsFlags::empty(), |all, (_, flag)| all | *flag);
    let mut data = format!("mode={:o},uid={},gid={}", tmpfs.mode & 0o7777, tmpfs.uid, tmpfs.gid);
    if let Some(size) = tmpfs.size {
        // Zero would mean no limit.
        data.push_str(&format!(",size={}", size.max(1)));
    }
    let target = places.root.join(place);
    mount(Some("tmpfs"), &target, Some("tmpfs"), flags, Some(data.as_str())).map_err(inside(TMPFS, &tmpfs.path))
}

/// Mounts a volume: an overlay of its own where the image has a directory, so that its content stays visible and the root's
/// being read-only does not matter; a directory of the upper file system where it has none.
fn mount_volume(places: &Places, path: &[u8], name: &str, volatile: bool) -> Result<(), RootError> {
    const WHAT: &str = "volume";
    let place = place(places, WHAT, path, Wanted::Directory)?;
    let (target, lower) = (places.root.join(&place), places.image.join(&place));
    let mounted = if is_directory_of(&places.image, &place) {
        Overlay { lower: &lower, upper: &places.upper, name, volatile }.mount(&target)?
    } else {
        let directory = places.upper.join(name);
        make_directory(&directory)?;
        mount(Some(&directory), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
    };
    mounted.map_err(inside(WHAT, path))
}

/// Whether the image has a directory at `place`, reached through directories only. A place may be new, or inside another
/// mount that covers what the image has.
fn is_directory_of(image: &Path, place: &Path) -> bool {
    let mut path = image.to_owned();
    place.iter().all(|name| {
        path.push(name);
        fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir())
    })
}

/// Mounts a file over the image's.
fn place_file(places: &Places, file: &EtcFile, name: &str) -> Result<(), RootError> {
    const WHAT: &str = "file";
    let place = place(places, WHAT, &file.path, Wanted::File)?;
    let source = places.upper.join(name);
    write(&source, &file.content, file.mode)
        .map_err(|error| RootError::Make { path: source.clone(), source: error })?;
    let target = places.root.join(place);
    mount(Some(&source), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(inside(WHAT, &file.path))
}

fn write(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mode = mode & 0o7777;
    let mut file = fs::File::options().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(content)?;
    if mode & 0o7022 == 0 {
        return Ok(());
    }
    // The umask may have taken bits.
    file.set_permissions(fs::Permissions::from_mode(mode))
}
