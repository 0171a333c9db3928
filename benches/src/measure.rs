//! The measuring loops. Each is generic over the transport and knows nothing of it.

use crate::clock;
use crate::floor::copy::Copier;
use crate::floor::layout;
use crate::floor::memory::Shared;
use crate::job::{Job, Role, Work};
use crate::outcome::{Outcome, Window};
use crate::payload::{Payload, Tally};
use crate::side::{Side, Signal};
use crate::stretches::Stretches;
use crate::subject::{Place, Publish, Receive, Transport};
use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use std::sync::atomic::Ordering;

/// The longest round trip that is told apart, in nanoseconds.
const LONGEST_NS: u64 = 10_000_000_000;

/// Opens the ends that the side needs, reports it ready, and works.
///
/// # Errors
/// Whatever the transport reports, or messages that did not arrive as sent.
pub fn perform<T: Transport>(
    side: &Side,
    memory: &'static Shared,
    signal: &mut Signal,
) -> Result<Outcome> {
    let job = &side.job;
    let place = |link, index| Place {
        job,
        link,
        index,
        memory,
        socket: side.socket.as_deref(),
        eventfds: side.eventfds,
        name: &side.name,
    };
    let traced = job.traced.contains(&side.role);
    match (job.work, side.role) {
        (Work::Bounce { interval_us }, Role::Ping) => {
            let back = T::subscriber(&place(1, 0)).context("subscribing failed")?;
            let out = T::publisher(&place(0, 0)).context("opening the publisher failed")?;
            signal.ready_then_go()?;
            ping(job, interval_us, traced, out, back)
        }
        (Work::Bounce { .. }, Role::Pong) => {
            let back = T::subscriber(&place(0, 0)).context("subscribing failed")?;
            let out = T::publisher(&place(1, 0)).context("opening the publisher failed")?;
            signal.ready_then_go()?;
            pong(job, traced, out, back)
        }
        (Work::Stream, Role::Publisher(index)) => {
            let mut out = T::publisher(&place(0, index)).context("opening the publisher failed")?;
            signal.ready_then_go()?;
            let outcome = publish_stream(job, traced, &mut out)?;
            signal.keep(out);
            Ok(outcome)
        }
        (Work::Burst, Role::Publisher(index)) => {
            let out = T::publisher(&place(0, index)).context("opening the publisher failed")?;
            signal.ready_then_go()?;
            publish_bursts(job, memory, place(0, index), out)
        }
        (Work::Stream | Work::Burst, Role::Subscriber(index)) => {
            let from = T::subscriber(&place(0, index)).context("subscribing failed")?;
            signal.ready_then_go()?;
            subscribe(job, traced, memory, index, from)
        }
        (Work::Copy, Role::Copier) => {
            let copier = Copier::new(job.payload, job.depth);
            signal.ready_then_go()?;
            copy(job, copier)
        }
        (work, role) => {
            bail!("{role} has no part in {work:?}: parent and child are different programs")
        }
    }
}

/// Times each round trip. At once: from send to send, one look at the clock each,
/// taken while the next message is in the air. With an interval: from before the
/// send to after the receipt, for each message of a burst.
fn ping(
    job: &Job,
    interval_us: u64,
    traced: bool,
    mut out: impl Publish,
    mut back: impl Receive,
) -> Result<Outcome> {
    let mut payload = job.messages();
    let mut tally = Tally::default();
    let mut trips = Histogram::<u64>::new_with_bounds(1, job.tick.ticks(LONGEST_NS).max(2), 3)?;
    let interval = job.tick.ticks(interval_us * 1000);
    for _ in 0..job.warm_up {
        out.publish(&mut payload, 1)?;
        back.receive(1, &mut tally)?;
    }
    let window = Window::open(traced)?;
    if interval == 0 {
        out.publish(&mut payload, 1)?;
        let mut sent = clock::now();
        for _ in 1..job.messages {
            back.receive(1, &mut tally)?;
            out.publish(&mut payload, 1)?;
            let now = clock::now();
            trips.saturating_record(now.wrapping_sub(sent));
            sent = now;
        }
        back.receive(1, &mut tally)?;
    } else {
        let mut due = clock::now();
        let mut sent = vec![0; job.batch];
        for _ in 0..job.messages / job.batch as u64 {
            due = due.wrapping_add(interval);
            while (clock::now().wrapping_sub(due) as i64) < 0 {
                std::hint::spin_loop();
            }
            for at in &mut sent {
                *at = clock::now();
                out.publish(&mut payload, 1)?;
            }
            out.flush()?;
            let mut waiting = sent.as_slice();
            while !waiting.is_empty() {
                let before = tally.count();
                back.receive(1, &mut tally)?;
                let now = clock::now();
                let answers = ((tally.count() - before) as usize).min(waiting.len());
                let (answered, rest) = waiting.split_at(answers);
                for at in answered {
                    trips.saturating_record(now.wrapping_sub(*at));
                }
                waiting = rest;
            }
        }
    }
    let outcome = window.close()?;
    tally.check(job.messages(), job.warm_up + job.messages, 1)?;
    let trips = trips
        .iter_recorded()
        .map(|at| {
            (
                job.tick.picoseconds(at.value_iterated_to()),
                at.count_since_last_iteration(),
            )
        })
        .collect();
    Ok(Outcome { trips, ..outcome })
}

