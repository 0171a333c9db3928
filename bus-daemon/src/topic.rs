//! One topic: its members, and the versions of its two sets.
//!
//! The order is what makes joining gapless (`docs/protocol.md`, *Join*): each change is posted to everybody
//! whom it concerns, *then* the version moves, *then* the one who asked is answered. An event has the version
//! that it leads to. Which ring has which index, and which rings of ended publishers are kept: `rings`.
//!
//! A *watch* is told of the topic when it is created, and then a place is kept for its subscriber: to publishers it is one that reads nothing,
//! so that none of their messages is lost to who comes. The subscriber takes the place when it joins.
//!
//! It asks for requests in order: a member joins once. It does not check what a client sent; `request` does.

mod resume;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use bus_core::backend::doorbell;
use bus_core::control::{Event, Role, Trust};
use bus_core::memory::registry::Registry;
use bus_core::schema::Schema;
use bus_core::{Result, TopicName, TopicSettings};

use crate::accounts::Charge;
use crate::client::Clients;
use crate::limits::MAX_PUBLISHERS;
use crate::member::{Member, publisher_joined, subscriber_joined};
use crate::outbox::Outgoing;
use crate::policy::Quota;
use crate::rings::{Full, Rings};

pub(crate) use resume::Earlier;

/// Publishers that a refusal names.
const NAMED: usize = 8;

/// A topic that somebody has open, or that keeps rings for who comes.
pub(crate) struct Topic {
    /// Never used again, not for one of the same name either.
    pub(crate) id: u64,
    pub(crate) name: TopicName,
    pub(crate) schema: Schema,
    pub(crate) settings: TopicSettings,
    registry: Registry,
    members: BTreeMap<u64, Member>,
    /// The places that are kept, by the watches that they are kept for.
    places: BTreeMap<u64, Member>,
    rings: Rings,
    /// What somebody is charged for it.
    pub(crate) charge: Charge,
    /// Watches whose place was given up for a publisher that they could have held up.
    forfeited: BTreeSet<u64>,
}

/// A subscriber that could hold up publishers of another user.
pub(crate) struct Intruder {
    pub(crate) id: u64,
    pub(crate) uid: u32,
    pub(crate) publishes: bool,
}

/// What a member is to be answered when it has opened the topic.
pub(crate) struct Opened {
    pub(crate) index: u16,
    pub(crate) registry: OwnedFd,
}

impl Topic {
    /// An empty topic. The versions of its sets start at `version`.
    pub(crate) fn create(
        id: u64,
        name: TopicName,
        schema: Schema,
        settings: TopicSettings,
        charge: Charge,
        version: u32,
    ) -> Result<Self> {
        let registry = Registry::starting_at(version)?;
        Ok(Self {
            id,
            name,
            schema,
            settings,
            registry,
            members: BTreeMap::new(),
            places: BTreeMap::new(),
            rings: Rings::new(&settings),
            charge,
            forfeited: BTreeSet::new(),
        })
    }

    /// Whether nobody has it open but watches.
    pub(crate) fn is_empty(&self) -> bool {
        self.members.values().all(|member| member.watch.is_some())
    }

    /// Whether rings of ended publishers are there for subscribers to come.
    pub(crate) fn keeps_rings(&self) -> bool {
        self.rings.keep_any()
    }

    /// Up to which version its subscribers have been told of publishers.
    pub(crate) fn publishers_version(&self) -> u32 {
        self.registry.publishers()
    }

    /// Everybody who has it open.
    pub(crate) fn members(&self) -> impl Iterator<Item = u64> {
        self.members.keys().copied()
    }

    /// Keeps a place for the subscriber of a watch, before the first publisher comes. It has joined as what publishers are to take it for.
    pub(crate) fn keep_place(&mut self, watch: u64, place: Member) {
        self.places.insert(watch, place);
    }

    /// Whether a place is kept for any watch.
    pub(crate) fn has_places(&self) -> bool {
        !self.places.is_empty()
    }

