//! Large messages: up to 1 GiB in place, and no more memory than what a ring holds messages for.
//!
//! It is a program of its own, because it counts the memory of all rings of its process.

mod common;

use std::cell::Cell;
use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use bus_client::rkyv::rancor::Fallible;
use bus_client::rkyv::ser::{Allocator, Writer};
use bus_client::rkyv::vec::{ArchivedVec, VecResolver};
use bus_client::rkyv::{Archive, Place, Serialize};
use bus_client::schema::Describe;
use bus_client::{Bus, BytesPublisher, Error, TopicBuilder};
use common::role::{Given, play, say, wait_for};
use common::roles::{HOST, start_host};
use common::stage::{Stage, connect, told};

const MIB: u64 = 1 << 20;
/// Bytes of a piece of a large message.
const PIECE: usize = 64 << 10;
/// Large messages that are sent, one after the other: more than the arena holds.
const MESSAGES: u64 = 4;

#[test]
#[ignore = "what the other tests start as processes of their own"]
fn role() {
    play(&[HOST, ("builder", builder)]);
}

/// Bytes that name their message and their place in it: piece `piece` of message `message`.
fn stamp(pattern: &mut [u8], message: u64, piece: u64) {
    pattern[..8].copy_from_slice(&message.to_le_bytes());
    pattern[PIECE - 8..].copy_from_slice(&piece.to_le_bytes());
}

fn pattern() -> Vec<u8> {
    (0..PIECE as u64)
        .map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
        .collect()
}

fn topic(bus: &Bus, payload: u64) -> TopicBuilder {
    let topic = bus.topic("large").unwrap();
    topic.max_payload(payload).depth(2).arena(2 * payload)
}

/// The largest messages, 1 GiB at best, for two of which there is memory; and why they are no larger.
fn largest(bus: &Bus) -> (u64, BytesPublisher, String) {
    let mut why = String::new();
    for mib in [1024, 512, 256, 128, 64] {
        match topic(bus, mib * MIB).bytes_publisher() {
            Ok(publisher) => return (mib * MIB, publisher, why),
            Err(error) => why = format!("not {} MiB: {error}", 2 * mib),
        }
    }
    panic!("{why}");
}

/// Builds large messages in place. There is room for two, of which one is kept: each waits for the one before.
fn builder(given: &Given) {
    let bus = given.bus();
    let (payload, mut publisher, why) = largest(&bus);
    say(format_args!("bytes {payload} {why}"));
    wait_for("go");
    let mut pattern = pattern();
    for message in 0..MESSAGES {
        // Every second one is shorter, so that they end and start at odd places.
        let len = payload as usize - message as usize % 2 * (PIECE + 192);
        let mut loan = publisher.loan(len).unwrap();
        for (place, piece) in (0..).zip(loan.bytes().chunks_mut(PIECE)) {
            stamp(&mut pattern, message, place);
            piece.copy_from_slice(&pattern[..piece.len()]);
        }
        loan.send(len);
    }
    say("sent");
}

#[test]
fn a_message_of_1_gib_is_built_in_one_process_and_read_in_another() {
    let stage = Stage::new();
    let host = start_host(&stage.path);
    let mut builder = stage.start("builder");
    let said = builder.expect("bytes");
    let (payload, why) = said.split_once(' ').unwrap_or((&said, ""));
    let payload: u64 = payload.parse().unwrap();
    if payload < 1 << 30 {
        println!("skipped 1 GiB, tested at {payload} bytes: {why}");
    }
    let bus = connect(&stage.path, false).unwrap();
    let subscriber = topic(&bus, payload).bytes_subscriber().unwrap();
    builder.tell("go");
    let mut pattern = pattern();
    for message in 0..MESSAGES {
        let received = subscriber.recv().unwrap();
        let short = message as usize % 2 * (PIECE + 192);
        assert_eq!(received.bytes().len(), payload as usize - short);
        for (place, piece) in (0..).zip(received.bytes().chunks(PIECE)) {
            stamp(&mut pattern, message, place);
            assert!(
                *piece == pattern[..piece.len()],
                "message {message}, piece {place}"
            );
        }
    }
    builder.expect("sent");
    builder.finish();
    host.finish();
}

/// Bytes of memory that this process's rings have.
fn ring_memory() -> u64 {
    let links = fs::read_dir("/proc/self/fd").unwrap();
    // The broker that is hosted here has a descriptor of each ring as well.
    let rings: HashMap<u64, u64> = links
        .filter_map(|link| {
            let path = link.unwrap().path();
            let target = fs::read_link(&path).ok()?;
            let ours = target.to_string_lossy().contains("memfd:bus-ring");
            let file = fs::metadata(&path).ok().filter(|_| ours)?;
            Some((file.ino(), file.blocks() * 512))
        })
        .collect();
    rings.values().sum()
}

