//! A publisher flat out on a lossy topic, and subscribers on threads of their own that hold, batch, hand over, join and leave: nothing that
//! they hold changes, and what each received and lost is together what was published.
//!
//! Every payload is derived from its number, and the whole of it is looked at when it comes and again before it goes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use bus_core::control::Trust;
use bus_core::memory::registry::Registry;
use bus_core::publish::Publisher;
use bus_core::receive::{Held, Message, Start, Subscriber};
use bus_core::{Delivery, Error, TopicSettings};

use crate::common::{Event, Topic, overrun_settings};

/// How long each case runs.
const TIME: Duration = Duration::from_millis(400);

fn word(sequence: u64, number: usize) -> u64 {
    (sequence + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number as u64
}

fn write(sequence: u64, bytes: &mut [u8]) {
    for (number, chunk) in bytes.chunks_exact_mut(8).enumerate() {
        chunk.copy_from_slice(&word(sequence, number).to_le_bytes());
    }
}

#[track_caller]
fn check(sequence: u64, bytes: &[u8], len: usize) {
    assert_eq!(bytes.len(), len, "message {sequence}");
    let sound = bytes
        .chunks_exact(8)
        .enumerate()
        .all(|(number, chunk)| chunk == word(sequence, number).to_le_bytes());
    assert!(sound, "message {sequence} holds {bytes:?}");
}

/// Numbers to choose by.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(0x1405_7b7e_f767_814f);
        (self.0 >> 33) as usize % limit
    }
}

/// What a subscriber has received; what it lost follows from it.
struct Count {
    next: Option<u64>,
    received: u64,
    len: usize,
}

impl Count {
    fn from(next: Option<u64>, len: usize) -> Self {
        Self {
            next,
            received: 0,
            len,
        }
    }

    fn note(&mut self, sequence: u64, lost: u64, bytes: &[u8]) {
        check(sequence, bytes, self.len);
        if let Some(next) = self.next {
            assert_eq!(sequence, next + lost);
        }
        self.next = Some(sequence + 1);
        self.received += 1;
    }
}

/// Reads to the end of the ring with a turn's work, which says whether there was something; then everything is accounted for.
fn to_the_end(
    subscriber: &Subscriber,
    published: &Mutex<u64>,
    mut turn: impl FnMut() -> (bool, u64),
) {
    let mut received;
    let mut more = true;
    while more {
        let ended = subscriber.drained(0);
        (more, received) = turn();
        if !more && !ended {
            thread::yield_now();
            more = true;
        } else if !more {
            let published = *published.lock().unwrap();
            assert_eq!(received + subscriber.lost(), published);
            assert!(received > 0, "nothing was received at all");
        }
    }
}

/// Holds some messages at a time, and drops any of them.
fn hold(subscriber: &Subscriber, len: usize, published: &Mutex<u64>) {
    let mut dice = Dice(1);
    let mut kept: Vec<Message<'_>> = Vec::new();
    let mut count = Count::from(Some(0), len);
    to_the_end(subscriber, published, || {
        let result = subscriber.poll();
        let got = match result {
            Ok(Some(message)) => {
                count.note(message.sequence(), message.lost(), message.bytes());
                kept.push(message);
                true
            }
            Ok(None) => false,
            Err(Error::Holding { held, .. }) => {
                assert_eq!(held, kept.len() as u64);
                true
            }
            Err(other) => panic!("{other}"),
        };
        let full = !got || kept.len() > 4 || dice.below(8) == 0;
        if full && !kept.is_empty() {
            let message = kept.swap_remove(dice.below(kept.len()));
            check(message.sequence(), message.bytes(), len);
        }
        (got, count.received)
    });
    for message in kept {
        check(message.sequence(), message.bytes(), len);
    }
}

