//! `ps --filter`: which tasks, in the form that docker and podman users know.
//!
//! Filters of one key are alternatives, but labels, which must all be there; different keys must all fit.

use std::mem::discriminant;

use crate::ledger::{Record, Status};

/// Docker's word for what has ended.
const EXITED: &str = "exited";

/// A filter that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// It has no such form.
    #[error("The filter {0:?} is none of name=NAME, id=ID, label=KEY[=VALUE], status=STATUS, image=IMAGE, exited=CODE")]
    Unknown(String),
    /// There is no such status.
    #[error("No task has the status {0:?}: write {known}, or {EXITED}", known = statuses())]
    Status(String),
    /// It is no exit code.
    #[error("{0:?} is no exit code")]
    ExitCode(String),
}

fn statuses() -> String {
    let words: Vec<_> = Status::ALL.iter().map(|status| status.as_str().to_lowercase()).collect();
    words.join(", ")
}

/// All filters of a call.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Filters(Vec<Filter>);

#[derive(Debug, PartialEq, Eq)]
enum Filter {
    Name(String),
    Id(String),
    Label(String, Option<String>),
    Status(Status),
    Image(String),
    Exited(i32),
}

impl Filters {
    /// Reads them.
    ///
    /// # Errors
    /// [`FilterError`].
    pub fn parse(texts: &[String]) -> Result<Self, FilterError> {
        texts.iter().map(|text| Filter::parse(text)).collect::<Result<_, _>>().map(Self)
    }

    /// Whether they ask for tasks that have ended, too.
    #[must_use]
    pub fn ask_for_ends(&self) -> bool {
        self.0.iter().any(|filter| matches!(filter, Filter::Status(_) | Filter::Exited(_)))
    }

    /// Whether this task is wanted.
    #[must_use]
    pub fn admit(&self, record: &Record) -> bool {
        self.0.iter().all(|filter| match filter {
            Filter::Label(..) => filter.admits(record),
            filter => self.0.iter().any(|other| discriminant(other) == discriminant(filter) && other.admits(record)),
        })
    }
}

impl Filter {
    fn parse(text: &str) -> Result<Self, FilterError> {
        let unknown = || FilterError::Unknown(text.to_owned());
        let (key, value) = text.split_once('=').ok_or_else(unknown)?;
        let owned = value.to_owned();
        match key {
            "name" => Ok(Self::Name(owned)),
            "id" => Ok(Self::Id(owned)),
            "status" => status(value).map(Self::Status).ok_or(FilterError::Status(owned)),
            "image" | "ancestor" => Ok(Self::Image(owned)),
            "exited" => value.parse().map(Self::Exited).map_err(|_| FilterError::ExitCode(owned)),
            "label" => Ok(match value.split_once('=') {
                Some((key, value)) => Self::Label(key.to_owned(), Some(value.to_owned())),
                None => Self::Label(owned, None),
            }),
            _ => Err(unknown()),
        }
    }

    fn admits(&self, record: &Record) -> bool {
        match self {
            // As docker does, by a part of the name.
            Self::Name(name) => record.name.as_ref().is_some_and(|own| own.contains(name.as_str())),
            Self::Id(id) => record.id.starts_with(id.as_str()),
            Self::Status(status) => record.status == *status,
            Self::Image(image) => record.image.contains(image.as_str()),
            Self::Exited(code) => record.end.as_ref().is_some_and(|end| end.exit_code == Some(*code)),
            Self::Label(key, value) => {
                let own = record.labels.get(key);
                own.is_some_and(|own| value.as_ref().is_none_or(|value| own == value))
            }
        }
    }
}

fn status(text: &str) -> Option<Status> {
    if text.eq_ignore_ascii_case(EXITED) {
        return Some(Status::Stopped);
    }
    Status::ALL.iter().copied().find(|status| status.as_str().eq_ignore_ascii_case(text))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::ledger::billing::Rules;
    use crate::ledger::{DesiredStatus, Stamps};

    fn task(name: &str, status: Status) -> Record {
        Record {
            id: format!("{name:0>32}"),
            name: Some(name.to_owned()),
            image: "docker.io/library/busybox:latest".to_owned(),
            digest: None,
            cpu_units: 256,
            memory_mib: 512,
            storage_mib: 0,
            labels: BTreeMap::from([("team".to_owned(), "a".to_owned()), ("tier".to_owned(), "web".to_owned())]),
            detached: true,
            supervisor: None,
            rules: Rules::default(),
            cpu_enforcement: None,
            status,
            desired_status: DesiredStatus::Running,
            started_at: jiff::Timestamp::UNIX_EPOCH,
            stamps: Stamps::default(),
            end: None,
            removed: false,
        }
    }

    fn admit(texts: &[&str], record: &Record) -> bool {
        let texts: Vec<_> = texts.iter().map(|text| (*text).to_owned()).collect();
        Filters::parse(&texts).unwrap().admit(record)
    }

    #[test]
    fn alternatives_have_one_key_and_labels_are_all_wanted() {
        let task = task("web", Status::Running);
        assert!(admit(&[], &task) && admit(&["name=we", "label=team=a", "label=tier", "ancestor=busybox"], &task));
        assert!(admit(&["status=pending", "status=Running"], &task) && admit(&["name=x", "name=web"], &task));
        assert!(!admit(&["status=exited"], &task) && !admit(&["name=x", "status=running"], &task));
        assert!(!admit(&["label=team=a", "label=tier=db"], &task) && !admit(&["exited=0"], &task));
        assert!(admit(&["id=000"], &task) && !admit(&["id=web"], &task));
    }

    #[test]
    fn what_ended_is_looked_for_where_it_is_asked_for() {
        let ask = |text: &str| Filters::parse(&[text.to_owned()]).unwrap().ask_for_ends();
        assert!(ask("status=exited") && ask("status=running") && ask("exited=1") && !ask("name=a"));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let error = |text: &str| Filters::parse(&[text.to_owned()]).unwrap_err().to_string();
        assert!(error("colour=red").contains("label=KEY") && error("name").contains("label=KEY"));
        assert!(error("status=asleep").contains("provisioning, "), "{}", error("status=asleep"));
        assert!(error("exited=x").contains("exit code"));
    }
}
