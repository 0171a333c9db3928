//! What the session knows of one handle: its queue, the peers that it was told of, and what it is presented with to the
//! next broker.
//!
//! Promises: a handle is told of a peer once. What nobody needs to hear any more leaves the queue: a subscriber that came
//! and went, an older version. A publisher that came and went stays, because its ring is to be read. A handle is told no
//! version while a peer of it is missing for want of descriptors. So the queue is bounded by the members of the topic.

use std::collections::{HashMap, HashSet, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bus_core::backend::doorbell::{self, Doorbell};
use bus_core::control::{Event, Role, Watched};
use bus_core::fork::Unshared;
use bus_core::memory::registry::Seat;
use bus_core::memory::segment::{Handed, Kind};
use bus_core::memory::{reader_bytes, ring_bytes};
use bus_core::schema::Schema;
use bus_core::{Pattern, TopicName, TopicSettings, receive};

use super::processes::{Process, Processes};
use super::told::Told;

/// Between two requests to be told again, while descriptors are missing.
pub(super) const RETELL: Duration = Duration::from_millis(50);

/// For how long the broker may take to tell a handle of everybody again.
const TOLD_AGAIN: Duration = Duration::from_secs(60);

/// What a handle is.
#[derive(Clone, Debug)]
pub(crate) enum Part {
    /// A publisher or a subscriber; the latter perhaps for a watch.
    Member {
        role: Role,
        topic: TopicName,
        watched: Option<Watched>,
        /// The memory of peers is to be placed as the handle says.
        placed: bool,
    },
    /// A watch.
    Watch { pattern: Pattern },
}

/// What a member is known by, from the moment at which it asks to join.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    pub(crate) settings: TopicSettings,
    pub(crate) index: u16,
    pub(crate) segment: Arc<Unshared<OwnedFd>>,
    pub(crate) seat: Seat,
}

/// What a handle reads without the session's lock.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    down: AtomicBool,
}

impl Signals {
    /// Whether no broker has the handle, as far as is known.
    pub(crate) fn is_down(&self) -> bool {
        // ORDERING: a hint. What it stands for is behind the session's lock.
        self.down.load(Ordering::Relaxed)
    }

    fn set_down(&self, down: bool) {
        // ORDERING: as in `is_down`.
        self.down.store(down, Ordering::Relaxed);
    }
}

/// A peer that the handle was told of.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) process: Arc<Process>,
    pub(super) index: u16,
    pub(super) left: bool,
    pub(super) doorbell: bool,
    /// A place that is kept for a subscriber to come.
    pub(super) kept: bool,
}

/// How far a handle has come at the broker of now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It is being opened there.
    Opening,
    /// The connection over which it was being opened is gone.
    Broken,
    /// It is a member, or a watch, there.
    Placed,
    /// It has no broker.
    Homeless,
    /// It was presented to the broker of now, which has not answered yet.
    Presented,
    /// The broker of now does not take it yet: it is presented again then.
    Postponed(Instant),
    /// No broker takes it any more.
    Over,
}

/// What becomes of something that was heard, beyond the handle's queue.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// Nothing.
    Fine,
    /// A descriptor is missing: the handle asks to be told again.
    Bereft,
    /// The subscriber will never read this ring.
    Released(u64),
    /// The broker has answered what the handle was presented with.
    Answered,
}

