//! `--tmpfs` and `--add-host`, as docker writes them.

use std::net::IpAddr;

use protocol::spec::TmpfsMount;

use crate::bytes::Bytes;

/// The permission bits of a tmpfs's root, where none are given.
const TMPFS_MODE: u32 = 0o1777;

/// Reads `PATH[:OPTION,…]`. The options are those of docker (`size=64m`, `mode=1770`, `uid=1000`, `gid=1000`, `ro`, `rw`,
/// `exec`, `noexec`, `suid`, `nosuid`, `dev`, `nodev`) and a bare size.
///
/// # Errors
/// A sentence.
pub fn tmpfs(text: &str) -> Result<TmpfsMount, String> {
    let (path, options) = text.split_once(':').unwrap_or((text, ""));
    if !path.starts_with('/') || path.split('/').all(|name| name.is_empty() || name == "." || name == "..") {
        return Err("Write an absolute path below /, such as /run or /run:size=64m".to_owned());
    }
    if path.contains('\0') {
        return Err("The path has a NUL character".to_owned());
    }
    let mut mount = TmpfsMount { path: path.into(), mode: TMPFS_MODE, ..TmpfsMount::default() };
    options.split(',').filter(|option| !option.is_empty()).try_for_each(|option| apply(&mut mount, option))?;
    Ok(mount)
}

fn apply(mount: &mut TmpfsMount, option: &str) -> Result<(), String> {
    let bad = || format!("The tmpfs option {option:?} has no valid value");
    let number = |text: &str, radix| u32::from_str_radix(text, radix).map_err(|_| bad());
    match option.split_once('=') {
        Some(("size", size)) => mount.size = Some(size_of(size).ok_or_else(bad)?),
        Some(("mode", mode)) => mount.mode = Some(number(mode, 8)?).filter(|mode| *mode <= 0o7777).ok_or_else(bad)?,
        Some(("uid", uid)) => mount.uid = number(uid, 10)?,
        Some(("gid", gid)) => mount.gid = number(gid, 10)?,
        Some(_) => return Err(unknown(option)),
        None => match option {
            "ro" => mount.read_only = true,
            "rw" => mount.read_only = false,
            "exec" => mount.exec = true,
            "noexec" => mount.exec = false,
            "suid" => mount.suid = true,
            "nosuid" => mount.suid = false,
            "dev" => mount.dev = true,
            "nodev" => mount.dev = false,
            size => mount.size = Some(size_of(size).ok_or_else(|| unknown(option))?),
        },
    }
    Ok(())
}

/// A size of a tmpfs. To the kernel 0 would mean no limit.
fn size_of(text: &str) -> Option<u64> {
    text.parse::<Bytes>().ok().map(|bytes| bytes.0).filter(|bytes| *bytes > 0)
}

fn unknown(option: &str) -> String {
    format!("{option:?} is no option of a tmpfs: use size=, mode=, uid=, gid=, ro, rw, [no]exec, [no]suid or [no]dev")
}

/// Reads `NAME:ADDRESS`.
///
/// # Errors
/// A sentence.
pub fn host(text: &str) -> Result<(String, IpAddr), String> {
    let (name, address) = text.split_once([':', '=']).ok_or("Write NAME:ADDRESS, such as db:10.0.0.7")?;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if name.is_empty() || !name.bytes().all(allowed) {
        return Err(format!("{name:?} is not the name of a host"));
    }
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    let address = bare.parse().map_err(|_| format!("{address:?} is not an IP address"))?;
    Ok((name.to_owned(), address))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_tmpfs_has_dockers_defaults_and_options() {
        let plain = tmpfs("/run").unwrap();
        assert_eq!((plain.path.as_slice(), plain.size, plain.mode), (&b"/run"[..], None, 0o1777));
        assert!(!plain.exec && !plain.suid && !plain.dev && !plain.read_only);
        assert_eq!(tmpfs("/run:64m").unwrap().size, Some(64 << 20));
        let full = tmpfs("/run:rw,exec,suid,dev,size=1GB,mode=750,uid=7,gid=8").unwrap();
        assert!(full.exec && full.suid && full.dev && !full.read_only);
        assert_eq!((full.size, full.mode, full.uid, full.gid), (Some(1 << 30), 0o750, 7, 8));
    }

    #[test]
    fn a_tmpfs_that_cannot_be_is_refused() {
        for bad in
            ["", "run", "/", "//", "/.", "/..", "/x:size=0", "/x:mode=9", "/x:mode=10000", "/x:uid=-1", "/x:fast"]
        {
            assert!(tmpfs(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hosts_have_addresses_of_both_kinds() {
        assert_eq!(host("db:10.0.0.7"), Ok(("db".into(), "10.0.0.7".parse().unwrap())));
        assert_eq!(host("db:::1"), Ok(("db".into(), "::1".parse().unwrap())));
        assert_eq!(host("db=[fe80::1]"), Ok(("db".into(), "fe80::1".parse().unwrap())));
        for bad in ["db", ":1.1.1.1", "db:", "a b:1.1.1.1", "db:host-gateway"] {
            assert!(host(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_odd(text in "\\PC{0,32}") {
            let _ = tmpfs(&text);
            let _ = host(&text);
        }
    }
}
