//! Where a reader checks what it gets, holds some of it for a while, and says what it saw.

use std::fs::File;
use std::mem;
use std::thread;

use anyhow::{Context, Result};
use bus_client::{Held, Message};

use super::clock;
use super::content::Content;
use super::ledger::{Ledger, Received};
use super::lie::{AFTER, Lie};
use super::post::{say, wrong};
use super::said::Said;

/// Most messages that are held at a time: fewer than any topic lets a reader hold.
const HOLDS: usize = 3;
/// One in so many messages is held.
const SOME: u32 = 8;
/// How often it says what came, in nanoseconds.
const FLUSH: u64 = 50_000_000;
/// What [`Lie::Grow`] takes at a time, in bytes.
const GROWTH: usize = 256 << 10;

/// A message that is held, and what it said.
struct Kept(Held, Content);

impl Kept {
    fn check(&self) -> Result<()> {
        let now = Content::read(self.0.bytes());
        if now.as_ref() != Ok(&self.1) {
            wrong(format!("held: {:?} has become {now:?}", self.1))?;
        }
        Ok(())
    }
}

/// The desk of a reader that has joined.
pub struct Desk {
    ledger: Ledger,
    kept: Vec<Kept>,
    random: fastrand::Rng,
    lie: Option<Lie>,
    flushed: u64,
    /// Messages that were said to be lost, by messages and at ends.
    lost: u64,
    /// What a liar took.
    taken: Vec<Vec<u8>>,
}

impl Desk {
    /// A desk with nothing on it.
    #[must_use]
    pub fn new(ledger: Ledger, random: fastrand::Rng, lie: Option<Lie>) -> Self {
        Self {
            ledger,
            kept: Vec::new(),
            random,
            lie,
            flushed: clock::now(),
            lost: 0,
            taken: Vec::new(),
        }
    }

    /// Messages received.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.ledger.received()
    }

    /// The reader is to say what its lie is about, now.
    pub fn lies(&self, lie: Lie) -> bool {
        self.lie == Some(lie) && self.received() >= AFTER
    }

    /// Takes a message: checks it, and holds it or lets go of it.
    ///
    /// # Errors
    /// Nobody listens.
    pub fn enter(&mut self, message: Message<'_>) -> Result<()> {
        let now = clock::now();
        let received = Received {
            publisher: message.publisher(),
            sequence: message.sequence(),
            lost: message.lost(),
            bytes: message.bytes(),
        };
        self.lost += received.lost;
        let entered = match self.lie {
            Some(lie) if self.received() == AFTER => self.lied(lie, received, now),
            _ => self.ledger.enter(received, now).map(Some),
        };
        match entered {
            Err(what) => wrong(what)?,
            Ok(Some(content)) if self.random.u32(..SOME) == 0 => {
                if self.kept.len() == HOLDS {
                    let one = self.random.usize(..HOLDS);
                    self.kept.swap_remove(one).check()?;
                }
                self.kept.push(Kept(message.hold(), content));
            }
            Ok(_) => {}
        }
        Ok(())
    }

    /// Enters a message as a bus would have given it that breaks this promise.
    fn lied(
        &mut self,
        lie: Lie,
        received: Received<'_>,
        now: u64,
    ) -> Result<Option<Content>, String> {
        self.lie = None;
        match lie {
            Lie::Drop => return Ok(None),
            Lie::Double => {
                self.ledger.enter(received, now)?;
            }
            Lie::Corrupt => {
                let mut bytes = received.bytes.to_vec();
                let at = self.random.usize(..bytes.len());
                bytes[at] ^= 1;
                let bytes = &bytes;
                return self
                    .ledger
                    .enter(Received { bytes, ..received }, now)
                    .map(Some);
            }
            Lie::Hang => loop {
                thread::park();
            },
            _ => self.lie = Some(lie),
        }
        self.ledger.enter(received, now).map(Some)
    }

    /// Lets go of everything that is held, which must be what it was.
    ///
    /// # Errors
    /// Nobody listens.
    pub fn release(&mut self) -> Result<()> {
        self.kept.drain(..).try_for_each(|kept| kept.check())
    }

    /// Says what came since it last did, and looks at what it holds.
    ///
    /// # Errors
    /// Nobody listens.
    pub fn flush(&mut self) -> Result<()> {
        self.flushed = clock::now();
        self.kept.iter().try_for_each(Kept::check)?;
        match self.lie {
            Some(Lie::Leak) => mem::forget(File::open("/dev/null").context("leaking")?),
            Some(Lie::Grow) => self.taken.push(vec![1; GROWTH]),
            _ => {}
        }
        let runs = self.ledger.runs();
        runs.into_iter().try_for_each(|run| say(&Said::Run(run)))
    }

    /// Whether it is time to say what came.
    #[must_use]
    pub fn due(&self) -> bool {
        clock::now().saturating_sub(self.flushed) > FLUSH
    }

    /// Says which publishers have ended: those that are `gone`, of whom nothing is left to be read. `lost` are all messages that this reader was said to have
    /// lost, so far.
    ///
    /// # Errors
    /// Nobody listens.
    pub fn mourn(&mut self, lost: u64, gone: impl Fn(u64, u32) -> bool) -> Result<()> {
        let over = self.ledger.publishers();
        let over: Vec<_> = over.filter(|(id, tag)| gone(*id, *tag)).collect();
        if over.is_empty() {
            return Ok(());
        }
        self.flush()?;
        // What was lost after the last message that came. It is one of them that lost it; where several have ended, nobody says which.
        let after = lost.saturating_sub(self.lost);
        self.lost = lost;
        let exact = after == 0 || over.len() == 1;
        for (publisher, tag) in over {
            if let Some(end) = self.ledger.close(publisher, after) {
                let end = exact.then_some(end);
                say(&Said::Ended {
                    publisher,
                    tag,
                    end,
                })?;
            }
        }
        Ok(())
    }
}