    /// Whether a place is kept for this watch.
    pub(crate) fn has_place(&self, watch: u64) -> bool {
        self.places.contains_key(&watch)
    }

    /// Whether rings of ended publishers are owed to this watch.
    pub(crate) fn owes(&self, watch: u64) -> bool {
        self.rings.owed(watch).next().is_some()
    }

    /// Gives up the place that is kept for a watch, if there is one: its subscriber has joined, or will not come.
    pub(crate) fn give_up_place(&mut self, watch: u64, clients: &mut Clients) -> Result<()> {
        if self.places.remove(&watch).is_none() {
            return Ok(());
        }
        self.rings.forgive(watch);
        self.tell_subscriber_left(watch, false, clients)
    }

    /// Gives up the places of watches that could hold up publishers of this user, and may not.
    pub(crate) fn forfeit_places(&mut self, publisher: u32, clients: &mut Clients) -> Result<()> {
        let in_way = self
            .places
            .iter()
            .filter(|(_, place)| place.stalls(publisher));
        let watches: Vec<_> = in_way.map(|(&watch, _)| watch).collect();
        for watch in watches {
            self.forfeited.insert(watch);
            self.give_up_place(watch, clients)?;
        }
        Ok(())
    }

    /// Whether a watch counts on a place that was given up.
    pub(crate) fn has_forfeited(&self, watch: u64) -> bool {
        self.forfeited.contains(&watch)
    }

    /// Whether it is open, and by nobody but subscribers that may not publish here.
    pub(crate) fn only_listeners(&self) -> bool {
        !self.members.is_empty() && self.members.values().all(|m| !m.standing.publishes)
    }

    /// The users of those with this role.
    pub(crate) fn users(&self, role: Role) -> impl Iterator<Item = u32> {
        self.of(role).map(|(_, member)| member.uid)
    }

    /// Subscribers that could hold up publishers of this user, and may not.
    pub(crate) fn intruders(&self, publisher: u32) -> Vec<Intruder> {
        let subscribers = self.of(Role::Subscriber);
        let in_way = subscribers.filter(|(_, member)| member.stalls(publisher));
        let intruder = |(id, member): (u64, &Member)| Intruder {
            id,
            uid: member.uid,
            publishes: member.standing.publishes,
        };
        in_way.map(intruder).collect()
    }

    /// Who is to be charged for it, user and process, where nobody of the user is left that is charged now.
    pub(crate) fn heir(&self) -> Option<(u32, u32)> {
        let charged = self.charge.account().uid();
        let members = || self.members.values();
        if members().any(|member| member.uid == charged) {
            return None;
        }
        members().next().map(|member| (member.uid, member.pid))
    }

    pub(crate) fn member(&self, id: u64) -> Option<&Member> {
        self.members.get(&id)
    }

    /// The index for one more publisher, or why there is none.
    pub(crate) fn find_index(&mut self) -> Result<u16, String> {
        self.rings.find().map_err(|full| self.explain(full))
    }

    fn explain(&self, full: Full) -> String {
        let name = &self.name;
        let publishers: Vec<_> = self.of(Role::Publisher).map(|(_, member)| member).collect();
        let taken = publishers.len();
        let limit = self.settings.publishers;
        match full {
            Full::Draining(rings) => format!(
                "topic {name} has {taken} publishers, and the rings of {rings} that left wait to be read by {}; the limit is {MAX_PUBLISHERS} together: let those go on, or end them",
                self.holders()
            ),
            Full::Publishers => {
                let named = publishers.iter().take(NAMED);
                let mut who: Vec<_> = named
                    .map(|member| format!("{} (process {})", member.client, member.pid))
                    .collect();
                if taken > NAMED {
                    who.push(format!("{} more", taken - NAMED));
                }
                format!(
                    "topic {name} admits {limit} publishers at a time, and has {taken}: {}; asked for one more",
                    who.join(", ")
                )
            }
        }
    }

