//! Members of an earlier broker's topic come back to this one.
//!
//! Each is told first of the new registry, and then of everybody on the other side who is back or has gone meanwhile, as if they had joined and left one
//! after the other: the versions of these events lead up to the registry's, so that who reads up to that has heard of all of them.

use std::rc::Rc;

use bus_core::control::{Event, Role};
use bus_core::{Error, Result};

use super::Topic;
use crate::client::Clients;
use crate::limits::MAX_PUBLISHERS;
use crate::member::{Member, publisher_joined, subscriber_joined};
use crate::outbox::Outgoing;
use crate::rings::Ended;

/// What an earlier broker knew of the other side, and this one does not.
#[derive(Default)]
pub(crate) struct Earlier {
    /// The rings that a subscriber says it reads: bit `i` for index `i`.
    pub(crate) read: u64,
    /// Publishers who are away: the indices of their rings.
    pub(crate) away: Vec<u16>,
    /// Those who have gone: their numbers, and the indices of their rings.
    pub(crate) gone: Vec<(u64, u16)>,
}

/// An event that is yet to be given the version that it leads to.
type Introduction<'a> = Box<dyn Fn(u32) -> Result<Option<Outgoing>> + 'a>;

impl Topic {
    /// Gives a publisher who is waited for the index that it has.
    pub(crate) fn reserve(&mut self, index: u16, id: u64) {
        self.rings.take(index, id);
    }

    /// The ring of a publisher that ended at an earlier broker is here again. False where its index is another's.
    pub(crate) fn restore(&mut self, id: u64, member: Member, order: u64) -> bool {
        self.rings.restore(id, member, order)
    }

    /// The rings of ended publishers that are there for subscribers to come.
    pub(crate) fn retained(&self) -> impl Iterator<Item = &Ended> {
        self.rings.retained()
    }

    /// Takes a member in who had joined at an earlier broker, with its segment.
    pub(crate) fn resume(
        &mut self,
        id: u64,
        member: Member,
        earlier: &Earlier,
        clients: &mut Clients,
    ) -> Result<()> {
        let rings = match member.role {
            Role::Publisher => {
                self.rings.take(member.index, id);
                0
            }
            Role::Subscriber => self.hold_rings(id, earlier),
        };
        self.introduce_others(id, &member, rings, earlier, clients)?;
        if member.role == Role::Subscriber {
            let live = self.of(Role::Publisher).filter(|(_, m)| m.has_joined());
            let live: Vec<_> = live.map(|(_, m)| m.index).collect();
            live.into_iter()
                .for_each(|index| self.rings.tell(index, id));
        }
        let role = member.role;
        self.members.insert(id, member);
        match role {
            Role::Publisher => self.announce_publisher(id, clients)?,
            Role::Subscriber => self.announce_subscriber(id, clients)?,
        }
        self.bump(role);
        Ok(())
    }

    /// Who resumed is away again: nobody hears of that, and its index stays its own.
    pub(crate) fn withdraw(&mut self, id: u64) {
        self.members.remove(&id);
        self.rings.forget(id);
    }

    /// Somebody who was waited for will not come.
    pub(crate) fn lose(
        &mut self,
        id: u64,
        role: Role,
        index: u16,
        exited: bool,
        clients: &mut Clients,
    ) -> Result<()> {
        match role {
            Role::Publisher => {
                self.rings.give_back(index);
                self.tell_publisher_left(id, index, exited, clients)
            }
            Role::Subscriber => self.tell_subscriber_left(id, exited, clients),
        }
    }

    /// Keeps the indices whose rings a subscriber may still read, or may hear of in what its broker said last.
    fn hold_rings(&mut self, id: u64, earlier: &Earlier) -> u64 {
        let live = self.of(Role::Publisher).map(|(_, m)| m.index);
        let gone = earlier.gone.iter().map(|(_, index)| *index);
        let known = live.chain(gone).chain(earlier.away.iter().copied());
        let rings = known.fold(earlier.read, |rings, index| rings | 1 << (index % 64));
        let rings = rings & ((1 << MAX_PUBLISHERS) - 1);
        for index in (0..MAX_PUBLISHERS).filter(|i| rings >> i & 1 == 1) {
            self.rings.hold(index, id);
        }
        rings
    }

    /// Tells who resumes of its registry, and of the other side.
    fn introduce_others(
        &self,
        id: u64,
        member: &Member,
        rings: u64,
        earlier: &Earlier,
        clients: &mut Clients,
    ) -> Result<()> {
        let others = self.of(member.role.other()).filter(|(_, m)| m.has_joined());
        let mut introductions: Vec<Introduction<'_>> = Vec::new();
        for (other, known) in others {
            let trust = known.trust(member.uid);
            introductions.push(match known.role {
                Role::Publisher => {
                    Box::new(move |version| publisher_joined(other, known, version, false, trust))
                }
                Role::Subscriber => {
                    Box::new(move |version| subscriber_joined(other, known, version, false))
                }
            });
        }
        for &(other, index) in &earlier.gone {
            let role = member.role.other();
            introductions.push(Box::new(move |version| left(other, role, index, version)));
        }
        let last = match member.role {
            Role::Publisher => self.registry.subscribers(),
            Role::Subscriber => self.registry.publishers(),
        };
        let first = last.wrapping_sub(introductions.len() as u32);
        let registry = self.registry.fd().try_clone_to_owned();
        let registry = registry.map_err(|e| Error::io("cannot duplicate a registry", e))?;
        let resumed = Event::Resumed {
            version: first,
            rings,
            topic: self.id,
        };
        clients.post(id, Outgoing::new(&resumed, vec![Rc::new(registry)])?);
        for (introduction, after) in introductions.iter().zip(1_u32..) {
            if let Some(event) = introduction(first.wrapping_add(after))? {
                clients.post(id, event);
            }
        }
        Ok(())
    }
}

/// Somebody left whose joining this broker has not seen.
fn left(id: u64, role: Role, index: u16, version: u32) -> Result<Option<Outgoing>> {
    // Whether its process has ended is not remembered.
    let exited = false;
    let event = match role {
        Role::Publisher => Event::PublisherLeft {
            version,
            id,
            index,
            exited,
        },
        Role::Subscriber => Event::SubscriberLeft {
            version,
            id,
            exited,
        },
    };
    Outgoing::new(&event, Vec::new()).map(Some)
}
