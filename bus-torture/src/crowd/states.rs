//! The roles of a state: one writer at a time, which is replaced by another now and then, and readers that never see an older value after a newer.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bus_client::{Bus, Error};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::post::{Base, Post, say, wrong};
use super::said::{Said, Told};
use crate::process::settings;

/// The name of the role that writes.
pub const WRITER: &str = "state-writer";
/// The name of the role that reads.
pub const READER: &str = "state-reader";
/// Keys of the keyed state.
const KEYS: u32 = 8;
/// How long a writer may be refused because of the one before, which is just dying.
const TAKES_OVER: Duration = Duration::from_secs(10);
/// Rest of a writer between two values.
const REST: Duration = Duration::from_micros(500);
/// Longest wait of a reader.
const TURN: Duration = Duration::from_millis(5);

/// A value that tells whether it is right.
#[bus_client::message]
struct Worth {
    tag: u32,
    number: u64,
    copies: Vec<u64>,
}

impl Worth {
    fn new(tag: u32, number: u64) -> Self {
        let copies = vec![number ^ u64::from(tag); (number % 50) as usize];
        Self {
            tag,
            number,
            copies,
        }
    }
}

/// Which it is, if it is right.
fn right(worth: &ArchivedWorth) -> Option<(u32, u64)> {
    let (tag, number) = (worth.tag.to_native(), worth.number.to_native());
    let copy = number ^ u64::from(tag);
    let right = worth.copies.len() as u64 == number % 50
        && worth.copies.iter().all(|c| c.to_native() == copy);
    right.then_some((tag, number))
}

/// What it is given.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Given {
    /// As every worker.
    pub base: Base,
    /// The name of the state; that of the keyed one is longer by a part.
    pub state: String,
    /// How the run numbers this writer: later ones have higher numbers.
    pub tag: u32,
}

fn keyed(given: &Given) -> String {
    format!("{}/keyed", given.state)
}

/// Opens it, once the writer before is gone.
fn take_over<H>(open: impl Fn() -> Result<H, Error>) -> Result<H, Error> {
    let deadline = Instant::now() + TAKES_OVER;
    loop {
        match open() {
            Err(Error::Refused(_)) if Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(1));
            }
            opened => return opened,
        }
    }
}

/// Writes until it is told to leave, or no broker takes it back.
///
/// # Errors
/// It cannot join, or what should work does not.
pub fn write(given: Value) -> Result<()> {
    or_unusable(write_on(given))
}

/// Reads until it is told to leave, or no broker takes it back.
///
/// # Errors
/// It cannot join, or what should work does not.
pub fn read(given: Value) -> Result<()> {
    or_unusable(read_on(given))
}

/// Says that a handle is of no use any more, if that is what went wrong: whether that may be is for the run to say.
fn or_unusable(outcome: Result<()>) -> Result<()> {
    let why = match &outcome {
        Err(error) => match error.downcast_ref::<Error>() {
            Some(Error::Unusable { why, .. }) => why.clone(),
            _ => return outcome,
        },
        Ok(()) => return outcome,
    };
    say(&Said::Unusable { why })
}

fn write_on(given: Value) -> Result<()> {
    let given: Given = settings(given)?;
    let post = Post::new();
    let open = |bus: &Bus| {
        let one = take_over(|| bus.state_writer::<Worth>(&*given.state))?;
        let many = take_over(|| {
            bus.topic(keyed(&given))?
                .keyed_state_writer::<u32, Worth>(KEYS)
        })?;
        Ok((one, many))
    };
    let (bus, joined) = given.base.join(open)?;
    say(&joined.said())?;
    let (mut one, mut many) = joined.handle;
    let mut random = given.base.random();
    let mut number = 0;
    loop {
        match post.hear() {
            Some(Told::Where) => say(&Said::At {
                at: number,
                hosts: bus.hosts_broker(),
            })?,
            Some(Told::Peers) => say(&Said::Peers { names: Vec::new() })?,
            Some(Told::Leave) => break,
            None => {}
        }
        let key = random.u32(..KEYS);
        let worth = Worth::new(given.tag, number + 1);
        match set(|| one.set(&worth).map(drop))? {
            true => number += 1,
            false => continue,
        }
        if random.u32(..16) == 0 {
            set(|| many.remove(&key).map(drop))?;
        } else {
            set(|| many.set(key, Worth::new(given.tag, number)))?;
        }
        thread::sleep(REST);
    }
    if number > 0 {
        say(&Said::Value {
            tag: given.tag,
            number,
        })?;
    }
    say(&Said::Left {
        next: number,
        began: 0,
        nowhere: 0,
        full: 0,
    })
}

/// Whether there was room for it, between all that readers protect.
fn set(set: impl FnOnce() -> Result<(), Error>) -> Result<bool> {
    match set() {
        Ok(()) => Ok(true),
        Err(Error::Full { .. }) => Ok(false),
        Err(error) => Err(error).context("setting"),
    }
}

fn read_on(given: Value) -> Result<()> {
    let given: Given = settings(given)?;
    let post = Post::new();
    let open = |bus: &Bus| {
        let one = bus.state::<Worth>(&*given.state)?;
        let many = bus.topic(keyed(&given))?.keyed_state::<u32, Worth>(KEYS)?;
        Ok((one, many))
    };
    let (bus, joined) = given.base.join(open)?;
    say(&joined.said())?;
    let (mut one, mut many) = joined.handle;
    let mut last = (0, 0);
    let mut keys = [(0, 0); KEYS as usize];
    let mut looks = 0;
    loop {
        match post.hear() {
            Some(Told::Where) => {
                say(&Said::Value {
                    tag: last.0,
                    number: last.1,
                })?;
                say(&Said::At {
                    at: looks,
                    hosts: bus.hosts_broker(),
                })?;
            }
            Some(Told::Peers) => say(&Said::Peers { names: Vec::new() })?,
            Some(Told::Leave) => break,
            None => {}
        }
        one.changed(Some(TURN)).context("waiting for a value")?;
        looks += 1;
        if let Some(worth) = one.get().context("looking")? {
            newer(&mut last, right(worth), "the state")?;
        }
        for (key, worth) in many.iter().context("looking at keys")? {
            match keys.get_mut(*key as usize) {
                Some(last) => newer(last, right(worth), "a key")?,
                None => wrong(format!("there is no key {key}"))?,
            }
        }
    }
    say(&Said::Left {
        next: looks,
        began: 0,
        nowhere: 0,
        full: 0,
    })
}

fn newer(last: &mut (u32, u64), now: Option<(u32, u64)>, what: &str) -> Result<()> {
    match now {
        None => wrong(format!("{what}: a value is not whole")),
        Some(now) if now < *last => wrong(format!("{what}: {now:?} after {last:?}")),
        Some(now) => {
            *last = now;
            Ok(())
        }
    }
}