    /// Who keeps the rings of ended publishers from being let go of, by name and process.
    fn holders(&self) -> String {
        let holders = self.rings.holders();
        let more = holders.len().saturating_sub(NAMED);
        let named = holders.into_iter().take(NAMED);
        let named = named.filter_map(|(id, rings)| {
            let (what, member) = match (self.members.get(&id), self.places.get(&id)) {
                (Some(member), _) => ("subscriber", member),
                (None, Some(place)) => ("the watch of", place),
                (None, None) => return None,
            };
            let (client, pid) = (&member.client, member.pid);
            Some(format!("{what} {client} (process {pid}, {rings} rings)"))
        });
        let mut who: Vec<_> = named.collect();
        if more > 0 {
            who.push(format!("{more} more"));
        }
        who.join(", ")
    }

    /// Takes a member in. A publisher brings the index that [`find_index`](Self::find_index) gave.
    pub(crate) fn open(&mut self, id: u64, member: Member) -> Result<Opened> {
        let registry = self.registry.fd().try_clone_to_owned();
        let registry =
            registry.map_err(|e| bus_core::Error::io("cannot duplicate a registry", e))?;
        let index = member.index;
        if member.role == Role::Publisher {
            self.rings.take(index, id);
        }
        self.members.insert(id, member);
        Ok(Opened { index, registry })
    }

    /// Tells a subscriber that has just opened the topic about the publishers that are there, and about the ended ones whose rings
    /// are kept: all that its place is owed, or where it asks for history.
    pub(crate) fn introduce_publishers(
        &mut self,
        to: u64,
        history: bool,
        clients: &mut Clients,
    ) -> Result<()> {
        let version = self.registry.publishers();
        let watch = self.members.get(&to).and_then(|member| member.watch);
        let place = watch.filter(|watch| self.has_place(*watch));
        let owed = place.into_iter().flat_map(|watch| self.rings.owed(watch));
        let retained = self.rings.retained().filter(|_| history && place.is_none());
        let ended = owed
            .chain(retained)
            .map(|ring| (ring.id, &ring.member, true));
        let live = self.of(Role::Publisher);
        let live = live.map(|(id, member)| (id, member, false));
        let mut told = Vec::new();
        let uid = self.members.get(&to).map(|member| member.uid);
        for (id, member, ended) in ended.chain(live) {
            let trust = uid.map_or(Trust::Copy, |uid| member.trust(uid));
            if let Some(event) = publisher_joined(id, member, version, ended, trust)? {
                clients.post(to, event);
                told.push(member.index);
            }
        }
        told.into_iter()
            .for_each(|index| self.rings.tell(index, to));
        Ok(())
    }

    /// Makes a member take part, with the segment that it made.
    pub(crate) fn join(&mut self, id: u64, segment: OwnedFd, clients: &mut Clients) -> Result<()> {
        let Some(member) = self.members.get_mut(&id) else {
            return Ok(());
        };
        let segment = Rc::new(segment);
        member.segment = Some(segment);
        let version = match member.role {
            Role::Publisher => self.join_publisher(id, clients)?,
            Role::Subscriber => self.join_subscriber(id, clients)?,
        };
        clients.post(id, Outgoing::new(&Event::Joined { version }, Vec::new())?);
        Ok(())
    }

    fn join_publisher(&mut self, id: u64, clients: &mut Clients) -> Result<u32> {
        let subscribers = self.registry.subscribers();
        let places = self
            .places
            .iter()
            .map(|(&watch, place)| (watch, place, true));
        let others = self.of(Role::Subscriber);
        let others = others.map(|(other, member)| (other, member, false));
        for (other, member, kept) in others.chain(places) {
            if let Some(event) = subscriber_joined(other, member, subscribers, kept)? {
                clients.post(id, event);
            }
        }
        self.announce_publisher(id, clients)?;
        let index = self.members[&id].index;
        let watches: Vec<_> = self.places.keys().copied().collect();
        watches
            .into_iter()
            .for_each(|watch| self.rings.owe(index, watch));
        self.bump(Role::Publisher);
        Ok(subscribers)
    }

