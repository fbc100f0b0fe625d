//! Whole images against three readers: the crate erofs-rs, erofs-utils, and the kernel.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests may stop at the first thing that is wrong"
)]

mod kernel;
mod large;
mod model;
mod random;
mod reader;
mod tools;
mod tree;
