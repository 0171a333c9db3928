//! An honest subscriber that knows what it must get: it believes nothing, and says which promise did not hold.

use anyhow::{Result, bail, ensure};
use bus_client::rkyv::Archived;
use bus_client::rkyv::string::ArchivedString;
use bus_core::receive::{Batch, Copied, Held, Message, Received, Subscriber};
use bus_core::{Delivery, Error, TopicSettings};
use fastrand::Rng;

use super::content;
use super::ground::{Ground, HONEST, HOSTILE};

/// A value with every kind of indirection, that a hostile publisher may say to have sent.
pub type Value = (u32, Option<String>, Vec<(bool, String)>);
/// A value without any, of which every bit pattern is one.
pub type Plain = (u64, [u32; 4], u64);

/// Polls after which a subscriber that is told of messages must have got to the end of them, in a ring that nobody writes.
const POLLS: usize = 100_000;
/// Messages that are kept at a time.
const KEPT: usize = 12;

/// An honest subscriber, and what it knows.
pub struct Witness<'a> {
    subscriber: &'a Subscriber,
    settings: TopicSettings,
    salt: u64,
    longest: usize,
    honest_at: Vec<(usize, usize)>,
    hostile_at: Vec<(usize, usize)>,
    /// The next honest message.
    next: u64,
    /// What it expects of the hostile ring.
    next_hostile: u64,
    /// What is kept, and what was in it.
    kept: Vec<(Message<'a>, u64)>,
    held: Vec<(Held, u64)>,
    /// Hostile messages are copied: nothing that is written later reaches them.
    copied: bool,
    copies: Vec<(Copied<Value>, Vec<u8>)>,
    /// Honest messages that were right.
    pub right: u64,
    /// Messages and errors from the hostile ring.
    pub hostile: u64,
    /// Values from the hostile ring that were valid.
    pub valid: u64,
}

impl<'a> Witness<'a> {
    /// A witness on this topic.
    ///
    /// # Errors
    /// `/proc` is not to be seen.
    pub fn new(subscriber: &'a Subscriber, ground: &Ground) -> Result<Self> {
        Ok(Self {
            subscriber,
            settings: ground.settings,
            salt: ground.salt,
            longest: ground.longest,
            honest_at: ground.mapped(HONEST)?,
            hostile_at: ground.mapped(HOSTILE)?,
            next: 0,
            next_hostile: 0,
            kept: Vec::new(),
            held: Vec::new(),
            copied: ground.copies,
            copies: Vec::new(),
            right: 0,
            hostile: 0,
            valid: 0,
        })
    }

    /// What it expects of the hostile ring.
    #[must_use]
    pub fn expects(&self) -> u64 {
        self.next_hostile
    }

    /// Receives a message and forgets it: it is broken.
    pub fn overlook(&self) {
        drop(self.subscriber.poll());
    }

    /// Whether it has received every honest message before this one.
    #[must_use]
    pub fn has_all_before(&self, head: u64) -> bool {
        self.next == head
    }

    /// Whether these bytes lie in a mapping of their publisher's ring.
    fn in_bounds(&self, publisher: u64, bytes: &[u8]) -> Result<()> {
        let mappings = if publisher == HONEST {
            &self.honest_at
        } else {
            &self.hostile_at
        };
        let start = bytes.as_ptr() as usize;
        let end = start + bytes.len();
        let mut mappings = mappings.iter();
        let inside = mappings.any(|(from, to)| *from <= start && end <= *to);
        let copied = self.copied && publisher == HOSTILE;
        ensure!(
            inside != copied || bytes.is_empty(),
            "a payload of publisher {publisher}, copied: {copied}, lies at {start:x} to {end:x}"
        );
        ensure!(
            bytes.len() as u64 <= self.settings.max_payload,
            "a payload of {} bytes",
            bytes.len()
        );
        Ok(())
    }