/// One handle.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) part: Part,
    pub(super) schema: Schema,
    pub(super) signals: Arc<Signals>,
    pub(super) stage: Stage,
    pub(super) id: Option<u64>,
    /// What its topic is like, once it is open.
    settings: Option<TopicSettings>,
    pub(super) standing: Option<Standing>,
    /// Rung when the handle is to look around. Of a watch: also when it is told something.
    pub(super) doorbell: Option<Arc<Doorbell>>,
    /// What it was presented with had its doorbell.
    pub(super) presented_doorbell: bool,
    pub(super) queue: VecDeque<Told>,
    pub(super) known: HashMap<u64, Known>,
    /// The version that was told last, read by the handle or not.
    told: u32,
    /// A publisher was not told of everybody by the broker before.
    pub(super) behind: bool,
    /// The generation of the broker that speaks.
    pub(super) generation: u64,
    /// That of the broker at which a subscriber has joined, or which was the last to tell a publisher of everybody.
    pub(super) since: u64,
    /// The version that the handle took for read last.
    pub(super) seen: u32,
    /// Peers that it was told of, and whose descriptors were lost.
    bereft: HashSet<u64>,
    /// Its registry was lost on the way as well.
    lacks_registry: bool,
    /// It was told that the topic is open.
    opened: bool,
    /// The version, and whether it is that of joining, that it is told when nothing is missing any more.
    withheld: Option<(u32, bool)>,
    /// When it next asks to be told again.
    pub(super) retell: Option<Instant>,
    /// Rings released since it last asked to be told again: the broker may tell of them once more.
    released: Option<(Instant, HashSet<u64>)>,
    /// A registry for which the kernel had no memory yet.
    unplaced: Option<OwnedFd>,
    /// Why no broker takes it any more.
    pub(super) fate: Option<String>,
    /// The number of its topic at the broker of now, if that is known: for a watch, or because it was taken back.
    pub(super) topic: Option<u64>,
    /// Its watch was told that the topic is closed.
    pub(super) closed: bool,
}

impl Entry {
    pub(super) fn new(part: Part, schema: Schema, doorbell: Option<Arc<Doorbell>>) -> Self {
        let topic = match &part {
            Part::Member { watched, .. } => watched.map(|watched| watched.topic),
            Part::Watch { .. } => None,
        };
        Self {
            part,
            schema,
            topic,
            signals: Arc::default(),
            stage: Stage::Opening,
            id: None,
            settings: None,
            standing: None,
            doorbell,
            presented_doorbell: false,
            queue: VecDeque::new(),
            known: HashMap::new(),
            told: 0,
            behind: false,
            generation: 0,
            since: 0,
            seen: 0,
            bereft: HashSet::new(),
            lacks_registry: false,
            opened: false,
            withheld: None,
            retell: None,
            released: None,
            unplaced: None,
            fate: None,
            closed: false,
        }
    }

    pub(super) fn role(&self) -> Option<Role> {
        match &self.part {
            Part::Member { role, .. } => Some(*role),
            Part::Watch { .. } => None,
        }
    }

    /// Whether it was opened for this watch, and is in this topic.
    pub(super) fn is_of(&self, watch: u64, topic: u64) -> bool {
        match &self.part {
            Part::Member {
                watched: Some(watched),
                ..
            } => watched.watch == watch && self.topic == Some(topic),
            _ => false,
        }
    }

    /// The version in the registry of now.
    pub(super) fn version(&self) -> u32 {
        match (&self.standing, self.role()) {
            (Some(standing), Some(role)) => standing.seat.watched_by(role),
            _ => 0,
        }
    }

    /// Whether what the handle says reaches the broker of now.
    pub(super) fn is_on_link(&self) -> bool {
        matches!(
            self.stage,
            Stage::Opening | Stage::Placed | Stage::Presented
        )
    }

    /// Whether the next broker is to know it. One that no broker takes may still read what it holds: the broker is not to
    /// take it for departed.
    pub(super) fn is_to_present(&self) -> bool {
        self.stage == Stage::Homeless || self.may_still_read()
    }

    /// Whether no broker takes it, and its publishers leave alone what it holds until it is closed.
    pub(super) fn may_still_read(&self) -> bool {
        self.stage == Stage::Over
            && self.role() == Some(Role::Subscriber)
            && self.standing.is_some()
    }

