//! A victim that breaks the protocol on purpose: it publishes a message before that message is there. Killed in between, it leaves one that is
//! not whole, and a run that does not notice has no worth.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result};
use bus_client::BytesPublisher;

use super::operation::STRIDE;
use crate::tracer::marks::{BEGIN, END, stand};

/// Bytes of a ring in front of its slots.
const HEAD: u64 = 4096;
/// Bytes of a slot in front of its payload.
const SLOT_HEAD: u64 = 16;

/// Publishes the first of these messages, stamp first, payload second.
pub(super) fn publish(publisher: &mut BytesPublisher, messages: &[Vec<u8>]) -> Result<()> {
    let message = messages.first().context("nothing to send")?;
    let empty = vec![0; message.len()];
    let slots = slots().context("finding its own ring")?;
    let memory = OpenOptions::new().write(true).open("/proc/self/mem")?;
    let depth = u64::from(publisher.settings().depth);
    stand(BEGIN);
    let sequence = publisher.send(&empty)?;
    let slot = slots + sequence % depth * u64::from(STRIDE);
    memory.write_all_at(message, slot + SLOT_HEAD)?;
    stand(END);
    // It is open until the run ends this process.
    std::io::stdin().read_line(&mut String::new())?;
    Ok(())
}

/// Where the slots of this process's ring are mapped.
fn slots() -> Option<u64> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    let ring = maps
        .lines()
        .find(|line| line.contains("bus-ring") && line.contains(" rw"))?;
    let start = u64::from_str_radix(ring.split('-').next()?, 16).ok()?;
    Some(start + HEAD)
}
