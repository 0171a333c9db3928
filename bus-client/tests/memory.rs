//! How much memory handles take, and what becomes of messages for which a ring has no room.
//!
//! Defaults are for a first attempt: no call takes more than 4 MiB that does not say so. A ring that cannot keep
//! as many messages as its topic says refuses the next one, and loses none that it has.

mod common;

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bus_client::{Bus, CoreError, Delivery, Error, TopicBuilder};
use common::stage::{Stage, connect, told};
use proptest::prelude::*;

/// One test at a time: each counts what this process has.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

const MIB: u64 = 1 << 20;

#[bus_client::message]
struct Trade {
    price: f64,
    venue: String,
    conditions: Vec<String>,
}

/// Bytes of all memory that this process shares with others.
fn shared() -> u64 {
    let open = fs::read_dir("/proc/self/fd").unwrap();
    let files = open.filter_map(|fd| {
        let path = fd.ok()?.path();
        let name = fs::read_link(&path).ok()?;
        let meta = fs::metadata(&path).ok()?;
        let is_shared = name.to_string_lossy().contains("/memfd:bus");
        is_shared.then_some((meta.ino(), meta.blocks() * 512))
    });
    files.collect::<HashMap<_, _>>().into_values().sum()
}

/// Bytes that a handle takes when it is opened.
fn taken<H>(open: impl FnOnce(&Bus) -> bus_client::Result<H>) -> u64 {
    let stage = Stage::new();
    let bus = connect(&stage.path, true).unwrap();
    let before = shared();
    let _handle = open(&bus).unwrap();
    shared() - before
}

fn topic(bus: &Bus) -> TopicBuilder {
    bus.topic("t").unwrap()
}

#[test]
fn no_call_takes_more_than_4_mib_that_does_not_say_so() {
    let _alone = alone();
    type Open = fn(&Bus) -> u64;
    macro_rules! calls {
        ($($name:literal: $open:expr),* $(,)?) => { [$(($name, |bus: &Bus| {
            let before = shared();
            let open: fn(&Bus) -> bus_client::Result<_> = $open;
            let _handle = open(bus).unwrap();
            shared() - before
        })),*] };
    }
    let calls: [(&str, Open); 24] = calls! {
        "publisher of numbers": |bus| bus.publisher::<u64>("t"),
        "publisher of strings": |bus| bus.publisher::<String>("t"),
        "publisher of a struct with strings": |bus| bus.publisher::<Trade>("t"),
        "publisher that keeps 30": |bus| topic(bus).keep(30).publisher::<Trade>(),
        "publisher that keeps 31": |bus| topic(bus).keep(31).publisher::<Trade>(),
        "publisher that keeps 1,000": |bus| topic(bus).keep(1000).publisher::<Trade>(),
        "publisher that keeps 1,000, lossy": |bus| topic(bus).keep(1000).lossy().publisher::<Trade>(),
        "publisher that keeps 4,000": |bus| topic(bus).keep(4000).publisher::<Trade>(),
        "publisher, lossy": |bus| topic(bus).lossy().publisher::<Trade>(),
        "publisher that evicts": |bus| {
            let delivery = Delivery::Evict { after_us: 1000 };
            topic(bus).delivery(delivery).publisher::<Trade>()
        },
        "publisher that fails": |bus| topic(bus).delivery(Delivery::Fail).publisher::<Trade>(),
        "publisher that retains": |bus| topic(bus).keep(100).retain(4).publisher::<Trade>(),
        "publisher of bytes": |bus| topic(bus).bytes_publisher(),
        "publisher of bytes that keeps 1,000": |bus| topic(bus).keep(1000).bytes_publisher(),
        "subscriber": |bus| bus.subscriber::<Trade>("t"),
        "subscriber, lossy": |bus| topic(bus).lossy().subscriber::<Trade>(),
        "subscriber of bytes with history": |bus| topic(bus).history(1000).bytes_subscriber(),
        "pattern subscriber": |bus| bus.pattern_subscriber::<Trade>("**"),
        "writer of a state": |bus| bus.state_writer::<Trade>("t"),
        "state": |bus| bus.state::<Trade>("t"),
        "writer of a keyed state of strings": |bus| bus.keyed_state_writer::<String, String>("t"),
        "writer of a keyed state of structs": |bus| bus.keyed_state_writer::<String, Trade>("t"),
        "writer of a keyed state of numbers": |bus| bus.keyed_state_writer::<u64, f64>("t"),
        "keyed state": |bus| bus.keyed_state::<String, Trade>("t"),
    };
    for (name, open) in calls {
        let stage = Stage::new();
        let bus = connect(&stage.path, true).unwrap();
        let bytes = open(&bus);
        println!("{name}: {} KiB", bytes >> 10);
        assert!(bytes < 4 * MIB, "{name} takes {bytes} bytes");
    }
}

