//! The control lane: clients that say to the broker what they like, while honest ones come, send, and go.
//!
//! Promises checked, for each kind of attack: an honest client is served all the while, each of its calls within a bound; the broker has no more
//! descriptors and memory than a bound; and when the attacker is killed, it has again the descriptors that it had before, and sleeps.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bus_client::{Bus, BytesPublisher, BytesSubscriber};
use bus_core::Settings;
use bus_core::control::Role;

use super::attack::{self, ALL, Given};
use super::member::Member;
use crate::budget::Budget;
use crate::crowd::broker::{self, LISTENING};
use crate::crowd::vitals::Vitals;
use crate::outcome::Outcome;
use crate::process::{PATIENCE, Worker};
use crate::progress::Progress;

/// How long an attack lasts where nobody says.
const EACH: Duration = Duration::from_secs(2);
/// How long an honest client may have to wait for the broker: behind thousands of connections that came before, on a busy machine.
const BOUND: Duration = Duration::from_secs(30);
/// How long the broker may take to be what it was before: thousands of connections that nobody is behind any more are still in its queue, and the
/// machine is busy.
const BACK: Duration = Duration::from_secs(90);
/// Descriptors that an attacker's connections may cost the broker.
const DESCRIPTORS: u64 = 5000;
/// Memory that an attacker may cost the broker while it is there, in KiB.
const DURING: u64 = 512 << 10;
/// Memory that may be left afterwards, for the allocator keeps some, in KiB.
const AFTER: u64 = 64 << 10;
/// How long the broker's processor time is looked at, and how much of it may be used when nothing happens.
const QUIET: Duration = Duration::from_millis(200);

/// Runs the control lane.
///
/// # Errors
/// A process cannot be started.
pub fn run(budget: &Budget) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let dir = tempfile::tempdir().context("making a directory for the socket")?;
    let socket = dir.path().join("bus.sock");
    let given = broker::Given {
        socket: socket.clone(),
    };
    let mut broker = Worker::start(broker::ROLE, &given)?;
    broker.expect(LISTENING)?;
    let mut honest = Honest::new(&socket)?;
    // What the broker needs for itself, it has then.
    for _ in 0..20 {
        honest.go_on(&socket)?;
    }
    let before = settled(broker.pid(), None)?;
    let progress = Progress::new("hostile messages", None);
    let each = budget.time().map_or(EACH, |time| {
        time.saturating_sub(budget.elapsed()) / (ALL.len() as u32 + 1)
    });
    for (number, attack) in ALL.into_iter().enumerate() {
        progress.now(format!("hostile messages, {attack:?}"));
        let given = Given {
            socket: socket.clone(),
            attack,
            seed: budget.random(number as u64).u64(..),
        };
        let found = one(&given, &mut broker, &mut honest, before, each, &mut outcome);
        if let Err(error) = found {
            let seed = budget.seed();
            outcome.violation(format!(
                "{attack:?}: {error:#}; again: bus-torture hostile --lane control --seed {seed}"
            ));
            // What a broker does that is not what it should be says nothing about the next attack.
            break;
        }
        progress.done(1);
    }
    Ok(outcome)
}

