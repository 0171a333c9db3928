//! The README's Rust examples compile as they stand there.

#[doc = include_str!("../../README.md")]
#[cfg(doctest)]
struct Readme;
