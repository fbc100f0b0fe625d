//! A task as it is printed: the fields of `ps --format` and `inspect`. Fields are added in later versions, and never renamed or
//! removed.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::ledger::{Record, Status};

/// How many digits of an id are shown to people.
pub const SHORT: usize = 12;

/// The start of an id.
#[must_use]
pub fn short(id: &str) -> &str {
    id.get(..SHORT).unwrap_or(id)
}

/// Everything that is known of a task.
#[must_use]
pub fn value(record: &Record) -> Value {
    let end = record.end.as_ref();
    let stamps = &record.stamps;
    json!({
        "id": record.id,
        "name": record.name,
        "image": record.image,
        "digest": record.digest,
        "labels": record.labels,
        "detached": record.detached,
        "status": record.status,
        "desired_status": record.desired_status,
        "created_at": time(stamps.created_at),
        "pull_started_at": time(stamps.pull_started_at),
        "pull_stopped_at": time(stamps.pull_stopped_at),
        "started_at": time(stamps.started_at),
        "stopping_at": time(stamps.stopping_at),
        "execution_stopped_at": time(stamps.execution_stopped_at),
        "stopped_at": time(stamps.stopped_at),
        "exit_code": end.and_then(|end| end.exit_code),
        "stop_code": end.map(|end| end.stop_code),
        "stopped_reason": end.map(|end| &end.reason),
        "settled": end.is_some_and(|end| end.settled),
        "supervisor": record.supervisor.as_ref().filter(|_| end.is_none()).map(|process| process.pid),
        "cpu_units": record.cpu_units,
        "cpu_enforcement": record.cpu_enforcement,
        "memory_mib": record.memory_mib,
        "storage_mib": record.storage_mib,
        "billed_seconds": end.map(|end| end.billed_seconds),
        "used": end.map(|end| end.used),
    })
}

/// How far a task is, in words.
#[must_use]
pub fn state(record: &Record, now: Timestamp) -> String {
    match &record.end {
        Some(end) => {
            let code = end.exit_code.map_or_else(String::new, |code| format!(" ({code})"));
            format!("Stopped{code} {} ago", ago(end.stopped_at, now))
        }
        None if record.status == Status::Running => {
            format!("Running for {}", ago(record.stamps.started_at.unwrap_or(record.started_at), now))
        }
        None => record.status.as_str().to_lowercase(),
    }
}

/// The time between, in the largest unit that fits.
#[must_use]
pub fn ago(then: Timestamp, now: Timestamp) -> String {
    let seconds = now.as_second().saturating_sub(then.as_second()).max(0);
    let units = [(86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second")];
    let (count, unit) = units
        .into_iter()
        .map(|(length, unit)| (seconds.checked_div(length).unwrap_or(0), unit))
        .find(|(count, _)| *count > 0)
        .unwrap_or((0, "second"));
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

/// A time as it is printed for programs: RFC 3339 with milliseconds, UTC.
#[must_use]
pub fn time(stamp: Option<Timestamp>) -> Option<String> {
    stamp.map(|stamp| stamp.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_their_largest_unit() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let told: Vec<_> = [0, 1, 59, 60, 7_199, 7_200, 200_000].map(|seconds| ago(at(0), at(seconds))).into();
        assert_eq!(told, ["0 seconds", "1 second", "59 seconds", "1 minute", "1 hour", "2 hours", "2 days"]);
        assert_eq!(ago(at(9), at(1)), "0 seconds");
    }
}
