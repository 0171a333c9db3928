//! The handles on the other side of a topic.

use std::collections::HashMap;
use std::sync::Arc;

use bus_core::control::Trust;

use crate::session::Process;

/// Someone else on the topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// A number that no other handle has or had, also at brokers before and after this one.
    pub id: u64,
    /// The name under which its process connected.
    pub client: String,
    /// Its process; 0 if that is not visible from here.
    pub pid: u32,
    /// The user of its process, as the broker sees it: a number as in `id -u`.
    pub user: u32,
    /// Of a publisher: how its messages are read. [`Trust::InPlace`] for processes of this user, and where the policy says so;
    /// [`Trust::Copy`] for those of other users. None of a subscriber.
    pub trust: Option<Trust>,
}

/// The peers of a handle, each with its process, which the kernel can be asked about.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    known: HashMap<u64, Known>,
    /// Peers that were ever inserted.
    inserted: u64,
}

#[derive(Debug)]
struct Known {
    process: Arc<Process>,
    trust: Option<Trust>,
    order: u64,
}

impl Peers {
    pub(crate) fn insert(&mut self, id: u64, process: Arc<Process>, trust: Option<Trust>) {
        self.inserted += 1;
        let order = self.inserted;
        let known = Known {
            process,
            trust,
            order,
        };
        self.known.insert(id, known);
    }

    pub(crate) fn remove(&mut self, id: u64) {
        self.known.remove(&id);
    }

    /// Orders peers by when the handle was told of them, from 1 up; 0 for one that it does not know. Numbers of peers
    /// do not: each broker begins with another one.
    pub(crate) fn order(&self, id: u64) -> u64 {
        self.known.get(&id).map_or(0, |known| known.order)
    }

    pub(crate) fn get(&self, id: u64) -> Option<Peer> {
        Some(peer(id, self.known.get(&id)?))
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = u64> + '_ {
        self.known.keys().copied()
    }

    pub(crate) fn list(&self) -> Vec<Peer> {
        let peers = self.known.iter();
        peers.map(|(id, known)| peer(*id, known)).collect()
    }

    /// Those whose process is gone.
    pub(crate) fn dead(&self) -> Vec<u64> {
        let dead = self
            .known
            .iter()
            .filter(|(_, known)| !known.process.is_alive());
        dead.map(|(id, _)| *id).collect()
    }
}

fn peer(id: u64, known: &Known) -> Peer {
    let identity = known.process.identity();
    Peer {
        id,
        client: identity.client,
        pid: identity.pid,
        user: identity.user,
        trust: known.trust,
    }
}
