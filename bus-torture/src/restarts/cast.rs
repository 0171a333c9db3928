//! Who is there while the broker comes and goes.

use std::time::Duration;

use anyhow::Result;

use crate::crowd::company::Company;
use crate::crowd::lie::Lie;
use crate::crowd::member::Member;
use crate::crowd::said::Told;
use crate::crowd::starting::Pace;
use crate::crowd::topic::{Kind, Topic};

/// How fast they send: restarts are to have some of the machine.
const PACE: Pace = Pace {
    burst: 16,
    rest: 3000,
};
/// What the topics of one publisher each begin with.
const PREFIX: &str = "lone";
/// The state.
const STATE: &str = "state";
/// Longest time until something has come true that the broker has a part in: it waits 2 s for members that do not come back.
const PROMPT: Duration = Duration::from_secs(15);

/// What somebody does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Sends there.
    Sends(Topic),
    /// Reads there.
    Reads(Topic),
    /// Sends on a topic of its own.
    SendsAlone,
    /// Reads all of those.
    ReadsAll,
    /// Writes the state.
    Writes,
    /// Reads the state.
    Looks,
}

impl Part {
    /// All parts that are played from the beginning.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let mut parts = vec![Self::ReadsAll, Self::SendsAlone, Self::Looks, Self::Writes];
        for topic in topics() {
            parts.push(Self::Reads(topic.clone()));
            parts.push(Self::Sends(topic));
        }
        parts
    }

    /// One that a newcomer can play.
    pub fn any(random: &mut fastrand::Rng) -> Self {
        let topics = topics();
        let topic = topics[random.usize(..topics.len())].clone();
        match random.u32(..5) {
            0 => Self::SendsAlone,
            1 | 2 => Self::Sends(topic),
            _ => Self::Reads(topic),
        }
    }
}

fn topics() -> Vec<Topic> {
    let kinds = [Kind::Wait, Kind::Evict, Kind::Lossy, Kind::Fail];
    let named = |kind| Topic::new(format!("restarts/{kind:?}").to_lowercase(), kind);
    kinds.map(named).to_vec()
}

/// Who plays what.
#[derive(Debug, Default)]
pub struct Cast(Vec<(u32, Part)>);

impl Cast {
    /// Somebody comes to play this.
    pub fn comes(&mut self, all: &mut Company, part: Part, lie: Option<Lie>) -> Result<u32> {
        let number = match &part {
            Part::Sends(topic) => all.sender(topic, PACE, lie)?,
            Part::Reads(topic) => all.reader(topic, lie)?,
            Part::SendsAlone => all.lone_sender(PREFIX, Kind::Wait, PACE)?,
            Part::ReadsAll => all.pattern(PREFIX, false)?,
            Part::Writes => all.state(STATE, true)?,
            Part::Looks => all.state(STATE, false)?,
        };
        self.0.push((number, part));
        Ok(number)
    }

    /// What this one plays; it does so no more.
    pub fn goes(&mut self, number: u32) -> Option<Part> {
        let at = self.0.iter().position(|(known, _)| *known == number)?;
        Some(self.0.remove(at).1)
    }

    /// Everybody's number.
    #[must_use]
    pub fn numbers(&self) -> Vec<u32> {
        self.0.iter().map(|(number, _)| *number).collect()
    }

    /// All have joined, get further, and know exactly those on the other side who are there; nobody is owed anything by those who are gone.
    pub fn check(&self, all: &mut Company) -> Result<()> {
        let here = |all: &Company| {
            self.0
                .iter()
                .all(|(n, _)| all.member(*n).is_some_and(Member::present))
        };
        if !all.must(PROMPT, "everybody who came has joined", here)? {
            return Ok(());
        }
        for (number, part) in &self.0 {
            if !matches!(part, Part::ReadsAll) {
                all.goes_on(PROMPT, *number)?;
            }
            self.knows(all, *number, part)?;
        }
        all.settle(PROMPT)?;
        all.outcome().count("checks", 1);
        Ok(())
    }

    fn knows(&self, all: &mut Company, number: u32, part: &Part) -> Result<()> {
        let others = self.0.iter().filter(|(_, other)| match (part, other) {
            (Part::Sends(own), Part::Reads(topic)) | (Part::Reads(own), Part::Sends(topic)) => {
                own == topic
            }
            _ => false,
        });
        let mut names: Vec<String> = others
            .filter_map(|(other, _)| Some(all.member(*other)?.name().to_owned()))
            .collect();
        if !matches!(part, Part::Sends(_) | Part::Reads(_)) {
            return Ok(());
        }
        names.sort_unstable();
        let name = all.member(number).map_or("it", Member::name);
        let what = format!("{name}, {part:?}, knows {names:?} and nobody else");
        all.ask_until(PROMPT, number, Told::Peers, &what, move |member| {
            member.peers() == Some(&names)
        })
    }

    /// The longest pause of anybody who reads.
    #[must_use]
    pub fn longest_pause(&self, all: &Company) -> Duration {
        let members = self.0.iter().filter_map(|(number, _)| all.member(*number));
        members.map(Member::pause).max().unwrap_or_default()
    }
}
