//! Processes without a `busd`: one of them hosts the broker, is killed, and another one takes over, while all publish to all.
//!
//! Classes of bugs that this is to catch: 3, a dead consumer that stops every producer; 8, a member that is gone and gates for ever; 17, a broker
//! whose end drops every client; 23, messages lost to who has just joined.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::common::content::Content;
use crate::common::ledger::Ledger;
use crate::common::process::{Process, WATCHDOG};
use crate::common::role::{Given, lines, play, say};
use crate::common::stage::Stage;
use bus_client::Error;

/// Processes at a time.
const PEERS: usize = 4;
/// Hosts that are killed.
const KILLS: u32 = 15;
/// Slots of each ring.
const DEPTH: u32 = 64;

#[test]
#[ignore = "what the other tests start as processes of their own"]
fn role() {
    play(&[("peer", peer)]);
}

/// Publishes and receives, on one thread. Answers `host` with whether it hosts the broker; `stop` with how many it has sent, and sends no more. Of what
/// is to come from others, `tag:number` for each, it says when it has come.
fn peer(given: &Given) {
    let bus = given.bus();
    let topic = || given.topic(&bus).depth(DEPTH);
    let mut publisher = topic().bytes_publisher().unwrap();
    let subscriber = topic().bytes_subscriber().unwrap();
    let (tag, lines) = (given.get("tag"), lines());
    say("joined");
    let (mut sent, mut sends, mut bytes) = (0, true, Vec::new());
    let mut ledger = Ledger::default();
    // What is to come, and until when.
    let mut awaited = None;
    loop {
        if sends {
            let note = 0;
            let content = Content {
                sequence: sent,
                tag,
                note,
            };
            content.write(&mut bytes);
            match publisher.try_send(&bytes) {
                Ok(sequence) => {
                    assert_eq!(sequence, sent);
                    sent += 1;
                }
                Err(Error::Full { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        for _ in 0..DEPTH {
            let Some(m) = subscriber.try_recv().unwrap() else {
                break;
            };
            ledger.enter(m.publisher(), m.sequence(), m.bytes());
        }
        match lines.try_recv().as_deref() {
            Ok("host") => say(format_args!("host {}", bus.hosts_broker())),
            Ok("stop") => {
                sends = false;
                say(format_args!("sent {sent}"));
            }
            Ok("end") => return,
            Ok(books) => awaited = Some((parse(books), Instant::now() + WATCHDOG / 2)),
            Err(_) => {}
        }
        let has = |(tag, next): (&u32, &u64)| ledger.of(*tag).is_some_and(|a| a.next >= *next);
        if let Some((all, until)) = &awaited {
            if all.iter().all(has) {
                awaited = None;
                say(format_args!(
                    "come {}",
                    subscriber.publishers().unwrap().len()
                ));
            } else if Instant::now() >= *until {
                panic!("{tag}: {all:?} is to come, {:?} is here", ledger.accounts());
            }
        }
    }
}

/// `tag:number` for each.
fn parse(books: &str) -> BTreeMap<u32, u64> {
    let entries = books
        .split_whitespace()
        .map(|entry| entry.split_once(':').unwrap());
    let parsed = entries.map(|(tag, next)| (tag.parse().unwrap(), next.parse().unwrap()));
    parsed.collect()
}

fn start(stage: &Stage, tag: u32) -> Process {
    let socket = stage.path.display();
    let settings: [(&str, &dyn std::fmt::Display); 3] =
        [("socket", &socket), ("embedded", &true), ("tag", &tag)];
    let mut process = Process::start("peer", &settings);
    process.expect("joined");
    process
}

#[test]
fn another_process_takes_over_when_the_host_is_killed_and_nobody_loses_anything() {
    let stage = Stage::new();
    let mut tags = 0..;
    let mut peers: Vec<_> = tags
        .by_ref()
        .take(PEERS)
        .map(|tag| (tag, start(&stage, tag)))
        .collect();
    let mut slowest = Duration::ZERO;
    for _ in 0..KILLS {
        let deadline = Instant::now() + WATCHDOG;
        let host = loop {
            let hosts = |(_, peer): &mut (u32, Process)| {
                peer.tell("host");
                peer.expect("host") == "true"
            };
            if let Some(at) = peers.iter_mut().position(hosts) {
                break at;
            }
            assert!(Instant::now() < deadline, "nobody takes over");
        };
        let (_, mut host) = peers.swap_remove(host);
        host.kill();
        host.reap();
        // It comes while another one takes over.
        let tag = tags.next().unwrap();
        let began = Instant::now();
        peers.push((tag, start(&stage, tag)));
        slowest = slowest.max(began.elapsed());
    }
    // Everybody has met everybody.
    let one_of_each: String = peers.iter().map(|(tag, _)| format!("{tag}:1 ")).collect();
    peers
        .iter_mut()
        .for_each(|(_, peer)| peer.tell(&one_of_each));
    peers
        .iter_mut()
        .for_each(|(_, peer)| drop(peer.expect("come")));
    let mut books = String::new();
    for (tag, peer) in &mut peers {
        peer.tell("stop");
        books += &format!("{tag}:{} ", peer.number("sent"));
    }
    peers.iter_mut().for_each(|(_, peer)| peer.tell(&books));
    for (_, peer) in &mut peers {
        assert_eq!(peer.number("come"), PEERS as u64, "stale publishers");
    }
    println!("{KILLS} hosts killed, the slowest newcomer took {slowest:?}; {books}");
    for (_, mut peer) in peers {
        peer.tell("end");
        peer.finish();
    }
    assert_eq!(stage.left(), [""; 0]);
}
