//! As many publishers as a topic takes, and one subscriber: nobody starves, and everybody can wake it.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bus_core::control::Trust;
use bus_core::memory::layout::MAX_PUBLISHERS;
use bus_core::memory::registry::Registry;
use bus_core::publish::Publisher;
use bus_core::receive::{Start, Subscriber};

use crate::common::{self, READER_WAITING, Words};

/// Messages in a row that a ring may have while others wait.
const TURN: u64 = 32;

struct Crowd {
    registry: Registry,
    publishers: Vec<Publisher>,
    subscriber: Subscriber,
}

fn crowd(depth: u32) -> Crowd {
    let settings = common::settings(depth, 64, 8, 1, 0);
    let registry = Registry::create().unwrap();
    let subscriber = Subscriber::create(&settings, &registry.fd(), Arc::new(())).unwrap();
    let join = |index| {
        let mut publisher = Publisher::create(&settings, &registry.fd(), index).unwrap();
        publisher.adopt(1, &subscriber.fd()).unwrap();
        let number = 100 + u64::from(index);
        subscriber
            .attach(number, index, &publisher.fd(), Start::First, Trust::InPlace)
            .unwrap();
        publisher
    };
    Crowd {
        publishers: (0..MAX_PUBLISHERS as u16).map(join).collect(),
        registry,
        subscriber,
    }
}

#[test]
fn a_busy_ring_does_not_starve_the_others() {
    let mut crowd = crowd(256);
    let mut sent = 0;
    for publisher in &mut crowd.publishers {
        while publisher.try_send_bytes(b"").unwrap().is_some() {
            sent += 1;
        }
    }
    let (mut row, mut last, mut received) = (0, None, [0_u64; MAX_PUBLISHERS]);
    for _ in 0..sent {
        let message = crowd.subscriber.poll().unwrap().unwrap();
        let index = message.publisher() as usize - 100;
        row = if last == Some(index) { row + 1 } else { 1 };
        last = Some(index);
        assert!(row <= TURN, "publisher {index} had {row} in a row");
        assert_eq!(message.sequence(), received[index]);
        received[index] += 1;
        let (least, most) = (received.iter().min(), received.iter().max());
        assert!(most.unwrap() - least.unwrap() <= 2 * TURN);
        drop(message);
        // The first one is never out of messages.
        let _ = crowd.publishers[0].try_send_bytes(b"").unwrap();
    }
}

#[test]
fn each_of_sixty_publishers_wakes_a_sleeper_and_one_more_has_no_place() {
    let mut crowd = crowd(2);
    let words = Words::of(&crowd.subscriber.fd());
    let settings = common::settings(2, 64, 8, 1, 0);
    let sixty = MAX_PUBLISHERS as u16;
    assert!(Publisher::create(&settings, &crowd.registry.fd(), sixty).is_err());
    let ring = crowd.publishers[0].fd();
    assert!(
        crowd
            .subscriber
            .attach(1, sixty, &ring, Start::First, Trust::InPlace)
            .is_err()
    );
    let subscriber = crowd.subscriber;
    let sleeper = thread::spawn(move || {
        let mut seen = Vec::new();
        while seen.len() < MAX_PUBLISHERS {
            match subscriber.poll().unwrap() {
                Some(message) => seen.push(message.publisher()),
                None => {
                    let deadline = Instant::now() + Duration::from_secs(25);
                    subscriber.sleep(Some(deadline));
                    assert!(Instant::now() < deadline, "a wake-up was lost");
                }
            }
        }
        seen
    });
    let mut slept = 0_u32;
    for publisher in &mut crowd.publishers {
        // Asleep, and for another time than before.
        let before = slept;
        while slept == before || slept.is_multiple_of(2) {
            assert!(!sleeper.is_finished(), "the sleeper is gone");
            thread::yield_now();
            slept = words.at32(READER_WAITING);
        }
        publisher.try_send_bytes(b"").unwrap().unwrap();
    }
    let numbers = (100..100 + MAX_PUBLISHERS as u64).collect::<Vec<_>>();
    assert_eq!(sleeper.join().unwrap(), numbers);
}
