//! The indices of rings that come back: which ring stays where two claim one index.
//!
//! Promise: a newcomer that has not joined takes nothing from a member that comes back, and no message of a lossless
//! topic is lost without an error.

use bus_core::TopicName;
use bus_core::control::{KnownPeer, Refusal, Role};

use super::reclaim::{Reclaim, fenced};
use super::refused::Refused;
use super::state::Engine;
use super::world::World;

impl<W: World> Engine<W> {
    /// Makes room for the rings that a handle knows, or for its own. A publisher that was opened here and has not joined
    /// gives way. So do rings that are known only to subscribers that missed a newer broker, to those of that broker.
    pub(crate) fn make_room(
        &mut self,
        session: u64,
        topic: u64,
        claim: &Reclaim<W::Fd>,
        peers: &[KnownPeer],
        missed: &[(u64, u32)],
    ) {
        let rings: Vec<_> = match claim.role {
            Role::Publisher => vec![(claim.index, claim.id)],
            Role::Subscriber => peers.iter().map(|peer| (peer.index, peer.id)).collect(),
        };
        let own = self.sessions.get(&session).map_or(0, |s| s.generation);
        for (index, ring) in rings {
            let Some(entry) = self.topics.get_mut(&topic) else {
                return;
            };
            let Some(other) = entry.rings.at(index).filter(|other| *other != ring) else {
                continue;
            };
            // A subscriber that knows the ring under another index contradicts the claim.
            if entry
                .rings
                .index_of(ring)
                .is_some_and(|known| known != index)
            {
                continue;
            }
            let taken = entry.members.get(&other);
            let taken = taken.map(|m| (m.session, m.handle, m.has_joined()));
            match taken {
                Some((session, handle, false)) => {
                    let why = format!(
                        "a member of topic {} came back whose ring has the place that this publisher was to have; open it again",
                        entry.name
                    );
                    self.refuse(session, handle, &Refused::new(Refusal::Broker, why));
                    continue;
                }
                Some((session, handle, true)) if missed.contains(&(session, handle)) => {
                    let refused = fenced(&entry.name);
                    self.refuse(session, handle, &refused);
                }
                Some(_) => continue,
                None => {}
            }
            // Its ring may have gone with it.
            let Some(entry) = self.topics.get_mut(&topic) else {
                return;
            };
            let readers = entry.rings.readers(other);
            let is_older = |reader: &u64| {
                let member = entry.members.get(reader).filter(|member| member.reclaimed);
                let session = member.and_then(|member| self.sessions.get(&member.session));
                session.is_some_and(|session| session.generation < own)
            };
            if !readers.iter().all(is_older) {
                continue;
            }
            if let Some(absent) = entry.absent.get_mut(&other) {
                absent.fenced = true;
            }
            if entry.settings.delivery.overruns() {
                entry.rings.drop_ring(other);
                self.lose_ring(topic, other, &readers);
                continue;
            }
            let refused = fenced(&entry.name);
            entry.rings.give_back(other);
            let readers = readers
                .iter()
                .filter_map(|reader| entry.members.get(reader));
            let readers: Vec<_> = readers.map(|m| (m.session, m.handle)).collect();
            for (session, handle) in readers {
                self.refuse(session, handle, &refused);
            }
        }
    }

    /// Refuses a subscriber whose ring's index is another ring's by now, where that would lose messages.
    pub(crate) fn check_rings(
        &self,
        topic: u64,
        name: &TopicName,
        claim: &Reclaim<W::Fd>,
        peers: &[KnownPeer],
    ) -> Result<(), Refused> {
        let Some(entry) = self.topics.get(&topic) else {
            return Ok(());
        };
        if claim.role == Role::Publisher || entry.settings.delivery.overruns() {
            return Ok(());
        }
        let other = |peer: &KnownPeer| {
            let ring = entry.rings.at(peer.index);
            ring.is_some_and(|ring| ring != peer.id)
        };
        match peers.iter().any(other) {
            true => Err(fenced(name)),
            false => Ok(()),
        }
    }
}
