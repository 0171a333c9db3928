//! Holding as many messages as a topic allows: the next one is refused with words that say who holds what since when, nothing is lost,
//! and whatever is dropped makes room for one more.

use std::thread;

use bus_core::receive::{Held, Message, Subscriber};
use bus_core::schema::Schema;
use bus_core::{Delivery, Error, Settings, TopicSettings};

use crate::common::{self, Topic, overrun_settings, payload};

fn lossless(depth: u32, held: u32) -> TopicSettings {
    TopicSettings {
        held,
        ..common::settings(depth, 64, 48, 1, 0)
    }
}

fn send(topic: &mut Topic, count: u64) {
    for _ in 0..count {
        topic.sync();
        let bytes = payload(topic.publisher.head(), 40);
        topic.publisher.try_send_bytes(&bytes).unwrap().unwrap();
    }
}

#[track_caller]
fn receive<'a>(reader: &'a Subscriber, sequence: u64) -> Message<'a> {
    let message = reader.poll().unwrap().unwrap();
    assert_eq!(message.sequence(), sequence);
    assert_eq!(message.bytes(), payload(sequence, 40));
    message
}

/// The refusal, and its words.
#[track_caller]
fn refused(reader: &Subscriber) -> (u64, String, String) {
    assert!(reader.has_message());
    match reader.poll() {
        Err(Error::Holding {
            publisher: 0,
            held,
            who,
        }) => {
            let error = Error::Holding {
                publisher: 0,
                held,
                who: who.clone(),
            };
            (held, who, error.to_string())
        }
        Err(other) => panic!("{other}"),
        Ok(message) => panic!("{:?}", message.map(|message| message.sequence())),
    }
}

#[test]
fn the_limit_is_exact_on_a_lossless_topic() {
    for (depth, held) in [(4, 1), (8, 3), (8, 7)] {
        let mut topic = Topic::new(lossless(depth, held));
        let reader = topic.joined(1);
        send(&mut topic, u64::from(held) + 1);
        let mut kept: Vec<_> = (0..held).map(|n| receive(&reader, n.into())).collect();
        for _ in 0..3 {
            assert_eq!(refused(&reader).0, u64::from(held));
        }
        // Whichever goes makes room.
        kept.remove(held as usize / 2);
        let next = receive(&reader, held.into());
        assert!(reader.poll().unwrap().is_none());
        drop((kept, next));
        // All that the ring has may be held where the limit is no less than that.
        send(&mut topic, u64::from(depth));
    }
}

#[test]
fn without_a_limit_the_ring_alone_ends_it() {
    let mut topic = Topic::new(lossless(8, 8));
    let reader = topic.joined(1);
    send(&mut topic, 8);
    let kept: Vec<_> = (0..8).map(|n| receive(&reader, n)).collect();
    assert!(reader.poll().unwrap().is_none());
    assert_eq!(topic.publisher.try_send_bytes(b"").unwrap(), None);
    drop(kept);
    send(&mut topic, 8);
}

#[test]
fn a_batch_ends_at_the_limit_and_is_refused_only_from_its_first_message_on() {
    let mut topic = Topic::new(lossless(8, 3));
    let reader = topic.joined(1);
    send(&mut topic, 8);
    let one = receive(&reader, 0);
    let batch = reader.poll_batch(9).unwrap();
    assert_eq!(batch.next().unwrap().unwrap().0, 1);
    assert_eq!(batch.next().unwrap().unwrap().0, 2);
    assert!(batch.next().is_none());
    let refused = reader.poll_batch(9).unwrap();
    let error = refused.next().unwrap();
    assert!(matches!(error, Err(Error::Holding { held: 3, .. })));
    assert!(refused.next().is_none());
    drop((batch, refused));
    drop(receive(&reader, 3));
    drop(one);
    drop(receive(&reader, 4));
}

#[test]
fn on_a_lossy_topic_what_one_store_protects_comes_on_top() {
    // A window of one message in a short ring, of four in a long one: it moves on when all that it leaves finds a pin.
    for (depth, held, most) in [(8, 2, 3), (64, 2, 4), (64, 4, 8), (64, 7, 8), (64, 8, 12)] {
        let settings = overrun_settings(Delivery::Lossy, depth, 48, (1, held), 4096);
        let mut topic = Topic::new(settings);
        let reader = topic.joined(1);
        let mut kept = Vec::new();
        for sequence in 0..most {
            send(&mut topic, 1);
            kept.push(receive(&reader, sequence));
        }
        send(&mut topic, 1);
        // However far the publisher goes on meanwhile, what is held stays.
        for _ in 0..3 {
            assert_eq!(refused(&reader).0, most);
            send(&mut topic, 400);
            for message in &kept {
                assert_eq!(message.bytes(), payload(message.sequence(), 40));
            }
        }
        assert_eq!(reader.lost(), 0, "what it lost is counted when it goes on");
        // Down to the limit, and it goes on.
        kept.drain(..(most - u64::from(held)) as usize);
        let message = reader.poll().unwrap().unwrap();
        let lost = message.sequence() - most;
        assert_eq!((message.lost(), reader.lost()), (lost, lost));
        assert!(lost > 1000 && topic.publisher.head() - message.sequence() <= depth.into());
    }
}

