//! `instructions`: what one message takes through each public call, in instructions.
//!
//! One process and one thread publishes and receives, with the ring in the first cache and nobody asleep. The counts
//! are the same on a busy machine, so CI can hold them to a limit.

use crate::cli;
use crate::counters::instructions::{be_counted, count, mark};
use crate::report::Report;
use anyhow::{Context, Result, bail, ensure};
use bus_client::{Bus, BytesPublisher, BytesSubscriber, Publisher, Subscriber};
use std::hint::black_box;
use std::process::Command;

/// Messages of the first count; the second one is of twice as many, so that what a count costs itself falls out.
const MESSAGES: usize = 32;
/// Slots: no count fills the ring, or finds its end.
const DEPTH: u32 = 4096;
/// Bytes of a message, as in the benchmarks of time.
const BYTES: usize = 40;
/// Messages of a batch.
const BATCH: usize = 32;

type Value = [u64; BYTES / 8];

/// What to count.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Fail where a message takes more instructions than the limits of this build allow
    #[arg(long)]
    pub check: bool,
    /// Count these calls only
    #[arg(long, value_name = "NAME")]
    pub call: Vec<String>,
}

/// A public call, and the most instructions that a message may take through it.
struct Call {
    name: &'static str,
    most: f64,
    run: fn(usize, &mut Ends) -> Result<()>,
}

/// Both ends of a topic of bytes, and of one of values.
struct Ends {
    bytes: (BytesPublisher, BytesSubscriber),
    values: (Publisher<Value>, Subscriber<Value>),
}

const PUBLISH: &[Call] = &[
    // What the loop takes by itself.
    Call::new("nothing", 10.0, |n, _| {
        each(n, || {
            black_box(n);
            Ok(())
        })
    }),
    Call::new("send_bytes", 155.0, |n, ends| {
        each(n, || ends.bytes.0.send(black_box(&[7; BYTES])).map(drop))
    }),
    Call::new("try_send_bytes", 120.0, |n, ends| {
        each(n, || {
            ends.bytes.0.try_send(black_box(&[7; BYTES])).map(drop)
        })
    }),
    Call::new("loan_bytes", 120.0, |n, ends| {
        each(n, || {
            let mut loan = ends.bytes.0.loan(BYTES)?;
            loan.bytes().copy_from_slice(black_box(&[7; BYTES]));
            loan.send(BYTES);
            Ok(())
        })
    }),
    Call::new("batch_bytes", 125.0, |n, ends| {
        let messages = [&[7_u8; BYTES][..]; BATCH];
        each(n / BATCH, || {
            ends.bytes.0.publish_batch(black_box(messages)).map(drop)
        })
    }),
    Call::new("send", 130.0, |n, ends| {
        each(n, || {
            ends.values.0.send(black_box(&[7; BYTES / 8])).map(drop)
        })
    }),
    Call::new("try_send", 95.0, |n, ends| {
        each(n, || {
            ends.values.0.try_send(black_box(&[7; BYTES / 8])).map(drop)
        })
    }),
    Call::new("loan", 125.0, |n, ends| {
        each(n, || {
            let mut loan = ends.values.0.loan()?;
            for word in loan.iter_mut() {
                *word = black_box(7).into();
            }
            loan.send();
            Ok(())
        })
    }),
    Call::new("batch", 75.0, |n, ends| {
        let messages = [[7_u64; BYTES / 8]; BATCH];
        each(n / BATCH, || {
            ends.values.0.publish_batch(black_box(&messages)).map(drop)
        })
    }),
];

const RECEIVE: &[Call] = &[
    Call::new("recv_bytes", 115.0, |n, ends| {
        each(n, || {
            ends.bytes.1.recv().map(|m| _ = black_box(m.bytes().len()))
        })
    }),
    Call::new("try_recv_bytes", 110.0, |n, ends| {
        each(n, || {
            let message = ends.bytes.1.try_recv()?;
            message.map(|m| black_box(m.bytes().len()));
            Ok(())
        })
    }),
    Call::new("recv_batch_bytes", 75.0, |n, ends| {
        each(n / BATCH, || {
            for message in &ends.bytes.1.recv_batch(BATCH)? {
                black_box(message?.len());
            }
            Ok(())
        })
    }),
    Call::new("recv", 146.0, |n, ends| {
        each(n, || ends.values.1.recv().map(|m| _ = black_box(m.len())))
    }),
    Call::new("try_recv", 143.0, |n, ends| {
        each(n, || {
            let message = ends.values.1.try_recv()?;
            message.map(|m| black_box(m.len()));
            Ok(())
        })
    }),
    Call::new("recv_batch", 95.0, |n, ends| {
        each(n / BATCH, || {
            for message in &ends.values.1.recv_batch(BATCH)? {
                black_box(message?.len());
            }
            Ok(())
        })
    }),
    Call::new("iter", 181.0, |n, ends| {
        for message in ends.values.1.iter().take(n) {
            black_box(message?.len());
        }
        Ok(())
    }),
];

