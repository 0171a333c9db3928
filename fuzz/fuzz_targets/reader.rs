//! See `bus_torture::fuzz::targets::reader`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bus_torture::fuzz::targets::reader(bytes));
