//! What a process claims to a later broker: only what is its own, and only what fits what is known.

use std::os::fd::AsFd;
use std::sync::Arc;

use super::reclaim::Bus;
use crate::common::actor::Actor;
use crate::common::{Greeting, Handle, Introduced, Session, deadline, until};
use bus_core::control::{Event, KnownPeer, MAX_PRESENTED, Refusal, Request, Role};
use bus_core::schema::Schema;

/// A claim with something changed.
fn changed(claim: &Request, change: impl FnOnce(&mut Request)) -> Request {
    let mut claim = claim.clone();
    change(&mut claim);
    claim
}

/// The handle presents this claim on a session of its own that comes back, and is refused.
fn refused(bus: &Bus, handle: &mut Handle, claim: &Request) -> (Refusal, String) {
    let session = Session::greet(bus.path(), handle.session.returns(1)).unwrap();
    session.present(&handle.session.processes());
    handle.present_with(&session, handle.known(), claim);
    handle.await_reclaimed().unwrap_err()
}

#[test]
fn a_claim_that_contradicts_what_is_known_is_refused_and_the_right_one_is_not_hurt() {
    let mut bus = Bus::new();
    let mut publisher = bus.publisher("t");
    let mut other = bus.publisher("t");
    let mut subscriber = bus.subscriber("t");
    publisher.difference();
    other.difference();
    bus.busd.replace();
    subscriber.reclaim(bus.path());
    subscriber.complete();
    let honest = publisher.reclaim_request();
    let lies = [
        // The other publisher's number, and its index.
        changed(&honest, |claim| {
            if let Request::Reclaim { id, .. } = claim {
                *id = other.id;
            }
        }),
        changed(&honest, |claim| {
            if let Request::Reclaim { index, .. } = claim {
                *index = other.index;
            }
        }),
        changed(&honest, |claim| {
            if let Request::Reclaim { schema, .. } = claim {
                *schema = Schema::of::<u64>();
            }
        }),
        changed(&honest, |claim| {
            if let Request::Reclaim { settings, .. } = claim {
                settings.retain = 3;
            }
        }),
    ];
    for lie in lies {
        let (kind, why) = refused(&bus, &mut publisher, &lie);
        assert_eq!(kind, Refusal::Fenced, "{lie:?}: {why}");
    }
    let bad = [
        (
            Refusal::Unknown,
            changed(&honest, |claim| {
                if let Request::Reclaim { id, .. } = claim {
                    *id = 0;
                }
            }),
        ),
        (
            Refusal::Unknown,
            changed(&honest, |claim| {
                if let Request::Reclaim { id, .. } = claim {
                    *id = subscriber.id;
                }
            }),
        ),
        (
            Refusal::Protocol,
            changed(&honest, |claim| {
                if let Request::Reclaim { index, .. } = claim {
                    *index = 60;
                }
            }),
        ),
        (
            Refusal::BadSetting,
            changed(&honest, |claim| {
                if let Request::Reclaim { settings, .. } = claim {
                    settings.keep = 0;
                }
            }),
        ),
        (
            Refusal::BadName,
            changed(&honest, |claim| {
                if let Request::Reclaim { topic, .. } = claim {
                    *topic = "No Name".into();
                }
            }),
        ),
        (
            Refusal::Fenced,
            changed(&honest, |claim| {
                if let Request::Reclaim { role, .. } = claim {
                    *role = Role::Subscriber;
                }
            }),
        ),
    ];
    for (kind, claim) in bad {
        let (told, why) = refused(&bus, &mut publisher, &claim);
        assert_eq!(told, kind, "{claim:?}: {why}");
    }
    // No segment, and one that is none.
    for (descriptors, kind) in [(0, Refusal::Protocol), (1, Refusal::Segment)] {
        let session = Session::greet(bus.path(), publisher.session.returns(1)).unwrap();
        let socket = session.connection.as_fd();
        session.send(publisher.number, &honest, &[socket][..descriptors]);
        assert_eq!(session.refusal(publisher.number).0, kind);
    }
    subscriber.session.barrier();
    subscriber.nothing();

    for handle in [&mut publisher, &mut other] {
        handle.reclaim(bus.path());
        handle.complete();
        handle.synced(handle.registry().subscribers());
    }
    // Twice: the number is taken.
    let twice = Session::greet(bus.path(), Session::connect(bus.path()).returns(1)).unwrap();
    twice.send(9, &honest, &[publisher.segment().as_fd()]);
    let (kind, why) = twice.refusal(9);
    assert_eq!(kind, Refusal::Unknown, "{why}");
    publisher.session.barrier();
    publisher.nothing();
}

