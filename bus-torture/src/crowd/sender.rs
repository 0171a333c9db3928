//! The role of a publisher: sends messages that tell whether they are right, in every way that there is to send, as fast as it may or at a
//! pace.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bus_client::{BytesPublisher, Error};
use nix::poll::{PollFd, PollFlags, poll};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::clock;
use super::content::Content;
use super::lie::{AFTER, Lie};
use super::post::{Base, Post, say, wrong};
use super::said::{Said, Told};
use super::topic::Topic;
use crate::process::settings;

/// The name of the role.
pub const ROLE: &str = "sender";
/// Longest wait for room before it hears what it is told.
const TURN: Duration = Duration::from_millis(20);
/// Longest wait on a descriptor, in milliseconds: an evicting topic wants a look in an eighth of its time.
const POLL: u8 = 20;
/// Rest where there was no room.
const NO_ROOM: Duration = Duration::from_micros(100);
/// How often it says how far it is.
const FLUSH: Duration = Duration::from_millis(20);

/// What it is given.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Given {
    /// As every worker.
    pub base: Base,
    /// Where to send.
    pub topic: Topic,
    /// How the run numbers it.
    pub tag: u32,
    /// Most messages at a time.
    pub burst: u64,
    /// Rest after each burst, in microseconds, at most; without, it sends without a pause.
    pub rest: u64,
    /// What it does wrong.
    pub lie: Option<Lie>,
}

/// A publisher and where it is.
struct Sender {
    publisher: BytesPublisher,
    given: Given,
    random: fastrand::Rng,
    next: u64,
    before: u64,
    full: u64,
    /// Every message got the number that was due.
    right: bool,
    buffers: Vec<Vec<u8>>,
}

/// Sends until it is told to leave.
///
/// # Errors
/// It cannot join, or what should work does not.
pub fn play(given: Value) -> Result<()> {
    let given: Given = settings(given)?;
    let post = Post::new();
    let topic = given.topic.clone();
    let (bus, mut joined) = given.base.join(|bus| topic.open(bus)?.bytes_publisher())?;
    // Whether it will ever park is chance; what it has then, it is to have from the beginning.
    joined.handle.poll_fd().context("getting ready to park")?;
    say(&joined.said())?;
    let mut sender = Sender {
        publisher: joined.handle,
        random: given.base.random(),
        given,
        next: 0,
        before: 0,
        full: 0,
        right: true,
        buffers: vec![Vec::new(); 16],
    };
    let mut said = (Instant::now(), 0);
    loop {
        match post.hear() {
            Some(Told::Where) => say(&Said::At {
                at: sender.next,
                hosts: bus.hosts_broker(),
            })?,
            Some(Told::Peers) => {
                let peers = sender.publisher.subscribers().context("listing")?;
                let names = peers.into_iter().map(|peer| peer.client).collect();
                say(&Said::Peers { names })?;
            }
            Some(Told::Leave) => break,
            None => {}
        }
        match sender.burst() {
            Ok(()) => {}
            Err(Error::Unusable { why, .. }) => {
                say(&Said::Unusable { why })?;
                break;
            }
            Err(error) => return Err(error).context("sending"),
        }
        if said.0.elapsed() > FLUSH && said.1 != sender.next {
            said = (Instant::now(), sender.next);
            sender.say_sent()?;
        }
        sender.rest();
    }
    if !sender.right {
        wrong("a message was sent under another number than was due")?;
    }
    let nowhere = sender.publisher.nowhere();
    let more = u64::from(sender.given.lie == Some(Lie::Tail));
    say(&Said::Left {
        next: sender.next + more,
        began: sender.before,
        nowhere,
        full: sender.full,
    })
}

impl Sender {
    fn say_sent(&self) -> Result<()> {
        say(&Said::Sent {
            next: self.next,
            began: self.before,
        })
    }

    fn rest(&mut self) {
        if self.given.rest > 0 {
            thread::sleep(Duration::from_micros(self.random.u64(..=self.given.rest)));
        }
        while self.given.lie == Some(Lie::Hang) && self.next > AFTER {
            thread::park();
        }
    }

    /// Writes the message that is `of` further on, which follows on one begun at `before`; when it was begun.
    fn write(&mut self, of: usize, before: u64) -> u64 {
        let began = clock::now();
        let content = Content {
            sequence: self.next + of as u64,
            tag: self.given.tag,
            began,
            before,
        };
        content.write(self.given.topic.kind.longest(), &mut self.buffers[of]);
        began
    }

    /// Some messages, each way of sending in its turn. No room for a while is no error.
    fn burst(&mut self) -> Result<(), Error> {
        let mut left = self.random.u64(1..=self.given.burst.max(1));
        while left > 0 {
            let sent = if self.random.u32(..8) == 0 {
                self.batch(left)?
            } else {
                u64::from(self.single()?)
            };
            if sent == 0 {
                return Ok(());
            }
            left = left.saturating_sub(sent);
        }
        Ok(())
    }

    /// One message; whether there was room for it.
    fn single(&mut self) -> Result<bool, Error> {
        let began = self.write(0, self.before);
        let bytes = &self.buffers[0];
        let sent = match self.random.u32(..4) {
            0 => self
                .publisher
                .loan_timeout(bytes.len(), TURN)
                .map(|mut loan| {
                    loan.bytes().copy_from_slice(bytes);
                    loan.send(bytes.len())
                }),
            1 => self.parked()?,
            _ => self.publisher.send_timeout(bytes, TURN),
        };
        match sent {
            Ok(sequence) => {
                self.right &= sequence == self.next;
                self.next += 1;
                self.before = began;
                Ok(true)
            }
            Err(Error::Full { .. } | Error::Timeout { .. }) => {
                self.no_room();
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Sends it; where there is no room, sleeps on the descriptor until there may be some.
    fn parked(&mut self) -> Result<Result<u64, Error>, Error> {
        let sent = self.publisher.try_send(&self.buffers[0]);
        if matches!(sent, Err(Error::Full { .. })) && self.publisher.arm()? {
            let fd = self.publisher.poll_fd()?;
            // Interrupted or not, it looks again.
            let _ = poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], POLL);
            self.publisher.disarm();
        }
        Ok(sent)
    }

    fn batch(&mut self, most: u64) -> Result<u64, Error> {
        let count = (most as usize).min(self.buffers.len());
        let mut begun = Vec::with_capacity(count);
        for of in 0..count {
            let before = begun.last().copied().unwrap_or(self.before);
            begun.push(self.write(of, before));
        }
        let mut messages = self.buffers[..count].iter().map(Vec::as_slice).peekable();
        let sent = self.publisher.try_publish_batch(&mut messages)?;
        match sent.checked_sub(1) {
            Some(last) => {
                self.next += sent;
                self.before = begun[last as usize];
            }
            None => self.no_room(),
        }
        Ok(sent)
    }

    fn no_room(&mut self) {
        self.full += 1;
        // Whoever tells at once would tell it again.
        thread::sleep(NO_ROOM);
    }
}
