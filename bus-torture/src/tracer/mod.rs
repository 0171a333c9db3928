//! Another process under control: stopped, stepped, its system calls replaced, killed.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `asleep` | in which system call a thread sleeps |
//! | `marks` | how a traced process says where it stands |
//! | `together` | both on one processor |
//!
//! Promises: a process that is traced dies with its tracer, and with its [`Tracee`]; nothing is waited for without a bound. It follows the thread that it was
//! given, mostly the first one; others run free. It asks for one thread that does all of it: the kernel ties a traced process to the thread that
//! seized it.

pub mod asleep;
pub mod marks;
pub mod together;

use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::libc::user_regs_struct as Registers;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::personality::{self, Persona};
use nix::sys::ptrace::{self, AddressType, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// Looks without a pause, before others get the processor.
const EAGER: u32 = 200;
/// After so long it is worth asking whether the process sleeps.
const BRIEF: Duration = Duration::from_millis(1);
/// Between two looks at one that takes long.
const PAUSE: Duration = Duration::from_micros(50);

/// From now on, processes that this one starts have their memory at the same addresses each time.
///
/// # Errors
/// A sandbox does not let it.
pub fn fix_addresses() -> Result<()> {
    let known = personality::get().context("reading the personality")?;
    personality::set(known | Persona::ADDR_NO_RANDOMIZE).context("fixing addresses")?;
    Ok(())
}

/// Why a traced process stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// A step is done, or a breakpoint was met; or it was stopped where it was.
    Trap,
    /// At the entry or the exit of a system call.
    Call,
    /// A signal is about to be delivered.
    Signal(Signal),
    /// It has ended by itself, with this code.
    Exited(i32),
    /// It was killed by this signal.
    Killed(Signal),
}

/// How it is to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// One instruction.
    Step,
    /// To the next system call.
    Call,
    /// Until something happens.
    Free,
}

/// What became of a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// It stands.
    Stopped(Stop),
    /// It sleeps in the system call with this number.
    Asleep(i64),
}

/// A traced process. Dropping it kills it.
#[derive(Debug)]
pub struct Tracee {
    pid: Pid,
    over: bool,
}

impl Tracee {
    /// Takes hold of a child of this process, which runs on. It is not for anybody else to wait for any more.
    ///
    /// # Errors
    /// It is gone, or tracing is not allowed here.
    pub fn seize(child: &Child) -> Result<Self> {
        Self::seize_task(child.id())
    }

    /// Takes hold of one thread of a child of this process, by the thread's number, and stops it wherever it is. The others run on.
    ///
    /// # Errors
    /// It is gone, or tracing is not allowed here.
    pub fn seize_thread(thread: u32) -> Result<Self> {
        let tracee = Self::seize_task(thread)?;
        ptrace::interrupt(tracee.pid).with_context(|| format!("stopping thread {thread}"))?;
        Ok(tracee)
    }

    fn seize_task(task: u32) -> Result<Self> {
        let pid = Pid::from_raw(i32::try_from(task).context("a process number beyond 31 bits")?);
        let options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_EXITKILL;
        ptrace::seize(pid, options)
            .with_context(|| format!("tracing process {pid}; is ptrace allowed here?"))?;
        Ok(Self { pid, over: false })
    }

