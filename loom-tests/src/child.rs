//! One model in a process of its own: it may deadlock, run for ever or abort, and the gate goes on.
//!
//! A model fails only by a finding: a panic of an assertion, of a payload touched by two sides, or of a deadlock. One that
//! runs out of time or of steps found nothing, and counts as neither passed nor failed.

use std::panic::{self, PanicHookInfo};
use std::process::{Command, Output, exit};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use loom_tests::Model;
use loom_tests::mutant::{self, Mutant};

const FAILED: i32 = 1;
const UNFINISHED: i32 = 3;
/// What loom says of an execution with too many steps.
const TOO_MANY_STEPS: &str = "exceeded maximum number of branches";

/// How a model ended.
pub enum Outcome {
    /// Every order was right.
    Passed,
    /// Something went wrong, as loom says it.
    Failed(String),
    /// It ran out of time or of steps.
    Unfinished(String),
}

/// In the child: runs the model with one mutant, and leaves the process with how it ended.
pub fn check(model: &str, mutant: Option<&str>, limit: Duration) -> Result<()> {
    let model = Model::find(model).with_context(|| format!("there is no model `{model}`"))?;
    if let Some(name) = mutant {
        let mutant = Mutant::find(name).with_context(|| format!("there is no mutant `{name}`"))?;
        ensure!(mutant::become_mutant(mutant), "one mutant at a time");
    }
    panic::set_hook(Box::new(leave));
    let (done, timer) = mpsc::channel();
    let watchdog = thread::spawn(move || {
        if timer.recv_timeout(limit).is_err() {
            println!("no end after {limit:?}");
            exit(UNFINISHED);
        }
    });
    model.check();
    // The watchdog may be at its end already: then it leaves, and the send does not matter.
    let _ = done.send(());
    let _ = watchdog.join();
    Ok(())
}

/// Leaves at the first panic, before anything is unwound in the middle of a model.
fn leave(panic: &PanicHookInfo<'_>) {
    let payload = panic.payload();
    let why = (payload.downcast_ref::<String>().map(String::as_str))
        .or(payload.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without words");
    println!("{}", why.lines().next().unwrap_or_default());
    exit(if why.contains(TOO_MANY_STEPS) {
        UNFINISHED
    } else {
        FAILED
    });
}

/// In the parent: runs the model in a child, with one mutant or none.
pub fn run(model: &Model, mutant: Option<Mutant>, limit: Duration) -> Result<Outcome> {
    let program = std::env::current_exe().context("cannot find this program to start it again")?;
    let mut command = Command::new(program);
    let seconds = limit.as_secs().to_string();
    command.args(["check", model.name, "--limit", &seconds]);
    if let Some(mutant) = mutant {
        command.args(["--mutant", mutant.name()]);
    }
    let output = command.output().context("cannot start a child")?;
    outcome(model, &output)
}

fn outcome(model: &Model, output: &Output) -> Result<Outcome> {
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    match output.status.code() {
        Some(0) => Ok(Outcome::Passed),
        Some(FAILED) if !said.is_empty() => Ok(Outcome::Failed(said)),
        Some(UNFINISHED) => Ok(Outcome::Unfinished(said)),
        _ => bail!(
            "the child of model {} ended with {} and said: {}",
            model.name,
            output.status,
            String::from_utf8_lossy(&output.stderr)
        ),
    }
}