#[test]
fn a_deep_ring_of_large_messages_takes_the_memory_of_its_arena() {
    let stage = Stage::new();
    let bus = connect(&stage.path, true).unwrap();
    let topic = || {
        let topic = bus.topic("deep").unwrap().depth(8192).stride(64);
        topic.max_payload(MIB).arena(16 * MIB)
    };
    let mut publisher = topic().bytes_publisher().unwrap();
    let bytes = ring_memory();
    let least = 16 * MIB + 8192 * 64;
    assert!((least..least + MIB).contains(&bytes), "{bytes}");

    // It holds as many large messages as the arena does, or as many short ones as there are slots.
    let subscriber = topic().bytes_subscriber().unwrap();
    for _ in 0..16 {
        publisher.try_loan(MIB as usize).unwrap().send(MIB as usize);
    }
    assert!(matches!(
        publisher.try_loan(MIB as usize).map(drop),
        Err(Error::Full { .. })
    ));
    for _ in 0..16 {
        assert_eq!(subscriber.recv().unwrap().bytes().len() as u64, MIB);
    }
    for n in 0..8192_u64 {
        publisher.try_send(&n.to_le_bytes()).unwrap();
    }
    for n in 0..8192_u64 {
        assert_eq!(subscriber.recv().unwrap().bytes(), n.to_le_bytes());
    }
    assert_eq!(ring_memory(), bytes);
}

#[test]
fn the_least_arena_takes_one_message_after_the_other_of_any_length() {
    let stage = Stage::new();
    let bus = connect(&stage.path, true).unwrap();
    let topic = |arena| {
        let topic = bus.topic("tight").unwrap().depth(64).stride(64).keep(3);
        topic.max_payload(10_000).arena(arena)
    };
    // 10,000 bytes are 157 lines of 64.
    told(
        topic(2 * 157 * 64 - 64).bytes_publisher().map(drop),
        &["arena", "2 of the longest payloads"],
    );
    // Three are kept, and one more is sent.
    let mut publisher = topic(4 * 157 * 64).bytes_publisher().unwrap();
    let subscriber = topic(4 * 157 * 64).bytes_subscriber().unwrap();
    for n in 0..2_000_usize {
        let len = 10_000 - n * 7919 % 10_000;
        let sent = vec![n as u8; len];
        publisher
            .send_timeout(&sent, Duration::from_secs(10))
            .unwrap();
        assert_eq!(subscriber.recv().unwrap().bytes(), sent);
    }
}

#[test]
fn more_than_there_is_memory_for_is_an_error_however_it_is_to_be_placed() {
    let stage = Stage::new();
    let bus = connect(&stage.path, true).unwrap();
    let topic = || {
        let topic = bus.topic("huge").unwrap().depth(1 << 24).stride(1 << 16);
        topic.publishers(1)
    };
    for placed in [
        topic().huge_pages(),
        topic().lock_memory(),
        topic().numa_node(0),
        topic().prefault(false),
    ] {
        let before = ring_memory();
        told(
            placed.publisher::<u64>().map(drop),
            &["huge", "ring", "1099511", "available", "smaller depth"],
        );
        assert_eq!(ring_memory(), before);
    }
}

/// Bytes that count how often they are serialised.
struct Counted(Vec<u8>);

thread_local! {
    static SERIALISED: Cell<u32> = const { Cell::new(0) };
}

impl Archive for Counted {
    type Archived = ArchivedVec<u8>;
    type Resolver = VecResolver;

    fn resolve(&self, resolver: VecResolver, out: Place<Self::Archived>) {
        ArchivedVec::resolve_from_slice(&self.0, resolver, out);
    }
}

impl<S: Fallible + Allocator + Writer + ?Sized> Serialize<S> for Counted {
    fn serialize(&self, serializer: &mut S) -> Result<VecResolver, S::Error> {
        SERIALISED.set(SERIALISED.get() + 1);
        ArchivedVec::serialize_from_slice(&self.0, serializer)
    }
}

impl Describe for Counted {
    const FIXED: bool = false;

    fn kind() -> String {
        "Counted".into()
    }
}

#[test]
fn a_value_that_waits_for_room_is_serialised_a_few_times_and_one_that_is_too_large_does_not_wait() {
    let stage = Stage::new();
    let bus = connect(&stage.path, true).unwrap();
    let topic = || bus.topic("counted").unwrap();
    let longest = 64 << 10;
    let topic = || topic().depth(8).max_payload(longest).arena(3 * longest);
    let mut publisher = topic().publisher::<Counted>().unwrap();
    let reader = topic().subscriber::<Counted>().unwrap();
    let value = |part: u64| Counted(vec![7; (longest / 8 * part - 64) as usize]);
    // Three of them leave half of the arena's last piece free: too little for another one.
    for _ in 0..3 {
        publisher.send(&value(6)).unwrap();
    }
    let held = reader.recv().unwrap();
    SERIALISED.set(0);
    let timeout = Duration::from_millis(10);
    let error = publisher.send_timeout(&value(7), timeout).unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    let times = SERIALISED.get();
    assert!(times < 10, "it was serialised {times} times");

    // No room will ever be enough, so there is nothing to wait for.
    let error = publisher.send(&value(9)).unwrap_err().to_string();
    assert!(error.contains("is too large"), "{error}");

    // A shorter one still goes.
    publisher.send(&value(2)).unwrap();
    drop(held);
    while reader.try_recv().unwrap().is_some() {}
    publisher.send(&value(7)).unwrap();
}
