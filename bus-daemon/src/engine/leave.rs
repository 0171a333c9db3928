//! A member leaves: of its own accord, because its session is over, or because its process is gone.

use bus_core::control::Role;

use super::member::Member;
use super::rings::Ended;
use super::state::Engine;
use super::world::World;
use crate::policy::Quota;
use crate::report::note;

impl<W: World> Engine<W> {
    /// Lets a member go, and tells those that know it.
    pub(crate) fn leave(&mut self, topic: u64, id: u64) {
        let Some(entry) = self.topics.get_mut(&topic) else {
            return;
        };
        let Some(member) = entry.members.remove(&id) else {
            return;
        };
        let counted = self.member_ids.remove(&id);
        debug_assert!(counted, "each member is counted");
        let (role, client, pid) = (member.role, &member.owner.client, member.owner.pid);
        note!(topic = %entry.name, id, %role, %client, pid, "left");
        self.store_stale = true;
        if member.reclaimed {
            self.departed.insert(id);
        }
        let session = member.session;
        for told in member.view.told.values() {
            self.forget_process(session, told.process);
        }
        match role {
            Role::Publisher => self.publisher_left(topic, id, member),
            Role::Subscriber => self.subscriber_left(topic, id, &member),
        }
        self.recharge(topic);
        self.drop_if_empty(topic);
    }

    fn publisher_left(&mut self, topic: u64, id: u64, mut member: Member<W>) {
        let Some(entry) = self.topics.get_mut(&topic) else {
            return;
        };
        let retain = entry.retain();
        let Some(segment) = member.segment.take() else {
            entry.rings.give_back(id);
            return;
        };
        member.charge.release(Quota::Publishers);
        let ended = Ended {
            id,
            owner: member.owner,
            index: member.index,
            segment,
            trust: member.grant.trust,
            charge: member.charge,
            order: 0,
        };
        entry.rings.end(ended, retain);
        #[cfg(feature = "simulator")]
        self.play_ended_untold(topic, id);
        self.announce(topic, id, Role::Publisher);
    }

    fn subscriber_left(&mut self, topic: u64, id: u64, member: &Member<W>) {
        let Some(entry) = self.topics.get_mut(&topic) else {
            return;
        };
        let retain = entry.retain();
        entry.rings.forget_reader(id, retain);
        if member.has_joined() {
            self.announce(topic, id, Role::Subscriber);
        } else if let Some(watch) = member.watch {
            self.give_up_place(topic, watch);
        }
    }

    /// Gives up the place that is kept for a watch, if there is one: its subscriber has joined, or will not come.
    pub(crate) fn give_up_place(&mut self, topic: u64, watch: u64) {
        let Some(entry) = self.topics.get_mut(&topic) else {
            return;
        };
        if entry.places.remove(&watch).is_none() {
            return;
        }
        if let Some(watch) = self.watches.get_mut(&watch) {
            watch.places.remove(&topic);
        }
        let retain = entry.retain();
        entry.rings.forgive(watch, retain);
        self.announce(topic, watch, Role::Subscriber);
        // What was owed may have been all that was left.
        self.drop_if_empty(topic);
    }

    /// Gives up the places of watches that could block publishers of this user, and may not.
    pub(crate) fn forfeit_places(&mut self, topic: u64, publisher: u32) {
        let Some(entry) = self.topics.get_mut(&topic) else {
            return;
        };
        let places = entry.places.iter();
        let blocking = places.filter(|(_, p)| p.owner.uid != publisher && !p.grant.stall);
        let watches: Vec<_> = blocking.map(|(watch, _)| *watch).collect();
        entry.forfeited.extend(&watches);
        for watch in watches {
            self.give_up_place(topic, watch);
        }
    }

    /// An absent member will not come back: those that know it are told.
    pub(crate) fn absent_left(&mut self, topic: u64, id: u64) {
        let Some(entry) = self.topics.get_mut(&topic) else {
            return;
        };
        let Some(absent) = entry.absent.remove(&id) else {
            return;
        };
        note!(topic = %entry.name, id, role = %absent.role, "an absent member is gone");
        match absent.role {
            Role::Publisher => entry.rings.give_back(id),
            Role::Subscriber => {
                let retain = entry.retain();
                entry.rings.forget_reader(id, retain);
            }
        }
        self.announce(topic, id, absent.role);
        self.drop_if_empty(topic);
    }
}
