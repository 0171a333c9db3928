//! What the broker has put into each socket, and the promises about that.
//!
//! The books see every request that the broker takes and every message that it sends, in order, and nothing else of
//! it. A promise that the broker's refusal of a handle would excuse is a [`Suspicion`]: whoever can see the engine's
//! queues decides it.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use bus_core::control::{Request, Role, SESSION};
use bus_core::memory::reader_bytes;

use super::counts::Counts;
use super::world::Words;

/// A promise that did not hold, unless this handle was refused.
#[derive(Debug)]
pub(crate) struct Suspicion {
    pub(crate) session: u64,
    pub(crate) handle: u32,
    /// Another handle whose refusal excuses it.
    pub(crate) or: (u64, u32),
    pub(crate) what: String,
}

/// The books of all sessions of one broker.
#[derive(Debug, Default)]
pub(crate) struct Books {
    pub(super) sessions: BTreeMap<u64, SessionBook>,
    /// Handles that have joined or come back, by the numbers of the registries.
    pub(super) members: BTreeMap<u64, BTreeSet<(u64, u32)>>,
    /// The first promise that did not hold.
    pub(super) failure: Option<String>,
    pub(crate) suspicions: Vec<Suspicion>,
    /// Peers that somebody was told to have left.
    pub(crate) told_left: Vec<(u64, bool)>,
    /// Handles of the clients' slots that were refused.
    pub(crate) refused: BTreeSet<(u64, u32)>,
    /// A number that depends on everything that was sent.
    pub(crate) trace: u64,
    pub(crate) counts: Counts,
    /// Members that were told to be fenced.
    pub(crate) told_fenced: BTreeSet<u64>,
    /// Members that the broker of now has fenced. A later one fences them where it meets those that they have missed.
    /// With the topic: once that has closed, nobody is left that one of them has missed.
    pub(crate) fenced: BTreeMap<u64, u64>,
    /// The broker of now stops, and waits for no credit.
    pub(crate) stopping: bool,
}

#[derive(Debug, Default)]
pub(super) struct SessionBook {
    pub(super) in_flight: u32,
    /// Processes that it knows; true where the client has asked for its descriptor again.
    pub(super) processes: BTreeMap<u64, bool>,
    pub(super) handles: BTreeMap<u32, HandleBook>,
    /// When handles asked for something that may have to wait, the last time.
    pub(super) asked: BTreeMap<u32, Duration>,
    pub(super) presented: BTreeMap<u32, Vec<bus_core::control::KnownPeer>>,
    /// Processes that it knows from an earlier broker.
    pub(super) brought: BTreeSet<u64>,
}

#[derive(Debug)]
pub(super) struct HandleBook {
    pub(super) role: Role,
    pub(super) id: u64,
    pub(super) index: u16,
    pub(super) registry: Option<Rc<Words>>,
    pub(super) lossless: bool,
    pub(super) reader: u64,
    pub(super) told: BTreeMap<u64, Told>,
    /// Rings that it has released.
    pub(super) released: BTreeSet<u64>,
    /// Rings of which it has to be told before its next version.
    pub(super) owed: BTreeMap<u64, u16>,
    pub(super) heard: Option<u32>,
    pub(super) member: bool,
    pub(super) doorbell: bool,
}

#[derive(Debug)]
pub(super) struct Told {
    pub(super) index: u16,
    pub(super) process: u64,
    pub(super) left: bool,
    pub(super) doorbell: bool,
    pub(super) again: bool,
}

impl HandleBook {
    pub(super) fn new(role: Role) -> Self {
        Self {
            role,
            id: 0,
            index: 0,
            registry: None,
            lossless: true,
            reader: 0,
            told: BTreeMap::new(),
            released: BTreeSet::new(),
            owed: BTreeMap::new(),
            heard: None,
            member: false,
            doorbell: false,
        }
    }

    /// The version of the set that it watches.
    pub(super) fn word(&self) -> Option<u32> {
        let registry = self.registry.as_ref()?;
        Some(registry.version_of(self.role.other()))
    }

    pub(super) fn number(&self) -> u64 {
        self.registry.as_ref().map_or(0, |words| words.number)
    }
}

impl Books {
    /// A promise did not hold.
    pub(crate) fn fail(&mut self, what: impl Into<String>) {
        if self.failure.is_none() {
            self.failure = Some(what.into());
        }
    }

    /// The first promise that did not hold.
    pub(crate) fn failure(&self) -> Option<String> {
        self.failure.clone()
    }

    /// A broker has gone, and all sessions with it.
    pub(crate) fn broker_ended(&mut self) {
        self.sessions.clear();
        self.members.clear();
        self.suspicions.clear();
        self.told_left.clear();
        self.fenced.clear();
        self.stopping = false;
    }

