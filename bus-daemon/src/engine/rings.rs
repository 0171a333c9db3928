//! The indices of a topic's rings: which line of the readers' cursors belongs to which ring.
//!
//! ```text
//!            take              end, while readers, watches or `retain` want the ring
//!  free ------------> live --------------------------------------------------> ended
//!   ^                  |                                                          |
//!   |                  | end, wanted by nobody                                    | the last reader releases it,
//!   +------------------+<---------------------------------------------------------+ or its index is taken
//! ```
//! A ring's *readers* are the subscribers that were there in its life, and those that asked for it later. A ring
//! stays for a reader until that reader releases it, also if the reader was not told of it yet.
//!
//! Promises: an index goes to a publisher only if no live publisher has it, no reader has still to release the ring
//! there, and nothing retains that ring; or if the topic may lose messages, and then the readers are told.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

use bus_core::TopicSettings;
use bus_core::control::Trust;
use bus_core::memory::layout::MAX_RINGS;

use super::member::Owner;
use super::world::World;
use crate::accounts::Charge;

#[cfg(test)]
mod tests;

/// All indices of a topic.
#[derive(Debug)]
pub(crate) struct Rings<W: World> {
    lines: Vec<Line<W>>,
    index_of: HashMap<u64, u16>,
    /// Rings that have ended so far, which orders them.
    ends: u64,
}

/// One line of the readers' cursors.
#[derive(Debug)]
struct Line<W: World> {
    /// The publisher whose ring it is, or was last; 0 for none.
    ring: u64,
    /// That publisher is there, or is expected back.
    live: bool,
    /// The ring, after its publisher has gone, if the broker has it.
    ended: Option<Ended<W>>,
    /// Subscribers that have still to release it.
    readers: BTreeSet<u64>,
    /// Subscribers that released it while its publisher was there, or was awaited.
    released: BTreeSet<u64>,
    /// Watches whose subscriber is still to come and reads the ring from its first message.
    owed: BTreeSet<u64>,
}

/// The ring of a publisher that has gone.
#[derive(Debug)]
pub(crate) struct Ended<W: World> {
    pub(crate) id: u64,
    pub(crate) owner: Rc<Owner<W>>,
    pub(crate) index: u16,
    pub(crate) segment: W::Fd,
    /// How subscribers of other users read it.
    pub(crate) trust: Trust,
    /// What its user is charged for it.
    #[allow(dead_code, reason = "the charge lasts as long as the ring")]
    pub(crate) charge: Charge,
    pub(crate) order: u64,
}

/// Why there is no index for a publisher.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// As many publishers are there as the topic admits.
    Publishers,
    /// Subscribers have still to release this many rings of publishers that left.
    Draining(usize),
}

/// An index for a publisher.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) index: u16,
    /// A ring that gave way, and the subscribers that lose it.
    pub(crate) dropped: Option<(u64, BTreeSet<u64>)>,
}

impl<W: World> Default for Line<W> {
    fn default() -> Self {
        Self {
            ring: 0,
            live: false,
            ended: None,
            readers: BTreeSet::new(),
            released: BTreeSet::new(),
            owed: BTreeSet::new(),
        }
    }
}

impl<W: World> Line<W> {
    fn is_free(&self) -> bool {
        !self.live && self.ended.is_none() && self.readers.is_empty() && self.owed.is_empty()
    }
}

impl<W: World> Default for Rings<W> {
    fn default() -> Self {
        Self {
            lines: Vec::new(),
            index_of: HashMap::new(),
            ends: 0,
        }
    }
}

impl<W: World> Rings<W> {
    fn line(&self, ring: u64) -> Option<&Line<W>> {
        let index = *self.index_of.get(&ring)?;
        let line = self.lines.get(usize::from(index))?;
        debug_assert_eq!(line.ring, ring, "the map and the lines agree");
        Some(line)
    }

    fn line_mut(&mut self, ring: u64) -> Option<&mut Line<W>> {
        let index = *self.index_of.get(&ring)?;
        self.lines.get_mut(usize::from(index))
    }

    fn reach(&mut self, index: u16) -> &mut Line<W> {
        let least = usize::from(index) + 1;
        if self.lines.len() < least {
            self.lines.resize_with(least, Line::default);
        }
        &mut self.lines[usize::from(index)]
    }

    /// An index for one more publisher. Where all are taken, the oldest retained ring without readers gives way;
    /// where the topic may lose messages, the oldest ring at all.
    pub(crate) fn find(&mut self, settings: &TopicSettings) -> Result<Found, Full> {
        let live = self.lines.iter().filter(|line| line.live).count();
        if live >= settings.publishers as usize {
            return Err(Full::Publishers);
        }
        let free = self.lines.iter().position(Line::is_free);
        let index = free.unwrap_or(self.lines.len());
        if index < usize::from(settings.rings()) {
            return Ok(Found {
                index: index as u16,
                dropped: None,
            });
        }
        let unread = |line: &Line<W>| line.readers.is_empty() && line.owed.is_empty();
        let mut oldest = self.oldest(unread);
        if settings.delivery.overruns() {
            oldest = oldest.or_else(|| self.oldest(|_| true));
        }
        let Some(index) = oldest else {
            let draining = self
                .lines
                .iter()
                .filter(|line| !line.live && !line.is_free());
            return Err(Full::Draining(draining.count()));
        };
        let ring = self.lines[index].ring;
        let readers = self.drop_ring(ring);
        Ok(Found {
            index: index as u16,
            dropped: (!readers.is_empty()).then_some((ring, readers)),
        })
    }

