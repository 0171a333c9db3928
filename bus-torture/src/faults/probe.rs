//! A process whose system calls are watched between its two marks, and one of which is refused; or a thread, until it ends.
//!
//! The refused call is replaced at its entry by one that does not exist, so that it has no effect, and its result at its exit by the error. Where the
//! error says that a connection is gone, it is replaced by one that ends that connection: for the other side it has to be so as well.

use std::collections::HashMap;
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::libc::user_regs_struct as Registers;

use super::call::{Call, Site};
use crate::kill_points::place::Places;
use crate::tracer::marks::{BEGIN, END};
use crate::tracer::{Pace, Stop, Tracee, Waited};

/// Words of the stack that are looked at for addresses of the program.
const WORDS: usize = 96;
/// How long a process may make no system call.
const PATIENCE: Duration = Duration::from_secs(10);
/// A call that does not exist.
const NONE: u64 = u64::MAX;

/// Which call is refused, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Who makes it.
    pub site: Site,
    /// How often it was made there before.
    pub after: u32,
    /// The error.
    pub error: Errno,
}

impl Fault {
    /// A number for it, the same in each run of the same program.
    #[must_use]
    pub fn number(&self) -> u32 {
        let words = [
            self.site.number.cast_unsigned(),
            self.after.into(),
            self.error as u64,
        ];
        let words = self.site.returns.iter().chain(&words);
        let mixed = words.fold(0xcbf2_9ce4_8422_2325_u64, |mixed, word| {
            (mixed ^ word).wrapping_mul(0x100_0000_01b3).rotate_left(23)
        });
        (mixed ^ mixed >> 32) as u32
    }
}

/// What was seen of a process.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// What it has mapped, of one that has no call refused.
    pub places: Places,
    /// The calls that it made, in order.
    pub calls: Vec<(Site, Call)>,
    /// Whether the fault was injected.
    pub injected: bool,
}

/// A process that waits for its tracer.
#[derive(Debug)]
pub struct Probe {
    tracee: Tracee,
    memory: File,
    text: Range<u64>,
    /// It is not the first thread, and done when it ends.
    is_thread: bool,
}

impl Probe {
    /// Of a process that is about to stand at its first mark.
    ///
    /// # Errors
    /// It never does.
    pub fn new(mut tracee: Tracee) -> Result<Self> {
        match tracee.wait(&[], PATIENCE)? {
            Waited::Stopped(Stop::Signal(BEGIN)) => {}
            other => bail!("the process stands at {other:?} before it began"),
        }
        Self::of(tracee, false)
    }

    /// Of a thread that was seized beside the first one. It is done when it ends.
    ///
    /// # Errors
    /// It does not stop.
    pub fn of_thread(mut tracee: Tracee) -> Result<Self> {
        match tracee.wait(&[], PATIENCE)? {
            Waited::Stopped(Stop::Trap) => Self::of(tracee, true),
            other => bail!("the thread stands at {other:?} before it was stopped"),
        }
    }

    fn of(tracee: Tracee, is_thread: bool) -> Result<Self> {
        let pid = tracee.pid();
        let memory = File::open(format!("/proc/{pid}/mem")).context("opening its memory")?;
        let text = text(pid).context("finding its code")?;
        Ok(Self {
            tracee,
            memory,
            text,
            is_thread,
        })
    }

    /// The process.
    pub fn tracee(&mut self) -> &mut Tracee {
        &mut self.tracee
    }

