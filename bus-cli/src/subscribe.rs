//! `bus sub`: a topic to standard output.
//!
//! Promises: what is published after it joined comes out once, in each publisher's order. It ends when its publishers have ended,
//! when nobody reads its output, or when asked to; with `--follow`, and with a pattern, only the last two. It outlives the broker.
//! With a pattern, what goes wrong on one topic is said, and the other topics go on.

use std::time::Duration;

use anyhow::ensure;
use bus_client::{BytesSubscriber, Error, Message, PatternBytesSubscriber, Peer};
use clap::Args;

use crate::interrupt::{self, Interrupt};
use crate::joining::Joining;
use crate::output::{Output, Reader};
use crate::peers::{Peers, Side};
use crate::progress::Progress;

/// How often to look for a signal, a closed output, or a broker that went, while no message comes.
const TICK: Duration = Duration::from_millis(50);

/// A topic to standard output, as bytes or as lines.
///
/// Waits for the first publisher, and ends when all that it followed have ended. The messages of several publishers come
/// each in its own order, one publisher's beside another's.
///
/// With a pattern, all topics of raw bytes that match, also those to come: '*' stands for any one part of a name, '**' for any number of them. It
/// stays for topics to come. What goes wrong on one of them is said on standard error, and the others go on.
///
/// Exit codes: 0 fine, also when nobody reads the output any more and after Ctrl-C; 1 error, also one on a topic of a pattern; 2 wrong usage.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  bus sub raw | sha256sum
  bus sub --lines --follow logs | grep error
  bus sub --lines --count 10 logs
  bus sub --lines 'logs/**'
  bus sub --history 10 --lines events")]
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

    /// Start N messages back in the rings that are there, as far as the topic keeps them
    #[arg(long, value_name = "N", default_value_t = 0)]
    history: u32,

    /// End after N messages
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

/// Where messages come from.
enum Source {
    Topic(Box<BytesSubscriber>),
    Pattern(Box<PatternBytesSubscriber>),
}

/// Runs `bus sub`; returns the exit code.
pub fn run(arguments: &Arguments) -> anyhow::Result<u8> {
    let interrupt = Interrupt::watch(interrupt::fine)?;
    let output = Output::standard(arguments.lines)?;
    let progress = Progress::new(!arguments.joining.quiet && output.is_file());
    let pattern = arguments.joining.pattern()?;
    ensure!(
        pattern.is_none() || arguments.history == 0,
        "a pattern has no history: leave out --history, or name one topic"
    );
    let bus = arguments.joining.bus("bus-sub")?;
    let mut receiving = Receiving {
        output,
        progress,
        peers: Peers::new(Side::Publishers, arguments.joining.verbose),
        interrupt,
        left: arguments.count,
        complaint: None,
    };
    let source = match pattern {
        Some(pattern) => Source::Pattern(Box::new(bus.pattern_bytes_subscriber(pattern)?)),
        None => {
            let mut topic = arguments.joining.open(&bus)?.history(arguments.history);
            if !arguments.follow {
                topic = topic.end_with_publishers();
            }
            Source::Topic(Box::new(topic.bytes_subscriber()?))
        }
    };
    let code = receiving.until_the_end(source)?;
    receiving.output.flush()?;
    Ok(code)
}

/// A message, and where it comes from.
struct From<'a> {
    message: &'a Message<'a>,
    /// Its topic, where there may be several.
    topic: Option<&'a str>,
    /// Who a publisher is.
    peer: &'a dyn Fn(u64) -> Option<Peer>,
}

