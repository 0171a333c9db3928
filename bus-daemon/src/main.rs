//! `busd`: the broker as a process of its own.

#![forbid(unsafe_code)]

mod log;

use std::path::PathBuf;
use std::process::ExitCode;

use bus_core::control::SocketPlace;
use bus_daemon::Broker;
use bus_daemon::policy::Source;
use clap::Parser;

/// The broker of bus: lets publishers and subscribers on this machine find each other.
///
/// Without a policy it serves the user that runs it, and nobody else. A policy says who else may publish and subscribe where, what topics are
/// like, and how much one user may take; see `bus policy check`.
///
/// Started by systemd, it listens at the socket that it is passed, if it is passed one; see docs/systemd.md.
///
/// Stops on SIGTERM and SIGINT, reads its policy again on SIGHUP. RUST_LOG chooses what is logged, and is stronger than -v.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Where to listen [default: $BUS_SOCKET, else bus.sock in this user's runtime directory, else in a directory of this user's under
    /// the temporary one]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,

    /// The policy [default: $BUS_POLICY, else the socket's path ending in .toml, else /etc/bus/bus.toml, if they are there]
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,

    /// Log more
    #[arg(short, long)]
    verbose: bool,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("busd: {}", sentence(&error));
            ExitCode::FAILURE
        }
    }
}

/// The error and its causes. A cause that the text before it already tells is left out, and a backtrace in any case.
fn sentence(error: &anyhow::Error) -> String {
    let mut sentence = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if sentence.contains(&cause) {
            continue;
        }
        if !sentence.is_empty() {
            sentence.push_str(": ");
        }
        sentence.push_str(&cause);
    }
    sentence
}

fn run() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    log::start(arguments.verbose)?;
    let passed = bus_core::control::take_passed()?;
    let mut broker = Broker::bind_service(passed, || match arguments.socket {
        Some(path) => Ok(path),
        None => {
            let place = SocketPlace::find()?;
            if let Some(ignored) = place.ignored {
                tracing::warn!("{ignored}");
            }
            Ok(place.path)
        }
    })?;
    let source = match arguments.policy {
        Some(file) => Source::file(file),
        None => Source::of_service(broker.path()),
    };
    broker.govern(source)?;
    broker.stop_on_signals()?;
    broker.run()?;
    Ok(())
}
