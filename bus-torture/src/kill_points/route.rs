//! The way of a victim through its operation, instruction by instruction, and the shortest way to any point of it.
//!
//! One victim is stepped from the first mark to the second, and where it stood after each step is written down. Another one, whose memory
//! lies at the same addresses, then gets to a point of that way by a breakpoint at an instruction that is met there for the first time,
//! and by single steps from there. If it took another way, it is stepped all along.
//!
//! ```text
//!  mark                                                        mark
//!   0---1---2---3---4~~~~~~~~~5---6---7---8---9---...---n-2---n-1---n
//!                   asleep in     |<- breakpoint    |<- steps
//!                   a system call
//! ```

use std::collections::HashMap;
use std::time::Duration;

use super::fault::Fault;
use crate::tracer::marks::END;
use crate::tracer::together::Together;
use crate::tracer::{Pace, Stop, Tracee, Waited};

/// How long a victim may take for anything.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// The instruction that stops a process on x86-64, and its length.
const BREAKPOINT: u64 = 0xcc;
/// A system call on x86-64, as it lies in memory.
const SYSCALL: u64 = 0x050f;
/// So often a victim may come out of a sleep before anybody does anything for it.
const SLEEPLESS: u32 = 2;
/// What it takes to get to a breakpoint, in steps.
const LEAP: usize = 6;
/// So many steps are taken from a breakpoint, at most, where there is one nearer than the first mark.
const FURTHEST: usize = 4_000;

/// Where a victim is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// Steps from the first mark.
    pub step: usize,
    /// In the middle of the next step, asleep in the system call that it makes.
    pub asleep: bool,
}

/// Where a victim stood after each step.
#[derive(Clone, Debug, Default)]
pub struct Route {
    /// Its program counter after each step, from the first mark on. One step more leads to the second mark.
    addresses: Vec<u64>,
    /// Whether a step is a system call, which may wait.
    calls: Vec<bool>,
    /// The steps in which it slept.
    sleeps: Vec<usize>,
    /// How often each step's instruction had been met before.
    met: Vec<u32>,
}

/// How a walk came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// At the point.
    Point,
    /// As many steps on, at another instruction: it took another way.
    Elsewhere,
    /// The victim had done what it began before that.
    Done,
}

/// The system calls in which a victim sleeps for a survivor, and what that one then does.
pub struct Sleeps<'a, F> {
    calls: &'a [i64],
    nudge: F,
    /// How often such a call was stepped over. Stepping is slow: the time that a sleep has at most may be over when it begins.
    met: u32,
}

impl<'a, F: FnMut() -> Result<(), Fault>> Sleeps<'a, F> {
    /// Sleeps in these calls, ended by `nudge`.
    pub fn new(calls: &'a [i64], nudge: F) -> Self {
        Self {
            calls,
            nudge,
            met: 0,
        }
    }

    /// A victim is about to make this call.
    fn meet(&mut self, call: i64) -> Result<(), Fault> {
        if self.calls.contains(&call) {
            self.met += 1;
            if self.met > SLEEPLESS {
                (self.nudge)()?;
            }
        }
        Ok(())
    }
}

impl Route {
    /// Steps a victim from the first mark to the second; wakes it by `nudge` when it sleeps.
    ///
    /// # Errors
    /// It ends, or does nothing.
    pub fn record(
        victim: &mut Tracee,
        sleeps: &mut Sleeps<'_, impl FnMut() -> Result<(), Fault>>,
    ) -> Result<Self, Fault> {
        let _together = Together::with(victim)?;
        let mut route = Self::default();
        let mut seen = HashMap::new();
        loop {
            let step = route.addresses.len();
            let address = victim.registers()?.rip;
            let (call, met) = match seen.get(&address) {
                Some(&(call, met)) => (call, met + 1),
                None => (victim.read(address)? & 0xffff == SYSCALL, 0),
            };
            seen.insert(address, (call, met));
            route.addresses.push(address);
            route.calls.push(call);
            route.met.push(met);
            let (stop, slept) = step_over(victim, call, sleeps)?;
            if slept {
                route.sleeps.push(step);
            }
            match stop {
                Stop::Trap => {}
                Stop::Signal(END) => return Ok(route),
                other => return Err(lost(other)),
            }
        }
    }

    /// All points, in order: before each step, in each sleep, and at the second mark.
    #[must_use]
    pub fn points(&self) -> Vec<Point> {
        let stops = (0..=self.addresses.len()).map(|step| Point {
            step,
            asleep: false,
        });
        let sleeps = self.sleeps.iter().map(|&step| Point { step, asleep: true });
        stops.chain(sleeps).collect()
    }

    /// The second mark.
    #[must_use]
    pub fn end(&self) -> Point {
        Point {
            step: self.addresses.len(),
            asleep: false,
        }
    }

    /// Where the victim stood at a point, as far as it was not at the second mark.
    #[must_use]
    pub fn address(&self, point: Point) -> Option<u64> {
        self.addresses.get(point.step).copied()
    }

