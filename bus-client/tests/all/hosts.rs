//! Embedded brokers that go while others join and publish: with no `busd`, whoever comes first hosts, and leaves when it is done; then another
//! hosts. Nobody loses anything, and who is there meets who comes, whoever hosts.

use crate::common::content::Content;
use crate::common::ledger::Ledger;
use crate::common::process::{Process, WATCHDOG};
use crate::common::role::{Given, play, say};
use crate::common::stage::Stage;

/// Processes that come at once, each with a publisher.
const VISITORS: u64 = 24;
/// Messages of each.
const EACH: u64 = 100;

#[test]
#[ignore = "what the other tests start as processes of their own"]
fn role() {
    play(&[("visitor", visitor), ("keeper", keeper)]);
}

/// Waits for a subscriber, sends its messages, says `sent`, and leaves; so does the broker, if it is here.
fn visitor(given: &Given) {
    let bus = given.bus();
    let mut publisher = bus.bytes_publisher("t").unwrap();
    publisher.wait_for_subscribers(1, Some(WATCHDOG)).unwrap();
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

/// Receives until all visitors' messages have come; says `received` with the number of publishers.
fn keeper(given: &Given) {
    let bus = given.bus();
    let subscriber = bus.bytes_subscriber("t").unwrap();
    let mut ledger = Ledger::default();
    while ledger.count() < VISITORS * EACH {
        let message = subscriber.recv_timeout(WATCHDOG).unwrap();
        let m = message.expect("messages are missing");
        ledger.enter(m.publisher(), m.sequence(), m.bytes());
    }
    for account in ledger.accounts() {
        assert_eq!((account.first, account.next), (0, EACH), "{account:?}");
    }
    say(format_args!("received {}", ledger.accounts().len()));
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
        assert_eq!(keeper.number("received"), VISITORS);
        println!("{VISITORS} publishers, of which {hosts} hosted");
        visitors.into_iter().for_each(Process::finish);
        keeper.finish();
        assert!(!stage.path.exists());
    }
}
