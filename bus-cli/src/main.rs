//! `bus`: the bus on the command line.
//!
//! ```text
//!  publish    standard input to a topic       input, lines
//!  subscribe  a topic to standard output      output
//!  demo       three processes in a pipeline, measured, and beside sockets and pipes
//!  place      where the bus is, and which process answers there
//!  policy     what a policy of the broker means
//!  peers      who comes and goes on the other side, and how it is trusted
//!  joining    what pub and sub have in common: the way to the broker, the topic's settings
//!  interrupt, progress, failure               Ctrl-C, the line on a terminal, the sentence at the end
//! ```
//! Promises: exit code 0 if all went well, 1 with one sentence on standard error if not, 2 for wrong usage,
//! 128 + signal for a `pub` or `demo` that was cut short.

#![forbid(unsafe_code)]

mod delivery;
mod demo;
mod failure;
mod input;
mod interrupt;
mod joining;
mod lines;
mod output;
mod peers;
mod place;
mod policy;
mod progress;
mod publish;
mod size;
mod subscribe;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Messages between the processes of this machine, through shared memory.
///
/// No set-up is needed: with no broker running, the first process hosts one; with `busd` running, that is used.
#[derive(Debug, Parser)]
#[command(name = "bus", version, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  bus demo                                  see it work, in 15 seconds
  tar c src | bus pub raw                   a stream of bytes to the topic `raw`…
  bus sub raw | tar t                       …and out again, in another terminal
  tail -f app.log | bus pub --lines logs    a line, a message
  bus sub --lines --follow logs             …for any number of readers";

#[derive(Debug, Subcommand)]
enum Command {
    /// Three processes in a pipeline over the bus, measured, and the same over sockets and pipes
    Demo(demo::Arguments),
    /// Standard input to a topic
    #[command(name = "pub")]
    Publish(publish::Arguments),
    /// A topic to standard output
    #[command(name = "sub")]
    Subscribe(subscribe::Arguments),
    /// Which bus this is: the path of its socket, why that path, and which process answers there
    Where(place::Arguments),
    /// What the broker's policy means: who may do what on which topics
    Policy(policy::Arguments),
    /// One of the demo's processes
    #[command(name = demo::PART, hide = true)]
    DemoPart(demo::PartArguments),
}

fn main() -> ExitCode {
    let ended = match Arguments::parse().command {
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Publish(arguments) => publish::run(&arguments),
        Command::Subscribe(arguments) => subscribe::run(&arguments),
        Command::Where(arguments) => place::run(&arguments),
        Command::Policy(arguments) => policy::run(&arguments),
        Command::DemoPart(arguments) => demo::part(&arguments),
    };
    match ended {
        Ok(code) => code.into(),
        Err(error) => {
            eprintln!("bus: {}", failure::sentence(&error));
            failure::code(&error).into()
        }
    }
}
