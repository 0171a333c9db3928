//! What the broker has put into each socket, and the promises about that.
//!
//! The books see every request that the broker takes and every message that it sends, in order, and nothing else of
//! it. A promise that the broker's refusal of a handle would excuse is a [`Suspicion`]: whoever can see the engine's
//! queues decides it.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use bus_core::control::{Event, Refusal, Request, Role, SESSION};
use bus_core::memory::reader_bytes;
use bus_core::memory::segment::Kind;

use super::world::{Fd, Socket, Words};

/// Descriptors of a session that are not acknowledged, at most.
const CREDIT: u32 = 8;
/// The same for all sessions of a user together.
const USER_CREDIT: u32 = 64;
/// Descriptors of a message, at most.
const LARGEST: u32 = 2;

/// A promise that did not hold, unless this handle was refused.
#[derive(Debug)]
pub(crate) struct Suspicion {
    pub(crate) session: u64,
    pub(crate) handle: u32,
    pub(crate) what: String,
}

/// The books of all sessions of one broker.
#[derive(Debug, Default)]
pub(crate) struct Books {
    sessions: BTreeMap<u64, SessionBook>,
    /// Handles that have joined or come back, by the numbers of the registries.
    members: BTreeMap<u64, BTreeSet<(u64, u32)>>,
    /// The first promise that did not hold.
    failure: Option<String>,
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
    pub(crate) fenced: BTreeSet<u64>,
}

/// What happened, so that a run shows that it tried something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Processes that were started.
    pub processes: u64,
    /// Brokers that were started.
    pub brokers: u64,
    /// Handles that joined.
    pub joined: u64,
    /// Handles that a later broker took back.
    pub reclaimed: u64,
    /// Handles that a broker refused.
    pub refused: u64,
    /// Of them, those that came back too late.
    pub fenced: u64,
    /// Messages that were published.
    pub published: u64,
    /// Peers that a handle was told of.
    pub introduced: u64,
    /// Rings that were told after their publishers had gone.
    pub ended: u64,
    /// Rings that readers lost.
    pub dropped: u64,
    /// Requests to be told again.
    pub retold: u64,
    /// Topics that watches were told of.
    pub appeared: u64,
    /// Times at which everybody was at rest.
    pub settled: u64,
}

impl Counts {
    /// Adds others.
    pub(crate) fn add(&mut self, other: &Self) {
        for ((_, count), (_, more)) in self.all_mut().into_iter().zip(other.all()) {
            *count += more;
        }
    }

    /// All of them, by their names.
    pub fn all(&self) -> Vec<(&'static str, u64)> {
        let mut copy = *self;
        let all = copy.all_mut().into_iter();
        all.map(|(name, count)| (name, *count)).collect()
    }