impl Source {
    /// Gives the next message to `take`, if one comes within the time; what that made of it.
    fn next<R>(
        &mut self,
        time: Duration,
        take: impl FnOnce(From<'_>) -> R,
    ) -> bus_client::Result<Option<R>> {
        match self {
            Self::Topic(topic) => {
                let found = if time.is_zero() {
                    topic.try_recv()?
                } else {
                    topic.recv_timeout(time)?
                };
                Ok(found.map(|message| {
                    take(From {
                        message: &message,
                        topic: None,
                        peer: &|id| topic.peer(id),
                    })
                }))
            }
            Self::Pattern(all) => {
                let found = if time.is_zero() {
                    all.try_recv()?
                } else {
                    all.recv_timeout(time)?
                };
                Ok(found.map(|message| {
                    take(From {
                        message: &message,
                        topic: Some(message.topic()),
                        peer: &|id| message.peer(id),
                    })
                }))
            }
        }
    }

    /// Tells of publishers that came and went.
    fn look(&mut self, peers: &mut Peers, progress: &Progress) -> bus_client::Result<()> {
        match self {
            Self::Topic(topic) => {
                let there = topic.publishers()?;
                peers.look(there.iter().map(|peer| (None, peer)), progress);
            }
            Self::Pattern(all) => {
                let there = all.publishers()?;
                let there = there
                    .iter()
                    .map(|(topic, peer)| (Some(topic.as_str()), peer));
                peers.look(there, progress);
            }
        }
        Ok(())
    }
}

/// Whether an error is about one topic: a pattern goes on with its others.
fn is_of_one_topic(error: &Error) -> bool {
    matches!(
        error,
        Error::Topic { .. } | Error::Evicted { .. } | Error::Unusable { .. }
    )
}

struct Receiving {
    output: Output,
    progress: Progress,
    peers: Peers,
    interrupt: Interrupt,
    /// Messages still to come, if they are counted.
    left: Option<u64>,
    /// What has gone wrong last on a topic of a pattern.
    complaint: Option<String>,
}

impl Receiving {
    /// Receives until there is nothing more to do; the exit code.
    fn until_the_end(&mut self, mut source: Source) -> anyhow::Result<u8> {
        let stop = self.receive(&mut source);
        if let Source::Topic(subscriber) = &source
            && subscriber.lost() > 0
        {
            let lost = subscriber.lost();
            eprintln!(
                "bus sub: {lost} messages were lost: this topic does not wait for who reads too slowly"
            );
        }
        stop.map(|code| match self.complaint {
            Some(_) => code.max(1),
            None => code,
        })
    }

    fn receive(&mut self, source: &mut Source) -> anyhow::Result<u8> {
        let mut time = Duration::ZERO;
        loop {
            if let Some(code) = self.interrupt.came() {
                return Ok(code);
            }
            if self.left == Some(0) {
                return Ok(0);
            }
            let waited = time;
            let taken = source.next(waited, |from| {
                let id = from.message.publisher();
                let peer = || (from.peer)(id);
                self.peers.met(id, from.topic, peer, &self.progress);
                let bytes = from.message.bytes();
                self.left = self.left.map(|left| left - 1);
                self.progress.moved(bytes.len());
                self.output.write(bytes)
            });
            if taken.is_ok() && self.peers.due() {
                source.look(&mut self.peers, &self.progress)?;
            }
            time = Duration::ZERO;
            let reader = match taken {
                Ok(Some(written)) => written?,
                // What was gathered goes out before a wait, and only then.
                Ok(None) if waited.is_zero() => {
                    time = TICK;
                    self.output.flush()?
                }
                Ok(None) => self.output.reader(),
                Err(Error::Ended { .. }) => {
                    // All of them, which is what this error says.
                    self.peers.look([], &self.progress);
                    return Ok(0);
                }
                Err(error) if is_of_one_topic(&error) && matches!(source, Source::Pattern(_)) => {
                    // One that comes at each call must not keep the processor busy.
                    time = TICK;
                    let complaint = error.to_string();
                    if self.complaint.as_ref() != Some(&complaint) {
                        self.progress.say(&format!("bus sub: {complaint}"));
                        self.complaint = Some(complaint);
                    }
                    self.output.flush()?
                }
                Err(error) => return Err(error.into()),
            };
            if reader == Reader::Gone {
                return Ok(0);
            }
        }
    }
}
