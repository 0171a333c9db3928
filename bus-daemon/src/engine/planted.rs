//! Faults that the engine plays for the simulator, which has to find each of them. They are not there without it.

use bus_core::control::Role;

use super::rings::Rings;
use super::state::Engine;
use super::world::World;
use crate::simulator::Planted;

/// After how long absent members are taken for gone.
const GONE: std::time::Duration = std::time::Duration::from_secs(1);

impl<W: World> Engine<W> {
    /// [`Planted::EndedRingUntold`].
    pub(crate) fn play_ended_untold(&mut self, topic: u64, ring: u64) {
        let Some(entry) = self.topics.get_mut(&topic) else {
            return;
        };
        if self.planted != Some(Planted::EndedRingUntold) {
            return;
        }
        let retain = entry.retain();
        let subscribers = entry.of(Role::Subscriber);
        let untold = subscribers.filter(|(_, member)| !member.view.told.contains_key(&ring));
        let untold: Vec<_> = untold.map(|(id, _)| id).collect();
        for subscriber in untold {
            entry.rings.release(ring, subscriber, retain);
        }
    }

    /// [`Planted::VersionAhead`]. Whether it was played.
    pub(crate) fn play_version_ahead(&mut self, topic: u64, role: Role, version: u32) -> bool {
        let plays = self.planted == Some(Planted::VersionAhead);
        if plays {
            self.publish_version(topic, role, version);
        }
        plays
    }

    /// [`Planted::AbsentGoneByTime`].
    pub(crate) fn play_absent_gone(&mut self) {
        if self.planted != Some(Planted::AbsentGoneByTime) || self.now < GONE {
            return;
        }
        let absent = |(number, topic): (&u64, &super::topic::Topic<W>)| {
            let ids: Vec<_> = topic.absent.keys().map(|id| (*number, *id)).collect();
            ids
        };
        let all: Vec<_> = self.topics.iter().flat_map(absent).collect();
        for (topic, id) in all {
            self.absent_left(topic, id);
        }
    }

    /// [`Planted::SentTwice`].
    pub(crate) fn play_sent_twice(&mut self, topic: u64, members: &[u64]) {
        let Some(entry) = self.topics.get_mut(&topic) else {
            return;
        };
        if self.planted != Some(Planted::SentTwice) {
            return;
        }
        for id in members {
            if let Some(member) = entry.members.get_mut(id)
                && let Some((peer, told)) = member.view.told.iter_mut().next()
            {
                told.sent = false;
                member.view.pending.insert(*peer);
            }
        }
    }
}

impl<W: World> Rings<W> {
    /// [`Planted::IndexReusedEarly`].
    pub(crate) fn play_reused_early(&mut self) {
        if let Some(ring) = self.any_ended() {
            self.drop_ring(ring);
        }
    }
}
