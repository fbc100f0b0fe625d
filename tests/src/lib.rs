//! What the end-to-end tests are made of: they start the real `taskrun` binary on real images and look at what a caller
//! sees, and at what is left behind.
//!
//! The binaries under `tests/` are the suites. `direct` holds what also runs on a host's own /dev/kvm when that is slow;
//! the others run where a boot is cheap: on hardware KVM, or in the lab. `scripts/test` chooses and says so.
//!
//! # Layout
//! - [`task`]: starts taskrun, feeds it, collects what it says, and then checks that nothing is left.
//! - [`home`]: tasks in the background, which outlive the calls that started them.
//! - [`leftovers`]: processes, mounts, cgroups and files that a task must not leave.
//! - [`memory`]: what processes hold of the host's memory.
//! - [`layer`], [`image`]: layers and images made in memory, hostile ones among them.
//! - [`terminal`]: a person at a pseudo-terminal.
//! - [`hard`]: an image with every kind of entry, which must unpack as other tools unpack it.
//! - [`place`]: where binaries and fixtures are.

pub mod hard;
pub mod home;
pub mod image;
pub mod layer;
pub mod leftovers;
pub mod memory;
pub mod place;
pub mod task;
pub mod terminal;
