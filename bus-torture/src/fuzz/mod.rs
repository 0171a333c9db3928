//! Any bytes, wherever bytes come from somebody else: the targets of `fuzz/`, run by a plain program over inputs by chance, so that they neither rot
//! nor need another toolchain.
//!
//! It has no eyes: unlike libFuzzer, it does not see which inputs reach something new. It starts from sound ones and changes a little.

pub mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::{fs, iter};

use anyhow::{Context, Result};
use clap::Args;
use fastrand::Rng;

use self::targets::{ALL, Target};
use crate::budget::Budget;
use crate::outcome::Outcome;
use crate::progress::Progress;

/// Executions of a target where nobody says.
const EACH: u64 = 20_000;
/// Executions between two looks at the clock.
const TURN: u64 = 64;
/// Longest input, in bytes.
const LONGEST: usize = 8192;

/// What `bus-torture fuzz` is asked to do.
#[derive(Clone, Debug, Default, Args)]
pub struct Options {
    /// Only this target
    #[arg(long)]
    target: Option<String>,
    /// Inputs to start from, in a folder for each target
    #[arg(long, value_name = "FOLDER")]
    corpus: Option<PathBuf>,
    /// Writes the inputs that each target starts from into such folders, and does nothing else
    #[arg(long, value_name = "FOLDER", hide = true)]
    write_seeds: Option<PathBuf>,
}

/// Runs the targets.
///
/// # Errors
/// There is no such target, or the corpus cannot be read.
pub fn run(options: &Options, budget: &Budget) -> Result<Outcome> {
    let chosen = |(name, _): &&Target| options.target.as_ref().is_none_or(|only| only == name);
    let all: Vec<_> = ALL.iter().filter(chosen).collect();
    let names: Vec<_> = ALL.iter().map(|(name, _)| *name).collect();
    anyhow::ensure!(!all.is_empty(), "no such target; there are {names:?}");
    let mut outcome = Outcome::default();
    if let Some(folder) = &options.write_seeds {
        for (name, _) in all {
            write_seeds(&folder.join(name), name)?;
            outcome.tried(1);
        }
        return Ok(outcome);
    }
    let progress = Progress::new("inputs", None);
    for (number, (name, target)) in all.iter().enumerate() {
        progress.now(format!("inputs, {name}"));
        let mut inputs = targets::seeds(name);
        if let Some(folder) = &options.corpus {
            inputs.extend(read(&folder.join(name))?);
        }
        let left = (all.len() - number) as f64;
        let part = budget.part(1.0 / left);
        let each = budget.time().is_none().then_some(EACH);
        let random = budget.random(number as u64);
        let (runs, bad) = fuzz(*target, &inputs, random, each, &part, &progress);
        outcome.tried(runs);
        outcome.count(format!("fuzz.{name}.runs"), runs);
        if let Some((input, why)) = bad {
            let seed = budget.seed();
            outcome.violation(format!(
                "{name}: {why}, run {runs} of seed {seed}; the input: {}",
                hex(&input)
            ));
        }
    }
    Ok(outcome)
}

/// Runs a target until the budget is over, or it panics: how often, and on what.
fn fuzz(
    target: fn(&[u8]),
    inputs: &[Vec<u8>],
    mut random: Rng,
    most: Option<u64>,
    budget: &Budget,
    progress: &Progress,
) -> (u64, Option<(Vec<u8>, String)>) {
    let mut runs = 0;
    loop {
        for _ in 0..TURN {
            let input = match inputs.get(runs as usize) {
                Some(input) => input.clone(),
                None => mutate(&mut random, inputs),
            };
            runs += 1;
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(&input))) {
                let why = panic.downcast_ref::<String>().cloned();
                let short = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
                return (runs, Some((input, why.or(short).unwrap_or_default())));
            }
        }
        progress.done(TURN);
        let over = most.map_or_else(|| budget.over(), |most| runs >= most);
        if over && runs >= inputs.len() as u64 {
            return (runs, None);
        }
    }
}

/// Some input, changed a little.
fn mutate(random: &mut Rng, inputs: &[Vec<u8>]) -> Vec<u8> {
    let some = |random: &mut Rng| match inputs.len() {
        0 => Vec::new(),
        count => inputs[random.usize(..count)].clone(),
    };
    let mut bytes = some(random);
    for _ in 0..=random.u8(..8) {
        let at = random.usize(..=bytes.len());
        match random.u8(..10) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, random.u8(..)),
            2 if at < bytes.len() => drop(bytes.remove(at)),
            3 => {
                let other = some(random);
                bytes.truncate(at);
                bytes.extend(other.into_iter().skip(at));
            }
            4 => bytes.extend(iter::repeat_with(|| random.u8(..)).take(16)),
            5 | 6 => {
                let edges = [0, 1, 8, 64, 1 << 31, 1 << 32, 1 << 63, u64::MAX];
                let edge = edges[random.usize(..edges.len())];
                let value = edge.wrapping_add(random.u64(..5)).wrapping_sub(2);
                let width = 1 << random.u8(..4);
                for (place, byte) in bytes.iter_mut().skip(at).zip(&value.to_le_bytes()[..width]) {
                    *place = *byte;
                }
            }
            _ if at < bytes.len() => bytes[at] ^= 1 << random.u8(..8),
            _ => {}
        }
    }
    bytes.truncate(LONGEST);
    bytes
}

/// The inputs in a folder; none where there is no such folder.
fn read(folder: &Path) -> Result<Vec<Vec<u8>>> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut paths: Vec<_> = entries.filter_map(Result::ok).map(|e| e.path()).collect();
    paths.sort();
    let read = |path: &PathBuf| fs::read(path).with_context(|| path.display().to_string());
    paths.iter().map(read).collect()
}

fn write_seeds(folder: &Path, target: &str) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    for (number, input) in targets::seeds(target).into_iter().enumerate().take(8) {
        let path = folder.join(format!("seed-{number}"));
        fs::write(&path, input).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_that_breaks_something_is_found() {
        let target = |bytes: &[u8]| assert!(bytes.len() < 40, "too long");
        let seeds = vec![vec![0; 30]];
        let budget = Budget::new(None, Some(1));
        let (_, bad) = fuzz(
            target,
            &seeds,
            budget.random(0),
            Some(10_000),
            &budget,
            &Progress::new("inputs", None),
        );
        let (input, why) = bad.unwrap();
        assert!(input.len() >= 40 && why.contains("too long"));
    }
}