/// A member is its process's, and a process is known by its secret.
#[test]
fn a_member_of_another_process_cannot_be_claimed() {
    let mut bus = Bus::new();
    let mut publisher = bus.publisher("t");
    let mut subscriber = bus.subscriber("t");
    publisher.difference();
    bus.busd.replace();
    subscriber.reclaim(bus.path());
    subscriber.complete();
    let honest = publisher.reclaim_request();
    let thief = Session::greet(bus.path(), Session::connect(bus.path()).returns(1)).unwrap();
    assert_ne!(thief.process, publisher.session.process);
    thief.send(1, &honest, &[publisher.segment().as_fd()]);
    let (kind, why) = thief.refusal(1);
    assert_eq!(kind, Refusal::Fenced, "{why}");
    thief.complete();
    subscriber.session.barrier();
    subscriber.nothing();
    publisher.reclaim(bus.path());
    publisher.complete();
    publisher.synced(publisher.registry().subscribers());
}

#[test]
fn a_secret_is_refused_to_a_second_process_as_long_as_the_first_is_there() {
    let bus = Bus::new();
    let session = Session::connect(bus.path());
    let secret = session.greeting.secret;
    let mut thief = Actor::own(bus.path());
    let why = thief.refused(&format!("pretend {} {}", secret.0, secret.1), "Unknown");
    assert!(why.contains("another process"), "{why}");
    session.barrier();
}

