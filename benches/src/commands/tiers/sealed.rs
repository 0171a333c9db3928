//! Whether a memfd for each payload, sealed against writing, would cost less than a copy for each reader.
//!
//! Both start from the same private bytes: sent through a ring, or put into a memfd. Each reader validates them as numbers and reads all of them. The ring's
//! pages and the readers' copies are there already, as in a topic that has been used for a while; a memfd's are the kernel's, each time.

use crate::clock;
use crate::floor::sealed::{Build, Spent, message, reusable};
use crate::report::{Report, median};
use anyhow::{Context, Result, ensure};
use bus_core::Settings;
use bus_core::control::{Connection, Trust};
use bus_core::memory::registry::Registry;
use bus_core::publish::Publisher;
use bus_core::receive::{Start, Subscriber, access};
use bus_core::schema::Schema;
use std::hint::black_box;
use std::os::fd::AsFd;
use std::sync::Arc;

/// Numbers of foreign readers of one payload.
const READERS: [usize; 3] = [1, 2, 4];
/// Bytes in a round, about.
const ROUND: usize = 256 << 20;
/// Shortest payload; from there four times as long each.
const SHORTEST: usize = 65_536;

/// Measures payloads up to `largest` bytes.
///
/// # Errors
/// Memory is short.
pub fn measure(largest: usize, most_rounds: usize, report: &mut Report) -> Result<()> {
    ensure!(!reusable()?, "this kernel lets sealed memory be written");
    let mut bytes = SHORTEST;
    while bytes <= largest {
        let payload = payload(bytes)?;
        for readers in READERS {
            let rounds = (ROUND / bytes / readers).clamp(5, most_rounds.max(5));
            size(&payload, readers, rounds, report)?;
        }
        bytes *= 4;
    }
    Ok(())
}

/// The bytes of numbers, about as many as asked for.
fn payload(bytes: usize) -> Result<Vec<u8>> {
    let (mut ring, readers) = ring(bytes, &[Trust::InPlace])?;
    ring.try_send(&vec![7_u64; bytes / size_of::<u64>() - 2])?
        .context("there is no room")?;
    let message = readers[0].poll()?.context("a message is missing")?;
    Ok(message.bytes().to_vec())
}

/// A ring for two such payloads, and its readers.
fn ring(bytes: usize, readers: &[Trust]) -> Result<(Publisher, Vec<Subscriber>)> {
    let settings = Settings {
        depth: Some(2),
        keep: Some(1),
        max_payload: Some(bytes as u64),
        arena: Some(2 * bytes as u64),
        ..Settings::default()
    };
    let settings = settings.decide(&Schema::of::<Vec<u64>>())?;
    let registry = Registry::create()?;
    let mut publisher = Publisher::create(&settings, &registry.fd(), 0)?;
    let mut subscribers = Vec::new();
    for (id, trust) in (0..).zip(readers) {
        let reader = Subscriber::create(&settings, &registry.fd(), Arc::new(()))?;
        reader.attach(0, 0, &publisher.fd(), Start::First, *trust)?;
        reader.joined(0);
        let segment = reader.fd().try_clone_to_owned()?;
        publisher.adopt(id, &segment.as_fd())?;
        subscribers.push(reader);
    }
    Ok((publisher, subscribers))
}

/// Validates numbers, and reads all of them.
fn read(bytes: &[u8]) -> Result<()> {
    let numbers = access::<Vec<u64>>(bytes, 0)?;
    black_box(
        numbers
            .iter()
            .fold(0, |sum: u64, number| sum.wrapping_add(number.to_native())),
    );
    Ok(())
}

/// Publishes through the ring.
fn through(ring: &mut (Publisher, Vec<Subscriber>), payload: &[u8]) -> Result<Spent> {
    let (publisher, readers) = ring;
    let begun = clock::cpu_ns()?;
    ensure!(publisher.stale().is_none(), "nobody joins or leaves");
    publisher
        .try_send_bytes(payload)?
        .context("there is no room")?;
    let sent = clock::cpu_ns()?;
    for reader in &*readers {
        read(reader.poll()?.context("a message is missing")?.bytes())?;
    }
    Ok(Spent {
        publisher: (sent - begun) as f64,
        reader: (clock::cpu_ns()? - sent) as f64 / readers.len() as f64,
    })
}

fn size(payload: &[u8], readers: usize, rounds: usize, report: &mut Report) -> Result<()> {
    let bytes = payload.len().next_multiple_of(64);
    let mut in_place = ring(bytes, &vec![Trust::InPlace; readers])?;
    let mut copied = ring(bytes, &vec![Trust::Copy; readers])?;
    let pairs: Vec<_> = (0..readers)
        .map(|_| Connection::pair())
        .collect::<bus_core::Result<_>>()?;
    let mut rows = vec![Vec::new(); 2 + Build::ALL.len()];
    // The first two rounds fault in what is used again.
    for round in 0..rounds + 2 {
        let mut spent = vec![
            through(&mut in_place, payload)?,
            through(&mut copied, payload)?,
        ];
        for (build, _) in Build::ALL {
            spent.push(message(payload, build, &pairs, read)?);
        }
        if round >= 2 {
            rows.iter_mut()
                .zip(spent)
                .for_each(|(row, spent)| row.push(spent));
        }
    }
    let names = ["in_place", "copy"]
        .into_iter()
        .chain(Build::ALL.map(|(_, name)| name));
    for (name, row) in names.zip(&rows) {
        let mut figure = |figure: &str, of: &dyn Fn(&Spent) -> f64| {
            let values: Vec<_> = row.iter().map(of).collect();
            let key = format!("sealed.bytes_{bytes}.readers_{readers}.{name}{figure}");
            report.number(key, median(&values));
        };
        figure("_publisher_ns", &|spent| spent.publisher);
        figure("_reader_ns", &|spent| spent.reader);
        figure("_ns", &|spent| spent.all(readers));
    }
    for ((_, name), row) in Build::ALL.iter().zip(&rows[2..]) {
        let pairs = row.iter().zip(&rows[1]);
        let ratios: Vec<_> = pairs
            .map(|(own, copy)| own.all(readers) / copy.all(readers))
            .collect();
        report.number(
            format!("sealed.bytes_{bytes}.readers_{readers}.{name}_ratio"),
            median(&ratios),
        );
    }
    Ok(())
}
