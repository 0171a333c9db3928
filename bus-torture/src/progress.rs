//! The line on a terminal: what is tried, how much of it is done. Nothing where standard error is no terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

const TICK: Duration = Duration::from_millis(200);

/// A line that counts what was tried. Dropping it removes it.
#[derive(Debug)]
pub struct Progress(ProgressBar);

impl Progress {
    /// A line for `total` things, or for as many as there will be.
    #[must_use]
    pub fn new(what: impl Into<String>, total: Option<u64>) -> Self {
        let bar = match total {
            Some(total) => ProgressBar::new(total),
            None => ProgressBar::no_length(),
        };
        if !bar.is_hidden() {
            let line = match total {
                Some(_) => "{spinner} {msg}: {human_pos} of {human_len}, {elapsed}",
                None => "{spinner} {msg}: {human_pos}, {elapsed}",
            };
            if let Ok(style) = ProgressStyle::with_template(line) {
                bar.set_style(style);
            }
            bar.set_message(what.into());
            bar.enable_steady_tick(TICK);
        }
        Self(bar)
    }

    /// So many more are done.
    pub fn done(&self, more: u64) {
        self.0.inc(more);
    }

    /// Says what is tried now.
    pub fn now(&self, what: impl Into<String>) {
        self.0.set_message(what.into());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
