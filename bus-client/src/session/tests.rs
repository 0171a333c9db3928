//! A session against a scripted broker at the other end of a pair of sockets.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bus_core::control::{
    Connection, Event, Frame, MAY_BE_IGNORED, PROTOCOL_VERSIONS, Packet, Refusal, Request, Role,
    SESSION, Sent,
};
use bus_core::memory::registry::Registry;
use bus_core::publish::Publisher;
use bus_core::schema::Schema;
use bus_core::{Delivery, TopicName, TopicSettings};

use super::Welcome;
use super::entry::{Entry, Part, Stage, Standing};
use super::interest::Interest;
use super::state::State;
use super::told::Told;
use bus_core::fork::Unshared;
use nix::sys::epoll::EpollTimeout;
use nix::sys::eventfd::{EfdFlags, EventFd};

const SETTINGS: TopicSettings = TopicSettings {
    depth: 4,
    stride: 64,
    max_payload: 8,
    keep: 1,
    arena: 0,
    delivery: Delivery::Wait,
    held: 4,
    retain: 0,
    publishers: 60,
};
const WAIT: Duration = Duration::from_secs(10);

struct Script {
    state: State,
    broker: Connection,
}

/// A session, and the other end of its connection.
fn session() -> Script {
    let (mine, broker) = Connection::pair().unwrap();
    let flags = EfdFlags::EFD_NONBLOCK;
    let bell = Unshared::of(|| EventFd::from_flags(flags), |bell| bell.as_raw_fd()).unwrap();
    let mut interest = Interest::new(&bell).unwrap();
    interest.add(&mine).unwrap();
    Script {
        state: State::new(
            mine,
            Welcome {
                version: 2,
                generation: 1,
            },
            interest,
        ),
        broker,
    }
}

fn entry(role: Role) -> Entry {
    let part = Part::Member {
        role,
        topic: TopicName::new("t").unwrap(),
        watched: None,
        placed: false,
    };
    let mut entry = Entry::new(part, Schema::bytes(), None);
    entry.stage = Stage::Placed;
    entry
}

/// A publisher that has joined with this registry. Its core keeps what it stands for mapped.
fn publisher(registry: &Registry) -> (Entry, Publisher) {
    let core = Publisher::create(&SETTINGS, &registry.fd(), 0).unwrap();
    let mut entry = entry(Role::Publisher);
    entry.id = Some(7);
    entry.standing = Some(Standing {
        settings: SETTINGS,
        index: 0,
        segment: Arc::clone(core.segment()),
        seat: core.seat().clone(),
    });
    (entry, core)
}

fn file() -> OwnedFd {
    tempfile::tempfile().unwrap().into()
}

fn joined(id: u64) -> Event {
    Event::SubscriberJoined {
        id,
        process: 4,
        kept: false,
    }
}

impl Script {
    fn says(&self, handle: u32, event: &Event) {
        self.broker.send(handle, event, &[]).unwrap();
    }

    fn brings(&self, handle: u32, event: &Event) {
        let file = file();
        self.broker.send(handle, event, &[file.as_fd()]).unwrap();
    }

    fn read(&mut self) -> usize {
        self.state.receive(usize::MAX)
    }

    fn next(&mut self, handle: u32) -> Option<Told> {
        self.state.handles.get_mut(&handle).unwrap().take()
    }

    /// The next request that is not about credit.
    fn asked(broker: &Connection) -> (u32, Request) {
        loop {
            let frame = broker.recv::<Request>(Some(Instant::now() + WAIT)).unwrap();
            if !matches!(frame.message, Request::Received { .. }) {
                return (frame.handle, frame.message);
            }
        }
    }
}

/// The broker sends no more while they are not: a later one would fall silent.
#[test]
fn the_descriptors_of_a_message_that_is_ignored_are_acknowledged() {
    let mut stage = session();
    let ignored = Packet::unknown(MAY_BE_IGNORED | 4711, SESSION);
    for _ in 0..4 {
        let file = file();
        let sent = stage.broker.try_send_packet(&ignored, &[file.as_fd()]);
        assert_eq!(sent.unwrap(), Sent::Yes);
    }
    assert_eq!(stage.read(), 4);
    let frame = stage.broker.try_recv::<Request>().unwrap().unwrap();
    assert_eq!(frame.message, Request::Received { descriptors: 4 });
}

