//! Rings of publishers that have ended, which a topic retains: who is told of them, which indices they take, when they go.

use crate::common::{Greeting, Handle, Host, Session, small, until};
use bus_core::Settings;
use bus_core::control::{Event, Refusal, Request, Role};
use bus_core::memory::ring_bytes;
use bus_core::memory::segment::{self, Kind};
use bus_core::schema::Schema;
use bus_daemon::MAX_IDLE_TOPICS;
use bus_testkit::needs;

/// A request to open a topic that retains as many rings as this.
fn retaining(role: Role, topic: &str, retain: u32) -> Request {
    Request::Open {
        role,
        topic: topic.into(),
        schema: Schema::bytes(),
        settings: Settings {
            retain: Some(retain),
            ..small()
        },
        history: u32::from(role == Role::Subscriber),
        watched: None,
    }
}

fn publisher(host: &Host, topic: &str, retain: u32) -> Handle {
    Handle::ask(&host.path, &retaining(Role::Publisher, topic, retain)).joined()
}

fn subscriber(host: &Host, topic: &str, retain: u32) -> Handle {
    Handle::ask(&host.path, &retaining(Role::Subscriber, topic, retain)).joined()
}

/// Who this subscriber was told of when it opened the topic: id, index, and whether it has ended.
fn told(subscriber: &Handle) -> Vec<(u64, u16, bool)> {
    let told = subscriber.early.iter().map(|event| match event {
        Event::PublisherJoined {
            id, index, ended, ..
        } => (*id, *index, *ended),
        other => panic!("{other:?}"),
    });
    told.collect()
}

/// Lets a publisher go; returns when the broker has told `witness` of it.
fn end(publisher: Handle, witness: &Handle) -> u64 {
    let id = publisher.id;
    drop(publisher);
    loop {
        if matches!(witness.change(), Event::PublisherLeft { id: left, .. } if left == id) {
            return id;
        }
    }
}

#[test]
fn who_asks_for_history_is_told_of_the_last_ones_that_ended() {
    let host = Host::new();
    let witness = subscriber(&host, "t", 2);
    let [a, b, c] = [0, 1, 2].map(|_| publisher(&host, "t", 2));
    let d = publisher(&host, "t", 2);
    // The order in which they end is not the one in which they came.
    let [c, a, b] = [c, a, b].map(|publisher| end(publisher, &witness));
    assert!(a < b && b < c);

    let late = subscriber(&host, "t", 2);
    assert_eq!(told(&late), [(a, 0, true), (b, 1, true), (d.id, 3, false)]);
    assert_eq!(late.version, witness.registry().publishers());

    let mut without = retaining(Role::Subscriber, "t", 2);
    if let Request::Open { history, .. } = &mut without {
        *history = 0;
    }
    let without = Handle::ask(&host.path, &without).joined();
    assert_eq!(told(&without), [(d.id, 3, false)]);
}

#[test]
fn a_retained_ring_is_handed_over_as_it_is() {
    let host = Host::new();
    let first = publisher(&host, "t", 1);
    let settings = first.settings;
    drop(first);
    let late = Handle::ask(&host.path, &retaining(Role::Subscriber, "t", 1));
    let (event, descriptors) = late.next_told();
    assert!(matches!(event, Event::PublisherJoined { .. }), "{event:?}");
    assert_eq!(descriptors.len(), 1);
    segment::open(&descriptors[0], Kind::Ring, ring_bytes(&settings)).unwrap();
}