    fn all_mut(&mut self) -> [(&'static str, &mut u64); 13] {
        [
            ("processes", &mut self.processes),
            ("brokers", &mut self.brokers),
            ("joined", &mut self.joined),
            ("reclaimed", &mut self.reclaimed),
            ("refused", &mut self.refused),
            ("fenced", &mut self.fenced),
            ("published", &mut self.published),
            ("introduced", &mut self.introduced),
            ("ended", &mut self.ended),
            ("dropped", &mut self.dropped),
            ("retold", &mut self.retold),
            ("appeared", &mut self.appeared),
            ("settled", &mut self.settled),
        ]
    }
}

#[derive(Debug, Default)]
struct SessionBook {
    in_flight: u32,
    /// Processes that it knows; true where the client has asked for its descriptor again.
    processes: BTreeMap<u64, bool>,
    handles: BTreeMap<u32, HandleBook>,
    /// When handles asked for something that may have to wait, the last time.
    asked: BTreeMap<u32, Duration>,
    presented: BTreeMap<u32, Vec<bus_core::control::KnownPeer>>,
    /// Processes that it knows from an earlier broker.
    brought: BTreeSet<u64>,
}

#[derive(Debug)]
struct HandleBook {
    role: Role,
    id: u64,
    index: u16,
    registry: Option<Rc<Words>>,
    lossless: bool,
    reader: u64,
    told: BTreeMap<u64, Told>,
    /// Rings that it has released.
    released: BTreeSet<u64>,
    /// Rings of which it has to be told before its next version.
    owed: BTreeMap<u64, u16>,
    heard: Option<u32>,
    member: bool,
    doorbell: bool,
}

#[derive(Debug)]
struct Told {
    index: u16,
    process: u64,
    left: bool,
    doorbell: bool,
    again: bool,
}

impl HandleBook {
    fn new(role: Role) -> Self {
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
    fn word(&self) -> Option<u32> {
        let registry = self.registry.as_ref()?;
        Some(registry.version_of(self.role.other()))
    }

    fn number(&self) -> u64 {
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
    }

    pub(crate) fn session_ended(&mut self, session: u64) {
        let Some(book) = self.sessions.remove(&session) else {
            return;
        };
        for (handle, book) in book.handles {
            self.not_a_member(book.number(), session, handle);
        }
    }

    fn not_a_member(&mut self, registry: u64, session: u64, handle: u32) {
        if let Some(members) = self.members.get_mut(&registry) {
            members.remove(&(session, handle));
            if members.is_empty() {
                self.members.remove(&registry);
            }
        }
    }

    fn forget_handle(&mut self, session: u64, handle: u32) {
        if let Some(book) = self.sessions.get_mut(&session)
            && let Some(book) = book.handles.remove(&handle)
        {
            self.not_a_member(book.number(), session, handle);
        }
    }

    fn mix(&mut self, value: u64) {
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

    /// A version has moved: all members that are concerned were told, or cannot be told now.
    pub(crate) fn version_moved(
        &mut self,
        sockets: &BTreeMap<u64, Socket>,
        registry: &Rc<Words>,
        of: Role,
        version: u32,
    ) {
        self.mix(u64::from(version));
        let user = |number: &u64| sockets.get(number).map(|socket| socket.life.uid);
        let of_user = |session: &u64| -> u32 {
            let all = self
                .sessions
                .iter()
                .filter(|(n, _)| user(n) == user(session));
            all.map(|(_, book)| book.in_flight).sum()
        };
        let mut untold = Vec::new();
        for &(session, handle) in self.members.get(&registry.number).into_iter().flatten() {
            let Some(of_session) = self.sessions.get(&session) else {
                continue;
            };
            let Some(book) = of_session.handles.get(&handle) else {
                continue;
            };
            // A publisher that has come back may be told later.
            if book.role == of || book.heard == Some(version) || book.heard.is_none() {
                continue;
            }
            let blocked = of_session.in_flight + LARGEST > CREDIT
                || sockets
                    .get(&session)
                    .is_none_or(|socket| socket.refuses || !socket.client);
            if !blocked && of_user(&session) + LARGEST <= USER_CREDIT {
                untold.push((session, handle));
            }
        }
        for (session, handle) in untold {
            let what = format!(
                "the version moved to {version} before handle {handle} of session {session} was told the difference"
            );
            self.suspicions.push(Suspicion {
                session,
                handle,
                what,
            });
        }
    }

    /// The broker has put a message into a socket.
    pub(crate) fn sent(&mut self, session: u64, handle: u32, event: &Event, descriptors: &[Fd]) {
        self.mix(session << 32 | u64::from(handle));
        self.count(event);
        let count = descriptors.len() as u32;
        let book = self.sessions.entry(session).or_default();
        if count > 0 && book.in_flight > 0 && book.in_flight + count > CREDIT {
            let what = format!(
                "session {session} has {} descriptors in flight, and {count} more were sent",
                book.in_flight
            );
            self.fail(what);
            return;
        }
        book.in_flight += count;
        if let Err(what) = self.hear(session, handle, event, descriptors) {
            self.fail(format!(
                "handle {handle} of session {session} was sent {event:?}: {what}"
            ));
        }
    }

    fn count(&mut self, event: &Event) {
        let counts = &mut self.counts;
        let count = match event {
            Event::Joined { .. } => &mut counts.joined,
            Event::Reclaimed { .. } => &mut counts.reclaimed,
            Event::Refused { kind, .. } => {
                counts.fenced += u64::from(*kind == Refusal::Fenced);
                &mut counts.refused
            }
            Event::PublisherJoined { ended, .. } => {
                counts.ended += u64::from(*ended);
                &mut counts.introduced
            }
            Event::SubscriberJoined { .. } => &mut counts.introduced,
            Event::PublisherLeft { dropped: true, .. } => &mut counts.dropped,
            Event::TopicAppeared { .. } => &mut counts.appeared,
            _ => return,
        };
        *count += 1;
    }

    fn hear(
        &mut self,
        session: u64,
        handle: u32,
        event: &Event,
        descriptors: &[Fd],
    ) -> Result<(), String> {
        match event {
            Event::Refused { kind, .. } => {
                self.mix(1);
                if *kind == Refusal::Protocol {
                    return Err("an honest client does not break the protocol".into());
                }
                self.refused.insert((session, handle));
                if let Some(book) = self.sessions.get_mut(&session) {
                    book.asked.remove(&handle);
                    if let Some(member) = book.handles.get(&handle)
                        && *kind == Refusal::Fenced
                        && member.id != 0
                    {
                        self.told_fenced.insert(member.id);
                    }
                }
                self.forget_handle(session, handle);
                return Ok(());
            }
            Event::Process { process, .. } => {
                let book = self.sessions.entry(session).or_default();
                return match book.processes.insert(*process, false) {
                    Some(false) => Err("the process was introduced before".into()),
                    _ => Ok(()),
                };
            }
            Event::ProcessGone { process } => {
                let book = self.sessions.entry(session).or_default();
                let known = |book: &HandleBook| book.told.values().any(|t| t.process == *process);
                let knows = book.handles.iter().filter(|(_, book)| known(book));
                let knows: Vec<_> = knows.map(|(handle, _)| *handle).collect();
                for handle in knows {
                    let what = format!(
                        "process {process} is told to be gone, and handle {handle} of session {session} knows a peer of it"
                    );
                    self.suspect(session, handle, what);
                }
                let book = self.sessions.entry(session).or_default();
                let brought = book.brought.contains(process);
                return match book.processes.remove(process) {
                    Some(_) => Ok(()),
                    None if brought => Ok(()),
                    None => Err("the process was not introduced".into()),
                };
            }
            Event::Watching { .. } => return Ok(()),
            _ => {}
        }
        self.hear_of_member(session, handle, event, descriptors)
    }

    fn hear_of_member(
        &mut self,
        session: u64,
        handle: u32,
        event: &Event,
        descriptors: &[Fd],
    ) -> Result<(), String> {
        let Some(of_session) = self.sessions.get_mut(&session) else {
            return Ok(());
        };
        let (processes, brought) = (&of_session.processes, &of_session.brought);
        let known = |process: &u64| processes.contains_key(process) || brought.contains(process);
        // What is said of a handle that was closed goes nowhere.
        let Some(book) = of_session.handles.get_mut(&handle) else {
            return Ok(());
        };
        let mut mixed = 0;
        match event {
            Event::Opened {
                settings,
                index,
                id,
                ..
            } => {
                (book.id, book.index) = (*id, *index);
                book.lossless = !settings.delivery.overruns();
                book.registry = registry(descriptors);
                if book.role == Role::Publisher {
                    return self.index_given(session, handle);
                }
            }
            Event::PublisherJoined {
                id,
                process,
                index,
                ended,
                ..
            } => {
                mixed = *id;
                if !known(process) {
                    return Err("its process was not introduced".into());
                }
                if book.released.contains(id) {
                    return Err("the subscriber has released this ring".into());
                }
                let other = book
                    .told
                    .iter()
                    .find(|(ring, told)| told.index == *index && *ring != id);
                if let Some((ring, _)) = other {
                    return Err(format!(
                        "its index is that of ring {ring}, which the subscriber has not released"
                    ));
                }
                book.owed.remove(id);
                introduce(book, *id, *process, *index, *ended, descriptors)?;
            }
            Event::SubscriberJoined { id, process, .. } => {
                mixed = *id;
                if !known(process) {
                    return Err("its process was not introduced".into());
                }
                match descriptors.first() {
                    Some(Fd::Segment(Kind::Reader, _)) => {}
                    other => return Err(format!("it comes with {other:?}")),
                }
                introduce(book, *id, *process, 0, false, descriptors)?;
            }
            Event::PublisherLeft { id, dropped } => {
                mixed = *id;
                let Some(told) = book.told.get_mut(id) else {
                    return Err("the subscriber does not know it".into());
                };
                if *dropped {
                    if book.lossless {
                        return Err("the topic loses nothing".into());
                    }
                    book.told.remove(id);
                } else if std::mem::replace(&mut told.left, true) {
                    return Err("the subscriber was told before".into());
                }
                self.told_left.push((*id, *dropped));
            }
            Event::SubscriberLeft { id } => {
                mixed = *id;
                if book.told.remove(id).is_none() {
                    return Err("the publisher does not know it".into());
                }
                self.told_left.push((*id, false));
            }
            Event::PeerDoorbell { id } => {
                mixed = *id;
                match book.told.get_mut(id) {
                    None => return Err("the handle does not know it".into()),
                    Some(told) if told.doorbell && !told.again => {
                        return Err("its doorbell was told before".into());
                    }
                    Some(told) => told.doorbell = true,
                }
            }
            Event::Joined { version } => {
                book.member = true;
                book.heard = Some(*version);
                return self.joined(session, handle);
            }
            Event::Synced { version } => {
                mixed = u64::from(*version);
                book.heard = Some(*version);
                if book.member {
                    self.synced(session, handle);
                }
            }
            Event::Reclaimed { version, .. } => {
                mixed = u64::from(*version);
                let told = self.told_fenced.contains(&book.id) && book.role == Role::Publisher;
                if self.fenced.contains(&book.id) || told {
                    return Err("it was fenced".into());
                }
                book.registry = registry(descriptors);
                book.member = true;
                book.heard = match book.role {
                    // It is told the version when no subscriber is absent.
                    Role::Publisher => None,
                    Role::Subscriber => Some(*version),
                };
                self.came_back(session, handle);
            }
            _ => {}
        }
        self.mix(mixed);
        Ok(())
    }

    /// A publisher has got an index.
    fn index_given(&mut self, session: u64, handle: u32) -> Result<(), String> {
        let Some(own) = self.book(session, handle) else {
            return Ok(());
        };
        let (number, index, lossless) = (own.number(), own.index, own.lossless);
        let members = self.members.get(&number).cloned().unwrap_or_default();
        for (of, other) in members {
            let Some(book) = self.book(of, other) else {
                continue;
            };
            if book.role == Role::Publisher {
                if book.index == index {
                    let what = format!("index {index} is given away, and is of ring {}", book.id);
                    self.suspect(of, other, what);
                }
                continue;
            }
            let told = book.told.iter().find(|(_, told)| told.index == index);
            let owed = book.owed.iter().find(|(_, owed)| **owed == index);
            let told = told.map(|(ring, _)| *ring);
            match told.or(owed.map(|(ring, _)| *ring)) {
                Some(ring) if lossless => {
                    let what = format!(
                        "index {index} is given away, and a subscriber has not released ring {ring}"
                    );
                    self.suspect(of, other, what);
                }
                Some(_) => {
                    if let Some(book) = self.book_mut(of, other) {
                        book.owed.retain(|_, owed| *owed != index);
                    }
                }
                None => {}
            }
        }
        Ok(())
    }

    /// A handle has joined: everybody on the other side knows it, or sees that the version has moved.
    fn joined(&mut self, session: u64, handle: u32) -> Result<(), String> {
        let Some(own) = self.book(session, handle) else {
            return Ok(());
        };
        let (number, id, role, index) = (own.number(), own.id, own.role, own.index);
        self.mix(id);
        let members = self.members.entry(number).or_default();
        members.insert((session, handle));
        for (of, other) in members.clone() {
            let Some(book) = self.book_mut(of, other) else {
                continue;
            };
            if book.role == role || book.told.contains_key(&id) || book.released.contains(&id) {
                continue;
            }
            if role == Role::Publisher {
                book.owed.insert(id, index);
            }
            if book.heard.is_some() && book.heard == book.word() {
                let what = format!(
                    "{role} {id} has joined, and handle {other} of session {of} does not know it and sees no new version"
                );
                self.suspect(of, other, what);
            }
        }
        self.synced(session, handle);
        Ok(())
    }

    /// A handle has come back.
    fn came_back(&mut self, session: u64, handle: u32) {
        let Some(own) = self.book(session, handle) else {
            return;
        };
        let (number, id, role, index) = (own.number(), own.id, own.role, own.index);
        let members = self.members.entry(number).or_default();
        members.insert((session, handle));
        if role == Role::Subscriber {
            return;
        }
        for (of, other) in members.clone() {
            if let Some(book) = self.book_mut(of, other)
                && book.role == Role::Subscriber
                && !book.told.contains_key(&id)
                && !book.released.contains(&id)
            {
                book.owed.insert(id, index);
            }
        }
    }

    /// A handle that sees no newer version knows everybody on the other side.
    fn synced(&mut self, session: u64, handle: u32) {
        let Some(own) = self.book(session, handle) else {
            return;
        };
        if own.heard != own.word() {
            return;
        }
        if let Some((ring, _)) = own.owed.first_key_value() {
            let what = format!("handle {handle} of session {session} was not told of ring {ring}");
            return self.suspect(session, handle, what);
        }
        let members = self.members.get(&own.number()).into_iter().flatten();
        let mut unknown = Vec::new();
        for &(of, other) in members {
            if let Some(book) = self.book(of, other)
                && book.role != own.role
                && !own.told.contains_key(&book.id)
                && !own.released.contains(&book.id)
            {
                let what = format!(
                    "handle {handle} of session {session} is told that it knows everybody, and does not know {} {}",
                    book.role, book.id
                );
                unknown.push((of, other, what));
            }
        }
        for (of, other, what) in unknown {
            self.suspect(of, other, what);
        }
    }

    fn book(&self, session: u64, handle: u32) -> Option<&HandleBook> {
        self.sessions.get(&session)?.handles.get(&handle)
    }

    fn book_mut(&mut self, session: u64, handle: u32) -> Option<&mut HandleBook> {
        self.sessions.get_mut(&session)?.handles.get_mut(&handle)
    }

    fn suspect(&mut self, session: u64, handle: u32, what: String) {
        self.suspicions.push(Suspicion {
            session,
            handle,
            what,
        });
    }
}

fn registry(descriptors: &[Fd]) -> Option<Rc<Words>> {
    match descriptors {
        [Fd::Registry(words)] => Some(Rc::clone(words)),
        _ => None,
    }
}

/// A handle is told of a peer.
fn introduce(
    book: &mut HandleBook,
    id: u64,
    process: u64,
    index: u16,
    left: bool,
    descriptors: &[Fd],
) -> Result<(), String> {
    if descriptors.is_empty() {
        return Err("it comes without its segment".into());
    }
    let doorbell = descriptors.len() > 1;
    let told = Told {
        index,
        process,
        left,
        doorbell,
        again: false,
    };
    match book.told.insert(id, told) {
        Some(before) if !before.again => Err("the handle was told of it before".into()),
        _ => Ok(()),
    }
}
