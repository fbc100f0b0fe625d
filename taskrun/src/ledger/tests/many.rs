//! Many at once.

use std::thread;

use super::*;

#[test]
fn a_new_ledger_opened_by_many_at_once_loses_nothing() {
    const WRITERS: u32 = 12;
    const TASKS: u32 = 8;
    let home = tempfile::tempdir().unwrap();
    let home = home.path().join("new/home");
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let home = &home;
            scope.spawn(move || {
                for number in 0..TASKS {
                    let id = writer * TASKS + number;
                    let mut ledger = Ledger::open(home).unwrap();
                    ledger.admit(&task(id)).unwrap();
                    drop(ledger);
                    if number % 4 != 3 {
                        Ledger::open(home).unwrap().finish(&task(id).id, &outcome(0)).unwrap();
                    }
                }
            });
        }
    });
    let records = Ledger::open(&home).unwrap().list(&Filter::default()).unwrap();
    assert_eq!(records.len(), usize::try_from(WRITERS * TASKS).unwrap());
    let open = records.iter().filter(|record| record.end.is_none()).count();
    assert_eq!(open, usize::try_from(WRITERS * TASKS / 4).unwrap());
}
