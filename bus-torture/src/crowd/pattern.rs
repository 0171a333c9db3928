//! The role of a subscriber to all topics that match a pattern: of a topic that came after it, it gets everything from the first message on;
//! where the broker that kept its place went before it came, everything from some message on.

use std::time::Duration;

use anyhow::{Context, Result};
use bus_client::Error;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::desk::Desk;
use super::ledger::Ledger;
use super::lie::Lie;
use super::post::{Base, Post, say};
use super::said::{Said, Told};
use crate::process::settings;

/// The name of the role.
pub const ROLE: &str = "pattern";
/// Longest wait before it hears what it is told.
const TURN: Duration = Duration::from_millis(5);

/// What it is given.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Given {
    /// As every worker.
    pub base: Base,
    /// What the names of its topics begin with. Each has one publisher, whose number follows.
    pub prefix: String,
    /// Whether no broker goes: then of a topic that is new it gets everything.
    pub whole: bool,
    /// What it does wrong.
    pub lie: Option<Lie>,
}

/// The topic of the publisher that the run numbers so.
#[must_use]
pub fn topic(prefix: &str, tag: u32) -> String {
    format!("{prefix}/{tag}")
}

/// Reads until it is told to leave.
///
/// # Errors
/// It cannot join, or what should work does not.
pub fn play(given: Value) -> Result<()> {
    let given: Given = settings(given)?;
    let post = Post::new();
    let pattern = format!("{}/*", given.prefix);
    let (bus, joined) = given
        .base
        .join(|bus| bus.pattern_bytes_subscriber(&*pattern))?;
    say(&joined.said())?;
    let mut all = joined.handle;
    let ledger = Ledger::new(joined.joined, 0, true).that_may_start_late(!given.whole);
    let mut desk = Desk::new(ledger, given.base.random(), given.lie);
    loop {
        match post.hear() {
            Some(Told::Where) => say(&Said::At {
                at: desk.received(),
                hosts: bus.hosts_broker(),
            })?,
            // Its publishers are each on a topic of their own.
            Some(Told::Peers) => say(&Said::Peers { names: Vec::new() })?,
            Some(Told::Leave) => break,
            None => {}
        }
        let some = match all.recv_timeout(TURN) {
            Ok(Some(message)) => {
                desk.enter(message.into_message())?;
                true
            }
            Ok(None) => false,
            Err(Error::Unusable { why, .. }) => {
                say(&Said::Unusable { why })?;
                break;
            }
            Err(error) => return Err(error).context("receiving"),
        };
        let due = desk.due();
        if due {
            desk.flush()?;
        }
        if !some {
            desk.release()?;
        }
        // Where others send all the time, there is always something.
        if due || !some {
            let names = all.topics().context("listing")?;
            desk.mourn(0, |_, tag| !names.contains(&topic(&given.prefix, tag)))?;
        }
    }
    desk.flush()?;
    desk.release()?;
    say(&Said::Left {
        next: 0,
        began: 0,
        nowhere: 0,
        full: 0,
    })
}
