//! `bus-torture`: see `bus-torture --help`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use bus_torture::cli::{Arguments, run};
use clap::Parser;

fn main() -> ExitCode {
    run(&Arguments::parse())
}
