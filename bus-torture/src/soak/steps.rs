//! What happens next, as the seed says: the same steps for the same seed, though not at the same instant of what everybody does.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::guests::Guests;
use crate::crowd::company::Company;
use crate::crowd::said::Told;

/// Time between two steps, in microseconds.
const BETWEEN: std::ops::Range<u64> = 2_000..25_000;
/// One step in so many ends the broker.
const RESTART: u32 = 60;
/// One step in so many stops it.
const STOP_BROKER: u32 = 80;
/// Longest time without a broker, in microseconds.
const OUTAGE: u64 = 60_000;

/// The steps of a run.
#[derive(Debug)]
pub struct Steps {
    random: fastrand::Rng,
    restarts: bool,
    /// When those who are stopped go on.
    stopped: Vec<(Instant, u32)>,
    /// When the broker goes on, if it is stopped.
    broker_on: Option<Instant>,
    /// When there is a broker again, if there is none.
    broker_back: Option<Instant>,
}

impl Steps {
    /// From the first.
    pub fn new(random: fastrand::Rng, restarts: bool) -> Self {
        Self {
            random,
            restarts,
            stopped: Vec::new(),
            broker_on: None,
            broker_back: None,
        }
    }

    /// One step, and the time until the next.
    pub fn step(&mut self, all: &mut Company, guests: &mut Guests) -> Result<()> {
        // Always the same number of choices, so that what happens meanwhile changes none that follow.
        let time = Duration::from_micros(self.random.u64(BETWEEN));
        let seat = self.random.usize(..guests.seats());
        let what = self.random.u32(..100);
        let long = Duration::from_millis(self.random.u64(20..1800));
        let short = Duration::from_micros(self.random.u64(10..8000));
        let restart = self.random.u32(..RESTART) == 0;
        let kill = self.random.bool();
        let outage = Duration::from_micros(self.random.u64(..OUTAGE));
        let stop_broker = self.random.u32(..STOP_BROKER) == 0;

        all.outcome().tried(1);
        match (guests.guest(all, seat), what) {
            (None, _) => {
                guests.comes(all, seat)?;
                all.outcome().count("guests", 1);
            }
            (Some(guest), 0..25) => {
                all.tell(guest, Told::Leave)?;
                all.outcome().count("leaves", 1);
                // One that is stopped hears it when it goes on.
            }
            (Some(guest), 25..50) => {
                all.kill(guest)?;
                all.outcome().count("kills", 1);
            }
            (Some(guest), 50..90) if guests.stops(seat) => {
                let (time, key) = match what {
                    50..80 => (short, "stops.short"),
                    _ => (long, "stops.long"),
                };
                if let Some(member) = all.member_mut(guest) {
                    member.stop();
                }
                self.stopped.push((Instant::now() + time, guest));
                all.outcome().count(key, 1);
            }
            _ => {}
        }
        let whole = self.broker_back.is_none() && self.broker_on.is_none();
        if self.restarts && restart && whole {
            all.end_broker(kill)?;
            self.broker_back = Some(Instant::now() + outage);
            let key = if kill {
                "restarts.killed"
            } else {
                "restarts.clean"
            };
            all.outcome().count(key, 1);
        } else if stop_broker && whole {
            all.stop_broker();
            self.broker_on = Some(Instant::now() + long / 4);
            all.outcome().count("stops.broker", 1);
        }
        self.pass(all, Instant::now() + time)
    }

    /// Lets the time pass; whatever is due happens meanwhile.
    fn pass(&mut self, all: &mut Company, end: Instant) -> Result<()> {
        loop {
            self.due(all, Instant::now())?;
            let next = self.stopped.iter().map(|(at, _)| *at);
            let next = next.chain(self.broker_on).chain(self.broker_back);
            let next = next.chain([end]).min().unwrap_or(end);
            all.until(next.saturating_duration_since(Instant::now()), |_| false)?;
            if Instant::now() >= end {
                return Ok(());
            }
        }
    }

    fn due(&mut self, all: &mut Company, now: Instant) -> Result<()> {
        self.stopped.retain(|(at, guest)| {
            if *at <= now
                && let Some(member) = all.member_mut(*guest)
            {
                member.go_on();
            }
            *at > now
        });
        if self.broker_on.is_some_and(|at| at <= now) {
            self.broker_on = None;
            all.let_broker_go_on();
        }
        if self.broker_back.is_some_and(|at| at <= now) {
            self.broker_back = None;
            all.start_broker()?;
        }
        Ok(())
    }

    /// Everybody goes on, and there is a broker.
    pub fn calm(&mut self, all: &mut Company) -> Result<()> {
        if self.broker_back.take().is_some() {
            all.start_broker()?;
        }
        self.broker_on = None;
        self.stopped.clear();
        all.all_go_on();
        Ok(())
    }
}
