//! An honest client: a process with one session, and what it does with what the broker tells it.
//!
//! It keeps to `docs/protocol.md`, *Sessions*: it acknowledges descriptors, asks again for those that were lost,
//! presents everything to the next broker, and completes its return when everything is answered.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bus_core::control::{PROTOCOL_VERSIONS, Request, Role, SESSION, Secret, Watched};
use bus_core::memory::segment::Kind;
use bus_core::memory::{reader_bytes, ring_bytes, undecided_reader_bytes};

use super::handle::{Handle, Stage};
use super::topics;
use super::world::{Fd, Host, Life};

/// Handles of a process at a time.
pub(crate) const HANDLES: usize = 6;
/// Descriptors after which a client acknowledges.
pub(super) const ACKNOWLEDGE: u32 = 4;

/// A process.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) life: Rc<Life>,
    pub(super) secret: Secret,
    /// It was stopped by a signal.
    pub(crate) stopped: bool,
    /// Its connection.
    pub(crate) session: Option<u64>,
    /// The broker has let it in.
    pub(crate) welcome: bool,
    pub(super) generation: u64,
    /// The number of the broker, as the script counts them.
    pub(super) broker: u32,
    /// It has told the broker that it comes back with something.
    pub(super) announced: bool,
    /// Handles whose answers it waits for.
    pub(super) awaited: BTreeSet<u32>,
    /// It has not presented everything, or is not answered yet.
    pub(crate) returning: bool,
    pub(crate) handles: [Option<Handle>; HANDLES],
    pub(super) next_handle: u32,
    /// Descriptors that it has taken and not acknowledged.
    pub(super) unacknowledged: u32,
    /// Processes that it was told of, with their pidfds. One that is lost is asked for, and there in time: a client
    /// cannot prove the death of a process to the next broker without it.
    pub(super) processes: BTreeMap<u64, Fd>,
    /// The pidfd of a process was lost.
    pub(super) reintroduce: bool,
}

/// What a client noticed that is against the promises.
pub(crate) type Noticed = Result<(), String>;

