//! Random schedules of topics that come and go while one subscriber follows a pattern, against a plain model: whatever is published on a topic
//! that matches comes once, in its publisher's order, from the first message on, whenever the subscriber gets round to it; and
//! a publisher goes on exactly as long as what it has not read leaves room, whether it has come to the topic or not.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bus_client::{Bus, Error, PatternSubscriber, Publisher};
use proptest::prelude::*;

const DEPTH: u64 = 8;
/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(20);

#[derive(Clone, Debug)]
enum Step {
    Open { topic: usize },
    Publish { of: usize, count: u64 },
    Close { of: usize },
    Read { count: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..TOPICS.len()).prop_map(|topic| Step::Open { topic }),
        6 => (any::<usize>(), 1..10_u64).prop_map(|(of, count)| Step::Publish { of, count }),
        2 => any::<usize>().prop_map(|of| Step::Close { of }),
        3 => (1..40_u64).prop_map(|count| Step::Read { count }),
    ]
}

/// The last does not match.
const TOPICS: [&str; 4] = ["a/x", "a/y", "a/y/z", "b/x"];

/// What one publisher sent, and what was received of it.
struct Ring {
    topic: &'static str,
    sent: u64,
    got: u64,
}

struct World {
    bus: Bus,
    all: PatternSubscriber<u64>,
    publishers: Vec<Publisher<u64>>,
    rings: BTreeMap<u64, Ring>,
}

impl World {
    fn new() -> Self {
        let bus = Bus::private("test").unwrap();
        let all = bus.pattern_subscriber("a/**").unwrap();
        Self {
            bus,
            all,
            publishers: Vec::new(),
            rings: BTreeMap::new(),
        }
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Open { topic } => {
                let topic = TOPICS[topic];
                let builder = self.bus.topic(topic).unwrap().depth(DEPTH as u32);
                let publisher = builder.publisher::<u64>().unwrap();
                let ring = Ring {
                    topic,
                    sent: 0,
                    got: 0,
                };
                self.rings.insert(publisher.id(), ring);
                self.publishers.push(publisher);
            }
            Step::Publish { of, count } if !self.publishers.is_empty() => {
                let of = of % self.publishers.len();
                (0..count).for_each(|_| self.publish(of));
            }
            Step::Close { of } if !self.publishers.is_empty() => {
                self.publishers.remove(of % self.publishers.len());
            }
            Step::Read { count } => {
                for _ in 0..count {
                    self.read();
                }
            }
            _ => {}
        }
    }

    fn publish(&mut self, of: usize) {
        let publisher = &mut self.publishers[of];
        let id = publisher.id();
        let ring = self.rings.get_mut(&id).unwrap();
        let room = !ring.matches() || ring.sent - ring.got < DEPTH;
        match publisher.try_send(&(id << 32 | ring.sent)) {
            Ok(sequence) => {
                assert!(room && sequence == ring.sent, "{sequence}");
                ring.sent += 1;
            }
            Err(Error::Full { .. }) => assert!(!room, "full at {}", ring.sent),
            Err(error) => panic!("{error}"),
        }
    }

    /// Reads a message, if there is one, as there has to be.
    fn read(&mut self) -> bool {
        let message = self.all.try_recv().unwrap();
        let unread = |ring: &Ring| ring.matches() && ring.got < ring.sent;
        let Some(message) = message else {
            assert!(!self.rings.values().any(unread), "something is missed");
            return false;
        };
        let id = message.publisher();
        let ring = self.rings.get_mut(&id).unwrap();
        assert_eq!(message.topic(), ring.topic);
        assert_eq!(message.sequence(), ring.got, "of publisher {id}");
        assert_eq!(message.to_native(), id << 32 | ring.got);
        ring.got += 1;
        assert!(ring.got <= ring.sent);
        true
    }
}

impl Ring {
    fn matches(&self) -> bool {
        self.topic.starts_with("a/")
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_missed_whenever_it_is_read(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::new();
        steps.iter().for_each(|step| world.take(step));
        world.publishers.clear();
        while world.read() {}
        // The broker closes what is over, and the subscriber lets go of it.
        let deadline = Instant::now() + LONG;
        while !world.all.topics().unwrap().is_empty() {
            assert!(Instant::now() < deadline, "{:?}", world.all.topics());
            std::thread::yield_now();
        }
        assert!(!world.read());
    }
}
