//! Runs the models, as they are or with one ordering weakened or one wake-up left out.

#![forbid(unsafe_code)]

mod child;
mod gate;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// The ring protocol under the loom model checker.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Seconds that one model may take; one that takes longer has found nothing.
    #[arg(long, global = true, default_value_t = 120)]
    limit: u64,
}

#[derive(Subcommand)]
enum Command {
    /// Run every model as it is, with timings.
    Models,
    /// Weaken each ordering and fence, then leave out each wake-up: each time some model must fail.
    Mutants {
        /// Print `{"sites":N,"wake_ups":N,"killed":N,"survivors":[…]}`.
        #[arg(long)]
        json: bool,
        /// Try this one only.
        #[arg(long)]
        mutant: Option<String>,
    },
    /// Run one model in this process.
    Check {
        /// Its name.
        model: String,
        /// The ordering to weaken, or the wake-up to leave out.
        #[arg(long)]
        mutant: Option<String>,
    },
}

fn main() -> Result<ExitCode> {
    let Arguments { command, limit } = Arguments::parse();
    let limit = Duration::from_secs(limit);
    let right = match command {
        Command::Models => gate::models(limit)?,
        Command::Mutants { json, mutant } => gate::mutants(mutant.as_deref(), json, limit)?,
        Command::Check { model, mutant } => {
            child::check(&model, mutant.as_deref(), limit)?;
            true
        }
    };
    Ok(if right {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