    fn check(&mut self, publisher: u64, sequence: u64, lost: u64, bytes: &[u8]) -> Result<()> {
        self.in_bounds(publisher, bytes)?;
        if publisher == HOSTILE {
            self.next_hostile = sequence.wrapping_add(1);
            self.hostile += 1;
            std::hint::black_box(content::read(bytes));
            return Ok(());
        }
        let lossy = self.settings.delivery == Delivery::Lossy;
        ensure!(lossy || lost == 0, "{lost} honest messages lost");
        ensure!(
            sequence == self.next + lost,
            "honest message {sequence}, expected {} and {lost} lost",
            self.next
        );
        self.next = sequence + 1;
        self.is_right(sequence, bytes)?;
        self.right += 1;
        Ok(())
    }

    fn is_right(&self, sequence: u64, bytes: &[u8]) -> Result<()> {
        ensure!(
            content::is_right(self.salt, sequence, self.longest, bytes),
            "honest message {sequence} holds something else than was sent"
        );
        Ok(())
    }

    /// An error that a hostile ring may give; nothing else may be.
    fn error(&mut self, error: &Error, ground: &Ground) -> Result<()> {
        match error {
            Error::Corrupt { sequence, .. } => {
                self.next_hostile = sequence.wrapping_add(1);
                self.hostile += 1;
            }
            // One of them is let go of by the caller.
            Error::Holding { .. } => {
                ensure!(
                    !self.kept.is_empty() || !self.held.is_empty(),
                    "nothing is held, and it says: {error}"
                );
                self.let_go(0);
            }
            Error::Evicted { publisher } if *publisher == HOSTILE => {}
            Error::Evicted { .. } => ensure!(ground.has_evicted_witness(), "wrongly: {error}"),
            other => bail!("an honest subscriber is told: {other}"),
        }
        Ok(())
    }

    fn let_go(&mut self, which: usize) {
        let all = self.kept.len() + self.held.len();
        if all == 0 {
            return;
        }
        let which = which % all;
        if which < self.kept.len() {
            self.kept.swap_remove(which);
        } else {
            self.held.swap_remove(which - self.kept.len());
        }
    }

    /// Receives once, in one of the ways that there are. Whether there was something.
    ///
    /// # Errors
    /// What was received is not right.
    pub fn receive(&mut self, random: &mut Rng, ground: &Ground) -> Result<bool> {
        if random.u8(..8) == 0 {
            return self.receive_batch(random.usize(1..20), ground);
        }
        let message = match self.subscriber.poll() {
            Ok(Some(message)) => message,
            Ok(None) => return Ok(false),
            Err(error) => {
                self.error(&error, ground)?;
                return Ok(!matches!(error, Error::Evicted { .. }));
            }
        };
        let (publisher, sequence) = (message.publisher(), message.sequence());
        self.check(publisher, sequence, message.lost(), message.bytes())?;
        match random.u8(..8) {
            0 if self.kept.len() < KEPT => {
                let sum = content::read(message.bytes());
                self.kept.push((message, sum));
            }
            1 if self.held.len() < KEPT => {
                let sum = content::read(message.bytes());
                self.held.push((message.hold(), sum));
            }
            2..=4 if publisher == HOSTILE => self.read(message, random.bool()),
            _ => {}
        }
        if random.u8(..4) == 0 {
            self.let_go(random.usize(..));
        }
        Ok(true)
    }

    fn receive_batch(&mut self, most: usize, ground: &Ground) -> Result<bool> {
        let Some(batch) = self.subscriber.poll_batch(most) else {
            return Ok(false);
        };
        let mut any = false;
        while let Some(found) = Batch::next(&batch) {
            any = true;
            match found {
                Ok((sequence, bytes)) => {
                    let lost = if sequence == batch.sequence() {
                        batch.lost()
                    } else {
                        0
                    };
                    self.check(batch.publisher(), sequence, lost, bytes)?;
                }
                Err(error) => {
                    self.error(&error, ground)?;
                    any = !matches!(error, Error::Evicted { .. });
                }
            }
        }
        Ok(any)
    }

