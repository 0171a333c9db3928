//! The indices of a topic's rings: which line of the readers' cursors belongs to whom.
//!
//! ```text
//!            Open              leave, and it is among the last that the topic retains,
//!  free ------------> live ---------------- or is owed to a watch ---------------> kept
//!   ^                  |                                                            |
//!   |                  | leave, neither                                             | neither any longer, or its index is
//!   |                  v                                                            | the last for a publisher to come
//!   +------------- draining <-------------------------------------------------------+
//!     last Released or leave of who was told of it; at once where nobody was
//! ```
//! Promises: an index is given to a publisher only when no live publisher has it, no ring is kept under it, and every
//! subscriber that was told of a ring there has released it or is gone. A ring that is owed to a watch is kept until that is forgiven;
//! of others at most as many as the topic says. It tells nobody anything; `topic` does.

use std::collections::{BTreeMap, BTreeSet};

use bus_core::TopicSettings;

use crate::limits::MAX_PUBLISHERS;
use crate::member::Member;

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
    /// Whose ring it is, or was last.
    ring: u64,
    kept: Option<Ended>,
    /// Subscribers that were told of rings here and have not released them: how often.
    told: BTreeMap<u64, u32>,
    /// Watches whose subscriber is still to come and reads it from its first message.
    owed: BTreeSet<u64>,
}

/// The ring of a publisher that has ended.
pub(crate) struct Ended {
    pub(crate) id: u64,
    pub(crate) member: Member,
    pub(crate) order: u64,
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

