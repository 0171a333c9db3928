//! One topic: its members, the indices of their rings, and the versions of its two sets.
//!
//! The order is what makes joining gapless (`docs/protocol.md`, *Join*): each change is posted to everybody
//! whom it concerns, *then* the version moves, *then* the one who asked is answered. An event has the version
//! that it leads to.
//!
//! ```text
//!  ring index:  free --Open--> taken --leave--> draining --last Released or leave--> free
//!                                 |                          of who was told of it
//!                                 +-- nobody was told of it ---------------------> free
//! ```
//! It asks for requests in order: a member joins once. It does not check what a client sent; `request` does.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use bus_core::control::{Event, Role};
use bus_core::memory::registry::Registry;
use bus_core::schema::Schema;
use bus_core::{ClientName, Result, TopicName, TopicSettings};

use crate::client::Clients;
use crate::limits::MAX_PUBLISHERS;
use crate::outbox::{Outgoing, Posted};

/// A topic that somebody has open.
pub(crate) struct Topic {
    pub(crate) name: TopicName,
    pub(crate) schema: Schema,
    pub(crate) settings: TopicSettings,
    registry: Registry,
    members: BTreeMap<u64, Member>,
    rings: Vec<Ring>,
}

/// A handle that has the topic open.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) role: Role,
    pub(crate) client: ClientName,
    pub(crate) pid: u32,
    pidfd: Rc<OwnedFd>,
    /// Of a publisher: the index of its ring.
    index: u16,
    /// Its ring or its reader segment, once it has joined.
    segment: Option<Rc<OwnedFd>>,
}

/// One line of the readers' cursors.
#[derive(Debug, Default)]
struct Ring {
    publisher: Option<u64>,
    /// Subscribers that were told of the ring and have not released it.
    told: BTreeSet<u64>,
}

/// What a member is to be answered when it has opened the topic.
pub(crate) struct Opened {
    pub(crate) index: u16,
    pub(crate) registry: OwnedFd,
}

