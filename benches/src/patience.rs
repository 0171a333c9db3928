//! How a side waits: the same for every transport that polls.
//!
//! With a processor for each process a side spins until it is served. With more
//! processes than processors it spins a bounded number of times and then gives
//! the processor to its neighbour, or nobody would get on.

/// Polls before a crowded side yields. Long enough for a line to cross between
/// two cores a few times, short against the cost of a context switch.
const POLLS: u32 = 64;

/// A side's way to wait; ask [`Patience::pause`] between two polls.
///
/// ```
/// let mut patience = bus_bench::patience::Patience::new(true, 1);
/// let mut polls = 0;
/// while polls < 1000 {
///     polls += 1;
///     patience.pause();
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Patience {
    crowded: bool,
    pauses: u32,
    polls: u32,
}

impl Patience {
    /// `crowded`: there are more processes than processors. `pauses`: how often to pause the
    /// processor between two polls. One answers soonest; with more, a fast subscriber
    /// is not always at its publisher's heels and takes several messages at a time.
    #[must_use]
    pub fn new(crowded: bool, pauses: u32) -> Self {
        Self {
            crowded,
            pauses,
            polls: 0,
        }
    }

    /// Between two polls that found nothing.
    #[inline]
    pub fn pause(&mut self) {
        for _ in 0..self.pauses {
            std::hint::spin_loop();
        }
        if self.crowded {
            self.polls += 1;
            if self.polls >= POLLS {
                self.polls = 0;
                std::thread::yield_now();
            }
        }
    }
}