#[test]
fn what_a_call_says_is_what_it_takes() {
    let _alone = alone();
    // Slots and 256 bytes for each message kept.
    let deep = taken(|bus| topic(bus).depth(65_536).keep(32_768).publisher::<String>());
    assert!(deep < 14 * MIB, "{deep}");
    // Room for as many of the longest payload as are kept, as that was said.
    let long = taken(|bus| {
        topic(bus)
            .keep(100)
            .max_payload(64 << 10)
            .publisher::<String>()
    });
    assert!(long >= 100 * (64 << 10), "{long}");
    let many = taken(|bus| topic(bus).keyed_state_writer::<String, f64>(20_000));
    assert!(many < 32 * MIB, "{many}");
}

#[test]
fn as_many_keys_as_are_allowed_can_be_asked_for() {
    let _alone = alone();
    let bytes = taken(|bus| topic(bus).keyed_state::<String, f64>(1_048_576));
    assert!(bytes < MIB, "{bytes}");
    let stage = Stage::new();
    let bus = connect(&stage.path, true).unwrap();
    told(
        topic(&bus).keyed_state::<String, f64>(1_048_577),
        &["keys", "1048576"],
    );
}

fn is_kept(error: &Error) -> bool {
    let Error::Topic { source, .. } = error else {
        return false;
    };
    matches!(source, CoreError::Kept { .. })
}

/// Long messages on a topic whose default is made for shorter ones.
#[test]
fn a_topic_that_cannot_keep_more_refuses_and_loses_nothing_that_it_keeps() {
    let _alone = alone();
    let deliveries = [
        Delivery::Wait,
        Delivery::Fail,
        Delivery::Lossy,
        Delivery::Evict { after_us: 1000 },
    ];
    for delivery in deliveries {
        for read in [false, true] {
            let stage = Stage::new();
            let bus = connect(&stage.path, true).unwrap();
            let open = || topic(&bus).keep(1000).delivery(delivery);
            let mut publisher = open().publisher::<String>().unwrap();
            let early = read.then(|| open().subscriber::<String>().unwrap());
            let text = "x".repeat(10_000);
            let mut sent = 0;
            let error = loop {
                match publisher.send(&text) {
                    Ok(sequence) => assert_eq!(sequence, sent),
                    Err(error) => break error,
                }
                sent += 1;
                if let Some(early) = &early {
                    assert_eq!(early.recv().unwrap().sequence(), sent - 1);
                }
                assert!(sent < 1000, "{delivery:?}: it never had to refuse one");
            };
            assert!(is_kept(&error), "{delivery:?}: {error}");
            assert!(sent > 150, "{delivery:?}: it kept {sent} only");
            told::<()>(
                Err(error),
                &["topic t", "up to 1000", "arena", "max_payload"],
            );
            assert!(publisher.try_send(&text).is_err_and(|e| is_kept(&e)));
            assert!(publisher.publish_batch([&text]).is_err_and(|e| is_kept(&e)));
            assert_eq!(publisher.nowhere(), 0);
            // What fits a slot needs no arena.
            assert_eq!(publisher.send(&"short".into()).unwrap(), sent);
            let late = open().history(1000).subscriber::<String>().unwrap();
            for sequence in 0..=sent {
                let message = late.try_recv().unwrap().expect("a kept message is gone");
                assert_eq!((message.sequence(), message.lost()), (sequence, 0));
            }
        }
    }
}

