//! Hostile peers where publishers go past subscribers: whatever a subscriber writes into its cursors and pins, and a publisher into its floor,
//! stamps and places, the others go on, and neither panic, hang, grow, nor touch what they should not.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bus_core::control::Trust;
use bus_core::memory::layout::{INLINE, NOWHERE, PAGE, REPLACED};
use bus_core::publish::Publisher;
use bus_core::receive::{Message, Start, Subscriber};
use bus_core::{Delivery, Error, TopicSettings};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::common::{FLOOR, Pen, Topic, cursor_offset, overrun_settings, payload, pin_offset};

const DEPTH: u64 = 8;
const HELD: u32 = 3;

fn settings() -> impl Strategy<Value = TopicSettings> {
    let deliveries = select(vec![Delivery::Lossy, Delivery::Evict { after_us: 1 }]);
    (deliveries, select(vec![0_u64, 48, 200]), 0..12_u64).prop_map(|(delivery, payload, spare)| {
        overrun_settings(delivery, DEPTH as u32, payload, (2, HELD), spare * 64)
    })
}

/// Words around what matters, and anything at all.
fn wild() -> impl Strategy<Value = Wild> {
    prop_oneof![
        4 => (-20..20_i64).prop_map(Wild::Near),
        1 => any::<u64>().prop_map(Wild::Any),
        1 => (0..4_u64).prop_map(|n| Wild::Any(REPLACED.wrapping_sub(n))),
        1 => (0..4_u64).prop_map(|n| Wild::Any(0_u64.wrapping_sub(n))),
    ]
}

#[derive(Clone, Copy, Debug)]
enum Wild {
    /// So far from the head, or from what the reader expects.
    Near(i64),
    Any(u64),
}

impl Wild {
    fn value(self, around: u64) -> u64 {
        match self {
            Self::Near(distance) => around.wrapping_add_signed(distance),
            Self::Any(value) => value,
        }
    }
}

#[derive(Clone, Debug)]
enum Trick {
    Cursor(Wild),
    Pin(usize, Wild),
    /// Any word beyond the first line: the sleep count, the state, the cursors and pins of other rings.
    Word(usize, u64),
    /// An honest step between.
    Receive(bool),
}

fn trick() -> impl Strategy<Value = Trick> {
    prop_oneof![
        3 => wild().prop_map(Trick::Cursor),
        4 => (0..HELD as usize, wild()).prop_map(|(number, value)| Trick::Pin(number, value)),
        1 => (64..8184_usize, any::<u64>()).prop_map(|(at, value)| Trick::Word(at & !7, value)),
        3 => any::<bool>().prop_map(Trick::Receive),
    ]
}

