//! A publisher or subscriber that speaks the protocol by hand.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex};

use bus_core::TopicSettings;
use bus_core::backend::doorbell::Doorbell;
use bus_core::control::{Event, KnownPeer, Refusal, Request, Role};
use bus_core::memory::registry;
use bus_core::memory::segment::{self, Kind, Mapping};
use bus_core::memory::{reader_bytes, ring_bytes, undecided_reader_bytes};
use bus_core::schema::Schema;

use super::session::{Session, Told};
use super::{deadline, open_request};

/// One publisher or subscriber.
pub struct Handle {
    pub session: Arc<Session>,
    pub number: u32,
    pub id: u64,
    pub index: u16,
    pub settings: TopicSettings,
    /// A publisher had decided the settings when it opened the topic.
    pub decided: bool,
    pub role: Role,
    pub topic: String,
    /// Version at joining, or at the last reclaim.
    pub version: u32,
    registry: OwnedFd,
    segment: Option<(OwnedFd, Mapping)>,
    doorbell: Option<Doorbell>,
    /// Events that came between Opened and Joined, without the versions.
    pub early: Vec<Event>,
    known: Mutex<BTreeMap<u64, KnownPeer>>,
    /// The generation of the broker at which it has joined, or which was the last to tell it of everybody.
    since: Mutex<u64>,
}

impl Drop for Handle {
    /// The last handle of a session just hangs up.
    fn drop(&mut self) {
        if Arc::strong_count(&self.session) > 1 {
            let _ = (self.session.connection).send(self.number, &Request::Close {}, &[]);
        }
    }
}

impl Handle {
    /// Opens a topic on a session of its own.
    pub fn open(path: &Path, role: Role, topic: &str) -> Self {
        Self::ask(path, &open_request(role, topic))
    }

    /// The same with a request of the test's own.
    pub fn ask(path: &Path, open: &Request) -> Self {
        Self::ask_on(&Session::connect(path), open)
    }

    /// Opens a topic on a session that is there.
    pub fn open_on(session: &Arc<Session>, role: Role, topic: &str) -> Self {
        Self::ask_on(session, &open_request(role, topic))
    }

    pub fn ask_on(session: &Arc<Session>, open: &Request) -> Self {
        Self::try_ask_on(session, open).unwrap()
    }

    /// As [`ask_on`](Self::ask_on); the refusal, if there is one.
    pub fn try_ask_on(session: &Arc<Session>, open: &Request) -> Result<Self, (Refusal, String)> {
        let number = session.ask(open);
        Self::opened(session, number, open)
    }

    /// The handle of an opening that was asked for.
    pub fn opened(
        session: &Arc<Session>,
        number: u32,
        open: &Request,
    ) -> Result<Self, (Refusal, String)> {
        let Request::Open { role, topic, .. } = open else {
            panic!("{open:?} opens nothing");
        };
        let (event, mut descriptors) = session.next(number);
        let (settings, decided, index, id) = match event {
            Event::Opened {
                settings,
                decided,
                index,
                id,
            } => (settings, decided, index, id),
            Event::Refused { kind, why } => return Err((kind, why)),
            other => panic!("not opened but {other:?}"),
        };
        assert_eq!(descriptors.len(), 1);
        Ok(Self {
            session: Arc::clone(session),
            number,
            id,
            index,
            settings,
            decided,
            role: *role,
            topic: topic.clone(),
            version: 0,
            registry: descriptors.remove(0),
            segment: None,
            doorbell: None,
            early: Vec::new(),
            known: Mutex::default(),
            since: Mutex::default(),
        })
    }

    pub fn joined(self) -> Self {
        self.try_joined().unwrap()
    }

    /// As [`joined`](Self::joined); the refusal, if there is one.
    pub fn try_joined(mut self) -> Result<Self, (Refusal, String)> {
        self.join();
        self.await_joined()?;
        Ok(self)
    }

    /// Asks to join.
    pub fn join(&mut self) {
        let (kind, bytes) = match (self.role, self.decided) {
            (Role::Publisher, _) => (Kind::Ring, ring_bytes(&self.settings)),
            (Role::Subscriber, true) => (Kind::Reader, reader_bytes(&self.settings)),
            (Role::Subscriber, false) => {
                let bytes = reader_bytes(&self.settings).max(undecided_reader_bytes());
                (Kind::Reader, bytes)
            }
        };
        self.join_with(kind, bytes);
    }

