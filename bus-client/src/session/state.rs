//! What a session holds behind its lock: the connection, the handles, and what is not sent yet.
//!
//! Promises: nothing here waits. Whoever has the lock reads the socket and gives every handle what it is told, and
//! acknowledges the descriptors that it took. What the socket has no room for is sent later, in order. When the
//! connection ends, everything that was said over it has been heard.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bus_core::backend::doorbell::Doorbell;
use bus_core::control::{
    Connection, Event, Frame, MAX_DESCRIPTORS, Message, Packet, Request, SESSION, Sent,
};
use bus_core::fork::Unshared;

use super::Welcome;
use super::entry::{Entry, Heard, RETELL, Stage};
use super::held::Due;
use super::interest::Interest;
use super::processes::{Identity, Process, Processes};
use super::reclaim::Reclaim;
use super::reserve::Reserve;
use super::told::Told;

/// Descriptors that are taken before they are acknowledged.
const CREDIT: u32 = 4;
/// The most descriptors that come with something about a peer.
const OF_A_PEER: u32 = 2;
/// While a handle has no broker, it looks around this often.
pub(super) const PATROL: Duration = Duration::from_millis(100);
/// Until the next try where the kernel lacks something for now.
const LATER: Duration = Duration::from_millis(5);

/// A descriptor that goes with a request, open until that is sent.
#[derive(Clone, Debug)]
pub(super) enum Carried {
    Segment(Arc<Unshared<OwnedFd>>),
    Button(Arc<Doorbell>),
    Process(Arc<Process>),
}

impl Carried {
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Segment(segment) => Some(segment.as_fd()),
            Self::Button(doorbell) => Some(doorbell.button()),
            Self::Process(process) => process.pidfd(),
        }
    }
}

/// A request that is not sent yet.
struct Parcel {
    packet: Packet,
    carried: Vec<Carried>,
}

/// All of it.
pub(super) struct State {
    /// The connection to the broker, while there is one.
    pub(super) link: Option<Arc<Connection>>,
    /// What the session's thread waits for.
    pub(super) interest: Interest,
    /// Threads that open handles, and read the socket themselves.
    pub(super) opening: u32,
    /// One of them waits at the socket.
    pub(super) led: bool,
    /// Which connection it is; counts from 0.
    pub(super) number: u64,
    /// The handles have come to this broker: others may be opened.
    pub(super) ready: bool,
    /// Since when there is no broker.
    pub(super) down: Option<Instant>,
    pub(super) handles: HashMap<u32, Entry>,
    last: u32,
    pub(super) processes: Processes,
    pub(super) generation: u64,
    /// The version of the protocol that is spoken with the broker.
    pub(super) version: u16,
    outgoing: VecDeque<Parcel>,
    /// The kernel takes nothing for want of something that nobody tells of.
    later: bool,
    /// Descriptors taken and not acknowledged.
    taken: u32,
    reserve: Reserve,
    pub(super) reclaim: Option<Reclaim>,
    /// When the broker is next asked to introduce all processes again.
    reintroduce: Option<Instant>,
    /// Something has begun to wait for a time to pass.
    pub(super) attention: bool,
    /// When the first thing that waits for a time is due.
    next_look: Option<Instant>,
    /// Those that are to be woken when the lock is free.
    pub(super) due: Due,
    /// When those without a broker were last told to look around.
    rung: Instant,
    /// Threads that wait for a broker.
    pub(super) waiting: u32,
    /// Why the last broker refused the session, if it did.
    pub(super) refused: Option<String>,
    /// The session is over.
    pub(super) closing: bool,
}

impl State {
    /// The connection to the broker, while there is one.
    pub(super) fn link(&self) -> Option<Arc<Connection>> {
        self.link.clone()
    }

    /// With a first connection, in which `interest` is already.
    pub(super) fn new(connection: Connection, welcome: Welcome, interest: Interest) -> Self {
        let mut reserve = Reserve::default();
        reserve.refill();
        Self {
            link: Some(Arc::new(connection)),
            interest,
            opening: 0,
            led: false,
            number: 0,
            ready: true,
            down: None,
            handles: HashMap::new(),
            last: SESSION,
            processes: Processes::default(),
            generation: welcome.generation,
            version: welcome.version,
            outgoing: VecDeque::new(),
            later: false,
            taken: 0,
            reserve,
            reclaim: None,
            reintroduce: None,
            attention: true,
            next_look: None,
            due: Due::default(),
            rung: Instant::now(),
            waiting: 0,
            refused: None,
            closing: false,
        }
    }

