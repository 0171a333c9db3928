//! The command line.

use crate::commands::{
    batching, compression, cost, handoff, instructions, latency, placement, select, state, stopped,
    throughput, tiers, wake,
};
use crate::side;
use crate::subject::{DEFAULT, Subject};
use anyhow::Result;
use clap::{Parser, Subcommand};

/// The name of the hidden subcommand whose instructions are counted.
pub const COUNTED: &str = "counted";

/// Measures bus against what the machine can do at best
///
/// Every side is a process of its own, pinned to processor 0 or 1. Leave both to it.
#[derive(Debug, Parser)]
#[command(name = "bus-bench", version)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Print the figures as one flat JSON object
    #[arg(long, global = true)]
    json: bool,
    /// Measure this instead of the default
    #[arg(long, global = true, value_enum)]
    subject: Option<Subject>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The round trip of a message, both sides polling, against a bounced cache line
    Latency(latency::Options),
    /// Messages a second, against the faster of two minimal rings
    Throughput(throughput::Options),
    /// The round trip with both sides asleep, against a bare futex
    Wake(wake::Options),
    /// Reading a state that does not change, against private memory
    State(state::Options),
    /// What subscribers that stand still cost the publisher of a lossy topic
    Stopped(stopped::Options),
    /// The round trip of sides that wait for many subscriptions at once, against a bare epoll
    Select(select::Options),
    /// What a message costs besides time
    Cost(cost::Options),
    /// Coalescing of small messages, against bus as it is
    Batching(batching::Options),
    /// Compression of large messages, against bus as it is
    Compression(compression::Options),
    /// What a long message costs more than a short one, built and read in place
    Handoff(handoff::Options),
    /// What huge, mapped and locked pages, a node, and pinned threads do here
    Placement(placement::Options),
    /// What reading costs in place, and copied from a publisher that is not trusted
    Tiers(tiers::Options),
    /// What a message takes through each public call, in instructions
    Instructions(instructions::Options),
    /// A call whose instructions are counted: started by bus-bench itself
    #[command(name = COUNTED, hide = true)]
    Counted {
        /// The call
        call: String,
    },
    /// One side of a job: started by bus-bench itself
    #[command(name = side::SUBCOMMAND, hide = true)]
    Side {
        /// The side, as JSON
        side: String,
    },
}

/// Does what the command line says.
///
/// # Errors
/// A measurement failed.
pub fn run(arguments: &Arguments) -> Result<()> {
    let subject = arguments.subject.or(DEFAULT);
    let report = match &arguments.command {
        Command::Latency(options) => latency::run(options, subject)?,
        Command::Throughput(options) => throughput::run(options, subject)?,
        Command::Wake(options) => wake::run(options, subject)?,
        Command::State(options) => state::run(options)?,
        Command::Stopped(options) => stopped::run(options)?,
        Command::Select(options) => select::run(options)?,
        Command::Cost(options) => cost::run(options, subject)?,
        Command::Batching(options) => batching::run(options, subject)?,
        Command::Compression(options) => compression::run(options, subject)?,
        Command::Handoff(options) => handoff::run(options)?,
        Command::Placement(options) => placement::run(options)?,
        Command::Tiers(options) => tiers::run(options)?,
        Command::Instructions(options) => instructions::run(options)?,
        Command::Counted { call } => return instructions::counted(call),
        Command::Side { side } => return side::run(side),
    };
    report.print(arguments.json)
}

/// A duration in seconds from the command line: more than 0, an hour at most.
///
/// # Errors
/// It is no such number.
pub fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= 3600.0 => Ok(seconds),
        _ => Err("give a number of seconds, more than 0 and at most 3600".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn odd_durations_are_refused() {
        for text in ["0", "-1", "nan", "inf", "3601", "x"] {
            assert!(seconds(text).is_err(), "{text}");
        }
        assert_eq!(seconds("0.5"), Ok(0.5));
    }
}