/// Takes batches, and looks at all of one again before it goes.
fn batch(subscriber: &Subscriber, len: usize, published: &Mutex<u64>) {
    let mut count = Count::from(Some(0), len);
    to_the_end(subscriber, published, || {
        let Some(batch) = subscriber.poll_batch(64) else {
            return (false, count.received);
        };
        let mut seen: Vec<(u64, &[u8])> = Vec::new();
        while let Some(message) = batch.next() {
            let (sequence, bytes) = message.unwrap();
            let lost = if seen.is_empty() { batch.lost() } else { 0 };
            count.note(sequence, lost, bytes);
            assert_eq!(sequence, batch.sequence() + seen.len() as u64);
            seen.push((sequence, bytes));
        }
        seen.iter()
            .for_each(|(sequence, bytes)| check(*sequence, bytes, len));
        (true, count.received)
    });
}

/// Hands messages over to another thread, which drops them when it likes.
fn hand_over(subscriber: &Subscriber, len: usize, published: &Mutex<u64>) {
    let (give, take): (Sender<Held>, Receiver<Held>) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut dice = Dice(2);
            let mut kept = Vec::new();
            for held in take {
                kept.push(held);
                while kept.len() > 2 {
                    let held: Held = kept.swap_remove(dice.below(kept.len()));
                    check(held.sequence(), held.bytes(), len);
                }
            }
            kept.iter()
                .for_each(|held| check(held.sequence(), held.bytes(), len));
        });
        let mut dice = Dice(3);
        let mut count = Count::from(Some(0), len);
        to_the_end(subscriber, published, || {
            let got = match subscriber.poll() {
                Ok(Some(message)) => {
                    count.note(message.sequence(), message.lost(), message.bytes());
                    if dice.below(3) > 0 {
                        give.send(message.hold()).unwrap();
                    }
                    true
                }
                Ok(None) => false,
                // The other thread has them, and drops them in time.
                Err(Error::Holding { .. }) => {
                    thread::yield_now();
                    true
                }
                Err(other) => panic!("{other}"),
            };
            (got, count.received)
        });
        drop(give);
    });
}

/// Publishes until the time is over, and closes the ring.
fn publish(
    publisher: &mut Publisher,
    events: &Receiver<Event>,
    len: usize,
    published: &Mutex<u64>,
) {
    let mut bytes = vec![0; len];
    let end = Instant::now() + TIME;
    while !publisher.head().is_multiple_of(64) || Instant::now() < end {
        if let Some(version) = publisher.stale() {
            // Every event is sent before the version moves.
            for event in events.try_iter() {
                match event {
                    Event::Joined(id, reader) => publisher.adopt(id, &reader).unwrap(),
                    Event::Left(id) => publisher.drop_follower(id),
                }
            }
            publisher.set_version(version);
            continue;
        }
        let head = publisher.head();
        match head % 3 {
            0 => {
                write(head, &mut bytes);
                // Full only where somebody joins in this moment.
                let _ = publisher.try_send_bytes(&bytes).unwrap();
            }
            1 => {
                if let Some(mut slot) = publisher.try_loan(len).unwrap() {
                    write(head, slot.bytes());
                    slot.commit(len);
                }
            }
            _ => {
                let mut batch = publisher.batch();
                for ahead in 0..5 {
                    write(head + ahead, &mut bytes);
                    if batch.push_bytes(&bytes).unwrap().is_none() {
                        break;
                    }
                }
            }
        }
    }
    *published.lock().unwrap() = publisher.head();
    publisher.close();
}

type Read = fn(&Subscriber, usize, &Mutex<u64>);

fn run(settings: TopicSettings, len: usize, readers: &[Read]) -> u64 {
    let mut topic = Topic::new(settings);
    let published = Mutex::new(0);
    let (_, events) = mpsc::channel();
    let subscribers: Vec<_> = (0..)
        .zip(readers)
        .map(|(id, read)| (topic.joined(id), *read))
        .collect();
    thread::scope(|scope| {
        for (subscriber, read) in subscribers {
            let published = &published;
            scope.spawn(move || read(&subscriber, len, published));
        }
        publish(&mut topic.publisher, &events, len, &published);
    });
    topic.publisher.nowhere()
}

