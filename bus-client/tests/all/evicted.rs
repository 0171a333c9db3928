//! Topics that evict, with `kill -9` and stops: who stands still goes and comes back, and nobody else loses anything.
//!
//! Classes of bugs that this is to catch: a stopped or dead subscriber stops the rest for ever; others lose something when one is evicted;
//! a message that is held goes with the eviction; a publisher that was stopped itself takes that for its subscriber's fault.
//!
//! `BUS_TEST_SEED` makes the same choices again; `BUS_TEST_KILLS` sets how many of each kind.

use std::thread;
use std::time::Duration;

use crate::common::chance::{Chance, kills, some_time};
use crate::common::passing::{
    Cast, DEPTH, Ended, READER, SENDER, Shape, await_progress, kill, over,
};
use crate::common::process::{Process, WATCHDOG};
use crate::common::role::play;
use crate::common::roles::{HOST, start_host};
use crate::common::stage::{Stage, connect};
use crate::common::stops::{await_asleep, go_on, go_on_to_sleep, stop, stop_asleep};
use crate::common::tally::Tallies;
use bus_client::Delivery;

const SHAPES: [Shape; 3] = [Shape::Slots, Shape::Mixed, Shape::Large];
/// Milliseconds without progress until a publisher evicts: much longer than a process that runs is kept from it.
const PATIENCE: u64 = 500;
/// So many that nobody is evicted while a test runs.
const FOR_EVER: u64 = 3_600_000;
/// Longest time until a process is killed or stopped, in microseconds.
const SOON: u64 = 5_000;

#[test]
#[ignore = "what the other tests start as processes of their own"]
fn role() {
    play(&[HOST, SENDER, READER]);
}

/// What a reader says that received everything of the publisher with this tag.
fn all(tag: u64, sent: u64) -> Ended {
    Ended {
        tag,
        start: 0,
        end: sent,
        lost: 0,
        after: 0,
    }
}

/// A reader that holds up to so many messages, and has joined.
fn join(cast: &Cast<'_>, holds: u64, chance: &mut Chance) -> Process {
    let mut reader = cast.reader(holds, chance.of(0..1 << 32));
    reader.expect("joined");
    reader
}

/// It checks what it holds before it says that it was evicted.
#[test]
fn a_stopped_subscriber_is_evicted_comes_back_and_the_other_receives_everything() {
    let mut chance = Chance::new("a_stopped_subscriber_is_evicted");
    for round in 0..kills(3) {
        let shape = SHAPES[round as usize % 3];
        let stage = Stage::new();
        let host = start_host(&stage.path);
        let cast = Cast::evicting(&stage, shape, PATIENCE);
        let mut keeper = join(&cast, 2, &mut chance);
        let mut victim = join(&cast, 3, &mut chance);
        let mut sender = cast.sender(1, false);
        victim.expect("holding");
        some_time(&mut chance, SOON);
        stop(&victim);
        let went_on = await_progress(&mut sender);
        go_on(&victim);
        let evicted: u64 = victim.await_word("evicted").parse().unwrap();
        assert!(evicted < went_on, "{evicted} {went_on}");
        victim.expect("joined");
        let again = await_progress(&mut sender);
        let (sent, _) = over(&mut sender);
        let ended = Ended::heard(&keeper.await_word("ended"));
        assert_eq!(ended, all(1, sent), "{shape:?}");
        let ended = Ended::heard(&victim.await_word("ended"));
        assert_eq!((ended.tag, ended.end, ended.lost), (1, sent, 0));
        assert!(ended.start > evicted && ended.start < again, "{ended:?}");
        for process in [sender, keeper, victim, host] {
            process.finish();
        }
    }
}

/// Time in which a publisher could not look is nobody's fault.
#[test]
fn a_publisher_that_was_stopped_evicts_nobody() {
    const PATIENCE: Duration = Duration::from_secs(2);
    let stage = Stage::new();
    let host = start_host(&stage.path);
    let shape = Shape::Mixed;
    let bus = connect(&stage.path, false).unwrap();
    let topic = shape.topic(&bus, Delivery::evict_after(PATIENCE));
    let subscriber = topic.bytes_subscriber().unwrap();
    let cast = Cast::evicting(&stage, shape, PATIENCE.as_millis() as u64);
    let mut sender = cast.sender(1, false);
    sender.expect("sent 1");
    let thread = stop_asleep(&sender);
    // Nobody to be in step with: it is to be late.
    thread::sleep(PATIENCE + PATIENCE / 4);
    go_on_to_sleep(&sender, &thread);
    let mut tallies = Tallies::default();
    for _ in 0..10 * DEPTH {
        let m = subscriber.recv_timeout(WATCHDOG).unwrap().unwrap();
        tallies.enter(m.publisher(), m.sequence(), m.lost(), m.bytes());
    }
    assert_eq!((tallies.0[0].start, tallies.lost()), (0, 0));
    drop(sender);
    host.finish();
}

