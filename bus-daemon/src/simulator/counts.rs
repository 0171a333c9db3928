//! What happened in a run, so that it shows that it tried something.

/// What happened, so that a run shows that it tried something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Processes that were started.
    pub processes: u64,
    /// Brokers that were started.
    pub brokers: u64,
    /// Handles that joined.
    pub joined: u64,
    /// Handles that a later broker took back.
    pub reclaimed: u64,
    /// Handles that a broker refused.
    pub refused: u64,
    /// Of them, those that came back too late.
    pub fenced: u64,
    /// Messages that were published.
    pub published: u64,
    /// Peers that a handle was told of.
    pub introduced: u64,
    /// Rings that were told after their publishers had gone.
    pub ended: u64,
    /// Rings that readers lost.
    pub dropped: u64,
    /// Requests to be told again.
    pub retold: u64,
    /// Topics that watches were told of.
    pub appeared: u64,
    /// Times at which everybody was at rest.
    pub settled: u64,
}

impl Counts {
    /// Adds others.
    pub(crate) fn add(&mut self, other: &Self) {
        for ((_, count), (_, more)) in self.all_mut().into_iter().zip(other.all()) {
            *count += more;
        }
    }

    /// All of them, by their names.
    pub fn all(&self) -> Vec<(&'static str, u64)> {
        let mut copy = *self;
        let all = copy.all_mut().into_iter();
        all.map(|(name, count)| (name, *count)).collect()
    }

    fn all_mut(&mut self) -> [(&'static str, &mut u64); 13] {
        [
            ("processes", &mut self.processes),
            ("brokers", &mut self.brokers),
            ("joined", &mut self.joined),
            ("reclaimed", &mut self.reclaimed),
            ("refused", &mut self.refused),
            ("fenced", &mut self.fenced),
            ("published", &mut self.published),
            ("introduced", &mut self.introduced),
            ("ended", &mut self.ended),
            ("dropped", &mut self.dropped),
            ("retold", &mut self.retold),
            ("appeared", &mut self.appeared),
            ("settled", &mut self.settled),
        ]
    }
}
