//! Identity tokens, which `docker login` keeps instead of a password where the login went through a browser: they are
//! exchanged for access tokens (distribution's "OAuth2 token authentication"). The library does not know them.

use std::fmt::Write as _;

use reqwest::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use serde::Deserialize;

use super::endpoint::read_bounded;
use super::error::{Asked, PullError};
use crate::name::Name;

/// Where a registry says that tokens come from.
#[derive(Debug, PartialEq, Eq)]
struct Challenge {
    realm: String,
    service: String,
}

/// What a token server says.
#[derive(Deserialize)]
struct Tokens {
    #[serde(alias = "token")]
    access_token: String,
}

/// Exchanges the identity token for one that lets pull the repository of `name`. `None` when the registry at `root`
/// wants no token.
pub(super) async fn exchange(
    http: &reqwest::Client,
    root: &str,
    name: &Name,
    identity: &str,
    asked: Asked<'_>,
) -> Result<Option<String>, PullError> {
    let response = http.get(root).send().await.map_err(|error| asked.transport(error))?;
    let header = response.headers().get(WWW_AUTHENTICATE).and_then(|value| value.to_str().ok());
    let Some(Challenge { realm, service }) = header.and_then(challenge) else { return Ok(None) };
    let scope = format!("repository:{}:pull", name.path);
    let fields = [
        ("grant_type", "refresh_token"),
        ("client_id", "taskrun"),
        ("service", service.as_str()),
        ("scope", scope.as_str()),
        ("refresh_token", identity),
    ];
    let request = http.post(realm).header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form(&fields));
    let mut response = request.send().await.map_err(|error| asked.transport(error))?;
    let status = response.status();
    let body = read_bounded(&mut response, asked).await?;
    if !status.is_success() {
        // What a token server says may repeat what it was given.
        return Err(asked.status(if status.is_client_error() { 401 } else { status.as_u16() }, ""));
    }
    let tokens: Result<Tokens, _> = serde_json::from_slice(&body);
    let none = |_| PullError::NotARegistry { registry: asked.host.shown.clone(), what: "it gave no token".into() };
    Ok(Some(tokens.map_err(none)?.access_token))
}

/// Reads the header that asks for a token: `Bearer realm="…",service="…"`.
fn challenge(header: &str) -> Option<Challenge> {
    let (scheme, rest) = header.trim().split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let value = |name: &str| {
        rest.split(',').find_map(|part| {
            let (key, value) = part.trim().split_once('=')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim_matches('"').to_owned())
        })
    };
    Some(Challenge { realm: value("realm")?, service: value("service").unwrap_or_default() })
}

/// Fields as a form.
fn form(fields: &[(&str, &str)]) -> String {
    let mut form = String::new();
    for (name, value) in fields {
        if !form.is_empty() {
            form.push('&');
        }
        form.push_str(name);
        form.push('=');
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                form.push(char::from(byte));
            } else {
                // Writing to a string can't fail.
                let _ = write!(form, "%{byte:02X}");
            }
        }
    }
    form
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_challenge_says_where_tokens_come_from() {
        let header = r#"Bearer realm="https://auth.example/token", service="registry.example",scope="x""#;
        let expected = Challenge { realm: "https://auth.example/token".into(), service: "registry.example".into() };
        assert_eq!(challenge(header), Some(expected));
        for header in ["", "Basic realm=\"x\"", "Bearer", "Bearer service=\"x\"", "Bearer ,=,"] {
            assert_eq!(challenge(header), None, "{header}");
        }
    }

    #[test]
    fn fields_are_escaped() {
        assert_eq!(form(&[("a", "b c"), ("d", "e&f=ä")]), "a=b%20c&d=e%26f%3D%C3%A4");
    }
}
