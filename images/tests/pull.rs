//! Pulling what there is: kinds of manifests and layers, platforms, changed tags, nothing twice.

mod support;

use images::platform::Platform;
use images::registry::{PullError, PullOptions, resolve};
use images::{Compression as Stored, ImageError};
use support::{Home, chain, parse};
use test_registry::{Answer, Compression, Fault, Format, ImageDir, Layer, Proxy, Registry, Stub};

fn three_layers() -> Vec<Layer> {
    vec![
        Layer::noise(Compression::Gzip, "a", 300_000),
        Layer::noise(Compression::Zstd, "b", 200_000),
        Layer::noise(Compression::None, "c", 100_000),
    ]
}

#[test]
fn an_image_of_all_kinds_of_layers_comes_without_credentials() {
    let registry = Registry::plain();
    registry.push(&ImageDir::of(&three_layers()).source("latest"), "some/app:1", Format::Keep);
    let home = Home::new();
    let outcome = home.pull(&format!("{}/some/app:1", registry.address())).unwrap();
    let image = home.open(&outcome);
    let kinds: Vec<Stored> = image.layers.iter().map(|layer| layer.compression).collect();
    assert_eq!(kinds, [Stored::Gzip, Stored::Zstd, Stored::None]);
    assert!(outcome.changed && outcome.downloaded > 600_000, "{outcome:?}");
    assert_eq!(outcome.image.platform, Platform::host());
    assert_eq!(home.events.done.lock().unwrap().len(), 4);
    assert_eq!(home.files("partial"), 0);
}

#[test]
fn what_is_there_is_not_downloaded_again() {
    let registry = Registry::plain();
    let layers = three_layers();
    registry.push(&ImageDir::of(&layers).source("latest"), "app:1", Format::Keep);
    let proxy = Proxy::start(registry.address());
    let home = Home::new();
    let name = format!("{}/app:1", proxy.address());
    let first = home.pull(&name).unwrap();
    let blobs = proxy.requests("/blobs/").len();
    assert_eq!(blobs, 4);
    let second = home.pull(&name).unwrap();
    assert_eq!((second.changed, second.downloaded), (false, 0));
    assert_eq!(second.image.manifest, first.image.manifest);
    assert_eq!(proxy.requests("/blobs/").len(), blobs);
    assert_eq!(home.events.present.lock().unwrap().len(), 4);

    // By digest there is nothing to ask at all.
    let requests = proxy.requests("/").len();
    home.pull(&format!("{}/app@{}", proxy.address(), first.image.manifest)).unwrap();
    assert_eq!(proxy.requests("/").len(), requests);
}

#[test]
fn a_changed_tag_brings_only_what_is_new() {
    let registry = Registry::plain();
    let mut layers = three_layers();
    registry.push(&ImageDir::of(&layers).source("latest"), "app:1", Format::Keep);
    let proxy = Proxy::start(registry.address());
    let home = Home::new();
    let name = format!("{}/app:1", proxy.address());
    let first = home.pull(&name).unwrap();
    let resolved = || resolve(&parse(&name), &home.options()).unwrap();
    assert_eq!(resolved(), first.image.manifest);

    layers.push(Layer::noise(Compression::Gzip, "d", 50_000));
    registry.push(&ImageDir::of(&layers).source("latest"), "app:1", Format::Keep);
    let before = proxy.requests("/blobs/").len();
    assert_ne!(resolved(), first.image.manifest);
    assert_eq!(proxy.requests("/blobs/").len(), before);
    let second = home.pull(&name).unwrap();
    assert!(second.changed && second.downloaded < 100_000, "{second:?}");
    assert_eq!(proxy.requests("/blobs/").len(), before + 2);
    assert_eq!(home.open(&second).layers.len(), 4);
}

#[test]
fn the_image_for_the_platform_is_chosen_from_an_index() {
    let registry = Registry::plain();
    let [amd, v3, arm] = ["amd", "v3", "arm"].map(|name| [Layer::noise(Compression::Gzip, name, 1000)]);
    let mut dir = ImageDir::new();
    dir.index("latest", &[("arm64/v8", &arm), ("amd64/v3", &v3), ("amd64", &amd)]);
    dir.index("arm", &[("arm64/v8", &arm)]);
    registry.push(&dir.source("latest"), "app:1", Format::Keep);
    registry.push(&dir.source("arm"), "app:arm", Format::Keep);
    let home = Home::new();
    let name = format!("{}/app:1", registry.address());
    let plain = home.pull(&name).unwrap();
    assert_eq!(plain.image.index, Some(resolve(&parse(&name), &home.options()).unwrap()));
    assert_ne!(Some(plain.image.manifest), plain.image.index);
    home.open(&plain);

    let pull = |variant: &str, name: &str| {
        let platform = Platform { variant: variant.into(), ..Platform::host() };
        home.pull_with(name, &PullOptions { platform: Some(platform), ..home.options() })
    };
    assert_ne!(pull("v3", &name).unwrap().image.manifest, plain.image.manifest);
    let error = pull("v4", &name).unwrap_err().to_string();
    assert!(
        error.ends_with("is for linux/arm64/v8, linux/amd64/v3, linux/amd64, and not for linux/amd64/v4"),
        "{error}"
    );
    let error = home.pull(&format!("{}/app:arm", registry.address())).unwrap_err().to_string();
    assert!(error.ends_with("is for linux/arm64/v8, and tasks run on linux/amd64"), "{error}");
    let arm = Platform { os: "linux".into(), architecture: "arm64".into(), variant: String::new() };
    let options = PullOptions { platform: Some(arm), ..home.options() };
    let error = home.pull_with(&name, &options).unwrap_err();
    assert!(matches!(error, PullError::Image(ImageError::Platform { .. })), "{error}");
}

