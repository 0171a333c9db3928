//! A publisher that lies about its ring: whoever waits for its messages is told, or waits no longer than it wants.
//!
//! Class 16: a value from shared memory decides how long somebody loops. Each test scribbles over a ring through its publisher's own mapping.
//! It is a program of its own, because it finds that mapping by looking through all of its process's rings.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bus_client::{Bus, Delivery, Error, Publisher, Subscriber};

/// One test at a time: the ring is found in the list of this process's mappings.
static ALONE: Mutex<()> = Mutex::new(());
/// Longer than this, a call that was to end soon has not ended.
const LONG: Duration = Duration::from_secs(20);
/// Where the floor and the first slot lie in a ring.
const FLOOR: usize = 192;
const SLOTS: usize = 4096;

struct Liar {
    ring: *mut u64,
    _publisher: Publisher<u64>,
}

// SAFETY: the mapping is the publisher's, which is kept; words are written whole.
unsafe impl Sync for Liar {}

impl Liar {
    fn new(bus: &Bus) -> Self {
        let topic = bus.topic("t").unwrap().delivery(Delivery::Lossy).depth(64);
        let publisher = topic.publisher::<u64>().unwrap();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let own = |line: &&str| line.contains(" rw-s ") && line.contains("memfd:bus-ring");
        let line = maps.lines().find(own).expect("its ring is mapped");
        let (base, _) = line.split_once('-').unwrap();
        Self {
            ring: usize::from_str_radix(base, 16).unwrap() as *mut u64,
            _publisher: publisher,
        }
    }

    fn write(&self, offset: usize, value: u64) {
        // SAFETY: the word is within the publisher's mapping, and aligned; volatile, as a hostile process would write it.
        unsafe { self.ring.byte_add(offset).write_volatile(value) }
    }
}

fn stage() -> Bus {
    Bus::private("lies").unwrap()
}

fn is_corrupt<T>(received: &Result<T, Error>) -> bool {
    matches!(received, Err(Error::Topic { source, .. }) if matches!(source, bus_core::Error::Corrupt { .. }))
}

/// The stamp says that the first message is written over, the floor that it is intact.
#[test]
fn a_wait_for_a_ring_that_contradicts_itself_ends() {
    let _alone = ALONE.lock();
    let bus = stage();
    let liar = Liar::new(&bus);
    let subscriber = bus.subscriber::<u64>("t").unwrap();
    let truthful = bus.publisher::<u64>("t");
    liar.write(SLOTS, 65);
    let told = subscriber.recv_timeout(LONG);
    assert!(is_corrupt(&told), "{told:?}");
    // Said once; then there is nothing, for as long as was asked, and others are heard.
    let began = Instant::now();
    let soon = Duration::from_millis(30);
    assert!(subscriber.recv_timeout(soon).unwrap().is_none());
    assert!(began.elapsed() >= soon);
    truthful.unwrap().send(&7).unwrap();
    assert_eq!(*subscriber.recv_timeout(LONG).unwrap().unwrap(), 7);
}

fn lie_on(liar: &Liar, over: &AtomicBool) {
    let mut base = 64_u64;
    while !over.load(Ordering::Relaxed) {
        base += 1 << 40;
        for slot in 0..64 {
            liar.write(SLOTS + 64 * slot, base | 1 << 62);
        }
        liar.write(FLOOR, base);
    }
}

/// What is there at each glance and gone at each look keeps nobody longer than he wants.
#[test]
fn a_wait_for_a_ring_that_changes_all_the_time_ends_in_time() {
    let _alone = ALONE.lock();
    let bus = stage();
    let liar = Liar::new(&bus);
    let subscriber: Subscriber<u64> = bus.subscriber("t").unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| lie_on(&liar, &over));
        let began = Instant::now();
        for _ in 0..20 {
            let received = subscriber.recv_timeout(Duration::from_millis(10));
            assert!(is_corrupt(&received) || received.unwrap().is_none());
        }
        over.store(true, Ordering::Relaxed);
        assert!(began.elapsed() < LONG);
    });
}

#[cfg(feature = "tokio")]
#[test]
fn a_task_that_waits_for_such_a_ring_lets_others_in() {
    let _alone = ALONE.lock();
    let bus = stage();
    let liar = Liar::new(&bus);
    let mut subscriber = bus.subscriber::<u64>("t").unwrap().into_async();
    let over = AtomicBool::new(false);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| lie_on(&liar, &over));
        runtime.block_on(async {
            let waits = async {
                for _ in 0..100 {
                    let _ = subscriber.recv().await;
                }
            };
            // One thread: this ends only where the other task lets it.
            let ends = tokio::time::timeout(Duration::from_millis(50), waits).await;
            println!("{ends:?}");
        });
        over.store(true, Ordering::Relaxed);
    });
}