    /// The same with a segment of so many bytes.
    pub fn join_with(&mut self, kind: Kind, bytes: u64) {
        let segment = segment::create(kind, bytes).unwrap();
        let descriptors = [segment.0.as_fd()];
        (self.session).send(self.number, &Request::Join {}, &descriptors);
        self.segment = Some(segment);
    }

    /// Reads until it has joined.
    pub fn await_joined(&mut self) -> Result<(), (Refusal, String)> {
        loop {
            match self.next() {
                Event::Joined { version } => {
                    self.version = version;
                    return Ok(());
                }
                Event::Refused { kind, why } => return Err((kind, why)),
                Event::Synced { .. } => {}
                event => self.early.push(event),
            }
        }
    }

    /// Its ring or reader segment.
    pub fn segment(&self) -> &OwnedFd {
        &self.segment.as_ref().unwrap().0
    }

    /// The next event, with its descriptors.
    pub fn next_told(&self) -> Told {
        let told = self.session.next(self.number);
        self.learn(&told);
        told
    }

    /// The next event.
    pub fn next(&self) -> Event {
        self.next_told().0
    }

    /// The next event that says more than a version, with its descriptors.
    pub fn change_told(&self) -> Told {
        loop {
            let told = self.next_told();
            if !matches!(told.0, Event::Synced { .. }) {
                return told;
            }
        }
    }

    /// The next event that says more than a version.
    pub fn change(&self) -> Event {
        self.change_told().0
    }

    /// Reads a whole difference: what it was told, and the version that this leads to.
    pub fn difference(&self) -> (Vec<Event>, u32) {
        let mut events = Vec::new();
        loop {
            match self.next() {
                Event::Synced { version } => return (events, version),
                event => events.push(event),
            }
        }
    }

