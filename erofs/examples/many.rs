//! Writes an image with a million files and says what it took:
//!
//! ```text
//! cargo run --release -p erofs --example many -- /tmp/many.erofs [ENTRIES]
//! ```

use std::fs::File;
use std::process::ExitCode;
use std::time::Instant;

use erofs::{Attributes, InodeId, Options, Writer};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().unwrap_or_else(|| "many.erofs".into());
    let entries = arguments.next().and_then(|entries| entries.parse().ok()).unwrap_or(1_000_000);
    match write(&path, entries) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("many: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Writes files of 1 KiB, a thousand in each directory.
fn write(path: &str, entries: u32) -> Result<(), Box<dyn std::error::Error>> {
    let start = Instant::now();
    let mut writer = Writer::new(File::create(path)?, Options::default());
    let attributes = || Attributes { mode: 0o755, uid: 1000, ..Attributes::default() };
    let mut directory = InodeId::ROOT;
    for number in 0..entries {
        if number % 1000 == 0 {
            directory = writer.directory(attributes())?;
            writer.link(InodeId::ROOT, format!("directory-{number}").as_bytes(), directory)?;
        }
        let mut file = writer.file(attributes())?;
        file.write(&[b'x'; 1024])?;
        let file = file.finish()?;
        writer.link(directory, format!("file-number-{number}").as_bytes(), file)?;
    }
    let (_, summary) = writer.finish()?;
    println!("{summary:?} in {:.1} s", start.elapsed().as_secs_f64());
    let status = std::fs::read_to_string("/proc/self/status")?;
    println!("{}", status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or("VmHWM: not known"));
    Ok(())
}
