//! SHA-256 digests as images write them (OCI image specification, "Digests"), and checking content against them.

use sha2::{Digest as _, Sha256};

use super::error::Cause;

/// What an image says the SHA-256 of some bytes is, and the hash of the bytes seen so far.
#[derive(Debug)]
pub struct Verifier {
    what: &'static str,
    expected: String,
    hasher: Sha256,
}

impl Verifier {
    /// A verifier for bytes that are called `what` in its error. `digest` is `sha256:` and 64 hex digits.
    pub fn new(what: &'static str, digest: &str) -> Result<Self, Cause> {
        let hex = digest
            .strip_prefix("sha256:")
            .filter(|hex| hex.len() == 64 && hex.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')));
        if hex.is_none() {
            return Err(Cause::DigestFormat(super::path::escape(digest.as_bytes())));
        }
        Ok(Self { what, expected: digest.to_owned(), hasher: Sha256::new() })
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }

    /// Compares, when all bytes have been taken.
    pub fn finish(self) -> Result<(), Cause> {
        let mut got = String::from("sha256:");
        for byte in self.hasher.finalize() {
            use std::fmt::Write as _;
            // Writing to a string cannot fail.
            let _ = write!(got, "{byte:02x}");
        }
        if got == self.expected {
            return Ok(());
        }
        Err(Cause::Digest { what: self.what, expected: self.expected, got })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OF_ABC: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn the_right_bytes_pass_and_others_do_not() {
        let mut verifier = Verifier::new("blob", OF_ABC).unwrap();
        verifier.update(b"a");
        verifier.update(b"bc");
        verifier.finish().unwrap();

        let error = Verifier::new("blob", OF_ABC).unwrap().finish().unwrap_err().to_string();
        assert!(error.contains(OF_ABC) && error.contains("sha256:e3b0c442"), "{error}");
    }

    #[test]
    fn digests_of_another_form_are_refused() {
        for digest in ["", "sha256:", "sha512:00", &OF_ABC.to_uppercase(), &OF_ABC[..70], &OF_ABC[7..]] {
            assert!(matches!(Verifier::new("blob", digest), Err(Cause::DigestFormat(_))), "{digest:?}");
        }
    }
}
