//! A hostile peer writes whatever it likes into the memory that it owns: the others see an error or
//! nothing, and neither panic nor read outside the ring.

use std::sync::Arc;

use bus_core::control::Trust;
use bus_core::memory::layout::{INLINE, PAGE};
use bus_core::memory::ring_bytes;
use bus_core::memory::segment::{self, Kind};
use bus_core::publish::Publisher;
use bus_core::receive::{Received, Start};
use bus_core::{Error, TopicSettings};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::common::{self, Pen, Topic, cursor_offset, payload};

fn settings() -> TopicSettings {
    common::settings(4, 64, 200, 1, 0)
}

/// Writes the words of slot `index`.
fn slot(pen: &Pen, index: u64, commit: u64, place: u32, len: u32) {
    let offset = PAGE + index as usize * 64;
    pen.write64(offset + 8, u64::from(place) << 32 | u64::from(len));
    pen.write64(offset, commit);
}

#[test]
fn each_bound_of_place_and_length_is_checked_on_both_sides() {
    let arena = settings().arena;
    let last = (arena / 64) as u32 - 1;
    let cases = [
        (INLINE, 48, true),
        (INLINE, 49, false),
        (INLINE, u32::MAX, false),
        (0, 200, true),
        (0, 201, false),
        (0, u32::MAX, false),
        (last, 64, true),
        (last, 65, false),
        (last + 1, 0, true),
        (last + 1, 1, false),
        (last + 2, 0, false),
        (INLINE - 1, 0, false),
        (INLINE - 1, u32::MAX, false),
    ];
    for (place, len, sound) in cases {
        let mut topic = Topic::new(settings());
        let reader = topic.joined(1);
        let pen = Pen::on(&topic.publisher.fd());
        slot(&pen, 0, 1, place, len);
        slot(&pen, 1, 2, INLINE, 3);
        match reader.poll() {
            Ok(Some(message)) => assert!(sound && message.bytes().len() == len as usize),
            Ok(None) => panic!("its stamp is right"),
            Err(Error::Corrupt { sequence, .. }) => assert!(!sound && sequence == 0),
            Err(other) => panic!("{other}"),
        }
        // The same through a batch; and what follows is received.
        assert_eq!(reader.poll().unwrap().unwrap().bytes().len(), 3);
        slot(&pen, 2, 3, place, len);
        let batch = reader.poll_batch(9).unwrap();
        assert_eq!(batch.next().unwrap().is_ok(), sound);
        assert!(batch.next().is_none());
    }
}

#[test]
fn a_segment_of_another_kind_version_or_size_is_refused() {
    let topic = Topic::new(settings());
    let reader = topic.subscriber(Arc::new(()));
    let attach = |fd| {
        reader
            .attach(1, 0, fd, Start::First, Trust::InPlace)
            .unwrap_err()
            .to_string()
    };
    let (fd, _zeroes) = segment::create(Kind::Ring, ring_bytes(&settings())).unwrap();
    assert!(attach(&fd).contains("another kind"));
    let (small, _zeroes) = segment::create(Kind::Ring, PAGE as u64).unwrap();
    assert!(attach(&small).contains("4096 bytes"));
    let ring = topic.publisher.fd().try_clone_to_owned().unwrap();
    Pen::on(&ring).write32(4, 99);
    assert!(attach(&ring).contains("version 99"));
    let mut publisher = Publisher::create(&settings(), &topic.registry.fd(), 1).unwrap();
    assert!(publisher.adopt(1, &ring).is_err());
    let (page, _zeroes) = segment::create(Kind::Reader, PAGE as u64).unwrap();
    assert!(publisher.adopt(1, &page).is_err());
    assert_eq!((reader.rings(), publisher.followers()), (0, 0));
}

fn wild64() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        0..40_u64,
        (0..40_u64).prop_map(|n| 0_u64.wrapping_sub(n)),
        (0..40_u64).prop_map(|n| (1_u64 << 63).wrapping_sub(n)),
    ]
}

fn wild32() -> impl Strategy<Value = u32> {
    prop_oneof![
        any::<u32>(),
        0..300_u32,
        (0..4_u32).prop_map(|n| INLINE - n)
    ]
}

#[derive(Clone, Debug)]
enum Scribble {
    /// Words of a slot; a right stamp, `ahead` of what the reader expects, more often than a wild one.
    Slot {
        stamp: Option<u64>,
        ahead: u64,
        place: u32,
        len: u32,
    },
    /// Any word of the ring beyond its first line.
    Word(usize, u64),
    Poll(bool),
    Batch(usize),
    Release(usize),
    Join(u32),
}