    /// Lets it go on to its second mark, or to its end where it is a thread, and refuses a call on the way. Whenever it sleeps in one of `sleeps`, `nudge` is called.
    ///
    /// # Errors
    /// It ends before that, or it is wedged: neither runs nor is woken by what is done for it.
    pub fn run(
        &mut self,
        fault: Option<Fault>,
        sleeps: &[i64],
        patience: Duration,
        mut nudge: impl FnMut() -> Result<()>,
    ) -> Result<Seen> {
        let places = match fault {
            Some(_) => Places::default(),
            None => Places::of(self.tracee.pid()),
        };
        let mut seen = Seen {
            places,
            ..Seen::default()
        };
        let mut made: HashMap<Site, u32> = HashMap::new();
        let deadline = Instant::now() + patience;
        let mut refused = None;
        let mut signal = None;
        loop {
            self.tracee.go_on(Pace::Call, signal.take())?;
            let stop = loop {
                match self.tracee.wait(sleeps, PATIENCE)? {
                    Waited::Stopped(stop) => break stop,
                    Waited::Asleep(_) => nudge()?,
                }
                if Instant::now() >= deadline {
                    bail!("it is wedged: not done after {patience:?}");
                }
            };
            match stop {
                Stop::Signal(END) => return Ok(seen),
                Stop::Signal(other) => signal = Some(other),
                Stop::Call if self.tracee.enters()? => {
                    let (site, call) = self.call()?;
                    seen.calls.push((site, call));
                    let before = made.entry(site).or_default();
                    let hit = |fault: &Fault| fault.site == site && fault.after == *before;
                    if let Some(Fault { error, .. }) = fault.filter(hit)
                        && !seen.injected
                    {
                        refused = Some(self.replace(call, error)?);
                        seen.injected = true;
                    }
                    *before += 1;
                }
                Stop::Call => {
                    if let Some(registers) = refused.take() {
                        self.tracee.set_registers(registers)?;
                    }
                }
                Stop::Trap => {}
                Stop::Exited(_) if self.is_thread => return Ok(seen),
                Stop::Exited(_) | Stop::Killed(_) => {
                    bail!("it has ended before it was done: {stop:?}");
                }
            }
        }
    }

    /// Lets it go on without being watched, to its end; its exit code.
    ///
    /// # Errors
    /// It does not end, or it is killed by a signal.
    pub fn finish(&mut self, patience: Duration) -> Result<i32> {
        let mut signal = None;
        loop {
            self.tracee.go_on(Pace::Free, signal.take())?;
            match self.tracee.wait(&[], patience)? {
                Waited::Stopped(Stop::Exited(code)) => return Ok(code),
                Waited::Stopped(Stop::Signal(other)) => signal = Some(other),
                other => bail!("it ends in another way: {other:?}"),
            }
        }
    }

    /// Replaces the call at whose entry it stands; the registers with which it is to return.
    fn replace(&self, call: Call, error: Errno) -> Result<Registers> {
        let before = self.tracee.registers()?;
        let mut instead = before;
        instead.orig_rax = NONE;
        if call.hangs_up(error) {
            instead.orig_rax = libc::SYS_shutdown.cast_unsigned();
            instead.rsi = libc::SHUT_RDWR as u64;
        }
        self.tracee.set_registers(instead)?;
        let mut after = before;
        after.rax = i64::from(-(error as i32)).cast_unsigned();
        Ok(after)
    }

    /// The call at whose entry it stands.
    fn call(&self) -> Result<(Site, Call)> {
        let registers = self.tracee.registers()?;
        let mut bytes = [0; WORDS * 8];
        let read = self.memory.read_at(&mut bytes, registers.rsp);
        let read = read.context("reading its stack")?;
        let (words, _) = bytes[..read].as_chunks::<8>();
        let words = words.iter().map(|word| u64::from_le_bytes(*word));
        let mut callers = words.filter(|word| self.text.contains(word));
        let number = registers.orig_rax.cast_signed();
        let site = Site {
            number,
            returns: [
                registers.rip,
                callers.next().unwrap_or(0),
                callers.next().unwrap_or(0),
            ],
        };
        let arguments = [
            registers.rdi,
            registers.rsi,
            registers.rdx,
            registers.r10,
            registers.r8,
            registers.r9,
        ];
        Ok((site, Call { number, arguments }))
    }
}

/// Where a process has the code of its program.
fn text(pid: u32) -> Option<Range<u64>> {
    let program = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let program = program.to_str()?;
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
    let code = maps
        .lines()
        .find(|line| line.contains(" r-xp ") && line.ends_with(program))?;
    let (start, end) = code.split_whitespace().next()?.split_once('-')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    Some(number(start)?..number(end)?)
}
