//! Who is on the other side, told on standard error as they come and go: the user that the broker sees, and how far it is trusted.
//!
//! Promises: who is there at a look, or sent a message, and was not there before, is told of once; so is who was there and is not. Who comes and goes
//! between two looks without a message is not seen. It asks nothing and says nothing unless it was asked for.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bus_client::{Peer, Trust};
use bus_daemon::policy::user_name;

use crate::progress::Progress;

/// Between two looks where messages never end.
const EVERY: Duration = Duration::from_millis(50);

/// What somebody is called before its name.
#[derive(Clone, Copy)]
pub enum Side {
    /// Those who are told of publish.
    Publishers,
    /// Those who are told of subscribe.
    Subscribers,
}

/// Those who are there, as far as was told.
pub struct Peers {
    side: Side,
    /// None where nobody wants to know. By their numbers, which are never used twice.
    told: Option<BTreeMap<u64, String>>,
    due: Instant,
}

impl Peers {
    /// Nobody yet. Says nothing unless it is `wanted`.
    pub fn new(side: Side, wanted: bool) -> Self {
        Self {
            side,
            told: wanted.then(BTreeMap::new),
            due: Instant::now(),
        }
    }

    /// Whether anybody wants to know.
    pub fn wanted(&self) -> bool {
        self.told.is_some()
    }

    /// Whether it is time for another look.
    pub fn due(&self) -> bool {
        self.wanted() && Instant::now() >= self.due
    }

    /// A message came from this one, who may be gone at the next look.
    pub fn met(
        &mut self,
        id: u64,
        topic: Option<&str>,
        peer: impl FnOnce() -> Option<Peer>,
        progress: &Progress,
    ) {
        if let Some(told) = &mut self.told
            && !told.contains_key(&id)
            && let Some(peer) = peer()
        {
            told.insert(id, came(self.side, topic, &peer, progress));
        }
    }

    /// Tells of changes. Of each who is there: the topic, where there may be several, and who it is.
    pub fn look<'a>(
        &mut self,
        there: impl IntoIterator<Item = (Option<&'a str>, &'a Peer)>,
        progress: &Progress,
    ) {
        let Some(told) = &mut self.told else {
            return;
        };
        self.due = Instant::now() + EVERY;
        let mut gone = std::mem::take(told);
        for (topic, peer) in there {
            let known = gone.remove(&peer.id);
            let who = known.unwrap_or_else(|| came(self.side, topic, peer, progress));
            told.insert(peer.id, who);
        }
        for who in gone.into_values() {
            progress.say(&format!("{who} left"));
        }
    }
}

/// Tells that somebody came; what it is called.
fn came(side: Side, topic: Option<&str>, peer: &Peer, progress: &Progress) -> String {
    let who = name(side, topic, peer);
    progress.say(&format!("{who} came{}", how(peer.trust)));
    who
}

fn name(side: Side, topic: Option<&str>, peer: &Peer) -> String {
    let (command, role) = match side {
        Side::Publishers => ("sub", "publisher"),
        Side::Subscribers => ("pub", "subscriber"),
    };
    let topic = topic
        .map(|topic| format!("topic {topic}: "))
        .unwrap_or_default();
    let process = match peer.pid {
        0 => "a process that is not to be seen from here".to_owned(),
        pid => format!("process {pid}"),
    };
    let user = user_name(peer.user);
    format!(
        "bus {command}: {topic}{role} {}, user {user}, {process},",
        peer.client
    )
}

/// How its messages are read.
fn how(trust: Option<Trust>) -> &'static str {
    match trust {
        Some(Trust::InPlace) => "; trusted: read in place",
        Some(Trust::Copy) => "; not trusted: copied, then read",
        None => "",
    }
}
