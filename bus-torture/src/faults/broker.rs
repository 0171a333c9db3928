//! The process whose system calls are refused, as a broker: it binds, serves until it is told to stop, and says what came of it.

use std::io;
use std::path::PathBuf;

use anyhow::{Context, Result};
use bus_daemon::Broker;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::process::{Role, say, settings};
use crate::tracer::marks::{BEGIN, END, stand};

/// The role of a broker.
pub const BROKER: Role = ("faulty-broker", play);

/// How often it binds.
const ATTEMPTS: u32 = 3;

/// What a broker says that failed before it served anybody.
const SETTING_UP: [&str; 2] = ["making an epoll", "watching its own descriptors"];

/// What a broker is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Part {
    /// Its socket.
    pub socket: PathBuf,
}

/// What a broker says of itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Why it could not begin.
    pub unbound: Vec<String>,
    /// Why it ended before it was told to.
    pub ended: Vec<String>,
    /// Whether it came to a good end.
    pub done: bool,
}

/// Plays a broker.
fn play(given: Value) -> Result<()> {
    let part: Part = settings(given)?;
    let mut line = String::new();
    if io::stdin()
        .read_line(&mut line)
        .context("listening to the run")?
        == 0
    {
        return Ok(());
    }
    let mut report = Report::default();
    stand(BEGIN);
    for _ in 0..ATTEMPTS {
        let bound = Broker::bind(&part.socket).and_then(|mut broker| {
            broker.stop_on_signals()?;
            Ok(broker)
        });
        match bound.map(Broker::run) {
            Err(error) => report.unbound.push(error.to_string()),
            Ok(Err(error))
                if SETTING_UP
                    .iter()
                    .any(|what| error.to_string().contains(what)) =>
            {
                report.unbound.push(error.to_string());
            }
            Ok(Err(error)) => report.ended.push(error.to_string()),
            Ok(Ok(())) => {
                report.done = true;
                break;
            }
        }
    }
    stand(END);
    say(&serde_json::to_string(&report)?)
}
