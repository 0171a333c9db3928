//! The role of the broker: what `busd` does, in a process of this run.

use std::path::PathBuf;

use anyhow::{Context, Result};
use bus_daemon::Broker;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::process::{say, settings};

/// The name of the role.
pub const ROLE: &str = "broker";
/// What it says when it listens.
pub const LISTENING: &str = "listening";

/// Where it is to listen.
#[derive(Debug, Serialize, Deserialize)]
pub struct Given {
    /// The socket's path.
    pub socket: PathBuf,
}

/// Serves until SIGTERM.
///
/// # Errors
/// It cannot listen there.
pub fn play(given: Value) -> Result<()> {
    let given: Given = settings(given)?;
    // Unlike a hosted broker it does not end because a client asks it to.
    let broker = Broker::bind_service(Vec::new(), || Ok(given.socket));
    let mut broker = broker.context("listening")?;
    broker.stop_on_signals()?;
    say(LISTENING)?;
    broker.run()?;
    Ok(())
}
