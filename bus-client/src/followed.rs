//! The topics that match a pattern, each with its receiving end; read fairly, whichever there are.
//!
//! Promises: a topic with messages is read after at most [`TURN`] messages of each other one; one that appears is followed at the next
//! call, or within [`LOOK`] messages; one that is closed is let go of when it is drained. It asks for no memory of topics that are gone.
//!
//! A message borrows its topic. So topics that appear while one is looked for are put on a later page of the list, and pages become one at the
//! next call, when nobody borrows anything.

mod berth;

use std::cell::{Cell, OnceCell, RefCell};
use std::time::{Duration, Instant};

use bus_core::control::Watched;
use bus_core::receive;
use bus_core::schema::Schema;
use bus_core::wake::SpinBudget;
use bus_core::{Pattern, TopicName};

use crate::inlet::Inlet;
use crate::session::{AGAIN, ANSWER};
use crate::topic::Place;
use crate::wait::{Step, Wait, deadline};
use crate::watch::{Change, Watch};
use crate::{Bus, Error, Peer, Result, TopicBuilder};
use berth::{Berth, Moored};

/// Messages in a row from one topic while others may have some.
const TURN: u32 = 32;
/// Messages between two looks whether topics have appeared, where there is always one.
const LOOK: u32 = 256;

/// Topics of which messages were lost that are remembered.
const LOST: usize = 256;

/// A topic that matches a pattern and is not followed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SkippedTopic {
    /// Its name.
    pub topic: String,
    /// Why: it carries another type, or could not be opened, or failed.
    pub why: String,
}

/// A topic that is followed.
pub(crate) struct Entry {
    /// As the broker of now numbers it.
    id: Cell<u64>,
    pub(crate) name: TopicName,
    pub(crate) inlet: Inlet,
    /// The broker has closed it: when it is drained there will be no more.
    gone: Cell<bool>,
    /// The broker that told of it is gone, and the one after it has not told of it yet.
    untold: Cell<bool>,
    /// It had found a broker when this was last looked at, so that what that one has to say of the topic is said.
    settled: Cell<bool>,
    /// It is of no use any more, and was put with those that are skipped.
    failed: Cell<bool>,
    moored: Moored,
}

/// A list that grows while its elements are borrowed.
#[derive(Default)]
struct Page {
    entries: Vec<Entry>,
    later: OnceCell<Box<Page>>,
}

impl Page {
    fn iter(&self) -> impl Iterator<Item = &Entry> {
        let pages = std::iter::successors(Some(self), |page| page.later.get().map(|page| &**page));
        pages.flat_map(|page| &page.entries)
    }

    fn add(&self, entries: Vec<Entry>) {
        let mut last = self;
        while let Some(later) = last.later.get() {
            last = later;
        }
        let later = OnceCell::new();
        last.later.get_or_init(|| Box::new(Self { entries, later }));
    }

    fn make_one(&mut self) {
        while let Some(mut later) = self.later.take() {
            self.entries.append(&mut later.entries);
            self.later = later.later;
        }
    }
}

pub(crate) struct Followed {
    bus: Bus,
    schema: Schema,
    watch: Watch,
    berth: Berth,
    topics: Page,
    /// With the number of each topic.
    skipped: RefCell<Vec<(u64, SkippedTopic)>>,
    /// Topics that may be among those that are followed, and were told of before: that is known when their subscribers have found this broker as well.
    unsure: RefCell<Vec<(u64, TopicName)>>,
    /// The broker of now has told of all topics that were there when it was found.
    complete: Cell<bool>,
    /// Topics that could not be followed from their first message on, as they should have been; the last [`LOST`].
    lost: RefCell<Vec<SkippedTopic>>,
    /// Whose turn it is, and how many messages are left of it.
    turn: Cell<usize>,
    left: Cell<u32>,
    /// Messages until the next look whether topics have appeared.
    until_look: Cell<u32>,
    spin: RefCell<SpinBudget>,
}

