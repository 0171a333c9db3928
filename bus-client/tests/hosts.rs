//! Embedded brokers that go while others are joining them: with no `busd`, whoever comes first hosts, and leaves when it is done.
//! Who meets at a broker that goes meanwhile loses nothing to each other; who does not meet there meets at the next one.

mod common;

use std::time::{Duration, Instant};

use bus_client::{BytesSubscriber, Error};
use common::content::Content;
use common::ledger::Ledger;
use common::process::{Process, WATCHDOG};
use common::role::{Given, play, say};
use common::stage::Stage;

/// Processes that come at once, each with a publisher.
const VISITORS: u64 = 24;
/// Messages of each.
const EACH: u64 = 100;
/// How long to wait before looking whether the broker went.
const TURN: Duration = Duration::from_millis(20);

#[test]
#[ignore = "what the other tests start as processes of their own"]
fn role() {
    play(&[("visitor", visitor), ("keeper", keeper)]);
}

/// Waits for a subscriber, sends its messages, says `sent`, and leaves; so does the broker, if it is here.
fn visitor(given: &Given) {
    let bus = given.bus();
    let mut publisher = bus.bytes_publisher("t").unwrap();
    let deadline = Instant::now() + WATCHDOG;
    loop {
        match publisher.wait_for_subscribers(1, Some(TURN)) {
            Ok(()) => break,
            // The broker went, and nobody had come.
            Err(Error::Topic { .. }) => publisher = bus.bytes_publisher("t").unwrap(),
            Err(Error::Timeout { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        assert!(Instant::now() < deadline, "nobody came");
    }
    let mut bytes = Vec::new();
    for sequence in 0..EACH {
        let content = Content {
            sequence,
            tag: given.get("tag"),
            note: 0,
        };
        content.write(&mut bytes);
        assert_eq!(publisher.send(&bytes).unwrap(), sequence);
    }
    let hosts = bus.hosts_broker();
    say(if hosts { "sent as host" } else { "sent" });
}

/// Whether nobody can come any more, and all that came has been received.
fn orphaned(subscriber: &BytesSubscriber) -> bool {
    let wait = subscriber.wait_for_publishers(1, Some(Duration::ZERO));
    // Publishers may have come and gone since the last look.
    matches!(wait, Err(Error::Topic { .. })) && subscriber.publishers().unwrap().is_empty()
}

/// Receives until all visitors' messages have come; follows from broker to broker. Says `received` with the number of brokers.
fn keeper(given: &Given) {
    let bus = given.bus();
    let (mut received, mut brokers) = (0, 0);
    while received < VISITORS * EACH {
        let subscriber = bus.bytes_subscriber("t").unwrap();
        brokers += 1;
        let mut ledger = Ledger::default();
        while received + ledger.count() < VISITORS * EACH {
            if let Some(m) = subscriber.recv_timeout(TURN).unwrap() {
                ledger.enter(m.publisher(), m.sequence(), m.bytes());
            } else if orphaned(&subscriber) {
                break;
            }
        }
        // Whoever waited for this subscriber was heard to the end.
        for account in ledger.accounts() {
            assert_eq!((account.first, account.next), (0, EACH), "{account:?}");
        }
        received += ledger.count();
    }
    say(format_args!("received {brokers}"));
}

#[test]
fn who_met_at_a_broker_that_goes_loses_nothing() {
    for _ in 0..3 {
        let stage = Stage::new();
        let start = |role, tag: u64| {
            let socket = stage.path.display();
            Process::start(
                role,
                &[("socket", &socket), ("embedded", &true), ("tag", &tag)],
            )
        };
        let mut visitors: Vec<_> = (0..VISITORS / 2).map(|tag| start("visitor", tag)).collect();
        let mut keeper = start("keeper", 0);
        visitors.extend((VISITORS / 2..VISITORS).map(|tag| start("visitor", tag)));
        let mut hosts = 0;
        for visitor in &mut visitors {
            hosts += u64::from(visitor.expect("sent") == "as host");
        }
        let brokers = keeper.number("received");
        println!(
            "{VISITORS} publishers, of which {hosts} hosted; the subscriber met {brokers} brokers"
        );
        visitors.into_iter().for_each(Process::finish);
        keeper.finish();
        assert_eq!(std::fs::read_dir(stage.dir.path()).unwrap().count(), 0);
    }
}
