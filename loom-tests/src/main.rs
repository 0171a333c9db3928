//! Runs the models, as they are or with one ordering or fence weakened.

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
    /// Weaken each ordering and fence in turn: some model must fail.
    Mutants {
        /// Print `{"sites":N,"killed":N,"survivors":[…]}`.
        #[arg(long)]
        json: bool,
        /// Weaken this site only.
        #[arg(long)]
        site: Option<String>,
    },
    /// Run one model in this process.
    Check {
        /// Its name.
        model: String,
        /// The site to weaken.
        #[arg(long)]
        weaken: Option<String>,
    },
}

fn main() -> Result<ExitCode> {
    let Arguments { command, limit } = Arguments::parse();
    let limit = Duration::from_secs(limit);
    let right = match command {
        Command::Models => gate::models(limit)?,
        Command::Mutants { json, site } => gate::mutants(site.as_deref(), json, limit)?,
        Command::Check { model, weaken } => {
            child::check(&model, weaken.as_deref(), limit)?;
            true
        }
    };
    Ok(if right {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
