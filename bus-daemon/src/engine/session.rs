//! A session: one process's connection, its handles, and what waits to be sent to it.
//!
//! Promises: what waits is bounded. Answers are bounded by requests, because a session with many unsent answers
//! is not read; differences are computed when the socket takes them. Descriptors in flight are bounded by
//! [`SESSION_CREDIT`] for each session, whoever stops reading.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::rc::Rc;

use bus_core::ClientName;
use bus_core::control::{Credentials, Event, KnownPeer};

use super::member::Owner;
use super::world::World;
use crate::accounts::Charge;
use crate::policy::Subject;

/// Descriptors that a session has not acknowledged, at most. A message that finds none in flight always goes.
pub(crate) const SESSION_CREDIT: u32 = 8;
/// The same for all sessions of a user together.
pub(crate) const USER_CREDIT: u32 = 64;
/// Unsent answers at which a session is not read any more, because its socket is full.
const MAX_ANSWERS: usize = 64;
/// The same for a session that has descriptors to acknowledge: its acknowledgement may be behind as many requests as its
/// socket holds, and is not heard if the session is not read.
const MAX_UNACKNOWLEDGED: usize = 4096;

/// A process that a session knows, and how many peers of it the session's handles know.
pub(crate) type Known<W> = (Option<Rc<Owner<W>>>, u32);

/// One connection.
#[derive(Debug)]
pub(crate) struct Session<W: World> {
    pub(crate) peer: Credentials,
    pub(crate) pidfd: W::Fd,
    /// Its user and groups.
    pub(crate) who: Rc<Subject>,
    pub(crate) charge: Charge,
    /// The process, once it has introduced itself.
    pub(crate) owner: Option<Rc<Owner<W>>>,
    /// Handles, by their numbers.
    pub(crate) handles: BTreeMap<u32, Handle>,
    /// Processes that it was told of, and how many peers of each its handles know. Without an owner those that it
    /// knows from an earlier broker.
    pub(crate) told: BTreeMap<u64, Known<W>>,
    /// The versions of the protocol that it speaks, once it has introduced itself.
    pub(crate) versions: (u16, u16),
    /// It presents what it had at an earlier broker, and is not done.
    pub(crate) returning: bool,
    /// The newest generation that it knew when it came.
    pub(crate) generation: u64,
    /// Handles that it could not reclaim, and that it has not closed.
    pub(crate) unclaimed: BTreeMap<u32, Unclaimed>,
    /// Peers presented for handles that are still to be reclaimed.
    pub(crate) presented: HashMap<u32, Vec<KnownPeer>>,
    pub(crate) outbox: Outbox<W>,
    /// It has ended, and its handles are leaving.
    pub(crate) over: bool,
}

/// A member of an earlier broker that was not taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unclaimed {
    pub(crate) id: u64,
    /// It may not come back.
    pub(crate) fenced: bool,
}

/// What a handle number stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handle {
    /// A member: its topic and its own number.
    Member { topic: u64, id: u64 },
    /// A watch.
    Watch(u64),
    /// It asked for something that waits for absent members.
    Deferred,
    /// A subscriber that was refused, and may still read what it holds: its topic and its own number.
    Orphan { topic: u64, id: u64 },
}

/// What waits to be sent.
#[derive(Debug)]
pub(crate) struct Outbox<W: World> {
    /// In order, ahead of all differences.
    pub(crate) answers: VecDeque<Answer<W>>,
    /// Handles that have a difference to be told.
    pub(crate) dirty: VecDeque<u32>,
    /// Descriptors that were sent and not acknowledged.
    pub(crate) in_flight: u32,
    /// What it waits for, if it does.
    pub(crate) blocked: Option<Blocked>,
    /// It is not read for now.
    pub(crate) deaf: bool,
}

/// What a session waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blocked {
    /// Its socket is full.
    Room,
    /// The kernel lacks something for a while.
    Time,
    /// Its descriptors in flight are at the limit.
    Credit,
}

/// A message that is not a difference.
#[derive(Clone, Debug)]
pub(crate) struct Answer<W: World> {
    pub(crate) handle: u32,
    pub(crate) event: Event,
    pub(crate) descriptors: Vec<W::Fd>,
}

