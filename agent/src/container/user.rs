//! Who the command runs as: the image's `user` setting against the image's own `/etc/passwd` and `/etc/group`, by Docker's
//! rules.
//!
//! - `user` is a name or a number; a name must be in `/etc/passwd`, a number need not be and then has group 0.
//! - `:group`, where it is given, replaces the user's group and leaves no supplementary groups.
//! - Otherwise the user's name decides the supplementary groups.
//! - A number is first tried as a name; the first line that matches wins.
//!
//! The files are hostile: of limited size, never waited for, and lines that are wrong do not count. They are looked up in
//! the process's root directory, so that must be the container's already.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use protocol::message::FailureKind;

use crate::failure::{Kind, quoted};

/// The largest `/etc/passwd` or `/etc/group` that is read, in bytes.
const LARGEST: u64 = 8 << 20;

/// The largest id that Docker takes.
const LARGEST_ID: u32 = i32::MAX.unsigned_abs();

/// The most supplementary groups that Linux takes (`NGROUPS_MAX`), less the one that is added.
const MOST_GROUPS: usize = 65_535;

/// Why a user setting could not be resolved.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// A name that is not in `/etc/passwd`.
    #[error("The command can't run as unknown user {name}: the image's /etc/passwd has no such name")]
    UnknownUser {
        /// The quoted name.
        name: String,
    },
    /// A name that is not in `/etc/group`.
    #[error("The command can't run in unknown group {name}: the image's /etc/group has no such name")]
    UnknownGroup {
        /// The quoted name.
        name: String,
    },
    /// A number that is no id.
    #[error("The user or group id {id} is not between 0 and {LARGEST_ID}")]
    Range {
        /// The id as given.
        id: String,
    },
    /// A file that cannot be used.
    #[error("The image's {path} can't be read")]
    File {
        /// Which one.
        path: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Kind for UserError {
    fn kind(&self) -> FailureKind {
        match self {
            Self::UnknownUser { .. } | Self::UnknownGroup { .. } | Self::Range { .. } => FailureKind::Settings,
            Self::File { .. } => FailureKind::Image,
        }
    }
}

/// A resolved user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// All groups of the process: its own first, then the supplementary ones.
    pub groups: Vec<u32>,
    /// Home directory.
    pub home: Vec<u8>,
}

/// Resolves `setting` against the files below the process's root directory.
///
/// # Errors
/// All of [`UserError`].
pub fn resolve(setting: &str) -> Result<User, UserError> {
    let passwd = read("/etc/passwd")?;
    let group = read("/etc/group")?;
    resolve_with(setting, &passwd, &group)
}

fn read(path: &'static str) -> Result<Vec<u8>, UserError> {
    read_bounded(Path::new(path)).map_err(|source| UserError::File { path, source })
}

/// What is in the regular file `path`; nothing when there is none.
fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    // Without O_NONBLOCK a fifo of that name would be waited for.
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
    let file: File = match opened {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let capacity = usize::try_from(metadata.len().min(LARGEST)).unwrap_or_default();
    let mut content = Vec::with_capacity(capacity.saturating_add(1));
    let count = file.take(LARGEST.saturating_add(1)).read_to_end(&mut content)?;
    if u64::try_from(count).unwrap_or(u64::MAX) > LARGEST {
        return Err(io::Error::other(format!("it is larger than {LARGEST} bytes")));
    }
    Ok(content)
}

/// A line of `/etc/passwd`.
struct Account<'a> {
    name: &'a [u8],
    uid: u32,
    gid: u32,
    home: &'a [u8],
}

/// A line of `/etc/group`.
struct Group<'a> {
    name: &'a [u8],
    gid: u32,
    members: &'a [u8],
}

fn accounts(passwd: &[u8]) -> impl Iterator<Item = Account<'_>> {
    lines(passwd).filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let uid = number(fields.nth(1)?)?;
        let gid = number(fields.next()?)?;
        Some(Account { name, uid, gid, home: fields.nth(1).unwrap_or_default() })
    })
}

fn groups(group: &[u8]) -> impl Iterator<Item = Group<'_>> {
    lines(group).filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let gid = number(fields.nth(1)?)?;
        Some(Group { name, gid, members: fields.next().unwrap_or_default() })
    })
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii)
}

