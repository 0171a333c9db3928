//! Values into bytes and back, in memory of this process alone, where Miri sees every access: serialising into spans of all lengths, and validating
//! whatever bytes there are. Field note 16: a length or offset of a peer's is used as it is.

use std::fmt::Debug;

use bus_core::publish::{Payload, to_bytes};
use bus_core::receive::access;
use bus_core::schema::Nesting;
use rkyv::util::AlignedVec;

/// Fewer rounds where each takes a thousand times as long.
const ROUNDS: usize = if cfg!(miri) { 40 } else { 20_000 };

/// Random numbers that are the same each time (xorshift).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

/// A value goes in and comes out; where it is given less room than it needs it says so, and changes of its bytes do no harm.
fn round_trip<T: Payload>(value: &T, same: impl Fn(&T::Archived) -> bool)
where
    T::Archived: Debug,
{
    let bytes = to_bytes(value, 1 << 16, Nesting::OfType).unwrap();
    assert!(same(access::<T>(&bytes, 0).unwrap()));
    for limit in 0..bytes.len() {
        assert!(
            to_bytes(value, limit, Nesting::OfType).is_err(),
            "it fits {limit} bytes"
        );
        // What is left of it may be a value as well, and is read whole.
        look(access::<T>(&bytes[..limit], 0));
        let mut shifted = AlignedVec::<16>::new();
        shifted.extend_from_slice(&bytes[limit..]);
        look(access::<T>(&shifted, 0));
        if cfg!(miri) && limit > 64 {
            break;
        }
    }
    let mut chance = Chance(0x1234_5678_9abc_def1);
    for _ in 0..ROUNDS {
        let mut bad = bytes.clone();
        for _ in 0..=chance.below(3) {
            let at = chance.below(bad.len());
            bad[at] = match chance.below(3) {
                0 => chance.next() as u8,
                1 => bad[at].wrapping_add(1),
                _ => u8::MAX,
            };
        }
        look(access::<T>(&bad, 0));
    }
}

/// Reads every byte that a value says it has.
fn look<T: Debug>(value: bus_core::Result<T>) {
    match value {
        Ok(value) => assert!(!format!("{value:?}").is_empty()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

#[test]
fn numbers() {
    round_trip(&7_u64, |seven| *seven == 7);
    round_trip(&(1_u8, 2_u32, 3.5_f64), |t| {
        t.0 == 1 && t.1 == 2 && t.2 == 3.5
    });
    round_trip(&[1_u16, 2, 3], |three| three[2] == 3);
}

#[test]
fn what_has_values_that_are_none() {
    round_trip(&true, |yes| *yes);
    round_trip(&'ä', |letter| *letter == 'ä');
    round_trip(&Some(5_u32), |five| {
        five.as_ref().is_some_and(|five| *five == 5)
    });
}

#[test]
fn what_points_elsewhere() {
    round_trip(&"short".to_owned(), |text| text == "short");
    let long = "a text that is too long to lie inside".to_owned();
    round_trip(&long, |text| *text == *long);
    let list = vec!["one".to_owned(), long.clone(), String::new()];
    round_trip(&list, |read| read.len() == 3 && *read[1] == *long);
    let nested = vec![vec![1_u32, 2], vec![], vec![3]];
    round_trip(&nested, |read| read[2][0] == 3);
    let boxed = Some(Box::new(9_u64));
    round_trip(&boxed, |nine| nine.as_ref().is_some_and(|nine| **nine == 9));
}

#[test]
fn any_bytes_at_all() {
    let mut chance = Chance(0x0dd0_5eed);
    for _ in 0..ROUNDS {
        let mut bytes = AlignedVec::<16>::new();
        for _ in 0..chance.below(80) {
            let zeroes = chance.below(2) == 0;
            bytes.push(if zeroes { 0 } else { chance.next() as u8 });
        }
        look(access::<Vec<String>>(&bytes, 0));
        look(access::<Vec<Vec<u32>>>(&bytes, 0));
        look(access::<Option<Box<u64>>>(&bytes, 0));
        look(access::<(bool, char, String)>(&bytes, 0));
    }
}
