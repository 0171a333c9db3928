//! See `bus_torture::fuzz::targets::prefix`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bus_torture::fuzz::targets::prefix(bytes));