#[test]
fn an_index_is_free_only_when_its_ring_is_not_retained_and_nobody_reads_it() {
    let host = Host::new();
    let witness = subscriber(&host, "t", 1);
    let first = publisher(&host, "t", 1);
    assert_eq!(first.index, 0);
    let first = end(first, &witness);
    witness.release(first);
    witness.session.barrier();
    let late = subscriber(&host, "t", 1);
    assert_eq!(told(&late)[0].1, 0);

    let second = publisher(&host, "t", 1);
    assert_eq!(second.index, 1, "ring 0 is retained");
    // Only one is retained, so this lets go of ring 0, which `late` still reads.
    let second = end(second, &witness);
    witness.release(second);
    witness.session.barrier();
    let third = publisher(&host, "t", 1);
    assert_eq!(third.index, 2, "ring 0 is read");
    drop(late);
    // Who leaves is told to publishers, so from then on the broker knows.
    while !matches!(third.change(), Event::SubscriberLeft { .. }) {}
    assert_eq!(publisher(&host, "t", 1).index, 0);
}

/// Retained rings make room for publishers, the oldest first; those that are read do not.
#[test]
fn the_oldest_unread_ring_gives_its_index_to_a_publisher() {
    let host = Host::new();
    let mut publishers: Vec<_> = (0..60).map(|_| publisher(&host, "t", 60)).collect();
    let witness = subscriber(&host, "t", 60);
    let indices = [41, 7, 23].map(|at| {
        let at = publishers.iter().position(|p| p.index == at).unwrap();
        let publisher = publishers.remove(at);
        let index = publisher.index;
        end(publisher, &witness);
        index
    });
    assert_eq!(indices, [41, 7, 23]);
    let (kind, why) = host.refused(&retaining(Role::Publisher, "t", 60));
    assert_eq!(kind, Refusal::Limit);
    assert!(why.contains("rings of 3 that left"), "{why}");

    drop(witness);
    // Who leaves is told to publishers, so the broker knows when one has heard of it.
    while !matches!(publishers[0].change(), Event::SubscriberLeft { .. }) {}
    let taken: Vec<_> = (0..3).map(|_| publisher(&host, "t", 60)).collect();
    assert_eq!(taken.iter().map(|p| p.index).collect::<Vec<_>>(), indices);
    let late = subscriber(&host, "t", 60);
    assert!(told(&late).iter().all(|(_, _, ended)| !ended));
}

#[test]
fn one_publisher_more_than_admitted_is_refused_and_told_who_is_there() {
    let host = Host::new();
    let open = Request::Open {
        role: Role::Publisher,
        topic: "t".into(),
        schema: Schema::bytes(),
        settings: Settings {
            publishers: Some(1),
            ..small()
        },
        history: 0,
        watched: None,
    };
    let session = |client: &str| {
        let greeting = Greeting {
            client: client.into(),
            ..Greeting::new()
        };
        Session::greet(&host.path, greeting).unwrap()
    };
    let first = Handle::ask_on(&session("feed/main"), &open).joined();
    let spare = session("feed/spare");
    let (kind, why) = spare.refused(&open);
    let pid = std::process::id();
    assert_eq!(kind, Refusal::Limit);
    assert_eq!(
        why,
        format!(
            "topic t admits 1 publishers at a time, and has 1: feed/main (process {pid}); asked for one more"
        )
    );
    drop(first);
    // The end of another connection is in order with nothing of this one.
    until(|| Handle::try_ask_on(&spare, &open).is_ok());
}

#[test]
fn more_history_than_is_kept_is_refused_and_a_new_topic_keeps_what_is_asked_for() {
    let host = Host::new();
    let open = |topic: &str, role: Role, keep: Option<u32>, history: u32| Request::Open {
        role,
        topic: topic.into(),
        schema: Schema::bytes(),
        settings: Settings {
            keep,
            ..Settings::default()
        },
        history,
        watched: None,
    };
    let role = Role::Publisher;
    let _first = Handle::ask(&host.path, &open("t", role, Some(16), 0));
    let role = Role::Subscriber;
    let (kind, why) = host.refused(&open("t", role, None, 17));
    assert_eq!(kind, Refusal::BadSetting);
    assert_eq!(
        why,
        "topic t has keep 16, asked for a history of 17; ask for up to 16, or create the topic with a larger keep"
    );
    Handle::ask(&host.path, &open("t", role, None, 16));

    let made = Handle::ask(&host.path, &open("new", role, None, 100));
    assert_eq!(made.settings.keep, 100);
    let (kind, why) = host.refused(&open("newer", role, Some(10), 100));
    assert_eq!(kind, Refusal::BadSetting);
    assert!(why.contains("keep 10"), "{why}");
    let (kind, why) = host.refused(&open("newest", role, None, u32::MAX));
    assert_eq!(kind, Refusal::BadSetting);
    assert!(why.contains("keep"), "{why}");
}