#[test]
fn a_broker_that_is_not_understood_is_named_to_who_opens_something() {
    let mut stage = session();
    let handle = stage.state.add(entry(Role::Publisher));
    stage.state.handles.get_mut(&handle).unwrap().stage = Stage::Opening;
    let needed = Packet::unknown(4711, SESSION);
    let sent = stage.broker.try_send_packet(&needed, &[]);
    assert_eq!(sent.unwrap(), Sent::Yes);
    stage.read();
    assert!(stage.state.link.is_none());
    let fate = stage.state.handles[&handle].fate.clone().unwrap();
    let (oldest, newest) = PROTOCOL_VERSIONS;
    let ours = format!("message 4711, which versions {oldest} to {newest}");
    for part in [&ours, "was to speak version 2", "use builds of one version"] {
        assert!(fate.contains(part), "{fate}");
    }
}

#[test]
fn all_descriptors_are_acknowledged_also_those_for_handles_that_were_closed() {
    let mut stage = session();
    let handle = stage.state.add(entry(Role::Publisher));
    for id in 0..7 {
        stage.brings(handle + u32::from(id % 2 == 0), &joined(id));
    }
    assert_eq!(stage.read(), 7);
    let mut acknowledged = 0;
    while let Some(frame) = stage.broker.try_recv::<Request>().unwrap() {
        let Request::Received { descriptors } = frame.message else {
            panic!("{:?}", frame.message);
        };
        assert_eq!(frame.handle, SESSION);
        assert!(descriptors <= 4, "{descriptors} at once");
        acknowledged += descriptors;
    }
    assert_eq!(acknowledged, 7);
    // Of those that were for nobody, none is open.
    assert_eq!(stage.state.handles[&handle].queue.len(), 3);
}

#[test]
fn a_subscriber_that_came_and_went_unread_leaves_nothing_in_the_queue() {
    let mut stage = session();
    let handle = stage.state.add(entry(Role::Publisher));
    for version in 1..100 {
        stage.brings(handle, &joined(version.into()));
        stage.says(handle, &Event::SubscriberLeft { id: version.into() });
        stage.says(handle, &Event::Synced { version });
        stage.read();
    }
    assert!(matches!(
        stage.next(handle),
        Some(Told::Synced { version: 99 })
    ));
    assert!(stage.next(handle).is_none());
}

#[test]
fn a_publisher_that_came_and_went_unread_is_told_of_because_its_ring_is_to_be_read() {
    let mut stage = session();
    let handle = stage.state.add(entry(Role::Subscriber));
    let event = Event::PublisherJoined {
        id: 9,
        process: 4,
        index: 0,
        ended: false,
        trust: bus_core::control::Trust::InPlace,
    };
    stage.brings(handle, &event);
    // A second telling, as after `Retell`, says nothing new.
    stage.brings(handle, &event);
    stage.says(
        handle,
        &Event::PublisherLeft {
            id: 9,
            dropped: false,
        },
    );
    stage.read();
    assert!(matches!(
        stage.next(handle),
        Some(Told::Publisher { id: 9, .. })
    ));
    assert!(matches!(
        stage.next(handle),
        Some(Told::PublisherLeft {
            id: 9,
            dropped: false
        })
    ));
    assert!(stage.next(handle).is_none());
}

/// Class 23 of the field notes: messages lost to a newcomer that its publisher does not know.
#[test]
fn no_version_is_told_while_the_descriptors_of_a_peer_are_missing() {
    let mut stage = session();
    let handle = stage.state.add(entry(Role::Publisher));
    let lost = Frame {
        handle,
        message: Some(joined(5)),
        descriptors: Vec::new(),
    };
    stage.state.dispatch(lost, true);
    stage.says(handle, &Event::Synced { version: 3 });
    stage.read();
    assert!(stage.next(handle).is_none(), "it does not know everybody");
    stage.state.attend(Instant::now());
    let asked = Script::asked(&stage.broker);
    assert_eq!(asked, (handle, Request::Retell {}));
    stage.brings(handle, &joined(5));
    stage.read();
    assert!(matches!(
        stage.next(handle),
        Some(Told::Subscriber { id: 5, .. })
    ));
    assert!(matches!(
        stage.next(handle),
        Some(Told::Synced { version: 3 })
    ));
}