    /// A number for a new handle, never used before.
    pub(super) fn add(&mut self, entry: Entry) -> u32 {
        debug_assert!(self.ready, "handles are opened at a broker");
        self.last = self.last.checked_add(1).unwrap_or_else(|| {
            unreachable!("four thousand million handles were opened");
        });
        self.handles.insert(self.last, entry);
        self.last
    }

    /// Sends a request now, or as soon as there is room. Without a broker it is dropped: the next one is told what counts.
    pub(super) fn post(&mut self, handle: u32, request: &Request, carried: Vec<Carried>) {
        if self.link.is_none() {
            return;
        }
        match request.pack(handle) {
            Ok(packet) => self.outgoing.push_back(Parcel { packet, carried }),
            Err(error) => {
                tracing::error!(%error, "a request is not sent");
                debug_assert!(false, "requests fit a packet");
            }
        }
        self.flush();
    }

    /// Sends what is not sent yet, as far as there is room.
    pub(super) fn flush(&mut self) {
        let Some(link) = self.link.clone() else {
            return self.outgoing.clear();
        };
        self.later = false;
        while let Some(parcel) = self.outgoing.front() {
            let carried = parcel.carried.iter().map_while(Carried::descriptor);
            let descriptors: Vec<_> = carried.collect();
            match link.try_send_packet(&parcel.packet, &descriptors) {
                Ok(Sent::Yes) => drop(self.outgoing.pop_front()),
                Ok(Sent::Full) => return,
                Ok(Sent::Later) => {
                    self.later = true;
                    return;
                }
                // What the broker said last is still to be read.
                Err(bus_core::Error::Closed) => return self.outgoing.clear(),
                Err(error) => {
                    tracing::warn!(%error, "a request is not sent");
                    self.outgoing.pop_front();
                }
            }
        }
    }

    /// Requests that wait for room.
    pub(super) fn unsent(&self) -> usize {
        self.outgoing.len()
    }

    /// Whether requests wait for the socket to turn writable.
    pub(super) fn is_full(&self) -> bool {
        !self.outgoing.is_empty() && !self.later
    }

    /// Whether requests wait because too many descriptors of this user are on their way, or for memory.
    pub(super) fn is_stuck(&self) -> bool {
        self.later
    }

    /// Tells the session's thread what to wait for; false where the kernel refuses that for now.
    pub(super) fn update_interest(&mut self) -> bool {
        let full = self.is_full();
        match &self.link {
            Some(link) => self.interest.set(link, self.opening == 0, full),
            None => true,
        }
    }

    /// A thread begins to open a handle, and reads the socket itself meanwhile.
    pub(super) fn begin_opening(&mut self) {
        self.opening += 1;
        // Where that fails, the thread is woken for nothing.
        let _ = self.update_interest();
    }

    /// It has opened the handle, or failed to.
    pub(super) fn end_opening(&mut self) {
        debug_assert!(self.opening > 0, "each is counted once");
        self.opening -= 1;
        if self.opening == 0 {
            self.acknowledge();
        }
        // The thread sends the rest, and tries again what the kernel has refused.
        self.due.thread |= self.unsent() > 0;
        self.due.thread |= !self.update_interest();
    }

    /// Takes up to `most` messages out of the socket; how many there were.
    pub(super) fn receive(&mut self, most: usize) -> usize {
        let mut count = 0;
        while count < most
            && let Some(link) = &self.link
        {
            match link.try_recv_bereft::<Event>() {
                Ok(Some((frame, bereft))) => {
                    self.dispatch(frame, bereft);
                    count += 1;
                }
                Ok(None) => break,
                Err(bus_core::Error::Closed) => self.lose("it has closed the connection"),
                Err(error) => {
                    let mut why = error.to_string();
                    if let bus_core::Error::UnknownMessage { .. } = error {
                        why += &format!("; the broker was to speak version {}", self.version);
                    }
                    tracing::warn!(
                        why,
                        "the broker is not understood; those who have met go on"
                    );
                    self.refused = Some(why.clone());
                    self.lose(&why);
                }
            }
        }
        // Who opens a handle says it once, at the end.
        if self.opening == 0 {
            self.acknowledge();
        }
        if count > 0 {
            self.complete();
            self.due.moved = true;
        }
        count
    }

    /// The session is over: its thread is to end.
    pub(super) fn end(&mut self) {
        self.closing = true;
        self.due.thread = true;
    }

    /// Tells the broker how many descriptors were taken.
    fn acknowledge(&mut self) {
        let descriptors = std::mem::take(&mut self.taken);
        if descriptors > 0 {
            self.post(SESSION, &Request::Received { descriptors }, Vec::new());
        }
    }