    /// Of the ended rings that are as asked for, the index of the one whose publisher left first.
    fn oldest(&self, asked: impl Fn(&Line<W>) -> bool) -> Option<usize> {
        let lines = self.lines.iter().enumerate();
        let ended = lines.filter(|(_, line)| !line.live && !line.is_free() && asked(line));
        let order = |line: &Line<W>| line.ended.as_ref().map_or(0, |ended| ended.order);
        ended.min_by_key(|(_, line)| order(line)).map(|(at, _)| at)
    }

    /// Gives a ring up, whoever has still to read it; its readers.
    pub(crate) fn drop_ring(&mut self, ring: u64) -> BTreeSet<u64> {
        let Some(line) = self.line_mut(ring) else {
            return BTreeSet::new();
        };
        let readers = std::mem::take(&mut line.readers);
        *line = Line::default();
        self.index_of.remove(&ring);
        readers
    }

    /// Gives a publisher an index that was [found](Self::find), or that it had at an earlier broker. False if
    /// another ring has it.
    pub(crate) fn take(&mut self, index: u16, publisher: u64) -> bool {
        assert!(
            usize::from(index) < MAX_RINGS,
            "an index has a cursor in some reader segment"
        );
        let line = self.reach(index);
        if line.ring == publisher && line.ended.is_none() {
            line.live = true;
            return true;
        }
        if !line.is_free() {
            return false;
        }
        let before = std::mem::replace(&mut line.ring, publisher);
        line.released.clear();
        line.live = true;
        self.index_of.remove(&before);
        self.index_of.insert(publisher, index);
        true
    }

    /// The index of a ring, if it has one.
    pub(crate) fn index_of(&self, ring: u64) -> Option<u16> {
        self.index_of.get(&ring).copied()
    }

    /// The ring that has this index, if it is not free.
    pub(crate) fn at(&self, index: u16) -> Option<u64> {
        let line = self.lines.get(usize::from(index))?;
        (!line.is_free()).then_some(line.ring)
    }

    /// The subscribers that have still to release this ring.
    pub(crate) fn readers(&self, ring: u64) -> BTreeSet<u64> {
        let line = self.line(ring);
        line.map_or_else(BTreeSet::new, |line| line.readers.clone())
    }

    /// Keeps the index of a ring that a subscriber knows from an earlier broker. False if another ring has it.
    pub(crate) fn hold(&mut self, index: u16, ring: u64, subscriber: u64) -> bool {
        assert!(
            usize::from(index) < MAX_RINGS,
            "an index has a cursor in some reader segment"
        );
        let line = self.reach(index);
        if line.ring != ring {
            if !line.is_free() {
                return false;
            }
            let before = std::mem::replace(&mut line.ring, ring);
            line.released.clear();
            self.index_of.remove(&before);
            self.index_of.insert(ring, index);
        }
        self.reach(index).readers.insert(subscriber);
        true
    }

    /// A subscriber is to read this ring, unless it has released it.
    pub(crate) fn add_reader(&mut self, ring: u64, subscriber: u64) {
        if let Some(line) = self.line_mut(ring)
            && !line.released.contains(&subscriber)
        {
            line.readers.insert(subscriber);
        }
    }

    /// The ring is owed to a watch.
    pub(crate) fn owe(&mut self, ring: u64, watch: u64) {
        if let Some(line) = self.line_mut(ring) {
            line.owed.insert(watch);
        }
    }

    /// A publisher is gone, and the broker does not have its ring.
    pub(crate) fn give_back(&mut self, publisher: u64) {
        if let Some(line) = self.line_mut(publisher) {
            line.live = false;
        }
        self.tidy(publisher);
    }

    /// A publisher is gone: its ring stays as long as it is wanted.
    pub(crate) fn end(&mut self, mut ended: Ended<W>, retain: usize) {
        self.ends = self.ends.max(ended.order) + 1;
        if ended.order == 0 {
            ended.order = self.ends;
        }
        let id = ended.id;
        let Some(line) = self.line_mut(id) else {
            return;
        };
        line.live = false;
        line.ended = Some(ended);
        self.trim(retain);
    }

    /// The ring of a publisher that ended at an earlier broker is here again. False where its index is another's.
    pub(crate) fn restore(&mut self, ended: Ended<W>, retain: usize) -> bool {
        let (id, index) = (ended.id, ended.index);
        if !self.take(index, id) {
            return false;
        }
        self.end(ended, retain);
        true
    }

