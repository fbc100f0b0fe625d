//! Who may pull, and whether the registry is the right one: credentials, TLS, plain HTTP.

mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::sync::{Arc, Mutex};

use images::registry::{self, AuthFiles, Credentials, PullError, PullOptions};
use images::store::Store;
use support::{Home, auth_file, chain, parse};
use test_registry::{Answer, Compression, Format, ImageDir, Layer, Options, Registry, Stub};

const USER: &str = "somebody";
const PASSWORD: &str = "open:sesame";
/// `USER:PASSWORD` in base 64.
const AUTH: &str = "c29tZWJvZHk6b3BlbjpzZXNhbWU=";

fn image() -> ImageDir {
    ImageDir::of(&[Layer::noise(Compression::Gzip, "a", 100_000)])
}

/// A registry that only USER may use, with an image.
fn guarded() -> Registry {
    let registry = Registry::start(Options { htpasswd: Some((USER.into(), PASSWORD.into())), tls: false });
    registry.push(&image().source("latest"), "app:1", Format::Keep);
    registry
}

#[test]
fn given_credentials_open_the_registry() {
    let registry = guarded();
    let home = Home::new();
    let name = format!("{}/app:1", registry.address());
    let with = |text: &str| PullOptions { credentials: Credentials::parse(text), ..home.options() };
    let error = home.pull_with(&name, &with("somebody:wrong-secret")).unwrap_err();
    assert!(matches!(error, PullError::Refused { .. }), "{error:?}");
    assert!(!format!("{error:?} {}", chain(&error)).contains("wrong-secret"));
    let outcome = home.pull_with(&name, &with(&format!("{USER}:{PASSWORD}"))).unwrap();
    home.open(&outcome);
    assert_eq!(registry::resolve(&parse(&name), &with(&format!("{USER}:{PASSWORD}"))).unwrap(), outcome.image.manifest);
}

#[test]
fn missing_credentials_are_asked_for() {
    let registry = guarded();
    let error = Home::new().pull(&format!("{}/app:1", registry.address())).unwrap_err();
    assert!(matches!(error, PullError::NoCredentials { .. }), "{error:?}");
    let remedy = format!("log in with `docker login {}`, or name a user with --creds USER", registry.address());
    assert!(error.to_string().ends_with(&remedy), "{error}");
}

#[test]
fn what_docker_login_left_opens_the_registry() {
    let registry = guarded();
    let home = Home::new();
    let name = format!("{}/app:1", registry.address());
    let json = format!(r#"{{"auths": {{"{}": {{"auth": "{AUTH}"}}}}}}"#, registry.address());
    let auth_files = auth_file(home.directory.path(), &json);
    home.pull_with(&name, &PullOptions { auth_files: auth_files.clone(), ..home.options() }).unwrap();
    // What is given wins.
    let credentials = Credentials::parse("somebody:wrong");
    let options = PullOptions { auth_files, credentials, ..home.options() };
    assert!(matches!(home.pull_with(&name, &options), Err(PullError::Refused { .. })));
}

/// Pulls as a process whose environment says where the credentials are: run by the test below.
#[test]
#[ignore = "run by the test of the credential helper"]
fn pull_as_the_environment_says() {
    let store = Store::open(std::env::var("STORE").unwrap().as_ref()).unwrap();
    let name = parse(&std::env::var("NAME").unwrap());
    registry::pull(&store, &name, &PullOptions::default()).unwrap();
}

#[test]
fn a_credential_helper_is_asked() {
    let registry = guarded();
    let home = Home::new();
    let directory = home.directory.path();
    let helper = directory.join("docker-credential-fake");
    let script = format!(
        "#!/bin/sh\nread -r server\n[ \"$1 $server\" = 'get {}' ] || exit 1\n\
         printf '{{\"Username\": \"{USER}\", \"Secret\": \"{PASSWORD}\"}}'\n",
        registry.address()
    );
    std::fs::write(&helper, script).unwrap();
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::write(directory.join("config.json"), r#"{"credsStore": "fake"}"#).unwrap();
    let pull = |path: String| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "pull_as_the_environment_says", "--ignored", "--nocapture"]);
        command.env_remove("REGISTRY_AUTH_FILE").env_remove("XDG_RUNTIME_DIR").env("DOCKER_CONFIG", directory);
        command.env("STORE", directory.join("images")).env("NAME", format!("{}/app:1", registry.address()));
        command.env("PATH", path).output().unwrap()
    };
    let path = std::env::var("PATH").unwrap();
    assert!(!pull(path.clone()).status.success());
    let output = pull(format!("{}:{path}", directory.display()));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(home.store.images().unwrap().len(), 1);
}

#[test]
fn a_private_authority_has_to_be_named() {
    let registry = Registry::start(Options { htpasswd: None, tls: true });
    registry.push(&image().source("latest"), "app:1", Format::Keep);
    let home = Home::new();
    let name = format!("{}/app:1", registry.address());
    let error = home.pull(&name).unwrap_err();
    assert!(matches!(error, PullError::Certificate { .. }), "{}", chain(&error));
    let remedy = format!("`ca = \"FILE\"` under [registry.\"{}\"] in config.toml", registry.address());
    assert!(error.to_string().ends_with(&remedy), "{error}");

    let text = format!("[registry.\"{}\"]\nca = \"{}\"", registry.address(), registry.ca().display());
    let options = PullOptions { config: home.config(&text), ..home.options() };
    home.open(&home.pull_with(&name, &options).unwrap());
}

