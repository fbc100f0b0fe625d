//! A real container registry on loopback, for tests: Debian's `docker-registry`, images put there with `skopeo`, and a
//! proxy in front that makes the faults that registries and networks have.
//!
//! ```text
//! ImageDir (an OCI layout, made here) ──skopeo──▶ Registry ◀──▶ Proxy ◀── what is tested
//! ```
//!
//! Nothing outlives the test: the processes die with the thread that started them, the directories are temporary.
//! Everything here panics when it fails, because that is how a test fails.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test's tool")]

mod image;
mod proxy;
mod registry;
mod stub;
mod tls;

pub use image::{Compression, ImageDir, Layer, bytes, digest};
pub use proxy::{Fault, Proxy, Request};
pub use registry::{Format, Options, Registry};
pub use stub::{Answer, Stub};
pub use tls::Authority;
