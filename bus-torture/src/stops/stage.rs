//! One topic, and who is stopped on it.

use std::hint;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::crowd::company::Company;
use crate::crowd::lie::Lie;
use crate::crowd::member::Member;
use crate::crowd::said::Told;
use crate::crowd::starting::FLOOD;
use crate::crowd::topic::{Kind, PATIENCE, Topic};
use crate::outcome::Outcome;

/// One stop in so many is a long one.
const LONG: u32 = 12;
/// Longest time until somebody goes on again who was not to be held up: what a busy machine takes, not what the bus does.
const PROMPT: Duration = Duration::from_secs(5);

/// Who is stopped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whom {
    Publisher,
    Reader,
    Broker,
}

/// A topic and its processes.
pub struct Stage {
    all: Company,
    kind: Kind,
    topic: Topic,
    publisher: u32,
    readers: [u32; 2],
    random: fastrand::Rng,
}

impl Stage {
    /// A publisher, two readers and a broker.
    pub fn new(kind: Kind, mut random: fastrand::Rng, lie: Option<Lie>) -> Result<Self> {
        let mut all = Company::new(random.fork(), false)?;
        all.start_broker()?;
        let topic = Topic::new("stops", kind);
        let readers = [all.reader(&topic, lie)?, all.reader(&topic, None)?];
        for reader in readers {
            all.joined(reader)?;
        }
        let publisher = all.sender(&topic, FLOOD, lie)?;
        all.joined(publisher)?;
        Ok(Self {
            all,
            kind,
            topic,
            publisher,
            readers,
            random,
        })
    }

    /// Stops somebody for a while.
    pub fn stop_one(&mut self) -> Result<()> {
        let (whom, number) = match self.random.u32(..8) {
            0 => (Whom::Broker, 0),
            1..4 => (Whom::Publisher, self.publisher),
            _ => (Whom::Reader, self.readers[self.random.usize(..2)]),
        };
        let long = self.random.u32(..LONG) == 0;
        // The moment is chance's, not that of the last look.
        spin(Duration::from_micros(self.random.u64(..2000)));
        self.all.outcome().tried(1);
        let key = match whom {
            Whom::Publisher => "stops.publisher",
            Whom::Reader => "stops.reader",
            Whom::Broker => "stops.broker",
        };
        self.all.outcome().count(key, 1);
        if long {
            self.all.outcome().count("stops.long", 1);
            self.long(whom, number)
        } else {
            self.short(whom, number)
        }
    }

    fn stop(&mut self, whom: Whom, number: u32) {
        if whom == Whom::Broker {
            self.all.stop_broker();
        } else if let Some(member) = self.all.member_mut(number) {
            member.stop();
        }
    }

    fn go_on(&mut self, whom: Whom, number: u32) {
        if whom == Whom::Broker {
            self.all.let_broker_go_on();
        } else if let Some(member) = self.all.member_mut(number) {
            member.go_on();
        }
    }

    /// Microseconds, mostly. What is stopped again and again must still go on.
    fn short(&mut self, whom: Whom, number: u32) -> Result<()> {
        for _ in 0..self.random.u32(1..=8) {
            self.stop(whom, number);
            let micros = 1 << self.random.u32(..13);
            spin(Duration::from_micros(self.random.u64(..micros)));
            self.go_on(whom, number);
        }
        self.goes_on(&[self.publisher, self.readers[0], self.readers[1]])
    }

    /// Longer than an evicting topic waits.
    fn long(&mut self, whom: Whom, number: u32) -> Result<()> {
        let time = PATIENCE + Duration::from_millis(self.random.u64(300..800));
        let before = self.all.evictions();
        self.stop(whom, number);
        let stopped = Instant::now();
        let others: Vec<u32> = [self.publisher, self.readers[0], self.readers[1]]
            .into_iter()
            .filter(|other| *other != number)
            .collect();
        let mut came = None;
        match (whom, self.kind) {
            // One that has it open already is not held up, one that comes is.
            (Whom::Broker, _) => {
                came = Some(self.all.reader(&self.topic.clone(), None)?);
                self.goes_on(&others)?;
            }
            (Whom::Reader, Kind::Lossy | Kind::Large | Kind::Evict) => {
                self.goes_on(&others)?;
            }
            _ => {}
        }
        let left = time.saturating_sub(stopped.elapsed());
        self.all.until(left, |_| false)?;
        if let Some(came) = came
            && self.all.member(came).is_some_and(Member::present)
        {
            let what = "somebody joined while the broker was stopped";
            self.all.outcome().violation(what);
        }
        self.go_on(whom, number);
        self.goes_on(&[self.publisher, self.readers[0], self.readers[1]])?;
        if let Some(came) = came {
            self.all.joined(came)?;
            self.goes_on(&[came])?;
            self.all.tell(came, Told::Leave)?;
            self.all
                .must(PROMPT, "who was told to leave has left", |all| {
                    all.member(came).is_none()
                })?;
        }
        let evicted = self.all.evictions() - before;
        if self.kind == Kind::Evict && whom == Whom::Reader && evicted == 0 {
            let what = format!(
                "a reader was stopped for {time:?} where publishers wait for {PATIENCE:?}, and was not told that it was evicted"
            );
            self.all.outcome().violation(what);
        }
        Ok(())
    }

    /// Each of these gets further than it was.
    fn goes_on(&mut self, who: &[u32]) -> Result<()> {
        for number in who {
            let from = self.at(*number, 0)?;
            self.at(*number, from + 1)?;
        }
        Ok(())
    }

    /// How far it is, when it is at least there.
    fn at(&mut self, number: u32, least: u64) -> Result<u64> {
        let deadline = Instant::now() + PROMPT;
        loop {
            self.all.tell(number, Told::Where)?;
            let answered = |all: &Company| all.member(number).is_none_or(|m| m.at().is_some());
            let left = deadline.saturating_duration_since(Instant::now());
            let evictions = self.all.evictions();
            self.all.until(left, answered)?;
            let at = self.all.member(number).and_then(Member::at);
            match at {
                Some(at) if at >= least => return Ok(at),
                // It counts anew.
                Some(_) if self.all.evictions() > evictions => return Ok(0),
                Some(_) if Instant::now() < deadline => {}
                _ => {
                    let name = self.all.member(number).map_or("one", Member::name);
                    let what = format!(
                        "{name} on a topic {:?}: it does not go on within {PROMPT:?}: {at:?}, at least {least} was due",
                        self.kind
                    );
                    self.all.outcome().violation(what);
                    return Ok(0);
                }
            }
        }
    }

    /// Whether a promise did not hold.
    pub fn violated(&mut self) -> bool {
        self.all.outcome().violated() > 0
    }

    /// All come to an end, and everything adds up.
    pub fn finish(self) -> Result<Outcome> {
        self.all.finish()
    }
}

/// Lets a time pass that is too short to sleep for.
fn spin(time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        hint::spin_loop();
    }
}