    /// Lets go of ended rings that nobody wants: without readers, owed to no watch, and older than those that are
    /// retained.
    fn trim(&mut self, retain: usize) {
        let mut orders: Vec<_> = self.ended().map(|ended| ended.order).collect();
        let older = orders.len().saturating_sub(retain);
        orders.truncate(older);
        let wanted = |line: &Line<W>| {
            let retained = |ended: &Ended<W>| !orders.contains(&ended.order);
            !line.readers.is_empty()
                || !line.owed.is_empty()
                || line.ended.as_ref().is_some_and(retained)
        };
        let ended = self.lines.iter().filter(|line| line.ended.is_some());
        let gone = ended.filter(|line| !wanted(line)).map(|line| line.ring);
        let gone: Vec<_> = gone.collect();
        for ring in gone {
            self.drop_ring(ring);
        }
    }

    /// Forgets a line that is free.
    fn tidy(&mut self, ring: u64) {
        if self.line(ring).is_some_and(Line::is_free) {
            self.drop_ring(ring);
        }
    }

    /// Nothing is owed to this watch any longer.
    pub(crate) fn forgive(&mut self, watch: u64, retain: usize) {
        for line in &mut self.lines {
            line.owed.remove(&watch);
        }
        self.trim(retain);
    }

    /// A subscriber reads this ring no more.
    pub(crate) fn release(&mut self, ring: u64, subscriber: u64, retain: usize) {
        if let Some(line) = self.line_mut(ring)
            && line.readers.remove(&subscriber)
            && line.live
        {
            line.released.insert(subscriber);
        }
        self.tidy(ring);
        self.trim(retain);
    }

    /// A subscriber is gone.
    pub(crate) fn forget_reader(&mut self, subscriber: u64, retain: usize) {
        let rings: Vec<_> = self.lines.iter().map(|line| line.ring).collect();
        for line in &mut self.lines {
            line.readers.remove(&subscriber);
            line.released.remove(&subscriber);
        }
        rings.into_iter().for_each(|ring| self.tidy(ring));
        self.trim(retain);
    }

    /// Whether a subscriber has still to release this ring.
    pub(crate) fn reads(&self, ring: u64, subscriber: u64) -> bool {
        self.line(ring)
            .is_some_and(|line| line.readers.contains(&subscriber))
    }

    /// The ring, if its publisher has gone and the broker has it.
    pub(crate) fn ended_ring(&self, ring: u64) -> Option<&Ended<W>> {
        self.line(ring)?.ended.as_ref()
    }

    /// Orders rings by when their publishers ended; those of publishers that are there come last.
    pub(crate) fn age(&self, ring: u64) -> u64 {
        self.ended_ring(ring).map_or(u64::MAX, |ended| ended.order)
    }

    /// The rings that a subscriber has still to release.
    pub(crate) fn of_reader(&self, subscriber: u64) -> Vec<u64> {
        let lines = self
            .lines
            .iter()
            .filter(|l| l.readers.contains(&subscriber));
        lines.map(|line| line.ring).collect()
    }

    /// Rings of ended publishers that a newcomer with history is to read, the oldest first.
    pub(crate) fn retained(&self, retain: usize) -> Vec<&Ended<W>> {
        let ended: Vec<_> = self.ended().collect();
        let older = ended.len().saturating_sub(retain);
        ended.into_iter().skip(older).collect()
    }

    /// Rings of ended publishers that are owed to a watch.
    pub(crate) fn owed(&self, watch: u64) -> Vec<u64> {
        let lines = self.lines.iter().filter(|l| l.owed.contains(&watch));
        let ended = lines.filter(|line| line.ended.is_some());
        ended.map(|line| line.ring).collect()
    }

    /// Whether any ring is kept for a subscriber to come.
    pub(crate) fn keep_any(&self, retain: usize) -> bool {
        self.lines.iter().any(|line| !line.owed.is_empty())
            || (retain > 0 && self.lines.iter().any(|line| line.ended.is_some()))
    }

    /// Whether nobody reads a ring, or will: the next publisher may decide what the topic is like.
    pub(crate) fn are_clear(&self) -> bool {
        self.lines.iter().all(Line::is_free)
    }

    /// The subscribers and watches that keep rings of ended publishers, and how many each; the most first.
    pub(crate) fn holders(&self) -> Vec<(u64, usize)> {
        let mut holders = BTreeMap::<u64, usize>::new();
        for line in self.lines.iter().filter(|line| !line.live) {
            for &holder in line.readers.iter().chain(&line.owed) {
                *holders.entry(holder).or_default() += 1;
            }
        }
        let mut holders: Vec<_> = holders.into_iter().collect();
        holders.sort_by_key(|(_, rings)| std::cmp::Reverse(*rings));
        holders
    }

    /// The ring of a publisher that has gone and that subscribers have still to release.
    #[cfg(feature = "simulator")]
    pub(crate) fn any_ended(&self) -> Option<u64> {
        let lines = self.lines.iter();
        let mut ended = lines.filter(|line| line.ended.is_some() && !line.readers.is_empty());
        ended.next().map(|line| line.ring)
    }

    fn ended(&self) -> impl Iterator<Item = &Ended<W>> {
        let mut ended: Vec<_> = self.lines.iter().filter_map(|l| l.ended.as_ref()).collect();
        ended.sort_unstable_by_key(|ended| ended.order);
        ended.into_iter()
    }
}
