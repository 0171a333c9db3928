//! As many publishers as a topic takes, and one subscriber: nobody starves, and everybody can wake it.
//!
//! 1,024 publishers in one process need more descriptors than many processes may have: that test runs in a child
//! process, which is this program again with one ignored test to run.

use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bus_core::backend::doorbell::Doorbell;
use bus_core::control::Trust;
use bus_core::memory::registry::Registry;
use bus_core::publish::Publisher;
use bus_core::receive::{Start, Subscriber};
use bus_core::wake::fence_parked;
use bus_core::{Delivery, TopicSettings};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::common::{self, READER_WAITING, Words, full_name};

/// Publishers whose cursors fill the first page of a reader segment.
const SIXTY: usize = 60;
/// Rings whose bells one sleep can watch: 128 words less the version and two more.
const WATCHED: u32 = 125;

/// Messages in a row that a ring may have while others wait.
const TURN: u64 = 32;

struct Crowd {
    registry: Registry,
    publishers: Vec<Publisher>,
    subscriber: Subscriber,
}

/// Settings of a topic that admits so many publishers.
fn admitting(publishers: u32, depth: u32) -> TopicSettings {
    TopicSettings {
        publishers,
        ..common::settings(depth, 64, 8, 1, 0)
    }
    .check()
    .unwrap()
}

/// As many publishers as these settings admit, and a subscriber of all of them.
fn crowd(settings: TopicSettings) -> Crowd {
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
        publishers: (0..settings.publishers as u16).map(join).collect(),
        registry,
        subscriber,
    }
}

#[test]
fn a_busy_ring_does_not_starve_the_others() {
    let mut crowd = crowd(admitting(SIXTY as u32, 256));
    let mut sent = 0;
    for publisher in &mut crowd.publishers {
        while publisher.try_send_bytes(b"").unwrap().is_some() {
            sent += 1;
        }
    }
    let (mut row, mut last, mut received) = (0, None, [0_u64; SIXTY]);
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
    let settings = admitting(SIXTY as u32, 2);
    let mut crowd = crowd(settings);
    let words = Words::of(&crowd.subscriber.fd());
    let sixty = SIXTY as u16;
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
        while seen.len() < SIXTY {
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
    let numbers = (100..100 + SIXTY as u64).collect::<Vec<_>>();
    assert_eq!(sleeper.join().unwrap(), numbers);
}

/// The highest ring index of a topic with so many publishers.
fn highest(publishers: u32) -> u16 {
    admitting(publishers, 2).rings() - 1
}

#[test]
fn ring_indices_fill_whole_cursor_pages() {
    let highest: Vec<_> = [1, 60, 61, 124, 125, 1024].map(highest).into();
    assert_eq!(highest, [59, 59, 123, 123, 187, 1083]);
}

#[test]
fn an_index_beyond_the_settings_is_refused_on_either_side() {
    for publishers in [1, 60, 61, 124, 125, 1024] {
        let settings = admitting(publishers, 2);
        let registry = Registry::create().unwrap();
        let subscriber = Subscriber::create(&settings, &registry.fd(), Arc::new(())).unwrap();
        let highest = settings.rings() - 1;
        let mut publisher = Publisher::create(&settings, &registry.fd(), highest).unwrap();
        publisher.adopt(1, &subscriber.fd()).unwrap();
        for index in [highest + 1, u16::MAX] {
            assert!(Publisher::create(&settings, &registry.fd(), index).is_err());
            let ring = publisher.fd();
            let refused = subscriber.attach(7, index, &ring, Start::First, Trust::InPlace);
            let error = refused.unwrap_err().to_string();
            assert!(error.contains(&index.to_string()), "{error}");
        }
        let ring = publisher.fd();
        subscriber
            .attach(7, highest, &ring, Start::First, Trust::InPlace)
            .unwrap();
        publisher.try_send_bytes(b"last").unwrap().unwrap();
        publisher.try_send_bytes(b"last").unwrap().unwrap();
        assert!(publisher.try_send_bytes(b"full").unwrap().is_none());
        drop(subscriber.poll().unwrap().unwrap());
        publisher.stale();
        assert!(publisher.try_send_bytes(b"room").unwrap().is_some());
    }
}

/// What a subscriber holds is kept by a pin behind the last cursor page.
#[test]
fn a_message_held_of_the_highest_ring_is_never_written_over() {
    for publishers in [60, 61, 124, 125, 1024] {
        let lossy = common::overrun_settings(Delivery::Lossy, 16, 8, (1, 2), 4096);
        let settings = TopicSettings {
            publishers,
            ..lossy
        };
        let registry = Registry::create().unwrap();
        let subscriber = Subscriber::create(&settings, &registry.fd(), Arc::new(())).unwrap();
        let highest = settings.rings() - 1;
        let mut publisher = Publisher::create(&settings, &registry.fd(), highest).unwrap();
        publisher.adopt(1, &subscriber.fd()).unwrap();
        let ring = publisher.fd();
        subscriber
            .attach(7, highest, &ring, Start::First, Trust::InPlace)
            .unwrap();
        let mut send = |number: u64| {
            publisher.stale();
            publisher.try_send_bytes(&number.to_le_bytes()).unwrap();
        };
        send(0);
        let held = subscriber.poll().unwrap().unwrap();
        for number in 1..1000 {
            send(number);
            // The window moves on, so that a pin alone keeps the first message.
            drop(subscriber.poll().unwrap());
        }
        assert_eq!(held.bytes(), 0_u64.to_le_bytes(), "{publishers}");
    }
}

#[test]
fn a_sleep_watches_125_rings_and_does_not_pretend_to_watch_more() {
    let Crowd {
        mut publishers,
        subscriber,
        registry,
    } = crowd(admitting(WATCHED, 2));
    assert!(!subscriber.must_park());
    let words = Words::of(&subscriber.fd());
    let last = publishers.last_mut().unwrap();
    thread::scope(|scope| {
        let sleeper = scope.spawn(move || {
            let deadline = Instant::now() + Duration::from_secs(25);
            while !subscriber.has_message() {
                subscriber.sleep(Some(deadline));
                assert!(Instant::now() < deadline, "a wake-up was lost");
            }
            subscriber
        });
        while words.at32(READER_WAITING) & 1 == 0 {
            thread::yield_now();
        }
        last.try_send_bytes(b"").unwrap().unwrap();
        let subscriber = sleeper.join().unwrap();
        drop(subscriber.poll().unwrap());
        let settings = admitting(WATCHED, 2);
        let one_more = Publisher::create(&settings, &registry.fd(), WATCHED as u16).unwrap();
        subscriber
            .attach(
                1,
                WATCHED as u16,
                &one_more.fd(),
                Start::First,
                Trust::InPlace,
            )
            .unwrap();
        assert!(subscriber.must_park());
        // Without a deadline: a sleep here would have nobody to end it.
        subscriber.sleep(None);
    });
}

#[test]
fn a_subscriber_of_1024_publishers_hears_each_of_them() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &full_name(module_path!(), "hear_each_of_1024")])
        .args(["--ignored", "--nocapture"])
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{shown}");
    assert!(shown.contains("heard all"), "{shown}");
}

