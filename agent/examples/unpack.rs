//! Unpacks layers on this machine as a guest would, from a file to a file, and says how long it took:
//!
//!     cargo run --release -p agent --example unpack -- LAYER... IMAGE
//!
//! Layers are tar archives, plain, gzip or Zstandard. What they should hash to is not known, so a first pass finds it out.

use std::error::Error;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Instant;

use agent::unpack::{Cause, Limits, unpack_to_device};
use protocol::LAYER_ALIGNMENT;
use protocol::spec::{Compression, Layer};

fn main() -> Result<(), Box<dyn Error>> {
    let paths: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let Some((output, files)) = paths.split_last() else { return Err("usage: unpack LAYER... IMAGE".into()) };
    let device = output.with_extension("layers");
    let mut layers = write_device(&device, files)?;
    loop {
        File::create(output)?;
        let started = Instant::now();
        match unpack_to_device(&device, &layers, output, &Limits::default(), &mut |progress| eprintln!("{progress:?}"))
        {
            Ok(summary) => {
                println!("{summary:?} in {:.3} s", started.elapsed().as_secs_f64());
                break;
            }
            Err(error) => match (layers.get_mut(error.layer.saturating_sub(1)), &error.cause) {
                (Some(layer), Cause::Digest { got, .. }) if layer.diff_id != *got => layer.diff_id.clone_from(got),
                _ => return Err(error.into()),
            },
        }
    }
    Ok(std::fs::remove_file(device)?)
}

/// Puts the layers one behind the other, as they are on a guest's device.
fn write_device(path: &Path, files: &[PathBuf]) -> Result<Vec<Layer>, Box<dyn Error>> {
    let mut device = File::create(path)?;
    let mut layers = Vec::new();
    for file in files {
        let mut file = File::open(file)?;
        let mut magic = [0; 4];
        file.read_exact(&mut magic)?;
        file.seek(SeekFrom::Start(0))?;
        let compression = match magic {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd] => Compression::Zstd,
            _ => Compression::None,
        };
        let offset = device.stream_position()?;
        let length = std::io::copy(&mut file, &mut device)?;
        let end = device.stream_position()?.next_multiple_of(LAYER_ALIGNMENT);
        device.set_len(end)?;
        device.seek(SeekFrom::Start(end))?;
        let diff_id = format!("sha256:{}", "0".repeat(64));
        layers.push(Layer { offset, length, compression, digest: None, diff_id });
    }
    Ok(layers)
}
