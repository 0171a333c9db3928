//! One handle of a simulated client: what it was told, and how far it has come.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bus_core::TopicSettings;
use bus_core::control::{Event, Refusal, Request, Role};

use super::topics;
use super::world::{Fd, Words};

/// How far a handle has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The broker has not answered its opening.
    Opening,
    /// It is open.
    Opened,
    /// The broker has not answered its join.
    Joining,
    /// It is a member, or a watch.
    Placed,
    /// Its broker is gone.
    Homeless,
    /// The broker of now has not answered what it was presented with.
    Presented,
    /// The broker of now does not take it yet.
    Postponed,
    /// No broker takes it any more.
    Over,
}

/// A peer that it was told of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    pub(crate) process: u64,
    pub(crate) index: u16,
    pub(crate) left: bool,
    pub(crate) doorbell: bool,
    /// A place that is kept for a subscriber to come.
    pub(crate) kept: bool,
}

/// A handle.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) number: u32,
    /// None of a watch.
    pub(crate) role: Option<Role>,
    pub(crate) topic: usize,
    pub(crate) id: u64,
    pub(crate) index: u16,
    pub(crate) settings: Option<TopicSettings>,
    /// Bytes of its segment, from when it asks to join.
    pub(crate) bytes: u64,
    /// The settings are those of a publisher.
    pub(crate) decided: bool,
    pub(crate) stage: Stage,
    pub(crate) registry: Option<Rc<Words>>,
    /// The version that it was told last.
    pub(crate) told: u32,
    /// A publisher was not told of everybody by the broker before.
    pub(crate) behind: bool,
    /// The generation of the broker that speaks.
    pub(crate) generation: u64,
    /// That of the broker at which a subscriber has joined, or which was the last to tell a publisher of everybody.
    pub(crate) since: u64,
    pub(crate) known: BTreeMap<u64, Known>,
    /// Peers whose descriptors were lost.
    bereft: BTreeSet<u64>,
    withheld: Option<(u32, bool)>,
    released: BTreeSet<u64>,
    pub(crate) doorbell: bool,
    pub(crate) watch: Option<u64>,
    pub(crate) closed: bool,
    /// Of a watch's subscriber: the topic as the watch was told of it.
    pub(crate) watched: u64,
    /// Of a watch: topics that it was told of.
    pub(crate) topics: BTreeMap<u64, usize>,
    /// The broker at which it joined, and the one whose registry it has.
    pub(crate) joined_at: u32,
    pub(crate) attached: u32,
    /// All brokers at which it was a member, and the registries that it had there.
    pub(crate) attended: BTreeMap<u32, u64>,
    /// It asks the broker to tell it of all peers again.
    retells: bool,
    /// Its registry was lost on the way.
    lacks_registry: bool,
    /// A refusal that does not end what it reads.
    keeps: bool,
}

/// What a handle makes of a message.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// What it was presented with is answered.
    pub(crate) answered: bool,
    pub(crate) requests: Vec<(u32, Request)>,
    /// A watch was told of a topic; the number if a subscriber is to be opened.
    pub(crate) appeared: Option<(usize, Option<u64>)>,
    /// A watch was told that a topic is gone.
    pub(crate) gone: Option<u64>,
}

impl Handle {
    pub(crate) fn new(number: u32, role: Option<Role>, topic: usize) -> Self {
        Self {
            number,
            role,
            topic,
            id: 0,
            index: 0,
            settings: None,
            bytes: 0,
            decided: false,
            stage: Stage::Opening,
            registry: None,
            told: 0,
            behind: false,
            generation: 0,
            since: 0,
            known: BTreeMap::new(),
            bereft: BTreeSet::new(),
            withheld: None,
            released: BTreeSet::new(),
            doorbell: false,
            watch: None,
            closed: false,
            watched: 0,
            topics: BTreeMap::new(),
            joined_at: 0,
            attached: 0,
            attended: BTreeMap::new(),
            retells: false,
            lacks_registry: false,
            keeps: false,
        }
    }

    /// The number of its registry, which tells topics of one name apart.
    pub(crate) fn number(&self) -> u64 {
        self.registry.as_ref().map_or(0, |words| words.number)
    }

    /// Its number, and the peers that it lacks, if it does.
    pub(crate) fn lacks(&self) -> Option<(u64, &BTreeSet<u64>)> {
        (!self.bereft.is_empty()).then_some((self.id, &self.bereft))
    }

    /// The version of the set that it watches.
    pub(crate) fn word(&self) -> u32 {
        match (&self.registry, self.role) {
            (Some(registry), Some(role)) => registry.version_of(role.other()),
            _ => 0,
        }
    }