fn lossy(depth: u32, max_payload: u64, held: u32, spare: u64) -> TopicSettings {
    overrun_settings(Delivery::Lossy, depth, max_payload, (1, held), spare)
}

#[test]
fn inline_messages_that_are_held_stay_as_they_are() {
    for depth in [2, 4, 64] {
        run(lossy(depth, 48, 4, 4096), 48, &[hold]);
        run(lossy(depth, 48, 4, 4096), 48, &[hold, hand_over]);
    }
}

#[test]
fn messages_in_the_arena_that_are_held_stay_as_they_are() {
    for depth in [2, 8, 64] {
        let nowhere = run(lossy(depth, 1024, 4, 16 << 10), 1024, &[hold]);
        assert_eq!(nowhere, 0, "there is room for all that is held");
        run(lossy(depth, 1024, 4, 16 << 10), 1024, &[hold, hand_over]);
    }
}

#[test]
fn what_finds_no_room_is_lost_and_nothing_else() {
    // The arena holds what must be kept and two or three messages more.
    run(lossy(4, 48, 8, 0), 48, &[hold, hold]);
    run(lossy(8, 1024, 8, 1024), 1024, &[hold, hand_over]);
}

#[test]
fn batches_stay_as_they_are() {
    for (depth, len) in [(2, 48), (64, 48), (256, 48), (64, 1024)] {
        run(lossy(depth, len, 4, 16 << 10), len as usize, &[batch]);
    }
    run(lossy(1024, 48, 4, 16 << 10), 48, &[batch, hold]);
}

#[test]
fn who_joins_and_leaves_reads_whole_messages_without_a_gap() {
    for (depth, len) in [(2, 48), (16, 48), (16, 1024)] {
        let settings = lossy(depth, len, 4, 16 << 10);
        let len = len as usize;
        let Topic {
            registry,
            mut publisher,
            ..
        } = Topic::new(settings);
        let ring = publisher.fd().try_clone_to_owned().unwrap();
        let published = Mutex::new(0);
        let over = AtomicBool::new(false);
        let (say, events) = mpsc::channel();
        let registry = Mutex::new(registry);
        let joined = thread::scope(|scope| {
            let joiner = scope.spawn(|| {
                let mut joined = 0;
                while !over.load(Ordering::Relaxed) {
                    joined += 1;
                    come_and_go(&settings, &registry, &ring, &say, joined, len);
                }
                joined
            });
            publish(&mut publisher, &events, len, &published);
            over.store(true, Ordering::Relaxed);
            joiner.join().unwrap()
        });
        assert!(joined > 3, "it joined {joined} times");
    }
}

/// Joins, reads a while, holds something for all that time, and leaves.
fn come_and_go(
    settings: &TopicSettings,
    registry: &Mutex<Registry>,
    ring: &std::os::fd::OwnedFd,
    say: &Sender<Event>,
    id: u64,
    len: usize,
) {
    let member: Arc<dyn Send + Sync> = Arc::new(());
    let subscriber = Subscriber::create(settings, &registry.lock().unwrap().fd(), member).unwrap();
    let start = Start::Head { history: 1 };
    subscriber
        .attach(0, 0, ring, start, Trust::InPlace)
        .unwrap();
    let reader = subscriber.fd().try_clone_to_owned().unwrap();
    say.send(Event::Joined(id, reader)).unwrap();
    registry.lock().unwrap().bump_subscribers();
    subscriber.joined(1);
    let mut count = Count::from(None, len);
    let mut kept = Vec::new();
    for _ in 0..200 {
        let Some(message) = subscriber.poll().unwrap() else {
            continue;
        };
        count.note(message.sequence(), message.lost(), message.bytes());
        if kept.len() < 3 {
            kept.push(message);
        }
    }
    for message in kept {
        check(message.sequence(), message.bytes(), len);
    }
    drop(subscriber);
    say.send(Event::Left(id)).unwrap();
    registry.lock().unwrap().bump_subscribers();
}
