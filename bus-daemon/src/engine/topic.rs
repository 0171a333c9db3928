//! One topic: its members, its rings, and the versions of its two sets.
//!
//! This file holds what a topic is and what can be asked of it. Who does what with it: `open`, `join`, `leave`,
//! `reclaim`, `reconcile`.
//!
//! A topic is *decided* when a publisher has opened it: before that its settings are provisional, because mere
//! subscribers decide nothing. A topic that is *closed* has no name any more; the subscribers of watches in it read
//! what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bus_core::control::Role;
use bus_core::schema::Schema;
use bus_core::{TopicName, TopicSettings};

use super::member::{Grant, Member, Owner};
use super::rings::{Ended, Full, Rings};
use super::world::World;
use crate::accounts::Charge;

/// Members that a refusal names.
const NAMED: usize = 8;

/// A topic.
#[derive(Debug)]
pub(crate) struct Topic<W: World> {
    /// Never used again, not for one of the same name either.
    pub(crate) id: u64,
    pub(crate) name: TopicName,
    pub(crate) schema: Schema,
    pub(crate) settings: TopicSettings,
    pub(crate) decided: bool,
    pub(crate) closed: bool,
    pub(crate) registry: W::Registry,
    /// What members map.
    pub(crate) registry_fd: W::Fd,
    versions: Versions,
    pub(crate) members: BTreeMap<u64, Member<W>>,
    /// The places that are kept for watches, by the watches.
    pub(crate) places: BTreeMap<u64, Place<W>>,
    pub(crate) rings: Rings<W>,
    /// Members of an earlier broker that have not come back.
    pub(crate) absent: BTreeMap<u64, Absent>,
    /// What somebody is charged for the topic.
    pub(crate) charge: Option<Charge>,
    /// The user of its first member, and whether there has been one of another user.
    user: Option<u32>,
    foreign: bool,
    /// Watches whose place was given up for a publisher that they could have blocked.
    pub(crate) forfeited: BTreeSet<u64>,
}

/// The versions that the two sets have, or are about to have.
#[derive(Clone, Copy, Debug)]
struct Versions {
    publishers: u32,
    subscribers: u32,
}

/// A place that is kept for the subscriber of a watch. To publishers it is a subscriber that reads nothing.
#[derive(Debug)]
pub(crate) struct Place<W: World> {
    pub(crate) owner: Rc<Owner<W>>,
    pub(crate) segment: W::Fd,
    pub(crate) grant: Grant,
    #[allow(dead_code, reason = "the charge lasts as long as the place")]
    pub(crate) charge: Charge,
}

/// A member of an earlier broker that others know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Absent {
    pub(crate) role: Role,
    pub(crate) process: u64,
    /// It may not come back: a newcomer has joined that it does not know.
    pub(crate) fenced: bool,
}

