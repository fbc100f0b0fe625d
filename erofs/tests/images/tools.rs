//! What erofs-utils say about an image.

use std::io::Write;
use std::process::Command;

use erofs::Summary;

/// Fails unless `fsck.erofs` finds no fault and `dump.erofs` reads the superblock.
pub fn check(image: &[u8], summary: &Summary) {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(image).expect("the image is stored");
    check_file(file.path(), summary);
}

/// The same for an image in a file.
pub fn check_file(path: &std::path::Path, summary: &Summary) {
    // `--extract` without a folder reads all files too.
    let said = run(Command::new("fsck.erofs").args(["-d3", "--extract"]).arg(path));
    // It ends well with some faults too.
    assert!(said.contains("No errors found"), "fsck.erofs finds faults:\n{said}");
    let said = run(Command::new("dump.erofs").arg("-s").arg(path));
    let field = |name: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("dump.erofs doesn't say {name}:\n{said}")).trim().to_owned()
    };
    assert_eq!(field("Filesystem inode count:"), summary.inodes.to_string());
    assert_eq!(field("Filesystem blocks:"), (summary.size / erofs::BLOCK_SIZE).to_string());
}

/// What the command prints, which must not fail.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| {
        panic!("{command:?} can't be run ({error}): install the packages erofs-utils and mount")
    });
    let said = [&output.stdout[..], &output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "{command:?} ends with {}:\n{said}", output.status);
    said
}