    /// Its number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid.as_raw().cast_unsigned()
    }

    /// Lets it go on from where it stands, with a signal or without the one that it stands at.
    ///
    /// # Errors
    /// It does not stand.
    pub fn go_on(&self, pace: Pace, signal: Option<Signal>) -> Result<()> {
        let gone_on = match pace {
            Pace::Step => ptrace::step(self.pid, signal),
            Pace::Call => ptrace::syscall(self.pid, signal),
            Pace::Free => ptrace::cont(self.pid, signal),
        };
        gone_on.with_context(|| format!("letting process {} go on", self.pid))
    }

    /// Waits until it stands, or until it is seen asleep in one of `sleeps`.
    ///
    /// # Errors
    /// Neither happens within `patience`.
    pub fn wait(&mut self, sleeps: &[i64], patience: Duration) -> Result<Waited> {
        for _ in 0..EAGER {
            if let Some(stop) = self.look()? {
                return Ok(Waited::Stopped(stop));
            }
        }
        let began = Instant::now();
        loop {
            if let Some(stop) = self.look()? {
                return Ok(Waited::Stopped(stop));
            }
            let waited = began.elapsed();
            if waited < BRIEF {
                thread::yield_now();
                continue;
            }
            if let Some(call) = asleep::call(self.pid(), self.pid())
                && sleeps.contains(&call)
            {
                return Ok(Waited::Asleep(call));
            }
            if waited >= patience {
                let where_it_is = asleep::call(self.pid(), self.pid());
                bail!(
                    "process {} does not come to a stop within {patience:?}: in call {where_it_is:?}",
                    self.pid
                );
            }
            thread::sleep(PAUSE);
        }
    }

    /// Takes one step over an instruction that does not wait, and waits for that without a look at the clock: the kernel then goes back and forth
    /// between the two with nothing else in between. If the instruction waits all the same, this does too, until the process is killed.
    ///
    /// # Errors
    /// It does not stand.
    pub fn step(&mut self) -> Result<Stop> {
        self.go_on(Pace::Step, None)?;
        loop {
            if let Some(stop) = self.take(WaitPidFlag::__WALL)? {
                return Ok(stop);
            }
        }
    }

    /// Keeps it on this processor.
    ///
    /// # Errors
    /// A sandbox does not let it.
    pub fn keep_on(&self, processor: &CpuSet) -> Result<()> {
        sched_setaffinity(self.pid, processor)
            .with_context(|| format!("keeping process {} on a processor", self.pid))
    }

    /// Whether it stands, and why.
    fn look(&mut self) -> Result<Option<Stop>> {
        self.take(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG)
    }

    fn take(&mut self, flags: WaitPidFlag) -> Result<Option<Stop>> {
        let status = match waitpid(self.pid, Some(flags)) {
            Err(Errno::EINTR) => return Ok(None),
            status => status.with_context(|| format!("waiting for process {}", self.pid))?,
        };
        Ok(Some(match status {
            WaitStatus::StillAlive => return Ok(None),
            WaitStatus::Stopped(_, Signal::SIGTRAP) => Stop::Trap,
            WaitStatus::PtraceEvent(_, _, libc::PTRACE_EVENT_STOP) => Stop::Trap,
            WaitStatus::Stopped(_, signal) => Stop::Signal(signal),
            WaitStatus::PtraceSyscall(_) => Stop::Call,
            WaitStatus::Exited(_, code) => {
                self.over = true;
                Stop::Exited(code)
            }
            WaitStatus::Signaled(_, signal, _) => {
                self.over = true;
                Stop::Killed(signal)
            }
            other => bail!("process {} stands in an unknown way: {other:?}", self.pid),
        }))
    }

    /// Its registers, where it stands.
    ///
    /// # Errors
    /// It does not stand.
    pub fn registers(&self) -> Result<Registers> {
        ptrace::getregs(self.pid)
            .with_context(|| format!("reading registers of process {}", self.pid))
    }

    /// Changes its registers, where it stands.
    ///
    /// # Errors
    /// It does not stand.
    pub fn set_registers(&self, registers: Registers) -> Result<()> {
        ptrace::setregs(self.pid, registers)
            .with_context(|| format!("changing registers of process {}", self.pid))
    }

    /// Eight bytes of its memory.
    ///
    /// # Errors
    /// There is none at that address, or it does not stand.
    pub fn read(&self, address: u64) -> Result<u64> {
        let word = ptrace::read(self.pid, address as AddressType)
            .with_context(|| format!("reading memory of process {} at {address:#x}", self.pid))?;
        Ok(word.cast_unsigned())
    }

    /// Changes eight bytes of its memory, also where it may only be read.
    ///
    /// # Errors
    /// There is none at that address, or it does not stand.
    pub fn write(&self, address: u64, word: u64) -> Result<()> {
        ptrace::write(self.pid, address as AddressType, word.cast_signed())
            .with_context(|| format!("changing memory of process {} at {address:#x}", self.pid))
    }

    /// Whether it is at the entry of a system call, where it stands at one.
    ///
    /// # Errors
    /// It does not stand at one.
    pub fn enters(&self) -> Result<bool> {
        let info = ptrace::syscall_info(self.pid)
            .with_context(|| format!("asking for the system call of process {}", self.pid))?;
        Ok(info.op == libc::PTRACE_SYSCALL_INFO_ENTRY)
    }

    /// Kills it, whatever it does; returns when its end was seen.
    ///
    /// # Errors
    /// The kernel does not say so.
    pub fn kill(&mut self) -> Result<()> {
        if self.over {
            return Ok(());
        }
        // One that has just ended is not there any more; its end is seen below.
        let _ = kill(self.pid, Signal::SIGKILL);
        loop {
            match waitpid(self.pid, Some(WaitPidFlag::__WALL)) {
                Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) | Err(Errno::ECHILD) => {
                    self.over = true;
                    return Ok(());
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("burying process {}", self.pid));
                }
            }
        }
    }
}

impl Drop for Tracee {
    fn drop(&mut self) {
        // Nobody is there to be told.
        let _ = self.kill();
    }
}
