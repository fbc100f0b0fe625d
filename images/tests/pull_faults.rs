//! Pulling through faults: broken connections, registries that stumble, and such that lie.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "the tests' own tools")]

mod support;

use std::time::Duration;

use images::Digest;
use images::registry::{PullError, PullOptions, PullOutcome, Timing};
use support::{Home, chain};
use test_registry::{Compression, Fault, Format, ImageDir, Layer, Proxy, Registry};

const LENGTH: usize = 3 << 20;

/// A registry behind a proxy, and an image with a large layer.
struct Case {
    _registry: Registry,
    proxy: Proxy,
    home: Home,
    layer: Digest,
}

impl Case {
    fn new() -> Self {
        let registry = Registry::plain();
        let layers = [Layer::noise(Compression::None, "large", LENGTH), Layer::noise(Compression::Gzip, "small", 1000)];
        let mut dir = ImageDir::new();
        let digests = dir.image("latest", &layers);
        registry.push(&dir.source("latest"), "app:1", Format::Keep);
        let proxy = Proxy::start(registry.address());
        Self { _registry: registry, proxy, home: Home::new(), layer: digests[0].parse().unwrap() }
    }

    fn name(&self) -> String {
        format!("{}/app:1", self.proxy.address())
    }

    fn pull(&self) -> Result<PullOutcome, PullError> {
        self.home.pull(&self.name())
    }

    fn fault(&self, fault: Fault, times: usize) {
        self.proxy.fault(&self.layer.to_string(), fault, times);
    }

    /// Where the requests for the large layer started.
    fn starts(&self) -> Vec<u64> {
        let requests = self.proxy.requests(&self.layer.to_string());
        let start = |range: &str| range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse().unwrap();
        requests.iter().map(|request| start(request.range.as_deref().unwrap_or("bytes=0-"))).collect()
    }
}

#[test]
fn a_broken_connection_is_taken_up_where_it_stopped() {
    let case = Case::new();
    case.fault(Fault::Cut(1_000_000), 1);
    case.fault(Fault::Cut(500_000), 1);
    let outcome = case.pull().unwrap();
    assert_eq!(case.starts(), [0, 1_000_000, 1_500_000]);
    let image = case.home.open(&outcome);
    // Not a byte was downloaded twice.
    let layers: u64 = image.layers.iter().map(|layer| layer.length).sum();
    assert!(outcome.downloaded > layers && outcome.downloaded < layers + 1000, "{outcome:?} {layers}");
}

#[test]
fn progress_renews_the_attempts() {
    let case = Case::new();
    case.fault(Fault::Cut(100_000), 12);
    let outcome = case.pull().unwrap();
    assert_eq!(case.starts().len(), 13);
    case.home.open(&outcome);
}

#[test]
fn no_progress_ends_and_the_next_pull_goes_on() {
    let case = Case::new();
    case.fault(Fault::Cut(700_000), 1);
    case.fault(Fault::Cut(0), 5);
    let error = case.pull().unwrap_err();
    assert!(matches!(error, PullError::Broken { .. }), "{error:?}");
    assert!(error.to_string().ends_with("it goes on where it stopped"), "{error}");
    let starts = case.starts();
    assert!(starts[1..].iter().all(|&start| start == 700_000), "{starts:?}");
    let outcome = case.pull().unwrap();
    assert_eq!(case.starts().last(), Some(&700_000));
    assert!(case.home.events.started.lock().unwrap().contains(&(case.layer, 700_000)));
    case.home.open(&outcome);
}

#[test]
fn a_registry_without_ranges_starts_again() {
    let case = Case::new();
    case.fault(Fault::Cut(900_000), 1);
    case.fault(Fault::IgnoreRange, 1);
    let outcome = case.pull().unwrap();
    assert_eq!(case.starts(), [0, 900_000]);
    case.home.open(&outcome);
}

#[test]
fn a_registry_without_ranges_that_always_breaks_is_given_up() {
    let case = Case::new();
    case.fault(Fault::IgnoreRangeAndCut(900_000), 100);
    let error = case.pull().unwrap_err();
    assert!(matches!(error, PullError::Broken { .. }), "{error:?}");
    assert!(case.starts().len() < 10, "{:?}", case.starts());
}