    pub(crate) fn session_ended(&mut self, session: u64) {
        let Some(book) = self.sessions.remove(&session) else {
            return;
        };
        for (handle, book) in book.handles {
            self.not_a_member(book.number(), session, handle);
        }
    }

    pub(super) fn not_a_member(&mut self, registry: u64, session: u64, handle: u32) {
        if let Some(members) = self.members.get_mut(&registry) {
            members.remove(&(session, handle));
            if members.is_empty() {
                self.members.remove(&registry);
            }
        }
    }

    /// A publisher is refused that has come back, and of which nobody was told.
    pub(super) fn not_owed(&mut self, session: u64, handle: u32) {
        let Some(own) = self.book(session, handle) else {
            return;
        };
        let (id, number) = (own.id, own.number());
        if own.role == Role::Subscriber || own.heard.is_some() {
            return;
        }
        for (of, other) in self.members.get(&number).cloned().unwrap_or_default() {
            if let Some(book) = self.book_mut(of, other) {
                book.owed.remove(&id);
            }
        }
    }

    pub(super) fn forget_handle(&mut self, session: u64, handle: u32) {
        if let Some(book) = self.sessions.get_mut(&session)
            && let Some(book) = book.handles.remove(&handle)
        {
            self.not_a_member(book.number(), session, handle);
        }
    }

    pub(super) fn mix(&mut self, value: u64) {
        self.trace = (self.trace ^ value)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(29);
    }

    /// How long ago a handle asked for something that may have to wait.
    pub(crate) fn waited(&self, now: Duration, session: u64, handle: u32) -> Option<Duration> {
        let asked = self.sessions.get(&session)?.asked.get(&handle)?;
        Some(now - *asked)
    }

    /// The broker takes a request.
    pub(crate) fn asked(&mut self, now: Duration, session: u64, handle: u32, request: &Request) {
        self.mix(session << 32 | u64::from(handle));
        self.counts.retold += u64::from(matches!(request, Request::Retell {}));
        let book = self.sessions.entry(session).or_default();
        match request {
            Request::Open { role, .. } => {
                book.handles.insert(handle, HandleBook::new(*role));
                book.asked.insert(handle, now);
            }
            Request::Join {} | Request::Watch { reclaims: None, .. } => {
                book.asked.insert(handle, now);
            }
            Request::Close {} => {
                book.asked.remove(&handle);
                self.forget_handle(session, handle);
            }
            Request::Released { ring } => {
                if let Some(book) = book.handles.get_mut(&handle) {
                    book.told.remove(ring);
                    book.owed.remove(ring);
                    book.released.insert(*ring);
                }
            }
            Request::RegisterDoorbell {} => {
                if let Some(book) = book.handles.get_mut(&handle) {
                    book.doorbell = true;
                }
            }
            Request::Received { descriptors } => {
                book.in_flight = book.in_flight.saturating_sub(*descriptors);
            }
            Request::Retell {} if handle == SESSION => {
                book.processes.values_mut().for_each(|again| *again = true);
            }
            Request::Retell {} => {
                if let Some(book) = book.handles.get_mut(&handle) {
                    book.told.values_mut().for_each(|told| told.again = true);
                }
            }
            Request::PresentPeers { peers } => {
                let presented = book.presented.entry(handle).or_default();
                presented.extend(peers.iter().copied());
            }
            Request::Reclaim {
                role,
                id,
                index,
                settings,
                ..
            } => {
                let mut member = HandleBook::new(*role);
                member.id = *id;
                member.index = *index;
                member.lossless = !settings.delivery.overruns();
                member.reader = reader_bytes(settings);
                for peer in book.presented.remove(&handle).unwrap_or_default() {
                    let told = Told {
                        index: peer.index,
                        process: peer.process,
                        left: peer.left,
                        doorbell: peer.doorbell,
                        again: false,
                    };
                    member.told.insert(peer.id, told);
                    book.brought.insert(peer.process);
                }
                book.handles.insert(handle, member);
            }
            _ => {}
        }
    }

    pub(super) fn book(&self, session: u64, handle: u32) -> Option<&HandleBook> {
        self.sessions.get(&session)?.handles.get(&handle)
    }

    pub(super) fn book_mut(&mut self, session: u64, handle: u32) -> Option<&mut HandleBook> {
        self.sessions.get_mut(&session)?.handles.get_mut(&handle)
    }

    pub(super) fn suspect(&mut self, session: u64, handle: u32, what: String) {
        self.suspect_either((session, handle), (session, handle), what);
    }

    pub(super) fn suspect_either(
        &mut self,
        (session, handle): (u64, u32),
        or: (u64, u32),
        what: String,
    ) {
        self.suspicions.push(Suspicion {
            session,
            handle,
            or,
            what,
        });
    }
}
