//! Tasks that write much: however much it is, their logs stay bounded, and neither the supervisor, the VMM nor a reader grows.

use std::io::{BufRead as _, BufReader};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use e2e::home::Home;
use e2e::memory::{beside_guest_kib, peak_kib};
use e2e::place::{self, Suite, suite};
use nix::unistd::Pid;
use serde_json::Value;

/// How many megabytes the task writes, instead of what is quick on this host: for a run by hand.
const MEGABYTES: &str = "TASKRUN_TEST_OUTPUT_MB";

/// What the task writes at once: a line with the number of the piece, then so many of this length. The shell's `echo` makes one
/// write of it.
const LINES: u64 = 512;
const LINE: u64 = 100;

/// What a process may hold at most, in KiB, with the pages of its program: less than what is written.
const MOST: u64 = 24 << 10;

/// What is left of a log.
const LOG_FILE: u64 = 100 << 10;
const LOG_FILES: usize = 5;

/// How many pieces are written.
fn pieces() -> u64 {
    let quick = match suite() {
        // A guest's kernel that is emulated moves a megabyte or two in a second.
        Suite::Direct => 32,
        Suite::Lab => 32,
        Suite::Full => 1000,
    };
    let megabytes = std::env::var(MEGABYTES).ok().and_then(|text| text.parse().ok()).unwrap_or(quick);
    megabytes * 1_000_000 / (LINES * LINE)
}

/// A shell script that writes so many pieces, says that it is done, and stays until SIGUSR1.
fn script(pieces: u64) -> String {
    let line = "x".repeat(usize::try_from(LINE - 1).unwrap_or_default());
    let doublings = "p=$p$p; ".repeat(usize::try_from(LINES.ilog2()).unwrap_or_default());
    format!(
        "trap go=1 USR1; p='\n{line}'; {doublings} i=0
        while [ $i -lt {pieces} ]; do i=$((i+1)); echo \"$i$p\"; done
        echo done; until [ $go ]; do sleep 0.1; done"
    )
}

/// What is watched while a task writes.
struct Watch<'a> {
    supervisor: Pid,
    vmm: Pid,
    follower: Pid,
    /// Where what the guest has as its memory comes from.
    guest: [&'a Path; 2],
}

impl Watch<'_> {
    /// What each of them held at most until now, in KiB; of the VMM what it holds now.
    fn look(&self) -> Result<[u64; 3]> {
        let vmm = beside_guest_kib(self.vmm, &self.guest).context("a VMM")?;
        Ok([peak_kib(self.supervisor).context("a supervisor")?, vmm, peak_kib(self.follower).context("a follower")?])
    }
}

#[test]
fn output_without_end_takes_bounded_files_and_no_memory() -> Result<()> {
    let pieces = pieces();
    let home = Home::new();
    let id = home.start(&["--log-opt", &format!("max-size={LOG_FILE}"), "--log-opt", "max-file=5"], &script(pieces));
    let supervisor = home.supervisor(&id);
    let mut follower = home.call(["logs", "-f", &id]).start();
    let (store, templates) = (place::store(), place::templates());
    let watch = Watch {
        supervisor,
        vmm: home.vmm(supervisor),
        follower: Pid::from_raw(i32::try_from(follower.child.id())?),
        guest: [&store, &templates],
    };
    let mut most = [0; 3];
    let (mut last, mut seen) = (0, 0_u64);
    let mut output = BufReader::new(follower.child.stdout.take().context("standard output")?);
    let mut line = String::new();
    loop {
        line.clear();
        ensure!(output.read_line(&mut line)? > 0, "the follower ended behind line {last}");
        let is_last = line == "done\n";
        if !is_last && !line.starts_with('x') {
            // A reader that falls behind by more than what is kept goes on with what is there.
            let number = line.trim_end().parse::<u64>().with_context(|| format!("behind {last}: {line:?}"))?;
            assert!(number > last, "{number} behind {last}");
            last = number;
        }
        if is_last || seen.is_multiple_of(10_000) {
            for (most, now) in most.iter_mut().zip(watch.look()?) {
                *most = now.max(*most);
            }
        }
        if is_last {
            break;
        }
        seen += 1;
    }
    println!("{pieces} pieces, {seen} lines followed; supervisor, VMM beside its guest, follower: {most:?} KiB");
    assert_eq!(last, pieces, "the end was not followed");
    assert!(most.iter().all(|kib| *kib < MOST), "{most:?} KiB");
    let sizes = home.log_sizes(&id);
    assert!(sizes.len() == LOG_FILES && sizes.iter().all(|size| *size <= LOG_FILE), "{sizes:?}");

    assert_eq!(home.ask(&format!("kill -s USR1 {id}")), id);
    let _ = follower.finish().expect_code(0);
    assert_eq!(home.ask(&format!("wait {id}")), "0");
    let written = home.inspect(&id).pointer("/used/bytes_out").and_then(Value::as_u64);
    let numbers: usize = (1..=pieces).map(|number| number.to_string().len()).sum();
    assert_eq!(written, Some(pieces * (LINES * LINE + 1) + u64::try_from(numbers)? + 5));
    home.finish();
    Ok(())
}