#[test]
fn an_insecure_registry_may_have_any_certificate() {
    let registry = Registry::start(Options { htpasswd: Some((USER.into(), PASSWORD.into())), tls: true });
    registry.push(&image().source("latest"), "app:1", Format::Keep);
    let home = Home::new();
    let config = home.config(&format!("[registry.\"{}\"]\ninsecure = true", registry.address()));
    let credentials = Credentials::parse(&format!("{USER}:{PASSWORD}"));
    let options = PullOptions { config, credentials, ..home.options() };
    home.open(&home.pull_with(&format!("{}/app:1", registry.address()), &options).unwrap());
}

#[test]
fn tokens_are_fetched_and_shown() {
    for identity in [false, true] {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        let stub = Stub::start(move |request, head, body| {
            let header = |name: &str| head.iter().find(|line| line.to_lowercase().starts_with(name)).cloned();
            let authorization = header("authorization").unwrap_or_default().to_lowercase();
            log.lock().unwrap().push(format!("{request} {authorization} {body}"));
            if request == "GET /v2/" {
                let realm = format!("http://{}/token", header("host").unwrap().split_once(' ').unwrap().1);
                let mut answer = Answer::json(401, r#"{"errors": [{"code": "UNAUTHORIZED"}]}"#);
                answer.headers.push(format!("WWW-Authenticate: Bearer realm=\"{realm}\",service=\"stub\""));
                answer
            } else if request.contains(" /token") {
                Answer::json(200, r#"{"access_token": "t0ken"}"#)
            } else if authorization.ends_with("bearer t0ken") {
                Answer::json(404, r#"{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "unknown"}]}"#)
            } else {
                Answer::json(401, r#"{"errors": [{"code": "UNAUTHORIZED"}]}"#)
            }
        });
        let home = Home::new();
        let entry = if identity { r#""identitytoken": "id=1""#.into() } else { format!(r#""auth": "{AUTH}""#) };
        let json = format!(r#"{{"auths": {{"{}": {{{entry}}}}}}}"#, stub.address());
        let options = PullOptions { auth_files: auth_file(home.directory.path(), &json), ..home.options() };
        let error = home.pull_with(&format!("{}/some/app", stub.address()), &options).unwrap_err();
        assert!(matches!(error, PullError::Unknown { .. }), "{error:?} {:?}", seen.lock().unwrap());
        let seen = seen.lock().unwrap();
        let token = seen.iter().find(|request| request.contains(" /token")).unwrap();
        if identity {
            assert!(token.starts_with("POST ") && token.contains("refresh_token=id%3D1"), "{token}");
            assert!(token.contains("scope=repository%3Asome%2Fapp%3Apull"), "{token}");
        } else {
            let basic = format!("basic {}", AUTH.to_lowercase());
            assert!(token.starts_with("GET ") && token.contains(&basic), "{token}");
        }
    }
}

#[test]
fn a_token_that_is_none_does_no_harm() {
    let stub = Stub::start(|request, head, _| {
        if request.contains("/token") {
            return Answer::json(200, r#"{"token": "a\nb"}"#);
        }
        let host = head.iter().find_map(|line| line.to_lowercase().strip_prefix("host: ").map(str::to_owned)).unwrap();
        let mut answer = Answer::json(401, "{}");
        answer.headers.push(format!("WWW-Authenticate: Bearer realm=\"http://{host}/token\""));
        answer
    });
    let error = Home::new().pull(&format!("{}/app", stub.address())).unwrap_err();
    assert!(matches!(error, PullError::NotARegistry { .. }), "{error:?}");
}

#[test]
fn credentials_do_not_follow_a_redirection() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let elsewhere = Stub::start(move |request, head, _| {
        log.lock().unwrap().push((request.to_owned(), head.join("\n").to_lowercase()));
        Answer::json(404, r#"{"errors": [{"code": "MANIFEST_UNKNOWN"}]}"#)
    });
    let target = format!("Location: http://{}/elsewhere?signature=s3cret", elsewhere.address());
    let stub = Stub::start(move |request, _, _| match request {
        "GET /v2/" => {
            let headers = vec!["WWW-Authenticate: Basic realm=\"stub\"".to_owned()];
            Answer { status: 401, headers, body: vec![] }
        }
        _ => Answer { status: 307, headers: vec![target.clone()], body: vec![] },
    });
    let home = Home::new();
    let options = PullOptions { credentials: Credentials::parse("a:b"), ..home.options() };
    let error = home.pull_with(&format!("{}/app", stub.address()), &options).unwrap_err();
    assert!(!format!("{error:?} {}", chain(&error)).contains("s3cret"));
    let seen = seen.lock().unwrap();
    assert!(!seen.is_empty() && seen.iter().all(|(_, head)| !head.contains("authorization")), "{seen:?}");
}

#[test]
fn no_file_is_needed() {
    let home = Home::new();
    let missing = AuthFiles(vec![home.directory.path().join("none.json")]);
    let registry = Registry::plain();
    registry.push(&image().source("latest"), "app:1", Format::Keep);
    let options = PullOptions { auth_files: missing, ..home.options() };
    home.pull_with(&format!("{}/app:1", registry.address()), &options).unwrap();
    assert!(home.notes().is_empty(), "{:?}", home.notes());
}
