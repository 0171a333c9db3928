//! Roles on topics where publishers go past subscribers: who sends, and who reads, holds, and counts what it lost.

use std::fmt::{self, Display, Formatter};
use std::sync::mpsc::TryRecvError;
use std::time::Duration;

use bus_client::{
    Bus, BytesPublisher, BytesSubscriber, Delivery, Error, Held, Message, TopicBuilder,
};

use super::chance::Chance;
use super::content::{Content, LONGEST};
use super::process::{Process, WATCHDOG};
use super::role::{Given, Part, lines, say};
use super::stage::Stage;
use super::tally::{Tallies, Tally};

/// Slots of each ring.
pub const DEPTH: u64 = 64;
/// Messages of a burst, where the sender waits for its acknowledgement: the publisher need not go past who is that far behind.
pub const BURST: u64 = DEPTH / 2;
/// Messages of one publisher that a subscriber may hold.
const HELD: usize = 4;
/// Room for what several hold all they may.
const ARENA: u64 = 1 << 20;
/// How long a reader waits before it looks who is gone.
const TURN: Duration = Duration::from_millis(2);

/// Sends without a pause, or in bursts.
pub const SENDER: Part = ("sender", sender);
/// Reads, holds and counts.
pub const READER: Part = ("reader", reader);

/// Where the messages of a topic lie.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// Each in its slot. A window holds several.
    Slots,
    /// Short ones in their slots, others in the arena.
    Mixed,
    /// Up to 70 KB, in the arena.
    Large,
}

impl Shape {
    fn named(name: &str) -> Self {
        let all = [Self::Slots, Self::Mixed, Self::Large];
        let found = all.into_iter().find(|shape| format!("{shape:?}") == name);
        found.unwrap_or_else(|| panic!("no shape {name:?}"))
    }

    /// Most words of padding of a message.
    pub fn padding(self) -> u64 {
        match self {
            Self::Slots | Self::Mixed => 0,
            Self::Large => 1 << 13,
        }
    }

    /// A topic of this kind.
    pub fn topic(self, bus: &Bus, delivery: Delivery) -> TopicBuilder {
        let longest = LONGEST as u64 + 8 * (self.padding() + 1);
        let topic = bus.topic("t").unwrap().delivery(delivery);
        let topic = topic.depth(DEPTH as u32).held(HELD as u32);
        let topic = topic.max_payload(longest);
        match self {
            Self::Slots => topic
                .stride((longest + 16).next_multiple_of(64) as u32)
                .arena(ARENA),
            Self::Mixed => topic.stride(256).arena(ARENA),
            Self::Large => topic.stride(64).arena(24 * longest.next_multiple_of(64)),
        }
    }
}

/// The shape and the delivery that the test asked for.
pub fn topic(given: &Given, bus: &Bus) -> (Shape, TopicBuilder) {
    let shape = Shape::named(&given.get::<String>("shape"));
    let delivery = match given.find("patience") {
        Some(millis) => Delivery::evict_after(Duration::from_millis(millis)),
        None => Delivery::Lossy,
    };
    (shape, shape.topic(bus, delivery))
}

/// Sends the message with this number.
pub fn send(publisher: &mut BytesPublisher, shape: Shape, tag: u32, sequence: u64) {
    let content = Content {
        sequence,
        tag,
        note: 0,
    };
    let mut bytes = Vec::new();
    content.write_padded(shape.padding(), &mut bytes);
    assert_eq!(publisher.send(&bytes).unwrap(), sequence);
}