/// A slow subscriber is another matter: a publisher waits for that one.
#[test]
fn a_subscriber_that_is_behind_is_what_a_publisher_waits_for() {
    let _alone = alone();
    let stage = Stage::new();
    let bus = connect(&stage.path, true).unwrap();
    let subscriber = topic(&bus).subscriber::<String>().unwrap();
    let mut publisher = topic(&bus).publisher::<String>().unwrap();
    let text = "x".repeat(60_000);
    let error = loop {
        match publisher.try_send(&text) {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    // A deeper ring would not help: the arena is what is full.
    assert!(matches!(error, Error::Full { .. }), "{error}");
    told::<()>(Err(error), &["messages behind", "a larger arena or depth"]);
    assert!(subscriber.try_recv().unwrap().is_some());
}

#[test]
fn a_keyed_state_of_few_long_values_goes_on_for_ever() {
    let _alone = alone();
    let stage = Stage::new();
    let bus = connect(&stage.path, true).unwrap();
    let mut writer = bus.keyed_state_writer::<u32, String>("k").unwrap();
    let mut early = bus.keyed_state::<u32, String>("k").unwrap();
    let value = |key: u32, round: u32| format!("{key} {round} {}", "x".repeat(60_000));
    // The one that is set once lies before all others.
    writer.set(0, value(0, 0)).unwrap();
    for round in 0..100 {
        for key in 1..10 {
            writer.set(key, value(key, round)).unwrap();
        }
    }
    let mut late = bus.keyed_state::<u32, String>("k").unwrap();
    for state in [&mut early, &mut late] {
        assert_eq!(state.len().unwrap(), 10);
        assert_eq!(state.get(&0).unwrap().unwrap().as_str(), value(0, 0));
        for key in 1..10 {
            assert_eq!(state.get(&key).unwrap().unwrap().as_str(), value(key, 99));
        }
    }
}

#[test]
fn a_keyed_state_whose_values_take_too_much_refuses_and_goes_on_when_some_are_removed() {
    let _alone = alone();
    let stage = Stage::new();
    let bus = connect(&stage.path, true).unwrap();
    let mut writer = bus.keyed_state_writer::<u32, String>("k").unwrap();
    let value = |key: u32, round: u32| format!("{key} {round} {}", "x".repeat(60_000));
    for _ in 0..3 {
        let mut keys = 0;
        let error = loop {
            match writer.set(keys, value(keys, 0)) {
                Ok(()) => keys += 1,
                Err(error) => break error,
            }
        };
        assert!(is_kept(&error), "{error}");
        // Half of 2 MiB, as the documents say, and more where there is room.
        assert!(keys >= 16, "it took {keys} keys only");
        for key in 0..keys {
            assert!(writer.set(key, value(key, 1)).is_err_and(|e| is_kept(&e)));
        }
        let mut late = bus.keyed_state::<u32, String>("k").unwrap();
        assert_eq!(late.len().unwrap(), keys as usize);
        for key in 0..keys {
            assert_eq!(late.get(&key).unwrap().unwrap().as_str(), value(key, 0));
        }
        for key in 0..keys / 2 {
            assert!(writer.remove(&key).unwrap());
        }
        for key in keys / 2..keys {
            writer.set(key, value(key, 2)).unwrap();
            assert!(writer.remove(&key).unwrap());
        }
        assert_eq!(late.len().unwrap(), 0);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Set(u8, u16),
    Remove(u8),
    Look,
    Join,
    NewWriter,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        40 => (0..12_u8, 0..8000_u16).prop_map(|(key, len)| Step::Set(key, len)),
        6 => (0..12_u8).prop_map(Step::Remove),
        3 => Just(Step::Look),
        2 => Just(Step::Join),
        1 => Just(Step::NewWriter),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 24, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default()
    })]

    /// Values of all lengths in an arena that holds less than the ring keeps: they are sent again in time.
    #[test]
    fn readers_of_a_state_in_a_small_arena_see_the_latest_of_each_key(
        steps in prop::collection::vec(step(), 1..600)
    ) {
        let _alone = alone();
        let stage = Stage::new();
        let bus = connect(&stage.path, true).unwrap();
        let open = || bus.topic("k").unwrap().max_payload(8192).arena(16 * 8192);
        let reader = || open().keyed_state::<u8, String>(200).unwrap();
        let writer = || open().keyed_state_writer::<u8, String>(200).unwrap();
        let text = |key: u8, len: u16| format!("{key}").repeat(usize::from(len) / 2);
        let mut current = writer();
        let (mut readers, mut model) = (vec![reader()], HashMap::new());
        let check = |reader: &mut bus_client::KeyedState<u8, String>, model: &HashMap<u8, String>| {
            let seen = reader.iter().unwrap();
            let seen: HashMap<u8, String> =
                seen.map(|(key, value)| (*key, value.as_str().to_owned())).collect();
            assert!(seen == *model, "{:?} {:?}", seen.keys(), model.keys());
        };
        for step in steps {
            match step {
                Step::Set(key, len) => {
                    match current.set(key, text(key, len)) {
                        Ok(()) => drop(model.insert(key, text(key, len))),
                        Err(error) => {
                            let bytes: usize = model.values().map(|value| value.len() + 100).sum();
                            prop_assert!(is_kept(&error), "{}", error);
                            prop_assert!(bytes > 8 * 8192, "{} bytes are in its way", bytes);
                        }
                    }
                }
                Step::Remove(key) => {
                    prop_assert_eq!(current.remove(&key).unwrap(), model.remove(&key).is_some());
                }
                Step::Look => check(readers.last_mut().unwrap(), &model),
                Step::Join => {
                    readers.push(reader());
                    if readers.len() > 3 {
                        readers.remove(0);
                    }
                }
                Step::NewWriter => {
                    drop(current);
                    current = writer();
                }
            }
        }
        readers.push(reader());
        for reader in &mut readers {
            check(reader, &model);
        }
    }
}
