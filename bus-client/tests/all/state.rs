//! State: the latest value is there at any time, whoever comes, goes, is slow, or is killed.
//!
//! Classes of bugs that this is to catch: a reader sees half a value, or an older one after a newer; a value goes with its writer; a key is
//! lost when the ring goes round, or comes back after it was removed.

use std::collections::HashMap;
use std::time::Duration;

use crate::common;
use crate::common::process::WATCHDOG;
use crate::common::role::{Given, play, say};
use crate::common::roles::{HOST, start_host};
use crate::common::stage::{Stage, hosting};
use bus_client::{Bus, Error, KeyedState, KeyedStateWriter};
use proptest::prelude::*;

#[bus_client::message]
#[derive(Clone)]
struct Value {
    number: u64,
    name: String,
    copies: Vec<u64>,
}

fn value(number: u64) -> Value {
    Value {
        number,
        name: format!("value {number}"),
        copies: vec![number; (number % 50) as usize],
    }
}

fn right(value: &ArchivedValue) -> u64 {
    let number = value.number.to_native();
    assert_eq!(value.name, format!("value {number}"));
    assert_eq!(value.copies.len() as u64, number % 50);
    assert!(value.copies.iter().all(|copy| copy.to_native() == number));
    number
}

fn connect(stage: &Stage) -> Bus {
    hosting("test", &stage.path).connect().unwrap()
}

#[test]
#[ignore = "what the other tests start as processes of their own"]
fn role() {
    play(&[HOST, ("writer", writer), ("reader", reader)]);
}

/// Sets values as fast as it can; says `set` when the first one is there.
fn writer(given: &Given) {
    let bus = given.bus();
    let mut state = bus.state_writer::<Value>("s").unwrap();
    for number in given.get("first").. {
        state.set(&value(number)).unwrap();
        if number % 1000 == 0 {
            say(format_args!("set {number}"));
        }
    }
}

/// Reads until told to end; says `read` with the number of looks.
fn reader(given: &Given) {
    let bus = given.bus();
    let mut state = bus.state::<Value>("s").unwrap();
    say("reads");
    let lines = common::role::lines();
    let (mut looks, mut last) = (0_u64, 0);
    let mut ends = false;
    while !ends {
        // One more look after the last word.
        ends = lines.try_recv().is_ok();
        if let Some(value) = state.get().unwrap() {
            let number = right(value);
            assert!(number >= last, "{number} after {last}");
            last = number;
        }
        looks += 1;
    }
    say(format_args!("read {looks}"));
    say(format_args!("last {last}"));
}

#[test]
fn a_value_is_there_for_who_comes_later_and_after_its_writer() {
    let stage = Stage::new();
    let bus = connect(&stage);
    let mut early = bus.state::<Value>("s").unwrap();
    assert!(early.get().unwrap().is_none());
    assert!(!early.changed(Some(Duration::ZERO)).unwrap());
    let mut writer = bus.state_writer::<Value>("s").unwrap();
    assert!(early.get().unwrap().is_none());
    for number in 1..=100 {
        writer.set(&value(number)).unwrap();
    }
    assert!(early.changed(Some(WATCHDOG)).unwrap());
    assert_eq!(right(early.get().unwrap().unwrap()), 100);
    assert!(!early.changed(Some(Duration::ZERO)).unwrap());
    let mut late = bus.state::<Value>("s").unwrap();
    assert_eq!(right(late.get().unwrap().unwrap()), 100);
    assert_eq!(late.writer().unwrap().unwrap().client, "test");
    let error = bus.state_writer::<Value>("s").err().unwrap();
    assert!(matches!(error, Error::Refused(_)), "{error}");
    assert!(error.to_string().contains("test"), "{error}");
    drop(writer);
    for state in [&mut early, &mut late, &mut bus.state::<Value>("s").unwrap()] {
        assert_eq!(right(state.get().unwrap().unwrap()), 100);
        assert_eq!(state.writer().unwrap(), None);
    }
    // Writers that set nothing do not lose it.
    for _ in 0..3 {
        drop(bus.state_writer::<Value>("s").unwrap());
    }
    drop((early, late));
    let mut last = bus.state::<Value>("s").unwrap();
    assert_eq!(right(last.get().unwrap().unwrap()), 100);
}

#[test]
fn a_writer_that_is_killed_leaves_a_whole_value_and_the_next_goes_on() {
    let stage = Stage::new();
    let host = start_host(&stage.path);
    let mut readers: Vec<_> = (0..2).map(|_| stage.start("reader")).collect();
    readers.iter_mut().for_each(|reader| {
        reader.expect("reads");
    });
    let bus = Bus::builder("test").socket(&stage.path).embedded(false);
    let bus = bus.connect().unwrap();
    let mut own = bus.state::<Value>("s").unwrap();
    let mut least = 0;
    for _ in 0..8 {
        let first = least + 1;
        let socket = stage.path.display();
        let mut writer =
            common::process::Process::start("writer", &[("socket", &socket), ("first", &first)]);
        writer.await_word("set");
        let killed: u64 = writer.await_word("set").parse().unwrap();
        writer.kill();
        writer.reap();
        // Until the broker has noticed, the place is taken.
        while own.writer().unwrap().is_some() {
            own.changed(Some(Duration::from_millis(1))).unwrap();
        }
        let mut late = bus.state::<Value>("s").unwrap();
        let late = right(late.get().unwrap().unwrap());
        assert_eq!(right(own.get().unwrap().unwrap()), late);
        assert!(late >= killed, "{late} {killed}");
        least = late;
    }
    for mut reader in readers {
        reader.tell("end");
        assert!(reader.number("read") > 0);
        assert_eq!(reader.number("last"), least);
        reader.finish();
    }
    host.finish();
}

