//! Requests that cost others: how often they are served.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::common::{Host, LONG};
use bus_core::control::Request;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;

/// Wakes that are asked for at once.
const FLOOD: u32 = 60_000;
/// Wakes that a user has a second.
const RATE: f64 = 4000.0;

#[test]
fn who_asks_for_wakes_without_end_wakes_so_often_a_second_and_never_in_vain() {
    let host = Host::new();
    let mut parked = host.publisher("t");
    parked.register_doorbell();
    let waker = host.subscriber("t");
    let done = AtomicBool::new(false);
    let begun = Instant::now();
    let mut rung = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..FLOOD {
                waker.session.send(waker.number, &Request::Wake {}, &[]);
            }
            waker.session.barrier();
            // ORDERING: none needed; the flag only ends the loop below.
            done.store(true, Ordering::Relaxed);
        });
        // ORDERING: see above.
        while !done.load(Ordering::Relaxed) {
            rung += parked.doorbell().drain();
        }
    });
    let passed = begun.elapsed() + Duration::from_secs(1);
    let most = RATE * passed.as_secs_f64();
    assert!((rung as f64) < most, "{rung} rings in {passed:?}");
    // None is lost, however many were asked for before.
    for _ in 0..50 {
        waker.session.send(waker.number, &Request::Wake {}, &[]);
        let mut fds = [PollFd::new(parked.doorbell().as_fd(), PollFlags::POLLIN)];
        let long = PollTimeout::try_from(LONG.as_millis()).unwrap();
        assert_eq!(poll(&mut fds, long), Ok(1), "nobody rang");
        parked.doorbell().drain();
    }
}