fn scribble() -> impl Strategy<Value = Scribble> {
    let stamp = proptest::option::weighted(0.3, wild64());
    prop_oneof![
        4 => (stamp, 0..3_u64, wild32(), wild32())
            .prop_map(|(stamp, ahead, place, len)| Scribble::Slot { stamp, ahead, place, len }),
        2 => (64..8192_usize, wild64()).prop_map(|(at, value)| Scribble::Word(at, value)),
        5 => any::<bool>().prop_map(Scribble::Poll),
        2 => (0..9_usize).prop_map(Scribble::Batch),
        2 => any::<usize>().prop_map(Scribble::Release),
        1 => (0..5_u32).prop_map(Scribble::Join),
    ]
}

/// Reads every byte, so that one outside the mapping would fault.
fn read(bytes: &[u8]) -> u64 {
    bytes.iter().map(|byte| u64::from(*byte)).sum()
}

/// Messages released early would stand for later ones in the same slots, and the count of those that are out be wrong.
#[test]
fn a_publisher_that_goes_past_a_held_message_gets_no_further() {
    let topic = Topic::new(settings());
    let pen = Pen::on(&topic.publisher.fd());
    let reader = topic.subscriber(Arc::new(()));
    topic.attach(&reader, 1);
    let mut received = Vec::new();
    for sequence in 0..4 {
        slot(&pen, sequence, sequence + 1, 0, 0);
        received.push(reader.poll().unwrap().unwrap());
    }
    received.truncate(1);
    slot(&pen, 0, 5, 0, 0);
    for _ in 0..3 {
        let error = reader.poll().map(drop).unwrap_err();
        assert!(matches!(error, Error::Holding { .. }), "{error}");
    }
    received.clear();
    assert_eq!(reader.poll().unwrap().unwrap().sequence(), 4);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_hostile_ring_gives_an_error_or_nothing(
        trust in select(vec![Trust::InPlace, Trust::Copy]),
        steps in vec(scribble(), 1..150),
    ) {
        let mut topic = Topic::new(settings());
        topic.trust = trust;
        let pen = Pen::on(&topic.publisher.fd());
        let reader = topic.subscriber(Arc::new(()));
        topic.attach(&reader, 1);
        let mut kept = Vec::new();
        let mut next = 0_u64;
        for step in steps {
            match step {
                Scribble::Slot { stamp, ahead, place, len } => {
                    let sequence = next.wrapping_add(ahead);
                    let stamp = stamp.unwrap_or(sequence.wrapping_add(1));
                    slot(&pen, sequence % 4, stamp, place, len);
                }
                Scribble::Word(at, value) => pen.write64((at % (pen.bytes() - 8)) & !7, value),
                Scribble::Poll(keep) => match reader.poll() {
                    Ok(Some(message)) => {
                        read(message.bytes());
                        next = message.sequence().wrapping_add(1);
                        prop_assert!(message.bytes().len() <= 200);
                        if keep && kept.len() < 20 {
                            kept.push(message);
                        }
                    }
                    Ok(None) => {}
                    Err(Error::Corrupt { sequence, .. }) => next = sequence.wrapping_add(1),
                    // In place, the publisher went beyond what the subscriber has released.
                    Err(Error::Holding { .. }) => drop(kept.pop()),
                    Err(other) => panic!("{other}"),
                },
                Scribble::Batch(max) => {
                    let batch = reader.poll_batch(max);
                    while let Some(message) = batch.as_ref().and_then(|b| b.next()) {
                        match message {
                            Ok((sequence, bytes)) => {
                                read(bytes);
                                next = sequence.wrapping_add(1);
                            }
                            Err(Error::Corrupt { sequence, .. }) => next = sequence.wrapping_add(1),
                            Err(Error::Holding { .. }) => {}
                            Err(other) => panic!("{other}"),
                        }
                    }
                }
                Scribble::Release(which) if !kept.is_empty() => {
                    let which = which % kept.len();
                    drop(kept.swap_remove(which));
                }
                // Finding the head in wild stamps ends, wherever.
                Scribble::Join(history) if kept.is_empty() => reader.joined(history),
                _ => {}
            }
            let _ = (reader.ready(), reader.ends().count());
            reader.retire(&[], |_| ());
        }
    }

    #[test]
    fn a_hostile_payload_is_no_value_or_a_sound_one(
        bytes in vec(prop_oneof![3 => any::<u8>(), 1 => select(vec![0, 255])], 0..200),
    ) {
        type Value = (u32, Option<String>, Vec<(bool, String)>);
        let mut topic = Topic::new(settings());
        let reader = topic.joined(1);
        topic.publisher.try_send_bytes(&bytes).unwrap().unwrap();
        let message = reader.poll().unwrap().unwrap();
        match Received::<Value>::new(message) {
            Ok(value) => {
                let own = |s: &rkyv::string::ArchivedString| s.as_str().chars().count();
                let _ = value.1.as_ref().map(own);
                let _: usize = value.2.iter().map(|entry| own(&entry.1) + usize::from(entry.0)).sum();
            }
            Err(Error::Corrupt { sequence: 0, .. }) => {}
            Err(other) => panic!("{other}"),
        }
        // A message that is not valid was released all the same.
        topic.publisher.try_send_bytes(b"").unwrap().unwrap();
        prop_assert!(reader.poll().unwrap().is_some());
        prop_assert_eq!(common::Words::of(&reader.fd()).at64(cursor_offset(0)), 2);
    }

    #[test]
    fn hostile_cursors_harm_nobody_but_their_owner(
        settings in (1..4_u32, 0..5_u64).prop_map(|(history, spare)| common::settings(4, 64, 200, history, spare * 64)),
        steps in vec((proptest::option::weighted(0.7, cursor()), 0..5_u8, 0..=200_usize), 1..150),
    ) {
        let mut topic = Topic::new(settings);
        let hostile = topic.joined(1);
        let honest = topic.joined(2);
        let pen = Pen::on(&hostile.fd());
        for (cursor, action, len) in steps {
            topic.sync();
            let head = topic.publisher.head();
            match cursor {
                Some(Cursor::Behind(lag)) => pen.write64(cursor_offset(0), head.wrapping_sub(lag)),
                Some(Cursor::At(value)) => pen.write64(cursor_offset(0), value),
                Some(Cursor::Word(at, value)) => pen.write64(at & !7, value),
                None => {}
            }
            let bytes = payload(head, len);
            match action {
                0..=2 => drop(topic.publisher.try_send_bytes(&bytes).unwrap()),
                3 => drop(topic.publisher.try_send(&String::from_utf8(vec![b'x'; len / 2]).unwrap()).unwrap()),
                _ => {
                    let mut batch = topic.publisher.batch();
                    while batch.push_bytes(&payload(head + batch.sent(), len)).unwrap().is_some() {}
                    prop_assert!(batch.sent() < 4);
                }
            }
            let _ = topic.publisher.slowest();
            // The honest one gets everything, whole and in order.
            let behind = topic.publisher.head() - head;
            for sequence in head..head + behind {
                let message = honest.poll().unwrap().unwrap();
                prop_assert_eq!(message.sequence(), sequence);
                if action != 3 {
                    prop_assert_eq!(message.bytes(), payload(sequence, len));
                }
            }
            prop_assert!(honest.poll().unwrap().is_none());
        }
    }
}