/// Nobody is evicted here, so it is its death that lets them go on.
#[test]
fn publishers_that_wait_for_a_subscriber_go_on_when_it_is_killed() {
    let mut chance = Chance::new("publishers_that_wait_for_a_subscriber");
    for shape in SHAPES {
        let stage = Stage::new();
        let host = start_host(&stage.path);
        let cast = Cast::evicting(&stage, shape, FOR_EVER);
        let mut keeper = join(&cast, 0, &mut chance);
        let mut senders = [1, 2].map(|tag| cast.sender(tag, false));
        for _ in 0..kills(4) {
            let holds = chance.of(1..4);
            let mut victim = join(&cast, holds, &mut chance);
            victim.expect("holding");
            some_time(&mut chance, SOON);
            stop(&victim);
            for sender in &senders {
                await_asleep(sender);
            }
            some_time(&mut chance, SOON);
            kill(&mut victim);
            for sender in &mut senders {
                await_progress(sender);
            }
        }
        let sent = senders.each_mut().map(|sender| over(sender).0);
        let mut ended = [(); 2].map(|()| Ended::heard(&keeper.expect("ended")));
        ended.sort_by_key(|ended| ended.tag);
        assert_eq!(ended, [all(1, sent[0]), all(2, sent[1])], "{shape:?}");
        senders.into_iter().for_each(Process::finish);
        keeper.finish();
        host.finish();
    }
}

/// Each of two readers has all of each publisher that is killed, whole, up to the same end.
#[test]
fn a_killed_publisher_that_evicts_leaves_all_that_it_sent() {
    let mut chance = Chance::new("a_killed_publisher_that_evicts");
    for shape in SHAPES {
        let stage = Stage::new();
        let host = start_host(&stage.path);
        let cast = Cast::evicting(&stage, shape, FOR_EVER);
        let mut readers = [0, 3].map(|holds| join(&cast, holds, &mut chance));
        for tag in 1..=kills(5) {
            let mut sender = cast.sender(tag, false);
            sender.expect("sent 1");
            some_time(&mut chance, SOON);
            kill(&mut sender);
            let ended = readers
                .each_mut()
                .map(|reader| Ended::heard(&reader.await_word("ended")));
            assert_eq!(ended, [all(tag, ended[0].end); 2], "{shape:?}");
        }
        readers.into_iter().for_each(Process::finish);
        host.finish();
    }
}

/// With no broker left, who stands still is evicted as before, and the dead are found.
#[test]
fn evictions_go_on_when_the_host_of_the_broker_is_killed() {
    let mut chance = Chance::new("evictions_without_a_broker");
    for round in 0..kills(2) {
        let shape = SHAPES[(round % 2) as usize + 1];
        let stage = Stage::new();
        let mut host = start_host(&stage.path);
        let cast = Cast::evicting(&stage, shape, PATIENCE);
        let mut keeper = join(&cast, 2, &mut chance);
        let mut victim = join(&cast, 3, &mut chance);
        let mut sender = cast.sender(1, false);
        victim.expect("holding");
        some_time(&mut chance, SOON);
        kill(&mut host);
        some_time(&mut chance, SOON);
        stop(&victim);
        let went_on = await_progress(&mut sender);
        go_on(&victim);
        let evicted: u64 = victim.await_word("evicted").parse().unwrap();
        assert!(evicted < went_on, "{evicted} {went_on}");
        victim.finish();
        let sent = await_progress(&mut sender);
        some_time(&mut chance, SOON);
        kill(&mut sender);
        let ended = Ended::heard(&keeper.await_word("ended"));
        assert_eq!(ended, all(1, ended.end), "{shape:?}");
        assert!(ended.end >= sent, "{ended:?} {sent}");
        keeper.finish();
    }
}