impl Client {
    pub(crate) fn new(slot: usize, number: u64, uid: u32) -> Self {
        let secret = Secret(number, number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let life = Life {
            pid: number as u32,
            uid,
            slot,
            alive: Cell::new(true),
        };
        Self {
            life: Rc::new(life),
            secret,
            stopped: false,
            session: None,
            welcome: false,
            generation: 0,
            broker: 0,
            announced: false,
            awaited: BTreeSet::new(),
            returning: false,
            handles: Default::default(),
            next_handle: 1,
            unacknowledged: 0,
            processes: BTreeMap::new(),
            reintroduce: false,
        }
    }

    /// Whether it does anything.
    pub(crate) fn acts(&self) -> bool {
        self.life.alive.get() && !self.stopped
    }

    /// Sends a request, as far as the connection is there.
    pub(super) fn post(
        &self,
        host: &mut Host,
        handle: u32,
        request: Request,
        descriptors: Vec<Fd>,
    ) {
        let socket = self.session.and_then(|n| host.sockets.get_mut(&n));
        if let Some(socket) = socket.filter(|socket| socket.broker) {
            socket.to_broker.push_back((handle, request, descriptors));
        }
    }

    /// Connects to a broker, if it has none.
    pub(crate) fn connect(&mut self, host: &mut Host, broker: u32, room: usize) {
        if self.session.is_some() {
            return;
        }
        self.session = Some(host.connect(&self.life, room));
        self.welcome = false;
        self.broker = broker;
        let homeless = self.handles.iter().flatten();
        let reclaims = homeless.filter(|h| h.is_to_present()).count() as u32;
        self.announced = reclaims > 0;
        self.returning = true;
        self.unacknowledged = 0;
        let hello = Request::Hello {
            versions: PROTOCOL_VERSIONS,
            features: 0,
            client: "simulated".into(),
            secret: self.secret,
            reclaims,
            generation: self.generation,
        };
        self.post(host, SESSION, hello, Vec::new());
    }

    /// Opens a topic in a free slot.
    pub(crate) fn open(
        &mut self,
        host: &mut Host,
        slot: usize,
        topic: usize,
        role: Role,
        history: u32,
        watched: Option<Watched>,
    ) {
        if !self.welcome {
            return;
        }
        let Some(slot) = self.next_slot(slot, |handle| handle.is_none()) else {
            return;
        };
        let number = self.next_handle;
        self.next_handle += 1;
        let mut handle = Handle::new(number, Some(role), topic);
        handle.watch = watched.map(|watched| watched.watch);
        handle.watched = watched.map_or(0, |watched| watched.topic);
        self.handles[slot] = Some(handle);
        let open = Request::Open {
            role,
            topic: topics::name(topic),
            schema: topics::schema(),
            settings: match (role, history) {
                (Role::Subscriber, 2) => topics::wish(topic),
                _ => topics::settings(topic),
            },
            history: history % 2,
            watched,
        };
        self.post(host, number, open, Vec::new());
    }

    /// Begins to watch in a free slot.
    pub(crate) fn watch(&mut self, host: &mut Host, slot: usize) {
        if !self.welcome || self.handles[slot].is_some() {
            return;
        }
        let number = self.next_handle;
        self.next_handle += 1;
        self.handles[slot] = Some(Handle::new(number, None, 0));
        let watch = Request::Watch {
            pattern: topics::PATTERN.into(),
            schema: topics::schema(),
            reclaims: None,
        };
        self.post(host, number, watch, Vec::new());
    }

    /// Joins with a handle that is open.
    pub(crate) fn join(&mut self, host: &mut Host, slot: usize) {
        let opened = |handle: &Handle| handle.stage == Stage::Opened;
        let Some(handle) = self.next(slot, opened) else {
            return;
        };
        let (Stage::Opened, Some(settings)) = (handle.stage, handle.settings) else {
            return;
        };
        handle.stage = Stage::Joining;
        let kind = match handle.role {
            Some(Role::Publisher) => {
                handle.bytes = ring_bytes(&settings);
                Kind::Ring
            }
            _ => {
                handle.bytes = reader_bytes(&settings);
                if !handle.decided {
                    handle.bytes = handle.bytes.max(undecided_reader_bytes());
                }
                Kind::Reader
            }
        };
        let segment = Fd::Segment(kind, handle.bytes);
        let number = handle.number;
        self.post(host, number, Request::Join {}, vec![segment]);
    }

    /// Drops a handle; the handle.
    pub(crate) fn close(&mut self, host: &mut Host, slot: usize) -> Option<Handle> {
        let handle = self.handles[slot].take()?;
        self.awaited.remove(&handle.number);
        if handle.is_on_link() || handle.may_still_read() {
            self.post(host, handle.number, Request::Close {}, Vec::new());
        }
        self.complete(host);
        Some(handle)
    }

    /// Has done with a ring.
    pub(crate) fn release(&mut self, host: &mut Host, slot: usize, ring: u64) {
        let Some(handle) = self.handles[slot].as_mut() else {
            return;
        };
        if handle.release(ring) && handle.is_on_link() {
            let number = handle.number;
            self.post(host, number, Request::Released { ring }, Vec::new());
        }
    }

    /// Of the handles that are as asked for, the first from this slot on.
    pub(super) fn next(
        &mut self,
        slot: usize,
        asked: impl Fn(&Handle) -> bool,
    ) -> Option<&mut Handle> {
        let slot = self.next_slot(slot, |handle| handle.is_some_and(&asked))?;
        self.handles[slot].as_mut()
    }

    /// Of the slots that are as asked for, the first from this one on.
    pub(crate) fn next_slot(
        &self,
        slot: usize,
        asked: impl Fn(Option<&Handle>) -> bool,
    ) -> Option<usize> {
        let slots = (0..HANDLES).map(|more| (slot + more) % HANDLES);
        slots
            .into_iter()
            .find(|slot| asked(self.handles[*slot].as_ref()))
    }

    /// Registers a doorbell, once.
    pub(crate) fn register_doorbell(&mut self, host: &mut Host, slot: usize) {
        let may = |handle: &Handle| {
            handle.stage == Stage::Placed && handle.role.is_some() && !handle.doorbell
        };
        if let Some(handle) = self.next(slot, may) {
            handle.doorbell = true;
            let number = handle.number;
            self.post(
                host,
                number,
                Request::RegisterDoorbell {},
                vec![Fd::Doorbell],
            );
        }
    }

    /// Says that a peer may be parked.
    pub(crate) fn wake(&mut self, host: &mut Host, slot: usize) {
        if let Some(handle) = &self.handles[slot]
            && handle.stage == Stage::Placed
            && handle.role.is_some()
        {
            self.post(host, handle.number, Request::Wake {}, Vec::new());
        }
    }

    /// The process ends, by itself or by a kill.
    pub(crate) fn die(&mut self, host: &mut Host) {
        self.life.alive.set(false);
        if let Some(socket) = self.session.and_then(|n| host.sockets.get_mut(&n)) {
            socket.client = false;
            socket.to_client.clear();
        }
    }
}