fn number(text: &[u8]) -> Option<u32> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    str::from_utf8(text).ok().filter(|_| digits)?.parse().ok().filter(|id| *id <= LARGEST_ID)
}

/// A name, or a number that may also be a name.
#[derive(Clone, Copy)]
struct Who<'a> {
    text: &'a str,
    id: Option<u32>,
}

impl<'a> Who<'a> {
    fn new(text: &'a str) -> Result<Self, UserError> {
        let signed = text.strip_prefix('-').unwrap_or(text);
        let numeric = !signed.is_empty() && signed.bytes().all(|byte| byte.is_ascii_digit());
        let id = number(text.as_bytes());
        if numeric && id.is_none() {
            return Err(UserError::Range { id: text.to_owned() });
        }
        Ok(Self { text, id })
    }

    fn is(self, name: &[u8], id: u32) -> bool {
        name == self.text.as_bytes() || self.id == Some(id)
    }
}

/// Resolves `setting` against these contents of the two files.
fn resolve_with(setting: &str, passwd: &[u8], group: &[u8]) -> Result<User, UserError> {
    let (user, named_group) = setting.split_once(':').unwrap_or((setting, ""));
    let who = Who::new(if user.is_empty() { "0" } else { user })?;
    // Without a user the account is the one with id 0, whatever accounts are *named* 0.
    let account = accounts(passwd)
        .find(|account| if user.is_empty() { account.uid == 0 } else { who.is(account.name, account.uid) });
    let (uid, account_gid, home) = match (&account, who.id) {
        (Some(account), _) => (account.uid, account.gid, account.home),
        (None, Some(uid)) => (uid, 0, &b""[..]),
        (None, None) => return Err(UserError::UnknownUser { name: quoted(user.as_bytes()) }),
    };
    let (gid, supplementary) = if named_group.is_empty() {
        (account_gid, account.map(|account| memberships(group, account.name)).unwrap_or_default())
    } else {
        (explicit_group(named_group, group)?, Vec::new())
    };
    let mut groups = vec![gid];
    groups.extend(supplementary.into_iter().filter(|other| *other != gid));
    let home = if home.is_empty() { b"/".to_vec() } else { home.to_vec() };
    Ok(User { uid, gid, groups, home })
}

fn explicit_group(setting: &str, group: &[u8]) -> Result<u32, UserError> {
    let who = Who::new(setting)?;
    let found = groups(group).find(|group| who.is(group.name, group.gid)).map(|group| group.gid);
    found.or(who.id).ok_or_else(|| UserError::UnknownGroup { name: quoted(setting.as_bytes()) })
}

