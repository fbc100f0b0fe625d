//! A process that writes to a ledger, or to a plain SQLite table: it opens the file, says `ready`, waits for the end of its
//! input, makes its changes, and ends.

use std::io::{self, Read, Write};
use std::path::Path;
use std::thread;
use std::time::Duration;

use ::taskrun::StopCode;
use ::taskrun::ledger::{Ledger, NewTask, Outcome, Process, Used};
use anyhow::{Context, Result};
use clap::ValueEnum;
use rusqlite::{Connection, TransactionBehavior, params};

/// What is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// taskrun's ledger
    Ledger,
    /// A table without anything
    Plain,
}

impl Kind {
    /// As on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ledger => "ledger",
            Self::Plain => "plain",
        }
    }
}

/// Admits and ends so many tasks, in a file in `folder`.
pub fn write(kind: Kind, folder: &Path, tasks: u32) -> Result<()> {
    match kind {
        Kind::Ledger => {
            let mut ledger = Ledger::open(folder)?;
            wait_for_the_start()?;
            (0..tasks).try_for_each(|number| admit_and_finish(&mut ledger, number))
        }
        Kind::Plain => {
            let mut connection = open_plain(&folder.join("plain.sqlite3")).context("The table can't be made")?;
            wait_for_the_start()?;
            (0..tasks)
                .try_for_each(|number| insert_and_update(&mut connection, number))
                .context("The table can't be written")
        }
    }
}

fn wait_for_the_start() -> Result<()> {
    let mut out = io::stdout();
    writeln!(out, "ready").and_then(|()| out.flush()).context("Nobody listens")?;
    io::stdin().read_to_end(&mut Vec::new()).map(drop).context("Nobody says when to start")
}

/// 32 hexadecimal digits that no other writer has.
fn id(number: u32) -> String {
    format!("{:016x}{number:016x}", std::process::id())
}

fn admit_and_finish(ledger: &mut Ledger, number: u32) -> Result<()> {
    let task = NewTask {
        id: id(number),
        name: None,
        image: "registry.example/team/tool:1.2".to_owned(),
        cpu_units: 1024,
        memory_mib: 512,
        storage_mib: 0,
        labels: [("team".to_owned(), "bench".to_owned())].into(),
        detached: false,
        supervisor: Process::own().context("This process can't be told from others")?,
    };
    let outcome = Outcome {
        exit_code: Some(0),
        stop_code: StopCode::EssentialContainerExited,
        reason: "The command exited with code 0".to_owned(),
        used: Used::default(),
    };
    ledger.admit(&task)?;
    ledger.finish(&task.id, &outcome)?;
    Ok(())
}

/// With the durability and the way of waiting that the ledger has.
fn open_plain(path: &Path) -> rusqlite::Result<Connection> {
    let mut connection = Connection::open(path)?;
    connection.busy_handler(Some(wait))?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.execute_batch("CREATE TABLE IF NOT EXISTS task (id TEXT PRIMARY KEY, status TEXT NOT NULL) STRICT")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    Ok(connection)
}

const BUSY_DELAY: Duration = Duration::from_millis(2);

fn wait(_tries: i32) -> bool {
    thread::sleep(BUSY_DELAY);
    true
}

fn insert_and_update(connection: &mut Connection, number: u32) -> rusqlite::Result<()> {
    let id = id(number);
    let changes = ["INSERT INTO task (status, id) VALUES (?1, ?2)", "UPDATE task SET status = ?1 WHERE id = ?2"];
    for (change, status) in changes.into_iter().zip(["PROVISIONING", "STOPPED"]) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute(change, params![status, id])?;
        transaction.commit()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(folder.path()).unwrap();
        (0..3).for_each(|number| admit_and_finish(&mut ledger, number).unwrap());
        let records = ledger.list(&::taskrun::ledger::Filter::default()).unwrap();
        assert_eq!(records.iter().filter(|record| record.end.is_some()).count(), 3);

        let mut plain = open_plain(&folder.path().join("plain.sqlite3")).unwrap();
        (0..3).for_each(|number| insert_and_update(&mut plain, number).unwrap());
        let ended: u32 =
            plain.query_row("SELECT count(*) FROM task WHERE status = 'STOPPED'", [], |row| row.get(0)).unwrap();
        assert_eq!(ended, 3);
    }
}
