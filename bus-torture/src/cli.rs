//! The command line, and what the exit code means: 0, everything that was tried held; 1, something did not, or nothing was tried;
//! 2, the command line made no sense.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};

use crate::budget::Budget;
use crate::crowd::lie::Lie;
use crate::outcome::Outcome;
use crate::process::Role;
use crate::{crowd, faults, fuzz, hostile, kill_points, process, restarts, simulate, soak, stops};

/// Tries to break bus, and says whether something broke
///
/// Each command starts the processes that it needs, on a bus of its own, and leaves nothing behind.
/// The seed that it prints makes the same choices again.
#[derive(Debug, Parser)]
#[command(name = "bus-torture", version)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Print the outcome as one JSON object
    #[arg(long, global = true)]
    json: bool,
    /// Stop after so many seconds, with what was tried by then
    #[arg(long, global = true, value_name = "N", value_parser = seconds)]
    seconds: Option<Duration>,
    /// Choose as the run that printed this seed did
    #[arg(long, global = true, value_name = "N")]
    seed: Option<u64>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Refuses each system call of clients and of the broker, with each error that fits it
    Faults(faults::Options),
    /// Kills a process after each instruction of what it does, and looks at everybody else
    KillPoints(kill_points::Options),
    /// Peers that write what they like into every word that they may, and say to the broker what they like
    Hostile(hostile::Options),
    /// Stops processes at random points, short and long: slow, never dead
    Stops(Crowd),
    /// Ends the broker and starts it again, under load, as a process of its own and as one that members host
    Restarts {
        #[command(flatten)]
        choices: restarts::Choices,
        #[command(flatten)]
        crowd: Crowd,
    },
    /// Everything at once, for as long as one likes: memory and descriptors stay what they were, and every message is accounted for
    Soak {
        #[command(flatten)]
        choices: soak::Choices,
        #[command(flatten)]
        crowd: Crowd,
    },
    /// Any bytes for whatever reads what somebody else wrote: the targets of `fuzz/`, without libFuzzer
    Fuzz(fuzz::Options),
    /// The control plane in memory, from a seed: many clients, lost and late messages, brokers that end at any step
    Simulate(simulate::Options),
    /// A process that a command has started
    #[command(name = process::SUBCOMMAND, hide = true)]
    Worker {
        /// What it is
        role: String,
        /// Its settings, as JSON
        settings: String,
    },
}

/// The names of all commands.
#[must_use]
pub fn commands() -> Vec<String> {
    let program = Arguments::command();
    let commands = program.get_subcommands();
    commands.map(|one| one.get_name().to_owned()).collect()
}

/// A command that checks what a crowd says.
#[derive(Debug, clap::Args)]
struct Crowd {
    /// One of its processes plays this fault: the run must notice
    #[arg(long, hide = true)]
    lie: Option<Lie>,
}

/// Does what the command line says, and prints what came of it.
#[must_use]
pub fn run(arguments: &Arguments) -> ExitCode {
    let budget = Budget::new(arguments.seconds, arguments.seed);
    let outcome = match torture(&arguments.command, &budget) {
        Ok(Some(outcome)) => outcome,
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bus-torture: {error:#} (seed {})", budget.seed());
            return ExitCode::FAILURE;
        }
    };
    match outcome.print(&budget, arguments.json) {
        Ok(()) if outcome.held() => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bus-torture: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// None of a worker: what it has to say, it has said.
fn torture(command: &Command, budget: &Budget) -> Result<Option<Outcome>> {
    let outcome = match command {
        Command::Faults(options) => faults::run(options, budget)?,
        Command::KillPoints(options) => kill_points::run(options, budget)?,
        Command::Hostile(options) => hostile::run(options, budget)?,
        Command::Fuzz(options) => fuzz::run(options, budget)?,
        Command::Simulate(options) => simulate::run(options, budget)?,
        Command::Stops(crowd) => stops::run(budget, crowd.lie)?,
        Command::Restarts { choices, crowd } => restarts::run(budget, *choices, crowd.lie)?,
        Command::Soak { choices, crowd } => soak::run(budget, *choices, crowd.lie)?,
        Command::Worker { role, settings } => {
            process::work(&roles(), role, settings)?;
            return Ok(None);
        }
    };
    Ok(Some(outcome))
}

/// What the processes of all commands play.
fn roles() -> Vec<Role> {
    [
        crowd::ROLES,
        faults::ROLES,
        hostile::ROLES,
        kill_points::ROLES,
    ]
    .concat()
}

/// A duration in seconds from the command line: more than 0, a week at most.
fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= 604_800.0 => {
            Ok(Duration::from_secs_f64(seconds))
        }
        _ => Err("give a number of seconds, more than 0 and at most 604800".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn odd_durations_are_refused() {
        for text in ["0", "-1", "nan", "inf", "604801", "x"] {
            assert!(seconds(text).is_err(), "{text}");
        }
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
    }
}
