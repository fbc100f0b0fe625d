//! Where an image may come from: the mirrors of its registry in their order, then the registry itself.

use std::cell::Cell;
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::time::sleep;

use super::PullOptions;
use super::credentials::Login;
use super::endpoint::{Endpoint, Host};
use super::error::PullError;
use super::retry::Backoff;
use crate::name::Name;

/// The places that may have the image, the first choice first and the registry itself last.
pub(super) struct Sources<'a> {
    name: &'a Name,
    options: &'a PullOptions<'a>,
    places: Vec<(Host, OnceCell<Endpoint>)>,
    /// The first that had the manifest. Those before it are not asked again.
    first: Cell<usize>,
}

impl<'a> Sources<'a> {
    /// The sources of the image `name`.
    pub(super) fn new(name: &'a Name, options: &'a PullOptions<'a>) -> Self {
        let mirrors = options.config.registry(&name.host).mirrors;
        let hosts = mirrors.iter().chain([&name.host]);
        let places = hosts.map(|host| (Host::new(host), OnceCell::new())).collect();
        Self { name, options, places, first: Cell::new(0) }
    }

    /// Asks the sources in turn until one answers, and returns which did. What fails on this machine fails everywhere.
    pub(super) async fn ask<T>(
        &self,
        ask: impl AsyncFn(&Endpoint) -> Result<T, PullError>,
    ) -> Result<(usize, T), PullError> {
        let mut failed: Option<(&Host, PullError)> = None;
        for (number, (host, cell)) in self.places.iter().enumerate().skip(self.first.get()) {
            if let Some((mirror, error)) = failed.take() {
                let (mirror, progress) = (&mirror.shown, self.options.progress);
                progress.note(&format!("The mirror {mirror} was passed over: {}", chain(&error)));
            }
            let result = match cell.get_or_try_init(|| self.connect(host)).await {
                Ok(endpoint) => ask(endpoint).await,
                Err(error) => Err(error),
            };
            match result {
                Ok(answer) => return Ok((number, answer)),
                Err(error) if error.is_local() => return Err(error),
                Err(error) => failed = Some((host, error)),
            }
        }
        // The registry itself is always there.
        Err(failed.map_or_else(|| PullError::Setup { source: "there is no registry".into() }, |(_, error)| error))
    }

    /// Remembers that source `number` has the image, and those before it have not.
    pub(super) fn start_at(&self, number: usize) {
        self.first.set(number);
    }

    /// Tries until it goes well or there is no hope: again after a pause when it may go well next time, and with a fresh
    /// token, once, when the registry refuses the one it gave.
    pub(super) async fn retry<T>(
        &self,
        endpoint: &Endpoint,
        attempt: impl AsyncFn() -> Result<T, PullError>,
    ) -> Result<T, PullError> {
        let mut hope = Hope::new(self.options.timing.backoff);
        loop {
            match attempt().await {
                Ok(result) => return Ok(result),
                Err(error) => hope.after(endpoint, error).await?,
            }
        }
    }

    async fn connect(&self, host: &Host) -> Result<Endpoint, PullError> {
        let options = self.options;
        let given = options.credentials.clone().filter(|_| host.shown == self.name.host).map(Login::Basic);
        let login = given.or_else(|| options.auth_files.find(&host.shown, options.progress));
        let settings = options.config.registry(&host.shown);
        Endpoint::connect(host.clone(), self.name, login, settings, options.timing).await
    }
}

/// Whether it makes sense to try again.
pub(super) struct Hope {
    backoff: Backoff,
    refreshed: bool,
}

impl Hope {
    pub(super) fn new(pause: Duration) -> Self {
        Self { backoff: Backoff::new(pause), refreshed: false }
    }

    /// Something was achieved.
    pub(super) fn renew(&mut self) {
        self.backoff.reset();
        self.refreshed = false;
    }

    /// Waits until the next attempt, or gives `error` back when there is none.
    pub(super) async fn after(&mut self, endpoint: &Endpoint, error: PullError) -> Result<(), PullError> {
        if error.is_refusal() && endpoint.has_token() && !self.refreshed {
            self.refreshed = true;
            return endpoint.authorize().await;
        }
        let pause = if error.is_transient() { self.backoff.failed() } else { None };
        match pause {
            Some(pause) => {
                sleep(pause).await;
                Ok(())
            }
            None => Err(error),
        }
    }
}

/// An error with its causes, on one line.
fn chain(error: &PullError) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(error) = next {
        text.push_str(": ");
        text.push_str(&error.to_string());
        next = error.source();
    }
    text
}
