//! What handles say in the log of their process: who keeps a publisher waiting, and that nobody read a message.

mod common;

use std::fmt::{Debug, Write as _};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bus_client::{Bus, Error};
use common::hosted::Hosted;
use common::role::{Given, hear, play, say};
use common::roles::HOST;
use common::stage::{Stage, connect};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

#[test]
#[ignore = "what the other tests start as processes of their own"]
fn role() {
    play(&[HOST, ("idler", idler)]);
}

/// Subscribes, and takes nothing.
fn idler(given: &Given) {
    let bus = given.bus();
    let _subscriber = given.topic(&bus).subscriber::<u64>().unwrap();
    say("joined");
    assert_eq!(hear(), None);
}

/// The warnings of a thread, a line each.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, " {field}={value:?}").unwrap();
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN
    }
    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// The warnings that something leads to on this thread.
fn warnings(work: impl FnOnce()) -> Vec<String> {
    let log = Log::default();
    tracing::subscriber::with_default(log.clone(), work);
    let lines = log.0.lock().unwrap();
    lines.clone()
}

fn stage() -> (Stage, Bus) {
    let stage = Stage::new();
    let bus = connect(&stage.path, true).unwrap();
    (stage, bus)
}

/// The one warning, which holds all of `parts`.
fn only(warnings: &[String], parts: &[&str]) {
    assert_eq!(warnings.len(), 1, "{warnings:#?}");
    for part in parts {
        assert!(warnings[0].contains(part), "no {part:?} in {}", warnings[0]);
    }
}

#[test]
fn a_wait_of_a_second_for_a_subscriber_of_this_process_is_told_once() {
    let (_stage, bus) = stage();
    let topic = || bus.topic("t").unwrap().depth(2);
    let _subscriber = topic().subscriber::<u64>().unwrap();
    let mut publisher = topic().publisher::<u64>().unwrap();
    let mut wait = |time| {
        warnings(|| {
            let sent = publisher.send_timeout(&1, Duration::from_millis(time));
            assert!(sent.is_ok() || matches!(sent, Err(Error::Timeout { .. })));
        })
    };
    for time in [0, 0, 300] {
        assert_eq!(wait(time), Vec::<String>::new());
    }
    let parts = [
        "topic=\"t\"",
        "subscriber=\"test\"",
        "messages=2",
        "this process",
    ];
    only(&wait(1500), &parts);
    only(&wait(1500), &parts);
}

#[test]
fn a_wait_of_a_second_for_another_process_names_that_process() {
    let stage = Hosted::new();
    let mut idler = stage.start("idler", &[("depth", &2)]);
    idler.expect("joined");
    let mut publisher = stage.publish("t");
    publisher.send(&1).unwrap();
    publisher.send(&2).unwrap();
    let told = warnings(|| {
        let sent = publisher.send_timeout(&3, Duration::from_millis(1500));
        assert!(matches!(sent, Err(Error::Timeout { .. })));
    });
    let process = format!("process={}", idler.pid());
    only(&told, &["subscriber=\"idler\"", &process, "messages=2"]);
    idler.finish();
}

#[test]
fn a_publisher_whose_messages_went_to_nobody_says_so_at_its_end() {
    let (_stage, bus) = stage();
    let mut publisher = bus.publisher::<u64>("t").unwrap();
    assert_eq!(
        warnings(|| {
            publisher.send(&1).unwrap();
            publisher.publish_batch(&[2, 3]).unwrap();
        }),
        Vec::<String>::new()
    );
    let parts = [
        "topic=\"t\"",
        "messages=3",
        "nobody",
        "wait_for_subscribers",
    ];
    only(&warnings(|| drop(publisher)), &parts);
    let mut bytes = bus.topic("b").unwrap().bytes_publisher().unwrap();
    bytes.send(b"x").unwrap();
    only(&warnings(|| drop(bytes)), &["topic=\"b\"", "messages=1"]);
}

#[test]
fn a_publisher_says_nothing_where_somebody_could_read_its_messages_or_it_sent_none() {
    let (_stage, bus) = stage();
    type End = fn(&Bus);
    let ends: [End; 6] = [
        |bus| drop(bus.publisher::<u64>("none").unwrap()),
        |bus| {
            let _subscriber = bus.subscriber::<u64>("read").unwrap();
            bus.publisher("read").unwrap().send(&1_u64).unwrap();
        },
        |bus| {
            let subscriber = bus.subscriber::<u64>("left").unwrap();
            let mut publisher = bus.publisher("left").unwrap();
            drop(subscriber);
            publisher.send(&1_u64).unwrap();
        },
        |bus| {
            let mut publisher = bus.topic("kept").unwrap().keep(4).publisher().unwrap();
            publisher.send(&1_u64).unwrap();
            let late = bus.topic("kept").unwrap().history(4);
            let late = late.subscriber::<u64>().unwrap();
            drop(publisher);
            assert_eq!(*late.recv().unwrap(), 1);
        },
        |bus| {
            let retained = bus.topic("retained").unwrap().keep(4).retain(1);
            retained.publisher().unwrap().send(&1_u64).unwrap();
        },
        |bus| {
            bus.state_writer::<u64>("state").unwrap().set(&1).unwrap();
        },
    ];
    for end in ends {
        assert_eq!(warnings(|| end(&bus)), Vec::<String>::new());
    }
}
