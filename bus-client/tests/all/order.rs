//! Order and content across processes: each message whole, in its publisher's order, once, and none missing.
//!
//! `BUS_TEST_MESSAGES` sets how many messages each case publishes; `scripts/ten-million.sh` runs ten million each.

use std::env;

use crate::common::content::Content;
use crate::common::process::Process;
use crate::common::role::play;
use crate::common::roles::{HOST, SENDER, TAKER, start_host};

#[test]
#[ignore = "what the other tests start as processes of their own"]
fn role() {
    play(&[HOST, SENDER, TAKER]);
}

fn messages() -> u64 {
    match env::var("BUS_TEST_MESSAGES") {
        Ok(count) => count.parse().unwrap(),
        Err(_) => 300_000,
    }
}

/// `publishers` processes send `messages` messages together to `subscribers` processes, each of which gets all of them.
fn run(messages: u64, publishers: u64, subscribers: u64, depth: u32, stride: u32) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("bus.sock");
    let host = start_host(&socket);
    let (socket, share) = (socket.display(), messages / publishers);
    let mut takers: Vec<_> = (0..subscribers)
        .map(|_| {
            Process::start(
                "taker",
                &[("socket", &socket), ("depth", &depth), ("stride", &stride)],
            )
        })
        .collect();
    takers.iter_mut().for_each(|t| drop(t.expect("joined")));
    let mut senders: Vec<_> = (0..publishers)
        .map(|tag| {
            Process::start(
                "sender",
                &[
                    ("socket", &socket),
                    ("tag", &tag),
                    ("count", &share),
                    ("subscribers", &subscribers),
                ],
            )
        })
        .collect();
    senders.iter_mut().for_each(|s| drop(s.expect("joined")));
    // All are there before the first may leave, so nobody takes its end for everybody's.
    senders.iter_mut().for_each(|s| s.tell("go"));
    for mut sender in senders {
        assert_eq!(sender.number("sent"), share);
        sender.tell("leave");
        sender.finish();
    }
    for mut taker in takers {
        let said = taker.expect("received");
        let mut said = said.split(' ').map(|n| n.parse::<u64>().unwrap());
        let mut next = || said.next().unwrap();
        assert_eq!((next(), next()), (publishers, share * publishers));
        let (count, micros) = (share * publishers, next().max(1));
        println!(
            "{publishers}:{subscribers}, depth {depth}: {count} messages received and right, {:.2} million a second",
            count as f64 / micros as f64
        );
        taker.finish();
    }
    host.finish();
}

#[test]
fn one_publisher_and_one_subscriber() {
    run(messages(), 1, 1, 4096, 256);
}

#[test]
fn one_publisher_and_four_subscribers() {
    run(messages(), 1, 4, 4096, 256);
}

#[test]
fn four_publishers_and_one_subscriber() {
    run(messages(), 4, 1, 4096, 256);
}

/// Nearly every message waits for room, and most lie in the arena.
#[test]
fn a_tiny_ring_with_a_busy_arena() {
    run(messages() / 10, 2, 2, 4, 64);
}

/// The tests here are worth what this check is worth.
#[test]
fn a_message_of_which_one_bit_is_wrong_is_noticed() {
    let mut bytes = Vec::new();
    for sequence in 0..100 {
        let content = Content {
            sequence,
            tag: 7,
            note: 0,
        };
        content.write(&mut bytes);
        assert_eq!(Content::read(&bytes), Ok(content));
        for bit in 0..8 * bytes.len() {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Content::read(&bytes).is_err(), "bit {bit} of {sequence}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        assert!(Content::read(&bytes[..bytes.len() - 1]).is_err());
    }
}