impl<W: World> Default for Outbox<W> {
    fn default() -> Self {
        Self {
            answers: VecDeque::new(),
            dirty: VecDeque::new(),
            in_flight: 0,
            blocked: None,
            deaf: false,
        }
    }
}

impl<W: World> Session<W> {
    pub(crate) fn new(peer: Credentials, pidfd: W::Fd, who: Rc<Subject>, charge: Charge) -> Self {
        Self {
            peer,
            pidfd,
            who,
            charge,
            owner: None,
            handles: BTreeMap::new(),
            told: BTreeMap::new(),
            versions: (0, 0),
            returning: false,
            generation: 0,
            unclaimed: BTreeMap::new(),
            presented: HashMap::new(),
            outbox: Outbox::default(),
            over: false,
        }
    }

    /// The name under which it connected, for the log.
    pub(crate) fn client(&self) -> &str {
        self.owner
            .as_ref()
            .map_or("", |o| ClientName::as_str(&o.client))
    }

    /// Whether so many descriptors may be sent now.
    pub(crate) fn has_credit(&self, descriptors: u32) -> bool {
        let account = self.charge.account();
        descriptors == 0
            || self.outbox.in_flight == 0
            || (self.outbox.in_flight + descriptors <= SESSION_CREDIT
                && account.in_flight() + descriptors <= USER_CREDIT)
    }

    /// Descriptors were sent.
    pub(crate) fn sent(&mut self, descriptors: u32) {
        self.outbox.in_flight += descriptors;
        self.charge.account().add_in_flight(descriptors);
    }

    /// The client has taken descriptors out of its socket. It may name more than were sent: one that had no room for the
    /// descriptors of a message cannot know how many there were. How many it was.
    pub(crate) fn acknowledged(&mut self, descriptors: u32) -> u32 {
        let taken = descriptors.min(self.outbox.in_flight);
        self.outbox.in_flight -= taken;
        self.charge.account().remove_in_flight(taken);
        if self.outbox.blocked == Some(Blocked::Credit) {
            self.outbox.blocked = None;
        }
        taken
    }

    /// This member, if it could not be reclaimed and is not closed.
    pub(crate) fn unclaimed(&self, member: u64) -> Option<Unclaimed> {
        let mut unclaimed = self.unclaimed.values();
        unclaimed.find(|unclaimed| unclaimed.id == member).copied()
    }

    /// Whether to stop reading it, because it does not take its answers.
    pub(crate) fn is_stuffed(&self) -> bool {
        let most = match self.outbox.blocked {
            Some(Blocked::Credit) => MAX_UNACKNOWLEDGED,
            _ => MAX_ANSWERS,
        };
        self.outbox.answers.len() >= most
    }

    /// A handle knows a peer of this process from an earlier broker.
    pub(crate) fn known(&mut self, process: u64, owner: Option<Rc<Owner<W>>>) {
        let (known, peers) = self.told.entry(process).or_insert((None, 0));
        *known = known.take().or(owner);
        *peers += 1;
    }

    /// It has presented everything: it forgets the processes of which no handle knows a peer; which these are.
    pub(crate) fn forget_strangers(&mut self) -> Vec<u64> {
        let told = self.told.iter().filter(|(_, (_, peers))| *peers == 0);
        let strangers: Vec<_> = told.map(|(process, _)| *process).collect();
        for process in &strangers {
            self.told.remove(process);
        }
        strangers
    }

    /// A peer of this process is known to one handle less; whether that was the last.
    pub(crate) fn forget_peer(&mut self, process: u64) -> bool {
        let Some((_, peers)) = self.told.get_mut(&process) else {
            debug_assert!(false, "a peer is told after its process");
            return false;
        };
        debug_assert!(*peers > 0, "a peer is forgotten once");
        *peers = peers.saturating_sub(1);
        // Of a process that comes back, another handle may be about to present a peer of it.
        let last = *peers == 0 && !self.returning;
        if last {
            self.told.remove(&process);
        }
        last
    }
}