/// Lasts for one attack.
fn one(
    given: &Given,
    broker: &mut Worker,
    honest: &mut Honest,
    before: Vitals,
    time: Duration,
    outcome: &mut Outcome,
) -> Result<()> {
    let name = format!("control.{:?}", given.attack).to_lowercase();
    let mut attacker = Worker::start(attack::ROLE, given)?;
    attacker.expect("sent 0")?;
    let (mut sent, mut worst, mut probes) = (0, Duration::ZERO, 0);
    let (mut descriptors, mut memory) = (0, 0);
    let end = Instant::now() + time;
    while Instant::now() < end || sent == 0 {
        ensure!(
            Instant::now() < end + PATIENCE,
            "the attacker sends nothing"
        );
        let start = Instant::now();
        honest.go_on(&given.socket)?;
        let took = start.elapsed();
        ensure!(
            took <= BOUND,
            "an honest client waited {took:?} for the broker"
        );
        worst = worst.max(took);
        probes += 1;
        ensure!(broker.ended().is_none(), "the broker ended");
        let now = Vitals::of(broker.pid())?;
        descriptors = descriptors.max(now.descriptors);
        memory = memory.max(now.resident);
        ensure!(
            now.descriptors <= before.descriptors + DESCRIPTORS,
            "the broker has {} descriptors",
            now.descriptors
        );
        ensure!(
            now.resident <= before.resident + DURING,
            "the broker has {} KiB of memory",
            now.resident
        );
        while let Some(line) = attacker.overhear() {
            let count = line.strip_prefix("sent ").and_then(|n| n.parse().ok());
            sent = count.unwrap_or(sent);
        }
        ensure!(attacker.ended().is_none(), "the attacker ended by itself");
    }
    attacker.kill();
    let after = settled(broker.pid(), Some(before.descriptors))?;
    ensure!(
        after.resident <= before.resident + AFTER,
        "the broker keeps {} KiB of memory, and had {}",
        after.resident,
        before.resident
    );
    honest.go_on(&given.socket)?;
    let busy = processor_time(broker.pid())?;
    sleep(QUIET);
    let busy = processor_time(broker.pid())?.saturating_sub(busy);
    ensure!(
        busy < QUIET / 4,
        "the broker takes {busy:?} of processor time in {QUIET:?} with nothing to do"
    );
    outcome.tried(sent);
    outcome.count("control.messages", sent);
    outcome.count("control.probes", probes);
    outcome.count(format!("{name}.messages"), sent);
    outcome.number(format!("{name}.worst_ms"), worst.as_secs_f64() * 1000.0);
    outcome.count(format!("{name}.broker_descriptors"), descriptors);
    outcome.count(format!("{name}.broker_kib"), memory);
    Ok(())
}

/// The broker's vitals when its descriptors are as many as they are to be, or do not change.
fn settled(broker: u32, wanted: Option<u64>) -> Result<Vitals> {
    let deadline = Instant::now() + BACK;
    let mut last = Vitals::of(broker)?;
    loop {
        sleep(Duration::from_millis(20));
        let now = Vitals::of(broker)?;
        if now.descriptors == wanted.unwrap_or(last.descriptors) {
            return Ok(now);
        }
        if Instant::now() >= deadline {
            bail!(
                "the broker has {} descriptors, and {wanted:?} before; the attacker is gone for {BACK:?}",
                now.descriptors
            );
        }
        last = now;
    }
}

fn processor_time(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/schedstat")).context("its schedstat")?;
    let nanos = stat.split(' ').next().and_then(|n| n.parse().ok());
    Ok(Duration::from_nanos(nanos.context("no schedstat")?))
}

/// Honest clients: two that stay, and some that come and go.
struct Honest {
    publisher: BytesPublisher,
    subscriber: BytesSubscriber,
    sent: u64,
}

impl Honest {
    fn new(socket: &Path) -> Result<Self> {
        let bus = Bus::builder("honest")
            .socket(socket)
            .embedded(false)
            .connect()?;
        let topic = || bus.topic("honest/stays");
        let subscriber = topic()?.bytes_subscriber()?;
        let publisher = topic()?.bytes_publisher()?;
        Ok(Self {
            publisher,
            subscriber,
            sent: 0,
        })
    }

    /// Those who stay exchange messages, and others join, and leave.
    fn go_on(&mut self, socket: &Path) -> Result<()> {
        for _ in 0..8 {
            let bytes = self.sent.to_le_bytes();
            self.publisher.send_timeout(&bytes, BOUND)?;
            let message = self.subscriber.recv_timeout(BOUND)?;
            let message = message.context("an honest message does not come")?;
            ensure!(message.bytes() == bytes, "an honest message is another one");
            self.sent += 1;
        }
        let join = |role| Member::join(socket, role, "honest/passes", Settings::default(), BOUND);
        let _subscriber = join(Role::Subscriber).context("an honest subscriber")?;
        let _publisher = join(Role::Publisher).context("an honest publisher")?;
        Ok(())
    }
}