    /// Takes a hostile message for a value, and reads all of it. A value with pointers is read out of a copy, which nobody else writes.
    fn read(&mut self, message: Message<'a>, plain: bool) {
        if self.copied && !plain {
            if let Ok(value) = Received::<Value>::new(message) {
                std::hint::black_box(read_value(&value));
                self.valid += 1;
            }
            return;
        }
        if plain {
            if let Ok(value) = Received::<Plain>::new(message) {
                let sum = value
                    .1
                    .iter()
                    .fold(0_u64, |sum, part| sum.wrapping_add(part.to_native().into()));
                std::hint::black_box(sum ^ value.0.to_native() ^ value.2.to_native());
                self.valid += 1;
            }
            return;
        }
        if let Ok(copy) = Copied::<Value>::of(&message) {
            self.valid += 1;
            std::hint::black_box(read_value(&copy));
            let bytes = copy.bytes().to_vec();
            if self.copies.len() >= KEPT {
                self.copies.swap_remove(0);
            }
            self.copies.push((copy, bytes));
        }
    }

    /// What is kept is still what it was, whatever was written since.
    ///
    /// # Errors
    /// It is not.
    pub fn check_kept(&self) -> Result<()> {
        let kept = self.kept.iter();
        let kept = kept.map(|(m, sum)| (m.publisher(), m.sequence(), m.bytes(), sum));
        let held = self.held.iter();
        let held = held.map(|(m, sum)| (m.publisher(), m.sequence(), m.bytes(), sum));
        for (publisher, sequence, bytes, sum) in kept.chain(held) {
            let now = std::hint::black_box(content::read(bytes));
            if publisher == HONEST {
                self.is_right(sequence, bytes)?;
            } else if self.copied {
                ensure!(now == *sum, "a copied message has changed");
            }
        }
        for (copy, bytes) in &self.copies {
            ensure!(copy.bytes() == bytes, "a copied value has changed");
            std::hint::black_box(read_value(copy));
        }
        Ok(())
    }

    /// Nobody writes now: receives what there is, lets go of everything, and then has nothing more to do. Else it would spin.
    ///
    /// # Errors
    /// It never comes to an end, or says that there is something and finds nothing.
    pub fn settle(&mut self, random: &mut Rng, ground: &Ground) -> Result<()> {
        self.kept.clear();
        self.held.clear();
        for _ in 0..POLLS {
            let found = self.receive(random, ground)?;
            self.kept.clear();
            self.held.clear();
            // Who is evicted is told so each time, and does not ask again.
            if !found && (!self.subscriber.has_message() || self.is_evicted(ground)?) {
                return Ok(());
            }
        }
        bail!(
            "a subscriber is told that there is something, finds nothing, and would look for ever (it expects message {} of the hostile ring)",
            self.next_hostile
        )
    }

    /// Whether all that there is to hear is an eviction.
    fn is_evicted(&mut self, ground: &Ground) -> Result<bool> {
        // A turn of either ring.
        for _ in 0..2 {
            match self.subscriber.poll() {
                Err(Error::Evicted { .. }) => return Ok(true),
                Ok(None) => {}
                Ok(Some(message)) => {
                    let (publisher, sequence) = (message.publisher(), message.sequence());
                    self.check(publisher, sequence, message.lost(), message.bytes())?;
                }
                Err(error) => self.error(&error, ground)?,
            }
        }
        Ok(false)
    }
}

/// Reads everything that a value leads to.
#[must_use]
pub fn read_value(value: &Archived<Value>) -> u64 {
    let text = |text: &ArchivedString| text.as_str().chars().count() as u64;
    let first = value.1.as_ref().map_or(0, text);
    let rest = value
        .2
        .iter()
        .map(|entry| text(&entry.1) + u64::from(entry.0));
    u64::from(value.0.to_native()) + first + rest.sum::<u64>()
}
