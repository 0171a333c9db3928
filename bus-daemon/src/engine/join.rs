//! A handle joins; registers a doorbell; releases rings; has its peers woken.
//!
//! The order is what makes joining gapless: the members that are concerned are told first, as far as their sockets
//! take it; then the version of their set moves; then the one that asked is answered. A member that sees a version
//! waits until it was told everything up to that version.

use bus_core::control::{Event, Refusal, Role};

use super::admission::{segment_bytes, segment_kind};
use super::errands::Errand;
use super::refused::Refused;
use super::state::Engine;
use super::world::World;
use crate::report::note;

impl<W: World> Engine<W> {
    /// The handle is ready, with the segment that it made.
    pub(crate) fn join(
        &mut self,
        session: u64,
        handle: u32,
        topic: u64,
        id: u64,
        segment: W::Fd,
    ) -> Result<(), Refused> {
        let Some(entry) = self.topics.get(&topic) else {
            return Ok(());
        };
        let name = &entry.name;
        let waits = self.deferred.contains_key(&(session, handle));
        let member = entry.members.get(&id);
        let Some(member) = member.filter(|m| !m.has_joined() && !waits) else {
            return Err(Refused::protocol(format!(
                "this handle has joined topic {name}, asked to join again"
            )));
        };
        let (role, least) = (member.role, segment_bytes(member.role, &entry.settings));
        // What was made before the topic was decided may be longer than it need be, but not than was charged for.
        let bytes = match role {
            Role::Publisher => least..=least,
            Role::Subscriber => least..=member.bytes.max(least),
        };
        let bytes = self
            .world
            .check_segment(&segment, segment_kind(role), bytes)
            .map_err(|e| Refused::new(Refusal::Segment, format!("topic {name}: {e}")))?;
        if let Some(entry) = self.topics.get_mut(&topic)
            && let Some(member) = entry.members.get_mut(&id)
        {
            member.bytes = bytes;
        }
        match self.defer_join(session, handle, topic, role, segment) {
            Some(segment) => self.join_now(topic, id, segment),
            None => Ok(()),
        }
    }

    pub(crate) fn join_now(&mut self, topic: u64, id: u64, segment: W::Fd) -> Result<(), Refused> {
        let Some(entry) = self.topics.get(&topic) else {
            return Ok(());
        };
        let Some(role) = entry.members.get(&id).map(|member| member.role) else {
            return Ok(());
        };
        // While it is no member yet: else it is told that it has joined when one of those leaves, ahead of the others.
        self.fence_absentees(topic, role.other());
        let Some(entry) = self.topics.get_mut(&topic) else {
            return Ok(());
        };
        let Some(member) = entry.members.get_mut(&id) else {
            return Ok(());
        };
        assert!(member.segment.is_none(), "a member joins once");
        member.segment = Some(segment);
        member.since = self.generation;
        member.view.joining = true;
        let (watch, pid) = (member.watch, member.owner.pid);
        let client = member.owner.client.clone();
        note!(topic = %entry.name, id, %role, %client, pid, "joined");
        match role {
            Role::Publisher => self.introduce_publisher(topic, id),
            Role::Subscriber => {}
        }
        self.announce(topic, id, role);
        if let Some(watch) = watch {
            // Only now, so that there is no moment at which publishers know neither.
            self.give_up_place(topic, watch);
        }
        self.queue(topic, &[id]);
        self.drop_if_empty(topic);
        Ok(())
    }

    /// A publisher is to know all subscribers and places; all subscribers read its ring.
    fn introduce_publisher(&mut self, topic: u64, id: u64) {
        let Some(entry) = self.topics.get_mut(&topic) else {
            return;
        };
        let subscribers: Vec<_> = entry
            .of(Role::Subscriber)
            .map(|(id, m)| (id, m.has_joined()))
            .collect();
        let joined = subscribers
            .iter()
            .filter(|(_, joined)| *joined)
            .map(|(id, _)| *id);
        let peers: Vec<_> = joined.chain(entry.places.keys().copied()).collect();
        for (subscriber, _) in &subscribers {
            entry.rings.add_reader(id, *subscriber);
        }
        for watch in entry.places.keys() {
            entry.rings.owe(id, *watch);
        }
        if let Some(member) = entry.members.get_mut(&id) {
            member.view.pending.extend(peers);
        }
    }

    /// Something of a member has changed: those on the other side are told, then the version of its set moves.
    pub(crate) fn announce(&mut self, topic: u64, peer: u64, role: Role) {
        let Some(entry) = self.topics.get_mut(&topic) else {
            return;
        };
        let version = entry.advance(role);
        #[cfg(feature = "simulator")]
        let played = self.play_version_ahead(topic, role, version);
        let Some(entry) = self.topics.get_mut(&topic) else {
            return;
        };
        let concerned = entry.concerned(role);
        for id in &concerned {
            let exists = match role {
                Role::Publisher => entry.rings.reads(peer, *id),
                Role::Subscriber => {
                    entry.places.contains_key(&peer)
                        || entry.members.get(&peer).is_some_and(|m| m.has_joined())
                }
            };
            if let Some(member) = entry.members.get_mut(id) {
                member.view.mark(peer, exists);
            }
        }
        #[cfg(feature = "simulator")]
        self.play_sent_twice(topic, &concerned);
        self.queue(topic, &concerned);
        #[cfg(feature = "simulator")]
        if played {
            return;
        }
        self.publish_version(topic, role, version);
    }

