//! A session's way from a broker that is gone to the next one.
//!
//! ```text
//!  session                                               next broker
//!  Hello with the number of handles           -->
//!                                             <--        Welcome
//!  PresentProcess, each peer process once     -->
//!  PresentPeers and Reclaim, each member      -->
//!  Watch, each watch                          -->
//!                                             <--        Reclaimed + registry | Refused, for each
//!  the registry takes the place of the old one
//!  ReclaimComplete, when all are answered     -->
//! ```
//!
//! Promises: all of it is on its way at once, as far as the socket takes it; the answers are taken meanwhile. A handle
//! that was dropped before it was presented is not presented, which tells the broker that it has departed. Members come
//! before watches, so that a watch is told of topics when this process's own subscribers are in them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use bus_core::control::{Connection, KnownPeer, MAX_PRESENTED, Request, SESSION};

use super::Welcome;
use super::entry::{Entry, Part, Stage};
use super::processes::Process;
use super::state::{Carried, State};
use super::told::Told;

/// Requests that may wait for room before more is presented.
const AHEAD: usize = 64;

/// How far it has come.
pub(super) struct Reclaim {
    /// Handles to be presented.
    to_present: VecDeque<u32>,
    /// Handles whose answer is to come.
    awaited: HashSet<u32>,
    /// The broker was told that there are some, and waits for the end.
    announced: bool,
}

impl State {
    /// Handles that the next broker is to take back.
    pub(super) fn to_reclaim(&self) -> u32 {
        let handles = self.handles.values();
        handles.filter(|entry| entry.is_to_present()).count() as u32
    }

    /// The next broker has let the session in: presents the handles to it. Whether the connection can be waited for.
    pub(super) fn begin_reclaim(
        &mut self,
        connection: Connection,
        welcome: Welcome,
        announced: u32,
    ) -> bool {
        debug_assert!(self.link.is_none() && !self.ready);
        if let Err(error) = self.interest.add(&connection) {
            tracing::warn!(%error, "cannot wait for the broker that is there now");
            return false;
        }
        self.link = Some(Arc::new(connection));
        self.number += 1;
        (self.generation, self.version) = (welcome.generation, welcome.version);
        self.refused = None;
        self.attention = true;
        let homeless = self.handles.iter();
        let homeless = homeless.filter(|(_, entry)| entry.is_to_present());
        let mut to_present: Vec<_> = homeless.map(|(handle, _)| *handle).collect();
        let is_watch = |handle: &u32| self.handles[handle].role().is_none();
        to_present.sort_unstable_by_key(|handle| (is_watch(handle), *handle));
        self.reclaim = Some(Reclaim {
            to_present: to_present.into(),
            awaited: HashSet::new(),
            announced: announced > 0,
        });
        self.present_processes();
        self.present_more();
        self.complete();
        // The thread, which does this, does it again before it waits.
        let _ = self.update_interest();
        self.due.all_handles();
        true
    }

    /// Each process that a handle knows.
    fn present_processes(&mut self) {
        let mut present: HashMap<u64, Arc<Process>> = HashMap::new();
        for entry in self.handles.values().filter(|e| e.is_to_present()) {
            for known in entry.known.values() {
                let process = &known.process;
                present.insert(process.number, Arc::clone(process));
            }
        }
        for process in present.values() {
            if process.pidfd().is_none() {
                tracing::debug!("a process is not presented, for it has no pidfd");
                continue;
            }
            let identity = process.identity();
            let request = Request::PresentProcess {
                process: process.number,
                pid: identity.pid,
                user: identity.user,
                client: identity.client,
            };
            self.post(
                SESSION,
                &request,
                vec![Carried::Process(Arc::clone(process))],
            );
        }
        self.processes.keep_only(present);
    }