#[test]
fn handles_are_presented_to_the_next_broker_and_go_on_in_its_registry() {
    let mut stage = session();
    let mut registry = Registry::starting_at(10).unwrap();
    let (entry, core) = publisher(&registry);
    let handle = stage.state.add(entry);
    stage.brings(handle, &joined(5));
    stage.says(handle, &Event::Synced { version: 10 });
    stage.read();
    // It moves on, and the broker is gone before it tells why.
    assert_eq!(registry.bump_subscribers(), 11);
    let (mine, next) = Connection::pair().unwrap();
    stage.broker = next;
    stage.read();
    assert!(stage.state.link.is_none(), "the broker is gone");
    assert_eq!(stage.state.to_reclaim(), 1);
    stage.state.begin_reclaim(
        mine,
        Welcome {
            version: 2,
            generation: 2,
        },
        1,
    );
    let (_, peers) = Script::asked(&stage.broker);
    let Request::PresentPeers { peers } = peers else {
        panic!("{peers:?}");
    };
    assert_eq!(peers.iter().map(|peer| peer.id).collect::<Vec<_>>(), [5]);
    let (of, claim) = Script::asked(&stage.broker);
    assert!(matches!(claim, Request::Reclaim { id: 7, .. }), "{claim:?}");
    assert_eq!(of, handle);

    // It is refused for now, and presented again by itself.
    let refused = Event::Refused {
        kind: Refusal::Limit,
        why: "full".into(),
    };
    stage.says(handle, &refused);
    stage.read();
    assert_eq!(
        Script::asked(&stage.broker),
        (SESSION, Request::ReclaimComplete {})
    );
    assert!(stage.state.handles[&handle].signals.is_down());
    stage.state.attend(Instant::now() + Duration::from_secs(1));
    let (_, peers) = Script::asked(&stage.broker);
    assert!(matches!(peers, Request::PresentPeers { .. }), "{peers:?}");
    let (_, claim) = Script::asked(&stage.broker);
    assert!(matches!(claim, Request::Reclaim { id: 7, .. }), "{claim:?}");
    let other = Registry::starting_at(500).unwrap();
    let reclaimed = Event::Reclaimed {
        version: 500,
        topic: 1,
    };
    stage
        .broker
        .send(handle, &reclaimed, &[other.fd()])
        .unwrap();
    stage.read();
    assert_eq!(core.seat().watched_by(Role::Publisher), 500);
    assert!(!stage.state.handles[&handle].signals.is_down());
    assert!(matches!(
        stage.next(handle),
        Some(Told::Subscriber { id: 5, .. })
    ));
    // It had not been told of everybody.
    let told = stage.next(handle);
    assert!(
        matches!(
            told,
            Some(Told::Reclaimed {
                version: 500,
                behind: true,
                ..
            })
        ),
        "{told:?}"
    );
}

#[test]
fn a_handle_that_the_next_broker_refuses_for_good_says_why() {
    let mut stage = session();
    let registry = Registry::starting_at(10).unwrap();
    let (entry, core) = publisher(&registry);
    let handle = stage.state.add(entry);
    let (mine, next) = Connection::pair().unwrap();
    stage.broker = next;
    stage.read();
    stage.state.begin_reclaim(
        mine,
        Welcome {
            version: 2,
            generation: 2,
        },
        1,
    );
    let refused = Event::Refused {
        kind: Refusal::Fenced,
        why: "too late".into(),
    };
    stage.says(handle, &refused);
    stage.read();
    let entry = &stage.state.handles[&handle];
    assert_eq!(entry.stage, Stage::Over);
    assert!(entry.fate.as_ref().unwrap().contains("too late"));
    assert_ne!(core.seat().watched_by(Role::Publisher), 10, "it looks");
}

#[test]
fn the_session_thread_sleeps_while_another_thread_opens_a_handle() {
    let mut stage = session();
    let handle = stage.state.add(entry(Role::Publisher));
    let ear = stage.state.interest.ear();
    stage.state.begin_opening();
    stage.brings(handle, &joined(5));
    stage.brings(handle, &joined(6));
    assert!(!ear.wait(EpollTimeout::ZERO), "it is woken for the answers");
    assert_eq!(stage.read(), 2);
    stage.state.end_opening();
    // Both were acknowledged with one message.
    let frame = stage.broker.recv::<Request>(Some(Instant::now() + WAIT));
    let received = Request::Received { descriptors: 2 };
    assert_eq!(frame.unwrap().message, received);
    stage.says(handle, &Event::Synced { version: 3 });
    assert!(ear.wait(EpollTimeout::NONE));
}

#[test]
fn the_session_thread_hears_of_a_broker_that_goes_while_a_handle_is_opened() {
    let mut stage = session();
    stage.state.begin_opening();
    let ear = stage.state.interest.ear();
    let (_, other) = Connection::pair().unwrap();
    drop(std::mem::replace(&mut stage.broker, other));
    assert!(ear.wait(EpollTimeout::NONE));
    stage.read();
    assert!(stage.state.link.is_none());
    assert!(
        !ear.wait(EpollTimeout::ZERO),
        "a connection that is gone is watched"
    );
    assert!(stage.state.due.thread, "nobody looks for the next broker");
}
