//! A world in which nothing happens, for tests of what one input costs: it counts what the engine does.

use std::cell::{Cell, RefCell};
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::time::Duration;

use bus_core::control::{
    Credentials, Event, FEATURES, Request, Role, SESSION, Secret, Sent, versions,
};
use bus_core::memory::segment::Kind;
use bus_core::schema::Schema;
use bus_core::{Result, Settings, TopicSettings};

use super::state::{Engine, Start};
use super::world::World;
use crate::policy::{Policy, Subject};

/// What the engine did.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// Rings of each doorbell.
    pub(super) rings: RefCell<Vec<u32>>,
    /// Connections of which it has asked whether they are over.
    pub(super) polls: Cell<u32>,
    /// What it has sent, and to whom.
    pub(super) sent: RefCell<Vec<(u64, u32, Event)>>,
    /// Sends that it has tried.
    pub(super) tried: Cell<u32>,
    /// Versions that it has moved.
    pub(super) moved: Cell<u32>,
}

/// The world; a descriptor is a number.
#[derive(Debug, Default)]
pub(super) struct Still(pub(super) Rc<Done>);

impl World for Still {
    type Fd = usize;
    type Registry = ();

    fn set_foreign(&mut self, (): &mut Self::Registry) {}
    fn create_registry(&mut self, _version: u32) -> Result<((), usize)> {
        Ok(((), 0))
    }

    fn set_version(&mut self, _registry: &mut (), _of: Role, _version: u32) {
        self.0.moved.update(|moved| moved + 1);
    }

    fn create_place(&mut self, _settings: &TopicSettings) -> Result<usize> {
        Ok(0)
    }

    fn check_segment(&self, _fd: &usize, _kind: Kind, bytes: RangeInclusive<u64>) -> Result<u64> {
        Ok(*bytes.start())
    }

    fn check_doorbell(&self, _fd: &usize) -> Result<()> {
        Ok(())
    }

    fn ring(&self, doorbell: &usize) {
        let mut rings = self.0.rings.borrow_mut();
        let all = rings.len().max(doorbell + 1);
        rings.resize(all, 0);
        rings[*doorbell] += 1;
    }

    fn is_alive(&self, _pidfd: &usize) -> bool {
        true
    }

    fn send(&mut self, session: u64, handle: u32, event: &Event, _fds: &[usize]) -> Result<Sent> {
        self.0.tried.update(|tried| tried + 1);
        let told = (session, handle, event.clone());
        self.0.sent.borrow_mut().push(told);
        Ok(Sent::Yes)
    }

    fn await_room(&mut self, _session: u64, _wanted: bool) {}

    fn listen(&mut self, _session: u64, _wanted: bool) {}

    fn is_gone(&self, _session: u64) -> bool {
        self.0.polls.update(|polls| polls + 1);
        false
    }

    fn close(&mut self, _session: u64) {}

    fn watch_process(&mut self, _process: u64, _pidfd: &usize) -> bool {
        true
    }

    fn unwatch_process(&mut self, _process: u64, _pidfd: &usize) {}
}

/// A broker in it, and what it did. The policy is that of user 1000.
pub(super) fn broker(policy: &str) -> (Engine<Still>, Rc<Done>) {
    broker_after(false, policy)
}

/// The same after a broker that ended with members, or without.
pub(super) fn broker_after(unclean: bool, policy: &str) -> (Engine<Still>, Rc<Done>) {
    let policy = Policy::parse(std::path::Path::new("t"), policy, 1000);
    let done = Rc::<Done>::default();
    let start = Start {
        policy: policy.unwrap_or_else(|problems| panic!("{problems}")),
        ids: 0,
        generation: 1,
        unclean,
        gives_way: false,
        #[cfg(feature = "simulator")]
        planted: None,
    };
    (Engine::new(Still(Rc::clone(&done)), start), done)
}

impl Engine<Still> {
    /// A process of this user connects; why not.
    pub(super) fn come(&mut self, session: u64, uid: u32) -> std::result::Result<(), String> {
        let peer = Credentials {
            pid: session as u32,
            uid,
        };
        let who = Subject {
            uid,
            groups: Vec::new(),
        };
        self.connected(session, peer, who, 0)
            .map_err(|refused| refused.why)?;
        let hello = Request::Hello {
            versions: versions(),
            features: FEATURES,
            client: "still".into(),
            secret: Secret(session, 0),
            reclaims: 0,
            generation: 0,
        };
        self.received(session, SESSION, hello, Vec::new());
        Ok(())
    }

    /// A handle opens a topic.
    pub(super) fn opens(&mut self, session: u64, handle: u32, role: Role, topic: &str) {
        let open = Request::Open {
            role,
            topic: topic.into(),
            schema: Schema::bytes(),
            settings: Settings::default(),
            history: 0,
            watched: None,
        };
        self.received(session, handle, open, Vec::new());
        self.acknowledges(session);
    }

    /// A handle joins a topic, and may park at this doorbell.
    pub(super) fn parks(
        &mut self,
        session: u64,
        handle: u32,
        role: Role,
        topic: &str,
        doorbell: usize,
    ) {
        self.opens(session, handle, role, topic);
        self.received(session, handle, Request::Join {}, vec![0]);
        self.acknowledges(session);
        self.received(
            session,
            handle,
            Request::RegisterDoorbell {},
            vec![doorbell],
        );
    }

    /// A session has taken all descriptors.
    pub(super) fn acknowledges(&mut self, session: u64) {
        let received = Request::Received {
            descriptors: u32::MAX,
        };
        self.received(session, SESSION, received, Vec::new());
    }

    /// A handle watches; whether it is refused.
    pub(super) fn watches(&mut self, session: u64, handle: u32, pattern: &str) {
        let watch = Request::Watch {
            pattern: pattern.into(),
            schema: Schema::bytes(),
            reclaims: None,
        };
        self.received(session, handle, watch, Vec::new());
    }

    /// Turns of the loop for so long, one each millisecond.
    pub(super) fn go_on(&mut self, millis: u32) {
        for _ in 0..millis {
            self.tick(Duration::from_millis(1));
            self.settle();
            self.end_turn();
        }
    }
}

impl Done {
    /// Why handles of a session were refused.
    pub(super) fn refusals(&self, session: u64) -> Vec<String> {
        let sent = self.sent.borrow();
        let refused = sent.iter().filter_map(|(to, _, event)| match event {
            Event::Refused { why, .. } if *to == session => Some(why.clone()),
            _ => None,
        });
        refused.collect()
    }
}
