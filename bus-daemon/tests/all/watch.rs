//! Watches are told of topics that match, as they come and go; a place is kept for them; nothing that they do or leave undone hurts others.

use std::os::fd::AsFd;

use crate::common::{self, Handle, Host, next, open_request, refusal};
use bus_core::Settings;
use bus_core::control::{Connection, Event, Refusal, Request, Role, Watched};
use bus_core::memory::reader_bytes;
use bus_core::memory::segment::{self, Kind};
use bus_core::schema::Schema;
use bus_daemon::MAX_IDLE_TOPICS;
use bus_testkit::needs;

fn watch_request(pattern: &str) -> Request {
    Request::Watch {
        client: "watcher".into(),
        pattern: pattern.into(),
        schema: Schema::bytes(),
        resumes: None,
    }
}

/// A watch, and what it was told of at once.
struct Watch {
    connection: Connection,
    id: u64,
    there: Vec<(u64, String)>,
}

impl Watch {
    fn open(host: &Host, pattern: &str) -> Self {
        let connection = host.connect();
        connection.send(&watch_request(pattern), &[]).unwrap();
        let mut there = Vec::new();
        loop {
            match next(&connection).0 {
                Event::Watching { id } => {
                    return Self {
                        connection,
                        id,
                        there,
                    };
                }
                Event::TopicAppeared { id, topic, .. } => there.push((id, topic)),
                other => panic!("{other:?}"),
            }
        }
    }

    /// The topic that it is told of next: its number and name.
    fn appeared(&self) -> (u64, String) {
        match next(&self.connection).0 {
            Event::TopicAppeared { id, topic, .. } => (id, topic),
            other => panic!("{other:?}"),
        }
    }

    fn gone(&self) -> u64 {
        match next(&self.connection).0 {
            Event::TopicGone { id } => id,
            other => panic!("{other:?}"),
        }
    }

    fn nothing(&self) {
        let event = self.connection.try_recv::<Event>().unwrap();
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
    let late = Handle::ask(&host.path, Role::Subscriber, &watch.open_request(&topic));
    publisher.nothing();
    let late = late.joined();
    let (event, descriptors) = next(&publisher.connection);
    assert!(
        matches!(event, Event::SubscriberJoined { version: 1, id, kept: false, .. } if id == late.id),
        "{event:?}"
    );
    segment::check(&descriptors[0], Kind::Reader, reader_bytes(&settings)).unwrap();
    let left = publisher.next();
    assert!(
        matches!(left, Event::SubscriberLeft { version: 2, id, .. } if id == watch.id),
        "{left:?}"
    );
    assert_eq!(told(&host.publisher("t")), [(late.id, false)]);
}

/// Each of these ends what is kept, and says so to publishers.
#[test]
fn a_place_is_given_up_when_nobody_will_take_it() {
    for (n, end) in ["declines", "goes", "opens and goes"]
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
                let declined = Request::Declined { topic: topic.0 };
                watch.connection.send(&declined, &[]).unwrap();
            }
            1 => drop(watch),
            _ => {
                let request = watch.open_request(&topic);
                drop(Handle::ask(&host.path, Role::Subscriber, &request));
            }
        }
        let left = publisher.next();
        assert!(
            matches!(left, Event::SubscriberLeft { version: 1, id: gone, .. } if gone == id),
            "{end}: {left:?}"
        );
        assert_eq!(told(&host.publisher("t")), [], "{end}");
    }
}