impl Followed {
    pub(crate) fn open(bus: &Bus, pattern: &Pattern, schema: Schema) -> Result<Self> {
        let (watch, there) = open_watch(bus, pattern, &schema)?;
        let berth = Berth::new(watch.own())?;
        let all = Self {
            bus: bus.clone(),
            schema,
            watch,
            berth,
            topics: Page::default(),
            skipped: RefCell::default(),
            unsure: RefCell::default(),
            complete: Cell::new(true),
            lost: RefCell::default(),
            turn: Cell::new(0),
            left: Cell::new(0),
            until_look: Cell::new(LOOK),
            spin: RefCell::new(SpinBudget::new(bus.spin)),
        };
        let entries = there.into_iter().filter_map(|change| all.take(change));
        all.topics.add(entries.collect());
        Ok(all)
    }

    /// Takes in what happened to a topic; its receiving end, if it is to be followed.
    fn take(&self, change: Change) -> Option<Entry> {
        match change {
            Change::Appeared(id, name, Some(differs), _) => {
                self.skip(id, &name, differs);
                None
            }
            Change::Appeared(id, name, None, whole) => {
                match self.find_again(id, &name, whole) {
                    Some(true) => return None,
                    Some(false) => {}
                    None => {
                        self.unsure.borrow_mut().push((id, name));
                        return None;
                    }
                }
                let watch = self.watch.id();
                let mut topic = TopicBuilder::new(self.bus.clone(), name.clone());
                let watched = Watched { watch, topic: id };
                topic.place = Some(Place { watched, whole });
                // Where its broker goes meanwhile, the next one tells of it again.
                match Inlet::open(&topic, &self.schema, Instant::now()) {
                    Ok(inlet) => Some(Entry {
                        id: Cell::new(id),
                        name,
                        inlet,
                        gone: Cell::new(false),
                        untold: Cell::new(false),
                        settled: Cell::new(false),
                        failed: Cell::new(false),
                        moored: Moored::default(),
                    }),
                    Err(error) => {
                        self.watch.decline(id);
                        if whole {
                            self.lose(&name, &error);
                        } else {
                            self.skip(id, &name, error.to_string());
                        }
                        None
                    }
                }
            }
            Change::Gone(id) => {
                self.skipped.borrow_mut().retain(|(known, _)| *known != id);
                self.unsure.borrow_mut().retain(|(known, _)| *known != id);
                self.topics
                    .iter()
                    .filter(|entry| entry.id.get() == id)
                    .for_each(|entry| entry.gone.set(true));
                None
            }
            Change::Anew => {
                // It says of those that it knows what they carry.
                self.skipped.borrow_mut().clear();
                self.unsure.borrow_mut().clear();
                self.complete.set(false);
                let closed = |entry: &&Entry| entry.gone.get() && !entry.untold.get();
                for entry in self.topics.iter().filter(|entry| !closed(entry)) {
                    entry.untold.set(true);
                    entry.gone.set(false);
                    entry.settled.set(false);
                }
                None
            }
            Change::Complete => {
                self.complete.set(true);
                None
            }
        }
    }

    /// Whether a topic is one that is followed, and that another broker tells of again: its subscriber is in it there as well. None where that one has
    /// not found this broker yet. A name says nothing: the topic may have closed meanwhile, and this be another one.
    fn find_again(&self, id: u64, name: &TopicName, whole: bool) -> Option<bool> {
        // A place is kept where a topic is new.
        if whole {
            return Some(false);
        }
        let mut known = Some(false);
        let untold = |entry: &&Entry| entry.untold.get() && entry.name == *name;
        for entry in self.in_use().filter(untold) {
            match entry.inlet.is_in(id) {
                Some(true) => {
                    entry.id.set(id);
                    entry.untold.set(false);
                    entry.gone.set(false);
                    return Some(true);
                }
                Some(false) => {}
                None => known = None,
            }
        }
        known
    }

    /// Of topics that are not there any more at this broker, nobody says that they are gone: they are those that it does not tell of, though it has told of
    /// all and their subscribers have found it. To be called with what was told, up to the last word.
    fn part_from_untold(&self) {
        if !self.complete.get() {
            return;
        }
        let unsure = self.unsure.borrow();
        for entry in self
            .topics
            .iter()
            .filter(|e| e.untold.get() && e.settled.get())
        {
            if !unsure.iter().any(|(_, name)| *name == entry.name) {
                // Should it be told of again after all, its subscriber is in it.
                entry.gone.set(true);
            }
        }
    }

