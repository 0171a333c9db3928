//! Which of several handles decides what a topic is like, in whatever order they start.

use crate::common::{Greeting, Handle, Host, Session, small};
use bus_core::Settings;
use bus_core::control::{Event, Refusal, Request, Role};
use bus_core::schema::Schema;

fn open(role: Role, schema: Schema, settings: Settings) -> Request {
    Request::Open {
        role,
        topic: "t".into(),
        schema,
        settings,
        history: 0,
        watched: None,
    }
}

fn subscriber(settings: Settings) -> Request {
    open(Role::Subscriber, Schema::bytes(), settings)
}

fn publisher(settings: Settings) -> Request {
    open(Role::Publisher, Schema::bytes(), settings)
}

fn depth(depth: u32) -> Settings {
    Settings {
        depth: Some(depth),
        ..Settings::default()
    }
}

/// The refusal that a handle gets besides what it asked for.
fn refused(handle: &Handle) -> (Refusal, String) {
    match handle.change() {
        Event::Refused { kind, why } => (kind, why),
        other => panic!("{other:?}"),
    }
}

fn feed(host: &Host) -> std::sync::Arc<Session> {
    let greeting = Greeting {
        client: "feed".into(),
        ..Greeting::new()
    };
    Session::greet(&host.path, greeting).unwrap()
}

#[test]
fn the_first_publisher_decides_and_subscribers_that_asked_for_nothing_are_told() {
    let host = Host::new();
    let early = Handle::ask(&host.path, &subscriber(Settings::default())).joined();
    assert_ne!(early.settings.depth, 4);
    let asked = Settings {
        keep: Some(2),
        ..Settings::default()
    };
    let other = Handle::ask(&host.path, &subscriber(asked)).joined();
    let publisher = Handle::ask(&host.path, &publisher(depth(4)));
    assert_eq!(publisher.settings.depth, 4);
    assert_eq!(publisher.settings.keep, 2, "what it leaves open is filled");
    let publisher = publisher.joined();
    assert_eq!(publisher.early.len(), 2);
    for subscriber in [&early, &other] {
        let settings = publisher.settings;
        assert_eq!(subscriber.change(), Event::Decided { settings });
        let event = subscriber.change();
        assert!(
            matches!(event, Event::PublisherJoined { id, .. } if id == publisher.id),
            "{event:?}"
        );
    }
    // From now on it is as it is.
    let (kind, _) = host.refused(&subscriber(depth(8)));
    assert_eq!(kind, Refusal::Settings);
}

#[test]
fn a_subscriber_that_asked_for_something_else_is_refused_and_the_publisher_is_not() {
    let host = Host::new();
    let first = Handle::ask(&host.path, &subscriber(depth(16))).joined();
    let second = Handle::ask(&host.path, &subscriber(depth(4))).joined();
    let publisher = Handle::ask_on(&feed(&host), &publisher(depth(4)));
    assert_eq!(publisher.settings.depth, 4);
    let (kind, why) = refused(&first);
    assert_eq!(kind, Refusal::Settings);
    let me = std::process::id();
    assert_eq!(
        why,
        format!(
            "publisher feed (process {me}) has decided that topic t has depth 4, and this subscriber asked 16"
        )
    );
    let publisher = publisher.joined();
    assert!(
        matches!(publisher.early[..], [Event::SubscriberJoined { id, .. }] if id == second.id),
        "{:?}",
        publisher.early
    );
}

/// What the publisher decides may be what the topic was provisionally like, and not what one subscriber asked for.
#[test]
fn a_subscriber_is_refused_also_where_the_publisher_decides_what_was_provisional() {
    let host = Host::new();
    let first = Handle::ask(&host.path, &subscriber(depth(4))).joined();
    let second = Handle::ask(&host.path, &subscriber(depth(16))).joined();
    assert_eq!(second.settings.depth, 4, "it is provisional");
    let publisher = Handle::ask(&host.path, &publisher(depth(4))).joined();
    assert_eq!(refused(&second).0, Refusal::Settings);
    let event = first.change();
    assert!(
        matches!(event, Event::PublisherJoined { id, .. } if id == publisher.id),
        "{event:?}"
    );
}

/// The only subscriber goes: the topic is the publisher's all the same.
#[test]
fn a_publisher_is_answered_though_the_last_subscriber_gives_way() {
    let host = Host::new();
    let only = Handle::ask(&host.path, &subscriber(depth(16))).joined();
    Handle::ask(&host.path, &publisher(depth(4))).joined();
    assert_eq!(refused(&only).0, Refusal::Settings);
}