/// Joins and says `joined`; sends, without a pause, or if `paced` then in bursts, each when the one before is acknowledged. Says
/// `sent` with how many after the first, and where it is not paced after each ring full. At `on` it sends four more rings full and says
/// `on` with how many it has sent; at `stop` it says `over` with how many it sent and how many found no room, and leaves.
fn sender(given: &Given) {
    let bus = given.bus();
    let (shape, topic) = topic(given, &bus);
    let mut publisher = topic.bytes_publisher().unwrap();
    let acknowledged = given
        .or("paced", false)
        .then(|| bus.subscriber::<u64>("acknowledged").unwrap());
    let tag = given.get("tag");
    let lines = lines();
    say("joined");
    let mut mark = None;
    for sequence in 0.. {
        if mark == Some(sequence) {
            say(format_args!("on {sequence}"));
            mark = None;
        }
        match lines.try_recv().as_deref() {
            Ok("on") => mark = Some(sequence + 4 * DEPTH),
            Ok("stop") => {
                say(format_args!("over {sequence} {}", publisher.nowhere()));
                return;
            }
            Ok(other) => panic!("{other}"),
            Err(_) => {}
        }
        send(&mut publisher, shape, tag, sequence);
        let sent = sequence + 1;
        if sent == 1 || acknowledged.is_none() && sent.is_multiple_of(DEPTH) {
            say(format_args!("sent {sent}"));
        }
        if let Some(acknowledged) = &acknowledged
            && sent.is_multiple_of(BURST)
        {
            while *acknowledged.recv_timeout(WATCHDOG).unwrap().unwrap() != sent {}
        }
    }
}

/// Starts the roles of this file on one topic.
pub struct Cast<'a> {
    stage: &'a Stage,
    shape: Shape,
    /// Milliseconds until a publisher evicts; none on a lossy topic.
    patience: Option<u64>,
}

impl<'a> Cast<'a> {
    /// On a lossy topic.
    pub fn lossy(stage: &'a Stage, shape: Shape) -> Self {
        let patience = None;
        Self {
            stage,
            shape,
            patience,
        }
    }

    /// On one whose publishers evict after so many milliseconds.
    pub fn evicting(stage: &'a Stage, shape: Shape, patience: u64) -> Self {
        let patience = Some(patience);
        Self {
            stage,
            shape,
            patience,
        }
    }

    #[track_caller]
    fn start(&self, role: &str, settings: &[(&str, &dyn Display)]) -> Process {
        let (socket, shape) = (self.stage.path.display(), format!("{:?}", self.shape));
        let mut all: Vec<(&str, &dyn Display)> = vec![("socket", &socket), ("shape", &shape)];
        if let Some(patience) = &self.patience {
            all.push(("patience", patience));
        }
        all.extend(settings);
        Process::start(role, &all)
    }

    /// A sender that has joined; a paced one waits for acknowledgements.
    #[track_caller]
    pub fn sender(&self, tag: u64, paced: bool) -> Process {
        let mut sender = self.start("sender", &[("tag", &tag), ("paced", &paced)]);
        sender.expect("joined");
        sender
    }

    /// A reader that holds up to so many messages; one that holds none acknowledges bursts.
    #[track_caller]
    pub fn reader(&self, holds: u64, seed: u64) -> Process {
        let acknowledges = holds == 0;
        self.start(
            "reader",
            &[
                ("holds", &holds),
                ("acknowledges", &acknowledges),
                ("seed", &seed),
            ],
        )
    }
}

/// Kills it and waits until it is gone.
pub fn kill(process: &mut Process) {
    process.kill();
    process.reap();
}

/// Waits until the sender has sent some rings full from now on; how many messages it has sent then.
pub fn await_progress(sender: &mut Process) -> u64 {
    sender.tell("on");
    sender.await_word("on").parse().unwrap()
}

/// Stops the sender; how many messages it sent, and how many of them found no room.
pub fn over(sender: &mut Process) -> (u64, u64) {
    sender.tell("stop");
    let said = sender.await_word("over");
    let (sent, nowhere) = said.split_once(' ').unwrap();
    (sent.parse().unwrap(), nowhere.parse().unwrap())
}

/// What a reader holds, and what it had read there.
struct Kept(Held, Content);

impl Kept {
    fn check(&self) {
        let Self(held, content) = self;
        let now = Content::read_padded(held.bytes());
        assert_eq!(now.as_ref(), Ok(content), "a message that is held");
    }
}

/// A subscriber and all that it has seen.
struct Reader<'a> {
    subscriber: &'a BytesSubscriber,
    tallies: Tallies,
    kept: Vec<Kept>,
    mourned: Vec<u64>,
    chance: Chance,
    /// Most messages that it holds.
    holds: usize,
    /// It has said that it does.
    said: bool,
}