fn keyed(bus: &Bus, keys: u32) -> KeyedState<u32, Value> {
    bus.topic("k").unwrap().keyed_state(keys).unwrap()
}

fn keyed_writer(bus: &Bus, keys: u32) -> KeyedStateWriter<u32, Value> {
    bus.topic("k").unwrap().keyed_state_writer(keys).unwrap()
}

#[test]
fn a_keyed_state_takes_as_many_keys_as_it_says() {
    let stage = Stage::new();
    let bus = connect(&stage);
    let mut writer = keyed_writer(&bus, 3);
    let mut state = keyed(&bus, 3);
    for key in 0..3 {
        writer.set(key, value(key.into())).unwrap();
    }
    let error = writer.set(3, value(3)).unwrap_err().to_string();
    assert!(
        error.contains("state k") && error.contains("3 keys"),
        "{error}"
    );
    assert!(writer.remove(&0).unwrap() && !writer.remove(&0).unwrap());
    writer.set(3, value(3)).unwrap();
    assert!(state.changed(Some(WATCHDOG)).unwrap());
    let mut there: Vec<u32> = state.iter().unwrap().map(|(key, _)| *key).collect();
    there.sort_unstable();
    assert_eq!(there, [1, 2, 3]);
    assert!(
        bus.topic("k")
            .unwrap()
            .keyed_state::<u32, Value>(0)
            .is_err()
    );
}

#[derive(Clone, Debug)]
enum Step {
    Set(u32, u64),
    Remove(u32),
    Look(usize),
    Join,
    NewWriter,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => (0..6_u32, 0..1000_u64).prop_map(|(key, number)| Step::Set(key, number)),
        4 => (0..6_u32).prop_map(Step::Remove),
        2 => (0..3_usize).prop_map(Step::Look),
        1 => Just(Step::Join),
        1 => Just(Step::NewWriter),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]

    /// Readers that look seldom are lapped; all see what a map says.
    #[test]
    fn every_reader_sees_the_latest_of_each_key(steps in prop::collection::vec(step(), 1..400)) {
        let stage = Stage::new();
        let bus = connect(&stage);
        let mut writer = keyed_writer(&bus, 6);
        let mut readers = vec![keyed(&bus, 6)];
        let mut model = HashMap::new();
        let check = |state: &mut KeyedState<u32, Value>, model: &HashMap<u32, u64>| {
            let seen: HashMap<u32, u64> =
                state.iter().unwrap().map(|(key, value)| (*key, right(value))).collect();
            assert_eq!(&seen, model);
        };
        for step in steps {
            match step {
                Step::Set(key, number) => {
                    writer.set(key, value(number)).unwrap();
                    model.insert(key, number);
                }
                Step::Remove(key) => {
                    prop_assert_eq!(writer.remove(&key).unwrap(), model.remove(&key).is_some());
                }
                Step::Look(reader) => {
                    let at = reader % readers.len();
                    check(&mut readers[at], &model);
                }
                Step::Join => {
                    readers.push(keyed(&bus, 6));
                    if readers.len() > 3 {
                        readers.remove(0);
                    }
                }
                Step::NewWriter => {
                    drop(writer);
                    writer = keyed_writer(&bus, 6);
                }
            }
        }
        readers.push(keyed(&bus, 6));
        for reader in &mut readers {
            check(reader, &model);
        }
    }
}

#[test]
fn what_is_waited_for_is_seen() {
    let stage = Stage::new();
    let bus = connect(&stage);
    let mut state = bus.state::<u64>("n").unwrap();
    let mut writer = bus.state_writer::<u64>("n").unwrap();
    let mut answers = bus.state_writer::<u64>("back").unwrap();
    let mut heard = bus.state::<u64>("back").unwrap();
    let echo = std::thread::spawn(move || {
        loop {
            assert!(state.changed(Some(WATCHDOG)).unwrap());
            let number = state.get().unwrap().unwrap().to_native();
            answers.set(&number).unwrap();
            if number == 500 {
                return;
            }
        }
    });
    for number in 1..=500 {
        writer.set(&number).unwrap();
        assert!(heard.changed(Some(WATCHDOG)).unwrap());
        assert_eq!(heard.get().unwrap().unwrap().to_native(), number);
    }
    echo.join().unwrap();
}

/// A message that everybody loses would take the place of the value that a state keeps.
#[test]
fn a_value_that_finds_no_room_leaves_the_one_before_for_who_comes_later() {
    let stage = Stage::new();
    let bus = connect(&stage);
    let text = |n: u64| format!("{n} {}", "x".repeat(60_000));
    let mut writer = bus.state_writer::<String>("s").unwrap();
    let reader = || {
        bus.topic("s")
            .unwrap()
            .lossy()
            .subscriber::<String>()
            .unwrap()
    };
    // Each holds as many as it may, until they take the whole arena.
    let (mut readers, mut held) = (Vec::new(), Vec::new());
    let mut last = None;
    let error = (0..100).find_map(|n| {
        if n % 4 == 0 {
            readers.push(reader());
        }
        if let Err(error) = writer.set(&text(n)) {
            return Some(error);
        }
        last = Some(n);
        let message = readers.last()?.recv_timeout(WATCHDOG).unwrap();
        held.push(message.expect("it was set").hold());
        None
    });
    let error = error.expect("there was always room");
    assert!(matches!(error, Error::Full { .. }), "{error}");
    for n in 100..110 {
        assert!(matches!(writer.set(&text(n)), Err(Error::Full { .. })));
        let mut late = bus.state::<String>("s").unwrap();
        let value = late.get().unwrap().map(|value| value.as_str().to_owned());
        assert_eq!(value, last.map(text), "the value that was kept is gone");
    }
    drop((held, readers));
    writer.set(&text(200)).unwrap();
}