    /// Presents handles, as far as the socket takes them.
    pub(super) fn present_more(&mut self) {
        while self.link.is_some()
            && self.unsent() < AHEAD
            && let Some(reclaim) = &mut self.reclaim
            && let Some(handle) = reclaim.to_present.pop_front()
        {
            reclaim.awaited.insert(handle);
            if !self.present(handle) {
                self.answered(handle);
            }
        }
    }

    /// Presents a handle; false where there is nothing to present any more.
    pub(super) fn present(&mut self, handle: u32) -> bool {
        let Some(entry) = self.handles.get_mut(&handle) else {
            return false;
        };
        let lost = entry.may_still_read();
        if !lost && !matches!(entry.stage, Stage::Homeless | Stage::Postponed(_)) {
            return false;
        }
        let Some((request, carried)) = claim(entry) else {
            return false;
        };
        if !lost {
            entry.stage = Stage::Presented;
        }
        entry.presented_doorbell = entry.doorbell.is_some();
        let peers = known_peers(entry);
        if entry.role().is_none() {
            // All topics are told again, by other numbers.
            entry.queue.clear();
            entry.queue.push_back(Told::Anew);
            entry.ring();
        }
        for peers in peers.chunks(MAX_PRESENTED) {
            let peers = peers.to_vec();
            self.post(handle, &Request::PresentPeers { peers }, Vec::new());
        }
        self.post(handle, &request, carried);
        true
    }

    /// The broker has answered what this handle was presented with, or nothing is to be answered any more.
    pub(super) fn answered(&mut self, handle: u32) {
        let unplaced = self.handles.get(&handle).is_some_and(Entry::is_unplaced);
        if let Some(reclaim) = &mut self.reclaim
            && !unplaced
        {
            reclaim.awaited.remove(&handle);
        }
    }

    /// Tells the broker when all handles are answered and have its registries.
    pub(super) fn complete(&mut self) {
        let done =
            |reclaim: &mut Reclaim| reclaim.to_present.is_empty() && reclaim.awaited.is_empty();
        if self.link.is_none() {
            return;
        }
        let Some(reclaim) = self.reclaim.take_if(done) else {
            return;
        };
        self.ready = true;
        self.down = None;
        self.due.all_handles();
        if reclaim.announced {
            self.post(SESSION, &Request::ReclaimComplete {}, Vec::new());
        }
        tracing::debug!("the handles have found a broker again");
    }
}

/// What a handle says to the next broker; none where it never became one that others know.
fn claim(entry: &Entry) -> Option<(Request, Vec<Carried>)> {
    let schema = entry.schema.clone();
    let id = entry.id?;
    match &entry.part {
        Part::Member {
            role,
            topic,
            watched,
            ..
        } => {
            let standing = entry.standing.as_ref()?;
            let request = Request::Reclaim {
                role: *role,
                topic: topic.to_string(),
                schema,
                settings: standing.settings,
                id,
                index: standing.index,
                watch: watched.map(|watched| watched.watch),
                closed: entry.closed,
                since: if entry.may_still_read() {
                    0
                } else {
                    entry.since
                },
                foreign: standing.seat.is_foreign(),
            };
            let mut carried = vec![Carried::Segment(Arc::clone(&standing.segment))];
            let doorbell = entry.doorbell.iter();
            carried.extend(doorbell.map(|doorbell| Carried::Button(Arc::clone(doorbell))));
            Some((request, carried))
        }
        Part::Watch { pattern } => {
            let request = Request::Watch {
                pattern: pattern.to_string(),
                schema,
                reclaims: Some(id),
            };
            Some((request, Vec::new()))
        }
    }
}

/// The peers that a handle knows, but for places that were kept for nobody yet.
fn known_peers(entry: &Entry) -> Vec<KnownPeer> {
    let known = entry.known.iter().filter(|(_, known)| !known.kept);
    let known = known.map(|(id, known)| KnownPeer {
        id: *id,
        process: known.process.number,
        index: known.index,
        left: known.left,
        doorbell: known.doorbell,
    });
    known.collect()
}