#[test]
fn docker_schema_2_is_pulled() {
    let registry = Registry::plain();
    let layers = [Layer::noise(Compression::Gzip, "a", 10_000), Layer::noise(Compression::Gzip, "b", 10_000)];
    registry.push(&ImageDir::of(&layers).source("latest"), "app:1", Format::Docker);
    let home = Home::new();
    let outcome = home.pull(&format!("{}/app:1", registry.address())).unwrap();
    assert_eq!(home.open(&outcome).layers.len(), 2);
    let manifest = home.store.root().join("blobs/sha256").join(outcome.image.manifest.hex());
    assert!(
        std::fs::read_to_string(manifest).unwrap().contains("application/vnd.docker.distribution.manifest.v2+json")
    );
}

#[test]
fn artifacts_are_refused_before_their_blobs_come() {
    let registry = Registry::plain();
    let mut dir = ImageDir::new();
    dir.artifact("latest", "application/vnd.example.thing");
    registry.push(&dir.source("latest"), "thing:1", Format::Keep);
    let proxy = Proxy::start(registry.address());
    let home = Home::new();
    let error = home.pull(&format!("{}/thing:1", proxy.address())).unwrap_err().to_string();
    assert!(error.ends_with("so this is not the image of a container"), "{error}");
    assert!(proxy.requests("/blobs/").is_empty());
}

#[test]
fn what_is_not_there_is_named() {
    let registry = Registry::plain();
    let proxy = Proxy::start(registry.address());
    let home = Home::new();
    let name = format!("{}/no/such:tag", proxy.address());
    let error = home.pull(&name).unwrap_err();
    assert!(matches!(error, PullError::Unknown { .. }), "{error:?}");
    let expected = format!("The registry {} has no image {name}: check its name and its tag", proxy.address());
    assert_eq!(error.to_string(), expected);
    assert_eq!(proxy.requests("/manifests/").len(), 1);
}

#[test]
fn servers_that_are_no_registries_are_told_from_registries() {
    let home = Home::new();
    let web = Stub::start(|_, _, _| Answer {
        status: 404,
        headers: vec!["Content-Type: text/html".into()],
        body: b"<html>nothing here</html>".to_vec(),
    });
    let error = home.pull(&format!("{}/app", web.address())).unwrap_err();
    assert!(matches!(error, PullError::NotARegistry { .. }), "{error:?}");

    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = home.pull(&format!("{nobody}/app")).unwrap_err();
    assert!(matches!(error, PullError::Connect { .. }), "{error:?}");
    assert!(chain(&error).contains("refused"), "{}", chain(&error));
}

#[test]
fn schema_1_is_refused_with_what_to_do() {
    let document = r#"{"schemaVersion": 1, "name": "app", "tag": "1", "fsLayers": []}"#;
    let old = Stub::start(move |_, _, _| Answer::json(200, document));
    let error = Home::new().pull(&format!("{}/app", old.address())).unwrap_err().to_string();
    assert!(error.ends_with("which is docker's schema 1: push the image again with a newer docker"), "{error}");
}

#[test]
fn documents_without_end_are_cut_off() {
    let huge = Stub::start(|request, _, _| match request {
        "GET /v2/" => Answer::json(200, "{}"),
        _ => Answer { status: 200, headers: vec![], body: vec![b' '; 5 << 20] },
    });
    let error = Home::new().pull(&format!("{}/app", huge.address())).unwrap_err();
    assert!(matches!(error, PullError::TooLarge { .. }), "{error:?}");
}

#[test]
fn a_manifest_has_to_be_what_its_digest_says() {
    let registry = Registry::plain();
    registry.push(&ImageDir::of(&three_layers()).source("latest"), "app:1", Format::Keep);
    let proxy = Proxy::start(registry.address());
    let home = Home::new();
    let name = format!("{}/app:1", proxy.address());
    let digest = resolve(&parse(&name), &home.options()).unwrap();
    for name in [name.clone(), format!("{}/app@{digest}", proxy.address())] {
        proxy.fault("/manifests/", Fault::Flip, 1);
        let error = home.pull(&name).unwrap_err();
        assert!(matches!(error, PullError::Lies { digest: wrong, .. } if wrong == digest), "{error:?}");
    }
    assert_eq!(home.files("blobs/sha256"), 0);
}

#[test]
fn two_pulls_at_once_download_each_blob_once() {
    let registry = Registry::plain();
    registry.push(&ImageDir::of(&three_layers()).source("latest"), "app:1", Format::Keep);
    let proxy = Proxy::start(registry.address());
    let home = Home::new();
    let name = format!("{}/app:1", proxy.address());
    // The first holds a blob for as long as the second needs to come to it.
    let stalled = "/blobs/";
    proxy.fault(stalled, Fault::Stall(0), 1);
    let second = Home { store: images::store::Store::open(home.store.root()).unwrap(), ..Home::new() };
    std::thread::scope(|scope| {
        let first = scope.spawn(|| home.pull(&name).unwrap());
        proxy.wait_for(stalled);
        let other = scope.spawn(|| second.pull(&name).unwrap());
        while second.events.waited.lock().unwrap().is_empty() && !other.is_finished() {
            std::thread::yield_now();
        }
        proxy.release();
        let (first, other) = (first.join().unwrap(), other.join().unwrap());
        assert_eq!(first.image.manifest, other.image.manifest);
    });
    // It may come to the others before they are there as well.
    assert!(!second.events.waited.lock().unwrap().is_empty());
    let mut paths: Vec<String> = proxy.requests("/blobs/").into_iter().map(|request| request.path).collect();
    // The one that was held up came in two requests, by the same pull.
    assert_eq!(paths.len(), 5);
    paths.sort();
    paths.dedup();
    assert_eq!(paths.len(), 4);
}
