//! `tiers`: what reading costs by how far its publisher is trusted: in place, or copied.
//!
//! One process and one thread: what counts is what a message costs its reader beside the transfer, which is the same for both. Kinds take turns
//! within a round, so that a busy machine hurts all alike.

use crate::report::{Report, median};
use anyhow::{Context, Result, ensure};
use bus_client::Payload;
use bus_core::Settings;
use bus_core::control::Trust;
use bus_core::memory::registry::Registry;
use bus_core::publish::Publisher;
use bus_core::receive::{Start, Subscriber, access};
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
    report.note(
        "Nanoseconds for a reader to take a message and let go of it: `raw` its bytes in place, unchecked; `in_place` validated there; `copy` \
         copied, and the copy validated; with `_read` all of it is read as well. `ratio` is copy to in_place.",
    );
    Ok(report)
}

/// How a reader reads.
struct Kind {
    name: &'static str,
    reader: Subscriber,
    validates: bool,
    /// Of a message that is handed out, and of one that is read to its end as well.
    ns: [Vec<f64>; 2],
}

/// Reads all of a payload.
fn read(bytes: &[u8]) {
    let words = bytes.chunks_exact(size_of::<u64>());
    black_box(words.fold(0, |sum: u64, word| {
        word.try_into()
            .map_or(sum, |word| sum.wrapping_add(u64::from_le_bytes(word)))
    }));
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
            ns: [const { Vec::new() }; 2],
        });
    }
    for round in 0..2 * usize::from(rounds) {
        for _ in 0..row {
            // The look before each message: what it lets be written over is counted from here.
            ensure!(publisher.stale().is_none(), "nobody joins or leaves");
            let sent = publisher.try_send(value)?;
            ensure!(sent.is_some(), "there is no room for {bytes} bytes");
        }
        let (count, to_its_end) = (kinds.len(), round % 2);
        for turn in 0..count {
            let kind = &mut kinds[(round / 2 + turn) % count];
            let begun = Instant::now();
            for _ in 0..row {
                let message = kind.reader.poll()?.context("a message is missing")?;
                if kind.validates {
                    black_box(access::<T>(message.bytes(), message.sequence())?);
                }
                if to_its_end == 1 {
                    read(black_box(message.bytes()));
                }
            }
            let ns = begun.elapsed().as_nanos() as f64 / row as f64;
            kind.ns[to_its_end].push(ns);
        }
    }
    let key = |figure: &str| format!("{content}.bytes_{bytes}.{figure}");
    for (to_its_end, suffix) in ["", "_read"].into_iter().enumerate() {
        for kind in &kinds {
            let ns = median(&kind.ns[to_its_end]);
            report.number(key(&format!("{}{suffix}_ns", kind.name)), ns);
        }
        let of = |kind: usize| kinds[kind].ns[to_its_end].iter();
        let ratios: Vec<_> = of(2)
            .zip(of(1))
            .map(|(copy, in_place)| copy / in_place)
            .collect();
        report.number(key(&format!("ratio{suffix}")), median(&ratios));
    }
    Ok(())
}
