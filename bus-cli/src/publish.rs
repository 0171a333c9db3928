//! `bus pub`: standard input to a topic.
//!
//! Promises: nothing is read before enough subscribers are there, everything read is published, and it says so if all of them
//! leave before the end. Bytes are read straight into the ring. It may end before its subscribers have read all: the ring is theirs too.

use std::time::Duration;

use anyhow::{anyhow, bail};
use bus_client::{BytesPublisher, Error};
use clap::Args;

use crate::input::{Input, Read};
use crate::interrupt::{self, Interrupt};
use crate::joining::{Joining, TopicOpening};
use crate::lines::Lines;
use crate::peers::{Peers, Side};
use crate::progress::Progress;
use crate::size;

/// Bytes read into one message, unless told otherwise: what a pipe holds. See `docs/measurements.md`.
const CHUNK: u64 = 64 << 10;
/// How often to look for a signal while waiting for subscribers.
const TICK: Duration = Duration::from_millis(50);

/// Standard input to a topic, as bytes or as lines.
///
/// Waits for its subscribers, then sends until the input ends. Every subscriber gets everything; the slowest sets the pace.
/// If all of them leave before the end, so does this, with an error.
///
/// Exit codes: 0 fine, 1 error, 2 wrong usage, 130 or 143 cut short by Ctrl-C or SIGTERM.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tar c ~/photos | bus pub raw --subscribers 2
  tail -f app.log | bus pub --lines logs
  bus pub --max-payload 1M --chunk 1M frames < frames.bin")]
pub struct Arguments {
    #[command(flatten)]
    joining: Joining,

    /// Each line is a message, without its end
    #[arg(long, conflicts_with_all = ["bytes", "chunk"])]
    lines: bool,

    /// A stream of bytes: message boundaries mean nothing (the default)
    #[arg(long)]
    bytes: bool,

    /// Longest message made of bytes [default: 64K, or less where --max-payload is]
    #[arg(long, value_name = "BYTES", value_parser = size::bytes)]
    chunk: Option<u64>,

    /// Subscribers to wait for; with 0 it never waits and needs none
    #[arg(long, value_name = "N", default_value_t = 1)]
    subscribers: usize,
}

/// The same while there is no input, where somebody wants to know who comes and goes.
const LOOK: u16 = 50;

/// How a step ended.
enum Step<T> {
    Done(T),
    /// A signal came; with the exit code.
    Interrupted(u8),
}

/// Runs `bus pub`; returns the exit code.
pub fn run(arguments: &Arguments) -> anyhow::Result<u8> {
    let chunk = chunk(arguments)?;
    let interrupt = Interrupt::watch(interrupt::cut_short)?;
    let progress = Progress::new(!arguments.joining.quiet);
    let bus = arguments.joining.bus("bus-pub")?;
    if arguments.joining.retains() && bus.hosts_broker() {
        progress.say("bus pub: no busd is running, so this process hosts the broker: what it retains ends with this process");
    }
    let open = || arguments.joining.open(&bus);
    let mut peers = Peers::new(Side::Subscribers, arguments.joining.verbose);
    let opened = open_with(
        arguments.subscribers,
        open,
        &interrupt,
        &progress,
        &mut peers,
    )?;
    let publisher = match opened {
        Step::Done(publisher) => publisher,
        Step::Interrupted(code) => return Ok(code),
    };
    let mut sending = Sending {
        publisher,
        input: Input::standard(&interrupt)?,
        progress,
        peers,
        needs_subscribers: arguments.subscribers > 0,
    };
    let ended = if arguments.lines {
        sending.lines()?
    } else {
        sending.bytes(chunk)?
    };
    Ok(match ended {
        Step::Done(()) => 0,
        Step::Interrupted(code) => code,
    })
}

fn chunk(arguments: &Arguments) -> anyhow::Result<usize> {
    let most = arguments.joining.max_payload.unwrap_or(u64::MAX);
    let chunk = arguments.chunk.unwrap_or(CHUNK.min(most));
    if chunk == 0 && !arguments.lines {
        bail!("a chunk of 0 bytes carries nothing; use --chunk 1 or more");
    }
    Ok(usize::try_from(chunk)?)
}

