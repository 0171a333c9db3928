//! It does not matter which side of a topic starts first: mere subscribers decide nothing, and lose nothing.

use bus_client::{Bus, Delivery, Error};

use crate::common::process::WATCHDOG;

fn bus() -> Bus {
    Bus::private("test").unwrap()
}

#[test]
fn a_subscriber_that_asked_for_nothing_follows_whatever_the_publisher_decides() {
    let deliveries = [
        Delivery::Wait,
        Delivery::Fail,
        Delivery::Lossy,
        Delivery::Evict {
            after_us: 3_600_000_000,
        },
    ];
    for delivery in deliveries {
        let bus = bus();
        let subscriber = bus.subscriber::<u64>("t").unwrap();
        let topic = bus.topic("t").unwrap().depth(32).delivery(delivery).keep(3);
        let mut publisher = topic.publisher::<u64>().unwrap();
        assert_eq!(publisher.settings().depth, 32);
        for number in 0..20 {
            publisher.send(&number).unwrap();
        }
        for number in 0..20 {
            let message = subscriber.recv().unwrap();
            assert_eq!(message.to_native(), number, "{delivery:?}");
        }
        assert_eq!(subscriber.settings(), *publisher.settings());
        assert_eq!(subscriber.lost(), 0);
    }
}

#[test]
fn each_first_publisher_decides_anew_and_the_subscriber_goes_on() {
    let bus = bus();
    let subscriber = bus.subscriber::<u64>("t").unwrap();
    for (depth, delivery) in [
        (16, Delivery::Wait),
        (64, Delivery::Lossy),
        (8, Delivery::Fail),
    ] {
        let topic = bus.topic("t").unwrap().depth(depth).delivery(delivery);
        // The broker hears when the subscriber has done with the ring of the publisher before.
        let mut publisher = loop {
            match topic.clone().publisher::<u64>() {
                Ok(publisher) => break publisher,
                Err(Error::Refused(why)) => assert!(why.contains("depth"), "{why}"),
                Err(error) => panic!("{error}"),
            }
            assert!(subscriber.try_recv().unwrap().is_none());
        };
        publisher.send(&u64::from(depth)).unwrap();
        assert_eq!(subscriber.recv().unwrap().to_native(), u64::from(depth));
        assert_eq!(subscriber.settings().delivery, delivery);
    }
}

#[test]
fn a_subscriber_without_room_for_what_is_decided_is_told_to_open_again() {
    let bus = bus();
    let subscriber = bus.subscriber::<u64>("t").unwrap();
    let topic = bus.topic("t").unwrap().delivery(Delivery::Lossy).held(64);
    let mut publisher = topic.publisher::<u64>().unwrap();
    let error = loop {
        match subscriber.recv_timeout(WATCHDOG) {
            Ok(message) => assert!(message.is_none(), "it has no ring"),
            Err(error) => break error.to_string(),
        }
    };
    assert!(error.contains("open the topic again"), "{error}");
    assert!(error.contains("held 64"), "{error}");
    let again = bus.subscriber::<u64>("t").unwrap();
    publisher.wait_for_subscribers(1, Some(WATCHDOG)).unwrap();
    publisher.send(&7).unwrap();
    assert_eq!(again.recv().unwrap().to_native(), 7);
}

#[test]
fn a_subscriber_that_asked_for_more_has_room_for_it_before_there_is_a_publisher() {
    let bus = bus();
    let asking = bus.topic("t").unwrap().delivery(Delivery::Lossy).held(64);
    let subscriber = asking.publishers(200).subscriber::<u64>().unwrap();
    let mut publisher = bus.publisher::<u64>("t").unwrap();
    assert_eq!(
        (publisher.settings().held, publisher.settings().publishers),
        (64, 200)
    );
    publisher.send(&7).unwrap();
    assert_eq!(subscriber.recv().unwrap().to_native(), 7);
}
