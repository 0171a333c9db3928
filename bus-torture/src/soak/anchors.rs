//! Those who are there from the beginning to the end.

use std::time::Duration;

use anyhow::Result;

use crate::crowd::company::Company;
use crate::crowd::lie::Lie;
use crate::crowd::member::Member;
use crate::crowd::said::Told;
use crate::crowd::starting::Pace;
use crate::crowd::topic::{Kind, Topic};

/// The topic of the honest pair: nobody is stopped there, only killed.
pub const HONEST: &str = "honest";
/// What the topics of one publisher each begin with.
pub const PREFIX: &str = "lone";
/// The state.
pub const STATE: &str = "state";
/// How fast anchors send: the guests are to have some of the machine.
const PACE: Pace = Pace {
    burst: 8,
    rest: 4000,
};
/// The honest pair has little to do, so that a pause is one.
const STEADY: Pace = Pace {
    burst: 2,
    rest: 500,
};
/// Longest time until an anchor has done something: what a busy machine takes, not what the bus does.
const PROMPT: Duration = Duration::from_secs(10);

/// All topics, each of a kind of its own, and the honest pair's.
#[must_use]
pub fn topics() -> Vec<Topic> {
    let kinds = [
        Kind::Wait,
        Kind::Fail,
        Kind::Evict,
        Kind::Lossy,
        Kind::Large,
        Kind::History,
    ];
    let named = |kind| Topic::new(format!("soak/{kind:?}").to_lowercase(), kind);
    let honest = Topic::new(HONEST, Kind::Wait);
    kinds.map(named).into_iter().chain([honest]).collect()
}

/// A publisher and a reader of one topic.
#[derive(Clone, Copy, Debug)]
struct Pair {
    sender: u32,
    reader: u32,
}

/// The anchors.
#[derive(Debug)]
pub struct Anchors {
    pairs: Vec<Pair>,
    honest: Pair,
    pattern: u32,
    state: u32,
}

impl Anchors {
    /// Starts them, and waits until they are there. `whole` where no broker goes. The first reader tells the lie.
    pub fn new(all: &mut Company, whole: bool, lie: Option<Lie>) -> Result<Self> {
        let mut pairs = Vec::new();
        let mut lie = lie;
        for topic in topics() {
            let pace = if topic.name == HONEST { STEADY } else { PACE };
            let reader = all.reader(&topic, lie)?;
            all.joined(reader)?;
            let sender = all.sender(&topic, pace, lie.take())?;
            all.joined(sender)?;
            pairs.push(Pair { sender, reader });
        }
        let pattern = all.pattern(PREFIX, whole)?;
        all.joined(pattern)?;
        let state = all.state(STATE, false)?;
        all.joined(state)?;
        let honest = pairs[pairs.len() - 1];
        Ok(Self {
            pairs,
            honest,
            pattern,
            state,
        })
    }

    /// All of them.
    pub fn numbers(&self) -> Vec<u32> {
        let pairs = self.pairs.iter().flat_map(|p| [p.sender, p.reader]);
        pairs.chain([self.pattern, self.state]).collect()
    }

    /// In a lull: each goes on, knows its peer and nobody else, and what a writer set last is what the reader of the state sees.
    pub fn check(&self, all: &mut Company) -> Result<()> {
        let last = all.last_value();
        for pair in &self.pairs {
            for number in [pair.sender, pair.reader] {
                all.goes_on(PROMPT, number)?;
            }
            self.knows(all, pair.sender, pair.reader)?;
            self.knows(all, pair.reader, pair.sender)?;
        }
        if let Some(last) = last {
            let what = format!(
                "the reader of a state, whose writer has left, sees its last value {last:?}"
            );
            all.ask_until(PROMPT, self.state, Told::Where, &what, move |member| {
                member.value().is_some_and(|value| value >= last)
            })?;
        }
        Ok(())
    }

    fn knows(&self, all: &mut Company, number: u32, peer: u32) -> Result<()> {
        let Some(name) = all.member(peer).map(|m| m.name().to_owned()) else {
            return Ok(());
        };
        let what = format!("anchor {number} knows {name} and nobody else");
        all.ask_until(PROMPT, number, Told::Peers, &what, move |member| {
            member.peers() == Some(std::slice::from_ref(&name))
        })
    }

    /// What there is to say of the honest pair.
    pub fn conclude(&self, all: &mut Company) {
        let pause = all.member(self.honest.reader).map(Member::pause);
        let pause = pause.unwrap_or_default();
        all.outcome()
            .number("honest_pair.longest_pause_ms", pause.as_secs_f64() * 1e3);
    }
}