impl Topic {
    pub(crate) fn create(name: TopicName, schema: Schema, settings: TopicSettings) -> Result<Self> {
        let registry = Registry::create()?;
        Ok(Self {
            name,
            schema,
            settings,
            registry,
            members: BTreeMap::new(),
            rings: Vec::new(),
        })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub(crate) fn member(&self, id: u64) -> Option<&Member> {
        self.members.get(&id)
    }

    /// The lowest index that is free, or why there is none.
    pub(crate) fn free_index(&self) -> Result<u16, String> {
        let free = self
            .rings
            .iter()
            .position(|r| r.publisher.is_none() && r.told.is_empty());
        let index = free.unwrap_or(self.rings.len()) as u16;
        if index < MAX_PUBLISHERS {
            return Ok(index);
        }
        let name = &self.name;
        let taken = self
            .rings
            .iter()
            .filter(|ring| ring.publisher.is_some())
            .count();
        Err(match usize::from(MAX_PUBLISHERS) - taken {
            0 => format!(
                "topic {name} has {taken} publishers, which is the limit; asked for one more"
            ),
            draining => format!(
                "topic {name} has {taken} publishers, and subscribers still read the rings of {draining} that left; the limit is {MAX_PUBLISHERS} together, try again later"
            ),
        })
    }

    /// Takes a member in. A publisher brings the index that [`free_index`](Self::free_index) gave.
    pub(crate) fn open(&mut self, id: u64, member: Member) -> Result<Opened> {
        let registry = self.registry.fd().try_clone_to_owned();
        let registry =
            registry.map_err(|e| bus_core::Error::io("cannot duplicate a registry", e))?;
        let index = member.index;
        if member.role == Role::Publisher {
            let least = usize::from(index) + 1;
            self.rings
                .resize_with(self.rings.len().max(least), Ring::default);
            self.rings[usize::from(index)].publisher = Some(id);
        }
        self.members.insert(id, member);
        Ok(Opened { index, registry })
    }

    /// Tells a subscriber that has just opened the topic about the publishers that are there.
    pub(crate) fn introduce_publishers(&mut self, to: u64, clients: &mut Clients) -> Result<()> {
        let version = self.registry.publishers();
        for (&id, member) in &self.members {
            if let Some(event) = joined(id, member, Role::Publisher, version)? {
                clients.post(to, event);
                self.rings[usize::from(member.index)].told.insert(to);
            }
        }
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
        for (&other, member) in &self.members {
            if let Some(event) = joined(other, member, Role::Subscriber, subscribers)? {
                clients.post(id, event);
            }
        }
        let version = self.registry.publishers().wrapping_add(1);
        let member = &self.members[&id];
        let told = &mut self.rings[usize::from(member.index)].told;
        if let Some(event) = joined(id, member, Role::Publisher, version)? {
            for (&to, _) in self
                .members
                .iter()
                .filter(|(_, m)| m.role == Role::Subscriber)
            {
                clients.post(to, event.clone());
                told.insert(to);
            }
        }
        self.registry.bump_publishers();
        Ok(subscribers)
    }

    fn join_subscriber(&mut self, id: u64, clients: &mut Clients) -> Result<u32> {
        let version = self.registry.subscribers().wrapping_add(1);
        if let Some(event) = joined(id, &self.members[&id], Role::Subscriber, version)? {
            for to in self.joined_publishers() {
                clients.post(to, event.clone());
            }
        }
        self.registry.bump_subscribers();
        Ok(self.registry.publishers())
    }

    /// A subscriber reads the ring with this index no more.
    pub(crate) fn release(&mut self, id: u64, index: u16) {
        if let Some(ring) = self.rings.get_mut(usize::from(index)) {
            ring.told.remove(&id);
        }
    }

    /// Lets a member go, and tells those whom it concerns if it took part.
    pub(crate) fn leave(&mut self, id: u64, exited: bool, clients: &mut Clients) -> Result<()> {
        let Some(member) = self.members.remove(&id) else {
            return Ok(());
        };
        let took_part = member.segment.is_some();
        let index = member.index;
        match member.role {
            Role::Publisher => {
                let ring = &mut self.rings[usize::from(index)];
                ring.publisher = None;
                if !took_part {
                    return Ok(());
                }
                let version = self.registry.publishers().wrapping_add(1);
                let event = Event::PublisherLeft {
                    version,
                    id,
                    index,
                    exited,
                };
                let event = Outgoing::new(&event, Vec::new())?;
                for (&to, _) in self
                    .members
                    .iter()
                    .filter(|(_, m)| m.role == Role::Subscriber)
                {
                    if clients.post(to, event.clone()) == Posted::Unheard {
                        ring.told.remove(&to);
                    }
                }
                self.registry.bump_publishers();
            }
            Role::Subscriber => {
                for ring in &mut self.rings {
                    ring.told.remove(&id);
                }
                if !took_part {
                    return Ok(());
                }
                let version = self.registry.subscribers().wrapping_add(1);
                let event = Event::SubscriberLeft {
                    version,
                    id,
                    exited,
                };
                let event = Outgoing::new(&event, Vec::new())?;
                for to in self.joined_publishers() {
                    clients.post(to, event.clone());
                }
                self.registry.bump_subscribers();
            }
        }
        Ok(())
    }

    fn joined_publishers(&self) -> impl Iterator<Item = u64> {
        self.members
            .iter()
            .filter(|(_, m)| m.role == Role::Publisher && m.segment.is_some())
            .map(|(&id, _)| id)
    }
}

impl Member {
    pub(crate) fn new(
        role: Role,
        client: ClientName,
        pid: u32,
        pidfd: Rc<OwnedFd>,
        index: u16,
    ) -> Self {
        Self {
            role,
            client,
            pid,
            pidfd,
            index,
            segment: None,
        }
    }

    pub(crate) fn has_joined(&self) -> bool {
        self.segment.is_some()
    }
}

/// The event that tells of a member, if it has this role and takes part.
fn joined(id: u64, member: &Member, role: Role, version: u32) -> Result<Option<Outgoing>> {
    let Some(segment) = member.segment.as_ref().filter(|_| member.role == role) else {
        return Ok(None);
    };
    let (client, pid, index) = (member.client.to_string(), member.pid, member.index);
    let event = match role {
        Role::Publisher => Event::PublisherJoined {
            version,
            index,
            id,
            client,
            pid,
        },
        Role::Subscriber => Event::SubscriberJoined {
            version,
            id,
            client,
            pid,
        },
    };
    let descriptors = vec![Rc::clone(segment), Rc::clone(&member.pidfd)];
    Outgoing::new(&event, descriptors).map(Some)
}