    /// Gives a message to whom it is for.
    pub(super) fn dispatch(&mut self, frame: Frame<Option<Event>>, bereft: bool) {
        let Frame {
            handle,
            message,
            descriptors,
        } = frame;
        self.taken += if bereft {
            at_most(message.as_ref())
        } else {
            descriptors.len() as u32
        };
        if bereft {
            self.reserve.give_up();
            self.attention = true;
        }
        let Some(message) = message else {
            // Of a later version, and ignored but for its descriptors.
            return self.acknowledge_some();
        };
        if handle == SESSION {
            self.hear(message, descriptors, bereft);
        } else if self.handles.contains_key(&handle) {
            self.hear_of(handle, message, descriptors, bereft);
        }
        // What is for a handle that was closed is dropped, with its descriptors.
        self.acknowledge_some();
    }

    fn acknowledge_some(&mut self) {
        if self.taken >= CREDIT {
            self.acknowledge();
        }
    }

    /// What is about the session.
    fn hear(&mut self, event: Event, mut descriptors: Vec<OwnedFd>, bereft: bool) {
        match event {
            Event::Process {
                process,
                pid,
                user,
                client,
            } => {
                let identity = Identity { pid, user, client };
                self.processes
                    .introduce(process, identity, descriptors.pop());
                if bereft {
                    self.reintroduce = Some(Instant::now());
                }
            }
            Event::ProcessGone { process } => self.processes.forget(process),
            Event::Generation { generation } => self.generation = generation,
            Event::Refused { why, .. } => {
                tracing::warn!(why, "the broker ends the session");
                self.refused = Some(why);
                if let Some(link) = &self.link {
                    link.shut_down();
                }
            }
            #[cfg(feature = "next-build")]
            Event::Remark {} | Event::Demand {} => {
                bus_core::control::next::hear(event == Event::Demand {});
            }
            event => tracing::debug!(?event, "this is nothing for a session"),
        }
    }

    /// What is about a handle.
    fn hear_of(&mut self, handle: u32, event: Event, descriptors: Vec<OwnedFd>, bereft: bool) {
        let Some(entry) = self.handles.get_mut(&handle) else {
            return;
        };
        if let (Event::TopicGone { id }, Some(watch)) = (&event, entry.id) {
            // Whether the watch has read it or not: the next broker puts its subscriber into no later topic.
            let (topic, handles) = (*id, self.handles.values_mut());
            let of_it = handles.filter(|entry| entry.is_of(watch, topic));
            of_it.for_each(|entry| entry.closed = true);
        }
        let Some(entry) = self.handles.get_mut(&handle) else {
            return;
        };
        let heard = match event {
            Event::Refused { kind, why } => match entry.stage {
                Stage::Opening => {
                    entry.queue.push_back(Told::Refused { why });
                    entry.stage = Stage::Broken;
                    Heard::Fine
                }
                Stage::Presented if kind.may_pass() => {
                    tracing::warn!(why, "the next broker does not take a handle yet");
                    entry.stage = Stage::Postponed(Instant::now() + PATROL);
                    self.attention = true;
                    Heard::Answered
                }
                Stage::Over => Heard::Answered,
                Stage::Presented => {
                    entry.end(format!(
                        "its broker was restarted and does not take it back: {why}"
                    ));
                    self.due.all_handles();
                    Heard::Answered
                }
                _ => {
                    entry.end(format!("its broker cut it off: {why}"));
                    self.due.all_handles();
                    Heard::Fine
                }
            },
            Event::Reclaimed { version, topic } => {
                if entry.stage != Stage::Presented {
                    // It is of no use to its program any more, and closed when that drops it.
                    tracing::debug!("a handle is taken back that is not to go on");
                    return self.answered(handle);
                }
                match { descriptors }.pop() {
                    Some(registry) => {
                        let placed = entry.reclaimed(version, topic, registry);
                        self.placed(handle, placed);
                        self.answered(handle);
                        return;
                    }
                    None => entry.lack_registry(),
                }
            }
            event => {
                entry.generation = self.generation;
                entry.hear(event, descriptors, bereft, &mut self.processes)
            }
        };
        match heard {
            Heard::Fine => {}
            Heard::Bereft => {
                entry.retell.get_or_insert(Instant::now());
                self.attention = true;
            }
            Heard::Released(ring) => self.release(handle, ring),
            Heard::Answered => self.answered(handle),
        }
    }

    /// What became of a registry that was to take the place of the old one.
    fn placed(&mut self, handle: u32, placed: bus_core::Result<bool>) {
        let Some(entry) = self.handles.get_mut(&handle) else {
            return;
        };
        self.due.all_handles();
        match placed {
            // The handle would not notice: the broker moves the version.
            Ok(true) => {
                entry.note_retell(Instant::now());
                self.post(handle, &Request::Retell {}, Vec::new());
            }
            Ok(false) => {}
            Err(error @ bus_core::Error::Segment { .. }) => entry.end(error.to_string()),
            Err(error) => {
                tracing::warn!(%error, "cannot follow to the next broker yet");
                self.attention = true;
            }
        }
    }