    /// Moves the version of a set, and wakes the members that watch it, however they sleep.
    pub(crate) fn publish_version(&mut self, topic: u64, role: Role, version: u32) {
        let Some(entry) = self.topics.get_mut(&topic) else {
            return;
        };
        debug_assert_eq!(
            entry.version_of(role),
            version,
            "versions move one at a time"
        );
        self.world.set_version(&mut entry.registry, role, version);
        self.ring_parked(topic, role.other());
    }

    /// A member of this user is about to be let in, and to be given descriptors; or to come back,
    /// from a topic that was `foreign` at the last broker. Where it is of a second user, members
    /// sleep on no shared word any more: whoever maps one could move its sleepers away. Root is a
    /// user like any other here.
    pub(crate) fn let_user_in(&mut self, topic: u64, uid: u32, foreign: bool) {
        let Some(entry) = self.topics.get_mut(&topic) else {
            return;
        };
        if !entry.becomes_foreign(uid, foreign) {
            return;
        }
        self.world.set_foreign(&mut entry.registry);
        // Whoever sleeps on shared words now watches one of the versions: it wakes, looks again,
        // and parks.
        for role in [Role::Publisher, Role::Subscriber] {
            self.move_version(topic, role);
        }
    }

    /// Moves the version of a set that has not changed.
    fn move_version(&mut self, topic: u64, role: Role) {
        let Some(entry) = self.topics.get_mut(&topic) else {
            return;
        };
        let version = entry.advance(role);
        let concerned = entry.concerned(role);
        for id in &concerned {
            if let Some(member) = entry.members.get_mut(id) {
                member.view.behind = true;
            }
        }
        self.queue(topic, &concerned);
        self.publish_version(topic, role, version);
    }

    /// Rings the doorbells of all members with this role that may be parked.
    pub(crate) fn ring_parked(&self, topic: u64, role: Role) {
        let Some(entry) = self.topics.get(&topic) else {
            return;
        };
        for (_, member) in entry.of(role) {
            if let Some(doorbell) = &member.doorbell {
                self.world.ring(doorbell);
            }
        }
    }

    /// Lets a member park: from now on it is woken at its doorbell as well.
    pub(crate) fn register_doorbell(
        &mut self,
        topic: u64,
        id: u64,
        doorbell: W::Fd,
    ) -> Result<(), Refused> {
        let Some(entry) = self.topics.get_mut(&topic) else {
            return Ok(());
        };
        let name = entry.name.clone();
        let Some(member) = entry.members.get_mut(&id) else {
            return Ok(());
        };
        if !member.has_joined() || member.doorbell.is_some() {
            return Err(Refused::protocol("RegisterDoorbell comes once, after Join"));
        }
        self.world
            .check_doorbell(&doorbell)
            .map_err(|e| Refused::protocol(format!("topic {name}: {e}")))?;
        member.doorbell = Some(doorbell);
        let (session, handle, role) = (member.session, member.handle, member.role);
        self.announce(topic, id, role);
        let version = self
            .topics
            .get(&topic)
            .map_or(0, |topic| topic.version_of(role.other()));
        self.answer(
            session,
            handle,
            Event::DoorbellRegistered { version },
            Vec::new(),
        );
        Ok(())
    }

    /// A member has found a peer parked and does not know its doorbell.
    pub(crate) fn wake_peers(&mut self, session: u64, topic: u64, id: u64) {
        let member = self.topics.get(&topic).and_then(|t| t.members.get(&id));
        if let Some(role) = member.map(|member| member.role.other()) {
            self.ask_errand(session, Errand::Wake { topic, role });
        }
    }

    /// A subscriber reads a ring no more.
    pub(crate) fn released(&mut self, topic: u64, id: u64, ring: u64) -> Result<(), Refused> {
        let Some(entry) = self.topics.get_mut(&topic) else {
            return Ok(());
        };
        let retain = entry.retain();
        let Some(member) = entry.members.get_mut(&id) else {
            return Ok(());
        };
        if member.role != Role::Subscriber {
            return Err(Refused::protocol("only a subscriber releases rings"));
        }
        let told = member.view.told.remove(&ring);
        member.view.pending.remove(&ring);
        let session = member.session;
        entry.rings.release(ring, id, retain);
        if let Some(told) = told {
            self.forget_process(session, told.process);
        }
        self.drop_if_empty(topic);
        Ok(())
    }

    /// A member's descriptors are lost: it is told of all its peers again.
    pub(crate) fn retell_member(&mut self, session: u64, handle: u32, topic: u64, id: u64) {
        let Some(entry) = self.topics.get_mut(&topic) else {
            return;
        };
        let (settings, decided) = (entry.settings, entry.decided);
        let registry = entry.registry_fd.clone();
        let Some(member) = entry.members.get_mut(&id) else {
            return;
        };
        member.view.retell();
        let (role, index, joined) = (member.role, member.index, member.has_joined());
        let reclaimed = member.reclaimed;
        assert!(
            index < settings.rings(),
            "an index has a cursor in every reader segment"
        );
        if !joined {
            let opened = Event::Opened {
                settings,
                decided,
                index,
                id,
            };
            self.answer(session, handle, opened, vec![registry]);
        } else if reclaimed {
            // Its registry may be among what was lost. A handle that has it ignores this.
            let version = entry.version_of(role.other());
            let reclaimed = Event::Reclaimed { version, topic };
            self.answer(session, handle, reclaimed, vec![registry]);
        }
        // The version moves: a member that asks because it could not tell two registries apart then can.
        self.move_version(topic, role.other());
        self.queue(topic, &[id]);
    }
}
