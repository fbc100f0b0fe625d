//! Content digests (OCI image specification, "Descriptors", section "Digests").
//!
//! Only SHA-256, which every implementation must have and every image uses; the specification's optional SHA-512 is
//! recognized and refused by name. The form is strict: `sha256:` and 64 lower-case hexadecimal digits, so that a
//! digest is safe as a file name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

/// The bytes of a SHA-256 hash.
const LENGTH: usize = 32;

/// A SHA-256 digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; LENGTH]);

/// Why a text is not a digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// The text does not have the form of a digest.
    #[error("{0:?} is not a digest: it should be sha256: and 64 lower-case hexadecimal digits")]
    Malformed(String),
    /// A digest of another algorithm.
    #[error("The digest {0:?} is of another kind than SHA-256, which is the only one that is supported")]
    Unsupported(String),
}

impl Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The digest of what `hasher` was given.
    #[must_use]
    pub fn finish(hasher: Sha256) -> Self {
        Self(hasher.finalize().into())
    }

    /// The 64 hexadecimal digits, without the algorithm.
    #[must_use]
    pub fn hex(&self) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digit = |nibble: u8| DIGITS.get(usize::from(nibble)).map_or('?', |&digit| char::from(digit));
        self.0.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let malformed = || DigestError::Malformed(shorten(text));
        let (algorithm, hex) = text.split_once(':').ok_or_else(malformed)?;
        if matches!(algorithm, "sha512" | "sha384" | "blake3") {
            return Err(DigestError::Unsupported(shorten(text)));
        }
        let mut bytes = [0; LENGTH];
        let (pairs, []) = hex.as_bytes().as_chunks::<2>() else { return Err(malformed()) };
        if algorithm != "sha256" || pairs.len() != LENGTH {
            return Err(malformed());
        }
        for (byte, &[high, low]) in bytes.iter_mut().zip(pairs) {
            *byte = nibble(high).ok_or_else(malformed)? << 4 | nibble(low).ok_or_else(malformed)?;
        }
        Ok(Self(bytes))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The value of a lower-case hexadecimal digit.
fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => digit.checked_sub(b'0'),
        b'a'..=b'f' => digit.checked_sub(b'a')?.checked_add(10),
        _ => None,
    }
}

/// As much of a hostile text as belongs into a message.
fn shorten(text: &str) -> String {
    text.chars().take(160).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn the_digest_of_nothing_is_the_known_one() {
        assert_eq!(Digest::of(b"").to_string(), EMPTY);
        assert_eq!(EMPTY.parse::<Digest>().unwrap(), Digest::of(b""));
    }

    #[test]
    fn other_spellings_are_refused() {
        let upper = EMPTY.to_uppercase();
        let hex_upper = EMPTY.replace("e3b0", "E3B0");
        for text in ["", "sha256", "sha256:", &EMPTY[7..], &EMPTY[..70], &format!("{EMPTY}0"), &upper, &hex_upper] {
            assert!(matches!(text.parse::<Digest>(), Err(DigestError::Malformed(_))), "{text}");
        }
        for text in [format!("sha256:../{}", "0".repeat(61)), format!("sha256:{}/", "0".repeat(63))] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }

    #[test]
    fn sha512_is_refused_by_name() {
        let text = format!("sha512:{}", "0".repeat(128));
        assert!(matches!(text.parse::<Digest>(), Err(DigestError::Unsupported(_))));
    }

    proptest! {
        #[test]
        fn text_and_digest_are_one_to_one(bytes: [u8; 32]) {
            let digest = Digest(bytes);
            prop_assert_eq!(digest.to_string().parse::<Digest>(), Ok(digest));
        }

        #[test]
        fn what_is_accepted_is_printed_the_same(text in "(sha256:)?[0-9a-fA-F:/]{60,68}") {
            if let Ok(digest) = text.parse::<Digest>() {
                prop_assert_eq!(digest.to_string(), text);
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in any::<String>()) {
            let _ = text.parse::<Digest>();
        }
    }
}
