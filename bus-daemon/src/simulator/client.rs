//! An honest client: a process with one session, and what it does with what the broker tells it.
//!
//! It keeps to `docs/protocol.md`, *Sessions*: it acknowledges descriptors, asks again for those that were lost,
//! presents everything to the next broker, and completes its return when everything is answered.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bus_core::control::{
    Event, KnownPeer, PROTOCOL_VERSIONS, Request, Role, SESSION, Secret, Watched,
};
use bus_core::memory::segment::Kind;
use bus_core::memory::{reader_bytes, ring_bytes, undecided_reader_bytes};

use super::handle::{Handle, Stage};
use super::topics;
use super::world::{Fd, Host, Life};

/// Handles of a process at a time.
pub(crate) const HANDLES: usize = 6;
/// Descriptors after which a client acknowledges.
const ACKNOWLEDGE: u32 = 4;

/// A process.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) life: Rc<Life>,
    secret: Secret,
    /// It was stopped by a signal.
    pub(crate) stopped: bool,
    /// Its connection.
    pub(crate) session: Option<u64>,
    /// The broker has let it in.
    pub(crate) welcome: bool,
    generation: u64,
    /// The number of the broker, as the script counts them.
    broker: u32,
    /// It has told the broker that it comes back with something.
    announced: bool,
    /// Handles whose answers it waits for.
    awaited: BTreeSet<u32>,
    /// It has not presented everything, or is not answered yet.
    pub(crate) returning: bool,
    pub(crate) handles: [Option<Handle>; HANDLES],
    next_handle: u32,
    /// Descriptors that it has taken and not acknowledged.
    unacknowledged: u32,
    /// Processes that it was told of, with their pidfds. One that is lost is asked for, and there in time: a client
    /// cannot prove the death of a process to the next broker without it.
    processes: BTreeMap<u64, Fd>,
    /// The pidfd of a process was lost.
    reintroduce: bool,
}

/// What a client noticed that is against the promises.
pub(crate) type Noticed = Result<(), String>;

