//! Lossy topics with `kill -9` and stops at random moments: the publisher goes on, what is held stays right, each message comes whole, and
//! what was received and what was lost add up to what was sent.
//!
//! Classes of bugs that this is to catch: a publisher waits for who is stopped or dead; a reader sees a mix, where a publisher was killed
//! between two words as well; a loss is counted twice or not at all; who is killed with messages in hand takes them from the others.
//!
//! `BUS_TEST_SEED` makes the same choices again; `BUS_TEST_KILLS` sets how many of each kind.

use std::sync::mpsc::TryRecvError;

use crate::common::chance::{Chance, kills, some_time};
use crate::common::content::Content;
use crate::common::passing::{
    Cast, DEPTH, Ended, READER, SENDER, Shape, await_progress, kill, over, send, topic,
};
use crate::common::process::{Process, WATCHDOG};
use crate::common::role::{Given, lines, play, say};
use crate::common::roles::{HOST, start_host};
use crate::common::stage::{Stage, connect};
use crate::common::stops::{go_on, stop};
use crate::common::tally::Tallies;
use bus_client::Delivery;

/// Longest time until a process is killed or stopped, in microseconds.
const SOON: u64 = 5_000;

#[test]
#[ignore = "what the other tests start as processes of their own"]
fn role() {
    play(&[HOST, SENDER, READER, ("holder", holder)]);
}

/// The sender waits for one of the readers, which so never falls behind: it loses nothing at all, whatever the others hold, and
/// whenever they are killed.
fn who_keeps_up_loses_nothing(shape: Shape) {
    let mut chance = Chance::new("who_keeps_up_loses_nothing");
    let stage = Stage::new();
    let host = start_host(&stage.path);
    let cast = Cast::lossy(&stage, shape);
    let mut follower = cast.reader(0, 0);
    follower.expect("joined");
    let mut sender = cast.sender(1, true);
    for _ in 0..kills(6) {
        let mut holder = cast.reader(chance.of(1..4), chance.of(0..1 << 32));
        holder.expect("joined");
        holder.expect("holding");
        some_time(&mut chance, SOON);
        kill(&mut holder);
        await_progress(&mut sender);
    }
    let (sent, nowhere) = over(&mut sender);
    let ended = Ended::heard(&follower.expect("ended"));
    let all = Ended {
        tag: 1,
        start: 0,
        end: sent,
        lost: 0,
        after: 0,
    };
    assert_eq!((ended, nowhere), (all, 0));
    sender.finish();
    follower.finish();
    host.finish();
}

#[test]
fn who_keeps_up_loses_nothing_to_who_is_killed_with_slots() {
    who_keeps_up_loses_nothing(Shape::Slots);
}

#[test]
fn who_keeps_up_loses_nothing_to_who_is_killed_with_long_messages() {
    who_keeps_up_loses_nothing(Shape::Mixed);
    who_keeps_up_loses_nothing(Shape::Large);
}

/// A publisher flat out, whose readers are stopped, killed, and replaced.
fn never_waits(shape: Shape) {
    let mut chance = Chance::new("never_waits");
    let stage = Stage::new();
    let host = start_host(&stage.path);
    let cast = Cast::lossy(&stage, shape);
    let start = |chance: &mut Chance| {
        let mut reader = cast.reader(chance.of(1..4), chance.of(0..1 << 32));
        reader.expect("joined");
        reader
    };
    let mut readers = [start(&mut chance), start(&mut chance)];
    let mut sender = cast.sender(1, false);
    for round in 0..kills(8) {
        let reader = &mut readers[chance.of(0..2) as usize];
        some_time(&mut chance, SOON);
        stop(reader);
        await_progress(&mut sender);
        if round % 2 == 0 {
            go_on(reader);
        } else {
            kill(reader);
            *reader = start(&mut chance);
        }
        // The new one has something to read as well.
        await_progress(&mut sender);
    }
    let (sent, nowhere) = over(&mut sender);
    for mut reader in readers {
        let ended = Ended::heard(&reader.await_word("ended"));
        assert_eq!((ended.tag, ended.end), (1, sent), "{ended:?}");
        assert!(
            ended.lost < sent && ended.after <= nowhere,
            "{ended:?} {nowhere}"
        );
        reader.finish();
    }
    sender.finish();
    host.finish();
}

#[test]
fn a_lossy_publisher_waits_for_nobody_that_is_stopped_or_killed_with_slots() {
    never_waits(Shape::Slots);
}

#[test]
fn a_lossy_publisher_waits_for_nobody_that_is_stopped_or_killed_with_long_messages() {
    never_waits(Shape::Mixed);
    never_waits(Shape::Large);
}

/// One publisher after the other is killed; each reader sees the same end of each, whole, whatever it held and lost before.
fn killed_publishers(shape: Shape) {
    let mut chance = Chance::new("killed_publishers");
    let stage = Stage::new();
    let host = start_host(&stage.path);
    let cast = Cast::lossy(&stage, shape);
    let holds = [0, 3];
    let mut readers = holds.map(|holds| cast.reader(holds, chance.of(0..1 << 32)));
    for reader in &mut readers {
        reader.expect("joined");
    }
    for tag in 1..=kills(10) {
        let mut sender = cast.sender(tag, false);
        sender.expect("sent 1");
        some_time(&mut chance, SOON);
        kill(&mut sender);
        let words = sender.last_words();
        let sent = words.last().and_then(|line| line.strip_prefix("sent "));
        let sent = sent.map_or(1, |sent| sent.parse().unwrap());
        let ended = readers
            .each_mut()
            .map(|reader| Ended::heard(&reader.await_word("ended")));
        for one in ended {
            assert_eq!((one.tag, one.start, one.end), (tag, 0, ended[0].end));
            assert!(one.end >= sent, "{one:?} of at least {sent}");
        }
    }
    readers.into_iter().for_each(Process::finish);
    host.finish();
}