/// The groups that name `user` as a member, in the file's order.
fn memberships(group: &[u8], user: &[u8]) -> Vec<u32> {
    let is_member = |group: &Group<'_>| group.members.split(|byte| *byte == b',').any(|member| member == user);
    let mut seen = std::collections::HashSet::new();
    let ids = groups(group).filter(is_member).map(|group| group.gid).filter(|gid| seen.insert(*gid));
    ids.take(MOST_GROUPS).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PASSWD: &[u8] =
        b"root:x:0:0:root:/root:/bin/sh\n# a comment\nbroken:x:zero:0::/:\nwww:x:33:33:www:/var/www:/bin/false\n\
        1000:x:7:8::/seven:/bin/sh\nhomeless:x:44:45:::\n-:x:5\n";
    const GROUP: &[u8] = b"root:x:0:\nadm:x:4:www,root\nwww:x:33:\ntape:x:26:www\ntape2:x:26:www\nempty::9\n";

    fn user(setting: &str) -> Result<User, UserError> {
        resolve_with(setting, PASSWD, GROUP)
    }

    fn ids(setting: &str) -> (u32, u32, Vec<u32>) {
        let user = user(setting).unwrap();
        (user.uid, user.gid, user.groups)
    }

    #[test]
    fn a_name_brings_its_group_its_memberships_and_its_home() {
        let expected = User { uid: 33, gid: 33, groups: vec![33, 4, 26], home: b"/var/www".to_vec() };
        assert_eq!(user("www").unwrap(), expected);
    }

    #[test]
    fn an_empty_setting_is_root_with_its_memberships() {
        assert_eq!(ids(""), (0, 0, vec![0, 4]));
        assert_eq!(user("").unwrap().home, b"/root");
    }

    #[test]
    fn a_number_in_passwd_brings_the_account_and_its_memberships() {
        assert_eq!(ids("33"), (33, 33, vec![33, 4, 26]));
    }

    #[test]
    fn a_number_that_is_nobody_has_group_0_and_home_slash() {
        let expected = User { uid: 12345, gid: 0, groups: vec![0], home: b"/".to_vec() };
        assert_eq!(user("12345").unwrap(), expected);
    }

    #[test]
    fn a_number_that_is_a_name_is_that_account() {
        assert_eq!(ids("1000"), (7, 8, vec![8]));
    }

    #[test]
    fn an_explicit_group_leaves_no_memberships() {
        assert_eq!(ids("www:adm"), (33, 4, vec![4]));
        assert_eq!(ids("www:777"), (33, 777, vec![777]));
        assert_eq!(ids("500:tape"), (500, 26, vec![26]));
        assert_eq!(ids(":adm"), (0, 4, vec![4]));
        assert_eq!(ids("www:"), (33, 33, vec![33, 4, 26]));
    }

    #[test]
    fn an_account_without_home_is_at_home_in_slash() {
        assert_eq!(user("homeless").unwrap().home, b"/");
    }

    #[test]
    fn unknown_names_are_named_in_the_error() {
        assert_eq!(
            user("nobody-here").unwrap_err().to_string(),
            "The command can't run as unknown user \"nobody-here\": the image's /etc/passwd has no such name"
        );
        assert!(matches!(user("broken"), Err(UserError::UnknownUser { .. })));
        assert!(matches!(user("www:nothing"), Err(UserError::UnknownGroup { .. })));
        assert!(matches!(resolve_with("www", b"", b""), Err(UserError::UnknownUser { .. })));
    }

    #[test]
    fn ids_out_of_range_are_refused() {
        for setting in ["2147483648", "-1", "99999999999999999999", "0:4294967295"] {
            assert!(matches!(user(setting), Err(UserError::Range { .. })), "{setting}");
        }
        assert_eq!(ids("2147483647").0, LARGEST_ID);
    }

    #[test]
    fn a_file_that_is_missing_is_empty_and_one_that_is_a_fifo_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read_bounded(&dir.path().join("passwd")).unwrap(), b"");
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert_eq!(read_bounded(&fifo).unwrap_err().to_string(), "it is not a regular file");
    }

    #[test]
    fn a_file_that_is_too_large_is_refused_unread() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(LARGEST + 1).unwrap();
        assert!(read_bounded(file.path()).is_err());
    }

    proptest! {
        #[test]
        fn hostile_files_never_panic_and_ids_stay_in_range(
            setting in "[a-z0-9:-]{0,12}",
            passwd in prop::collection::vec(prop_oneof![Just(b':'), Just(b'\n'), Just(b'0'), any::<u8>()], 0..200),
            group in prop::collection::vec(prop_oneof![Just(b':'), Just(b','), Just(b'\n'), any::<u8>()], 0..200),
        ) {
            if let Ok(user) = resolve_with(&setting, &passwd, &group) {
                prop_assert!(user.uid <= LARGEST_ID && user.gid <= LARGEST_ID);
                prop_assert_eq!(user.groups.first(), Some(&user.gid));
                prop_assert!(!user.home.is_empty());
            }
        }

        #[test]
        fn every_written_account_is_found_again(name in "[a-z][a-z0-9_-]{0,20}", uid in 1..=LARGEST_ID, gid in 0..=LARGEST_ID) {
            let passwd = format!("root:x:0:0::/root:\n{name}:x:{uid}:{gid}::/home/{name}:/bin/sh\n");
            prop_assume!(name != "root");
            let by_name = resolve_with(&name, passwd.as_bytes(), b"").unwrap();
            let by_id = resolve_with(&uid.to_string(), passwd.as_bytes(), b"").unwrap();
            prop_assert_eq!((by_name.uid, by_name.gid), (uid, gid));
            prop_assert_eq!(by_name, by_id);
        }
    }
}
