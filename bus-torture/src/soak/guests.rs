//! Those who come and go: a fixed number of seats, each for one part on one topic.

use std::time::Duration;

use anyhow::Result;

use super::anchors::{HONEST, PREFIX, STATE, topics};
use crate::crowd::company::Company;
use crate::crowd::member::Member;
use crate::crowd::said::Told;
use crate::crowd::starting::Pace;
use crate::crowd::topic::{Kind, Topic};

/// How fast guests send.
const PACE: Pace = Pace {
    burst: 32,
    rest: 2000,
};
/// How long all may take to leave.
const LEAVING: Duration = Duration::from_secs(30);

/// What a guest does.
#[derive(Clone, Debug)]
enum Part {
    Sends(Topic),
    Reads(Topic),
    SendsAlone,
    ReadsAll,
    Writes,
    Looks,
}

/// A seat.
#[derive(Clone, Debug)]
struct Seat {
    part: Part,
    /// Whether who sits there may be stopped.
    stops: bool,
    guest: Option<u32>,
}

/// All seats.
#[derive(Debug)]
pub struct Guests {
    seats: Vec<Seat>,
    /// No broker goes.
    whole: bool,
}

impl Guests {
    /// All seats are free. `whole` where no broker goes.
    pub fn new(whole: bool) -> Self {
        let mut seats = Vec::new();
        let mut add = |part, stops| {
            seats.push(Seat {
                part,
                stops,
                guest: None,
            });
        };
        for topic in topics() {
            let stops = topic.name != HONEST;
            if stops {
                add(Part::Sends(topic.clone()), true);
                add(Part::Reads(topic.clone()), true);
            }
            add(Part::Reads(topic), stops);
        }
        add(Part::SendsAlone, true);
        add(Part::SendsAlone, true);
        add(Part::ReadsAll, true);
        add(Part::Writes, true);
        add(Part::Looks, true);
        Self { seats, whole }
    }

    /// How many seats there are.
    pub fn seats(&self) -> usize {
        self.seats.len()
    }

    /// Whether who sits there may be stopped.
    pub fn stops(&self, seat: usize) -> bool {
        self.seats[seat].stops
    }

    /// Who sits there, if somebody does, is there still, and was not told to leave.
    pub fn guest(&self, all: &Company, seat: usize) -> Option<u32> {
        let guest = self.seats[seat].guest?;
        all.member(guest)
            .is_some_and(|m| !m.leaving())
            .then_some(guest)
    }

    /// Somebody takes this seat.
    pub fn comes(&mut self, all: &mut Company, seat: usize) -> Result<()> {
        let guest = match &self.seats[seat].part {
            Part::Sends(topic) => all.sender(topic, PACE, None)?,
            Part::Reads(topic) => all.reader(topic, None)?,
            Part::SendsAlone => all.lone_sender(PREFIX, Kind::Wait, PACE)?,
            Part::ReadsAll => all.pattern(PREFIX, self.whole)?,
            Part::Writes => all.state(STATE, true)?,
            Part::Looks => all.state(STATE, false)?,
        };
        self.seats[seat].guest = Some(guest);
        Ok(())
    }

    /// All go on who are stopped, and leave; the writers of everything first, so that readers see their ends.
    pub fn all_leave(&mut self, all: &mut Company) -> Result<()> {
        all.all_go_on();
        for writers in [true, false] {
            for seat in 0..self.seats.len() {
                let writes = matches!(
                    self.seats[seat].part,
                    Part::Sends(_) | Part::SendsAlone | Part::Writes
                );
                if writes == writers
                    && let Some(guest) = self.guest(all, seat)
                {
                    all.tell(guest, Told::Leave)?;
                }
            }
            all.must(
                LEAVING,
                "all guests who were told to leave have left",
                |all| all.members().all(|(_, member)| !Member::leaving(member)),
            )?;
            if writers {
                all.settle(LEAVING)?;
            }
        }
        Ok(())
    }
}