#[derive(Clone, Debug)]
enum Cursor {
    Behind(u64),
    At(u64),
    /// Any word beyond the first line: the sleep count, the bell, the cursors.
    Word(usize, u64),
}

fn cursor() -> impl Strategy<Value = Cursor> {
    prop_oneof![
        6 => (0..9_u64).prop_map(Cursor::Behind),
        2 => wild64().prop_map(Cursor::At),
        1 => (64..4088_usize, wild64()).prop_map(|(at, value)| Cursor::Word(at, value)),
    ]
}

#[test]
fn a_cursor_that_moves_back_while_arena_is_looked_for_means_full() {
    let mut topic = Topic::new(common::settings(16, 64, 256, 3, 0));
    let hostile = topic.joined(1);
    let honest = topic.joined(2);
    let pen = Pen::on(&hostile.fd());
    // The arena holds five of these. The room of slots outlasts it.
    for sequence in 0..18_u64 {
        pen.write64(cursor_offset(0), sequence);
        topic.sync();
        let sent = topic.publisher.try_send_bytes(&[7; 256]).unwrap();
        assert_eq!(sent, Some(sequence));
        drop(honest.poll().unwrap().unwrap());
    }
    // A whole ring behind: no slot is free, but the arena's oldest span is. The publisher goes on within what it
    // has seen released, and then looks.
    pen.write64(cursor_offset(0), 2);
    let mut gone_on = 0;
    loop {
        topic.sync();
        match topic.publisher.try_send_bytes(&[7; 256]).unwrap() {
            Some(_) => gone_on += 1,
            None => break,
        }
        assert!(gone_on < 5, "the arena holds five");
    }
    // The honest one still holds the publisher back.
    pen.write64(cursor_offset(0), u64::MAX / 4);
    topic.sync();
    let sent = (0..20).map(|_| {
        topic.sync();
        topic.publisher.try_send_bytes(b"").unwrap()
    });
    assert_eq!(gone_on + sent.flatten().count(), 16);
}
