//! Random choices that can be made again: `BUS_TEST_SEED` sets what is printed otherwise.

use std::env;
use std::ops::Range;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A source of choices (xorshift64*).
pub struct Chance(u64);

impl Chance {
    /// A seed from the environment, or else from the clock; says which.
    pub fn new(test: &str) -> Self {
        let seed = match env::var("BUS_TEST_SEED") {
            Ok(seed) => seed.parse().unwrap(),
            Err(_) => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap()
                .subsec_nanos()
                .into(),
        };
        println!("{test}: BUS_TEST_SEED={seed}");
        Self::seeded(seed)
    }

    /// Choices that follow from a seed.
    pub fn seeded(seed: u64) -> Self {
        Self(seed.wrapping_mul(2).wrapping_add(1))
    }

    /// A number of the range.
    pub fn of(&mut self, range: Range<u64>) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let random = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11;
        range.start + random % (range.end - range.start)
    }
}

/// How many of a kind, unless `BUS_TEST_KILLS` says otherwise.
pub fn kills(of: u64) -> u64 {
    match env::var("BUS_TEST_KILLS") {
        Ok(count) => count.parse().unwrap(),
        Err(_) => of,
    }
}

/// Lets a random time pass. It is not for being in step with anybody: it picks the moment of a kill or a stop.
pub fn some_time(chance: &mut Chance, micros: u64) {
    thread::sleep(Duration::from_micros(chance.of(0..micros)));
}