    /// Whether it would have a broker, if there were one that takes it.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(
            self.stage,
            Stage::Homeless | Stage::Presented | Stage::Postponed(_)
        )
    }

    pub(super) fn ring(&self) {
        if let Some(doorbell) = &self.doorbell {
            doorbell.ring();
        }
    }

    /// The broker is gone, and everything that it said was heard.
    /// `why` is what it said last, if it ended the session.
    pub(super) fn lose_broker(&mut self, why: Option<&str>) {
        match self.stage {
            Stage::Opening => {
                self.stage = Stage::Broken;
                self.fate = why.map(str::to_owned);
            }
            Stage::Placed | Stage::Presented | Stage::Postponed(_) => self.stage = Stage::Homeless,
            Stage::Broken | Stage::Homeless | Stage::Over => {}
        }
        if self.role() == Some(Role::Publisher) && self.stage == Stage::Homeless {
            let further = self.version().wrapping_sub(self.told) as i32 > 0;
            self.behind |= further || !self.bereft.is_empty();
        }
        // A place is given up with its broker. The next broker takes the handle for not told of those whose
        // descriptors are missing.
        self.known.retain(|_, known| !known.kept);
        self.bereft.clear();
        self.lacks_registry = false;
        self.withheld = None;
        self.retell = None;
        self.released = None;
        self.unplaced = None;
        self.signals.set_down(true);
    }

    /// Says this to a handle that no broker takes any more, and lets it notice.
    pub(super) fn end(&mut self, why: String) {
        tracing::warn!(why, "a handle is of no use any more");
        self.fate.get_or_insert(why);
        self.stage = Stage::Over;
        self.retell = None;
        if let Some(standing) = &self.standing
            && let Err(error) = standing.seat.outdate()
        {
            tracing::warn!(%error, "a handle may not notice that it is of no use any more");
        }
        self.ring();
    }

    /// That descriptors are missing, if they are.
    pub(super) fn shortage(&self) -> Option<String> {
        self.lacks_any().then(no_descriptors)
    }

    fn lacks_any(&self) -> bool {
        self.lacks_registry || !self.bereft.is_empty()
    }

    /// The registry was lost on the way: it is to be told again.
    pub(super) fn lack_registry(&mut self) -> Heard {
        self.lacks_registry = true;
        if self.stage == Stage::Opening && self.released.is_some() {
            self.tell_shortage();
        }
        Heard::Bereft
    }

    /// Neither did the spare descriptors help: whoever opens the handle is told so.
    fn tell_shortage(&mut self) {
        self.queue.push_back(Told::Refused {
            why: no_descriptors(),
        });
    }

    /// It asks to be told of everybody again.
    pub(super) fn note_retell(&mut self, now: Instant) {
        self.retell = self.lacks_any().then_some(now + RETELL);
        let released = self.released.take().map(|(_, ids)| ids);
        self.released = Some((now, released.unwrap_or_default()));
    }

    /// The handle asks to join, as this. What was decided meanwhile, and the handle has not read yet, is known to the
    /// broker.
    pub(super) fn stand(&mut self, mut standing: Standing) {
        debug_assert!(self.standing.is_none(), "a handle joins once");
        let decided = self.queue.iter().rev().find_map(|told| match told {
            Told::Decided { settings } => Some(*settings),
            _ => None,
        });
        if let Some(settings) = decided {
            standing.settings = settings;
        }
        self.standing = Some(standing);
    }

    /// The subscriber has done with this ring.
    pub(super) fn release(&mut self, ring: u64) {
        self.known.remove(&ring);
        if let Some((since, released)) = &mut self.released {
            released.insert(ring);
            if since.elapsed() > TOLD_AGAIN {
                self.released = None;
            }
        }
    }

    /// What the handle is told next.
    pub(super) fn take(&mut self) -> Option<Told> {
        if self.lacks_registry && self.stage == Stage::Opening {
            // What is told of peers comes behind the registry.
            let refused = |told: &Told| matches!(told, Told::Refused { .. });
            let at = self.queue.iter().position(refused)?;
            return self.queue.remove(at);
        }
        self.queue.pop_front()
    }

    /// Takes in what the broker said of this handle.
    pub(super) fn hear(
        &mut self,
        event: Event,
        mut descriptors: Vec<OwnedFd>,
        bereft: bool,
        processes: &mut Processes,
    ) -> Heard {
        match event {
            Event::Opened {
                settings,
                decided,
                index,
                id,
                ..
            } => {
                self.id = Some(id);
                self.settings = Some(settings);
                if self.opened {
                    return Heard::Fine;
                }
                let Some(registry) = descriptors.pop() else {
                    return self.lack_registry();
                };
                self.opened = true;
                self.has_registry();
                // Peers may have been told of meanwhile.
                self.queue.push_front(Told::Opened {
                    settings,
                    decided,
                    index,
                    id,
                    registry,
                });
            }
            Event::Joined { version } => self.tell_version(version, true),
            Event::Synced { version } => self.tell_version(version, false),
            Event::PublisherJoined {
                id,
                process,
                index,
                ended,
                trust,
            } => {
                let Some((ring, button)) = self.introduced(id, descriptors, bereft) else {
                    return self.missing(id, bereft);
                };
                if let Some(known) = self.known.get_mut(&id) {
                    if ended && !std::mem::replace(&mut known.left, true) {
                        self.queue
                            .push_back(Told::PublisherLeft { id, dropped: false });
                    }
                    return self.tell_button(id, button);
                }
                if self
                    .released
                    .as_ref()
                    .is_some_and(|(_, ids)| ids.contains(&id))
                {
                    return Heard::Fine;
                }
                let process = processes.get(process);
                self.know(id, &process, index, ended, button.is_some(), false);
                self.queue.push_back(Told::Publisher {
                    id,
                    process,
                    index,
                    ended,
                    trust,
                    ring,
                    button,
                });
                self.found(id);
            }
            Event::SubscriberJoined { id, process, kept } => {
                let Some((reader, button)) = self.introduced(id, descriptors, bereft) else {
                    return self.missing(id, bereft);
                };
                if self.known.contains_key(&id) {
                    return self.tell_button(id, button);
                }
                let process = processes.get(process);
                self.know(id, &process, 0, false, button.is_some(), kept);
                self.queue.push_back(Told::Subscriber {
                    id,
                    process,
                    kept,
                    reader,
                    button,
                });
                self.found(id);
            }
            Event::PublisherLeft { id, dropped } => return self.publisher_left(id, dropped),
            Event::SubscriberLeft { id } => {
                self.found(id);
                self.known.remove(&id);
                let unread = |told: &Told| matches!(told, Told::Subscriber { id: joined, .. } if *joined == id);
                if self.queue.iter().any(unread) {
                    self.forget_unread(id);
                } else {
                    self.queue.push_back(Told::SubscriberLeft { id });
                }
            }
            Event::PeerDoorbell { id } => return self.tell_button(id, descriptors.pop()),
            Event::DoorbellRegistered { .. } => self.queue.push_back(Told::DoorbellRegistered),
            Event::Decided { settings } => {
                self.settings = Some(settings);
                if let Some(standing) = &mut self.standing {
                    standing.settings = settings;
                }
                self.queue.push_back(Told::Decided { settings });
            }
            event => return self.hear_of_topics(event),
        }
        Heard::Fine
    }

    /// What a watch is told.
    fn hear_of_topics(&mut self, event: Event) -> Heard {
        let mut heard = Heard::Fine;
        match event {
            Event::Watching { id } => {
                self.id = Some(id);
                self.stage = Stage::Placed;
                self.signals.set_down(false);
                self.queue.push_back(Told::Watching { id });
                heard = Heard::Answered;
            }
            Event::TopicAppeared {
                id,
                topic,
                differs,
                kept,
            } => self.queue.push_back(Told::TopicAppeared {
                id,
                topic,
                differs,
                kept,
            }),
            Event::TopicGone { id } => {
                // One in which a place was kept may have left something for the watch.
                let unread = |told: &Told| matches!(told, Told::TopicAppeared { id: there, kept: false, .. } if *there == id);
                match self.queue.iter().position(unread) {
                    Some(at) => drop(self.queue.remove(at)),
                    None => self.queue.push_back(Told::TopicGone { id }),
                }
            }
            event => tracing::debug!(?event, "this is nothing for a handle"),
        }
        self.ring();
        heard
    }

    /// The descriptors of a peer: its segment, and its button if there is one.
    fn introduced(
        &self,
        id: u64,
        descriptors: Vec<OwnedFd>,
        bereft: bool,
    ) -> Option<(Handed, Option<OwnedFd>)> {
        let mut descriptors = descriptors.into_iter();
        let mut segment = Handed::Descriptor(descriptors.next()?);
        self.map_ahead(&mut segment);
        let button = descriptors.next();
        if bereft && button.is_none() {
            tracing::debug!(id, "its doorbell was lost: it is woken through the broker");
        }
        Some((segment, button.and_then(checked)))
    }

    /// A handle that is never called keeps no descriptors of peers. Where memory is to be placed, the handle maps it itself.
    fn map_ahead(&self, segment: &mut Handed) {
        let Part::Member {
            role,
            placed: false,
            ..
        } = &self.part
        else {
            return;
        };
        if let Some(settings) = &self.settings {
            match role {
                Role::Publisher => segment.map_ahead(Kind::Reader, reader_bytes(settings)),
                Role::Subscriber => segment.map_ahead(Kind::Ring, ring_bytes(settings)),
            }
        }
    }

    /// A peer came without its segment.
    fn missing(&mut self, id: u64, bereft: bool) -> Heard {
        if self.known.contains_key(&id) {
            return Heard::Fine;
        }
        if !bereft {
            tracing::warn!(id, "the broker sent no segment of a peer");
        }
        self.bereft.insert(id);
        let opening = self.stage == Stage::Opening || self.withheld.is_some_and(|(_, joins)| joins);
        if opening && self.released.is_some() {
            self.tell_shortage();
        }
        Heard::Bereft
    }

    /// A peer is not missing any more.
    fn found(&mut self, id: u64) {
        if !self.bereft.remove(&id) || !self.bereft.is_empty() {
            return;
        }
        if !self.lacks_any() {
            self.retell = None;
        }
        if let Some((version, joining)) = self.withheld.take() {
            self.tell_version(version, joining);
        }
    }

    /// The registry is not missing any more.
    fn has_registry(&mut self) {
        self.lacks_registry = false;
        if !self.lacks_any() {
            self.retell = None;
        }
    }

    fn know(
        &mut self,
        id: u64,
        process: &Arc<Process>,
        index: u16,
        left: bool,
        doorbell: bool,
        kept: bool,
    ) {
        let known = Known {
            process: Arc::clone(process),
            index,
            left,
            doorbell,
            kept,
        };
        let before = self.known.insert(id, known);
        debug_assert!(before.is_none(), "a peer is told of once");
    }

    /// Everything up to this version was told; with `joining`, the handle is a member.
    fn tell_version(&mut self, version: u32, joining: bool) {
        if joining {
            self.stage = Stage::Placed;
        }
        if !self.bereft.is_empty() {
            let joins = joining || self.withheld.is_some_and(|(_, joining)| joining);
            self.withheld = Some((version, joins));
            return;
        }
        self.told = version;
        if joining || self.role() == Some(Role::Publisher) {
            self.since = self.generation;
        }
        if joining {
            self.queue.push_back(Told::Joined { version });
            return;
        }
        self.behind = false;
        self.queue
            .retain(|told| !matches!(told, Told::Synced { .. }));
        self.queue.push_back(Told::Synced { version });
    }

    /// A peer that is known can be woken with this button, if that is one.
    fn tell_button(&mut self, id: u64, button: Option<OwnedFd>) -> Heard {
        if let Some(known) = self.known.get_mut(&id).filter(|known| !known.doorbell)
            && let Some(button) = button.and_then(checked)
        {
            known.doorbell = true;
            self.queue.push_back(Told::Doorbell { id, button });
        }
        Heard::Fine
    }

    fn publisher_left(&mut self, id: u64, dropped: bool) -> Heard {
        let Some(known) = self.known.get_mut(&id) else {
            if dropped {
                self.found(id);
                return Heard::Released(id);
            }
            // Its ring is still to be read: it is told of again.
            return Heard::Fine;
        };
        if std::mem::replace(&mut known.left, true) && !dropped {
            return Heard::Fine;
        }
        if !dropped {
            self.queue.push_back(Told::PublisherLeft { id, dropped });
            return Heard::Fine;
        }
        let unread =
            |told: &&Told| matches!(told, Told::Publisher { id: joined, .. } if *joined == id);
        let Some(at) = self.queue.iter().position(|told| unread(&told)) else {
            self.queue.push_back(Told::PublisherLeft { id, dropped });
            return Heard::Fine;
        };
        let Some(Told::Publisher { ring, .. }) = self.queue.remove(at) else {
            unreachable!("it was found there");
        };
        let messages = self.standing.as_ref().map_or(0, |standing| {
            receive::published(&standing.settings, ring).unwrap_or_default()
        });
        self.forget_unread(id);
        self.known.remove(&id);
        match self.queue.iter_mut().find_map(|told| match told {
            Told::Lost { messages } => Some(messages),
            _ => None,
        }) {
            Some(lost) => *lost = lost.wrapping_add(messages),
            None => self.queue.push_back(Told::Lost { messages }),
        }
        Heard::Released(id)
    }

    /// Takes back what was told of a peer, and not read.
    fn forget_unread(&mut self, peer: u64) {
        self.queue.retain(|told| match told {
            Told::Publisher { id, .. }
            | Told::PublisherLeft { id, .. }
            | Told::Subscriber { id, .. }
            | Told::Doorbell { id, .. } => *id != peer,
            _ => true,
        });
    }

    /// The next broker takes the handle back, and hands out its registry. Whether the handle might not notice, because
    /// the new version is the one that it has seen.
    ///
    /// # Errors
    /// Why the registry cannot take the place of the old one, now or at all.
    pub(super) fn reclaimed(
        &mut self,
        version: u32,
        topic: u64,
        registry: OwnedFd,
    ) -> bus_core::Result<bool> {
        debug_assert_eq!(self.stage, Stage::Presented);
        self.has_registry();
        self.told = version;
        self.topic = Some(topic);
        self.unplaced = Some(registry);
        self.place()
    }

    /// Whether a registry is to take the place of the old one.
    pub(super) fn is_unplaced(&self) -> bool {
        self.unplaced.is_some()
    }

    /// Puts the registry of the next broker in the place of the old one.
    ///
    /// # Errors
    /// As for [`reclaimed`](Self::reclaimed). Where the kernel lacks memory, it is to be tried again.
    pub(super) fn place(&mut self) -> bus_core::Result<bool> {
        let (Some(registry), Some(standing)) = (&self.unplaced, &self.standing) else {
            return Ok(false);
        };
        standing.seat.replace(registry)?;
        self.unplaced = None;
        self.stage = Stage::Placed;
        // What the old broker said of versions leads nowhere any more.
        self.queue
            .retain(|told| !matches!(told, Told::Synced { .. } | Told::Reclaimed { .. }));
        self.queue.push_back(Told::Reclaimed {
            version: self.told,
            behind: self.behind,
            registered: self.presented_doorbell,
        });
        self.signals.set_down(false);
        self.ring();
        Ok(self.version() == self.seen)
    }
}

/// A peer's doorbell, if it is one. One that is not hurts that peer only: it is woken through the broker.
fn checked(button: OwnedFd) -> Option<OwnedFd> {
    match doorbell::check(&button) {
        Ok(()) => Some(button),
        Err(error) => {
            tracing::warn!(%error, "a doorbell is not used");
            None
        }
    }
}

/// What is said to whoever opens something without room for its descriptors.
fn no_descriptors() -> String {
    "this process has no descriptors left for what the broker sent; raise its limit (ulimit -n), or close some".into()
}
