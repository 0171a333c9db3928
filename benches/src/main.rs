//! `bus-bench`: see `bus-bench --help`.
#![forbid(unsafe_code)]

use bus_bench::cli::{Arguments, run};
use bus_bench::counters::allocations::Counting;
use clap::Parser;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() -> anyhow::Result<()> {
    run(&Arguments::parse())
}
