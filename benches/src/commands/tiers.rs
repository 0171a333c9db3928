//! `tiers`: what reading costs by how far its publisher is trusted: in place, or copied; and whether a sealed memfd for each message would pay.
//!
//! One process and one thread: what counts is what a message costs its reader beside the transfer, which is the same for both. Kinds take turns
//! within a round, so that a busy machine hurts all alike.

use crate::floor::sealed::{Warm, sealed};
use crate::report::{Report, median};
use anyhow::{Context, Result, ensure};
use bus_client::Payload;
use bus_core::Settings;
use bus_core::control::{Connection, Trust};
use bus_core::memory::registry::Registry;
use bus_core::publish::Publisher;
use bus_core::receive::{Received, Start, Subscriber};
use bus_core::schema::Schema;
use std::hint::black_box;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

/// Bytes of the messages that are read.
const SIZES: [usize; 5] = [40, 256, 4096, 65_536, 1 << 20];
/// Messages in a row, and bytes of them at most.
const ROW: usize = 32;
const ROW_BYTES: usize = 1 << 20;
/// Bytes of a string in a message of strings, with what rkyv needs for it.
const STRING: usize = 24;

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Rounds, each of all kinds
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u16).range(1..))]
    pub rounds: u16,
    /// Largest payload to try in a sealed memfd, in bytes; from 65536 on, four times as much each
    #[arg(long, default_value_t = 1 << 30)]
    pub largest: usize,
}

/// Measures.
///
/// # Errors
/// Memory is short.
pub fn run(options: &Options) -> Result<Report> {
    let mut report = Report::default();
    for bytes in SIZES {
        let numbers = vec![7_u64; bytes / size_of::<u64>() - 1];
        kinds(&numbers, "numbers", bytes, options.rounds, &mut report)?;
        let text = vec!["0123456789abcdef".to_owned(); (bytes / STRING).max(1)];
        kinds(&text, "text", bytes, options.rounds, &mut report)?;
    }
    let pair = Connection::pair()?;
    let mut bytes = 65_536;
    while bytes <= options.largest {
        let mut warm = Warm::new(bytes)?;
        let (mut own, mut copy, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..((64 << 20) / bytes).clamp(3, options.rounds.into()) {
            let (own_ns, copy_ns) = (sealed(bytes, &pair)?, warm.copied(bytes));
            own.push(own_ns);
            copy.push(copy_ns);
            ratios.push(own_ns / copy_ns);
        }
        let key = |figure: &str| format!("sealed.bytes_{bytes}.{figure}");
        report.number(key("memfd_ns"), median(&own));
        report.number(key("copy_ns"), median(&copy));
        report.number(key("ratio"), median(&ratios));
        bytes *= 4;
    }
    report.note(
        "Nanoseconds for a reader to take a message and let go of it: `raw` its bytes in place, unchecked; `in_place` validated there; `copy` \
         copied, and the copy validated. `ratio` is copy to in_place. `sealed`: to build, hand over and read a payload in a sealed memfd of its \
         own, against building it in shared memory and copying it.",
    );
    Ok(report)
}

/// How a reader reads.
struct Kind {
    name: &'static str,
    reader: Subscriber,
    validates: bool,
    ns: Vec<f64>,
}

fn kinds<T: Payload>(
    value: &T,
    content: &str,
    bytes: usize,
    rounds: u16,
    report: &mut Report,
) -> Result<()> {
    let row = (ROW_BYTES / bytes).clamp(1, ROW);
    let settings = Settings {
        depth: Some(64),
        max_payload: Some(2 * bytes as u64),
        arena: Some(2 * (bytes as u64).next_multiple_of(64) * 66),
        ..Settings::default()
    };
    let settings = settings.decide(&Schema::of::<T>())?;
    let registry = Registry::create()?;
    let mut publisher = Publisher::create(&settings, &registry.fd(), 0)?;
    let mut kinds = Vec::new();
    for (name, trust, validates) in [
        ("raw", Trust::InPlace, false),
        ("in_place", Trust::InPlace, true),
        ("copy", Trust::Copy, true),
    ] {
        let reader = Subscriber::create(&settings, &registry.fd(), Arc::new(()))?;
        reader.attach(0, 0, &publisher.fd(), Start::First, trust)?;
        reader.joined(0);
        let segment = reader.fd().try_clone_to_owned()?;
        publisher.adopt(kinds.len() as u64, &segment.as_fd())?;
        kinds.push(Kind {
            name,
            reader,
            validates,
            ns: Vec::new(),
        });
    }
    for round in 0..usize::from(rounds) {
        for _ in 0..row {
            // The look before each message: what it lets be written over is counted from here.
            ensure!(publisher.stale().is_none(), "nobody joins or leaves");
            let sent = publisher.try_send(value)?;
            ensure!(sent.is_some(), "there is no room for {bytes} bytes");
        }
        let count = kinds.len();
        for turn in 0..count {
            let kind = &mut kinds[(round + turn) % count];
            let begun = Instant::now();
            for _ in 0..row {
                let message = kind.reader.poll()?.context("a message is missing")?;
                if kind.validates {
                    black_box(&*Received::<T>::new(message)?);
                } else {
                    black_box(message.bytes());
                }
            }
            let ns = begun.elapsed().as_nanos() as f64 / row as f64;
            kind.ns.push(ns);
        }
    }
    let key = |figure: &str| format!("{content}.bytes_{bytes}.{figure}");
    for kind in &kinds {
        report.number(key(&format!("{}_ns", kind.name)), median(&kind.ns));
    }
    let pairs = kinds[2].ns.iter().zip(&kinds[1].ns);
    let ratios: Vec<_> = pairs.map(|(copy, in_place)| copy / in_place).collect();
    report.number(key("ratio"), median(&ratios));
    Ok(())
}
