//! `bus sub`: a topic to standard output.
//!
//! Promises: what is published after it joined comes out once, in each publisher's order. It ends when its publishers have ended,
//! when nobody reads its output, or when asked to; with `--follow` only the last two. It outlives the broker.

use std::time::Duration;

use bus_client::{BytesSubscriber, Error};
use clap::Args;

use crate::interrupt::{self, Interrupt};
use crate::joining::Joining;
use crate::output::{Output, Reader};
use crate::progress::Progress;

/// How often to look for a signal, a closed output, or a broker that went, while no message comes.
const TICK: Duration = Duration::from_millis(50);

/// A topic to standard output, as bytes or as lines.
///
/// Waits for the first publisher, and ends when all that it followed have ended. The messages of several publishers come
/// each in its own order, one publisher's beside another's.
///
/// Exit codes: 0 fine, also when nobody reads the output any more and after Ctrl-C; 1 error; 2 wrong usage.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  bus sub raw | sha256sum
  bus sub --lines --follow logs | grep error
  bus sub --lines --count 10 logs")]
pub struct Arguments {
    #[command(flatten)]
    joining: Joining,

    /// Each message on a line of its own
    #[arg(long, conflicts_with = "bytes")]
    lines: bool,

    /// The bytes of the messages, with nothing between them (the default)
    #[arg(long)]
    bytes: bool,

    /// Stay for publishers to come
    #[arg(long)]
    follow: bool,

    /// End after N messages
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

/// Why receiving stopped.
enum Stop {
    /// There is nothing more to do; with the exit code.
    End(u8),
    /// The broker went and no publisher is left: nobody can come to this subscriber any more.
    Orphaned,
}

/// Runs `bus sub`; returns the exit code.
pub fn run(arguments: &Arguments) -> anyhow::Result<u8> {
    let interrupt = Interrupt::watch(interrupt::fine)?;
    let output = Output::standard(arguments.lines)?;
    let progress = Progress::new(!arguments.joining.quiet && output.is_file());
    let open = arguments.joining.connect("bus-sub")?;
    let mut receiving = Receiving {
        output,
        progress,
        interrupt,
        left: arguments.count,
    };
    loop {
        let mut topic = open()?;
        if !arguments.follow {
            topic = topic.end_with_publishers();
        }
        match receiving.until_the_end(&topic.bytes_subscriber()?)? {
            Stop::End(code) => {
                receiving.output.flush()?;
                return Ok(code);
            }
            Stop::Orphaned => {}
        }
    }
}

struct Receiving {
    output: Output,
    progress: Progress,
    interrupt: Interrupt,
    /// Messages still to come, if they are counted.
    left: Option<u64>,
}

impl Receiving {
    fn until_the_end(&mut self, subscriber: &BytesSubscriber) -> anyhow::Result<Stop> {
        loop {
            if let Some(code) = self.interrupt.came() {
                return Ok(Stop::End(code));
            }
            if self.left == Some(0) {
                return Ok(Stop::End(0));
            }
            let message = match subscriber.try_recv() {
                // What was gathered goes out before a wait, and only then.
                Ok(None) => match self.output.flush()? {
                    Reader::Gone => return Ok(Stop::End(0)),
                    Reader::There => subscriber.recv_timeout(TICK),
                },
                message => message,
            };
            let reader = match message {
                Ok(Some(message)) => {
                    self.left = self.left.map(|left| left - 1);
                    self.progress.moved(message.bytes().len());
                    self.output.write(message.bytes())?
                }
                Ok(None) if orphaned(subscriber)? => return Ok(Stop::Orphaned),
                Ok(None) => self.output.reader(),
                Err(Error::Ended { .. }) => return Ok(Stop::End(0)),
                Err(error) => return Err(error.into()),
            };
            if reader == Reader::Gone {
                return Ok(Stop::End(0));
            }
        }
    }
}

/// Whether no publisher is left, and no broker that could bring one.
fn orphaned(subscriber: &BytesSubscriber) -> anyhow::Result<bool> {
    if !subscriber.publishers()?.is_empty() {
        return Ok(false);
    }
    match subscriber.wait_for_publishers(1, Some(Duration::ZERO)) {
        Ok(()) | Err(Error::Timeout { .. }) => Ok(false),
        Err(Error::Topic { .. }) => Ok(true),
        Err(error) => Err(error.into()),
    }
}
