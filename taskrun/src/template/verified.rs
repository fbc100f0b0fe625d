//! Which templates were read whole and found right.
//!
//! A task reads of a template's memory only what it touches, so a start can't check it all. Instead it is checked once for
//! each time that the host was booted, and again when one of the files was changed: a record beside them names the boot and
//! the files' identities. The time of a file's last change (ctime) can't be set back, so nothing written through the file
//! system goes unnoticed.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::{Template, files};

/// The record's name.
const RECORD: &str = "verified";

/// The identity of this boot of the host.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What is wrong with a template.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// A file can't be read.
    #[error("its files can't be read")]
    Unreadable(#[source] io::Error),
    /// Its content isn't what was written.
    #[error(transparent)]
    Content(#[from] vmm::template::TemplateError),
}

/// Makes sure that the open template in `folder` is right; reads it only where that isn't known.
///
/// # Errors
/// [`Damage`]: it must not be used.
pub fn ensure(folder: &Path, template: &Template) -> Result<(), Damage> {
    let record = record(template).map_err(Damage::Unreadable)?;
    if fs::read_to_string(folder.join(RECORD)).is_ok_and(|known| known == record) {
        return Ok(());
    }
    vmm::template::verify(&template.state, &template.memory)?;
    // A record that can't be kept is made again.
    let _ = files::replace(&folder.join(RECORD), record.as_bytes());
    Ok(())
}

fn record(template: &Template) -> io::Result<String> {
    let boot = fs::read_to_string(BOOT_ID)?;
    let identity = |file: &File| {
        let is = file.metadata()?;
        let times = [is.mtime(), is.mtime_nsec(), is.ctime(), is.ctime_nsec()];
        io::Result::Ok(format!("{} {} {} {times:?}\n", is.dev(), is.ino(), is.size()))
    };
    Ok(format!("{boot}{}{}", identity(&template.state)?, identity(&template.memory)?))
}