    /// Tells all subscribers of a publisher that takes part.
    fn announce_publisher(&mut self, id: u64, clients: &mut Clients) -> Result<()> {
        let version = self.registry.publishers().wrapping_add(1);
        let member = &self.members[&id];
        let index = member.index;
        let joined = |trust| publisher_joined(id, member, version, false, trust);
        for to in self.post_to_subscribers(member, joined, clients)? {
            self.rings.tell(index, to);
        }
        Ok(())
    }

    fn join_subscriber(&mut self, id: u64, clients: &mut Clients) -> Result<u32> {
        self.announce_subscriber(id, clients)?;
        self.bump(Role::Subscriber);
        // Only now, so that there is no moment at which publishers know neither.
        if let Some(watch) = self.members[&id].watch {
            self.give_up_place(watch, clients)?;
        }
        Ok(self.registry.publishers())
    }

    /// Tells all publishers of a subscriber that takes part.
    fn announce_subscriber(&self, id: u64, clients: &mut Clients) -> Result<()> {
        let version = self.registry.subscribers().wrapping_add(1);
        if let Some(event) = subscriber_joined(id, &self.members[&id], version, false)? {
            self.post_to_publishers(&event, clients);
        }
        Ok(())
    }

    /// Lets a member park: from now on it is woken by its doorbell as well.
    pub(crate) fn notify(
        &mut self,
        id: u64,
        doorbell: OwnedFd,
        clients: &mut Clients,
    ) -> Result<()> {
        let Some(member) = self.members.get_mut(&id) else {
            return Ok(());
        };
        let doorbell = Rc::new(doorbell);
        member.doorbell = Some(Rc::clone(&doorbell));
        let member = &self.members[&id];
        let (publishers, subscribers) = (self.registry.publishers(), self.registry.subscribers());
        let (event, version, watched) = match member.role {
            Role::Publisher => {
                let version = publishers.wrapping_add(1);
                (Event::PublisherNotify { version, id }, version, subscribers)
            }
            Role::Subscriber => {
                let version = subscribers.wrapping_add(1);
                let event = Event::SubscriberNotify { version, id };
                (event, version, publishers)
            }
        };
        let event = Outgoing::new(&event, Vec::new())?.with_button(Some(doorbell), member.uid);
        if member.has_joined() {
            let role = member.role;
            match role {
                Role::Publisher => {
                    let notify = |trust| {
                        let whole = publisher_joined(id, member, version, false, trust)?;
                        Ok(whole.map(|whole| event.clone().or_whole(whole)))
                    };
                    self.post_to_subscribers(member, notify, clients)?;
                }
                Role::Subscriber => {
                    if let Some(whole) = subscriber_joined(id, member, version, false)? {
                        self.post_to_publishers(&event.or_whole(whole), clients);
                    }
                }
            }
            self.bump(role);
        }
        let answer = Event::Notified { version: watched };
        clients.post(id, Outgoing::new(&answer, Vec::new())?);
        Ok(())
    }

    /// Moves the version of the set of those with this role, and wakes the others, however they sleep.
    fn bump(&mut self, of: Role) {
        match of {
            Role::Publisher => self.registry.bump_publishers(),
            Role::Subscriber => self.registry.bump_subscribers(),
        };
        self.ring_parked(of.other());
    }

    /// Rings the doorbells of all with this role that may be parked.
    pub(crate) fn ring_parked(&self, role: Role) {
        let members = self.members.values().filter(|m| m.role == role);
        members
            .filter_map(|m| m.doorbell.as_deref())
            .for_each(doorbell::ring);
    }

    /// A subscriber reads the ring with this index no more.
    pub(crate) fn release(&mut self, id: u64, index: u16, clients: &mut Clients) {
        self.rings.release(index, id);
        if let Some(publisher) = self.rings.publisher(index) {
            clients.unsay(id, publisher);
        }
    }