fn read(bytes: &[u8]) -> u64 {
    bytes.iter().map(|byte| u64::from(*byte)).sum()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn hostile_cursors_and_pins_harm_nobody_but_their_owner(
        settings in settings(),
        steps in vec((trick(), 0..4_usize, 0..=200_usize), 1..150),
    ) {
        let lossy = settings.delivery == Delivery::Lossy;
        let mut topic = Topic::new(settings);
        let hostile = topic.joined(1);
        let honest = topic.joined(2);
        let pen = Pen::on(&hostile.fd());
        let mut log: Vec<Vec<u8>> = Vec::new();
        let mut kept: Vec<Message<'_>> = Vec::new();
        let mut next = 0;
        for (trick, sends, len) in steps {
            let head = topic.publisher.head();
            match trick {
                Trick::Cursor(value) => pen.write64(cursor_offset(0), value.value(head)),
                Trick::Pin(number, value) => pen.write64(pin_offset(number), value.value(head)),
                Trick::Word(at, value) => pen.write64(at, value),
                Trick::Receive(keep) => match honest.poll() {
                    Ok(Some(message)) => {
                        prop_assert_eq!(message.sequence(), next + message.lost());
                        prop_assert_eq!(message.bytes(), &log[message.sequence() as usize]);
                        next = message.sequence() + 1;
                        if keep {
                            kept.push(message);
                        }
                    }
                    Ok(None) => {
                        let lost = honest.lost();
                        prop_assert!(next + lost >= head);
                    }
                    Err(Error::Holding { .. }) => drop(kept.remove(0)),
                    Err(Error::Evicted { .. }) => prop_assert!(topic.publisher.has_evicted(2)),
                    Err(other) => panic!("{other}"),
                },
            }
            let bytes = payload(head, len.min(settings.max_payload as usize));
            for _ in 0..sends {
                topic.sync();
                let sent = topic.publisher.try_send_bytes(&bytes).unwrap();
                prop_assert!(sent.is_some() || !lossy);
                if sent.is_some() {
                    log.push(bytes.clone());
                } else if lossy || len % 2 == 0 {
                    topic.publisher.evict_stalled();
                }
            }
            for message in &kept {
                prop_assert_eq!(message.bytes(), &log[message.sequence() as usize]);
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Scribble {
    /// Words of a slot; a right stamp, `ahead` of what the reader expects, more often than a wild one.
    Slot {
        stamp: Option<Wild>,
        ahead: u64,
        place: u32,
        len: u32,
    },
    Floor(Wild),
    /// Any word of the ring beyond its first line.
    Word(usize, u64),
    Poll(bool),
    Batch(usize),
    Release(usize),
    Hold(usize),
    Join(u32),
}

fn scribble() -> impl Strategy<Value = Scribble> {
    let place = || {
        prop_oneof![
            2 => Just(INLINE),
            2 => Just(NOWHERE),
            2 => 0..20_u32,
            1 => any::<u32>(),
        ]
    };
    let len = || prop_oneof![3 => 0..300_u32, 1 => any::<u32>()];
    prop_oneof![
        5 => (proptest::option::weighted(0.3, wild()), 0..10_u64, place(), len())
            .prop_map(|(stamp, ahead, place, len)| Scribble::Slot { stamp, ahead, place, len }),
        2 => wild().prop_map(Scribble::Floor),
        1 => (64..8184_usize, any::<u64>()).prop_map(|(at, value)| Scribble::Word(at, value)),
        6 => any::<bool>().prop_map(Scribble::Poll),
        2 => (0..9_usize).prop_map(Scribble::Batch),
        2 => any::<usize>().prop_map(Scribble::Release),
        1 => any::<usize>().prop_map(Scribble::Hold),
        1 => (0..9_u32).prop_map(Scribble::Join),
    ]
}

/// An error that a hostile ring may give.
fn may_be(error: &Error) {
    use Error::{Corrupt, Evicted, Holding};
    assert!(
        matches!(error, Corrupt { .. } | Holding { .. } | Evicted { .. }),
        "{error}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_hostile_floor_stamp_or_place_gives_an_error_or_nothing(
        settings in settings(),
        trust in select(vec![Trust::InPlace, Trust::Copy]),
        steps in vec((any::<bool>(), scribble()), 1..150),
    ) {
        let mut topic = Topic::new(settings);
        topic.trust = trust;
        let second = Publisher::create(&settings, &topic.registry.fd(), 1).unwrap();
        let pens = [Pen::on(&topic.publisher.fd()), Pen::on(&second.fd())];
        let reader = topic.subscriber(std::sync::Arc::new(()));
        topic.attach(&reader, 1);
        reader.attach(1, 1, &second.fd(), Start::First, topic.trust).unwrap();
        let mut kept = Vec::new();
        let mut held = Vec::new();
        let mut next = [0_u64; 2];
        for (second, step) in steps {
            let (pen, next_of) = (&pens[usize::from(second)], next[usize::from(second)]);
            match step {
                Scribble::Slot { stamp, ahead, place, len } => {
                    let sequence = next_of.wrapping_add(ahead);
                    let stamp = stamp.map_or(sequence.wrapping_add(1), |wild| wild.value(sequence));
                    let offset = PAGE + (sequence % DEPTH) as usize * 64;
                    pen.write64(offset + 8, u64::from(place) << 32 | u64::from(len));
                    pen.write64(offset, stamp);
                }
                Scribble::Floor(wild) => pen.write64(FLOOR, wild.value(next_of)),
                Scribble::Word(at, value) => pen.write64((at % (pen.bytes() - 8)) & !7, value),
                Scribble::Poll(keep) => match reader.poll() {
                    Ok(Some(message)) => {
                        read(message.bytes());
                        prop_assert!(message.bytes().len() as u64 <= settings.max_payload);
                        next[message.publisher() as usize] = message.sequence().wrapping_add(1);
                        if keep {
                            kept.push(message);
                        }
                    }
                    Ok(None) => {}
                    Err(error) => may_be(&error),
                },
                Scribble::Batch(max) => {
                    let batch = reader.poll_batch(max);
                    while let Some(message) = batch.as_ref().and_then(|b| b.next()) {
                        match message {
                            Ok((sequence, bytes)) => {
                                read(bytes);
                                let publisher = batch.as_ref().unwrap().publisher();
                                next[publisher as usize] = sequence.wrapping_add(1);
                            }
                            Err(error) => may_be(&error),
                        }
                    }
                }
                Scribble::Release(which) if !kept.is_empty() => {
                    let which = which % kept.len();
                    read(kept.swap_remove(which).bytes());
                }
                Scribble::Hold(which) if !kept.is_empty() && which % 2 == 0 => {
                    held.push(kept.swap_remove(which % kept.len()).hold());
                }
                Scribble::Hold(which) if !held.is_empty() => {
                    let which = which % held.len();
                    read(held.swap_remove(which).bytes());
                }
                // Finding the head in wild stamps ends, wherever.
                Scribble::Join(history) if kept.is_empty() && held.is_empty() => reader.joined(history),
                _ => {}
            }
            let _ = (reader.ready(), reader.ends().count(), reader.lost());
            // Both rings count: no more is out than the pins and windows of each protect, or as many copies.
            prop_assert!(kept.len() + held.len() <= 2 * (HELD as usize + 1));
            reader.retire(&[1], |_| ());
        }
    }
}

#[test]
fn a_ring_that_contradicts_itself_is_told_once_and_looked_at_no_more() {
    for delivery in [Delivery::Lossy, Delivery::Evict { after_us: 1 }] {
        let settings = overrun_settings(delivery, DEPTH as u32, 48, (1, HELD), 0);
        let mut topic = Topic::new(settings);
        let reader = topic.joined(1);
        let pen = Pen::on(&topic.publisher.fd());
        // The slot holds a later message, but the floor says that the first one is intact.
        pen.write64(PAGE, 1 + DEPTH);
        assert!(reader.has_message());
        let told = reader.poll();
        assert!(matches!(told, Err(Error::Corrupt { .. })));
        assert!(!reader.has_message() && reader.poll().unwrap().is_none());
        // What is right again is read again.
        pen.write64(PAGE, 0);
        topic.publisher.try_send_bytes(&[7]).unwrap();
        assert_eq!(reader.poll().unwrap().unwrap().bytes(), [7]);
    }
}

/// Reads for a while from a ring whose owner scribbles all over it at the same time.
fn read_on(reader: &Subscriber, over: &AtomicBool) {
    let mut kept: Vec<Message<'_>> = Vec::new();
    let mut turn = 0_usize;
    while !over.load(Ordering::Relaxed) {
        turn += 1;
        if turn.is_multiple_of(3) {
            let batch = reader.poll_batch(9);
            while let Some(message) = batch.as_ref().and_then(|b| b.next()) {
                let _ = message.map_err(|error| may_be(&error));
            }
        } else {
            match reader.poll() {
                Ok(Some(message)) => kept.push(message),
                Ok(None) => {}
                Err(error) => may_be(&error),
            }
        }
        if kept.len() > 3 || turn.is_multiple_of(7) && !kept.is_empty() {
            kept.swap_remove(turn % kept.len());
        }
        let _ = (reader.lost(), reader.ready());
    }
}

#[test]
fn a_ring_that_changes_under_its_reader_hangs_nobody() {
    for (window, trust) in [(1, Trust::InPlace), (16, Trust::InPlace), (16, Trust::Copy)] {
        let settings = overrun_settings(Delivery::Lossy, 16 * window, 48, (1, 4), 256);
        let mut topic = Topic::new(settings);
        topic.trust = trust;
        let pen = Pen::on(&topic.publisher.fd());
        let reader = topic.subscriber(std::sync::Arc::new(()));
        topic.attach(&reader, 1);
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let over = &over;
            scope.spawn(move || read_on(&reader, over));
            let end = Instant::now() + Duration::from_millis(700);
            let depth = u64::from(16 * window);
            let mut base = 0_u64;
            while Instant::now() < end {
                // Sound laps, and then a floor far ahead with stamps to match, wherever the reader is by then.
                for sequence in base..base + 2 * depth {
                    let offset = PAGE + (sequence % depth) as usize * 64;
                    pen.write64(offset + 8, u64::from(INLINE) << 32 | 8);
                    pen.write64(offset, sequence + 1);
                }
                base += 1 << 40;
                pen.write64(FLOOR, base);
            }
            over.store(true, Ordering::Relaxed);
        });
    }
}