/// What a peer is to a member.
pub(crate) enum Peer<'a, W: World> {
    /// A member that has joined.
    Member(&'a Member<W>),
    /// The ring of a publisher that has gone.
    Ended(&'a Ended<W>),
    /// A place that is kept for a watch.
    Place(&'a Place<W>),
    /// It may come back; nothing is said of it meanwhile.
    Absent,
    /// The member is not to know it: it is gone, or its ring was given up.
    Gone,
}

impl<W: World> Topic<W> {
    pub(crate) fn new(
        id: u64,
        name: TopicName,
        schema: Schema,
        settings: TopicSettings,
        (registry, registry_fd): (W::Registry, W::Fd),
        version: u32,
        charge: Charge,
    ) -> Self {
        Self {
            id,
            name,
            schema,
            settings,
            decided: false,
            closed: false,
            registry,
            registry_fd,
            versions: Versions {
                publishers: version,
                subscribers: version,
            },
            members: BTreeMap::new(),
            places: BTreeMap::new(),
            rings: Rings::default(),
            absent: BTreeMap::new(),
            charge: Some(charge),
            user: None,
            foreign: false,
            forfeited: BTreeSet::new(),
        }
    }

    /// A member of this user is let in; or one comes back whose last broker had let in others as
    /// well, `foreign`. Whether the topic has members of more than one user from now on.
    pub(crate) fn becomes_foreign(&mut self, uid: u32, foreign: bool) -> bool {
        let first = *self.user.get_or_insert(uid);
        let foreign = foreign || first != uid;
        foreign && !std::mem::replace(&mut self.foreign, true)
    }

    /// Rings of ended publishers that it retains, at most.
    pub(crate) fn retain(&self) -> usize {
        self.settings.retain as usize
    }

    /// The version of the set of members with this role.
    pub(crate) fn version_of(&self, role: Role) -> u32 {
        match role {
            Role::Publisher => self.versions.publishers,
            Role::Subscriber => self.versions.subscribers,
        }
    }

    /// The set of members with this role changes: members are told the new version before the registry has it.
    pub(crate) fn advance(&mut self, role: Role) -> u32 {
        let version = match role {
            Role::Publisher => &mut self.versions.publishers,
            Role::Subscriber => &mut self.versions.subscribers,
        };
        *version = version.wrapping_add(1);
        *version
    }

    /// Whether nothing has it open but the subscribers of watches.
    pub(crate) fn is_empty(&self) -> bool {
        self.members.values().all(|member| member.watch.is_some())
    }

    /// Whether members may come back that keep it open.
    pub(crate) fn is_awaited(&self) -> bool {
        self.absent.values().any(|absent| !absent.fenced)
    }

    /// Whether absent members with this role may come back.
    pub(crate) fn may_come(&self, role: Role) -> bool {
        let mut absent = self.absent.values();
        absent.any(|absent| absent.role == role && !absent.fenced)
    }

    /// Members with this role, by their numbers.
    pub(crate) fn of(&self, role: Role) -> impl Iterator<Item = (u64, &Member<W>)> {
        let members = self.members.iter().filter(move |(_, m)| m.role == role);
        members.map(|(&id, member)| (id, member))
    }

    /// Members that are told of changes of the set of members with this role: all subscribers that have opened the
    /// topic, and the publishers that have joined.
    pub(crate) fn concerned(&self, role: Role) -> Vec<u64> {
        let others = self.of(role.other());
        let told = others.filter(|(_, m)| m.role == Role::Subscriber || m.has_joined());
        told.map(|(id, _)| id).collect()
    }

    /// Subscribers that could block publishers of this user, and may not.
    pub(crate) fn blocking(&self, publisher: u32) -> Vec<(u64, &Member<W>)> {
        let subscribers = self.of(Role::Subscriber);
        subscribers.filter(|(_, m)| m.stalls(publisher)).collect()
    }

    /// What this publisher is to a subscriber.
    pub(crate) fn publisher_for(&self, subscriber: u64, publisher: u64) -> Peer<'_, W> {
        if !self.rings.reads(publisher, subscriber) {
            return Peer::Gone;
        }
        match self.members.get(&publisher) {
            Some(member) if member.has_joined() => return Peer::Member(member),
            Some(_) => return Peer::Absent,
            None => {}
        }
        if let Some(ended) = self.rings.ended_ring(publisher) {
            return Peer::Ended(ended);
        }
        match self.absent.contains_key(&publisher) {
            true => Peer::Absent,
            false => Peer::Gone,
        }
    }

    /// What this subscriber, or place, is to the publishers.
    pub(crate) fn subscriber(&self, subscriber: u64) -> Peer<'_, W> {
        if let Some(member) = self.members.get(&subscriber).filter(|m| m.has_joined()) {
            return Peer::Member(member);
        }
        if let Some(place) = self.places.get(&subscriber) {
            return Peer::Place(place);
        }
        match self.absent.contains_key(&subscriber) {
            true => Peer::Absent,
            false => Peer::Gone,
        }
    }

    /// The user and process to be charged for it, where nobody of the user is left that is charged now.
    pub(crate) fn heir(&self) -> Option<(u32, u32)> {
        let charged = self.charge.as_ref()?.account().uid();
        let owners = || self.members.values().map(|member| &member.owner);
        if owners().any(|owner| owner.uid == charged) {
            return None;
        }
        owners().next().map(|owner| (owner.uid, owner.pid))
    }

    /// Why there is no index for one more publisher.
    pub(crate) fn explain(&self, full: &Full) -> String {
        let name = &self.name;
        let publishers: Vec<_> = self.of(Role::Publisher).map(|(_, member)| member).collect();
        let absent = self.absent.values().filter(|a| a.role == Role::Publisher);
        let absent = absent.count();
        let taken = publishers.len() + absent;
        match full {
            Full::Draining(rings) => format!(
                "topic {name} has {taken} publishers, and the rings of {rings} that left wait to be read by {}; the limit is {} together: let those go on, or end them",
                self.holders(),
                self.settings.rings()
            ),
            Full::Publishers => {
                let named = publishers.iter().take(NAMED).map(|m| describe(&m.owner));
                let mut named: Vec<_> = named.collect();
                if publishers.len() > NAMED {
                    named.push(format!("{} more", publishers.len() - NAMED));
                }
                if absent > 0 {
                    named.push(format!(
                        "{absent} that may come back from an earlier broker"
                    ));
                }
                format!(
                    "topic {name} admits {} publishers at a time, and has {taken}: {}; asked for one more",
                    self.settings.publishers,
                    named.join(", ")
                )
            }
        }
    }

    /// The subscribers that have still to release rings of ended publishers, by name and process.
    fn holders(&self) -> String {
        let holders = self.rings.holders();
        let more = holders.len().saturating_sub(NAMED);
        let named = holders.into_iter().take(NAMED).filter_map(|(id, rings)| {
            let (what, owner) = match (self.members.get(&id), self.places.get(&id)) {
                (Some(member), _) => ("subscriber", &member.owner),
                (None, Some(place)) => ("the watch of", &place.owner),
                (None, None) => return None,
            };
            let (client, pid) = (&owner.client, owner.pid);
            Some(format!("{what} {client} (process {pid}, {rings} rings)"))
        });
        let mut named: Vec<_> = named.collect();
        if more > 0 {
            named.push(format!("{more} more"));
        }
        named.join(", ")
    }
}

fn describe<W: World>(owner: &Owner<W>) -> String {
    format!("{} (process {})", owner.client, owner.pid)
}