    /// The step before this one that is the cheapest to begin stepping at: by a breakpoint that is met so often. None where stepping all along is
    /// cheaper.
    fn anchor(&self, step: usize) -> Option<usize> {
        let first = step.saturating_sub(FURTHEST);
        let cost = |&at: &usize| LEAP + LEAP * self.met[at] as usize + (step - at);
        let best = (first..=step).min_by_key(cost)?;
        (cost(&best) < step).then_some(best)
    }

    /// Takes a victim, which stands at the first mark, to a point.
    ///
    /// # Errors
    /// It ends on its way. With `quick` it may also be that it took another way than the first one.
    pub fn walk(
        &self,
        victim: &mut Tracee,
        point: Point,
        quick: bool,
        sleeps: &mut Sleeps<'_, impl FnMut() -> Result<(), Fault>>,
    ) -> Result<Reached, Fault> {
        if point == self.end() {
            return free(victim, sleeps);
        }
        let _together = Together::with(victim)?;
        let mut step = 0;
        if let Some(anchor) = self.anchor(point.step).filter(|_| quick) {
            let (address, met) = (self.addresses[anchor], self.met[anchor]);
            if leap(victim, address, met, sleeps)? == Reached::Done {
                return Ok(Reached::Done);
            }
            step = anchor;
        }
        while step < point.step {
            let (stop, _) = step_over(victim, self.calls[step], sleeps)?;
            match stop {
                Stop::Trap => step += 1,
                Stop::Signal(END) => return Ok(Reached::Done),
                other => return Err(lost(other)),
            }
        }
        if self.address(point) != Some(victim.registers()?.rip) {
            return Ok(Reached::Elsewhere);
        }
        if point.asleep {
            victim.go_on(Pace::Step, None)?;
            // Where it found that it need not sleep, it stands behind the call.
            victim.wait(sleeps.calls, PATIENCE)?;
        }
        Ok(Reached::Point)
    }
}

/// One step, of an instruction that is a system call or is none. Why it then stands, and whether it slept.
fn step_over(
    victim: &mut Tracee,
    call: bool,
    sleeps: &mut Sleeps<'_, impl FnMut() -> Result<(), Fault>>,
) -> Result<(Stop, bool), Fault> {
    if !call {
        return Ok((victim.step()?, false));
    }
    if !sleeps.calls.is_empty() {
        sleeps.meet(victim.registers()?.rax.cast_signed())?;
    }
    victim.go_on(Pace::Step, None)?;
    match victim.wait(sleeps.calls, PATIENCE)? {
        Waited::Stopped(stop) => Ok((stop, false)),
        Waited::Asleep(_) => {
            (sleeps.nudge)()?;
            Ok((awake(victim)?, true))
        }
    }
}

/// A victim that slept has been woken.
fn awake(victim: &mut Tracee) -> Result<Stop, Fault> {
    match victim.wait(&[], PATIENCE)? {
        Waited::Stopped(stop) => Ok(stop),
        Waited::Asleep(call) => Err(Fault::run(format!(
            "asleep in call {call}, which nobody asked for"
        ))),
    }
}

/// Lets a victim run until it meets the instruction at `address`, which it meets so often before.
fn leap(
    victim: &mut Tracee,
    address: u64,
    met: u32,
    sleeps: &mut Sleeps<'_, impl FnMut() -> Result<(), Fault>>,
) -> Result<Reached, Fault> {
    let word = victim.read(address)?;
    for left in (0..=met).rev() {
        victim.write(address, word & !0xff | BREAKPOINT)?;
        if free(victim, sleeps)? == Reached::Done {
            return Ok(Reached::Done);
        }
        let mut registers = victim.registers()?;
        if registers.rip != address + 1 {
            return Err(Fault::run(format!(
                "a trap at {:#x}, not at {address:#x}",
                registers.rip
            )));
        }
        registers.rip = address;
        victim.write(address, word)?;
        victim.set_registers(registers)?;
        if left > 0 {
            let call = word & 0xffff == SYSCALL;
            match step_over(victim, call, sleeps)?.0 {
                Stop::Trap => {}
                Stop::Signal(END) => return Ok(Reached::Done),
                other => return Err(lost(other)),
            }
        }
    }
    Ok(Reached::Point)
}

/// Lets a victim run until it meets a breakpoint, or is done.
fn free(
    victim: &mut Tracee,
    sleeps: &mut Sleeps<'_, impl FnMut() -> Result<(), Fault>>,
) -> Result<Reached, Fault> {
    victim.go_on(Pace::Free, None)?;
    let stop = match victim.wait(sleeps.calls, PATIENCE)? {
        Waited::Stopped(stop) => stop,
        Waited::Asleep(_) => {
            (sleeps.nudge)()?;
            awake(victim)?
        }
    };
    match stop {
        Stop::Trap => Ok(Reached::Point),
        Stop::Signal(END) => Ok(Reached::Done),
        other => Err(lost(other)),
    }
}

fn lost(stop: Stop) -> Fault {
    Fault::run(format!("the victim stands at {stop:?} on its way"))
}
