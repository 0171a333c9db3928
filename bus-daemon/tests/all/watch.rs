//! Watches are told of topics that match, as they come and go; a place is kept for them; nothing that they do or leave undone hurts others.

use std::os::fd::AsFd;
use std::sync::Arc;

use crate::common::{Handle, Host, Session, open_request, until, watch_request};
use bus_core::Settings;
use bus_core::control::{Event, Refusal, Request, Role, Watched};
use bus_core::memory::reader_bytes;
use bus_core::memory::segment::{self, Kind};
use bus_core::schema::Schema;
use bus_daemon::MAX_IDLE_TOPICS;
use bus_testkit::needs;

/// A watch, and what it was told of at once.
struct Watch {
    session: Arc<Session>,
    number: u32,
    id: u64,
    there: Vec<(u64, String)>,
}

impl Watch {
    fn open(host: &Host, pattern: &str) -> Self {
        Self::open_on(&host.connect(), pattern)
    }

    fn open_on(session: &Arc<Session>, pattern: &str) -> Self {
        let number = session.ask(&watch_request(pattern));
        let mut there = Vec::new();
        loop {
            match session.next(number).0 {
                Event::Watching { id } => {
                    let session = Arc::clone(session);
                    return Self {
                        session,
                        number,
                        id,
                        there,
                    };
                }
                Event::TopicAppeared { id, topic, .. } => there.push((id, topic)),
                other => panic!("{other:?}"),
            }
        }
    }

    fn next(&self) -> Event {
        self.session.next(self.number).0
    }

    /// The topic that it is told of next: its number and name.
    fn appeared(&self) -> (u64, String) {
        match self.next() {
            Event::TopicAppeared { id, topic, .. } => (id, topic),
            other => panic!("{other:?}"),
        }
    }

    fn gone(&self) -> u64 {
        match self.next() {
            Event::TopicGone { id } => id,
            other => panic!("{other:?}"),
        }
    }

    fn nothing(&self) {
        let event = self.session.try_next(self.number);
        assert!(event.is_none(), "{event:?}");
    }

    /// A request to open the subscriber for a topic that it was told of.
    fn open_request(&self, (id, topic): &(u64, String)) -> Request {
        let mut request = open_request(Role::Subscriber, topic);
        if let Request::Open { watched, .. } = &mut request {
            *watched = Some(Watched {
                watch: self.id,
                topic: *id,
            });
        }
        request
    }

    /// Opens the subscriber for a topic that it was told of.
    fn subscriber(&self, topic: &(u64, String)) -> Handle {
        Handle::ask_on(&self.session, &self.open_request(topic))
    }

    /// Ends the watch, and leaves the rest of its session alone.
    fn close(&self) {
        (self.session).send(self.number, &Request::Close {}, &[]);
    }
}

/// Who a publisher was told of before it joined: id, and whether it is a place that is kept.
fn told(publisher: &Handle) -> Vec<(u64, bool)> {
    let told = publisher.early.iter().map(|event| match event {
        Event::SubscriberJoined { id, kept, .. } => (*id, *kept),
        other => panic!("{other:?}"),
    });
    told.collect()
}

#[test]
fn a_watch_hears_of_what_matches_as_it_comes_and_goes() {
    let host = Host::new();
    let a = host.publisher("x/a");
    let _other = host.publisher("y/a");
    let watch = Watch::open(&host, "x/*");
    assert_eq!(watch.there.len(), 1);
    assert_eq!(watch.there[0].1, "x/a");
    let b = host.subscriber("x/b");
    let (number, name) = watch.appeared();
    assert_eq!(name, "x/b");
    drop(host.publisher("x/a"));
    drop(b);
    assert_eq!(watch.gone(), number);
    drop(a);
    assert_eq!(watch.gone(), watch.there[0].0);
    let again = host.subscriber("x/b");
    assert_ne!(watch.appeared().0, number, "it is another one");
    drop(host.publisher("x/b/c"));
    drop(again);
    watch.gone();
    watch.nothing();
}

