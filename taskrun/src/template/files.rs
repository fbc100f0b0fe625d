//! The folder of templates: what is in it, and its ways out of it.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::unistd::{AccessFlags, access};

use super::build::BuildError;
use super::key::{Inputs, Key};
use super::{ABOUT, MEMORY, STATE, TemplateError, Templates, WRITTEN};
use crate::errors;

/// How long a template that couldn't be made isn't tried again.
const PAUSE: Duration = Duration::from_secs(3600);

/// What marks that one couldn't be made.
const FAILED: &str = "failed";

/// What a folder is called before it is removed, so that nobody finds half a template.
const DISCARDED: &str = "discarded";

/// A template in the folder.
#[derive(Debug)]
pub struct Listed {
    /// Its key.
    pub key: String,
    /// What it was made of; `None` when that can't be read.
    pub inputs: Option<Inputs>,
    /// When it was made.
    pub made: Option<SystemTime>,
    /// When a task last started from it.
    pub used: Option<SystemTime>,
    /// What it takes on the disk, in bytes.
    pub size: u64,
}

impl Templates {
    /// How many templates there are, if others can be made.
    ///
    /// # Errors
    /// [`TemplateError::Folder`].
    pub fn check(&self) -> Result<usize, TemplateError> {
        create_folder(&self.folder)
            .and_then(|()| Ok(access(&self.folder, AccessFlags::W_OK)?))
            .map_err(|source| self.failed(source))?;
        Ok(self.list()?.len())
    }

    /// Where they are.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The templates that are there, in the order of their keys.
    ///
    /// # Errors
    /// [`TemplateError::Folder`].
    pub fn list(&self) -> Result<Vec<Listed>, TemplateError> {
        let mut listed: Vec<_> = names(&self.folder)
            .map_err(|source| self.failed(source))?
            .into_iter()
            .filter(|name| is_key(name))
            .map(|key| look(&self.folder, key))
            .collect();
        listed.sort_by(|one, other| one.key.cmp(&other.key));
        Ok(listed)
    }

    /// Removes the template whose key is or begins with `name`. Tasks that started from it go on. Gives its key.
    ///
    /// # Errors
    /// [`TemplateError`].
    pub fn remove(&self, name: &str) -> Result<String, TemplateError> {
        let mut found = self.list()?.into_iter().map(|listed| listed.key).filter(|key| key.starts_with(name));
        let key = found.next().filter(|_| !name.is_empty()).ok_or_else(|| TemplateError::Unknown(name.to_owned()))?;
        if found.next().is_some() {
            return Err(TemplateError::Ambiguous(name.to_owned()));
        }
        let _lock = self.lock(&mut |_| {}).map_err(|source| self.failed(source))?;
        discard(&self.folder, &key).map_err(|source| self.failed(source))?;
        Ok(key)
    }

    /// Removes the templates that `unwanted` says, and what is left of work that was broken off. Gives the keys, and how
    /// many bytes they took.
    ///
    /// # Errors
    /// [`TemplateError`].
    pub fn prune(&self, unwanted: impl Fn(&Listed) -> bool) -> Result<(Vec<String>, u64), TemplateError> {
        let _lock = self.lock(&mut |_| {}).map_err(|source| self.failed(source))?;
        let (mut keys, mut freed) = (Vec::new(), 0_u64);
        for listed in self.list()?.into_iter().filter(unwanted) {
            discard(&self.folder, &listed.key).map_err(|source| self.failed(source))?;
            freed = freed.saturating_add(listed.size);
            keys.push(listed.key);
        }
        clear_leftovers(&self.folder).map_err(|source| self.failed(source))?;
        Ok((keys, freed))
    }
}

/// Makes a folder, open to its owner alone: what is in it is the memory of guests.
pub(super) fn create_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Puts a file with this content at `path`, in one step for who reads it.
pub(super) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(content)?;
    file.persist(path).map(drop).map_err(|error| error.error)
}

/// Notes that a task starts from the template in `folder`.
pub(super) fn note_use(folder: &Path) {
    // The time is for people and for `prune`, so one that can't be noted does no harm.
    let _ = File::options().write(true).open(folder.join(ABOUT)).and_then(|file| file.set_modified(SystemTime::now()));
}

/// Takes a template away, in one step for who looks for it.
pub(super) fn discard(folder: &Path, key: &str) -> io::Result<()> {
    let away = tempfile::Builder::new().suffix(&format!(".{DISCARDED}")).tempdir_in(folder)?;
    match fs::rename(folder.join(key), away.path()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.and_then(|()| away.close()),
    }
}