    /// Reads until it was told everything up to this version.
    pub fn synced(&self, version: u32) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            let (more, reached) = self.difference();
            events.extend(more);
            if reached.wrapping_sub(version) as i32 >= 0 {
                return events;
            }
        }
    }

    /// Nothing but versions was told, of all that the broker has said so far.
    pub fn nothing(&self) {
        while let Some(told) = self.session.try_next(self.number) {
            self.learn(&told);
            let only_version = matches!(told.0, Event::Synced { .. });
            assert!(only_version, "{:?}", told.0);
        }
    }

    /// Keeps in mind which peers it was told of.
    fn learn(&self, (event, descriptors): &Told) {
        let mut known = self.known.lock().unwrap();
        let doorbell = descriptors.len() > 1;
        match event {
            Event::PublisherJoined {
                id,
                process,
                index,
                ended,
                ..
            } => {
                let peer = KnownPeer {
                    id: *id,
                    process: *process,
                    index: *index,
                    left: *ended,
                    doorbell,
                };
                known.insert(*id, peer);
            }
            Event::PublisherLeft { id, dropped: false } => {
                known.get_mut(id).expect("it was told of it").left = true;
            }
            Event::PublisherLeft { id, dropped: true } | Event::SubscriberLeft { id } => {
                assert!(known.remove(id).is_some(), "it was not told of {id}");
            }
            Event::SubscriberJoined { id, process, .. } => {
                let peer = KnownPeer {
                    id: *id,
                    process: *process,
                    index: 0,
                    left: false,
                    doorbell,
                };
                known.insert(*id, peer);
            }
            Event::Joined { .. } => *self.since.lock().unwrap() = self.session.generation(),
            Event::Synced { .. } if self.role == Role::Publisher => {
                *self.since.lock().unwrap() = self.session.generation();
            }
            Event::PeerDoorbell { id } => {
                known.get_mut(id).expect("it was told of it").doorbell = true;
            }
            _ => {}
        }
    }

    /// The peers that it knows.
    pub fn known(&self) -> Vec<KnownPeer> {
        self.known.lock().unwrap().values().copied().collect()
    }

    /// Releases a ring.
    pub fn release(&self, ring: u64) {
        self.known.lock().unwrap().remove(&ring);
        self.session
            .send(self.number, &Request::Released { ring }, &[]);
    }

    /// Registers a doorbell; the version that it is told.
    pub fn register_doorbell(&mut self) -> u32 {
        let doorbell = Doorbell::new().unwrap();
        let request = Request::RegisterDoorbell {};
        self.session
            .send(self.number, &request, &[doorbell.button()]);
        self.doorbell = Some(doorbell);
        match self.change() {
            Event::DoorbellRegistered { version } => version,
            other => panic!("{other:?}"),
        }
    }

    pub fn doorbell(&self) -> &Doorbell {
        self.doorbell.as_ref().unwrap()
    }

    /// What it says of itself to a later broker.
    pub fn reclaim_request(&self) -> Request {
        Request::Reclaim {
            role: self.role,
            topic: self.topic.clone(),
            schema: Schema::bytes(),
            settings: self.settings,
            id: self.id,
            index: self.index,
            watch: None,
            closed: false,
            since: *self.since.lock().unwrap(),
            foreign: self.registry().is_foreign(),
        }
    }

    /// Presents itself and the peers that it knows on a session that returns. The old session goes.
    pub fn present_on(&mut self, session: &Arc<Session>) {
        let peers = self.known();
        self.present_with(session, peers, &self.reclaim_request());
    }

    /// The same with claims of the test's own.
    pub fn present_with(
        &mut self,
        session: &Arc<Session>,
        peers: Vec<KnownPeer>,
        request: &Request,
    ) {
        self.session = Arc::clone(session);
        session.send(self.number, &Request::PresentPeers { peers }, &[]);
        let mut descriptors = vec![self.segment().as_fd()];
        descriptors.extend(self.doorbell.as_ref().map(Doorbell::button));
        session.send(self.number, request, &descriptors);
    }

    /// The answer to its presenting: the topic's number.
    pub fn await_reclaimed(&mut self) -> Result<u64, (Refusal, String)> {
        let (event, mut descriptors) = self.session.next(self.number);
        match event {
            Event::Reclaimed { version, topic } => {
                assert_eq!(descriptors.len(), 1);
                self.registry = descriptors.remove(0);
                self.version = version;
                Ok(topic)
            }
            Event::Refused { kind, why } => Err((kind, why)),
            other => panic!("not reclaimed but {other:?}"),
        }
    }

    /// Connects to the broker at `path` as the process that it was, and presents itself.
    pub fn come_back(&mut self, path: &Path) {
        let greeting = self.session.returns(1);
        let known = self.session.processes();
        let session = Session::greet(path, greeting).unwrap();
        session.present(&known);
        self.present_on(&session);
    }

    /// Comes back, and has still to say that it is complete.
    pub fn reclaim(&mut self, path: &Path) {
        self.try_reclaim(path).unwrap();
    }

    pub fn try_reclaim(&mut self, path: &Path) -> Result<(), (Refusal, String)> {
        self.come_back(path);
        self.await_reclaimed().map(drop)
    }

    /// Its process has presented everything.
    pub fn complete(&self) {
        self.session.complete();
    }

    pub fn registry(&self) -> Versions {
        Versions(registry::Versions::open(&self.registry).unwrap())
    }

    /// Its registry, as it was handed out.
    pub fn registry_fd(&self) -> &OwnedFd {
        &self.registry
    }

    /// Waits until the registry has another version of its peers than this; the new one.
    pub fn moved_from(&self, version: u32) -> u32 {
        let (registry, deadline) = (self.registry(), deadline().unwrap());
        loop {
            let now = registry.of(self.role.other());
            if now != version {
                return now;
            }
            assert!(std::time::Instant::now() < deadline, "it never moves");
            std::thread::yield_now();
        }
    }
}

/// A registry, as a publisher or subscriber sees it.
pub struct Versions(registry::Versions);

impl Versions {
    /// Whether members are to park at their own doorbells.
    pub fn is_foreign(&self) -> bool {
        self.0.is_foreign()
    }

    pub fn publishers(&self) -> u32 {
        self.0.publishers()
    }

    pub fn subscribers(&self) -> u32 {
        self.0.subscribers()
    }

    pub fn of(&self, role: Role) -> u32 {
        match role {
            Role::Publisher => self.publishers(),
            Role::Subscriber => self.subscribers(),
        }
    }
}
