//! The three processes: source, stage and sink, the same over every link.
//!
//! A part dies with the process that started it. What the sink learns goes to its standard output, a line of JSON each time.

use std::fs::File;
use std::hint;
use std::io::{self, Write as _};
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bus_client::rkyv::Archived;
use clap::{Args, ValueEnum};
use nix::sys::prctl;
use nix::sys::signal::Signal as KillSignal;
use nix::unistd::getppid;

use super::links::{
    self, BusIn, BusOut, In, Kind, Out, PacketsIn, PacketsOut, StreamIn, StreamOut,
};
use super::messages::{Averages, SYMBOLS, Signal, Tick};
use super::meter::{Meter, now_ns};

const TICKS: &str = "demo/ticks";
const SIGNALS: &str = "demo/signals";
const VENUES: [&str; 4] = ["XETR", "XNAS", "XLON", "XTKS"];
/// Longest warm-up in milliseconds; it is at most a fifth of the time.
const WARM_UP: u64 = 300;
/// Waits that are longer are slept, except for this rest, which is too short to sleep in time.
const NAP: Duration = Duration::from_micros(200);

/// What a part is told when it is started.
#[derive(Debug, Args)]
pub struct Arguments {
    #[arg(value_enum)]
    pub role: Role,
    #[arg(value_enum)]
    pub kind: Kind,
    /// The process that started it
    #[arg(long)]
    pub parent: i32,
    /// How long the source sends
    #[arg(long)]
    pub millis: u64,
    /// Messages a second; 0 for as many as go through
    #[arg(long)]
    pub rate: u64,
}

/// Which part of the pipeline a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Makes ticks.
    Source,
    /// Makes signals of ticks.
    Stage,
    /// Measures.
    Sink,
}

/// Runs one part; returns the exit code.
pub fn run(arguments: &Arguments) -> anyhow::Result<u8> {
    prctl::set_pdeathsig(KillSignal::SIGKILL).context("cannot bind its life to the demo's")?;
    // It may have died before that was said.
    ensure!(
        getppid().as_raw() == arguments.parent,
        "the demo that started this is gone"
    );
    match arguments.role {
        Role::Source => match arguments.kind {
            Kind::Bus => source(arguments, BusOut::open(&links::bus("source")?, TICKS)?),
            Kind::Sockets => source(arguments, PacketsOut::new(standard(io::stdout())?)),
            Kind::Pipes => source(arguments, StreamOut::new(standard(io::stdout())?)),
        },
        Role::Stage => match arguments.kind {
            Kind::Bus => {
                let bus = links::bus("stage")?;
                let ticks = BusIn::open(&bus, TICKS)?;
                stage(ticks, BusOut::open(&bus, SIGNALS)?)
            }
            Kind::Sockets => stage(
                PacketsIn::new(standard(io::stdin())?),
                PacketsOut::new(standard(io::stdout())?),
            ),
            Kind::Pipes => stage(
                StreamIn::new(standard(io::stdin())?),
                StreamOut::new(standard(io::stdout())?),
            ),
        },
        Role::Sink => match arguments.kind {
            Kind::Bus => sink(arguments, BusIn::open(&links::bus("sink")?, SIGNALS)?),
            Kind::Sockets => sink(arguments, PacketsIn::new(standard(io::stdin())?)),
            Kind::Pipes => sink(arguments, StreamIn::new(standard(io::stdin())?)),
        },
    }?;
    Ok(0)
}

/// Standard input or output, without a buffer.
fn standard(stream: impl AsFd) -> anyhow::Result<File> {
    let fd = stream.as_fd().try_clone_to_owned();
    Ok(File::from(fd.context("cannot use its link")?))
}

/// Sends ticks until the time is over.
fn source(arguments: &Arguments, mut out: impl Out<Tick>) -> anyhow::Result<()> {
    let from = now_ns()?;
    let until = from + arguments.millis * 1_000_000;
    let mut number = 0;
    let mut tick = Tick {
        number,
        due_ns: from,
        last: false,
        symbol: 0,
        size: 0,
        price: 0.0,
        venue: String::new(),
    };
    while !tick.last {
        // A message that waits because the one before it is stuck is late from when it was due, not from when it was sent.
        tick.due_ns = match arguments.rate {
            0 => now_ns()?,
            rate => wait_until(from + number * 1_000_000_000 / rate)?,
        };
        // Multiplying by an odd number scatters what counts up.
        let noise = (number as u32).wrapping_mul(2_654_435_761);
        tick.last = tick.due_ns >= until;
        tick.number = number;
        tick.symbol = noise % SYMBOLS;
        tick.size = 1 + (noise >> 8) % 100;
        tick.price = 100.0 + f64::from(noise >> 16) / 65_536.0;
        tick.venue.clear();
        tick.venue.push_str(VENUES[(noise >> 30) as usize]);
        out.send(&tick)?;
        number += 1;
    }
    Ok(())
}

/// Returns `due` when it is.
fn wait_until(due: u64) -> anyhow::Result<u64> {
    loop {
        let left = Duration::from_nanos(due.saturating_sub(now_ns()?));
        if left.is_zero() {
            return Ok(due);
        }
        if left > NAP {
            thread::sleep(left - NAP);
        } else {
            hint::spin_loop();
        }
    }
}

/// Makes a signal of each tick.
fn stage(ticks: impl In<Tick>, mut signals: impl Out<Signal>) -> anyhow::Result<()> {
    let mut averages = Averages::new();
    let mut signal = Signal::default();
    ticks.each(|tick| {
        averages
            .signal(tick, &mut signal)
            .context("a tick of an unknown symbol")?;
        signals.send(&signal)
    })
}

/// Measures signals, and checks that all came, in order.
fn sink(arguments: &Arguments, signals: impl In<Signal>) -> anyhow::Result<()> {
    let warm_up = (arguments.millis / 5).min(WARM_UP) * 1_000_000;
    let mut meter = Meter::new(warm_up)?;
    let mut out = io::stdout().lock();
    let (mut expected, mut ended, mut now) = (0, false, 0);
    signals.each(|signal: &Archived<Signal>| {
        now = now_ns()?;
        if signal.number != expected {
            bail!("message {} came where {expected} was due", signal.number);
        }
        expected += 1;
        ended = signal.last;
        if let Some(told) = meter.message(signal.due_ns.to_native(), now)? {
            writeln!(out, "{}", serde_json::to_string(&told)?)?;
        }
        Ok(())
    })?;
    ensure!(
        ended,
        "the stream ended after {expected} messages, before its last"
    );
    writeln!(out, "{}", serde_json::to_string(&meter.end(now)?)?)?;
    Ok(())
}
