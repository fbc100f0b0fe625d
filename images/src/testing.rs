//! Images made for the tests of this crate.
