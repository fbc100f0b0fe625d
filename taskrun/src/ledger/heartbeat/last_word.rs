//! How a task ended, as its heartbeat keeps it in case that the ledger can't: on a full disk, say.

use serde::{Deserialize, Serialize};

use crate::ledger::{Outcome, StopCode};

/// The room for it in a record, in bytes; the first two are its length.
pub(super) const ROOM: usize = 512;

/// The most of a reason that is kept, in bytes.
const LONGEST_REASON: usize = 240;

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastWord {
    /// The exit code that the caller sees.
    pub exit_code: Option<i32>,
    stop_code: String,
    /// Why it ended, as one sentence, or the start of one.
    pub reason: String,
}

impl LastWord {
    /// What an outcome comes to.
    #[must_use]
    pub fn of(outcome: &Outcome) -> Self {
        let reason = outcome.reason.get(..outcome.reason.floor_char_boundary(LONGEST_REASON)).unwrap_or_default();
        Self {
            exit_code: outcome.exit_code,
            stop_code: outcome.stop_code.as_str().to_owned(),
            reason: reason.to_owned(),
        }
    }

    /// Who or what ended it.
    #[must_use]
    pub fn stop_code(&self) -> StopCode {
        self.stop_code.parse().unwrap_or(StopCode::EssentialContainerExited)
    }

    /// Its place in a record, filled up with zeros.
    pub(super) fn encode(word: Option<&Self>) -> Vec<u8> {
        let text = |word: &Self| serde_json::to_vec(word).ok().filter(|text| text.len() <= ROOM.saturating_sub(2));
        // What is longer, for characters that JSON writes in six bytes, goes without its reason.
        let short = |word: &Self| text(&Self { reason: String::new(), ..word.clone() });
        let text = word.and_then(|word| text(word).or_else(|| short(word))).unwrap_or_default();
        let mut room = Vec::with_capacity(ROOM);
        room.extend(u16::try_from(text.len()).unwrap_or(0).to_le_bytes());
        room.extend(text);
        room.resize(ROOM, 0);
        room
    }

    /// Reads it from its place in a record.
    pub(super) fn decode(room: &[u8]) -> Option<Self> {
        let (length, text) = room.split_first_chunk::<2>()?;
        let length = usize::from(u16::from_le_bytes(*length));
        serde_json::from_slice(text.get(..length).filter(|text| !text.is_empty())?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Used;

    fn word(reason: &str) -> LastWord {
        let reason = reason.to_owned();
        LastWord::of(&Outcome { exit_code: Some(3), stop_code: StopCode::UserInitiated, reason, used: Used::default() })
    }

    #[test]
    fn it_is_read_back() {
        let word = word("The command exited with code 3");
        let room = LastWord::encode(Some(&word));
        assert_eq!((room.len(), LastWord::decode(&room)), (ROOM, Some(word.clone())));
        assert_eq!(word.stop_code(), StopCode::UserInitiated);
        assert_eq!(LastWord::decode(&LastWord::encode(None)), None);
    }

    #[test]
    fn a_long_reason_is_cut_and_the_exit_code_stays() {
        for (reason, kept) in [("ä".repeat(500), LONGEST_REASON), ("\u{1}".repeat(500), 0)] {
            let read = LastWord::decode(&LastWord::encode(Some(&word(&reason)))).unwrap();
            assert_eq!((read.exit_code, read.reason.len()), (Some(3), kept));
        }
    }
}
