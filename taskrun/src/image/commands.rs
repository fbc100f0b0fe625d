//! `taskrun pull` and `taskrun image`: what they do, and how it is printed ([`print`]).

mod print;

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};

use images::store::{PruneOptions, Removed, StoreError, StoredImage};

use super::{ImageRequest, Images, PrepareError};
use crate::cli::image_args::{ImageCommand, InspectArgs, LsArgs, PruneArgs, RmArgs, SaveArgs, VerifyArgs};

/// The exit code of a store in which something is wrong.
const EXIT_INVALID: u8 = 1;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The store, or getting an image into it.
    #[error(transparent)]
    Images(Box<PrepareError>),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Standard output.
    #[error("The answer can't be written")]
    Print(#[source] io::Error),
    /// An archive on the terminal.
    #[error("The archive would go to the terminal: name a file with --output FILE")]
    Terminal,
    /// The archive can't be written.
    #[error("The archive {file} can't be written", file = .file.display())]
    Save {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl From<PrepareError> for CommandError {
    fn from(error: PrepareError) -> Self {
        Self::Images(Box::new(error))
    }
}

/// `taskrun pull`: prints the digest of the image's manifest.
///
/// # Errors
/// [`CommandError`].
pub fn pull(request: &ImageRequest, download_only: bool, out: &mut impl Write) -> Result<u8, CommandError> {
    let stored = Images::open()?.fetch(request, download_only)?;
    written(writeln!(out, "{}", stored.manifest))
}

/// `taskrun image`. Gives the exit code.
///
/// # Errors
/// [`CommandError`].
pub fn run(command: ImageCommand, out: &mut impl Write) -> Result<u8, CommandError> {
    let images = Images::open()?;
    match command {
        ImageCommand::Ls(args) => ls(&images, &args, out),
        ImageCommand::Inspect(args) => inspect(&images, &args, out),
        ImageCommand::Rm(args) => rm(&images, &args, out),
        ImageCommand::Prune(args) => prune(&images, &args, out),
        ImageCommand::Verify(args) => verify(&images, &args, out),
        ImageCommand::Save(args) => save(&images, &args),
    }
}

fn ls(images: &Images, args: &LsArgs, out: &mut impl Write) -> Result<u8, CommandError> {
    let summaries = images.store.summaries()?;
    if args.quiet {
        return written(summaries.iter().try_for_each(|summary| writeln!(out, "{}", summary.image.manifest)));
    }
    written(print::summaries(&summaries, args.format, out))
}

fn inspect(images: &Images, args: &InspectArgs, out: &mut impl Write) -> Result<u8, CommandError> {
    let mut details = Vec::new();
    for text in &args.images {
        for image in images.store.resolve(text)? {
            details.push(images.store.inspect(&image)?);
        }
    }
    written(print::details(&details, out))
}

fn rm(images: &Images, args: &RmArgs, out: &mut impl Write) -> Result<u8, CommandError> {
    let mut removed = Removed::default();
    for text in &args.images {
        match images.store.remove(text, args.force) {
            Err(StoreError::NoSuchImage(_)) if args.force => {}
            result => add(&mut removed, result?),
        }
    }
    written(print::removed(&removed, args.format, out))
}

/// Adds what one call removed to what others did.
fn add(sum: &mut Removed, removed: Removed) {
    sum.untagged.extend(removed.untagged);
    sum.blobs.extend(removed.blobs);
    sum.rootfs.extend(removed.rootfs);
    sum.leftovers.extend(removed.leftovers);
    sum.freed = sum.freed.saturating_add(removed.freed);
    sum.in_use.extend(removed.in_use);
}

fn prune(images: &Images, args: &PruneArgs, out: &mut impl Write) -> Result<u8, CommandError> {
    let options = PruneOptions { all: args.all, keep_storage: args.keep_storage.map(|bytes| bytes.0) };
    let removed = images.store.prune(&options)?;
    written(print::removed(&removed, args.format, out))
}

fn verify(images: &Images, args: &VerifyArgs, out: &mut impl Write) -> Result<u8, CommandError> {
    let report = images.store.verify(args.repair)?;
    written(print::report(&report, args.format, out))?;
    Ok(if report.is_valid() { 0 } else { EXIT_INVALID })
}

fn save(images: &Images, args: &SaveArgs) -> Result<u8, CommandError> {
    let found = images.store.resolve(&args.image)?;
    let image = found.first().ok_or_else(|| StoreError::NoSuchImage(args.image.clone()))?;
    match &args.output {
        Some(file) => save_to(images, image, file)?,
        None if io::stdout().is_terminal() => return Err(CommandError::Terminal),
        None => {
            let mut out = BufWriter::new(io::stdout().lock());
            images.store.save(image, &mut out)?;
            out.flush().map_err(CommandError::Print)?;
        }
    }
    Ok(0)
}

/// Writes the archive in one step: the file is there whole or as it was.
fn save_to(images: &Images, image: &StoredImage, file: &Path) -> Result<(), CommandError> {
    let failed = |source| CommandError::Save { file: file.to_owned(), source };
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let temporary = tempfile::Builder::new().prefix(".taskrun-save-").tempfile_in(folder).map_err(failed)?;
    let mut out = BufWriter::new(temporary);
    images.store.save(image, &mut out)?;
    let temporary = out.into_inner().map_err(|error| failed(error.into_error()))?;
    readable(temporary.as_file()).map_err(failed)?;
    temporary.persist(file).map(drop).map_err(|error| failed(error.error))
}

/// Gives a temporary file the mode of a usual one.
fn readable(file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))
}

/// The exit code 0 when the answer was written. A reader that has seen enough is no error.
fn written(result: io::Result<()>) -> Result<u8, CommandError> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(CommandError::Print(error)),
        _ => Ok(0),
    }
}
