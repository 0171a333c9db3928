//! `faults`: each system call of a client or of a broker is refused once, with each error that fits it, and everybody goes on.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `call` | system calls, where they are made, and the errors that fit them |
//! | `probe` | a process whose calls are watched, and one of which is refused |
//! | `plan` | which faults are tried, and what they cover |
//! | `client`, `clients` | what a client does, and what becomes of it and of the others |
//! | `restarted`, `sessions`, `company` | a client whose session goes from broker to broker, and what becomes of it and of the others |
//! | `broker`, `brokers`, `customers` | what a broker does, and what becomes of it and of those whom it serves |
//!
//! Promises: a fault has no effect but its error. A client that gets one says so at most once, then all goes well; nobody loses a message, or waits for ever.
//! It does not refuse memory to the allocator: a Rust program ends by that. It follows one thread of a process: the first one, or a client's session thread.

mod broker;
mod brokers;
mod call;
mod client;
mod clients;
mod company;
mod customers;
mod plan;
mod probe;
mod restarted;
mod sessions;

use anyhow::Result;
use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};

use crate::budget::Budget;
use crate::outcome::Outcome;
use crate::process::Role;
use crate::progress::Progress;
use crate::tracer;
use brokers::Brokers;
use client::Script;
use clients::Clients;
use plan::Coverage;
use sessions::Sessions;

/// What this command's processes play.
pub const ROLES: &[Role] = &[client::CLIENT, restarted::RESTARTED, broker::BROKER];

/// Whose calls are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    Client(Script),
    Session,
    Broker,
}

impl ValueEnum for Subject {
    fn value_variants<'a>() -> &'a [Self] {
        const {
            &[
                Self::Client(Script::Publisher),
                Self::Client(Script::Subscriber),
                Self::Client(Script::Parked),
                Self::Client(Script::Selector),
                Self::Client(Script::Pattern),
                Self::Client(Script::State),
                Self::Client(Script::Host),
                Self::Session,
                Self::Broker,
            ]
        }
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        match self {
            Self::Client(script) => script.to_possible_value(),
            Self::Session => Some(
                PossibleValue::new(sessions::NAME)
                    .help("Takes the handles of a client from broker to broker"),
            ),
            Self::Broker => Some(
                PossibleValue::new(brokers::NAME)
                    .help("Serves customers that come, talk, are refused, park, die, and go"),
            ),
        }
    }
}

/// What to try.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Faults of this one only; may be given several times
    #[arg(long = "of", value_name = "NAME", value_enum)]
    subjects: Vec<Subject>,
    /// This fault only: the number that a violation prints, for the same program
    #[arg(long, value_name = "N")]
    fault: Option<u32>,
    /// Let clients give up at their first error: to show that this is noticed
    #[arg(long, hide = true)]
    mutant: bool,
}

/// Tries as many faults as fit.
///
/// # Errors
/// The run itself fails: processes cannot be traced here, for instance.
pub fn run(options: &Options, budget: &Budget) -> Result<Outcome> {
    tracer::fix_addresses()?;
    let subjects = if options.subjects.is_empty() {
        Subject::value_variants()
    } else {
        &options.subjects
    };
    let mut outcome = Outcome::default();
    let mut coverage = Coverage::default();
    let progress = Progress::new("faults", None);
    for (number, subject) in subjects.iter().enumerate() {
        let left = subjects.len() - number;
        let part = budget.part(1.0 / left as f64);
        let name = subject
            .to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned());
        progress.now(name.clone());
        let only = options.fault;
        outcome.absorb(match subject {
            Subject::Client(script) => Clients::new(*script, name, options.mutant, &part)?.run(
                &mut coverage,
                only,
                &progress,
            )?,
            Subject::Session => {
                Sessions::new(options.mutant, &part).run(&mut coverage, only, &progress)?
            }
            Subject::Broker => Brokers::new(&part).run(&mut coverage, only, &progress)?,
        });
    }
    for (key, count) in coverage.counts() {
        outcome.count(key, count);
    }
    Ok(outcome)
}
