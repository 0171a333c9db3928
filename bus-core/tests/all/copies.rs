//! Messages of a publisher that is not trusted are copied: it can neither change what is read, nor be held up by who holds it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bus_core::control::Trust;
use bus_core::memory::layout::PAGE;
use bus_core::receive::{Received, Subscriber};
use bus_core::{Delivery, Error, TopicSettings};

use crate::common::{Event, Pen, Topic, overrun_settings, payload, settings};

/// How long a publisher rewrites, and how long at most until it has hit.
const SHORT: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(30);

/// A topic, and a subscriber that copies.
fn untrusted(settings: TopicSettings) -> (Topic, Subscriber) {
    let mut topic = Topic::new(settings);
    topic.trust = Trust::Copy;
    let reader = topic.joined(1);
    (topic, reader)
}

fn send(topic: &mut Topic, sequence: u64, len: usize) -> bool {
    topic.sync();
    let sent = topic.publisher.try_send_bytes(&payload(sequence, len));
    sent.unwrap().is_some()
}

/// Lengths around words, slots and the arena's units.
const LENGTHS: [usize; 12] = [0, 1, 7, 8, 9, 15, 47, 48, 49, 64, 65, 200];

#[test]
fn copies_are_what_was_sent_whatever_its_length_and_place() {
    for delivery in [Delivery::Wait, Delivery::Lossy] {
        let mut settings = settings(8, 64, 200, 1, 1 << 12);
        if delivery == Delivery::Lossy {
            settings = overrun_settings(delivery, 8, 200, (1, 4), 1 << 12);
        }
        let (mut topic, reader) = untrusted(settings);
        for sequence in 0..500 {
            let len = LENGTHS[sequence as usize % LENGTHS.len()];
            assert!(send(&mut topic, sequence, len));
            let message = reader.poll().unwrap().unwrap();
            assert_eq!((message.sequence(), message.publisher()), (sequence, 0));
            assert_eq!(message.bytes(), payload(sequence, len));
            assert!(message.bytes().as_ptr().addr().is_multiple_of(16));
        }
        assert!(reader.poll().unwrap().is_none());
    }
}

/// Class 3: a stalled consumer stops its producers.
#[test]
fn a_message_that_is_held_pins_nothing_and_holds_nobody_up() {
    let (mut topic, reader) = untrusted(settings(4, 64, 200, 1, 0));
    assert!(send(&mut topic, 0, 100));
    let message = reader.poll().unwrap().unwrap();
    for sequence in 1..40 {
        assert!(send(&mut topic, sequence, 150), "message 0 holds it up");
        let next = reader.poll().unwrap().unwrap();
        assert_eq!(next.bytes(), payload(sequence, 150));
    }
    assert_eq!(message.bytes(), payload(0, 100));
    let held = message.hold();
    for sequence in 40..80 {
        assert!(send(&mut topic, sequence, 150));
        drop(reader.poll().unwrap().unwrap());
    }
    assert_eq!(held.bytes(), payload(0, 100));
}

#[test]
fn no_more_copies_are_out_than_may_be_held_and_nothing_is_lost_by_that() {
    let mut settings = settings(8, 64, 48, 1, 0);
    settings.held = 3;
    let (mut topic, reader) = untrusted(settings);
    (0..6).for_each(|sequence| assert!(send(&mut topic, sequence, 40)));
    let first = reader.poll().unwrap().unwrap();
    let second = reader.poll().unwrap().unwrap().hold();
    let batch = reader.poll_batch(9).unwrap();
    assert_eq!(batch.next().unwrap().unwrap().0, 2);
    assert!(batch.next().is_none());
    let full = |reader: &Subscriber| {
        matches!(
            reader.poll(),
            Err(Error::Holding {
                publisher: 0,
                held: 3,
                ..
            })
        )
    };
    assert!(full(&reader));
    drop(batch);
    let third = reader.poll().unwrap().unwrap();
    assert_eq!((third.sequence(), third.bytes()), (3, &*payload(3, 40)));
    assert!(full(&reader));
    // One that is held comes back from another thread.
    thread::spawn(move || drop(second)).join().unwrap();
    assert_eq!(reader.poll().unwrap().unwrap().sequence(), 4);
    drop((first, third));
    assert_eq!(reader.poll().unwrap().unwrap().sequence(), 5);
}

#[test]
fn a_copy_outlives_its_subscriber_and_keeps_nothing_of_it() {
    let mut topic = Topic::new(settings(8, 64, 200, 1, 0));
    topic.trust = Trust::Copy;
    let membership = Arc::new(());
    let reader = topic.subscriber(membership.clone());
    topic.attach(&reader, 0);
    topic.announce(Event::Joined(1, reader.fd().try_clone_to_owned().unwrap()));
    reader.joined(0);
    assert!(send(&mut topic, 0, 200) && send(&mut topic, 1, 40));
    let kept = reader.poll().unwrap().unwrap().hold();
    let returned = reader.poll().unwrap().unwrap().hold();
    thread::spawn(move || drop(returned)).join().unwrap();
    drop(reader);
    assert_eq!(Arc::strong_count(&membership), 1, "the membership goes on");
    drop(topic);
    assert_eq!(kept.bytes(), payload(0, 200));
    thread::spawn(move || assert_eq!(kept.sequence(), 0))
        .join()
        .unwrap();
}