#[test]
fn what_ended_publishers_leave_is_owed_until_the_place_is_taken() {
    let host = Host::new();
    let watch = Watch::open(&host, "t");
    let mut ids = Vec::new();
    for index in 0..3 {
        let publisher = host.publisher("t");
        assert_eq!(publisher.index, index, "what is owed keeps its index");
        ids.push(publisher.id);
    }
    let topic = watch.appeared();
    watch.nothing();
    let late = Handle::ask(&host.path, Role::Subscriber, &watch.open_request(&topic)).joined();
    let told = late.early.iter().map(|event| match event {
        Event::PublisherJoined {
            id,
            index,
            ended: true,
            ..
        } => (*id, *index),
        other => panic!("{other:?}"),
    });
    assert!(told.eq(ids.into_iter().zip(0..)));
    assert_eq!(watch.gone(), topic.0, "watches keep nothing open");
    // The rings are read, and given back to nobody.
    (0..3).for_each(|index| late.release(index));
    // It may still sleep as others do; nobody will ring.
    let doorbell = bus_core::backend::doorbell::Doorbell::new().unwrap();
    let notify = &Request::Notify;
    late.connection.send(notify, &[doorbell.button()]).unwrap();
    late.connection.send(&Request::Wake, &[]).unwrap();
    let notified = late.next();
    assert!(
        matches!(notified, Event::Notified { version: 6 }),
        "{notified:?}"
    );
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
    let ask = |request: &Request| {
        let connection = host.connect();
        connection.send(request, &[]).unwrap();
        refusal(&connection)
    };
    let (kind, why) = ask(&watch.open_request(&topic));
    assert_eq!(kind, Refusal::Gone);
    assert!(why.contains("topic t was closed"), "{why}");
    let _another = host.subscriber("t");
    assert_eq!(ask(&watch.open_request(&topic)).0, Refusal::Gone);
    // Nor does it open one for a watch that is none.
    let mut strange = watch.open_request(&watch.appeared());
    if let Request::Open {
        watched: Some(watched),
        ..
    } = &mut strange
    {
        watched.watch += 1;
    }
    assert_eq!(ask(&strange).0, Refusal::Gone);
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
    let publisher = Handle::ask(&host.path, Role::Publisher, &request).joined();
    assert_eq!(told(&publisher), []);
    let Event::TopicAppeared {
        differs: Some(differs),
        ..
    } = next(&watch.connection).0
    else {
        panic!("it does not differ");
    };
    assert!(differs.contains("it carries u64"), "{differs}");
}

#[test]
fn what_is_wrong_with_a_watch_is_said() {
    let host = Host::new();
    let ask = |requests: &[Request]| {
        let connection = host.connect();
        for request in requests {
            connection.send(request, &[]).unwrap();
        }
        loop {
            if let Event::Refused { kind, why } = next(&connection).0 {
                return (kind, why);
            }
        }
    };
    let (kind, why) = ask(&[watch_request("a*")]);
    assert_eq!(kind, Refusal::BadName);
    assert!(why.contains("whole part"), "{why}");
    for requests in [
        &[Request::Declined { topic: 1 }][..],
        &[watch_request("**"), watch_request("**")],
        &[watch_request("**"), Request::Join],
        &[watch_request("**"), open_request(Role::Subscriber, "t")],
        &[open_request(Role::Subscriber, "t"), watch_request("**")],
    ] {
        assert_eq!(ask(requests).0, Refusal::Protocol, "{requests:?}");
    }
    let connection = host.connect();
    let request = watch_request("**");
    connection.send(&request, &[connection.as_fd()]).unwrap();
    assert_eq!(refusal(&connection).0, Refusal::Protocol);
}

/// A watch that stands still: the broker serves the others, keeps a bounded number of topics for it, and it hears of what is left.
#[test]
fn a_watch_that_does_not_read_costs_a_bounded_amount() {
    if !needs::descriptors(2_048) {
        return;
    }
    let host = Host::new();
    let watch = Watch::open(&host, "**");
    let rounds = 4 * MAX_IDLE_TOPICS;
    for n in 0..rounds {
        drop(host.publisher(&format!("t{n}")));
    }
    let late = Watch::open(&host, "**");
    assert_eq!(late.there.len(), MAX_IDLE_TOPICS);
    let mut expected: Vec<_> = late.there.iter().map(|(id, _)| *id).collect();
    expected.sort_unstable();
    // What it hears of now is there, or its end follows.
    let mut there = Vec::new();
    while there != expected {
        match next(&watch.connection).0 {
            Event::TopicAppeared { id, .. } => there.push(id),
            Event::TopicGone { id } => there.retain(|known| *known != id),
            other => panic!("{other:?}"),
        }
    }
}

/// Who stands still so that others are refused is named to them.
#[test]
fn a_publisher_that_finds_no_index_is_told_of_the_watch_that_keeps_them() {
    let host = Host::new();
    let watch = Watch::open(&host, "**");
    let reader = host.subscriber("t");
    let topic = watch.appeared();
    for _ in 0..60 {
        let publisher = host.publisher("t");
        reader.release(publisher.index);
    }
    common::until(|| reader.registry().publishers() == 120);
    let connection = host.connect();
    let open = open_request(Role::Publisher, "t");
    connection.send(&open, &[]).unwrap();
    let (_, why) = refusal(&connection);
    let me = std::process::id();
    let watcher = format!("wait to be read by the watch of watcher (process {me}, 60 rings);");
    assert!(why.contains(&watcher), "{why}");
    // It goes on, and reads them all.
    let late = Handle::ask(&host.path, Role::Subscriber, &watch.open_request(&topic)).joined();
    assert_eq!(late.early.len(), 60);
    (0..60).for_each(|index| late.release(index));
    common::until(|| {
        let connection = host.connect();
        connection.send(&open, &[]).unwrap();
        matches!(next(&connection).0, Event::Opened { .. })
    });
}
