//! The shortest way through everything: two handles, one process, an embedded broker.

use std::time::Duration;

use bus_client::{Bus, Error, Publisher, Subscriber};

#[bus_client::message]
#[derive(Debug, PartialEq)]
struct Tick {
    symbol: u32,
    price: f64,
    venue: String,
}

fn tick(symbol: u32) -> Tick {
    Tick {
        symbol,
        price: f64::from(symbol) / 2.0,
        venue: format!("venue {symbol}"),
    }
}

fn bus() -> Bus {
    Bus::private("test").unwrap()
}

#[test]
fn messages_arrive_in_order_whichever_side_opens_first() {
    let bus = bus();
    let early = bus.subscriber::<Tick>("ticks").unwrap();
    let mut publisher = bus.publisher::<Tick>("ticks").unwrap();
    let late = bus.subscriber::<Tick>("ticks").unwrap();
    for symbol in 0..100 {
        assert_eq!(publisher.send(&tick(symbol)).unwrap(), u64::from(symbol));
    }
    for subscriber in [&early, &late] {
        for symbol in 0..100 {
            let got = subscriber.recv().unwrap();
            assert_eq!(got.symbol, symbol);
            assert_eq!(got.venue.as_str(), format!("venue {symbol}"));
            assert_eq!((got.sequence(), got.lost()), (u64::from(symbol), 0));
            assert_eq!(got.publisher(), publisher.id());
        }
        assert!(subscriber.try_recv().unwrap().is_none());
    }
}

#[test]
fn a_full_ring_says_who_is_slow_and_goes_on_when_there_is_room() {
    let bus = bus();
    let subscriber = bus
        .topic("ticks")
        .unwrap()
        .depth(4)
        .subscriber::<u64>()
        .unwrap();
    let mut publisher = bus.publisher::<u64>("ticks").unwrap();
    for n in 0..4 {
        publisher.try_send(&n).unwrap();
    }
    let error = publisher.try_send(&4).unwrap_err();
    assert!(matches!(error, Error::Full { .. }));
    assert!(error.to_string().contains("4 messages behind"), "{error}");
    let short = Duration::from_millis(1);
    assert!(matches!(
        publisher.send_timeout(&4, short),
        Err(Error::Timeout { .. })
    ));
    drop(subscriber.recv().unwrap());
    publisher.try_send(&4).unwrap();
    for n in 1..5u64 {
        assert_eq!(*subscriber.recv().unwrap(), n);
    }
}

#[test]
fn several_messages_are_held_at_once_and_out_of_order() {
    let bus = bus();
    let subscriber = bus
        .topic("n")
        .unwrap()
        .depth(4)
        .subscriber::<u64>()
        .unwrap();
    let mut publisher = bus.publisher::<u64>("n").unwrap();
    publisher.publish_batch(&[0, 1, 2, 3]).unwrap();
    let messages: Vec<_> = (0..4).map(|_| subscriber.recv().unwrap()).collect();
    let mut messages: Vec<_> = messages.into_iter().map(Some).collect();
    for early in [2, 1, 3] {
        messages[early] = None;
        assert!(matches!(publisher.try_send(&9), Err(Error::Full { .. })));
    }
    assert_eq!(**messages[0].as_ref().unwrap(), 0);
    messages[0] = None;
    assert_eq!(publisher.publish_batch(&[4, 5, 6, 7]).unwrap(), 4);
}

#[test]
fn a_held_message_outlives_its_subscriber_and_its_publisher() {
    let bus = bus();
    let subscriber = bus.subscriber::<Tick>("ticks").unwrap();
    let mut publisher = bus.publisher::<Tick>("ticks").unwrap();
    publisher.send(&tick(7)).unwrap();
    let held = subscriber.recv().unwrap().hold();
    drop(subscriber);
    drop(publisher);
    std::thread::spawn(move || {
        assert_eq!(held.venue.as_str(), "venue 7");
    })
    .join()
    .unwrap();
}