#[test]
fn a_place_is_kept_until_its_subscriber_has_joined() {
    let host = Host::new();
    let watch = Watch::open(&host, "**");
    let opened = Handle::open(&host.path, Role::Publisher, "t");
    let topic = watch.appeared();
    let settings = opened.settings;
    let publisher = opened.joined();
    assert_eq!(told(&publisher), [(watch.id, true)]);
    let late = watch.subscriber(&topic);
    publisher.nothing();
    let late = late.joined();
    let (event, descriptors) = publisher.change_told();
    assert!(
        matches!(event, Event::SubscriberJoined { id, kept: false, .. } if id == late.id),
        "{event:?}"
    );
    segment::check(&descriptors[0], Kind::Reader, reader_bytes(&settings)).unwrap();
    assert_eq!(publisher.change(), Event::SubscriberLeft { id: watch.id });
    assert_eq!(told(&host.publisher("t")), [(late.id, false)]);
}

/// Each of these ends what is kept, and says so to publishers.
#[test]
fn a_place_is_given_up_when_nobody_will_take_it() {
    for (n, end) in [
        "declines",
        "is closed",
        "goes with its session",
        "opens and closes",
    ]
    .into_iter()
    .enumerate()
    {
        let host = Host::new();
        let watch = Watch::open(&host, "**");
        let publisher = host.publisher("t");
        let topic = watch.appeared();
        let id = watch.id;
        match n {
            0 => {
                let declined = Request::Decline { topic: topic.0 };
                watch.session.send(watch.number, &declined, &[]);
            }
            1 => watch.close(),
            2 => drop(watch),
            _ => drop(watch.subscriber(&topic)),
        }
        assert_eq!(publisher.change(), Event::SubscriberLeft { id }, "{end}");
        assert_eq!(told(&host.publisher("t")), [], "{end}");
    }
}

#[test]
fn what_ended_publishers_leave_is_owed_until_the_place_is_taken() {
    let host = Host::new();
    let watch = Watch::open(&host, "t");
    let session = host.connect();
    let mut ids = Vec::new();
    for index in 0..3 {
        let publisher = Handle::open_on(&session, Role::Publisher, "t").joined();
        assert_eq!(publisher.index, index, "what is owed keeps its index");
        ids.push(publisher.id);
    }
    session.barrier();
    let topic = watch.appeared();
    watch.nothing();
    let mut late = watch.subscriber(&topic).joined();
    let told = late.early.iter().map(|event| match event {
        Event::PublisherJoined {
            id,
            index,
            ended: true,
            ..
        } => (*id, *index),
        other => panic!("{other:?}"),
    });
    assert!(told.eq(ids.iter().copied().zip(0..)));
    assert_eq!(watch.gone(), topic.0, "watches keep nothing open");
    // The rings are read, and given back to nobody.
    ids.into_iter().for_each(|ring| late.release(ring));
    // It may still sleep as others do; nobody will ring.
    late.register_doorbell();
    (late.session).send(late.number, &Request::Wake {}, &[]);
    late.session.barrier();
    late.nothing();
    let anew = host.publisher("t");
    assert_eq!(anew.index, 0);
    assert_ne!(watch.appeared().0, topic.0);
}

#[test]
fn a_topic_that_is_gone_is_not_made_anew_for_a_watch() {
    let host = Host::new();
    let watch = Watch::open(&host, "t");
    drop(host.subscriber("t"));
    let topic = watch.appeared();
    assert_eq!(watch.gone(), topic.0);
    let (kind, why) = watch.session.refused(&watch.open_request(&topic));
    assert_eq!(kind, Refusal::Gone);
    assert!(why.contains("topic t was closed"), "{why}");
    let _another = host.subscriber("t");
    let refused = |request: &Request| watch.session.refused(request).0;
    assert_eq!(refused(&watch.open_request(&topic)), Refusal::Gone);
    // Nor does it open one for a watch that is none, or another session's.
    let there = watch.appeared();
    let mut strange = watch.open_request(&there);
    if let Request::Open {
        watched: Some(watched),
        ..
    } = &mut strange
    {
        watched.watch += 1;
    }
    assert_eq!(refused(&strange), Refusal::Gone);
    assert_eq!(host.refused(&watch.open_request(&there)).0, Refusal::Gone);
}

