//! Who the user is to a registry: what was given, else what `docker login` or `podman login` left behind, else nobody.

use std::fmt;
use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

use docker_credential::{CredentialRetrievalError, DockerCredential};

use super::progress::Progress;

/// A user's name and password. Its debug form shows neither.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The name.
    pub user: String,
    /// The password.
    pub password: String,
}

impl Credentials {
    /// Reads `USER:PASSWORD`; `None` without a user or a colon. The password may be empty.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (user, password) = text.split_once(':')?;
        (!user.is_empty()).then(|| Self { user: user.into(), password: password.into() })
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}

/// What proves who the user is.
#[derive(Clone)]
pub(super) enum Login {
    /// A name and a password.
    Basic(Credentials),
    /// A token that gets other tokens, from a `docker login` through a browser.
    Identity(String),
}

/// The files that hold what `docker login` and `podman login` were told, the first that knows a registry wins.
#[derive(Clone, Debug, Default)]
pub struct AuthFiles(pub Vec<PathBuf>);

impl AuthFiles {
    /// The files that the environment names: `$REGISTRY_AUTH_FILE`, `$DOCKER_CONFIG/config.json` (or
    /// `~/.docker/config.json`), `$XDG_RUNTIME_DIR/containers/auth.json`.
    #[must_use]
    pub fn from_environment() -> Self {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let docker = variable("DOCKER_CONFIG").or_else(|| Some(variable("HOME")?.join(".docker")));
        let docker = docker.map(|directory| directory.join("config.json"));
        let podman = variable("XDG_RUNTIME_DIR").map(|directory| directory.join("containers/auth.json"));
        Self([variable("REGISTRY_AUTH_FILE"), docker, podman].into_iter().flatten().collect())
    }

    /// What the files have for the registry `host`. A file or a helper program that fails is noted and passed over:
    /// most images need no credentials.
    pub(super) fn find(&self, host: &str, progress: &dyn Progress) -> Option<Login> {
        // Docker keeps the credentials of its own registry under the address that it had first.
        let docker = ["https://index.docker.io/v1/", "docker.io", "registry-1.docker.io"];
        let servers = if host == "docker.io" { docker.as_slice() } else { &[host] };
        let places = self.0.iter().flat_map(|file| servers.iter().map(move |server| (file, *server)));
        for (path, server) in places {
            let Ok(file) = File::open(path) else { continue };
            let problem = match docker_credential::get_credential_from_reader(BufReader::new(file), server) {
                Ok(DockerCredential::UsernamePassword(user, token)) if user == "<token>" => {
                    return Some(Login::Identity(token));
                }
                Ok(DockerCredential::UsernamePassword(user, password)) => {
                    return Some(Login::Basic(Credentials { user, password }));
                }
                Ok(DockerCredential::IdentityToken(token)) => return Some(Login::Identity(token)),
                Err(error) => problem(&error),
            };
            if let Some(problem) = problem {
                let path = path.display();
                progress.note(&format!("The credentials for {host} that {path} has can't be used: {problem}"));
            }
        }
        None
    }
}

/// What is wrong, as the end of a sentence; `None` when nothing is. What a helper said is not shown: it may be a secret.
fn problem(error: &CredentialRetrievalError) -> Option<String> {
    match error {
        CredentialRetrievalError::NoCredentialConfigured | CredentialRetrievalError::ConfigNotFound => None,
        CredentialRetrievalError::HelperFailure { stdout, stderr, .. }
            if [stdout, stderr].iter().any(|text| text.contains("credentials not found")) =>
        {
            None
        }
        CredentialRetrievalError::HelperFailure { helper, .. } => Some(format!("the program {helper} failed")),
        CredentialRetrievalError::HelperCommunicationError => {
            Some("the credential helper can't be run: is it installed?".into())
        }
        CredentialRetrievalError::MalformedHelperResponse => Some("the credential helper gave no credentials".into()),
        CredentialRetrievalError::ConfigReadError => Some("the file is damaged".into()),
        CredentialRetrievalError::CredentialDecodingError | CredentialRetrievalError::CredentialMismatchError => {
            Some("they are damaged".into())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::digest::Digest;

    #[derive(Default)]
    struct Notes(Mutex<Vec<String>>);

    impl Progress for Notes {
        fn layer_started(&self, _: &Digest, _: u64, _: u64) {}
        fn layer_progress(&self, _: &Digest, _: u64) {}
        fn layer_done(&self, _: &Digest) {}
        fn waiting(&self, _: &Digest) {}
        fn note(&self, text: &str) {
            self.0.lock().unwrap().push(text.into());
        }
    }

    /// What is found for `host` in files with these contents, `user:password` or the token, and the notes.
    fn find(contents: &[&str], host: &str) -> (Option<String>, Vec<String>) {
        let temp = tempfile::tempdir().unwrap();
        let file = |(number, content): (usize, &&str)| {
            let path = temp.path().join(format!("{number}.json"));
            std::fs::write(&path, content).unwrap();
            path
        };
        let files = AuthFiles(contents.iter().enumerate().map(file).collect());
        let notes = Notes::default();
        let found = files.find(host, &notes).map(|login| match login {
            Login::Basic(Credentials { user, password }) => format!("{user}:{password}"),
            Login::Identity(token) => token,
        });
        (found, notes.0.into_inner().unwrap())
    }

    #[test]
    fn docker_hub_is_found_under_its_old_address() {
        let file = r#"{"auths": {"https://index.docker.io/v1/": {"auth": "dTpw"}, "a:5000": {"auth": "YTpi"}}}"#;
        assert_eq!(find(&[file], "docker.io").0.as_deref(), Some("u:p"));
        assert_eq!(find(&[file], "a:5000").0.as_deref(), Some("a:b"));
        assert_eq!(find(&[file], "b"), (None, vec![]));
    }

    #[test]
    fn the_first_file_that_knows_wins() {
        let none = r#"{"auths": {}}"#;
        let [first, second] = ["dTpw", "YTpi"].map(|auth| format!(r#"{{"auths": {{"a": {{"auth": "{auth}"}}}}}}"#));
        assert_eq!(find(&[none, &first, &second], "a").0.as_deref(), Some("u:p"));
    }

    #[test]
    fn identity_tokens_are_known() {
        let file = r#"{"auths": {"a": {"auth": "PHRva2VuPjpw", "identitytoken": "secret"}}}"#;
        assert_eq!(find(&[file], "a").0.as_deref(), Some("secret"));
    }

    #[test]
    fn what_fails_is_noted_and_passed_over() {
        let (found, notes) = find(&["{", r#"{"credHelpers": {"a": "no-such-helper"}}"#], "a");
        assert!(found.is_none() && notes.len() == 2, "{notes:?}");
        assert!(notes[0].ends_with("the file is damaged") && notes[1].ends_with("is it installed?"), "{notes:?}");
    }

    #[test]
    fn what_is_given_may_have_colons_in_the_password() {
        let credentials = Credentials::parse("me:a:b").unwrap();
        assert_eq!((credentials.user.as_str(), credentials.password.as_str()), ("me", "a:b"));
        assert!(!format!("{credentials:?}").contains("a:b"));
        assert!(["", ":x", "me"].iter().all(|text| Credentials::parse(text).is_none()));
        assert_eq!(Credentials::parse("me:").unwrap().password, "");
    }
}
