//! `state`: reading a value that does not change, against reading the same bytes from private memory.
//!
//! Both loops sum the words of the value, and both go to it through a pointer that the compiler cannot see through. One process: what counts is
//! what a look costs the reader, and nobody else takes part in it.

use crate::bus::Broker;
use crate::report::{Report, median};
use anyhow::{Context, Result};
use bus_client::{Bus, State};
use std::hint::black_box;
use std::time::Instant;

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Rounds, each of both kinds
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u16).range(1..))]
    pub rounds: u16,
    /// About how long to measure
    #[arg(long, default_value_t = 5.0, value_parser = super::super::cli::seconds)]
    pub seconds: f64,
}

/// Measures.
///
/// # Errors
/// The broker cannot be started, or refuses.
pub fn run(options: &Options) -> Result<Report> {
    let broker = Broker::start()?;
    let bus = crate::bus::connect(&broker.socket(), None)?;
    let mut report = Report::default();
    let budget = options.seconds / 3.0;
    size::<8>(&bus, options.rounds, budget, &mut report)?;
    size::<32>(&bus, options.rounds, budget, &mut report)?;
    size::<128>(&bus, options.rounds, budget, &mut report)?;
    report.note(
        "Nanoseconds to read all words of a value of so many bytes: through a state that does not change, and from private memory. \
         `changed` is a look that finds a new value, and copies it.",
    );
    Ok(report)
}

/// Measures values of `WORDS` words.
fn size<const WORDS: usize>(
    bus: &Bus,
    rounds: u16,
    seconds: f64,
    report: &mut Report,
) -> Result<()> {
    let bytes = WORDS * size_of::<u64>();
    let name = format!("state-{bytes}");
    let mut writer = bus.state_writer::<[u64; WORDS]>(&name)?;
    let mut state = bus.state::<[u64; WORDS]>(&name)?;
    let value = [7_u64; WORDS];
    writer.set(&value)?;
    let private = Box::new(value.map(Word::from_native));

    let mut reads = 1_000;
    while timed(reads, || sum(&private)) < seconds * 1e9 / f64::from(rounds) / 4.0 {
        reads *= 2;
    }
    let (mut shared_ns, mut private_ns, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let shared = timed(reads, || read(&mut state)) / reads as f64;
        let own = timed(reads, || sum(&private)) / reads as f64;
        shared_ns.push(shared);
        private_ns.push(own);
        ratios.push(shared / own);
    }
    let mut changed_ns = Vec::new();
    for _ in 0..1_000 {
        writer.set(&value)?;
        changed_ns.push(timed(1, || read(&mut state)));
    }
    let key = |figure: &str| format!("bytes_{bytes}.{figure}");
    report.number(key("state_ns"), median(&shared_ns));
    report.number(key("private_ns"), median(&private_ns));
    report.number(key("ratio"), median(&ratios));
    report.number(key("changed_ns"), median(&changed_ns));
    state.get()?.context("the value is gone")?;
    Ok(())
}

/// A word as it is archived.
type Word = bus_client::rkyv::rend::u64_le;

/// Reads every word.
#[inline(always)]
fn fold<const WORDS: usize>(value: &[Word; WORDS]) -> u64 {
    value.iter().fold(0, |sum, word| sum ^ word.to_native())
}

#[inline(never)]
fn sum<const WORDS: usize>(value: &[Word; WORDS]) -> u64 {
    fold(black_box(value))
}

#[inline(never)]
fn read<const WORDS: usize>(state: &mut State<[u64; WORDS]>) -> u64 {
    match black_box(state).get() {
        Ok(Some(value)) => fold(value),
        _ => 0,
    }
}

/// Nanoseconds that so many calls take.
fn timed(calls: u64, mut call: impl FnMut() -> u64) -> f64 {
    let begun = Instant::now();
    for _ in 0..calls {
        black_box(call());
    }
    begun.elapsed().as_nanos() as f64
}
