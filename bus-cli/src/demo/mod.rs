//! `bus demo`: three processes in a pipeline, over the bus and over what else there is, measured alike.
//!
//! ```text
//!  source --Tick--> stage --Signal--> sink --figures--> this process, which hosts the broker
//!
//!  messages   the types, and the stage's work      links     bus, sockets, pipes: one message out, one in
//!  parts      source, stage, sink                  meter     latency and rate, in the sink
//!  pipeline   starting the three, watching them    report    the table, the JSON, the words
//! ```
//! Promises: it ends by itself in about the time asked for; a part that dies makes it fail; no part outlives it; it meets no other
//! broker, because it has a directory of its own.

mod links;
mod machine;
mod messages;
mod meter;
mod parts;
mod pipeline;
mod report;

use std::time::Duration;

use anyhow::Context as _;
use bus_client::Bus;
use clap::Args;

pub use parts::{Arguments as PartArguments, run as part};

use crate::interrupt::{self, Interrupt};
use links::Kind;
use pipeline::Pipeline;
use report::{Figures, Report};

/// The hidden command that a part runs as.
pub const PART: &str = "demo-part";
/// Messages a second of the paced runs.
const PACE: u64 = 20_000;

/// Three processes in a pipeline over the bus, measured, and the same over sockets and pipes.
///
/// A source sends ticks, a stage turns them into signals, a sink measures how long each took. First at a steady
/// pace, for the latency, then flat out, for the rate; over the bus with a broker of its own, over Unix sockets, and over pipes.
#[derive(Debug, Args)]
pub struct Arguments {
    /// How long all of it takes
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,

    /// The figures as JSON on standard output
    #[arg(long)]
    json: bool,
}

/// Runs `bus demo`; returns the exit code.
pub fn run(arguments: &Arguments) -> anyhow::Result<u8> {
    let interrupt = Interrupt::watch(interrupt::cut_short)?;
    let directory = tempfile::Builder::new().prefix("bus-demo-").tempdir();
    let directory = directory.context("cannot make a directory for the demo's socket")?;
    let socket = directory.path().join("bus.sock");
    let _broker = Bus::builder("demo")
        .socket(&socket)
        .embedded(true)
        .connect()?;

    let mut figures = Vec::new();
    for (kind, tenths) in [(Kind::Bus, 3), (Kind::Sockets, 1), (Kind::Pipes, 1)] {
        let time = Duration::from_secs(arguments.seconds.into()) * tenths / 10;
        let run = |rate| {
            let pipeline = Pipeline {
                kind,
                rate,
                time,
                socket: &socket,
                interrupt: &interrupt,
            };
            pipeline.run()
        };
        let Some(paced) = run(PACE)? else { break };
        let Some(flat_out) = run(0)? else { break };
        figures.push(Figures {
            kind,
            paced,
            flat_out,
        });
    }
    if let Some(code) = interrupt.came() {
        return Ok(code);
    }
    Report::new(arguments.seconds, PACE, figures).print(arguments.json)?;
    Ok(0)
}