    /// The subscriber has done with this ring.
    pub(super) fn release(&mut self, handle: u32, ring: u64) {
        if let Some(entry) = self.handles.get_mut(&handle) {
            entry.release(ring);
            if entry.is_on_link() {
                self.post(handle, &Request::Released { ring }, Vec::new());
            }
        }
    }

    /// The connection is of no use any more. All that was said over it was heard.
    fn lose(&mut self, why: &str) {
        let Some(link) = self.link.take() else {
            return;
        };
        tracing::debug!(why, "a broker is gone; established traffic goes on");
        self.interest.remove(&link);
        link.shut_down();
        self.ready = false;
        self.down.get_or_insert_with(Instant::now);
        self.outgoing.clear();
        self.later = false;
        self.taken = 0;
        self.reclaim = None;
        self.reintroduce = None;
        let refused = self.refused.as_deref();
        let handles = self.handles.values_mut();
        handles.for_each(|entry| entry.lose_broker(refused));
        self.look_around(Instant::now());
        (self.due.moved, self.due.thread) = (true, true);
        debug_assert!(
            self.handles
                .values()
                .all(|entry| entry.stage != Stage::Opening)
        );
    }

    /// Those without a broker look around: asleep or parked, they are woken.
    fn look_around(&mut self, now: Instant) {
        self.rung = now;
        self.attention = true;
        let without = self.handles.values().filter(|entry| entry.is_waiting());
        without.for_each(Entry::ring);
        self.due.news = true;
    }

    /// Does what is due by now; when the next thing is, if anything.
    pub(super) fn attend(&mut self, now: Instant) -> Option<Instant> {
        self.flush();
        self.present_more();
        let next = self.attend_to_times(now);
        self.complete();
        next
    }

    fn attend_to_times(&mut self, now: Instant) -> Option<Instant> {
        let is_early = |at: Instant| now < at;
        if !self.attention && self.next_look.is_none_or(is_early) {
            let later = self.later.then(|| now + LATER);
            return self.next_look.into_iter().chain(later).min();
        }
        let mut next: Option<Instant> = None;
        let mut until = |at: Instant| next = Some(next.map_or(at, |next| next.min(at)));
        let mut waits = self.link.is_none();
        let (mut ask, mut again, mut unplaced) = (Vec::new(), Vec::new(), Vec::new());
        for (handle, entry) in &self.handles {
            waits |= entry.is_waiting();
            match entry.retell {
                Some(at) if at <= now => ask.push(*handle),
                Some(at) => until(at),
                None => {}
            }
            match entry.stage {
                Stage::Postponed(at) if at <= now => again.push(*handle),
                Stage::Postponed(at) => until(at),
                _ => {}
            }
            if entry.is_unplaced() {
                unplaced.push(*handle);
            }
        }
        if waits {
            if now.saturating_duration_since(self.rung) >= PATROL {
                for handle in unplaced {
                    let placed = self.handles.get_mut(&handle).map(Entry::place);
                    self.placed(handle, placed.unwrap_or(Ok(false)));
                    self.answered(handle);
                }
                self.look_around(now);
            }
            until(self.rung + PATROL);
        }
        for handle in ask {
            if let Some(entry) = self.handles.get_mut(&handle) {
                entry.note_retell(now);
                self.post(handle, &Request::Retell {}, Vec::new());
            }
            until(now + RETELL);
        }
        for handle in again {
            self.present(handle);
        }
        match self.reintroduce {
            Some(at) if at <= now && self.processes.lacks_any() => {
                self.post(SESSION, &Request::Retell {}, Vec::new());
                self.reintroduce = Some(now + RETELL);
                until(now + RETELL);
            }
            Some(at) if at > now => until(at),
            _ => self.reintroduce = None,
        }
        let lacks = |entry: &Entry| entry.retell.is_some();
        if !self.reserve.is_full() {
            if self.reintroduce.is_none() && !self.handles.values().any(lacks) {
                self.reserve.refill();
            }
            if !self.reserve.is_full() {
                until(now + PATROL);
            }
        }
        if self.later {
            until(now + LATER);
        }
        (self.attention, self.next_look) = (false, next);
        next
    }
}

/// As many descriptors as this message has at most.
fn at_most(event: Option<&Event>) -> u32 {
    match event {
        None => MAX_DESCRIPTORS as u32,
        Some(Event::PublisherJoined { .. } | Event::SubscriberJoined { .. }) => OF_A_PEER,
        Some(_) => 1,
    }
}

const _: () = assert!(CREDIT as usize <= MAX_DESCRIPTORS);
