//! Prints what no two guests may have in common, one `NAME VALUE` a line; or answers each line of input with the time.

use std::fs;
use std::io::{self, BufRead, Read, Write};
use std::time::SystemTime;

use anyhow::{Context, Result};

/// Prints, `rounds` times, what the kernel derives from its randomness.
pub fn print(rounds: u64) -> Result<()> {
    let mut out = io::stdout().lock();
    for _ in 0..rounds {
        let mut bytes = [0; 32];
        fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        writeln!(out, "urandom {}", hex(&bytes))?;
        #[expect(unsafe_code, reason = "libc")]
        // SAFETY: the pointer and the length describe `bytes`.
        let count = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        anyhow::ensure!(usize::try_from(count) == Ok(bytes.len()), "getrandom: {count}");
        writeln!(out, "getrandom {}", hex(&bytes))?;
    }
    writeln!(out, "at_random {}", hex(&at_random()?))?;
    // The 28th field; the name in parentheses may hold anything.
    let stat = fs::read_to_string("/proc/self/stat")?;
    let stack = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(25)).context("no stack")?;
    writeln!(out, "stack {stack}")?;
    let maps = fs::read_to_string("/proc/self/maps")?;
    let vdso = maps.lines().find(|line| line.ends_with("[vdso]")).context("no vdso")?;
    writeln!(out, "vdso {}", vdso.split('-').next().unwrap_or_default())?;
    for id in ["boot_id", "uuid"] {
        writeln!(out, "{id} {}", fs::read_to_string(format!("/proc/sys/kernel/random/{id}"))?.trim())?;
    }
    writeln!(out, "hostname {}", fs::read_to_string("/proc/sys/kernel/hostname")?.trim())?;
    Ok(())
}

/// Answers each line with the time since 1970 and that since the guest's start, in nanoseconds.
pub fn clock() -> Result<()> {
    let mut out = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        line?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_nanos();
        writeln!(out, "{now}")?;
        out.flush()?;
    }
    Ok(())
}

/// The 16 bytes that the kernel gave this program.
fn at_random() -> Result<[u8; 16]> {
    #[expect(unsafe_code, reason = "libc")]
    // SAFETY: takes a number.
    let address = unsafe { libc::getauxval(libc::AT_RANDOM) };
    anyhow::ensure!(address != 0, "no AT_RANDOM");
    #[expect(unsafe_code, reason = "the kernel gives an address")]
    // SAFETY: the kernel put 16 bytes there, which stay as long as the program.
    Ok(unsafe { *(usize::try_from(address)? as *const [u8; 16]) })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