impl Call {
    const fn new(name: &'static str, most: f64, run: fn(usize, &mut Ends) -> Result<()>) -> Self {
        Self { name, most, run }
    }

    fn named(name: &str) -> Option<&'static Self> {
        Self::all().find(|call| call.name == name)
    }

    fn all() -> impl Iterator<Item = &'static Self> {
        PUBLISH.iter().chain(RECEIVE)
    }
}

fn each(times: usize, mut call: impl FnMut() -> bus_client::Result<()>) -> Result<()> {
    for _ in 0..times {
        call()?;
    }
    Ok(())
}

/// Counts every call in a process of its own.
///
/// # Errors
/// A process cannot be traced, or with `check` a call takes more instructions than it may.
pub fn run(options: &Options) -> Result<Report> {
    let mut report = Report::default();
    let mut over = Vec::new();
    let unknown = |name: &&String| Call::named(name).is_none();
    if let Some(name) = options.call.iter().find(unknown) {
        let all: Vec<_> = Call::all().map(|call| call.name).collect();
        bail!("there is no call {name}; the calls are {}", all.join(", "));
    }
    let wanted =
        |call: &&Call| options.call.is_empty() || options.call.iter().any(|c| c == call.name);
    for call in Call::all().filter(wanted) {
        let mut command = Command::new("/proc/self/exe");
        let child = command.args([cli::COUNTED, call.name]).spawn();
        let child = child.context("starting a process that is counted failed")?;
        let counts = count(child.id(), 3).with_context(|| format!("counting {}", call.name))?;
        let instructions = (counts[1] as f64 - counts[0] as f64) / MESSAGES as f64;
        report.number(call.name, instructions);
        if instructions > call.most {
            over.push(format!(
                "{} takes {instructions} of {}",
                call.name, call.most
            ));
        }
    }
    report.note(format!(
        "Instructions of one message of {BYTES} bytes through each call, one process and one thread; a batch has {BATCH}. Nobody sleeps, and \
         each message finds room or is there."
    ));
    ensure!(
        !options.check || over.is_empty(),
        "more instructions a message than the limit: {}",
        over.join("; ")
    );
    Ok(report)
}

/// In a process of its own: runs a call between marks.
///
/// # Errors
/// There is no such call, or it fails.
pub fn counted(name: &str) -> Result<()> {
    let call = Call::named(name).with_context(|| format!("there is no call {name}"))?;
    let bus = Bus::private("instructions")?;
    let topic = |name| Ok::<_, bus_client::Error>(bus.topic(name)?.depth(DEPTH));
    let mut ends = Ends {
        bytes: (
            topic("bytes")?
                .max_payload(BYTES as u64)
                .bytes_publisher()?,
            topic("bytes")?.bytes_subscriber()?,
        ),
        values: (
            topic("values")?.publisher()?,
            topic("values")?.subscriber()?,
        ),
    };
    ends.bytes.0.wait_for_subscribers(1, None)?;
    ends.values.0.wait_for_subscribers(1, None)?;
    let receives = RECEIVE.iter().any(|call| call.name == name);
    // Twice the messages of a count in advance, so that nothing is done for the first time in it.
    for _ in 0..6 * MESSAGES {
        ends.bytes.0.send(&[7; BYTES])?;
        ends.values.0.send(&[7; BYTES / 8])?;
    }
    if receives {
        (call.run)(2 * MESSAGES, &mut ends)?;
    } else {
        while ends.bytes.1.try_recv()?.is_some() {}
        while ends.values.1.try_recv()?.is_some() {}
        (call.run)(2 * MESSAGES, &mut ends)?;
    }
    be_counted()?;
    mark()?;
    (call.run)(MESSAGES, &mut ends)?;
    mark()?;
    (call.run)(2 * MESSAGES, &mut ends)?;
    mark()
}
