//! Random schedules of coming, publishing, reading and going, in one process, against a plain model of what a topic promises:
//! who comes gets the history asked for of whoever is there or is retained, then all that follows, each once and in order, and then the
//! end; a publisher goes on exactly as long as its slowest reader has room.

use bus_client::{Bus, Error, Publisher, Subscriber, TopicBuilder};
use proptest::prelude::*;

const DEPTH: u64 = 8;
const KEEP: u32 = 5;
const RETAIN: usize = 2;
/// Publishers that the topic admits at a time.
const PUBLISHERS: usize = 3;

#[derive(Clone, Debug)]
enum Step {
    Publisher,
    Publish { of: usize, count: u64 },
    Close { of: usize },
    Subscriber { history: u32 },
    Read { of: usize, count: u64 },
    Leave { of: usize },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => Just(Step::Publisher),
        6 => (any::<usize>(), 1..12_u64).prop_map(|(of, count)| Step::Publish { of, count }),
        2 => any::<usize>().prop_map(|of| Step::Close { of }),
        2 => (0..KEEP + 2).prop_map(|history| Step::Subscriber { history }),
        5 => (any::<usize>(), 1..30_u64).prop_map(|(of, count)| Step::Read { of, count }),
        1 => any::<usize>().prop_map(|of| Step::Leave { of }),
    ]
}

/// What was published by one publisher, and whether there will be more.
struct Ring {
    id: u64,
    head: u64,
    ended: bool,
}

/// A subscriber and, by publisher, the next message that it is to get.
struct Reader {
    handle: Subscriber<u64>,
    next: Vec<(u64, u64)>,
}

struct World {
    /// Reads everything at once, and knows who has left.
    witness: Subscriber<u64>,
    bus: Bus,
    publishers: Vec<Publisher<u64>>,
    readers: Vec<Reader>,
    /// All that there ever were, as they came.
    rings: Vec<Ring>,
    /// Those that have ended, as they did.
    ended: Vec<u64>,
}

/// What message number `sequence` of a publisher says.
fn value(publisher: u64, sequence: u64) -> u64 {
    publisher << 32 | sequence
}

fn topic(bus: &Bus) -> TopicBuilder {
    let topic = bus.topic("t").unwrap().depth(DEPTH as u32).keep(KEEP);
    topic.retain(RETAIN as u32).publishers(PUBLISHERS as u32)
}

impl World {
    fn new() -> Self {
        let bus = Bus::private("test").unwrap();
        let witness = topic(&bus).subscriber().unwrap();
        let mut world = Self {
            bus,
            witness,
            publishers: Vec::new(),
            readers: Vec::new(),
            rings: Vec::new(),
            ended: Vec::new(),
        };
        // The first publisher decides what the topic is like, and with that what may be asked of it.
        world.take(Step::Publisher);
        world.take(Step::Close { of: 0 });
        world
    }

    fn topic(&self) -> TopicBuilder {
        topic(&self.bus)
    }

    /// Returns when the broker has told that this publisher has left. What is published meanwhile holds nobody up.
    fn left(&self, id: u64) {
        loop {
            while self.witness.try_recv().unwrap().is_some() {}
            let there = self.witness.publishers().unwrap();
            if there.iter().all(|peer| peer.id != id) {
                return;
            }
            std::thread::yield_now();
        }
    }