fn pong(job: &Job, traced: bool, mut out: impl Publish, mut back: impl Receive) -> Result<Outcome> {
    let mut payload = job.messages();
    let mut tally = Tally::default();
    let mut answer_until = |count: u64, tally: &mut Tally| {
        while tally.count() < count {
            let before = tally.count();
            back.receive(1, tally)?;
            for _ in before..tally.count() {
                out.publish(&mut payload, 1)?;
            }
            out.flush()?;
        }
        anyhow::Ok(())
    };
    answer_until(job.warm_up, &mut tally)?;
    let window = Window::open(traced)?;
    answer_until(job.warm_up + job.messages, &mut tally)?;
    let outcome = window.close()?;
    tally.check(job.messages(), job.warm_up + job.messages, 1)?;
    Ok(outcome)
}

fn publish_stream(job: &Job, traced: bool, out: &mut impl Publish) -> Result<Outcome> {
    let mut payload = job.messages();
    publish_all(job.warm_up, job.batch, &mut payload, out)?;
    let window = Window::open(traced)?;
    let before = out.slots().unwrap_or(0);
    let mut stretches = Stretches::new(job.stretch);
    stretches.begin(0)?;
    let mut sent = 0;
    while sent < job.messages {
        let until = stretches.end().min(job.messages);
        publish_all(until - sent, job.batch, &mut payload, out)?;
        sent = until;
        if sent >= stretches.end() {
            stretches.next(sent)?;
        }
    }
    let slots = out.slots().map_or(job.messages, |after| after - before);
    Ok(Outcome {
        slots,
        stretches: stretches.finish(),
        ..window.close()?
    })
}

/// Publishes half a ring at a time, and times only that.
fn publish_bursts(
    job: &Job,
    memory: &'static Shared,
    place: Place<'_>,
    mut out: impl Publish,
) -> Result<Outcome> {
    let mut payload = job.messages();
    let mut patience = place.patience();
    let read: Vec<_> = (0..job.subscribers)
        .map(|index| memory.word(layout::board(index)))
        .collect();
    let mut sent = 0;
    let mut burst = |messages| {
        let before = clock::cpu_ns()?;
        publish_all(messages, job.batch, &mut payload, &mut out)?;
        let spent = clock::cpu_ns()? - before;
        sent += messages;
        for word in &read {
            // ORDERING: Acquire pairs with the Release store of the board in `subscribe`.
            while word.load(Ordering::Acquire) < sent {
                patience.pause();
            }
        }
        anyhow::Ok(spent)
    };
    let size = burst_size(job);
    for _ in 0..job.warm_up / size {
        burst(size)?;
    }
    burst(job.warm_up % size)?;
    let window = Window::open(false)?;
    let mut burst_cpu_ns = 0;
    for _ in 0..job.messages / size {
        burst_cpu_ns += burst(size)?;
    }
    burst_cpu_ns += burst(job.messages % size)?;
    Ok(Outcome {
        burst_cpu_ns,
        ..window.close()?
    })
}

/// Messages of a burst: half a ring, so that a publisher never waits for room.
fn burst_size(job: &Job) -> u64 {
    (job.depth as u64 / 2).max(1)
}

fn publish_all(
    messages: u64,
    batch: usize,
    payload: &mut Payload,
    out: &mut impl Publish,
) -> Result<()> {
    let batch = batch.max(1) as u64;
    let mut left = messages;
    while left > 0 {
        let now = left.min(batch);
        out.publish(payload, now as usize)?;
        left -= now;
    }
    out.flush()
}

fn subscribe(
    job: &Job,
    traced: bool,
    memory: &'static Shared,
    index: usize,
    mut from: impl Receive,
) -> Result<Outcome> {
    let board = memory.word(layout::board(index));
    let posts = job.work == Work::Burst;
    let mut tally = Tally::default();
    let mut stretches = Stretches::new(job.stretch);
    let mut read_until = |count: u64, tally: &mut Tally| {
        stretches.begin(tally.count())?;
        while tally.count() < count {
            let left = count - tally.count();
            from.receive(left.min(job.batch as u64) as usize, tally)?;
            if tally.count() >= stretches.end() {
                stretches.next(tally.count())?;
            }
            if posts {
                // ORDERING: Release pairs with the Acquire load of the board in `publish_bursts`.
                board.store(tally.count(), Ordering::Release);
            }
        }
        anyhow::Ok(())
    };
    let publishers = job.publishers as u64;
    read_until(job.warm_up * publishers, &mut tally)?;
    let window = Window::open(traced)?;
    read_until((job.warm_up + job.messages) * publishers, &mut tally)?;
    let outcome = window.close()?;
    tally.check(job.messages(), job.warm_up + job.messages, publishers)?;
    Ok(Outcome {
        stretches: stretches.finish(),
        ..outcome
    })
}

fn copy(job: &Job, mut copier: Copier) -> Result<Outcome> {
    for _ in 0..job.warm_up {
        copier.copy();
    }
    let window = Window::open(false)?;
    for _ in 0..job.messages {
        copier.copy();
    }
    window.close()
}