#[test]
fn a_ring_that_has_ended_is_let_go_of_while_copies_of_it_are_held() {
    let (mut topic, reader) = untrusted(settings(8, 64, 48, 1, 0));
    assert!(send(&mut topic, 0, 40) && send(&mut topic, 1, 40));
    let lent = reader.poll().unwrap().unwrap();
    let held = reader.poll().unwrap().unwrap().hold();
    reader.end(0);
    let retired = || {
        let mut count = 0;
        reader.retire(&[0], |_| count += 1);
        count
    };
    assert_eq!(retired(), 0, "a message names its ring");
    drop(lent);
    assert_eq!(retired(), 1);
    assert_eq!(held.bytes(), payload(1, 40));
    drop(held);
    assert!(reader.poll().unwrap().is_none());
}

type Tick = (u64, String, Vec<u32>);

/// What a whole, unchanged value looks like: each part is derived from the first.
fn tick(number: u64) -> Tick {
    (number, "x".repeat(20), vec![number as u32; 9])
}

/// Says that it is over, also where a test fails: else the other thread would go on for ever.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Writes other bytes over the ring's messages, again and again, as fast as can be.
fn rewrite(pen: &Pen, over: &AtomicBool) {
    let mut chance = 1_u64;
    while !over.load(Ordering::Relaxed) {
        for offset in (PAGE..pen.bytes()).step_by(8) {
            // Stamps and places stay, so that the messages are found.
            if offset < PAGE + 4 * 64 && offset % 64 < 16 {
                continue;
            }
            chance = chance.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(7);
            pen.write64(offset, chance >> (chance % 64));
        }
    }
}

/// Class 16, and the promise of the tier: what was validated is what is read, also while its publisher rewrites it.
#[test]
fn a_publisher_that_rewrites_its_messages_never_changes_what_was_validated() {
    let (mut topic, reader) = untrusted(settings(4, 64, 400, 1, 0));
    let pen = Pen::on(&topic.publisher.fd());
    let over = AtomicBool::new(false);
    let (mut right, mut refused, mut other) = (0, 0, 0);
    thread::scope(|scope| {
        let _over = Over(&over);
        scope.spawn(|| rewrite(&pen, &over));
        let begun = Instant::now();
        let mut number = 0;
        // Long enough that both have happened, on a busy machine too.
        while begun.elapsed() < SHORT
            || (refused == 0 || right + other == 0) && begun.elapsed() < LONG
        {
            number += 1;
            topic.sync();
            topic.publisher.try_send(&tick(number)).unwrap().unwrap();
            let message = reader.poll().unwrap().unwrap();
            match Received::<Tick>::new(message) {
                Ok(seen) => {
                    // Values may be anything that is valid, but they are the same at each look.
                    let once = format!("{:?}", *seen);
                    assert!(std::str::from_utf8(seen.1.as_bytes()).is_ok());
                    assert_eq!(once, format!("{:?}", *seen));
                    if once == format!("{:?}", tick(number)) {
                        right += 1;
                    } else {
                        other += 1;
                    }
                }
                Err(Error::Corrupt { .. }) => refused += 1,
                Err(error) => panic!("{error}"),
            }
        }
    });
    println!("{right} as sent, {other} other values, {refused} refused");
    assert!(
        refused > 0,
        "nothing was rewritten in time: this shows nothing"
    );
}

/// Within one user a rewriting publisher is read in place. Of a type that says it is tamper-proof, whatever it writes is a value.
#[test]
fn a_rewritten_payload_of_a_tamper_proof_type_is_nothing_worse_than_other_values() {
    type Quote = (u64, [u32; 8]);
    const { assert!(<Quote as bus_core::schema::Describe>::TAMPER_PROOF) };
    let mut topic = Topic::new(settings(4, 64, 48, 1, 0));
    let reader = topic.joined(1);
    let pen = Pen::on(&topic.publisher.fd());
    let over = AtomicBool::new(false);
    let mut others = 0;
    thread::scope(|scope| {
        let _over = Over(&over);
        scope.spawn(|| rewrite(&pen, &over));
        let begun = Instant::now();
        while begun.elapsed() < SHORT || others == 0 && begun.elapsed() < LONG {
            topic.sync();
            let quote: Quote = (7, [7; 8]);
            topic.publisher.try_send(&quote).unwrap().unwrap();
            // It always validates, and every look at it is a look at numbers.
            let seen = Received::<Quote>::new(reader.poll().unwrap().unwrap()).unwrap();
            let bytes = seen.1.map(|number| number.to_native());
            others += u32::from(seen.0 != 7 || bytes != [7; 8]);
        }
    });
    assert!(
        others > 0,
        "nothing was rewritten in time: this shows nothing"
    );
}