#[test]
fn a_held_message_given_back_by_another_thread_frees_its_slot() {
    let bus = bus();
    let subscriber = bus
        .topic("n")
        .unwrap()
        .depth(2)
        .subscriber::<u64>()
        .unwrap();
    let mut publisher = bus.publisher::<u64>("n").unwrap();
    publisher.publish_batch(&[0, 1]).unwrap();
    let held = subscriber.recv().unwrap().hold();
    drop(subscriber.recv().unwrap());
    assert!(matches!(publisher.try_send(&2), Err(Error::Full { .. })));
    let receiving = std::thread::spawn(move || subscriber.recv().map(|m| m.to_native()).unwrap());
    std::thread::spawn(move || drop(held));
    publisher.send(&2).unwrap();
    assert_eq!(receiving.join().unwrap(), 2);
}

#[test]
fn the_end_of_the_publishers_is_told_to_who_asked_for_it() {
    let bus = bus();
    let topic = bus.topic("n").unwrap().end_with_publishers();
    let subscriber = topic.subscriber::<u64>().unwrap();
    let mut one = bus.publisher::<u64>("n").unwrap();
    let mut two = bus.publisher::<u64>("n").unwrap();
    one.send(&1).unwrap();
    drop(one);
    two.send(&2).unwrap();
    drop(two);
    let mut got: Vec<u64> = subscriber.iter().map(|m| m.unwrap().to_native()).collect();
    got.sort_unstable();
    assert_eq!(got, [1, 2]);
}

#[test]
fn another_type_is_refused_and_the_first_difference_named() {
    let bus = bus();
    let _open = bus.publisher::<Tick>("ticks").unwrap();
    mod other {
        #[bus_client::message]
        pub struct Tick {
            pub symbol: u32,
            pub price: u64,
            pub venue: String,
        }
    }
    let error = bus
        .subscriber::<other::Tick>("ticks")
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("price") && error.contains("f64") && error.contains("u64"),
        "{error}"
    );
}

/// Opens a publisher; while the places of those that left are not given back yet, the subscriber goes on looking.
fn open(bus: &Bus, subscriber: &Subscriber<u64>) -> Publisher<u64> {
    loop {
        match bus.publisher::<u64>("n") {
            Ok(publisher) => return publisher,
            Err(Error::Refused(_)) => assert!(subscriber.try_recv().unwrap().is_none()),
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn sixty_publishers_are_all_heard_and_their_places_used_again() {
    let bus = bus();
    let topic = bus.topic("n").unwrap().depth(4);
    let subscriber = topic.subscriber::<u64>().unwrap();
    for round in 0..3u64 {
        let mut publishers: Vec<_> = (0..60).map(|_| open(&bus, &subscriber)).collect();
        for (n, publisher) in publishers.iter_mut().enumerate() {
            publisher.send(&(round * 60 + n as u64)).unwrap();
        }
        let error = bus.publisher::<u64>("n").err().unwrap().to_string();
        assert!(error.contains("60"), "{error}");
        drop(publishers);
        let mut got: Vec<u64> = (0..60)
            .map(|_| subscriber.recv().unwrap().to_native())
            .collect();
        got.sort_unstable();
        assert_eq!(got, (round * 60..round * 60 + 60).collect::<Vec<_>>());
        assert!(subscriber.try_recv().unwrap().is_none());
    }
}

/// A topic has room for 60 publishers. Those that left must not fill it because another keeps the subscriber busy.
#[test]
fn who_left_is_let_go_of_though_another_never_lets_the_subscriber_rest() {
    let bus = bus();
    let subscriber = bus.subscriber::<u64>("busy").unwrap();
    let mut busy = bus.publisher::<u64>("busy").unwrap();
    busy.publish_batch(&[0; 8000]).unwrap();
    let mut visitors: Vec<_> = (1..60)
        .map(|_| bus.publisher::<u64>("busy").unwrap())
        .collect();
    for visitor in &mut visitors {
        visitor.send(&1).unwrap();
    }
    drop(visitors);
    // Never all: there is always something to receive.
    let heard: u64 = (0..4000)
        .map(|_| subscriber.recv().unwrap().to_native())
        .sum();
    assert_eq!(heard, 59);
    bus.publisher::<u64>("busy").unwrap();
}