    /// Whether it was told everything up to the version that it sees.
    pub(crate) fn is_synced(&self) -> bool {
        self.told == self.word()
    }

    /// Whether it takes itself for a member.
    pub(crate) fn has_joined(&self) -> bool {
        let stages = [
            Stage::Placed,
            Stage::Homeless,
            Stage::Presented,
            Stage::Postponed,
        ];
        self.role.is_some() && stages.contains(&self.stage)
    }

    /// Whether what it says reaches a broker.
    pub(crate) fn is_on_link(&self) -> bool {
        !matches!(self.stage, Stage::Homeless | Stage::Over)
    }

    /// Whether no broker takes it, and its publishers leave alone what it holds until it is closed.
    pub(crate) fn may_still_read(&self) -> bool {
        self.stage == Stage::Over && self.role == Some(Role::Subscriber) && self.bytes > 0
    }

    /// Whether it was refused otherwise than for others to come.
    pub(crate) fn is_left_alone(&self) -> bool {
        self.may_still_read() && self.keeps
    }

    /// Whether the next broker is to know it.
    pub(crate) fn is_to_present(&self) -> bool {
        self.stage == Stage::Homeless || self.may_still_read()
    }

    /// The broker is gone. False if the handle never became a member, and goes with it.
    pub(crate) fn lose_broker(&mut self) -> bool {
        match self.stage {
            Stage::Opening | Stage::Opened | Stage::Joining => return false,
            Stage::Placed | Stage::Presented | Stage::Postponed => self.stage = Stage::Homeless,
            Stage::Homeless | Stage::Over => {}
        }
        if self.role == Some(Role::Publisher) {
            let further = self.word().wrapping_sub(self.told) as i32 > 0;
            self.behind |= further || !self.bereft.is_empty();
        }
        self.known.retain(|_, known| !known.kept);
        self.bereft.clear();
        self.withheld = None;
        self.released.clear();
        self.retells = false;
        self.lacks_registry = false;
        self.topics.clear();
        true
    }

    /// Whether it is to ask for its peers again, now.
    pub(crate) fn asks_again(&mut self) -> bool {
        let lacks = self.lacks_registry || !self.bereft.is_empty();
        std::mem::take(&mut self.retells) || (lacks && self.stage != Stage::Over)
    }

    /// Whether it has done with a ring at this broker.
    pub(crate) fn has_released(&self, ring: u64) -> bool {
        self.released.contains(&ring)
    }

    /// It has done with a ring; whether the broker is to hear of that.
    pub(crate) fn release(&mut self, ring: u64) -> bool {
        self.released.insert(ring);
        self.known.remove(&ring).is_some()
    }

