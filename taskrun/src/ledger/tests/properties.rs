//! What holds for any life of a task, and for a disk without room.

use proptest::prelude::*;

use super::*;

/// Something that happens to a task: what, after how many ms of the clock that bills, and what the wall clock shows then.
fn step() -> impl Strategy<Value = (Event, u64, i64)> {
    let statuses = Status::ALL.iter().filter(|status| **status != Status::Stopped).map(|status| Event::from(*status));
    let stamps = [Stamp::PullStarted, Stamp::PullStopped, Stamp::ExecutionStopped].map(Event::from);
    let events: Vec<Event> = statuses.chain(stamps).collect();
    (prop::sample::select(events), 0_u64..100_000, -1_000_000_i64..4_000_000_000_000)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn no_change_of_the_wall_clock_changes_a_bill(steps in prop::collection::vec(step(), 0..12), last_ms in 0_u64..200_000, wall in any::<i64>()) {
        let (_home, mut ledger) = open();
        let id = task(1).id;
        ledger.admit_at(&task(1), moment(1_000_000, 0)).unwrap();
        let (mut now_ms, mut billed_from_ms, mut status) = (0, None, Status::Provisioning);
        for (event, ms, wall_ms) in steps {
            now_ms += ms;
            ledger.reach_at(&id, event, moment(wall_ms, now_ms)).unwrap();
            match event {
                Event::Stamp(Stamp::PullStarted) => { billed_from_ms.get_or_insert(now_ms); }
                Event::Status(next) => status = status.max(next),
                Event::Stamp(_) => {}
            }
        }
        now_ms += last_ms;
        prop_assert_eq!(ledger.find(&id).unwrap().status, status);
        let end = ledger.finish_at(&id, &outcome(0), moment(wall, now_ms)).unwrap().end.unwrap();
        let elapsed_ms = now_ms - billed_from_ms.unwrap_or(0);
        prop_assert_eq!(end.elapsed_ns, elapsed_ms * 1_000_000);
        prop_assert_eq!(end.billed_seconds, elapsed_ms.div_ceil(1000).max(60));
        prop_assert_eq!(ledger.verify().unwrap(), (1, vec![]));
    }
}

/// Leaves the ledger no room to grow, as a full disk does.
fn fill(ledger: &Ledger, pages: i64) {
    ledger.connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(())).unwrap();
}

#[test]
fn without_room_nothing_is_admitted_and_what_was_admitted_is_settled_later() {
    let (home, mut ledger) = open();
    ledger.admit(&task(1)).unwrap();
    fill(&ledger, 1);
    let long = NewTask { image: "x".repeat(100_000), ..task(2) };
    let error = ledger.admit(&long).unwrap_err();
    assert_eq!(
        crate::errors::chain(&error),
        format!(
            "The task {} can't be entered in the ledger {}, so it is not run: database or disk is full",
            task(2).id,
            home.path().join(FILE_NAME).display()
        )
    );
    let reason = "x".repeat(100_000);
    assert!(matches!(ledger.finish(&task(1).id, &Outcome { reason, ..outcome(0) }), Err(LedgerError::Finish { .. })));
    assert_eq!(
        ledger.list(&Filter { open: true, ..Filter::default() }).unwrap().len(),
        1,
        "all of an end or nothing of it"
    );
    fill(&ledger, 1 << 30);
    ledger.finish(&task(1).id, &outcome(0)).unwrap();
    assert_eq!(Ledger::open(home.path()).unwrap().verify().unwrap(), (1, vec![]));
}

#[test]
fn what_can_not_be_written_is_said_before_anything_is_done() {
    let (_home, mut ledger) = open();
    ledger.connection.pragma_update(None, "query_only", true).unwrap();
    let error = crate::errors::chain(&ledger.admit(&task(1)).unwrap_err());
    assert!(error.ends_with("so it is not run: attempt to write a readonly database"), "{error}");
    assert_eq!(ledger.list(&Filter::default()).unwrap(), []);
}
