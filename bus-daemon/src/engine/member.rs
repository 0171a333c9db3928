//! A member of a topic: a handle that has the topic open. And its owner: the process.
//!
//! ```text
//!  Opening --Join--> Joined --Close, hang-up, death--> gone
//!                      ^
//!   Reclaim -----------+
//! ```
//! A member is `Joined` exactly if it has a segment.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use bus_core::control::{Role, Trust};
use bus_core::{ClientName, Settings};

use super::world::World;
use crate::accounts::Charge;

/// The process of a session, as others are told of it.
#[derive(Debug)]
pub(crate) struct Owner<W: World> {
    /// Its public number; see [`Secret::process`](bus_core::control::Secret::process).
    pub(crate) process: u64,
    pub(crate) pid: u32,
    pub(crate) uid: u32,
    pub(crate) client: ClientName,
    pub(crate) pidfd: W::Fd,
}

/// What a user may do on a topic, decided when its handle opens it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    /// How subscribers of other users read what it publishes.
    pub(crate) trust: Trust,
    /// Its subscribers may block publishers of other users.
    pub(crate) stall: bool,
    /// It may publish.
    pub(crate) publishes: bool,
}

/// A handle that has a topic open.
#[derive(Debug)]
pub(crate) struct Member<W: World> {
    pub(crate) session: u64,
    /// Its number in the session.
    pub(crate) handle: u32,
    pub(crate) role: Role,
    pub(crate) owner: Rc<Owner<W>>,
    /// Of a publisher: the index of its ring.
    pub(crate) index: u16,
    /// Its ring or its reader segment, once it has joined.
    pub(crate) segment: Option<W::Fd>,
    /// Bytes of its segment: once it has joined those that it has, before the most that it may have.
    pub(crate) bytes: u64,
    /// The sending end of its doorbell, once it may park.
    pub(crate) doorbell: Option<W::Fd>,
    /// Of a subscriber: the watch that it is opened for.
    pub(crate) watch: Option<u64>,
    /// Of a subscriber: what it asked for, which the first publisher may decide otherwise.
    pub(crate) asked: Asked,
    pub(crate) grant: Grant,
    /// What its user is charged for it.
    pub(crate) charge: Charge,
    /// It was a member at an earlier broker.
    pub(crate) reclaimed: bool,
    /// The generation of the broker at which a subscriber has joined, or which was the last before this one to tell a
    /// publisher of everybody.
    pub(crate) since: u64,
    pub(crate) view: View,
}

/// What a subscriber asked of a topic that no publisher has decided yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    pub(crate) settings: Settings,
    pub(crate) history: u32,
}

/// What a member was told of the other side, and what is still to be told.
#[derive(Debug, Default)]
pub(crate) struct View {
    /// The peers that it was told of: publishers until their rings are released, subscribers until they leave.
    pub(crate) told: BTreeMap<u64, Told>,
    /// Peers of which something may be to be told.
    pub(crate) pending: BTreeSet<u64>,
    /// It is to be told the version, when nothing is pending.
    pub(crate) behind: bool,
    /// It is to be told that it has joined, when nothing is pending.
    pub(crate) joining: bool,
    /// It is to be told the settings, ahead of everything else.
    pub(crate) decided: bool,
    /// Until when it is not told the version, because peers may be absent that it does not know.
    pub(crate) hold: Option<Duration>,
    /// Peers are to be told again when nothing is pending.
    pub(crate) again: bool,
    /// It is in its session's queue.
    pub(crate) queued: bool,
}

/// A peer that a member was told of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told {
    /// The peer's process.
    pub(crate) process: u64,
    /// Its descriptors have arrived, as far as is known.
    pub(crate) sent: bool,
    /// It is to be told again, after those that are to be told now.
    pub(crate) again: bool,
    /// Its doorbell was told as well.
    pub(crate) doorbell: bool,
    /// It was told to have left; its ring is not released yet.
    pub(crate) left: bool,
}

impl<W: World> Member<W> {
    pub(crate) fn has_joined(&self) -> bool {
        self.segment.is_some()
    }

    /// How a subscriber of this user is to read this publisher.
    pub(crate) fn trust(&self, subscriber: u32) -> Trust {
        if self.owner.uid == subscriber {
            Trust::InPlace
        } else {
            self.grant.trust
        }
    }

    /// Of a subscriber: whether it could block publishers of this user where nothing is lost, and may not.
    pub(crate) fn stalls(&self, publisher: u32) -> bool {
        self.owner.uid != publisher && !self.grant.stall
    }
}

impl View {
    /// Something of a peer has changed; `exists` says whether the peer is to be known now.
    pub(crate) fn mark(&mut self, peer: u64, exists: bool) {
        self.behind = true;
        if exists || self.told.contains_key(&peer) {
            self.pending.insert(peer);
        } else {
            // It came and went, and this member need not hear of it: what is pending stays bounded.
            self.pending.remove(&peer);
        }
    }

    /// The descriptors of what it was told are lost: all of it is told again. A member that asks for that before it was
    /// told of all peers again is told of the rest first: else one that asks often would never hear of the last ones.
    pub(crate) fn retell(&mut self) {
        self.behind = true;
        self.again = true;
        self.told
            .values_mut()
            .for_each(|told| told.again = told.sent);
        let unsent = |peer: &u64| self.told.get(peer).is_some_and(|told| !told.sent);
        if !self.pending.iter().any(unsent) {
            self.tell_again();
        }
    }

    /// The difference was told. Whether there is more: peers of which the member has asked again meanwhile.
    pub(crate) fn tell_again(&mut self) -> bool {
        if !std::mem::take(&mut self.again) {
            return false;
        }
        let again = self.told.iter_mut().filter(|(_, told)| told.again);
        let mut any = false;
        for (peer, told) in again {
            (told.sent, told.doorbell, told.again) = (false, false, false);
            self.pending.insert(*peer);
            any = true;
        }
        any
    }
}