    /// Lets a member go, and tells those whom it concerns if it took part.
    pub(crate) fn leave(&mut self, id: u64, exited: bool, clients: &mut Clients) -> Result<()> {
        let Some(member) = self.members.remove(&id) else {
            return Ok(());
        };
        match member.role {
            Role::Publisher => self.leave_publisher(id, member, exited, clients),
            Role::Subscriber => self.leave_subscriber(id, &member, exited, clients),
        }
    }

    fn leave_publisher(
        &mut self,
        id: u64,
        mut member: Member,
        exited: bool,
        clients: &mut Clients,
    ) -> Result<()> {
        let index = member.index;
        // It sleeps no more.
        member.doorbell = None;
        if !member.has_joined() {
            self.rings.give_back(index);
            return Ok(());
        }
        member.charge.release(Quota::Publishers);
        self.rings.end(id, member);
        self.tell_publisher_left(id, index, exited, clients)
    }

    fn tell_publisher_left(
        &mut self,
        id: u64,
        index: u16,
        exited: bool,
        clients: &mut Clients,
    ) -> Result<()> {
        let version = self.registry.publishers().wrapping_add(1);
        let event = Event::PublisherLeft {
            version,
            id,
            index,
            exited,
        };
        let event = Outgoing::new(&event, Vec::new())?;
        for to in self.subscribers() {
            let event = event.clone();
            clients.post(
                to,
                if self.rings.is_told(index, to) {
                    event.with_ring_owed()
                } else {
                    event
                },
            );
        }
        self.bump(Role::Publisher);
        Ok(())
    }

    fn leave_subscriber(
        &mut self,
        id: u64,
        member: &Member,
        exited: bool,
        clients: &mut Clients,
    ) -> Result<()> {
        self.rings.forget(id);
        if !member.has_joined() {
            return match member.watch {
                Some(watch) => self.give_up_place(watch, clients),
                None => Ok(()),
            };
        }
        self.tell_subscriber_left(id, exited, clients)
    }

    fn tell_subscriber_left(&mut self, id: u64, exited: bool, clients: &mut Clients) -> Result<()> {
        let version = self.registry.subscribers().wrapping_add(1);
        let event = Event::SubscriberLeft {
            version,
            id,
            exited,
        };
        let event = Outgoing::new(&event, Vec::new())?;
        self.post_to_publishers(&event, clients);
        self.bump(Role::Subscriber);
        Ok(())
    }

    fn of(&self, role: Role) -> impl Iterator<Item = (u64, &Member)> {
        let members = self.members.iter().filter(move |(_, m)| m.role == role);
        members.map(|(&id, member)| (id, member))
    }

    /// Who is told of publishers: also who has only opened the topic.
    fn subscribers(&self) -> Vec<u64> {
        self.of(Role::Subscriber).map(|(id, _)| id).collect()
    }

    /// Posts an event about a publisher to all subscribers, each as it is to read that one. Returns to whom.
    fn post_to_subscribers(
        &self,
        publisher: &Member,
        event: impl Fn(Trust) -> Result<Option<Outgoing>>,
        clients: &mut Clients,
    ) -> Result<Vec<u64>> {
        let (copy, in_place) = (event(Trust::Copy)?, event(Trust::InPlace)?);
        let mut told = Vec::new();
        for (to, subscriber) in self.of(Role::Subscriber) {
            let event = match publisher.trust(subscriber.uid) {
                Trust::Copy => &copy,
                Trust::InPlace => &in_place,
            };
            if let Some(event) = event {
                clients.post(to, event.clone());
                told.push(to);
            }
        }
        Ok(told)
    }

    fn post_to_publishers(&self, event: &Outgoing, clients: &mut Clients) {
        for (to, _) in self.of(Role::Publisher).filter(|(_, m)| m.has_joined()) {
            clients.post(to, event.clone());
        }
    }
}