    fn skip(&self, id: u64, name: &TopicName, why: String) {
        tracing::debug!(topic = %name, why, "not followed");
        let topic = name.to_string();
        self.skipped
            .borrow_mut()
            .push((id, SkippedTopic { topic, why }));
    }

    /// Notes that a topic of which everything was to be received is not: that stays said when the topic is gone.
    fn lose(&self, name: &TopicName, error: &Error) {
        tracing::warn!(topic = %name, %error, "what was published there is lost");
        let mut lost = self.lost.borrow_mut();
        if lost.len() >= LOST {
            lost.remove(0);
        }
        lost.push(SkippedTopic {
            topic: name.to_string(),
            why: format!("what was published there before this was read is lost: {error}"),
        });
    }

    /// Takes in which topics appeared and are gone, up to a bound; whether any is new.
    fn look_around(&self) -> Result<bool> {
        self.until_look.set(LOOK);
        // Ahead of what was told: the broker tells of a topic before it takes a subscriber back into it.
        for entry in self.topics.iter().filter(|entry| entry.untold.get()) {
            entry.settled.set(entry.inlet.has_broker());
        }
        let unsure = self.unsure.take().into_iter();
        let unsure = unsure.map(|(id, name)| Change::Appeared(id, name, None, false));
        let mut appeared: Vec<_> = unsure.filter_map(|change| self.take(change)).collect();
        let mut result = Ok(());
        for _ in 0..LOOK {
            match self.watch.next() {
                Ok(Some(Change::Gone(id))) if appeared.iter().any(|e: &Entry| e.id.get() == id) => {
                    appeared
                        .iter()
                        .filter(|entry| entry.id.get() == id)
                        .for_each(|entry| entry.gone.set(true));
                }
                Ok(Some(change)) => appeared.extend(self.take(change)),
                Ok(None) => {
                    self.part_from_untold();
                    break;
                }
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        let any = !appeared.is_empty();
        if any {
            self.topics.add(appeared);
        }
        result.map(|()| any)
    }

    /// Lets go of topics that are closed and drained, or of no use. Nobody borrows one. To be called before looks.
    pub(crate) fn tidy(&mut self) -> &Self {
        self.topics.make_one();
        let berth = &self.berth;
        self.topics.entries.retain(|entry| {
            let drained = entry.gone.get() && entry.inlet.finished().unwrap_or(true);
            let stays = !drained && !entry.failed.get();
            if !stays {
                berth.forget(entry);
            }
            stays
        });
        self
    }

    /// Looks once at all topics; a message, and its topic.
    pub(crate) fn once<'a, M>(&'a self, look: Look<'a, M>) -> Result<Option<(&'a Entry, M)>> {
        match self.poll(look)? {
            Some(found) => Ok(Some(found)),
            None if self.look_around()? => self.poll(look),
            None => self.nothing().map(|()| None),
        }
    }

    /// Looks until something is there; none when the time is over.
    pub(crate) fn until<'a, M>(
        &'a self,
        timeout: Option<Duration>,
        look: Look<'a, M>,
    ) -> Result<Option<(&'a Entry, M)>> {
        if let Some(found) = self.poll(look)? {
            return Ok(Some(found));
        }
        let mut wait = Wait::new(&self.spin.borrow(), deadline(timeout));
        loop {
            let over = match wait.step() {
                Step::Again => false,
                Step::Sleep(until) => {
                    // Before the look: what is told after it rings again.
                    self.watch.own().drain();
                    self.look_around()?;
                    self.patrol()?;
                    self.nothing()?;
                    self.berth.sleep(|| self.in_use(), until)?;
                    false
                }
                Step::Over => {
                    self.look_around()?;
                    true
                }
            };
            if let Some(found) = self.poll(look)? {
                self.spin.borrow_mut().learn(wait.spin());
                return Ok(Some(found));
            }
            if over {
                return self.nothing().map(|()| None);
            }
        }
    }

    /// Nothing there: can there ever be?
    fn nothing(&self) -> Result<()> {
        let Some(why) = self.watch.fate() else {
            return Ok(());
        };
        for entry in self.in_use() {
            if !entry.inlet.finished()? {
                return Ok(());
            }
        }
        Err(self.watch.nobody_can_come(&why))
    }

