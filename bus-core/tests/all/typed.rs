//! Values of changing size, through slots and arena, in tiny rings: what is sent arrives, and what is refused
//! leaves the ring as it was.

use bus_core::Error;
use bus_core::receive::{HeldValue, Received, access};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::common::{self, Topic, Words, cursor_offset};

type Value = (u32, String, Vec<u16>);

/// A value that needs about `len` bytes.
fn value(number: u32, len: usize) -> Value {
    let text = "é".repeat(len / 4);
    let list = (0..len / 4).map(|i| i as u16 ^ number as u16).collect();
    (number, text, list)
}

fn same(archived: &<Value as rkyv::Archive>::Archived, value: &Value) -> bool {
    let list = archived.2.iter().map(|n| n.to_native());
    archived.0 == value.0 && archived.1 == value.1.as_str() && list.eq(value.2.iter().copied())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn values_arrive_in_order_and_only_a_subscriber_that_is_behind_makes_the_ring_full(
        history in 1..4_u32,
        max_payload in 100..400_u64,
        spare in 0..4_u64,
        batched in any::<bool>(),
        steps in vec((0..500_usize, 0..6_u8), 1..100),
    ) {
        let settings = common::settings(4, 64, max_payload, history, spare * 64);
        let mut topic = Topic::new(settings);
        let reader = topic.joined(1);
        let mut sent = std::collections::VecDeque::new();
        let mut held = std::collections::VecDeque::<(HeldValue<Value>, Value)>::new();
        for (len, action) in steps {
            if action < 3 {
                let behind = topic.publisher.head() - Words::of(&reader.fd()).at64(cursor_offset(0));
                let value = value(topic.publisher.head() as u32, len);
                topic.sync();
                let result = if batched {
                    topic.publisher.batch().push(&value)
                } else {
                    topic.publisher.try_send(&value)
                };
                // rkyv's own encoding of the same value says whether it fits.
                let needed = rkyv::to_bytes::<rkyv::rancor::Error>(&value).unwrap().len() as u64;
                match result {
                    Ok(Some(sequence)) => {
                        prop_assert!(needed <= max_payload);
                        prop_assert_eq!(sequence, u64::from(value.0));
                        sent.push_back(value);
                    }
                    Ok(None) => prop_assert!(behind > 0, "full, though everything is released"),
                    Err(Error::TooLarge { limit, .. }) => {
                        prop_assert!(needed > max_payload && limit as u64 == max_payload);
                    }
                    Err(other) => panic!("{other}"),
                }
            } else if action == 3 {
                held.pop_front();
            } else {
                let message = reader.poll().unwrap();
                prop_assert_eq!(message.is_some(), !sent.is_empty());
                if let (Some(message), Some(value)) = (message, sent.pop_front()) {
                    let received = Received::<Value>::new(message).unwrap();
                    prop_assert!(same(&received, &value));
                    prop_assert_eq!((received.sequence(), received.lost()), (value.0.into(), 0));
                    if action == 4 {
                        held.push_back((received.hold(), value));
                    }
                }
            }
            for (kept, value) in &held {
                prop_assert!(same(kept, value));
            }
        }
    }
}

#[test]
fn a_value_too_large_is_refused_and_the_next_is_sent() {
    for max_payload in [40_u64, 48, 100] {
        let mut topic = Topic::new(common::settings(2, 64, max_payload, 1, 0));
        let reader = topic.joined(1);
        for round in 0..10_u64 {
            topic.sync();
            let error = topic.publisher.try_send(&"x".repeat(200)).unwrap_err();
            assert!(matches!(error, Error::TooLarge { limit, .. } if limit as u64 == max_payload));
            assert!(reader.poll().unwrap().is_none());
            let sent = topic.publisher.try_send(&"twenty bytes or so.".to_owned());
            assert_eq!(sent.unwrap(), Some(round));
            let message = reader.poll().unwrap().unwrap();
            assert_eq!(
                *Received::<String>::new(message).unwrap(),
                "twenty bytes or so."
            );
        }
    }
}

/// The words of the library that validates depend on how it was built, and tell a user nothing.
#[test]
fn the_sentence_of_a_message_that_is_not_valid_names_its_type_and_its_length() {
    let mut bytes = rkyv::util::AlignedVec::<16>::new();
    bytes.resize(32, 0xff);
    let error = access::<Value>(&bytes, 5).unwrap_err().to_string();
    assert_eq!(
        error,
        "message 5 is not valid: its 32 bytes are no value of type (u32, String, Vec<u16>); \
         its publisher is faulty or hostile"
    );
}