impl Reader<'_> {
    /// Enters a message, and holds it or not.
    fn enter(&mut self, message: Message<'_>) -> Content {
        let content = self.tallies.enter(
            message.publisher(),
            message.sequence(),
            message.lost(),
            message.bytes(),
        );
        if self.holds > 0 && self.chance.of(0..8) == 0 {
            if self.kept.len() == self.holds {
                let oldest = self.chance.of(0..self.holds as u64) as usize;
                self.kept.swap_remove(oldest).check();
            }
            self.kept.push(Kept(message.hold(), content));
            if self.kept.len() == self.holds && !self.said {
                say("holding");
                self.said = true;
            }
        } else {
            drop(message);
            if let Some(kept) = self.kept.first() {
                kept.check();
            }
        }
        content
    }

    /// Lets go of everything, and says of which publishers nothing more will come.
    fn look_around(&mut self) {
        self.release();
        for tally in &self.tallies.0 {
            let gone = self.subscriber.peer(tally.publisher).is_none();
            if gone && !self.mourned.contains(&tally.publisher) {
                self.mourned.push(tally.publisher);
                let after = self.subscriber.lost() - self.tallies.lost();
                say(Ended::new(tally, after));
            }
        }
    }

    fn release(&mut self) {
        for kept in self.kept.drain(..) {
            kept.check();
        }
    }
}

/// What a reader says of a publisher that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The publisher, as the test names it.
    pub tag: u64,
    /// Where its messages began for the reader.
    pub start: u64,
    /// The sequence number after all that was received and lost.
    pub end: u64,
    /// Messages lost, and how many of them after the last one received.
    pub lost: u64,
    pub after: u64,
}

impl Ended {
    fn new(tally: &Tally, after: u64) -> Self {
        Self {
            tag: tally.tag.into(),
            start: tally.start,
            end: tally.next() + after,
            lost: tally.lost + after,
            after,
        }
    }

    /// What a reader said, without the first word.
    pub fn heard(line: &str) -> Self {
        let numbers: Vec<u64> = line.split(' ').map(|word| word.parse().unwrap()).collect();
        let [tag, start, end, lost, after] = numbers[..] else {
            panic!("{line:?}")
        };
        Self {
            tag,
            start,
            end,
            lost,
            after,
        }
    }
}

impl Display for Ended {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self {
            tag,
            start,
            end,
            lost,
            after,
        } = self;
        write!(f, "ended {tag} {start} {end} {lost} {after}")
    }
}

/// Joins and says `joined`; reads and checks, and holds up to `holds` messages, others all the time; says `holding` when it first has as many.
/// Acknowledges bursts if it `acknowledges`. Says [`Ended`] when a publisher is gone, one at a time. Where it is evicted it checks
/// what it holds, says `evicted` with the number after the last message that came, and joins again if there is a broker. Leaves when the test says no more.
fn reader(given: &Given) {
    let bus = given.bus();
    let (_, topic) = topic(given, &bus);
    let mut acknowledge = given
        .or("acknowledges", false)
        .then(|| bus.publisher::<u64>("acknowledged").unwrap());
    let lines = lines();
    let mut chance = Chance::seeded(given.or("seed", 0));
    let mut evicted = false;
    loop {
        let subscriber = match topic.clone().bytes_subscriber() {
            Ok(subscriber) => subscriber,
            Err(Error::Broker { .. }) if evicted => return,
            Err(error) => panic!("{error}"),
        };
        say("joined");
        let mut reader = Reader {
            subscriber: &subscriber,
            tallies: Tallies::default(),
            kept: Vec::new(),
            mourned: Vec::new(),
            chance: Chance::seeded(chance.of(0..u64::MAX)),
            holds: given.or("holds", 0),
            said: false,
        };
        assert!(reader.holds < HELD);
        loop {
            if lines.try_recv() != Err(TryRecvError::Empty) {
                reader.release();
                return;
            }
            match subscriber.recv_timeout(TURN) {
                Ok(Some(message)) => {
                    let next = reader.enter(message).sequence + 1;
                    if let Some(acknowledge) = &mut acknowledge
                        && next.is_multiple_of(BURST)
                    {
                        acknowledge.send(&next).unwrap();
                    }
                }
                Ok(None) => reader.look_around(),
                Err(Error::Evicted { .. }) => {
                    reader.release();
                    let next = reader.tallies.0.last().map_or(0, Tally::next);
                    say(format_args!("evicted {next}"));
                    evicted = true;
                    break;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}
