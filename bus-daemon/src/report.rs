//! What the broker logs of the ordinary course of things, and of those whom it refuses.
//!
//! Promises: inside a process that has another purpose, topics and handles that come and go are
//! logged at debug level, for that log is the program's; of clients that are refused, one line is
//! logged for each user and second, with how many were left out, so that no user can fill the log.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::time::{Duration, Instant};

use bus_core::control::Refusal;

/// Time between two lines about one user.
const EVERY: Duration = Duration::from_secs(1);
/// Users that are kept in mind. When there are more, those of whom nothing was left out are
/// forgotten first.
const MOST: usize = 1024;

thread_local! {
    static EMBEDDED: Cell<bool> = const { Cell::new(false) };
    static LINES: RefCell<Lines> = RefCell::new(Lines::default());
}

/// Logs at info level, or at debug level where the broker is [embedded](be_embedded). Arguments as
/// for `tracing::info!`.
macro_rules! note {
    ($($what:tt)*) => {
        if $crate::report::is_embedded() {
            tracing::debug!($($what)*);
        } else {
            tracing::info!($($what)*);
        }
    };
}
pub(crate) use note;

/// The broker that runs on this thread is a part of a program with another purpose.
pub(crate) fn be_embedded() {
    EMBEDDED.set(true);
}

pub(crate) fn is_embedded() -> bool {
    EMBEDDED.get()
}

/// Logs that a client of this user is refused, unless that was logged just now.
pub(crate) fn refused(uid: u32, pid: u32, kind: Refusal, why: &str) {
    let now = Instant::now();
    if let Some(left_out) = LINES.with_borrow_mut(|lines| lines.next(uid, now)) {
        tracing::warn!(uid, pid, ?kind, why, left_out, "refused");
    }
}

/// When a line about each user was logged, and how many were left out since.
#[derive(Default)]
struct Lines(HashMap<u32, (Instant, u64)>);

impl Lines {
    /// Whether a line may be logged about this user now: with how many were left out before it.
    fn next(&mut self, uid: u32, now: Instant) -> Option<u64> {
        if let Some((last, left_out)) = self.0.get_mut(&uid)
            && now.saturating_duration_since(*last) < EVERY
        {
            *left_out += 1;
            return None;
        }
        if self.0.len() >= MOST {
            self.0.retain(|_, (_, left_out)| *left_out > 0);
        }
        if self.0.len() >= MOST {
            self.0.clear();
        }
        let before = self.0.insert(uid, (now, 0));
        Some(before.map_or(0, |(_, left_out)| left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_for_each_user_and_second_with_how_many_were_left_out() {
        let mut lines = Lines::default();
        let start = Instant::now();
        assert_eq!(lines.next(1, start), Some(0));
        assert_eq!(lines.next(1, start + EVERY / 2), None);
        assert_eq!(lines.next(1, start + EVERY / 2), None);
        assert_eq!(lines.next(2, start + EVERY / 2), Some(0));
        assert_eq!(lines.next(1, start + EVERY), Some(2));
        assert_eq!(lines.next(1, start + EVERY), None);
        for uid in 0..100_000 {
            lines.next(uid, start + EVERY * 2);
        }
        assert!(lines.0.len() <= MOST);
    }
}
