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
pub(crate) struct Peers(HashMap<u64, (Arc<Process>, Option<Trust>)>);

impl Peers {
    pub(crate) fn insert(&mut self, id: u64, process: Arc<Process>, trust: Option<Trust>) {
        self.0.insert(id, (process, trust));
    }

    pub(crate) fn remove(&mut self, id: u64) {
        self.0.remove(&id);
    }

    pub(crate) fn get(&self, id: u64) -> Option<Peer> {
        let (process, trust) = self.0.get(&id)?;
        Some(peer(id, process, *trust))
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.keys().copied()
    }

    pub(crate) fn list(&self) -> Vec<Peer> {
        let peers = self.0.iter();
        let peers = peers.map(|(id, (process, trust))| peer(*id, process, *trust));
        peers.collect()
    }

    /// Those whose process is gone.
    pub(crate) fn dead(&self) -> Vec<u64> {
        let dead = self
            .0
            .iter()
            .filter(|(_, (process, _))| !process.is_alive());
        dead.map(|(id, _)| *id).collect()
    }
}

fn peer(id: u64, process: &Process, trust: Option<Trust>) -> Peer {
    let identity = process.identity();
    Peer {
        id,
        client: identity.client,
        pid: identity.pid,
        user: identity.user,
        trust,
    }
}