#[test]
fn a_killed_lossy_publisher_leaves_whole_messages_and_exact_losses_with_slots() {
    killed_publishers(Shape::Slots);
}

#[test]
fn a_killed_lossy_publisher_leaves_whole_messages_and_exact_losses_with_long_messages() {
    killed_publishers(Shape::Mixed);
    killed_publishers(Shape::Large);
}

/// Joins and says `joined`; then takes two messages, holds one and has the other in its window; says `holding`, and looks at both until
/// it is told up to which number to read on; says `read` with how many it received and lost.
fn holder(given: &Given) {
    let bus = given.bus();
    let (_, topic) = topic(given, &bus);
    let subscriber = topic.bytes_subscriber().unwrap();
    let lines = lines();
    say("joined");
    let mut tallies = Tallies::default();
    let mut take = || {
        let m = subscriber.recv_timeout(WATCHDOG).unwrap().unwrap();
        let content = tallies.enter(m.publisher(), m.sequence(), m.lost(), m.bytes());
        (m, content, tallies.0[0].clone())
    };
    loop {
        let (held, of_held, _) = take();
        let held = held.hold();
        let (near, of_near, mut tally) = take();
        say("holding");
        let until = loop {
            assert_eq!(Content::read_padded(held.bytes()), Ok(of_held), "held");
            assert_eq!(Content::read_padded(near.bytes()), Ok(of_near), "near");
            match lines.try_recv() {
                Ok(until) => break until.parse().unwrap(),
                Err(TryRecvError::Empty) => {}
                Err(error) => panic!("{error}"),
            }
        };
        drop((held, near));
        while tally.next() < until {
            (_, _, tally) = take();
        }
        say(format_args!("read {} {}", tally.received, tally.lost));
    }
}

/// What is held, and what lies in the window, of a reader that stands still while the ring goes round and round.
#[test]
fn a_stopped_reader_of_a_lossy_topic_finds_what_it_held_and_its_exact_loss() {
    let mut chance = Chance::new("a_stopped_reader_of_a_lossy_topic");
    for shape in [Shape::Slots, Shape::Mixed, Shape::Large] {
        let stage = Stage::new();
        let host = start_host(&stage.path);
        let (socket, name) = (stage.path.display(), format!("{shape:?}"));
        let mut holder = Process::start("holder", &[("socket", &socket), ("shape", &name)]);
        holder.expect("joined");
        let bus = connect(&stage.path, false).unwrap();
        let topic = shape.topic(&bus, Delivery::Lossy);
        let mut publisher = topic.bytes_publisher().unwrap();
        let (mut sent, mut received) = (0, 0);
        for _ in 0..kills(5) {
            let began = sent;
            // Up to here the ring need not go past anybody.
            let few = chance.of(2..DEPTH / 2);
            let more = chance.of(0..10 * DEPTH);
            for sequence in sent..sent + few {
                send(&mut publisher, shape, 7, sequence);
            }
            holder.expect("holding");
            some_time(&mut chance, SOON / 5);
            stop(&holder);
            for sequence in sent + few..sent + few + more {
                send(&mut publisher, shape, 7, sequence);
            }
            sent += few + more;
            assert_eq!(publisher.nowhere(), 0);
            go_on(&holder);
            holder.tell(&sent.to_string());
            let said = holder.expect("read");
            let (now, lost) = said.split_once(' ').unwrap();
            let now: u64 = now.parse().unwrap();
            assert_eq!(now + lost.parse::<u64>().unwrap(), sent);
            if !matches!(shape, Shape::Large) {
                // One step of the floor is all that it may go ahead.
                let least = (sent - began).min(DEPTH - DEPTH / 8);
                assert!(
                    now - received >= least,
                    "{shape:?}: {said}, at least {least}"
                );
            }
            received = now;
        }
        // It waits for more.
        drop(holder);
        host.finish();
    }
}

/// With no broker left, all goes on as it was, and the dead are found.
#[test]
fn lossy_traffic_goes_on_when_the_host_of_the_broker_is_killed() {
    let mut chance = Chance::new("lossy_traffic_without_a_broker");
    for round in 0..kills(3) {
        let shape = [Shape::Slots, Shape::Mixed, Shape::Large][round as usize % 3];
        let stage = Stage::new();
        let mut host = start_host(&stage.path);
        let cast = Cast::lossy(&stage, shape);
        let mut readers = [1, 3].map(|holds| cast.reader(holds, chance.of(0..1 << 32)));
        for reader in &mut readers {
            reader.expect("joined");
        }
        let mut sender = cast.sender(1, false);
        let [survivor, victim] = &mut readers;
        victim.expect("holding");
        some_time(&mut chance, SOON);
        kill(&mut host);
        await_progress(&mut sender);
        stop(survivor);
        await_progress(&mut sender);
        go_on(survivor);
        some_time(&mut chance, SOON);
        kill(victim);
        let sent = await_progress(&mut sender);
        some_time(&mut chance, SOON);
        kill(&mut sender);
        let ended = Ended::heard(&survivor.await_word("ended"));
        assert!(ended.start == 0 && ended.end >= sent, "{ended:?} {sent}");
        readers.into_iter().take(1).for_each(Process::finish);
    }
}
