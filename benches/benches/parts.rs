//! The parts of a message's way, each alone and in one thread: publish, serialise in place, receive,
//! validate.
//!
//! No other process takes part, so that nothing here tells what a line costs on its way
//! between two processors: `bus-bench` does. It tells how many instructions' time a part takes,
//! and whether a change made it slower.

use bus_client::rkyv::{rancor, to_bytes};
use bus_client::{Bus, BytesPublisher, BytesSubscriber, Publisher, Subscriber, TopicBuilder};
use bus_core::publish::Arena;
use bus_core::receive::access;
use criterion::{Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// A message of a fixed size: 40 bytes, as archived.
#[bus_client::message]
struct Fixed {
    symbol: u32,
    side: u32,
    price: f64,
    size: u64,
    sent_ns: u64,
    flags: u64,
}

/// A message with a string that lies beside it.
#[bus_client::message]
struct Quote {
    symbol: u32,
    price: f64,
    venue: String,
}

const BYTES: [u8; 40] = [0x5a; 40];
/// Messages that are received at a go: less than a ring holds.
const BURST: u64 = 1024;
const SLOTS: u32 = 8192;

fn fixed() -> Fixed {
    Fixed {
        symbol: 7,
        side: 1,
        price: 99.5,
        size: 100,
        sent_ns: 1,
        flags: 0,
    }
}

fn quote() -> Quote {
    Quote {
        symbol: 7,
        price: 99.5,
        venue: "frankfurt".into(),
    }
}

/// A broker and the topics of one benchmark.
struct Stage {
    bus: Bus,
}

impl Stage {
    fn new() -> Self {
        let bus = Bus::private("parts").expect("a broker");
        Self { bus }
    }

    fn topic(&self, name: &str) -> TopicBuilder {
        self.bus.topic(name).expect("a good name").depth(SLOTS)
    }

    fn publisher<T: bus_client::Payload>(&self, name: &str) -> Publisher<T> {
        self.topic(name).publisher().expect("a publisher")
    }

    fn subscriber<T: bus_client::Payload>(&self, name: &str) -> Subscriber<T> {
        self.topic(name).subscriber().expect("a subscriber")
    }

    fn bytes(&self, name: &str) -> TopicBuilder {
        self.topic(name).max_payload(BYTES.len() as u64)
    }

    fn bytes_publisher(&self, name: &str) -> BytesPublisher {
        self.bytes(name).bytes_publisher().expect("a publisher")
    }

    fn bytes_subscriber(&self, name: &str) -> BytesSubscriber {
        self.bytes(name).bytes_subscriber().expect("a subscriber")
    }
}

/// Nobody subscribes, so there is always room.
fn publish(criterion: &mut Criterion) {
    let stage = Stage::new();
    let mut group = criterion.benchmark_group("publish");
    let mut bytes = stage.bytes_publisher("bytes");
    group.bench_function("40_bytes", |bencher| {
        bencher.iter(|| bytes.send(black_box(&BYTES)).expect("room"));
    });
    let batch = [&BYTES[..]; 64];
    group.bench_function("64_times_40_bytes_in_a_batch", |bencher| {
        bencher.iter(|| bytes.publish_batch(black_box(batch)).expect("room"));
    });
    let mut numbers = stage.publisher::<Fixed>("loaned");
    group.bench_function("loan_40_bytes", |bencher| {
        bencher.iter(|| {
            let mut loan = numbers.loan().expect("room");
            loan.sent_ns = black_box(1).into();
            loan.send()
        });
    });
    group.finish();
}

/// Publishing a value: the same, and its serialisation straight into the slot.
fn serialise(criterion: &mut Criterion) {
    let stage = Stage::new();
    let mut group = criterion.benchmark_group("serialise_in_place");
    let mut numbers = stage.publisher::<Fixed>("fixed");
    let value = fixed();
    group.bench_function("fixed_size", |bencher| {
        bencher.iter(|| numbers.send(black_box(&value)).expect("room"));
    });
    let mut quotes = stage.publisher::<Quote>("quotes");
    let value = quote();
    group.bench_function("with_a_string", |bencher| {
        bencher.iter(|| quotes.send(black_box(&value)).expect("room"));
    });
    group.finish();
}

/// Times `receive` only, for as many messages as criterion asks for.
fn received(messages: u64, mut fill: impl FnMut(u64), mut receive: impl FnMut()) -> Duration {
    let mut spent = Duration::ZERO;
    let mut left = messages;
    while left > 0 {
        let now = left.min(BURST);
        fill(now);
        let begun = Instant::now();
        for _ in 0..now {
            receive();
        }
        spent += begun.elapsed();
        left -= now;
    }
    spent
}

/// Receiving what is there, and releasing it.
fn receive(criterion: &mut Criterion) {
    let stage = Stage::new();
    let mut group = criterion.benchmark_group("receive");
    let subscriber = stage.bytes_subscriber("bytes");
    let mut publisher = stage.bytes_publisher("bytes");
    group.bench_function("40_bytes", |bencher| {
        bencher.iter_custom(|messages| {
            let fill = |count| {
                for _ in 0..count {
                    publisher.send(&BYTES).expect("room");
                }
            };
            received(messages, fill, || {
                black_box(subscriber.recv().expect("a message").bytes());
            })
        });
    });
    let subscriber = stage.subscriber::<Quote>("quotes");
    let mut publisher = stage.publisher::<Quote>("quotes");
    let value = quote();
    group.bench_function("and_validate_with_a_string", |bencher| {
        bencher.iter_custom(|messages| {
            let fill = |count| {
                for _ in 0..count {
                    publisher.send(&value).expect("room");
                }
            };
            received(messages, fill, || {
                black_box(subscriber.recv().expect("a quote").price);
            })
        });
    });
    group.finish();
}

/// Validating alone.
fn validate(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("validate");
    let bytes = to_bytes::<rancor::Error>(&fixed()).expect("bytes");
    group.bench_function("fixed_size", |bencher| {
        bencher.iter(|| access::<Fixed>(black_box(&bytes), 0).expect("valid").size);
    });
    let bytes = to_bytes::<rancor::Error>(&quote()).expect("bytes");
    group.bench_function("with_a_string", |bencher| {
        bencher.iter(|| access::<Quote>(black_box(&bytes), 0).expect("valid").price);
    });
    group.finish();
}

/// Looking for room among messages that subscribers hold: 100 of them hold five each.
fn room(criterion: &mut Criterion) {
    const UNIT: u64 = 64;
    let mut group = criterion.benchmark_group("room");
    for held in [5, 500] {
        let mut arena = Arena::new(4 * held * UNIT, 8192);
        arena.go_round((0..held).map(|n| (2 * n + 1) * UNIT..(2 * n + 2) * UNIT));
        group.bench_function(format!("among_{held}_held"), |bencher| {
            bencher.iter(|| {
                let longest = black_box(&arena).longest();
                arena.place(longest).expect("it is free")
            });
        });
    }
    group.finish();
}

criterion_group!(parts, publish, serialise, receive, validate, room);
criterion_main!(parts);
