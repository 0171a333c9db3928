//! More publishers than one sleep can watch: 128 words, less those that are no ring's.

use std::fs;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use bus_client::Bus;
use nix::unistd::{Pid, gettid};

use crate::common::process::WATCHDOG;

const PUBLISHERS: u64 = 130;

/// Waits until a thread of this process sleeps.
fn await_sleep(thread: Pid) {
    let deadline = Instant::now() + WATCHDOG;
    let stat = format!("/proc/self/task/{thread}/stat");
    loop {
        let stat = fs::read_to_string(&stat).unwrap();
        let (_, state) = stat.rsplit_once(") ").unwrap();
        if state.starts_with('S') {
            return;
        }
        assert!(Instant::now() < deadline, "it never sleeps: {stat}");
        thread::yield_now();
    }
}

#[test]
fn a_blocking_subscriber_of_130_publishers_sleeps_and_hears_each() {
    let bus = Bus::private("test").unwrap();
    let topic = bus.topic("t").unwrap().depth(4).publishers(1024);
    let topic = topic.spin(Duration::ZERO);
    let subscriber = topic.clone().subscriber::<u64>().unwrap();
    let open = |_| topic.clone().publisher::<u64>().unwrap();
    let mut publishers: Vec<_> = (0..PUBLISHERS).map(open).collect();
    thread::scope(|scope| {
        let (heard, hears) = channel();
        let (me, who) = channel();
        scope.spawn(move || {
            me.send(gettid()).unwrap();
            for _ in 0..2 * PUBLISHERS {
                let message = subscriber.recv_timeout(WATCHDOG).unwrap();
                let message = message.expect("a wake-up was lost").to_native();
                heard.send(message).unwrap();
            }
        });
        let reader = who.recv().unwrap();
        for round in 0..2 {
            for (publisher, number) in publishers.iter_mut().zip(0..) {
                await_sleep(reader);
                let sent = round * PUBLISHERS + number;
                publisher.send(&sent).unwrap();
                assert_eq!(hears.recv_timeout(WATCHDOG), Ok(sent));
            }
        }
    });
}