#[test]
fn a_connection_that_stalls_is_taken_up_again() {
    let case = Case::new();
    case.fault(Fault::Stall(600_000), 1);
    let timing = Timing { stall: Duration::from_millis(300), ..case.home.options().timing };
    let options = PullOptions { timing, ..case.home.options() };
    let outcome = case.home.pull_with(&case.name(), &options).unwrap();
    assert_eq!(case.starts(), [0, 600_000]);
    case.home.open(&outcome);
}

#[test]
fn a_blob_that_lies_is_refused_and_not_kept() {
    for fault in [Fault::Flip, Fault::Long] {
        let case = Case::new();
        case.fault(fault.clone(), 100);
        let error = case.pull().unwrap_err();
        assert!(matches!(error, PullError::Lies { .. }), "{fault:?}: {}", chain(&error));
        let expected = format!("The registry {} sent other content than {}", case.proxy.address(), case.layer);
        assert!(error.to_string().starts_with(&expected), "{error}");
        assert!(case.home.store.blob(&case.layer).unwrap().is_none());
        let partial = case.home.store.root().join("partial").join(case.layer.hex());
        assert!(std::fs::metadata(partial).map_or(0, |metadata| metadata.len()) == 0);
        assert!(case.home.store.images().unwrap().is_empty());
    }
}

#[test]
fn a_wrong_start_of_earlier_is_replaced() {
    let case = Case::new();
    let partial = case.home.store.root().join("partial").join(case.layer.hex());
    std::fs::write(&partial, vec![7; 10_000]).unwrap();
    let outcome = case.pull().unwrap();
    assert_eq!(case.starts(), [10_000, 0]);
    case.home.open(&outcome);
}

#[test]
fn a_registry_that_stumbles_is_asked_again() {
    let case = Case::new();
    case.fault(Fault::Status(500), 2);
    case.fault(Fault::Status(429), 1);
    case.proxy.fault("/manifests/", Fault::Status(503), 2);
    let outcome = case.pull().unwrap();
    assert_eq!(case.starts().len(), 4);
    case.home.open(&outcome);
}

#[test]
fn what_will_not_get_better_is_not_asked_again() {
    for (status, text) in [(404, "does not have sha256:"), (403, "only to users it knows"), (400, "status 400")] {
        let case = Case::new();
        case.fault(Fault::Status(status), 100);
        let error = case.pull().unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
        assert_eq!(case.starts().len(), 1, "{status}");
    }
}

#[test]
fn a_registry_that_has_enough_says_so() {
    let case = Case::new();
    case.proxy.fault("/manifests/", Fault::Status(429), 100);
    let error = case.pull().unwrap_err();
    assert!(matches!(error, PullError::RateLimited { .. }), "{error:?}");
    assert_eq!(case.proxy.requests("/manifests/").len(), 5);
}

#[test]
fn a_dead_mirror_is_passed_over() {
    let case = Case::new();
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let text = format!("[registry.\"{}\"]\nmirrors = [\"{dead}\"]", case.proxy.address());
    let options = PullOptions { config: case.home.config(&text), ..case.home.options() };
    let outcome = case.home.pull_with(&case.name(), &options).unwrap();
    case.home.open(&outcome);
    let notes = case.home.notes();
    assert!(notes.len() == 1 && notes[0].starts_with(&format!("The mirror {dead} was passed over: ")), "{notes:?}");
}

#[test]
fn a_mirror_is_asked_first_and_the_registry_for_what_it_fails() {
    let case = Case::new();
    let mirror = Proxy::start(case._registry.address());
    let text = format!("[registry.\"{}\"]\nmirrors = [\"{}\"]", case.proxy.address(), mirror.address());
    let options = PullOptions { config: case.home.config(&text), ..case.home.options() };
    mirror.fault(&case.layer.to_string(), Fault::Flip, 100);
    let outcome = case.home.pull_with(&case.name(), &options).unwrap();
    case.home.open(&outcome);
    assert_eq!(outcome.image.name, case.name());
    assert_eq!(case.starts(), [0]);
    assert_eq!(case.proxy.requests("/blobs/").len(), 1);
    assert!(case.proxy.requests("/manifests/").is_empty());
    assert_eq!(mirror.requests("/manifests/").len(), 1);
    assert_eq!(case.home.notes().len(), 1, "{:?}", case.home.notes());
}