impl Client {
    pub(crate) fn new(slot: usize, number: u64, uid: u32) -> Self {
        let secret = Secret(number, number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let life = Life {
            process: secret.process(),
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
    fn post(&self, host: &mut Host, handle: u32, request: Request, descriptors: Vec<Fd>) {
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

    /// Reads up to `most` messages; without `acknowledges`, says nothing of their descriptors until it reads again. Those
    /// of the message with the number `lost` do not arrive.
    ///
    /// # Errors
    /// What it noticed that is against the promises.
    pub(crate) fn read(
        &mut self,
        host: &mut Host,
        most: usize,
        acknowledges: bool,
        lost: Option<usize>,
    ) -> Noticed {
        for number in 0..most {
            let Some(session) = self.session else {
                return Ok(());
            };
            let Some(socket) = host.sockets.get_mut(&session) else {
                return Ok(());
            };
            let Some((handle, event, mut descriptors)) = socket.to_client.pop_front() else {
                if !socket.broker {
                    self.lose_broker(host);
                }
                break;
            };
            self.unacknowledged += descriptors.len() as u32;
            let bereft = lost == Some(number) && !descriptors.is_empty();
            if bereft && handle == SESSION {
                self.reintroduce = true;
            } else if bereft {
                descriptors.clear();
            }
            self.dispatch(host, handle, event, descriptors)?;
            if acknowledges && self.unacknowledged >= ACKNOWLEDGE {
                self.acknowledge(host);
            }
        }
        if acknowledges {
            self.acknowledge(host);
        }
        self.complete(host);
        Ok(())
    }

    fn acknowledge(&mut self, host: &mut Host) {
        let descriptors = std::mem::take(&mut self.unacknowledged);
        if descriptors > 0 {
            let received = Request::Received { descriptors };
            self.post(host, SESSION, received, Vec::new());
        }
    }

    /// The connection is closed, and everything that the broker said was read.
    fn lose_broker(&mut self, host: &mut Host) {
        if let Some(session) = self.session.take() {
            host.sockets.remove(&session);
        }
        self.welcome = false;
        self.awaited.clear();
        self.returning = false;
        self.reintroduce = false;
        for slot in &mut self.handles {
            if let Some(handle) = slot
                && !handle.lose_broker()
            {
                *slot = None;
            }
        }
    }

    fn dispatch(
        &mut self,
        host: &mut Host,
        handle: u32,
        event: Event,
        mut descriptors: Vec<Fd>,
    ) -> Noticed {
        if handle != SESSION {
            return self.dispatch_handle(host, handle, event, descriptors);
        }
        match event {
            Event::Welcome { generation, .. } => {
                self.generation = generation;
                self.welcome = true;
                self.present_all(host);
            }
            Event::Generation { generation } => self.generation = generation,
            Event::Process { process, .. } => {
                if let Some(pidfd) = descriptors.pop() {
                    self.processes.insert(process, pidfd);
                }
            }
            Event::ProcessGone { process } => {
                self.processes.remove(&process);
            }
            Event::Refused { .. } => {
                // The session ends; the client tries again later.
                if let Some(socket) = self.session.and_then(|n| host.sockets.get_mut(&n)) {
                    socket.client = false;
                    socket.broker = false;
                    socket.to_broker.clear();
                }
            }
            event => return Err(format!("{event:?} is nothing for a session")),
        }
        Ok(())
    }

    fn dispatch_handle(
        &mut self,
        host: &mut Host,
        number: u32,
        event: Event,
        descriptors: Vec<Fd>,
    ) -> Noticed {
        let broker = self.broker;
        let own = self.handles.iter_mut().flatten();
        let Some(handle) = own.into_iter().find(|handle| handle.number == number) else {
            return Ok(());
        };
        let heard = handle.hear(event, descriptors, broker)?;
        if heard.answered {
            self.awaited.remove(&number);
        }
        for (handle, request) in heard.requests {
            self.post(host, handle, request, Vec::new());
        }
        if let Some(gone) = heard.gone {
            let own = self.handles.iter_mut().flatten();
            let of = own.filter(|handle| handle.watch.is_some() && handle.watched == gone);
            of.for_each(|handle| handle.closed = true);
        }
        if let Some(appeared) = heard.appeared {
            self.appeared(host, number, appeared);
        }
        Ok(())
    }

    /// A watch was told of a topic: subscribes to it, or declines where there is no room for another handle.
    fn appeared(&mut self, host: &mut Host, number: u32, (topic, id): (usize, Option<u64>)) {
        let own = self.handles.iter().flatten();
        let Some(watch) = own.into_iter().find(|h| h.number == number).map(|h| h.id) else {
            return;
        };
        let Some(id) = id else {
            return;
        };
        let free = self.handles.iter().position(Option::is_none);
        // Until the watch knows its number, it cannot open anything.
        let Some(slot) = free.filter(|_| watch != 0) else {
            return self.post(host, number, Request::Decline { topic: id }, Vec::new());
        };
        let watched = Watched { watch, topic: id };
        self.open(host, slot, topic, Role::Subscriber, 0, Some(watched));
    }

    /// Presents everything to a new broker.
    fn present_all(&mut self, host: &mut Host) {
        let homeless = self.handles.iter().flatten();
        let homeless = homeless.filter(|handle| handle.is_to_present());
        let known = homeless.flat_map(|handle| handle.known.values().map(|k| k.process));
        let known: BTreeSet<_> = known.collect();
        self.processes.retain(|process, _| known.contains(process));
        for (&process, pidfd) in &self.processes {
            if let Fd::Pidfd(life, _) = pidfd {
                let present = Request::PresentProcess {
                    process,
                    pid: 0,
                    user: 0,
                    client: "simulated".into(),
                };
                let pidfd = Fd::Pidfd(Rc::clone(life), 0);
                self.post(host, SESSION, present, vec![pidfd]);
            }
        }
        let mut order: Vec<_> = (0..HANDLES).collect();
        // Members come before watches.
        order.sort_by_key(|slot| {
            self.handles[*slot]
                .as_ref()
                .is_some_and(|h| h.role.is_none())
        });
        for slot in order {
            self.present(host, slot);
        }
    }

    /// Presents a handle to the broker of now.
    fn present(&mut self, host: &mut Host, slot: usize) {
        let Some(handle) = self.handles[slot].as_mut() else {
            return;
        };
        let lost = handle.may_still_read();
        if !lost && !matches!(handle.stage, Stage::Homeless | Stage::Postponed) {
            return;
        }
        if !lost {
            handle.stage = Stage::Presented;
        }
        let (number, role) = (handle.number, handle.role);
        let Some(role) = role else {
            let watch = Request::Watch {
                pattern: topics::PATTERN.into(),
                schema: topics::schema(),
                reclaims: Some(handle.id),
            };
            self.awaited.insert(number);
            return self.post(host, number, watch, Vec::new());
        };
        let peers = handle.known.iter().filter(|(_, known)| !known.kept);
        let peers = peers.map(|(&id, known)| KnownPeer {
            id,
            process: known.process,
            index: known.index,
            left: known.left,
            doorbell: known.doorbell,
        });
        let peers: Vec<_> = peers.collect();
        let (Some(settings), true) = (handle.settings, handle.id != 0) else {
            return;
        };
        let kind = match role {
            Role::Publisher => Kind::Ring,
            Role::Subscriber => Kind::Reader,
        };
        let segment = Fd::Segment(kind, handle.bytes);
        let reclaim = Request::Reclaim {
            role,
            topic: topics::name(handle.topic),
            schema: topics::schema(),
            settings,
            id: handle.id,
            index: handle.index,
            watch: handle.watch,
            closed: handle.closed,
        };
        let mut descriptors = vec![segment];
        if handle.doorbell {
            descriptors.push(Fd::Doorbell);
        }
        self.awaited.insert(number);
        if !peers.is_empty() {
            let peers = Request::PresentPeers { peers };
            self.post(host, number, peers, Vec::new());
        }
        self.post(host, number, reclaim, descriptors);
    }

    /// Tells the broker when everything is answered.
    fn complete(&mut self, host: &mut Host) {
        if !self.welcome || !self.returning || !self.awaited.is_empty() {
            return;
        }
        self.returning = false;
        if self.announced {
            self.post(host, SESSION, Request::ReclaimComplete {}, Vec::new());
        }
    }

    /// Does what it does every now and then: asks again for descriptors that were lost, and presents handles again.
    pub(crate) fn look_around(&mut self, host: &mut Host) {
        if !self.welcome {
            return;
        }
        if std::mem::take(&mut self.reintroduce) {
            self.post(host, SESSION, Request::Retell {}, Vec::new());
        }
        let mut requests = Vec::new();
        for handle in self.handles.iter_mut().flatten() {
            if handle.asks_again() {
                requests.push(handle.number);
            }
        }
        for handle in requests {
            self.post(host, handle, Request::Retell {}, Vec::new());
        }
        for slot in 0..HANDLES {
            if self.handles[slot].as_ref().map(|h| h.stage) == Some(Stage::Postponed) {
                self.present(host, slot);
            }
        }
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
    fn next(&mut self, slot: usize, asked: impl Fn(&Handle) -> bool) -> Option<&mut Handle> {
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