    fn ring(&mut self, id: u64) -> &mut Ring {
        self.rings.iter_mut().find(|ring| ring.id == id).unwrap()
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Publisher => self.publisher(),
            Step::Publish { of, count } if !self.publishers.is_empty() => {
                self.publish(of % self.publishers.len(), count);
            }
            Step::Close { of } if !self.publishers.is_empty() => {
                let publisher = self.publishers.remove(of % self.publishers.len());
                let id = publisher.id();
                self.ring(id).ended = true;
                self.ended.push(id);
                drop(publisher);
                self.left(id);
            }
            Step::Subscriber { history } => self.subscriber(history),
            Step::Read { of, count } if !self.readers.is_empty() => {
                let reader = of % self.readers.len();
                (0..count).for_each(|_| self.read(reader));
            }
            Step::Leave { of } if !self.readers.is_empty() => {
                drop(self.readers.remove(of % self.readers.len()));
            }
            _ => {}
        }
    }

    fn publisher(&mut self) {
        match self.topic().publisher::<u64>() {
            Ok(publisher) => {
                assert!(self.publishers.len() < PUBLISHERS, "one too many");
                let id = publisher.id();
                self.publishers.push(publisher);
                self.rings.push(Ring {
                    id,
                    head: 0,
                    ended: false,
                });
                for reader in &mut self.readers {
                    reader.next.push((id, 0));
                }
            }
            Err(error) => {
                assert_eq!(self.publishers.len(), PUBLISHERS, "{error}");
                assert!(error.to_string().contains("admits 3"), "{error}");
            }
        }
    }

    fn publish(&mut self, of: usize, count: u64) {
        let id = self.publishers[of].id();
        for _ in 0..count {
            while self.witness.try_recv().unwrap().is_some() {}
            let head = self.ring(id).head;
            let next = self.readers.iter().flat_map(|reader| &reader.next);
            let slowest = next
                .filter(|(of, _)| *of == id)
                .map(|(_, next)| *next)
                .min();
            let room = slowest.is_none_or(|next| head - next < DEPTH);
            match self.publishers[of].try_send(&value(id, head)) {
                Ok(sequence) => assert!(room && sequence == head, "{sequence}, {head}"),
                Err(Error::Full { .. }) => return assert!(!room, "full at {head}"),
                Err(error) => panic!("{error}"),
            }
            self.ring(id).head += 1;
        }
    }

    fn subscriber(&mut self, history: u32) {
        let opened = self.topic().history(history).end_with_publishers();
        let handle = match opened.subscriber::<u64>() {
            Ok(handle) if history <= KEEP => handle,
            Ok(_) => panic!("history of {history}"),
            Err(error) => {
                assert!(history > KEEP, "{error}");
                return assert!(error.to_string().contains("keep 5"), "{error}");
            }
        };
        let retained = &self.ended[self.ended.len().saturating_sub(RETAIN)..];
        let there = self
            .rings
            .iter()
            .filter(|ring| !ring.ended || history > 0 && retained.contains(&ring.id));
        let next = there.map(|ring| (ring.id, ring.head.saturating_sub(history.into())));
        let next = next.collect();
        self.readers.push(Reader { handle, next });
    }

    fn read(&mut self, of: usize) {
        let reader = &mut self.readers[of];
        let rings = &self.rings;
        let ring = |id: u64| rings.iter().find(|ring| ring.id == id).unwrap();
        let unread = reader.next.iter().any(|&(id, next)| next < ring(id).head);
        let over = !reader.next.is_empty() && reader.next.iter().all(|&(id, _)| ring(id).ended);
        match reader.handle.try_recv() {
            Ok(Some(message)) => {
                let id = message.publisher();
                let next = reader.next.iter_mut().find(|(of, _)| *of == id);
                let (_, next) = next.expect("a publisher that it should not follow");
                assert!(*next < ring(id).head);
                assert_eq!(message.sequence(), *next);
                assert_eq!(message.to_native(), value(id, *next));
                *next += 1;
            }
            Ok(None) => assert!(!unread && !over, "nothing to read, and there is"),
            Err(Error::Ended { .. }) => assert!(!unread && over, "it ended early"),
            Err(error) => panic!("{error}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn every_schedule_goes_as_the_model_says(steps in prop::collection::vec(step(), 1..80)) {
        let mut world = World::new();
        steps.into_iter().for_each(|step| world.take(step));
        // In the end everything that anybody is owed comes.
        for of in 0..world.readers.len() {
            (0..200).for_each(|_| world.read(of));
        }
    }
}
