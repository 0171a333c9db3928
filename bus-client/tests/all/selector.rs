//! Many things waited for at once: what fires is reported, in turn, and what does not costs nothing. No wait here has a time-out that wakes
//! it: one that lasts until its watchdog fails the test.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::hosted::Hosted;
use crate::common::process::WATCHDOG;
use crate::common::role::{Given, hear, play, say};
use crate::common::roles::{HOST, clock};
use bus_client::{Error, Interest, Selector, Subscriber, Token};
use bus_testkit::needs;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

#[test]
#[ignore = "what the other tests start as processes of their own"]
fn role() {
    play(&[HOST, ("echo", echo), ("victim", victim)]);
}

/// Waits for something; nothing fails the test.
fn wait(selector: &mut Selector<'_>) -> Token {
    let token = selector.wait_timeout(WATCHDOG).unwrap();
    token.expect("a wake-up was lost")
}

/// Sends back what comes on `ping`, with a selector and so many other subscriptions.
fn echo(given: &Given) {
    let bus = given.bus();
    let idle: Vec<_> = (0..given.or("idle", 0))
        .map(|n| bus.subscriber::<u64>(format!("idle/{n}")).unwrap())
        .collect();
    let pings = bus.topic("ping").unwrap().end_with_publishers();
    let pings = pings.subscriber::<u64>().unwrap();
    let mut pongs = bus.publisher::<u64>("pong").unwrap();
    let mut selector = Selector::new().unwrap().spin(Duration::ZERO);
    for subscriber in &idle {
        selector.add(subscriber).unwrap();
    }
    let ping = selector.add(&pings).unwrap();
    say("joined");
    loop {
        assert_eq!(wait(&mut selector), ping);
        loop {
            match pings.try_recv() {
                Ok(Some(value)) => drop(pongs.send(&value.to_native()).unwrap()),
                Ok(None) => break,
                Err(Error::Ended { .. }) => return,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// Publishes one message, and stays until it is killed.
fn victim(given: &Given) {
    let bus = given.bus();
    let mut publisher = given.topic(&bus).publisher::<u64>().unwrap();
    publisher.send(&1).unwrap();
    assert_eq!(hear(), None);
}

/// Receives what there is; how much.
fn drain(subscriber: &Subscriber<u64>) -> u64 {
    let mut count = 0;
    while subscriber.try_recv().unwrap().is_some() {
        count += 1;
    }
    count
}

/// Each of so many sources is reported when its publisher sends, and no other.
fn one_of(sources: usize) {
    if !needs::descriptors(8 * sources as u64) {
        return;
    }
    let stage = Hosted::new();
    let subscribers: Vec<_> = (0..sources)
        .map(|n| stage.subscribe(&format!("t/{n}")))
        .collect();
    let mut selector = Selector::new().unwrap();
    let tokens: HashMap<Token, usize> = (subscribers.iter().enumerate())
        .map(|(n, subscriber)| (selector.add(subscriber).unwrap(), n))
        .collect();
    assert_eq!(tokens.len(), sources);
    assert_eq!(selector.try_wait().unwrap(), None);
    let picks = [0, 1, 62, 63, 64, 126, 127, 128, sources / 2, sources - 1];
    for pick in picks.into_iter().filter(|pick| *pick < sources) {
        let bus = stage.bus.clone();
        // It joins and sends while the selector sleeps.
        let sender = thread::spawn(move || {
            let mut publisher = bus.publisher::<u64>(format!("t/{pick}")).unwrap();
            publisher.send(&7).unwrap();
        });
        let token = wait(&mut selector);
        assert_eq!(tokens[&token], pick);
        assert_eq!(drain(&subscribers[pick]), 1);
        sender.join().unwrap();
        assert_eq!(selector.try_wait().unwrap(), None);
    }
}

#[test]
fn one_source() {
    one_of(1);
}

#[test]
fn two_sources() {
    one_of(2);
}

#[test]
fn as_many_sources_as_a_futex_call_takes_words_and_one_more() {
    one_of(128);
    one_of(129);
}

#[test]
fn a_thousand_sources() {
    one_of(1_000);
}

#[test]
fn a_ping_pong_through_a_selector_loses_no_wake_up() {
    let stage = Hosted::new();
    let pongs = stage.subscribe("pong");
    let mut pings = stage.publish("ping");
    let mut echo = stage.start("echo", &[("idle", &20)]);
    echo.expect("joined");
    let mut selector = Selector::new().unwrap().spin(Duration::ZERO);
    let pong = selector.add(&pongs).unwrap();
    for n in 0..20_000_u64 {
        pings.send(&n).unwrap();
        loop {
            assert_eq!(wait(&mut selector), pong);
            if let Some(value) = pongs.try_recv().unwrap() {
                assert_eq!(*value, n);
                break;
            }
        }
    }
    drop(pings);
    echo.finish();
    stage.host.finish();
}

#[test]
fn who_always_has_something_starves_nobody() {
    let stage = Hosted::new();
    let (busy, quiet) = (stage.subscribe("busy"), stage.subscribe("quiet"));
    let (mut many, mut few) = (stage.publish("busy"), stage.publish("quiet"));
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let mut selector = Selector::new().unwrap();
    let b = selector.add(&busy).unwrap();
    let q = selector.add(&quiet).unwrap();
    let timer = selector.every(Duration::from_millis(1)).unwrap();
    let fd = selector.add_fd(&ours, Interest::Readable).unwrap();
    assert_eq!(selector.try_wait().unwrap(), None);
    let mut counts: HashMap<Token, u64> = HashMap::new();
    few.send(&1).unwrap();
    theirs.write_all(b"x").unwrap();
    let deadline = Instant::now() + WATCHDOG;
    // The busy one is never read empty, nor is the socket read.
    while [q, timer, fd]
        .iter()
        .any(|t| counts.get(t).copied().unwrap_or(0) < 20)
    {
        assert!(Instant::now() < deadline, "{counts:?}");
        while many.try_send(&1).is_ok() {}
        let token = selector.try_wait().unwrap().expect("the busy one is ready");
        *counts.entry(token).or_default() += 1;
        if token == b {
            drop(busy.try_recv().unwrap());
        } else if token == q {
            assert_eq!(drain(&quiet), 1);
            few.send(&1).unwrap();
        }
    }
    assert!(counts[&b] > 20, "{counts:?}");
}

#[test]
fn those_that_are_all_ready_are_reported_in_turn() {
    let stage = Hosted::new();
    let subscribers: Vec<_> = (0..5).map(|n| stage.subscribe(&n.to_string())).collect();
    let mut publishers: Vec<_> = (0..5).map(|n| stage.publish(&n.to_string())).collect();
    let mut selector = Selector::new().unwrap();
    let tokens: Vec<_> = (subscribers.iter())
        .map(|subscriber| selector.add(subscriber).unwrap())
        .collect();
    for publisher in &mut publishers {
        publisher.publish_batch(&[1; 100]).unwrap();
    }
    let mut counts = [0_i32; 5];
    for _ in 0..100 {
        let token = wait(&mut selector);
        let n = tokens.iter().position(|t| *t == token).unwrap();
        drop(subscribers[n].try_recv().unwrap().unwrap());
        counts[n] += 1;
        let (most, least) = (counts.iter().max(), counts.iter().min());
        assert!(most.unwrap() - least.unwrap() <= 1, "{counts:?}");
    }
}

#[test]
fn waiting_takes_no_processor_time() {
    let stage = Hosted::new();
    let subscribers: Vec<_> = (0..129).map(|n| stage.subscribe(&n.to_string())).collect();
    let mut selector = Selector::new().unwrap();
    for subscriber in &subscribers {
        selector.add(subscriber).unwrap();
    }
    assert_eq!(selector.try_wait().unwrap(), None);
    let before = getrusage(UsageWho::RUSAGE_THREAD).unwrap();
    let token = selector.wait_timeout(Duration::from_secs(1)).unwrap();
    let after = getrusage(UsageWho::RUSAGE_THREAD).unwrap();
    assert_eq!(token, None);
    let used =
        (after.user_time() + after.system_time()) - (before.user_time() + before.system_time());
    let sleeps = after.voluntary_context_switches() - before.voluntary_context_switches();
    println!(
        "a second of waiting: {} us of processor time, {sleeps} sleeps",
        used.num_microseconds()
    );
    assert!(used.num_microseconds() < 5_000, "{used}");
    assert!(sleeps <= 5, "it slept {sleeps} times");
}

#[test]
fn a_thousand_messages_wake_once_who_does_not_look() {
    let stage = Hosted::new();
    let subscriber = stage.subscribe("t");
    let mut publisher = stage.publish("t");
    let mut selector = Selector::new().unwrap();
    let token = selector.add(&subscriber).unwrap();
    assert_eq!(selector.try_wait().unwrap(), None);
    for n in 0..1_000 {
        publisher.send(&n).unwrap();
    }
    assert_eq!(wait(&mut selector), token);
    assert_eq!(drain(&subscriber), 1_000);
    assert_eq!(selector.try_wait().unwrap(), None);
}

#[test]
fn timers_come_in_time_and_in_order_and_go() {
    let mut selector = Selector::new().unwrap();
    let began = Instant::now();
    let late = selector.after(Duration::from_millis(40)).unwrap();
    let often = selector.every(Duration::from_millis(5)).unwrap();
    let never = selector.after(Duration::from_millis(20)).unwrap();
    assert!(selector.remove(never) && !selector.remove(never));
    let mut ticks = 0;
    loop {
        let token = wait(&mut selector);
        if token == late {
            break;
        }
        assert_eq!(token, often);
        ticks += 1;
    }
    assert!(began.elapsed() >= Duration::from_millis(40));
    assert!((1..=8).contains(&ticks), "{ticks}");
    assert!(!selector.remove(late), "it has come, and is gone");
    assert!(selector.remove(often));
    assert_eq!(
        selector.wait_timeout(Duration::from_millis(20)).unwrap(),
        None
    );
}

#[test]
fn a_descriptor_is_ready_until_it_is_read() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let mut selector = Selector::new().unwrap();
    let read = selector.add_fd(&ours, Interest::Readable).unwrap();
    assert_eq!(selector.try_wait().unwrap(), None);
    theirs.write_all(b"x").unwrap();
    assert_eq!(wait(&mut selector), read);
    assert_eq!(wait(&mut selector), read);
    std::io::Read::read(&mut &ours, &mut [0]).unwrap();
    assert_eq!(selector.try_wait().unwrap(), None);
    let file = std::fs::File::open("/proc/self/exe").unwrap();
    let mut other = Selector::new().unwrap();
    let refused = other.add_fd(&file, Interest::Readable);
    assert!(
        matches!(refused, Err(Error::Selector { .. })),
        "{refused:?}"
    );
}

#[test]
fn what_is_removed_is_not_reported_and_can_be_added_again() {
    let stage = Hosted::new();
    let subscriber = stage.subscribe("t");
    let mut publisher = stage.publish("t");
    let mut selector = Selector::new().unwrap();
    let first = selector.add(&subscriber).unwrap();
    assert!(matches!(
        selector.add(&subscriber),
        Err(Error::Selector { .. })
    ));
    assert_eq!(selector.try_wait().unwrap(), None);
    assert!(selector.remove(first));
    publisher.send(&1).unwrap();
    assert_eq!(selector.try_wait().unwrap(), None);
    let second = selector.add(&subscriber).unwrap();
    assert_ne!(first, second);
    assert_eq!(wait(&mut selector), second);
    // And it is used as before.
    assert_eq!(*subscriber.recv().unwrap(), 1);
}

#[test]
fn a_subscriber_that_is_dropped_leaves() {
    let stage = Hosted::new();
    let dropped = Rc::new(stage.subscribe("t"));
    let kept = Rc::new(stage.subscribe("t"));
    let mut publisher = stage.publish("t");
    let mut selector = Selector::new().unwrap();
    let _gone = selector.add(Rc::downgrade(&dropped)).unwrap();
    let token = selector.add(Rc::downgrade(&kept)).unwrap();
    assert_eq!(selector.try_wait().unwrap(), None);
    publisher.wait_for_subscribers(2, Some(WATCHDOG)).unwrap();
    drop(dropped);
    assert_eq!(publisher.subscribers().unwrap().len(), 1);
    publisher.send(&1).unwrap();
    assert_eq!(wait(&mut selector), token);
    assert_eq!(drain(&kept), 1);
    assert_eq!(selector.try_wait().unwrap(), None);
}

#[test]
fn subscribers_of_different_types_and_one_that_ends() {
    let stage = Hosted::new();
    let words = stage.bus.subscriber::<String>("words").unwrap();
    let bytes = stage.bus.bytes_subscriber("bytes").unwrap();
    let ends = stage.bus.topic("ends").unwrap().end_with_publishers();
    let ends = ends.subscriber::<u64>().unwrap();
    let mut selector = Selector::new().unwrap();
    let w = selector.add(&words).unwrap();
    let b = selector.add(&bytes).unwrap();
    let e = selector.add(&ends).unwrap();
    assert_eq!(selector.try_wait().unwrap(), None);
    stage
        .bus
        .publisher::<String>("words")
        .unwrap()
        .send(&"a".into())
        .unwrap();
    stage
        .bus
        .bytes_publisher("bytes")
        .unwrap()
        .send(b"b")
        .unwrap();
    drop(stage.publish("ends"));
    let heard = RefCell::new(Vec::new());
    while heard.borrow().len() < 3 {
        let token = wait(&mut selector);
        if token == w {
            if let Some(word) = words.try_recv().unwrap() {
                heard.borrow_mut().push(word.to_string());
            }
        } else if token == b {
            if let Some(message) = bytes.try_recv().unwrap() {
                heard
                    .borrow_mut()
                    .push(String::from_utf8_lossy(message.bytes()).into_owned());
            }
        } else {
            assert_eq!(token, e);
            let end = ends.try_recv();
            assert!(matches!(end, Err(Error::Ended { .. })));
            heard.borrow_mut().push("end".into());
            assert!(selector.remove(e));
        }
    }
    heard.borrow_mut().sort();
    assert_eq!(*heard.borrow(), ["a", "b", "end"]);
    assert_eq!(selector.try_wait().unwrap(), None);
}

#[test]
fn the_kill_of_a_publisher_is_noticed_at_once() {
    let stage = Hosted::new();
    let subscriber = stage.bus.topic("t").unwrap().end_with_publishers();
    let subscriber = subscriber.subscriber::<u64>().unwrap();
    let mut selector = Selector::new().unwrap();
    let token = selector.add(&subscriber).unwrap();
    let mut victim = stage.start("victim", &[]);
    while drain(&subscriber) == 0 {
        assert_eq!(wait(&mut selector), token);
    }
    assert_eq!(selector.try_wait().unwrap(), None);
    let killed = clock();
    victim.kill();
    assert_eq!(wait(&mut selector), token);
    let delay = Duration::from_nanos(clock() - killed);
    println!("noticed after {delay:?}");
    assert!(matches!(subscriber.try_recv(), Err(Error::Ended { .. })));
    assert!(delay < Duration::from_millis(50), "{delay:?}");
}

#[test]
fn the_kill_of_a_publisher_is_noticed_without_a_broker() {
    let mut stage = Hosted::new();
    let subscriber = stage.bus.topic("t").unwrap().end_with_publishers();
    let subscriber = subscriber.subscriber::<u64>().unwrap();
    let mut selector = Selector::new().unwrap();
    let token = selector.add(&subscriber).unwrap();
    let mut victim = stage.start("victim", &[]);
    while drain(&subscriber) == 0 {
        assert_eq!(wait(&mut selector), token);
    }
    stage.host.kill();
    stage.host.reap();
    assert_eq!(
        selector.wait_timeout(Duration::from_millis(1)).unwrap(),
        None
    );
    victim.kill();
    assert_eq!(wait(&mut selector), token);
    assert!(matches!(subscriber.try_recv(), Err(Error::Ended { .. })));
}

#[test]
fn room_in_a_ring_is_waited_for_by_its_descriptor() {
    let stage = Hosted::new();
    let topic = || stage.bus.topic("t").unwrap().depth(2);
    let subscriber = topic().subscriber::<u64>().unwrap();
    let mut publisher = topic().publisher::<u64>().unwrap();
    let fd = publisher.poll_fd().unwrap().try_clone_to_owned().unwrap();
    let mut selector = Selector::new().unwrap();
    let room = selector.add_fd(&fd, Interest::Readable).unwrap();
    while publisher.try_send(&1).is_ok() {}
    publisher.disarm();
    assert!(publisher.arm().unwrap());
    assert_eq!(selector.try_wait().unwrap(), None);
    drop(subscriber.try_recv().unwrap());
    assert_eq!(wait(&mut selector), room);
    publisher.disarm();
    publisher.try_send(&1).unwrap();
}

#[test]
fn a_subscriber_that_was_waited_for_by_itself_is_waited_for_again() {
    let stage = Hosted::new();
    let subscriber = stage.subscribe("t");
    let mut publisher = stage.publish("t");
    let mut selector = Selector::new().unwrap();
    let token = selector.add(&subscriber).unwrap();
    for _ in 0..50 {
        assert_eq!(selector.try_wait().unwrap(), None);
        // It is parked now, and sleeps in another way.
        let sender = thread::spawn(move || {
            publisher.send(&1).unwrap();
            publisher
        });
        drop(subscriber.recv().unwrap());
        publisher = sender.join().unwrap();
        publisher.send(&2).unwrap();
        assert_eq!(wait(&mut selector), token);
        assert_eq!(drain(&subscriber), 1);
    }
}

#[test]
fn a_descriptor_in_the_place_of_a_timer_that_fired_is_not_ready() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let mut selector = Selector::new().unwrap();
    let first = selector.every(Duration::from_millis(1)).unwrap();
    let second = selector.every(Duration::from_millis(1)).unwrap();
    let due = Instant::now() + Duration::from_millis(1);
    while Instant::now() < due {
        thread::yield_now();
    }
    // Both have fired; one is reported, the other waits for its turn.
    let reported = wait(&mut selector);
    let other = if reported == first { second } else { first };
    assert!(selector.remove(reported) && selector.remove(other));
    selector.add_fd(&ours, Interest::Readable).unwrap();
    assert_eq!(selector.try_wait().unwrap(), None);
}