/// Receives on a thread with this name, which holds the message.
fn hold_on(name: &str, reader: Subscriber, sequence: u64) -> (Subscriber, Held) {
    let thread = thread::Builder::new().name(name.into());
    let work = move || {
        let held = receive(&reader, sequence).hold();
        (reader, held)
    };
    thread.spawn(work).unwrap().join().unwrap()
}

#[test]
fn the_words_say_who_holds_what_since_when() {
    for delivery in [
        Delivery::Wait,
        Delivery::Lossy,
        Delivery::Evict {
            after_us: 3_600_000_000,
        },
    ] {
        let settings = match delivery {
            Delivery::Wait => lossless(16, 6),
            _ => overrun_settings(delivery, 16, 48, (1, 5), 4096),
        };
        let mut topic = Topic::new(settings);
        let reader = topic.joined(1);
        send(&mut topic, 8);
        let kept: Vec<_> = (0..6).map(|n| receive(&reader, n)).collect();
        let (held, who, error) = refused(&reader);
        assert_eq!(
            (held, who.as_str()),
            (
                6,
                "none was given to hold(), so the subscriber's own thread has them"
            )
        );
        assert!(error.contains("holds 6 messages of publisher 0"), "{error}");
        drop(kept);
        // Two threads hold one each.
        let (reader, first) = hold_on("painter", reader, 6);
        let (reader, second) = hold_on("writer", reader, 7);
        send(&mut topic, 5);
        let mut kept: Vec<_> = (8..12).map(|n| receive(&reader, n)).collect();
        let (_, who, _) = refused(&reader);
        let (one, other) = who.split_once(", ").unwrap();
        assert!(
            one.starts_with("message 6 since 0.") && one.ends_with(" s by thread painter"),
            "{who}"
        );
        assert!(
            other.starts_with("message 7 since 0.") && other.ends_with(" s by thread writer"),
            "{who}"
        );
        drop(first);
        // What is given back is not named any more; of the others, the oldest few.
        let mut held: Vec<_> = kept.drain(..).map(Message::hold).collect();
        held.push(receive(&reader, 12).hold());
        send(&mut topic, 1);
        let (count, who, _) = refused(&reader);
        assert_eq!(count, 6);
        assert!(
            who.starts_with("message 7 since 0.") && who.ends_with(", and 2 more"),
            "{who}"
        );
        assert!(
            who.matches("message").count() == 4 && !who.contains("painter"),
            "{who}"
        );
        drop((held, second));
        drop(receive(&reader, 13));
    }
}

/// One payload in the slot, one in the arena: what is protected with a window differs.
#[test]
fn two_subscribers_that_hold_all_they_may_leave_room_for_every_message_by_default() {
    for (max_payload, depth) in [(48, 64), (65_536, 64)] {
        let settings = Settings {
            max_payload: Some(max_payload),
            depth: Some(depth),
            delivery: Some(Delivery::Lossy),
            ..Settings::default()
        };
        let settings = settings.decide(&Schema::bytes()).unwrap();
        let rules = settings.overrun().unwrap();
        let most = rules.pins as u64 + rules.window;
        let mut topic = Topic::new(settings);
        let [first, second] = [topic.joined(1), topic.joined(2)];
        let bytes = payload(7, max_payload as usize);
        let mut send = |count: u64| {
            for _ in 0..count {
                topic.sync();
                topic.publisher.try_send_bytes(&bytes).unwrap().unwrap();
            }
            topic.publisher.nowhere()
        };
        assert_eq!(send(most), 0);
        let take = |reader| -> Vec<Message<'_>> {
            let take = |_| Subscriber::poll(reader).unwrap().unwrap();
            (0..most).map(take).collect()
        };
        let held = take(&first);
        drop(take(&second));
        assert_eq!(send(most), 0);
        let held = [held, take(&second)];
        // Rings and arenas go round, and round what is held.
        assert_eq!(send(3 * u64::from(depth)), 0, "{settings:?}");
        assert!(held.iter().flatten().all(|held| held.bytes() == bytes));
    }
}