    /// An index for a publisher. Where only kept rings are in its way, the oldest that nobody reads or is owed is let go of.
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
        let unread = self.oldest(|line| line.told.is_empty() && line.owed.is_empty());
        let index = unread.ok_or(Full::Draining(self.lines.len() - live))?;
        self.lines[index].kept = None;
        Ok(index as u16)
    }

    /// Gives a publisher the index that was [found](Self::find).
    pub(crate) fn take(&mut self, index: u16, publisher: u64) {
        let least = usize::from(index) + 1;
        self.lines
            .resize_with(self.lines.len().max(least), Line::default);
        let line = &mut self.lines[usize::from(index)];
        (line.publisher, line.ring) = (Some(publisher), publisher);
    }

    /// A subscriber that was told by an earlier broker may still read the ring with this index, whoever's it was.
    pub(crate) fn hold(&mut self, index: u16, subscriber: u64) {
        let least = usize::from(index) + 1;
        self.lines
            .resize_with(self.lines.len().max(least), Line::default);
        self.tell(index, subscriber);
    }

    /// A publisher that took no part is gone, or one whose ring the broker does not have.
    pub(crate) fn give_back(&mut self, index: u16) {
        if let Some(line) = self.lines.get_mut(usize::from(index)) {
            line.publisher = None;
        }
    }

    /// A publisher that took part is gone: its ring is kept, if the topic retains any or it is owed to a watch.
    pub(crate) fn end(&mut self, id: u64, member: Member) {
        let Some(line) = self.lines.get_mut(usize::from(member.index)) else {
            return;
        };
        line.publisher = None;
        self.ends += 1;
        line.kept = Some(Ended {
            id,
            member,
            order: self.ends,
        });
        self.trim();
    }

    /// The ring of a publisher that ended at an earlier broker is here again. False where its index is another's.
    pub(crate) fn restore(&mut self, id: u64, member: Member, order: u64) -> bool {
        let least = usize::from(member.index) + 1;
        self.lines
            .resize_with(self.lines.len().max(least), Line::default);
        let line = &mut self.lines[usize::from(member.index)];
        if !line.is_free() {
            return false;
        }
        line.ring = id;
        line.kept = Some(Ended { id, member, order });
        self.ends = self.ends.max(order);
        true
    }

    /// Lets go of rings that are older than those to be retained, and owed to nobody.
    fn trim(&mut self) {
        let mut orders: Vec<_> = self.kept().map(|ended| ended.order).collect();
        let older = orders.len().saturating_sub(self.retain);
        orders.truncate(older);
        for line in &mut self.lines {
            let old = |ended: &mut Ended| orders.contains(&ended.order);
            if line.owed.is_empty() {
                line.kept.take_if(old);
            }
        }
    }

    /// The ring with this index is owed to a watch.
    pub(crate) fn owe(&mut self, index: u16, watch: u64) {
        if let Some(line) = self.lines.get_mut(usize::from(index)) {
            line.owed.insert(watch);
        }
    }

    /// Nothing is owed to this watch any longer.
    pub(crate) fn forgive(&mut self, watch: u64) {
        for line in &mut self.lines {
            line.owed.remove(&watch);
        }
        self.trim();
    }

    /// A subscriber is told of the ring with this index.
    pub(crate) fn tell(&mut self, index: u16, subscriber: u64) {
        if let Some(line) = self.lines.get_mut(usize::from(index)) {
            *line.told.entry(subscriber).or_default() += 1;
        }
    }

    /// Who keeps how many rings of ended publishers from being let go of: subscribers that have not released them, and watches that they are
    /// owed to; who keeps the most comes first.
    pub(crate) fn holders(&self) -> Vec<(u64, usize)> {
        let mut holders = BTreeMap::<u64, usize>::new();
        for line in self.lines.iter().filter(|line| line.publisher.is_none()) {
            for &holder in line.told.keys().chain(&line.owed) {
                *holders.entry(holder).or_default() += 1;
            }
        }
        let mut holders: Vec<_> = holders.into_iter().collect();
        holders.sort_by_key(|(_, rings)| std::cmp::Reverse(*rings));
        holders
    }

    /// Whether a subscriber was told of the ring with this index, and has not released it.
    pub(crate) fn is_told(&self, index: u16, subscriber: u64) -> bool {
        let line = self.lines.get(usize::from(index));
        line.is_some_and(|line| line.told.contains_key(&subscriber))
    }

    /// Whose the ring with this index is, or was last.
    pub(crate) fn publisher(&self, index: u16) -> Option<u64> {
        self.lines.get(usize::from(index)).map(|line| line.ring)
    }

    /// A subscriber reads the ring with this index no more, or never heard of it.
    pub(crate) fn release(&mut self, index: u16, subscriber: u64) {
        let line = self.lines.get_mut(usize::from(index));
        let Some(told) = line.map(|line| &mut line.told) else {
            return;
        };
        if let Some(times) = told.get_mut(&subscriber) {
            *times -= 1;
            if *times == 0 {
                told.remove(&subscriber);
            }
        }
    }

    /// A subscriber is gone.
    pub(crate) fn forget(&mut self, subscriber: u64) {
        for line in &mut self.lines {
            line.told.remove(&subscriber);
        }
    }

    /// The rings of ended publishers that are there for subscribers to come, the oldest first.
    pub(crate) fn retained(&self) -> impl Iterator<Item = &Ended> {
        let older = self.kept().count().saturating_sub(self.retain);
        self.kept().skip(older)
    }

    /// The rings of ended publishers that are owed to a watch, the oldest first.
    pub(crate) fn owed(&self, watch: u64) -> impl Iterator<Item = &Ended> {
        let owed = move |ended: &&Ended| {
            let line = self.lines.get(usize::from(ended.member.index));
            line.is_some_and(|line| line.owed.contains(&watch))
        };
        self.kept().filter(owed)
    }

    /// Whether the ring of any ended publisher is there for anybody.
    pub(crate) fn keep_any(&self) -> bool {
        self.lines.iter().any(|line| line.kept.is_some())
    }

    fn kept(&self) -> impl Iterator<Item = &Ended> {
        let mut kept: Vec<_> = self.lines.iter().filter_map(|l| l.kept.as_ref()).collect();
        kept.sort_unstable_by_key(|ended| ended.order);
        kept.into_iter()
    }

    /// Of the lines with a kept ring that are as asked for, the one whose publisher ended first.
    fn oldest(&self, asked: impl Fn(&Line) -> bool) -> Option<usize> {
        let lines = self
            .lines
            .iter()
            .enumerate()
            .filter(|(_, line)| asked(line));
        let orders = lines.filter_map(|(at, line)| Some((line.kept.as_ref()?.order, at)));
        orders.min().map(|(_, at)| at)
    }
}

impl Line {
    fn is_free(&self) -> bool {
        self.publisher.is_none() && self.kept.is_none() && self.told.is_empty()
    }
}
