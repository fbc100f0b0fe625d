//! Where the binaries and images under test are. `scripts/test` makes them all and says where; the defaults are the
//! places where `scripts/build` puts them.

use std::env;
use std::path::{Path, PathBuf};

fn or_in_target(variable: &str, path: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    let place = env::var_os(variable).map_or_else(|| target.join(path), PathBuf::from);
    assert!(
        place.exists(),
        "{} is missing: run scripts/build and scripts/fixtures, or set {variable}",
        place.display()
    );
    place
}

/// Where the tests run, and so what they may cost: `scripts/test` says it in `TASKRUN_TEST_SUITE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// On a KVM that emulates the guest's kernel, a million instructions in a second.
    Direct,
    /// In the lab, where every processor is emulated.
    Lab,
    /// On hardware KVM.
    Full,
}

/// Where this test runs.
#[must_use]
pub fn suite() -> Suite {
    match env::var("TASKRUN_TEST_SUITE").as_deref() {
        Ok("direct") => Suite::Direct,
        Ok("lab") => Suite::Lab,
        _ => Suite::Full,
    }
}

/// The `taskrun` binary under test.
#[must_use]
pub fn taskrun() -> PathBuf {
    or_in_target("TASKRUN_TEST_BIN", "tree/bin/taskrun")
}

/// An example of the library `taskrun`, which is compiled with the tests.
///
/// # Panics
/// When it isn't there.
#[must_use]
#[expect(clippy::expect_used, reason = "tests can't go on without it")]
pub fn example(name: &str) -> PathBuf {
    // This is PROFILE/deps/TEST.
    let own = env::current_exe().expect("this program");
    let example = own.ancestors().nth(2).expect("a folder").join("examples").join(name);
    assert!(example.exists(), "{} is missing: cargo build -p taskrun --examples", example.display());
    example
}

/// The static program that looks at its surroundings from inside a task.
#[must_use]
pub fn probe() -> PathBuf {
    or_in_target("TASKRUN_TEST_PROBE", "x86_64-unknown-linux-gnu/release/probe")
}

/// The directory with the images made from Debian's packages by `scripts/fixtures`.
///
/// # Panics
/// When `TASKRUN_TEST_FIXTURES` does not say where they are.
#[must_use]
pub fn fixtures() -> PathBuf {
    let place = env::var_os("TASKRUN_TEST_FIXTURES").map(PathBuf::from);
    #[expect(clippy::expect_used, reason = "tests can't go on without it")]
    place.expect("TASKRUN_TEST_FIXTURES is not set: scripts/fixtures prints its value")
}

/// A reference to an image among the fixtures: `busybox:latest`, `python:latest`, ….
#[must_use]
pub fn fixture(name_and_tag: &str) -> String {
    format!("oci:{}/{name_and_tag}", fixtures().display())
}

/// The store of images that tests share, made when it is not there. `scripts/test` gives each build of the agent one of
/// its own, since what an agent has unpacked is what is under test.
///
/// # Panics
/// When it can't be made.
#[must_use]
#[expect(clippy::expect_used, reason = "tests can't go on without it")]
pub fn store() -> PathBuf {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    let store =
        env::var_os("TASKRUN_TEST_STORE").map_or_else(|| target.join("test-store/default/images"), PathBuf::from);
    std::fs::create_dir_all(&store).expect("a place for the store");
    store.canonicalize().expect("a place for the store")
}

/// The templates that tests share, beside the store: making one takes a boot.
#[must_use]
pub fn templates() -> PathBuf {
    store().with_file_name("templates")
}

/// Whether this host is the tests' own, so that they may change its clock: the lab is.
#[must_use]
pub fn owns_the_host() -> bool {
    env::var_os("TASKRUN_TEST_SUITE").is_some_and(|suite| suite == "lab")
}

/// How many of something that costs a guest each is enough: more in the lab, where guests are cheap.
#[must_use]
pub fn many(in_lab: usize, directly: usize) -> usize {
    let in_lab_or_full = env::var_os("TASKRUN_TEST_SUITE").is_some_and(|suite| suite == "lab" || suite == "full");
    if in_lab_or_full { in_lab } else { directly }
}