    /// Takes in what the broker says of it; `broker` says which one.
    ///
    /// # Errors
    /// What it noticed that is against the promises.
    pub(crate) fn hear(
        &mut self,
        event: Event,
        descriptors: Vec<Fd>,
        broker: u32,
    ) -> Result<Heard, String> {
        let mut heard = Heard::default();
        match event {
            Event::Opened {
                settings,
                decided,
                index,
                id,
            } => match descriptors.into_iter().next() {
                Some(Fd::Registry(registry)) => {
                    (self.settings, self.index, self.id) = (Some(settings), index, id);
                    self.registry = Some(registry);
                    (self.decided, self.lacks_registry) = (decided, false);
                    if self.stage == Stage::Opening {
                        self.stage = Stage::Opened;
                    }
                }
                _ => self.lacks_registry = self.registry.is_none(),
            },
            Event::Decided { settings } => {
                (self.settings, self.decided) = (Some(settings), true);
            }
            Event::Joined { version } => self.tell_version(version, Some(broker)),
            Event::Synced { version } => self.tell_version(version, None),
            Event::PublisherJoined {
                id,
                process,
                index,
                ended,
                ..
            } => {
                if self.released.contains(&id) {
                    // The broker took the handle back before it heard of that.
                    let released = Request::Released { ring: id };
                    heard.requests.push((self.number, released));
                }
                self.introduced(id, process, index, ended, false, &descriptors);
            }
            Event::SubscriberJoined { id, process, kept } => {
                self.introduced(id, process, 0, false, kept, &descriptors);
            }
            Event::PublisherLeft { id, dropped } => {
                self.publisher_left(id, dropped, &mut heard);
            }
            Event::SubscriberLeft { id } => {
                self.found(id);
                self.known.remove(&id);
            }
            Event::PeerDoorbell { id } => {
                if let Some(known) = self.known.get_mut(&id) {
                    known.doorbell |= !descriptors.is_empty();
                }
            }
            // It was refused before, and goes on with no broker.
            Event::Reclaimed { .. } if self.stage == Stage::Over => heard.answered = true,
            Event::Reclaimed { version, topic } if self.stage == Stage::Presented => {
                self.watched = topic;
                match descriptors.into_iter().next() {
                    Some(Fd::Registry(registry)) => {
                        (heard.answered, self.lacks_registry) = (true, false);
                        let seen = self.word();
                        self.registry = Some(registry);
                        self.stage = Stage::Placed;
                        self.attached = broker;
                        self.attended.insert(broker, self.number());
                        self.told = version;
                        self.retells |= self.word() == seen;
                    }
                    _ => self.lacks_registry = true,
                }
            }
            Event::Refused { kind, why } => {
                let _ = why;
                // One that is presented again is answered then: until it has its registry, the process has not come back.
                heard.answered = self.stage != Stage::Presented || !kind.may_pass();
                if self.stage != Stage::Over {
                    self.keeps = keeps_reading(kind);
                }
                self.stage = match self.stage {
                    Stage::Presented if kind.may_pass() => Stage::Postponed,
                    _ => Stage::Over,
                };
            }
            Event::Watching { id } => {
                heard.answered = true;
                (self.id, self.stage) = (id, Stage::Placed);
            }
            Event::TopicAppeared {
                id,
                topic,
                differs,
                kept,
            } => {
                let topic = topics::index(&topic).ok_or("a topic that nobody opened")?;
                if self.topics.insert(id, topic).is_some() {
                    return Err(format!("the watch is told of topic {id} again"));
                }
                // One that the watch hears of before it knows its own number is opened later.
                heard.appeared = Some((topic, (differs.is_none() && kept).then_some(id)));
            }
            Event::TopicGone { id } => {
                if self.topics.remove(&id).is_none() {
                    return Err(format!("the watch does not know topic {id}"));
                }
                heard.gone = Some(id);
            }
            Event::DoorbellRegistered { .. } | Event::Reclaimed { .. } => {}
            event => return Err(format!("{event:?} is nothing for a handle")),
        }
        Ok(heard)
    }

    fn introduced(
        &mut self,
        id: u64,
        process: u64,
        index: u16,
        left: bool,
        kept: bool,
        descriptors: &[Fd],
    ) {
        let doorbell = descriptors.len() > 1;
        if let Some(known) = self.known.get_mut(&id) {
            known.left |= left;
            known.doorbell |= doorbell;
            return;
        }
        if self.released.contains(&id) {
            return;
        }
        if descriptors.is_empty() {
            self.bereft.insert(id);
            return;
        }
        let known = Known {
            process,
            index,
            left,
            doorbell,
            kept,
        };
        self.known.insert(id, known);
        self.found(id);
    }

    fn publisher_left(&mut self, id: u64, dropped: bool, heard: &mut Heard) {
        match self.known.get_mut(&id) {
            Some(known) => known.left = true,
            None if dropped => {
                self.found(id);
                let released = Request::Released { ring: id };
                heard.requests.push((self.number, released));
            }
            None => {}
        }
    }

    fn found(&mut self, id: u64) {
        if self.bereft.remove(&id)
            && self.bereft.is_empty()
            && let Some((version, joined)) = self.withheld.take()
        {
            self.tell_version(version, joined.then_some(self.joined_at));
        }
    }

    fn tell_version(&mut self, version: u32, joined: Option<u32>) {
        if let Some(broker) = joined {
            (self.joined_at, self.attached) = (broker, broker);
            self.attended.insert(broker, self.number());
        }
        if !self.bereft.is_empty() {
            let joins = joined.is_some() || self.withheld.is_some_and(|(_, joins)| joins);
            self.withheld = Some((version, joins));
            return;
        }
        self.told = version;
        if joined.is_some() || self.role == Some(Role::Publisher) {
            self.since = self.generation;
        }
        if joined.is_some() {
            self.stage = Stage::Placed;
        } else {
            self.behind = false;
        }
    }
}

/// Whether a subscriber that is refused for this reason is left alone in what it reads; those that give way to others
/// are not.
fn keeps_reading(kind: Refusal) -> bool {
    let kinds = [
        Refusal::Fenced,
        Refusal::Unknown,
        Refusal::Protocol,
        Refusal::Limit,
        Refusal::Broker,
        Refusal::Segment,
    ];
    kinds.contains(&kind)
}