/// Notes why a template couldn't be made.
pub(super) fn note_failure(folder: &Path, key: &Key, error: &BuildError) {
    // Without the note it is tried again with the next task.
    let _ = fs::write(marker(folder, key), errors::chain(error));
}

/// Whether this template couldn't be made, not long ago.
pub(super) fn failed_lately(folder: &Path, key: &Key) -> bool {
    let modified = fs::metadata(marker(folder, key)).and_then(|metadata| metadata.modified());
    modified.is_ok_and(|time| time.elapsed().is_ok_and(|elapsed| elapsed < PAUSE))
}

/// Takes back that a template couldn't be made.
pub(super) fn forget_failure(folder: &Path, key: &Key) {
    let _ = fs::remove_file(marker(folder, key));
}

fn marker(folder: &Path, key: &Key) -> PathBuf {
    folder.join(format!("{key}.{FAILED}"))
}

/// Removes what is neither a template nor of use to one. With the lock held.
fn clear_leftovers(folder: &Path) -> io::Result<()> {
    for name in names(folder)?.into_iter().filter(|name| !is_key(name) && name != "lock") {
        let path = folder.join(name);
        if path.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
    }
    Ok(())
}

fn names(folder: &Path) -> io::Result<Vec<String>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn is_key(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn look(folder: &Path, key: String) -> Listed {
    let folder = folder.join(&key);
    let about = folder.join(ABOUT);
    let inputs = fs::read(&about).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let state = fs::metadata(folder.join(STATE)).ok();
    let taken = |name| fs::metadata(folder.join(name)).map_or(0, |metadata| metadata.blocks().saturating_mul(512));
    Listed {
        key,
        inputs,
        made: state.and_then(|metadata| metadata.modified().ok()),
        used: fs::metadata(&about).and_then(|metadata| metadata.modified()).ok(),
        size: [STATE, MEMORY, ABOUT, WRITTEN].into_iter().map(taken).fold(0, u64::saturating_add),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Templates with these keys, each of 4 KiB.
    fn templates(keys: &[&str]) -> (tempfile::TempDir, Templates) {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("t");
        for key in keys {
            create_folder(&folder.join(key)).unwrap();
            fs::write(folder.join(key).join(MEMORY), [1; 4096]).unwrap();
            fs::write(folder.join(key).join(STATE), "").unwrap();
            fs::write(folder.join(key).join(ABOUT), "nonsense").unwrap();
        }
        (home, Templates { folder, voice: crate::voice::Voice::stderr() })
    }

    fn key(start: &str) -> String {
        format!("{start:0<64}")
    }

    #[test]
    fn templates_are_listed_and_removed_by_the_start_of_their_names() {
        let keys = [key("a1"), key("a2"), key("b")];
        let (_home, templates) = templates(&[&keys[2], &keys[0], &keys[1]]);
        let listed = templates.list().unwrap();
        assert_eq!(listed.iter().map(|listed| &listed.key).collect::<Vec<_>>(), keys.iter().collect::<Vec<_>>());
        assert!(listed.iter().all(|listed| listed.inputs.is_none() && listed.made.is_some() && listed.size >= 4096));
        assert!(matches!(templates.remove("a"), Err(TemplateError::Ambiguous(_))));
        assert!(matches!(templates.remove("c"), Err(TemplateError::Unknown(_))));
        assert!(matches!(templates.remove(""), Err(TemplateError::Unknown(_))));
        assert_eq!(templates.remove("a1").unwrap(), keys[0]);
        assert_eq!(templates.list().unwrap().len(), 2);
    }

    #[test]
    fn prune_removes_what_is_unwanted_and_what_is_left_over() {
        let keys = [key("a"), key("b")];
        let (_home, templates) = templates(&[&keys[0], &keys[1]]);
        let folder = &templates.folder;
        create_folder(&folder.join("new.123")).unwrap();
        fs::write(folder.join(format!("{}.{FAILED}", keys[0])), "").unwrap();
        let (removed, freed) = templates.prune(|listed| listed.key == keys[0]).unwrap();
        assert_eq!(removed, [keys[0].clone()]);
        assert!(freed >= 4096);
        let mut left = names(folder).unwrap();
        left.sort();
        assert_eq!(left, [keys[1].clone(), "lock".to_owned()]);
    }

    #[test]
    fn without_a_folder_there_are_no_templates() {
        let (_home, templates) = templates(&[]);
        assert!(templates.list().unwrap().is_empty());
        assert!(discard(Path::new("/no/such/folder"), "x").is_err());
        assert_eq!(templates.check().unwrap(), 0);
        fs::remove_dir(templates.folder()).unwrap();
        fs::write(templates.folder(), "").unwrap();
        assert!(matches!(templates.check(), Err(TemplateError::Folder { .. })));
    }
}
