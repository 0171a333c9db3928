//! `bus policy`: what the broker's policy means, without a broker.
//!
//! ```text
//!  check    every mistake with its line and column, or the whole policy as tables
//!  explain  one user on one topic: which rule decides what
//!  table    columns
//! ```

mod check;
mod explain;
mod table;

use std::path::{Path, PathBuf};

use anyhow::Context;
use bus_client::Error;
use bus_core::control::socket_path;
use bus_daemon::policy::{Policy, Source, Subject};
use clap::Subcommand;

/// What is to be done with a policy.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const CHECK_EXAMPLES: &str = "Examples:
  bus policy check /etc/bus/bus.toml               exit code 0, and what it means in tables
  bus policy check new.toml && sudo install -m 644 new.toml /etc/bus/bus.toml && sudo pkill -HUP -x busd";

const EXPLAIN_EXAMPLES: &str = "Examples:
  bus policy explain alice market/ticks            by the policy that busd would read
  bus policy explain 1001 market/ticks --policy new.toml
  bus policy explain bob t --broker bob            where bob runs a broker of his own";

#[derive(Debug, Subcommand)]
enum Command {
    /// Whether a policy is without mistakes, and what it means
    #[command(after_help = CHECK_EXAMPLES)]
    Check(check::Arguments),
    /// What a user may do on a topic, and which rule of the policy says so
    #[command(after_help = EXPLAIN_EXAMPLES)]
    Explain(explain::Arguments),
}

/// Does it.
pub fn run(arguments: &Arguments) -> anyhow::Result<u8> {
    match &arguments.command {
        Command::Check(arguments) => check::run(arguments),
        Command::Explain(arguments) => explain::run(arguments),
    }
}

/// The user that the broker runs as.
#[derive(Debug, clap::Args)]
struct Broker {
    /// The user that the broker runs as, by name or number [default: root; who runs this command where there is no policy, or it lies beside the socket]
    #[arg(long, value_name = "USER")]
    broker: Option<String>,
}

/// A user of this machine.
fn find(user: &str) -> anyhow::Result<Subject> {
    Subject::find(user).with_context(|| {
        format!("there is no user {user:?} on this machine; use a name that it knows, or a number")
    })
}

/// The policy in a file, or where busd looks for one; and the file, if there is one.
fn load(file: Option<&Path>, broker: &Broker) -> anyhow::Result<(Policy, Option<PathBuf>)> {
    let named = broker.broker.as_deref().map(find).transpose()?;
    let named = named.map(|user| user.uid);
    let me = nix::unistd::geteuid().as_raw();
    let (source, socket) = match file {
        Some(file) => (Source::file(file), None),
        None => {
            let socket = socket_path().map_err(Error::from)?;
            (Source::of_service(&socket), Some(socket))
        }
    };
    for path in source.paths() {
        let text = match std::fs::read_to_string(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !source.is_required() => continue,
            text => text.with_context(|| format!("cannot read {}", path.display()))?,
        };
        // Clients trust a broker of their own user or of root, so that a broker for several users is root's.
        let beside = socket
            .as_ref()
            .is_some_and(|socket| path.parent() == socket.parent());
        let user = if beside { me } else { 0 };
        let policy = Policy::parse(path, &text, named.unwrap_or(user))?;
        return Ok((policy, Some(path.clone())));
    }
    Ok((Policy::own(named.unwrap_or(me)), None))
}