#[test]
fn a_topic_that_nobody_has_open_stays_while_it_retains_something() {
    let host = Host::new();
    let id = {
        let first = publisher(&host, "t", 1);
        first.id
    };
    let late = subscriber(&host, "t", 1);
    // It may have been told before the broker saw the end.
    assert_eq!(told(&late)[0].0, id);
    let mut other = retaining(Role::Subscriber, "t", 1);
    if let Request::Open { schema, .. } = &mut other {
        *schema = Schema::of::<u64>();
    }
    assert_eq!(host.refused(&other).0, Refusal::Schema);
    drop(late);
    let again = subscriber(&host, "t", 1);
    assert_eq!(told(&again), [(id, 0, true)]);
    // Nobody ended on this one, so nothing keeps it.
    drop(subscriber(&host, "empty", 1));
    let anew = Handle::open(&host.path, Role::Subscriber, "empty");
    assert_eq!(anew.settings.retain, 0);
}

/// Nobody reads what an idle topic retains, so a new version of its publisher is not held up by it.
#[test]
fn an_idle_topic_yields_to_a_publisher_of_something_else() {
    let host = Host::new();
    drop(publisher(&host, "t", 1));
    let late = subscriber(&host, "t", 1);
    let mut other = retaining(Role::Publisher, "t", 1);
    if let Request::Open {
        schema, settings, ..
    } = &mut other
    {
        *schema = Schema::of::<u64>();
        *settings = Settings::default();
    }
    assert_eq!(host.refused(&other).0, Refusal::Schema, "somebody has it");
    drop(late);
    // The broker serves connections in the order in which they are ready: it has seen that one go.
    let mut bad = other.clone();
    if let Request::Open { settings, .. } = &mut bad {
        settings.depth = Some(3);
    }
    assert_eq!(host.refused(&bad).0, Refusal::BadSetting);
    let still = subscriber(&host, "t", 1);
    assert_eq!(told(&still).len(), 1, "who is refused takes nothing away");
    drop(still);
    let new = Handle::ask(&host.path, &other);
    assert_eq!(new.settings.retain, 0);
    assert_eq!(
        host.refused(&retaining(Role::Subscriber, "t", 1)).0,
        Refusal::Schema
    );
}

#[test]
fn idle_topics_are_bounded_and_the_longest_idle_goes_first() {
    if !needs::descriptors(2_048) {
        return;
    }
    let host = Host::new();
    let topic = |n: usize| format!("t{n}");
    for n in 0..MAX_IDLE_TOPICS {
        drop(publisher(&host, &topic(n), 1));
    }
    // Being opened counts: this one is now the last to go.
    drop(subscriber(&host, &topic(0), 1));
    for n in MAX_IDLE_TOPICS..MAX_IDLE_TOPICS + 3 {
        drop(publisher(&host, &topic(n), 1));
    }
    let kept = |n| told(&subscriber(&host, &topic(n), 1)).len();
    // What is asked first is made anew where it is gone, and stays for nothing.
    assert_eq!((1..4).map(kept).sum::<usize>(), 0);
    assert_eq!(kept(0), 1);
    assert_eq!(
        (4..MAX_IDLE_TOPICS + 3).map(kept).sum::<usize>(),
        MAX_IDLE_TOPICS - 1
    );
}
