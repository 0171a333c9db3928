//! `bus where`: which bus this is, why, and whether a broker answers there.
//!
//! Promises: it starts no broker and changes nothing. It waits up to 5 seconds for a broker that is
//! slow or stopped.

use std::path::{Path, PathBuf};

use bus_client::{Bus, Error};
use bus_core::control::{Connection, Holder, SocketPlace};
use bus_daemon::policy::user_name;
use clap::Args;

/// A name and a pattern under which nobody is bothered: no topic is created.
const NAME: &str = "bus-where";

/// Which bus this is: the path of the broker's socket, why that path, and which process answers
/// there.
///
/// Processes whose paths differ never meet. The path depends on the environment, so run it where
/// the process in question runs.
///
/// Exit codes: 0 a broker answers, 1 none does, 2 wrong usage.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  bus where
  sudo -u feed bus where
  bus where --socket /run/bus/bus.sock")]
pub struct Arguments {
    /// Look at this path
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// Runs `bus where`; returns the exit code.
pub fn run(arguments: &Arguments) -> anyhow::Result<u8> {
    let place = match &arguments.socket {
        Some(path) => SocketPlace::named(path),
        None => SocketPlace::find().map_err(Error::from)?,
    };
    println!("path    {}", place.path.display());
    println!("why     {}", place.reason);
    if let Some(ignored) = &place.ignored {
        println!("ignored {ignored}");
    }
    let answered = look(&place.path);
    match &answered {
        Ok(broker) => println!("broker  {broker}"),
        Err(why) => println!("broker  none: {why}"),
    }
    for other in place.others() {
        println!("other   {}", other.display());
    }
    Ok(u8::from(answered.is_err()))
}

/// The broker that answers at a path, or why none does.
fn look(path: &Path) -> Result<String, String> {
    let connection = Connection::connect(path).map_err(|error| match error {
        bus_core::Error::Io { source, .. } => source.to_string(),
        error => error.to_string(),
    })?;
    let holder = Holder::of_connection(&connection, path);
    let user = connection.credentials().map(|peer| user_name(peer.uid));
    let broker = match user {
        Ok(user) => format!("{holder}, user {user}"),
        Err(_) => holder.to_string(),
    };
    drop(connection);
    let bus = Bus::builder(NAME).socket(path).embedded(false).connect();
    match bus.and_then(|bus| bus.pattern_bytes_subscriber(NAME)) {
        Ok(_) => Ok(broker),
        Err(Error::Refused(why)) => Ok(format!("{broker}; it refuses this user: {why}")),
        Err(Error::Broker { why, .. }) => Err(why),
        Err(error) => Err(error.to_string()),
    }
}

/// Says on standard error what may make this process miss others: a variable that is not used,
/// another bus of this user.
pub fn warn(place: &SocketPlace) {
    if !place.is_default() {
        return;
    }
    let path = place.path.display();
    if let Some(ignored) = &place.ignored {
        eprintln!("bus: {ignored}; the bus is at {path}");
    }
    for other in place.others() {
        let other = other.display();
        eprintln!(
            "bus: this user has another bus at {other}; this command uses {path}, for {}; set BUS_SOCKET to choose",
            place.reason
        );
    }
}
