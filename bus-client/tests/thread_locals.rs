//! Handles in thread-locals: they end while the other thread-locals of their thread are being
//! destroyed, in an order that nobody chooses. What a handle does at its end must need none of them.

mod common;

use std::any::Any;
use std::cell::RefCell;
use std::sync::mpsc::channel;
use std::thread;

use bus_client::{Bus, Publisher, Subscriber};
use common::process::Process;
use common::role::{Given, play, say};
use common::stage::Stage;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata};

#[test]
#[ignore = "what the other tests start as processes of their own"]
fn role() {
    play(&[
        ("thread", thread_with_a_thread_local),
        ("log", logging_thread),
    ]);
}

thread_local! {
    static KEPT: RefCell<Option<Box<dyn Any>>> = const { RefCell::new(None) };
}

/// What a thread keeps in its thread-local.
fn make(what: &str, bus: Bus) -> Box<dyn Any> {
    match what {
        "bus" => Box::new(bus),
        "publisher" => {
            let mut publisher: Publisher<u64> = bus.publisher("t").unwrap();
            publisher.send(&1).unwrap();
            Box::new(publisher)
        }
        "subscriber" => Box::new(bus.subscriber::<u64>("t").unwrap()),
        "bytes publisher" => Box::new(bus.topic("b").unwrap().bytes_publisher().unwrap()),
        "bytes subscriber" => Box::new(bus.topic("b").unwrap().bytes_subscriber().unwrap()),
        "pattern subscriber" => Box::new(bus.pattern_subscriber::<u64>("*").unwrap()),
        "held" => {
            let subscriber: Subscriber<u64> = bus.subscriber("h").unwrap();
            bus.publisher("h").unwrap().send(&1_u64).unwrap();
            let held = subscriber.recv().unwrap().hold();
            Box::new((subscriber, held))
        }
        "state" => Box::new((
            bus.state_writer::<u64>("s").unwrap(),
            bus.state::<u64>("s").unwrap(),
        )),
        "keyed state" => Box::new((
            bus.keyed_state_writer::<String, u64>("k").unwrap(),
            bus.keyed_state::<String, u64>("k").unwrap(),
        )),
        what => panic!("no handle {what:?} in this test"),
    }
}

/// A thread keeps a handle in a thread-local and ends, after others have joined the topics of that
/// handle and left them. Says `lives` if the process is there after it.
fn thread_with_a_thread_local(given: &Given) {
    let what = given.get::<String>("what");
    let bus = given.bus();
    let other = given.bus();
    let ((ready, is_ready), (go, gone)) = (channel(), channel::<()>());
    let worker = thread::spawn(move || {
        KEPT.with(|kept| *kept.borrow_mut() = Some(make(&what, bus)));
        ready.send(()).unwrap();
        assert!(gone.recv().is_err());
    });
    is_ready.recv().unwrap();
    let numbers = (
        other.publisher::<u64>("t").unwrap(),
        other.subscriber::<u64>("t").unwrap(),
    );
    let bytes = (
        other.topic("b").unwrap().bytes_publisher().unwrap(),
        other.topic("b").unwrap().bytes_subscriber().unwrap(),
    );
    let states = (
        other.state::<u64>("s").unwrap(),
        other.keyed_state::<String, u64>("k").unwrap(),
    );
    drop(go);
    assert!(worker.join().is_ok());
    drop((numbers, bytes, states));
    say("lives");
}

thread_local! {
    static LINES: RefCell<String> = const { RefCell::new(String::new()) };
}

/// A log that builds its lines in a thread-local, as usual ones do.
struct Log;

impl tracing::Subscriber for Log {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn event(&self, event: &Event<'_>) {
        LINES.with(|lines| lines.borrow_mut().push_str(event.metadata().name()));
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// As [`thread_with_a_thread_local`]: a publisher ends whose messages nobody read. It is of the thread, or came
/// to it from another one.
fn logging_thread(given: &Given) {
    tracing::subscriber::set_global_default(Log).unwrap();
    let bus = given.bus();
    for moved in [false, true] {
        let open = |bus: &Bus| {
            let mut publisher: Publisher<u64> = bus.publisher("t").unwrap();
            publisher.send(&1).unwrap();
            publisher
        };
        let here = moved.then(|| open(&bus));
        let bus = bus.clone();
        let worker = thread::spawn(move || {
            KEPT.with(|kept| {
                let publisher = here.unwrap_or_else(|| open(&bus));
                *kept.borrow_mut() = Some(Box::new(publisher));
            });
            tracing::info!("this thread has a log");
        });
        assert!(worker.join().is_ok());
    }
    say("lives");
}

#[test]
fn a_warning_from_a_thread_local_does_not_end_the_process() {
    let stage = Stage::new();
    let settings: &[(&str, &dyn std::fmt::Display)] =
        &[("socket", &stage.path.display()), ("embedded", &true)];
    let mut process = Process::start("log", settings);
    process.expect("lives");
    process.finish();
}

#[test]
fn a_handle_in_a_thread_local_ends_with_its_thread_and_not_with_its_process() {
    for what in [
        "bus",
        "publisher",
        "subscriber",
        "bytes publisher",
        "bytes subscriber",
        "pattern subscriber",
        "held",
        "state",
        "keyed state",
    ] {
        let stage = Stage::new();
        // The process hosts the broker as well, whose thread may end with the last handle.
        let mut process = Process::start(
            "thread",
            &[
                ("socket", &stage.path.display()),
                ("embedded", &true),
                ("what", &what),
            ],
        );
        println!("{what}");
        process.expect("lives");
        process.finish();
    }
}