/// Whatever a subscriber says that it knows, others are told of nobody that has not come itself.
#[test]
fn a_claimed_peer_is_awaited_and_no_more() {
    let mut bus = Bus::new();
    let mut liar = bus.subscriber("t");
    let witness = Session::connect(bus.path());
    bus.busd.replace();
    let session = Session::greet(bus.path(), liar.session.returns(1)).unwrap();
    let victim = bus.publisher("elsewhere");
    // Its own process is alive under the number of another one.
    let own = bus_core::control::open_pidfd(std::process::id())
        .unwrap()
        .unwrap();
    let made_up = Request::PresentProcess {
        process: witness.process,
        pid: 1,
        user: 0,
        client: "nobody".into(),
    };
    session.send(0, &made_up, &[own.as_fd()]);
    let peer = |id, process, index| KnownPeer {
        id,
        process,
        index,
        left: false,
        doorbell: false,
    };
    let peers = vec![
        peer(77, witness.process, 0),
        peer(victim.id, victim.session.process, 1),
        peer(78, witness.process, u16::MAX),
        peer(79, 4711, 2),
    ];
    let claim = liar.reclaim_request();
    liar.present_with(&session, peers, &claim);
    liar.await_reclaimed().unwrap();
    session.complete();
    // The ones that cannot come are told to have left.
    let mut left = Vec::new();
    while left.len() < 3 {
        match liar.session.next(liar.number).0 {
            Event::PublisherLeft { id, .. } => left.push(id),
            Event::Synced { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    left.sort_unstable();
    let mut expected = [78, 79, victim.id];
    expected.sort_unstable();
    assert_eq!(left, expected);
    let newcomer = bus.subscriber("t");
    assert!(newcomer.early.is_empty(), "{:?}", newcomer.early);
    // A publisher gets none of the indices that are spoken for.
    assert_eq!(bus.publisher("t").index, 3);
}

#[test]
fn presenting_without_end_is_bounded() {
    let mut bus = Bus::new();
    let subscriber = bus.subscriber("t");
    bus.busd.replace();
    let session = Session::greet(bus.path(), subscriber.session.returns(1)).unwrap();
    let gift = tempfile::tempfile().unwrap();
    // What is no process costs nothing, however often.
    for process in 0..5000 {
        let present = Request::PresentProcess {
            process,
            pid: 1,
            user: 0,
            client: String::new(),
        };
        session.send(0, &present, &[gift.as_fd()]);
    }
    session.barrier();
}

/// What waits for its reclaim is kept for the session, and not without end.
#[test]
fn peers_that_are_presented_for_any_number_of_handles_are_bounded() {
    let host = crate::common::Host::new();
    let session = host.connect();
    let peer = KnownPeer {
        id: 1,
        process: 1,
        index: 0,
        left: true,
        doorbell: false,
    };
    // Nothing costs nothing.
    for _ in 0..1000 {
        session.ask(&Request::PresentPeers { peers: Vec::new() });
    }
    session.barrier();
    for count in [MAX_PRESENTED, 1] {
        let session = host.connect();
        let peers = vec![peer; count];
        let present = Request::PresentPeers { peers };
        let mut handle = 0;
        let refused = loop {
            assert!(handle < 1000, "the broker keeps them all");
            handle = session.number();
            if session.connection.send(handle, &present, &[]).is_err() {
                break session.connection.recv::<Event>(deadline()).unwrap();
            }
            if let Some(frame) = session.connection.try_recv::<Event>().unwrap() {
                break frame;
            }
        };
        assert!(
            matches!(&refused.message, Event::Refused { kind: Refusal::Protocol, why } if why.contains("too many peers")),
            "{refused:?}"
        );
    }
}

/// Numbers follow each other, so a client can tell which ones come next.
/// The process lives, so that its end frees nothing.
#[test]
fn a_process_that_returns_and_presents_nothing_keeps_no_descriptor_of_the_broker() {
    let bus = Bus::new();
    let descriptors = || {
        let folder = format!("/proc/{}/fd", bus.busd.child.id());
        std::fs::read_dir(folder).unwrap().count()
    };
    let before = descriptors();
    for _ in 0..100 {
        let greeting = Greeting {
            reclaims: 1,
            ..Greeting::new()
        };
        drop(Session::greet(bus.path(), greeting).unwrap());
    }
    // Some are opened only when they are needed.
    until(|| descriptors() < before + 10);
}

#[test]
fn a_number_that_was_claimed_is_given_to_nobody_else() {
    let mut bus = Bus::new();
    let mut liar = bus.publisher("t");
    bus.busd.replace();
    let session = Session::greet(bus.path(), liar.session.returns(1)).unwrap();
    let now = bus.subscriber("elsewhere").id;
    liar.id = now.wrapping_add(2);
    let peers = (3..8).map(|ahead| KnownPeer {
        id: now.wrapping_add(ahead),
        process: session.process,
        index: 0,
        left: false,
        doorbell: false,
    });
    let claim = liar.reclaim_request();
    liar.present_with(&session, peers.collect(), &claim);
    liar.await_reclaimed().unwrap();
    let watch = session.number();
    let mut watches = crate::common::watch_request("u");
    if let Request::Watch { reclaims, .. } = &mut watches {
        *reclaims = Some(now.wrapping_add(9));
    }
    session.send(watch, &watches, &[]);
    assert!(matches!(session.next(watch).0, Event::Watching { .. }));
    session.complete();
    for _ in 0..8 {
        let honest = bus.subscriber("elsewhere").id;
        let ahead = honest.wrapping_sub(now);
        assert!(ahead > 9, "{ahead} ahead is claimed");
    }
}

#[test]
fn a_handle_that_waits_to_join_and_asks_again_breaks_the_protocol() {
    let mut bus = Bus::new();
    let publisher = bus.publisher("t");
    let mut subscriber = bus.subscriber("t");
    bus.busd.replace();
    let mut newcomer = Handle::open(bus.path(), Role::Subscriber, "t");
    newcomer.difference();
    // Only now it is known that a publisher is away.
    subscriber.reclaim(bus.path());
    subscriber.complete();
    newcomer.join();
    newcomer.join();
    let (kind, why) = loop {
        match newcomer.next() {
            Event::Refused { kind, why } => break (kind, why),
            Event::Synced { .. } => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(kind, Refusal::Protocol, "{why}");
    newcomer.session.ends();
    let _served = bus.subscriber("elsewhere");
    drop(publisher);
}

#[test]
fn a_refusal_names_publishers_that_are_away() {
    let mut bus = Bus::new();
    let one = Request::Open {
        role: Role::Publisher,
        topic: "t".into(),
        schema: Schema::bytes(),
        settings: bus_core::Settings {
            publishers: Some(1),
            ..crate::common::small()
        },
        history: 0,
        watched: None,
    };
    let _away = Handle::ask(bus.path(), &one).joined();
    let mut subscriber = bus.subscriber("t");
    bus.busd.replace();
    subscriber.reclaim(bus.path());
    subscriber.complete();
    let (kind, why) = Session::connect(bus.path()).refused(&one);
    assert_eq!(kind, Refusal::Limit);
    assert_eq!(
        why,
        "topic t admits 1 publishers at a time, and has 1: 1 that may come back from an earlier broker; asked for one more"
    );
}

/// What is counted for each process must come out even, whatever is claimed.
#[test]
fn a_peer_that_is_presented_twice_counts_once() {
    let mut bus = Bus::new();
    let mut liar = bus.subscriber("t");
    let witness = bus.publisher("t");
    bus.busd.replace();
    let session = Session::greet(bus.path(), liar.session.returns(1)).unwrap();
    let peer = |process| KnownPeer {
        id: witness.id,
        process,
        index: 0,
        left: false,
        doorbell: false,
    };
    let own = bus_core::control::open_pidfd(std::process::id())
        .unwrap()
        .unwrap();
    let introduced = Introduced {
        pid: 1,
        user: 0,
        client: String::new(),
        pidfd: Arc::new(own),
    };
    let processes = [1, 2, 3].map(|process| (process, introduced.clone()));
    session.present(&processes.into());
    let claim = liar.reclaim_request();
    let peers = [1, 2, 3, session.process, liar.session.process].map(peer);
    liar.present_with(&session, peers.to_vec(), &claim);
    liar.await_reclaimed().unwrap();
    session.complete();
    session.send(liar.number, &Request::Close {}, &[]);
    session.barrier();
    let _served = bus.publisher("elsewhere");
}
