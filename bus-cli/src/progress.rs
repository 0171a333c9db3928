//! The line on a terminal: how much went through, how fast. Nothing where standard error is no terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often the line is drawn again while nothing moves.
const TICK: Duration = Duration::from_millis(200);

/// A line that counts bytes. Dropping it removes it.
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// A line on standard error, if `wanted` and if that is a terminal.
    pub fn new(wanted: bool) -> Self {
        let target = if wanted {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(None, target);
        if !bar.is_hidden() {
            let line = "{spinner} {binary_bytes} in {elapsed}, {binary_bytes_per_sec} {msg}";
            if let Ok(style) = ProgressStyle::with_template(line) {
                bar.set_style(style);
            }
            bar.enable_steady_tick(TICK);
        }
        Self { bar }
    }

    /// Says what is waited for; empty for nothing.
    pub fn waiting(&self, what: &'static str) {
        self.bar.set_message(what);
        if what.is_empty() {
            self.bar.reset_elapsed();
        }
    }

    /// Says something on standard error, above the line.
    pub fn say(&self, sentence: &str) {
        self.bar.suspend(|| eprintln!("{sentence}"));
    }

    /// Counts bytes.
    #[inline]
    pub fn moved(&self, bytes: usize) {
        self.bar.inc(bytes as u64);
    }

    /// Bytes counted.
    pub fn bytes(&self) -> u64 {
        self.bar.position()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
