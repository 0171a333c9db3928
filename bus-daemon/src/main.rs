//! `busd`: the broker as a process of its own.

#![forbid(unsafe_code)]

mod log;

use std::path::PathBuf;

use anyhow::Context as _;
use bus_daemon::Broker;
use clap::Parser;

/// The broker of bus: lets publishers and subscribers on this machine find each other.
///
/// Stops on SIGTERM and SIGINT. RUST_LOG chooses what is logged, and is stronger than -v.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Where to listen [default: $BUS_SOCKET, else $XDG_RUNTIME_DIR/bus.sock, else a directory of this user's under the temporary one]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,

    /// Log more
    #[arg(short, long)]
    verbose: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    log::start(arguments.verbose)?;
    let path = match arguments.socket {
        Some(path) => path,
        None => bus_core::control::socket_path().context("no path to listen on")?,
    };
    let mut broker = Broker::bind(&path)?;
    broker.stop_on_signals()?;
    broker.run()?;
    Ok(())
}
