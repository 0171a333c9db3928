//! A stream on a busy machine: short stretches of it, timed one by one, of which only those count in which both sides ran.
//!
//! A side that loses its processor stands still for milliseconds, its peer waits, and a stream's whole time says more
//! about the scheduler than about the stream. So each side notes when each stretch of its messages ended and whether it kept its
//! processor throughout; a stretch of the subscriber counts if it did, and the publisher in all of its own meanwhile.

use crate::clock::monotonic_ns;
use crate::counters::usage::Usage;
use anyhow::Result;
use serde::{Deserialize, Serialize};

/// One stretch, as its side saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stretch {
    /// The monotonic clock at its start.
    pub start_ns: u64,
    /// The monotonic clock at its end.
    pub end_ns: u64,
    /// Messages.
    pub messages: u64,
    /// The side kept its processor.
    pub calm: bool,
}

impl Stretch {
    fn rate(&self) -> f64 {
        let ns = self.end_ns.saturating_sub(self.start_ns).max(1);
        self.messages as f64 * 1e9 / ns as f64
    }
}

/// Notes the stretches of one side.
#[derive(Debug)]
pub struct Stretches {
    len: Option<u64>,
    since: u64,
    since_ns: u64,
    switches: u64,
    noted: Vec<Stretch>,
}

impl Stretches {
    /// Stretches of `len` messages, or none.
    #[must_use]
    pub fn new(len: Option<u64>) -> Self {
        Self {
            len,
            since: 0,
            since_ns: 0,
            switches: 0,
            noted: Vec::new(),
        }
    }

    /// Forgets what was noted, and begins a stretch at this count of messages.
    ///
    /// # Errors
    /// The system does not tell the time or the usage.
    pub fn begin(&mut self, count: u64) -> Result<()> {
        // A side whose calls are counted makes none for this.
        if self.len.is_none() {
            return Ok(());
        }
        self.noted.clear();
        self.since = count;
        self.since_ns = monotonic_ns()?;
        self.switches = switches()?;
        Ok(())
    }

    /// The count of messages at which [`next`](Self::next) is to be called, or later.
    #[inline]
    #[must_use]
    pub fn end(&self) -> u64 {
        self.len
            .map_or(u64::MAX, |len| self.since.saturating_add(len))
    }

    /// Ends a stretch at this count of messages, and begins the next.
    ///
    /// # Errors
    /// As for [`begin`](Self::begin).
    #[cold]
    pub fn next(&mut self, count: u64) -> Result<()> {
        let (end_ns, switches) = (monotonic_ns()?, switches()?);
        self.noted.push(Stretch {
            start_ns: self.since_ns,
            end_ns,
            messages: count - self.since,
            calm: switches == self.switches,
        });
        self.since = count;
        self.since_ns = end_ns;
        self.switches = switches;
        Ok(())
    }

    /// What was noted.
    #[must_use]
    pub fn finish(self) -> Vec<Stretch> {
        self.noted
    }
}

fn switches() -> Result<u64> {
    let usage = Usage::now()?;
    Ok(usage.voluntary_switches + usage.involuntary_switches)
}

/// Messages a second in each stretch in which both sides ran. A side that catches up with what its peer has left or
/// freed before is faster than the two together: the slower side counts.
///
/// ```
/// use bus_bench::stretches::{Stretch, rates};
/// let stretch = |start_ns, end_ns, calm| Stretch { start_ns, end_ns, messages: 100, calm };
/// let publisher = [stretch(0, 100, true), stretch(100, 200, true), stretch(200, 900, false)];
/// let subscriber = [stretch(10, 60, true), stretch(60, 160, true), stretch(160, 300, true)];
/// assert_eq!(rates(&publisher, &subscriber), [1e9, 1e9]);
/// ```
#[must_use]
pub fn rates(publisher: &[Stretch], subscriber: &[Stretch]) -> Vec<f64> {
    let mut rates = Vec::new();
    let mut from = 0;
    for stretch in subscriber {
        while publisher
            .get(from)
            .is_some_and(|theirs| theirs.end_ns <= stretch.start_ns)
        {
            from += 1;
        }
        let meanwhile: Vec<&Stretch> = publisher[from..]
            .iter()
            .take_while(|theirs| theirs.start_ns < stretch.end_ns)
            .collect();
        let (Some(first), Some(last)) = (meanwhile.first(), meanwhile.last()) else {
            continue;
        };
        let covered = first.start_ns <= stretch.start_ns && last.end_ns >= stretch.end_ns;
        if covered && stretch.calm && meanwhile.iter().all(|theirs| theirs.calm) {
            let whole = Stretch {
                start_ns: first.start_ns,
                end_ns: last.end_ns,
                messages: meanwhile.iter().map(|theirs| theirs.messages).sum(),
                calm: true,
            };
            rates.push(stretch.rate().min(whole.rate()));
        }
    }
    rates
}
