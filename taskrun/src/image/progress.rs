//! Progress of pulls and unpacking: bars on a terminal, nothing in a pipe.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, IsTerminal};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use images::Digest;
use images::registry::Progress;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::errors;

/// How often a bar that does not move shows that it lives.
const TICK: Duration = Duration::from_millis(200);

/// What a bar shows.
const LAYER: &str = "{prefix:12} {bar:30} {binary_bytes:>11} / {binary_total_bytes:<11} {wide_msg}";
const TOTAL: &str = "{prefix:12} {bar:30} {binary_bytes:>11} / {binary_total_bytes:<11} {binary_bytes_per_sec}";

/// Where progress is shown.
pub struct Display {
    bars: MultiProgress,
    visible: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    layers: HashMap<Digest, ProgressBar>,
    total: Option<ProgressBar>,
}

impl fmt::Debug for Display {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Display").field("visible", &self.visible).finish_non_exhaustive()
    }
}

impl Display {
    /// Bars on standard error, when that is a terminal and `quiet` does not forbid them.
    #[must_use]
    pub fn new(quiet: bool) -> Self {
        let visible = !quiet && io::stderr().is_terminal();
        let target = if visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self { bars: MultiProgress::with_draw_target(target), visible, state: Mutex::default() }
    }

    /// Says something beside the bars, where there are any.
    pub fn note(&self, text: &str) {
        if self.visible {
            self.bars.suspend(|| errors::say(text));
        }
    }

    /// Takes the bars away.
    pub fn clear(&self) {
        *self.state() = State::default();
        // It fails only when the terminal is gone.
        let _ = self.bars.clear();
    }

    /// A bar for the unpacking of layers of so many bytes.
    #[must_use]
    pub fn unpacking(&self, total: u64) -> Bar {
        let bar = self.bars.add(bar(total, TOTAL));
        bar.set_prefix("Unpacking");
        bar.enable_steady_tick(TICK);
        Bar(bar)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress for Display {
    fn layer_started(&self, digest: &Digest, length: u64, already: u64) {
        let mut state = self.state();
        let total = state.total.get_or_insert_with(|| {
            let total = self.bars.add(bar(0, TOTAL));
            total.set_prefix("Pulling");
            total.enable_steady_tick(TICK);
            total
        });
        total.inc_length(length);
        total.inc(already);
        let layer = self.bars.insert_before(total, bar(length, LAYER));
        layer.set_prefix(short(digest));
        layer.set_position(already);
        if already == length {
            layer.set_message("is there");
        }
        state.layers.insert(*digest, layer);
    }

    fn layer_progress(&self, digest: &Digest, bytes: u64) {
        let state = self.state();
        let (Some(layer), Some(total)) = (state.layers.get(digest), &state.total) else { return };
        let before = layer.position();
        layer.set_position(bytes);
        total.set_position(total.position().saturating_sub(before).saturating_add(bytes));
    }

    fn layer_done(&self, digest: &Digest) {
        if let Some(layer) = self.state().layers.get(digest) {
            layer.finish_with_message("done");
        }
    }

    fn waiting(&self, digest: &Digest) {
        match self.state().layers.get(digest) {
            Some(layer) => layer.set_message("another taskrun downloads it"),
            None => self.note(&format!("Another taskrun downloads {}; waiting for it", short(digest))),
        }
    }

    fn note(&self, text: &str) {
        Self::note(self, text);
    }
}

/// The start of a digest, as docker shows it.
fn short(digest: &Digest) -> String {
    let text = digest.to_string();
    let hex = text.split_once(':').map_or(text.as_str(), |(_, hex)| hex);
    hex.get(..12).unwrap_or(hex).to_owned()
}

/// A bar on a [`Display`].
#[derive(Debug)]
pub struct Bar(ProgressBar);

impl Bar {
    /// Shows this position.
    pub fn at(&self, position: u64) {
        self.0.set_position(position);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

fn bar(length: u64, template: &str) -> ProgressBar {
    // The templates are constants; a test reads them.
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(length).with_style(style.progress_chars("=> "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_can_be_drawn() {
        for template in [LAYER, TOTAL] {
            assert!(ProgressStyle::with_template(template).is_ok());
        }
    }

    #[test]
    fn the_sum_follows_its_layers_also_backwards() {
        let display = Display::new(true);
        let [one, two] = [b"1", b"2"].map(|bytes| Digest::of(bytes));
        display.layer_started(&one, 100, 40);
        display.layer_started(&two, 50, 50);
        display.layer_progress(&one, 70);
        display.layer_progress(&one, 10);
        let state = display.state();
        let total = state.total.as_ref().unwrap();
        assert_eq!((total.length(), total.position()), (Some(150), 60));
    }
}