/// What subscribers asked for may contradict itself, or what the publisher wants.
#[test]
fn no_publisher_is_refused_for_what_subscribers_asked_for() {
    let host = Host::new();
    let asked = Settings {
        depth: Some(64),
        keep: Some(16),
        ..Settings::default()
    };
    let greedy = Handle::ask(&host.path, &subscriber(asked)).joined();
    let publisher = Handle::ask(&host.path, &publisher(depth(4))).joined();
    assert_eq!(publisher.settings.depth, 4);
    assert_eq!(refused(&greedy).0, Refusal::Settings);
}

#[test]
fn a_publisher_that_is_refused_decides_nothing() {
    let own = nix::unistd::geteuid();
    let host = Host::governed(&format!(
        "[[limits.user]]\nusers = [{own}]\npublishers = 0\n"
    ));
    let early = Handle::ask(&host.path, &subscriber(depth(16))).joined();
    assert_eq!(host.refused(&publisher(depth(4))).0, Refusal::Limit);
    let other = open(Role::Publisher, Schema::of::<u64>(), Settings::default());
    assert_eq!(host.refused(&other).0, Refusal::Limit);
    early.session.barrier();
    early.nothing();
    let late = Handle::ask(&host.path, &subscriber(Settings::default()));
    assert_eq!(late.settings.depth, 16);
}

#[test]
fn when_the_publisher_has_gone_the_next_one_decides() {
    let host = Host::new();
    let session = host.connect();
    let witness = Handle::ask(&host.path, &subscriber(Settings::default())).joined();
    for wanted in [4, 8] {
        let publisher = Handle::ask_on(&session, &publisher(depth(wanted))).joined();
        assert_eq!(publisher.settings.depth, wanted);
        let settings = publisher.settings;
        assert_eq!(witness.change(), Event::Decided { settings });
        witness.change();
        let id = publisher.id;
        drop(publisher);
        let dropped = false;
        assert_eq!(witness.change(), Event::PublisherLeft { id, dropped });
        witness.release(id);
        witness.session.barrier();
    }
}

#[test]
fn another_type_refuses_the_reader_and_not_the_publisher() {
    let host = Host::new();
    let early = Handle::ask(&host.path, &subscriber(Settings::default())).joined();
    // A subscriber of another type is told what is there.
    let number = open(Role::Subscriber, Schema::of::<u64>(), Settings::default());
    let (kind, why) = host.refused(&number);
    assert_eq!(kind, Refusal::Schema);
    assert!(why.contains("subscriber test (process "), "{why}");
    let publisher = open(Role::Publisher, Schema::of::<u64>(), Settings::default());
    let publisher = Handle::ask_on(&feed(&host), &publisher).joined();
    let (kind, why) = refused(&early);
    assert_eq!(kind, Refusal::Schema);
    assert!(
        why.contains("feed (process ") && why.contains("u64"),
        "{why}"
    );
    assert!(publisher.early.is_empty(), "{:?}", publisher.early);
    let late = Handle::ask(&host.path, &number).joined();
    let event = publisher.change();
    assert!(
        matches!(event, Event::SubscriberJoined { id, .. } if id == late.id),
        "{event:?}"
    );
}

/// Only retained rings keep it, and nobody reads these.
#[test]
fn a_topic_that_nothing_has_open_starts_anew_for_a_subscriber_of_another_type() {
    let host = Host::new();
    let session = host.connect();
    let watching = host.connect();
    let watch = watching.ask(&crate::common::watch_request("t"));
    assert!(matches!(watching.next(watch).0, Event::Watching { .. }));
    let retaining = Settings {
        retain: Some(1),
        ..small()
    };
    drop(Handle::ask_on(&session, &publisher(retaining)).joined());
    session.barrier();
    let Event::TopicAppeared { id: old, .. } = watching.next(watch).0 else {
        panic!("not told of the topic");
    };
    let number = open(Role::Subscriber, Schema::of::<u64>(), Settings::default());
    let late = Handle::ask_on(&session, &number).joined();
    assert_eq!(late.settings.retain, 0);
    assert!(late.early.is_empty());
    assert_eq!(watching.next(watch).0, Event::TopicGone { id: old });
    let appeared = watching.next(watch).0;
    assert!(
        matches!(appeared, Event::TopicAppeared { id, differs: Some(_), .. } if id != old),
        "{appeared:?}"
    );
}