/// Opens the topic and waits for its subscribers.
fn open_with(
    subscribers: usize,
    open: impl Fn() -> TopicOpening,
    interrupt: &Interrupt,
    progress: &Progress,
    peers: &mut Peers,
) -> anyhow::Result<Step<BytesPublisher>> {
    progress.waiting("(waiting for subscribers)");
    let mut publisher = open()?.bytes_publisher()?;
    loop {
        if let Some(code) = interrupt.came() {
            return Ok(Step::Interrupted(code));
        }
        let enough = publisher.wait_for_subscribers(subscribers, Some(TICK));
        look(&mut publisher, peers, progress)?;
        match enough {
            Ok(()) => break,
            Err(Error::Timeout { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    progress.waiting("");
    Ok(Step::Done(publisher))
}

/// Tells who came and went, if somebody wants to know.
fn look(
    publisher: &mut BytesPublisher,
    peers: &mut Peers,
    progress: &Progress,
) -> anyhow::Result<()> {
    if peers.wanted() {
        let there = publisher.subscribers()?;
        peers.look(there.iter().map(|peer| (None, peer)), progress);
    }
    Ok(())
}

/// Publishing, once the subscribers are there.
struct Sending<'a> {
    publisher: BytesPublisher,
    input: Input<'a>,
    progress: Progress,
    peers: Peers,
    needs_subscribers: bool,
}

impl Sending<'_> {
    fn bytes(&mut self, chunk: usize) -> anyhow::Result<Step<()>> {
        loop {
            self.somebody_reads()?;
            self.look_around()?;
            let mut loan = self.publisher.loan(chunk).map_err(|error| {
                anyhow!("{error}; or send less at once with a smaller --chunk than {chunk}")
            })?;
            match self.input.read(loan.bytes())? {
                Read::Bytes(n) => {
                    loan.send(n);
                    self.progress.moved(n);
                }
                Read::End => return Ok(Step::Done(())),
                Read::Interrupted(code) => return Ok(Step::Interrupted(code)),
            }
        }
    }

    fn lines(&mut self) -> anyhow::Result<Step<()>> {
        let mut lines = Lines::new();
        let mut sent = 0;
        loop {
            self.somebody_reads()?;
            self.look_around()?;
            match self.input.read(lines.room())? {
                Read::Bytes(n) => {
                    let whole = lines.read(n);
                    self.publish(lines.lines(whole), &mut sent)?;
                    lines.take(whole);
                    if lines.is_full() {
                        // A line that is too long already is refused now, not when memory is full of it.
                        let loan = self.publisher.loan(lines.rest().len());
                        loan.map_err(|error| too_long(sent + 1, &error))?;
                        lines.grow();
                    }
                }
                Read::End if lines.rest().is_empty() => return Ok(Step::Done(())),
                Read::End => {
                    self.publish([lines.rest()], &mut sent)?;
                    return Ok(Step::Done(()));
                }
                Read::Interrupted(code) => return Ok(Step::Interrupted(code)),
            }
        }
    }

    /// Publishes lines; `sent` counts them, and so names the one that fails.
    fn publish<'l>(
        &mut self,
        lines: impl IntoIterator<Item = &'l [u8]>,
        sent: &mut u64,
    ) -> anyhow::Result<()> {
        let mut asked = *sent;
        let progress = &self.progress;
        let counted = lines.into_iter().inspect(|line| {
            asked += 1;
            progress.moved(line.len() + 1);
        });
        match self.publisher.publish_batch(counted) {
            Ok(more) => *sent += more,
            Err(error) => return Err(too_long(asked, &error)),
        }
        Ok(())
    }

    /// Tells who comes and goes until there is input, if somebody wants to know.
    fn look_around(&mut self) -> anyhow::Result<()> {
        if self.peers.due() {
            look(&mut self.publisher, &mut self.peers, &self.progress)?;
        }
        while self.peers.wanted() && !self.input.wait(LOOK.into())? {
            look(&mut self.publisher, &mut self.peers, &self.progress)?;
        }
        Ok(())
    }

    /// Bytes that nobody will read are not worth sending: that is an error, as a closed pipe is one.
    fn somebody_reads(&mut self) -> anyhow::Result<()> {
        if self.needs_subscribers && self.publisher.subscribers()?.is_empty() {
            bail!(
                "all subscribers have left after {} bytes; with --subscribers 0 it goes on without any",
                self.progress.bytes()
            );
        }
        Ok(())
    }
}

fn too_long(line: u64, error: &Error) -> anyhow::Error {
    anyhow!("line {line}: {error}, that is with --max-payload BYTES for whoever names it first")
}
