//! What a broker that is told to stop still says to its sessions.

use std::collections::BTreeSet;

use crate::common::{Handle, Host};
use bus_core::Error;
use bus_core::control::{Event, Role};

/// More publishers than a session is told of before it acknowledges descriptors.
const PUBLISHERS: usize = 40;

#[test]
fn a_subscriber_receives_the_rings_that_only_a_stopping_broker_has() {
    let mut host = Host::new();
    let subscriber = host.subscriber("t");
    subscriber.session.stop_acknowledging();
    let session = host.connect();
    let left: BTreeSet<u64> = (0..PUBLISHERS)
        .map(|_| Handle::open_on(&session, Role::Publisher, "t").joined().id)
        .collect();
    session.barrier();
    host.stop();
    let mut told = BTreeSet::new();
    let error = loop {
        match subscriber.session.hear(subscriber.number) {
            Ok((Event::PublisherJoined { id, .. }, segment)) => {
                assert_eq!(segment.len(), 1);
                told.insert(id);
            }
            Ok((Event::PublisherLeft { dropped, .. }, _)) => assert!(!dropped),
            Ok((Event::Synced { .. }, _)) => {}
            Ok((other, _)) => panic!("{other:?}"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Closed), "{error}");
    assert_eq!(told, left);
}