#[test]
fn another_type_is_told_of_in_words_and_keeps_no_place() {
    let host = Host::new();
    let watch = Watch::open(&host, "**");
    let mut request = open_request(Role::Publisher, "t");
    if let Request::Open {
        schema, settings, ..
    } = &mut request
    {
        *schema = Schema::of::<u64>();
        *settings = Settings::default();
    }
    let publisher = Handle::ask(&host.path, &request).joined();
    assert_eq!(told(&publisher), []);
    let Event::TopicAppeared {
        differs: Some(differs),
        ..
    } = watch.next()
    else {
        panic!("it does not differ");
    };
    assert!(differs.contains("it carries u64"), "{differs}");
}

#[test]
fn what_is_wrong_with_a_watch_is_said() {
    let host = Host::new();
    let (kind, why) = host.refused(&watch_request("a*"));
    assert_eq!(kind, Refusal::BadName);
    assert!(why.contains("whole part"), "{why}");
    for request in [
        watch_request("**"),
        Request::Join {},
        Request::Released { ring: 1 },
        open_request(Role::Subscriber, "t"),
    ] {
        let watch = Watch::open(&host, "**");
        watch.session.send(watch.number, &request, &[]);
        assert_eq!(watch.session.refusal(watch.number).0, Refusal::Protocol);
    }
    let subscriber = Handle::open(&host.path, Role::Subscriber, "t");
    subscriber.difference();
    let session = &subscriber.session;
    session.send(subscriber.number, &watch_request("**"), &[]);
    assert_eq!(session.refusal(subscriber.number).0, Refusal::Protocol);
    let watch = Watch::open(&host, "**");
    let descriptor = watch.session.connection.as_fd();
    let decline = Request::Decline { topic: 1 };
    watch.session.send(watch.number, &decline, &[descriptor]);
    assert_eq!(watch.session.refusal(watch.number).0, Refusal::Protocol);
}

/// A watch that stands still: the broker serves the others, keeps a bounded number of topics for it, and it hears of what is left.
#[test]
fn a_watch_that_does_not_read_costs_a_bounded_amount() {
    if !needs::descriptors(2_048) {
        return;
    }
    bus_daemon::raise_descriptor_limit();
    let host = Host::new();
    let watch = Watch::open(&host, "**");
    let rounds = 4 * MAX_IDLE_TOPICS;
    let session = host.connect();
    for n in 0..rounds {
        drop(Handle::open_on(&session, Role::Publisher, &format!("t{n}")).joined());
    }
    session.barrier();
    let late = Watch::open(&host, "**");
    assert_eq!(late.there.len(), MAX_IDLE_TOPICS);
    let mut expected: Vec<_> = late.there.iter().map(|(id, _)| *id).collect();
    expected.sort_unstable();
    // What it hears of now is there, or its end follows.
    let mut there = Vec::new();
    while there != expected {
        match watch.next() {
            Event::TopicAppeared { id, .. } => there.push(id),
            Event::TopicGone { id } => there.retain(|known| *known != id),
            other => panic!("{other:?}"),
        }
    }
}

/// A client that stands still so that others are refused is named to them.
#[test]
fn a_publisher_that_finds_no_index_is_told_of_the_watch_that_keeps_them() {
    let host = Host::new();
    let watch = Watch::open(&host, "**");
    let session = host.connect();
    for _ in 0..60 {
        drop(Handle::open_on(&session, Role::Publisher, "t").joined());
    }
    let topic = watch.appeared();
    let open = open_request(Role::Publisher, "t");
    let (_, why) = session.refused(&open);
    let me = std::process::id();
    let watcher = format!("wait to be read by the watch of test (process {me}, 60 rings);");
    assert!(why.contains(&watcher), "{why}");
    // It goes on, and reads them all.
    let late = watch.subscriber(&topic).joined();
    let rings: Vec<_> = late.known().iter().map(|peer| peer.id).collect();
    assert_eq!(rings.len(), 60);
    rings.into_iter().for_each(|ring| late.release(ring));
    until(|| Handle::try_ask_on(&session, &open).is_ok());
}
