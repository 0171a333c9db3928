//! Handles move between threads, and a process has as many as it likes. No handle is for two threads at once: the
//! compiler says so, here as well.

use std::sync::Barrier;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use crate::common::content::Content;
use crate::common::ledger::Ledger;
use crate::common::process::Process;
use crate::common::role::{Given, play, say, wait_for};
use crate::common::roles::{HOST, start_host};
use bus_client::{Bus, BytesPublisher, BytesSubscriber, Error, Publisher, Subscriber};

/// Publishers of each process, and subscribers of each process.
const EACH: u32 = 4;
/// Messages of each publisher.
const COUNT: u64 = 2_000;

#[test]
#[ignore = "what the other tests start as processes of their own"]
fn role() {
    play(&[HOST, ("crowd", crowd)]);
}

/// Fails to compile where `$t` is `Sync`: then both impls apply, and which one is meant cannot be told.
macro_rules! send_and_not_sync {
    ($($t:ty),*) => {$(
        const _: fn() = || {
            trait Told<A> {
                fn apart() {}
            }
            struct Shared;
            impl<T: ?Sized> Told<()> for T {}
            impl<T: ?Sized + Sync> Told<Shared> for T {}
            let _ = <$t as Told<_>>::apart;
            fn moves<T: Send>() {}
            let _ = moves::<$t>;
        };
    )*};
}

send_and_not_sync!(
    Publisher<u64>,
    Publisher<String>,
    Subscriber<u64>,
    Subscriber<String>,
    BytesPublisher,
    BytesSubscriber
);

/// A bus is for all threads.
const _: fn() = || {
    fn shared<T: Send + Sync + Clone>() {}
    let _ = shared::<Bus>;
};

/// Opens publishers and subscribers of one topic, each on a thread of its own, and says `joined`; at `go` sends, and receives from
/// everybody to the end. Says `received` with how many each subscriber got.
fn crowd(given: &Given) {
    let bus = given.bus();
    let base = given.get::<u32>("tag") * EACH;
    let all_joined = Barrier::new(2 * EACH as usize + 1);
    let (told, go) = (Barrier::new(EACH as usize + 1), given);
    let counts: Vec<u64> = thread::scope(|scope| {
        for tag in base..base + EACH {
            let (bus, all_joined, told) = (&bus, &all_joined, &told);
            scope.spawn(move || {
                let mut publisher = go.topic(bus).bytes_publisher().unwrap();
                all_joined.wait();
                told.wait();
                let mut bytes = Vec::new();
                for sequence in 0..COUNT {
                    let content = Content {
                        sequence,
                        tag,
                        note: 0,
                    };
                    content.write(&mut bytes);
                    assert_eq!(publisher.send(&bytes).unwrap(), sequence);
                }
            });
        }
        let takers: Vec<_> = (0..EACH)
            .map(|_| {
                let (bus, all_joined) = (&bus, &all_joined);
                scope.spawn(move || {
                    let topic = go.topic(bus).end_with_publishers();
                    let subscriber = topic.bytes_subscriber().unwrap();
                    all_joined.wait();
                    let mut ledger = Ledger::default();
                    loop {
                        match subscriber.recv() {
                            Ok(m) => drop(ledger.enter(m.publisher(), m.sequence(), m.bytes())),
                            Err(Error::Ended { .. }) => break ledger.count(),
                            Err(error) => panic!("{error}"),
                        }
                    }
                })
            })
            .collect();
        all_joined.wait();
        say("joined");
        wait_for("go");
        told.wait();
        takers.into_iter().map(|t| t.join().unwrap()).collect()
    });
    say(format_args!("received {counts:?}"));
}

#[test]
fn many_handles_of_several_processes_share_a_topic() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock");
    let host = start_host(&path);
    let mut crowds: Vec<_> = (0..2)
        .map(|tag| {
            Process::start(
                "crowd",
                &[
                    ("socket", &path.display()),
                    ("tag", &tag),
                    ("depth", &64),
                    ("stride", &256),
                ],
            )
        })
        .collect();
    crowds.iter_mut().for_each(|c| drop(c.expect("joined")));
    crowds.iter_mut().for_each(|c| c.tell("go"));
    let all = COUNT * u64::from(2 * EACH);
    for mut crowd in crowds {
        let counts = vec![all; EACH as usize];
        assert_eq!(crowd.expect("received"), format!("{counts:?}"));
        crowd.finish();
    }
    host.finish();
}

/// Takes what comes, works with it, and passes it on.
fn pass_on<T>(from: Receiver<T>, to: Sender<T>, mut work: impl FnMut(&mut T) -> bool) {
    for mut thing in from {
        let more = work(&mut thing);
        // The other one has stopped when it saw the end.
        if !more || to.send(thing).is_err() {
            return;
        }
    }
}

#[test]
fn handles_go_from_thread_to_thread() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock");
    let host = start_host(&path);
    let bus = Bus::builder("test").socket(path).embedded(false);
    let bus = bus.connect().unwrap();
    let subscriber = bus.topic("t").unwrap().depth(8);
    let subscriber = subscriber.subscriber::<String>().unwrap();
    let publisher = bus.publisher::<String>("t").unwrap();
    let send = |publisher: &mut Publisher<String>| {
        let n = publisher.send(&String::new()).unwrap() + 1;
        assert_eq!(publisher.send(&format!("{n}")).unwrap(), n);
        n < COUNT - 1
    };
    let take = |(subscriber, next): &mut (Subscriber<String>, u64)| {
        let empty = subscriber.recv().unwrap();
        let number = subscriber.recv().unwrap();
        assert_eq!((empty.as_str(), empty.sequence()), ("", *next));
        assert_eq!(number.as_str(), format!("{}", *next + 1));
        *next += 2;
        *next < COUNT
    };
    thread::scope(|scope| {
        let ((a, from_a), (b, from_b)) = (channel(), channel());
        a.send(publisher).unwrap();
        scope.spawn(move || pass_on(from_a, b, send));
        scope.spawn(move || pass_on(from_b, a, send));
        let ((a, from_a), (b, from_b)) = (channel(), channel());
        a.send((subscriber, 0)).unwrap();
        scope.spawn(move || pass_on(from_a, b, take));
        scope.spawn(move || pass_on(from_b, a, take));
    });
    drop(bus);
    host.finish();
}
