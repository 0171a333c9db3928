//! A worker's end of what is said: it says lines, and hears them on a thread of their own, for it has no time to wait for one.

use std::io;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bus_client::{Bus, Error};
use serde::{Deserialize, Serialize};

use super::clock;
use super::said::{Said, Told};
use crate::process;

/// How long a worker tries to join, while nobody is there to let it.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long it waits between two tries.
const AGAIN: Duration = Duration::from_millis(2);

/// What every worker is given.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Base {
    /// Where the broker is.
    pub socket: String,
    /// Under which name to come.
    pub name: String,
    /// Whether to host a broker where there is none.
    pub embedded: bool,
    /// What its choices follow from.
    pub seed: u64,
}

/// What the run says to this worker.
pub struct Post(Receiver<Told>);

impl Post {
    /// Begins to listen.
    #[must_use]
    pub fn new() -> Self {
        let (sender, told) = channel();
        thread::spawn(move || {
            for line in io::stdin().lines().map_while(Result::ok) {
                let told = serde_json::from_str(&line);
                if told.is_ok_and(|told| sender.send(told).is_err()) {
                    return;
                }
            }
        });
        Self(told)
    }

    /// What the run said, if anything. Where it will say nothing more, it is time to leave.
    #[must_use]
    pub fn hear(&self) -> Option<Told> {
        match self.0.try_recv() {
            Ok(told) => Some(told),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Told::Leave),
        }
    }
}

impl Default for Post {
    fn default() -> Self {
        Self::new()
    }
}

/// Says it to the run.
///
/// # Errors
/// Nobody listens.
pub fn say(said: &Said) -> Result<()> {
    process::say(&serde_json::to_string(said)?)
}

/// Something is not as it should be.
///
/// # Errors
/// Nobody listens.
pub fn wrong(what: impl Into<String>) -> Result<()> {
    say(&Said::Wrong { what: what.into() })
}

/// What a worker could not do is said to the run before it ends.
///
/// # Errors
/// What it could not do.
pub fn confess(played: Result<()>) -> Result<()> {
    if let Err(error) = &played {
        // Whoever does not hear it sees how the process ends.
        let _ = wrong(format!("it gives up: {error:#}"));
    }
    played
}

/// A handle that was opened.
pub struct Joined<H> {
    /// The handle.
    pub handle: H,
    /// When its opening began.
    pub opened: u64,
    /// When it was over.
    pub joined: u64,
    /// How often there was no broker.
    pub again: u64,
}

impl<H> Joined<H> {
    /// What there is to say of it.
    #[must_use]
    pub fn said(&self) -> Said {
        Said::Joined {
            opened: self.opened,
            joined: self.joined,
            again: self.again,
        }
    }
}

impl Base {
    /// Connects and opens a handle. While there is no broker, or it goes meanwhile, it tries again.
    ///
    /// # Errors
    /// It is refused, or there is none for long.
    pub fn join<H>(&self, open: impl Fn(&Bus) -> Result<H, Error>) -> Result<(Bus, Joined<H>)> {
        let deadline = Instant::now() + PATIENCE;
        let mut again = 0;
        loop {
            let opened = clock::now();
            let bus = Bus::builder(&*self.name)
                .socket(&self.socket)
                .embedded(self.embedded)
                .connect();
            match bus.and_then(|bus| Ok((open(&bus)?, bus))) {
                Ok((handle, bus)) => {
                    let joined = clock::now();
                    let joined = Joined {
                        handle,
                        opened,
                        joined,
                        again,
                    };
                    return Ok((bus, joined));
                }
                Err(Error::Broker { .. } | Error::Disconnected { .. })
                    if Instant::now() < deadline =>
                {
                    again += 1;
                    thread::sleep(AGAIN);
                }
                Err(error) => return Err(error).context("joining"),
            }
        }
    }

    /// Its source of choices.
    #[must_use]
    pub fn random(&self) -> fastrand::Rng {
        fastrand::Rng::with_seed(self.seed)
    }
}