    /// While there is no broker, asks the kernel which publishers are gone.
    fn patrol(&self) -> Result<()> {
        self.in_use()
            .try_for_each(|entry| entry.inlet.look_around())
    }

    fn in_use(&self) -> impl Iterator<Item = &Entry> {
        self.topics.iter().filter(|entry| !entry.failed.get())
    }

    /// A message of the topic whose turn it is, else of the next that has one.
    fn poll<'a, M>(&'a self, look: Look<'a, M>) -> Result<Option<(&'a Entry, M)>> {
        if self.until_look.get() == 0 {
            self.look_around()?;
        }
        let turn = self.turn.get();
        let left = self.left.replace(0);
        if left > 0
            && let Some(entry) = self.topics.iter().nth(turn)
            && let Some(found) = self.look_at(entry, look)?
        {
            self.left.set(left - 1);
            return Ok(Some(found));
        }
        let numbered = || self.topics.iter().enumerate();
        for (at, entry) in numbered().skip(turn + 1).chain(numbered().take(turn + 1)) {
            let found = self.look_at(entry, look).inspect_err(|_| {
                // The others go on: it is their turn after this error.
                self.turn.set(at);
                self.left.set(0);
            });
            if let Some(found) = found? {
                self.turn.set(at);
                self.left.set(TURN - 1);
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn look_at<'a, M>(
        &self,
        entry: &'a Entry,
        look: Look<'a, M>,
    ) -> Result<Option<(&'a Entry, M)>> {
        if entry.failed.get() || !self.check(entry, entry.inlet.look_ahead())? {
            return Ok(None);
        }
        let found = self.check(entry, entry.inlet.once(look))?;
        if found.is_some() {
            self.until_look.set(self.until_look.get().saturating_sub(1));
            entry.moored.cast_off(&entry.inlet);
        }
        Ok(found.map(|message| (entry, message)))
    }

    /// Puts a topic with those that are skipped, where it will give no more; that is said once.
    fn check<R>(&self, entry: &Entry, result: Result<R>) -> Result<R> {
        if let Err(error) = &result
            && is_final(error)
        {
            entry.failed.set(true);
            self.skip(entry.id.get(), &entry.name, error.to_string());
        }
        result
    }

    /// The names of the topics that are followed, sorted.
    pub(crate) fn names(&mut self) -> Result<Vec<String>> {
        self.look_around()?;
        self.tidy();
        let mut names: Vec<_> = self.in_use().map(|entry| entry.name.to_string()).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// The publishers that are followed, each with its topic.
    pub(crate) fn publishers(&mut self) -> Result<Vec<(String, Peer)>> {
        self.look_around()?;
        self.tidy();
        let mut all = Vec::new();
        for entry in self.in_use() {
            // A topic that fails is told of, and let go of, where messages are looked for.
            let there = entry.inlet.publishers().unwrap_or_default();
            all.extend(there.into_iter().map(|peer| (entry.name.to_string(), peer)));
        }
        Ok(all)
    }

    pub(crate) fn watches(&self) -> bool {
        !self.watch.is_down()
    }

    pub(crate) fn skipped(&mut self) -> Result<Vec<SkippedTopic>> {
        self.look_around()?;
        let skipped = self.skipped.borrow();
        let skipped = skipped.iter().map(|(_, skipped)| skipped);
        Ok(skipped.chain(&*self.lost.borrow()).cloned().collect())
    }
}

/// Who meets a broker on its way out turns to the next one, as with other handles.
fn open_watch(bus: &Bus, pattern: &Pattern, schema: &Schema) -> Result<(Watch, Vec<Change>)> {
    let deadline = Instant::now() + ANSWER;
    loop {
        match Watch::open(&bus.session, pattern, schema, deadline) {
            Err(Error::Disconnected { .. }) if Instant::now() < deadline => {
                std::thread::sleep(AGAIN);
            }
            opened => return opened,
        }
    }
}

/// How a topic is looked at.
pub(crate) type Look<'a, M> = fn(&'a receive::Subscriber) -> bus_core::Result<Option<M>>;

/// Whether a handle gives nothing more after this.
fn is_final(error: &Error) -> bool {
    matches!(error, Error::Unusable { .. } | Error::Evicted { .. })
}