#[test]
#[ignore = "the child of a_subscriber_of_1024_publishers_hears_each_of_them"]
fn hear_each_of_1024() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    let mut crowd = crowd(admitting(1024, 2));
    assert_eq!(crowd.subscriber.rings(), 1024);
    for round in 0..3_u64 {
        for publisher in &mut crowd.publishers {
            publisher.stale();
            let sent = publisher.try_send_bytes(&round.to_le_bytes()).unwrap();
            assert_eq!(sent, Some(round), "its cursor moves by what was released");
        }
        let mut heard = vec![false; 1024];
        while let Some(message) = crowd.subscriber.poll().unwrap() {
            assert_eq!(message.bytes(), round.to_le_bytes());
            let publisher = message.publisher() as usize - 100;
            assert!(!std::mem::replace(&mut heard[publisher], true));
        }
        assert!(heard.into_iter().all(|heard| heard), "round {round}");
    }
    let own = Arc::new(Doorbell::new().unwrap());
    for number in [0, 60, 124, 1023] {
        let publisher = &mut crowd.publishers[number];
        publisher.set_notify(1, own.button().try_clone_to_owned().unwrap());
        crowd.subscriber.park(&own);
        fence_parked();
        assert!(!crowd.subscriber.ready());
        publisher.stale();
        publisher.try_send_bytes(b"").unwrap().unwrap();
        let mut inside = [PollFd::new(
            std::os::fd::AsFd::as_fd(&*own),
            PollFlags::POLLIN,
        )];
        assert_eq!(poll(&mut inside, PollTimeout::ZERO).unwrap(), 1);
        crowd.subscriber.unpark();
        own.drain();
        let message = crowd.subscriber.poll().unwrap().unwrap();
        assert_eq!(message.publisher(), 100 + number as u64);
    }
    println!("heard all");
}
