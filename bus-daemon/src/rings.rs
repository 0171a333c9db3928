//! The indices of a topic's rings: which line of the readers' cursors belongs to whom.
//!
//! ```text
//!            Open              leave, and the topic retains rings
//!  free ------------> live ------------------------------------> retained
//!   ^                  |                                             |  oldest of too many, or its index
//!   |                  | leave, and it retains none                  |  is the last for a publisher to come
//!   |                  v                                             |
//!   +------------- draining <----------------------------------------+
//!     last Released or leave of who was told of it; at once where nobody was
//! ```
//! Promises: an index is given to a publisher only when no live publisher has it, no ring is retained under it, and every
//! subscriber that was told of a ring there has released it or is gone. At most as many rings are retained as the topic says.
//! It tells nobody anything; `topic` does.

use std::collections::BTreeSet;

use bus_core::TopicSettings;

use crate::limits::MAX_PUBLISHERS;
use crate::topic::Member;

/// All indices of a topic.
pub(crate) struct Rings {
    lines: Vec<Line>,
    /// Publishers at a time.
    publishers: usize,
    /// Rings of ended publishers that are kept, at most.
    retain: usize,
    /// Rings that have ended so far, which orders them.
    ends: u64,
}

/// One line of the readers' cursors.
#[derive(Default)]
struct Line {
    publisher: Option<u64>,
    retained: Option<Retained>,
    /// Subscribers that were told of the ring and have not released it.
    told: BTreeSet<u64>,
}

/// The ring of a publisher that has ended.
pub(crate) struct Retained {
    pub(crate) id: u64,
    pub(crate) member: Member,
    order: u64,
}

/// Why there is no index for a publisher.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// As many publishers are there as the topic admits.
    Publishers,
    /// Subscribers still read this many rings of publishers that left.
    Draining(usize),
}

impl Rings {
    pub(crate) fn new(settings: &TopicSettings) -> Self {
        Self {
            lines: Vec::new(),
            publishers: settings.publishers as usize,
            retain: settings.retain as usize,
            ends: 0,
        }
    }

    /// An index for a publisher. Where only retained rings are in its way, the oldest that nobody reads is let go of.
    pub(crate) fn find(&mut self) -> Result<u16, Full> {
        let live = self.lines.iter().filter(|line| line.publisher.is_some());
        let live = live.count();
        if live >= self.publishers {
            return Err(Full::Publishers);
        }
        let free = self.lines.iter().position(Line::is_free);
        let index = free.unwrap_or(self.lines.len());
        if index < usize::from(MAX_PUBLISHERS) {
            return Ok(index as u16);
        }
        let unread = self.oldest(|line| line.told.is_empty());
        let index = unread.ok_or(Full::Draining(self.lines.len() - live))?;
        self.lines[index].retained = None;
        Ok(index as u16)
    }

    /// Gives a publisher the index that was [found](Self::find).
    pub(crate) fn take(&mut self, index: u16, publisher: u64) {
        let least = usize::from(index) + 1;
        self.lines
            .resize_with(self.lines.len().max(least), Line::default);
        self.lines[usize::from(index)].publisher = Some(publisher);
    }

    /// A publisher that took no part is gone.
    pub(crate) fn give_back(&mut self, index: u16) {
        if let Some(line) = self.lines.get_mut(usize::from(index)) {
            line.publisher = None;
        }
    }

    /// A publisher that took part is gone: its ring is retained, if the topic retains any.
    pub(crate) fn end(&mut self, id: u64, member: Member) {
        let Some(line) = self.lines.get_mut(usize::from(member.index)) else {
            return;
        };
        line.publisher = None;
        self.ends += 1;
        line.retained = Some(Retained {
            id,
            member,
            order: self.ends,
        });
        while self.retained().count() > self.retain
            && let Some(oldest) = self.oldest(|_| true)
        {
            self.lines[oldest].retained = None;
        }
    }

    /// A subscriber is told of the ring with this index.
    pub(crate) fn tell(&mut self, index: u16, subscriber: u64) {
        if let Some(line) = self.lines.get_mut(usize::from(index)) {
            line.told.insert(subscriber);
        }
    }

    /// A subscriber reads the ring with this index no more, or never heard of it.
    pub(crate) fn release(&mut self, index: u16, subscriber: u64) {
        if let Some(line) = self.lines.get_mut(usize::from(index)) {
            line.told.remove(&subscriber);
        }
    }

    /// A subscriber is gone.
    pub(crate) fn forget(&mut self, subscriber: u64) {
        for line in &mut self.lines {
            line.told.remove(&subscriber);
        }
    }

    /// The rings of ended publishers that are there for subscribers to come, the oldest first.
    pub(crate) fn retained(&self) -> impl Iterator<Item = &Retained> {
        let mut retained: Vec<_> = self
            .lines
            .iter()
            .filter_map(|l| l.retained.as_ref())
            .collect();
        retained.sort_unstable_by_key(|retained| retained.order);
        retained.into_iter()
    }

    /// Of the lines with a retained ring that are as asked for, the one whose publisher ended first.
    fn oldest(&self, asked: impl Fn(&Line) -> bool) -> Option<usize> {
        let orders = self
            .lines
            .iter()
            .enumerate()
            .filter(|(_, line)| asked(line));
        let orders = orders.filter_map(|(at, line)| Some((line.retained.as_ref()?.order, at)));
        orders.min().map(|(_, at)| at)
    }
}

impl Line {
    fn is_free(&self) -> bool {
        self.publisher.is_none() && self.retained.is_none() && self.told.is_empty()
    }
}
