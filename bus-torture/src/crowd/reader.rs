//! The role of a subscriber: receives in one of the ways that there are to wait, checks, holds some, and says what it saw.

use std::time::Duration;

use anyhow::{Context, Result};
use bus_client::{BytesSubscriber, Error, Message, Selector};
use nix::poll::{PollFd, PollFlags, poll};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::desk::Desk;
use super::ledger::Ledger;
use super::lie::Lie;
use super::post::{Base, Joined, Post, say};
use super::said::{Said, Told};
use super::topic::Topic;
use crate::process::settings;

/// The name of the role.
pub const ROLE: &str = "reader";
/// Longest wait before it hears what it is told.
const TURN: Duration = Duration::from_millis(5);
/// The same, on a descriptor, in milliseconds.
const POLL: u8 = 5;
/// Messages after which it hears what it is told, if there are always more.
const MANY: u32 = 256;

/// How it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Waits {
    /// In the handle.
    Sleeps,
    /// On the handle's descriptor.
    Parks,
    /// In a selector.
    Selects,
}

impl Waits {
    /// One of them.
    pub fn any(random: &mut fastrand::Rng) -> Self {
        [Self::Sleeps, Self::Parks, Self::Selects][random.usize(..3)]
    }
}

/// What it is given.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Given {
    /// As every worker.
    pub base: Base,
    /// What to read.
    pub topic: Topic,
    /// How to wait.
    pub waits: Waits,
    /// What it does wrong.
    pub lie: Option<Lie>,
}

/// Reads until it is told to leave. Where it is evicted, it joins again.
///
/// # Errors
/// It cannot join, or what should work does not.
pub fn play(given: Value) -> Result<()> {
    let given: Given = settings(given)?;
    let post = Post::new();
    while read(&given, &post)? == Next::Again {}
    say(&Said::Left {
        next: 0,
        began: 0,
        nowhere: 0,
        full: 0,
    })
}

/// What comes after a handle.
#[derive(PartialEq, Eq)]
enum Next {
    /// Another one.
    Again,
    /// The end.
    Over,
}

fn read(given: &Given, post: &Post) -> Result<Next> {
    let kind = given.topic.kind;
    let open = |bus: &bus_client::Bus| {
        let topic = given.topic.open(bus)?;
        topic.history(kind.history()).bytes_subscriber()
    };
    let (bus, joined) = given.base.join(open)?;
    let Joined {
        handle, joined: at, ..
    } = &joined;
    say(&joined.said())?;
    let ledger = Ledger::new(*at, kind.history(), kind.lossless());
    let mut desk = Desk::new(ledger, given.base.random(), given.lie);
    let mut selector = match given.waits {
        Waits::Selects => {
            let mut selector = Selector::new().context("making a selector")?;
            selector.add(handle).context("selecting")?;
            Some(selector)
        }
        _ => None,
    };
    loop {
        match post.hear() {
            Some(Told::Where) => say(&Said::At {
                at: desk.received(),
                hosts: bus.hosts_broker(),
            })?,
            Some(Told::Peers) => {
                let peers = handle.publishers().context("listing")?;
                let liar = desk.lies(Lie::Stale).then(|| "nobody".to_owned());
                let names = peers.into_iter().map(|peer| peer.client);
                let names = names.chain(liar).collect();
                say(&Said::Peers { names })?;
            }
            Some(Told::Leave) => {
                desk.flush()?;
                desk.release()?;
                return Ok(Next::Over);
            }
            None => {}
        }
        let looked = look(handle, selector.as_mut(), given.waits, &mut desk)?;
        if desk.lies(Lie::Evicted) || matches!(looked, Err(Error::Evicted { .. })) {
            desk.flush()?;
            desk.release()?;
            say(&Said::Evicted)?;
            return Ok(if desk.lies(Lie::Evicted) {
                Next::Over
            } else {
                Next::Again
            });
        }
        match looked {
            Ok(some) => {
                let due = desk.due();
                if due {
                    desk.flush()?;
                }
                if !some {
                    // What it holds may be what its publishers wait for.
                    desk.release()?;
                }
                // Where others send all the time, there is always something.
                if due || !some {
                    desk.mourn(handle.lost(), |id, _| handle.peer(id).is_none())?;
                }
            }
            Err(Error::Unusable { why, .. }) => {
                desk.flush()?;
                desk.release()?;
                say(&Said::Unusable { why })?;
                return Ok(Next::Over);
            }
            Err(error) => return Err(error).context("receiving"),
        }
    }
}

/// Takes what is there, or waits for a while; whether there was something.
fn look(
    handle: &BytesSubscriber,
    selector: Option<&mut Selector<'_>>,
    waits: Waits,
    desk: &mut Desk,
) -> Result<Result<bool, Error>> {
    let first = match (waits, selector) {
        (Waits::Selects, Some(selector)) => match handle.try_recv() {
            Ok(None) => {
                selector.wait_timeout(TURN).context("selecting")?;
                handle.try_recv()
            }
            other => other,
        },
        (Waits::Parks, _) => park(handle),
        _ => handle.recv_timeout(TURN),
    };
    let mut message: Option<Message<'_>> = match first {
        Ok(message) => message,
        Err(error) => return Ok(Err(error)),
    };
    let some = message.is_some();
    for _ in 0..MANY {
        let Some(one) = message.take() else {
            break;
        };
        desk.enter(one)?;
        message = match handle.try_recv() {
            Ok(message) => message,
            Err(error) => return Ok(Err(error)),
        };
    }
    if let Some(last) = message {
        desk.enter(last)?;
    }
    Ok(Ok(some))
}

fn park(handle: &BytesSubscriber) -> Result<Option<Message<'_>>, Error> {
    if let Some(message) = handle.try_recv()? {
        return Ok(Some(message));
    }
    if handle.arm()? {
        // Interrupted or not, it looks again.
        let _ = poll(
            &mut [PollFd::new(handle.poll_fd()?, PollFlags::POLLIN)],
            POLL,
        );
    }
    handle.disarm();
    handle.try_recv()
}
