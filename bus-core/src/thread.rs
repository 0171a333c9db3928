//! Threads of this library inside a process that has its own purpose.
//!
//! Promises: such a thread runs whenever it has something to do, also where the thread that starts
//! it is pinned to one processor or has a real-time class; no signal handler of the process runs on
//! it; a fault on it reaches the process's handler, and profilers see it. [`spawn_quiet`] returns
//! when all of that is so.

use std::fs;
use std::io;
use std::sync::mpsc;
use std::thread::{Builder, JoinHandle};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::unistd::Pid;

/// Processors that the kernel balances no load on. A thread that gets there stays there.
const ISOLATED: &str = "/sys/devices/system/cpu/isolated";

/// Signals that are about the thread they come to: its faults, and a profiler's clock.
const OWN: [Signal; 8] = [
    Signal::SIGSEGV,
    Signal::SIGBUS,
    Signal::SIGFPE,
    Signal::SIGILL,
    Signal::SIGABRT,
    Signal::SIGTRAP,
    Signal::SIGSYS,
    Signal::SIGPROF,
];

/// Starts a thread that keeps out of the way of the process's own threads.
///
/// The thread has the class `SCHED_OTHER`, and may run on all processors that the control group
/// (cpuset) of this process allows, but those that the kernel isolates. It inherits neither from
/// the calling thread. All signals are blocked on it, but those of its own faults, `SIGABRT`,
/// `SIGTRAP`, `SIGSYS` and `SIGPROF`, which are as the calling thread has them.
///
/// Waits until the thread has arranged that and runs `body`; a thread that is pinned beside its
/// caller may run only while the caller sleeps. Names longer than 15 bytes are cut by the kernel.
///
/// # Errors
/// What the kernel said where there can be no further thread.
///
/// ```
/// let thread = bus_core::thread::spawn_quiet("bus-example", || 42)?;
/// assert_eq!(thread.join().unwrap(), 42);
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn spawn_quiet<T: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    let (arranged, is_arranged) = mpsc::sync_channel(1);
    let started = without_signals(|| {
        Builder::new().name(name.to_owned()).spawn(move || {
            leave_the_callers_place();
            let _ = arranged.send(());
            body()
        })
    })?;
    // The sender goes with the thread, so this ends in any case.
    let _ = is_arranged.recv();
    Ok(started)
}

/// Runs `start` with all signals blocked but a thread's own: what it starts has them blocked from
/// its first instruction on.
fn without_signals<T>(start: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let mut blocked = SigSet::all();
    for signal in OWN {
        blocked.remove(signal);
    }
    let before = blocked.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    let started = start();
    before.thread_set_mask()?;
    started
}

/// Leaves the class and the processors that this thread has inherited. What the kernel refuses
/// stays as it was.
fn leave_the_callers_place() {
    // First the processor: a real-time thread may have this one to itself.
    let isolated = fs::read_to_string(ISOLATED).unwrap_or_default();
    if may_use(&isolated).is_err() {
        // The control group allows isolated ones only.
        let _ = may_use("");
    }
    // `struct sched_param` of the kernel, which is a priority; that of a C library may be longer.
    // musl has a function for this call that only fails.
    let ordinary: libc::c_int = 0;
    // SAFETY: the kernel reads the parameter, which outlives the call, and changes the calling
    // thread.
    unsafe {
        libc::syscall(
            libc::SYS_sched_setscheduler,
            0,
            libc::SCHED_OTHER,
            &raw const ordinary,
        )
    };
}

/// Lets this thread run on all processors that are not in this list, as far as they are there and
/// the control group allows them.
fn may_use(avoided: &str) -> nix::Result<()> {
    let mut set = CpuSet::new();
    for cpu in (0..CpuSet::count()).filter(|cpu| !is_listed(avoided, *cpu)) {
        set.set(cpu)?;
    }
    sched_setaffinity(Pid::from_raw(0), &set)
}

/// Whether a processor is in a list of the kernel's, such as `2-3,7`.
fn is_listed(list: &str, cpu: usize) -> bool {
    list.trim().split(',').any(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        matches!((first.parse(), last.parse()), (Ok(first), Ok(last)) if (first..=last).contains(&cpu))
    })
}

#[cfg(test)]
mod tests {
    use nix::sched::sched_getaffinity;

    use super::*;

    /// The processors that the calling thread may use.
    fn used() -> Vec<usize> {
        let set = sched_getaffinity(Pid::from_raw(0)).unwrap();
        (0..CpuSet::count())
            .filter(|cpu| set.is_set(*cpu).unwrap())
            .collect()
    }

    fn policy() -> i64 {
        // SAFETY: an integer goes in, an integer comes out.
        unsafe { libc::syscall(libc::SYS_sched_getscheduler, 0) }
    }

    #[test]
    fn it_inherits_no_pinning_and_no_real_time_class() {
        let all = spawn_quiet("test", used).unwrap().join().unwrap();
        let pinned = std::thread::spawn(move || {
            let mut first = CpuSet::new();
            first.set(all[0]).unwrap();
            sched_setaffinity(Pid::from_raw(0), &first).unwrap();
            let fifo: libc::c_int = 1;
            // SAFETY: the kernel reads the parameter, which outlives the call, and changes the
            // calling thread.
            let real_time = unsafe {
                libc::syscall(
                    libc::SYS_sched_setscheduler,
                    0,
                    libc::SCHED_FIFO,
                    &raw const fifo,
                )
            } == 0;
            if !real_time {
                println!("skipped the real-time class: this user may not have it");
            }
            let inherited = spawn_quiet("test", || (used(), policy())).unwrap();
            assert_eq!(
                inherited.join().unwrap(),
                (all.clone(), libc::SCHED_OTHER.into())
            );
            assert_eq!(used(), all[..1], "the caller stays where it is");
        });
        pinned.join().unwrap();
    }

    #[test]
    fn handlers_of_faults_and_of_profilers_run_on_it_and_no_others() {
        let before = SigSet::thread_get_mask().unwrap();
        let blocked = spawn_quiet("test", || SigSet::thread_get_mask().unwrap());
        let blocked = blocked.unwrap().join().unwrap();
        for signal in Signal::iterator() {
            let cannot = [Signal::SIGKILL, Signal::SIGSTOP].contains(&signal);
            let open = OWN.contains(&signal) || cannot;
            assert_eq!(blocked.contains(signal), !open, "{signal}");
        }
        assert_eq!(SigSet::thread_get_mask().unwrap(), before);
    }

    #[test]
    fn processors_are_found_in_the_kernels_lists() {
        for (list, cpu, listed) in [
            ("2-3,7\n", 3, true),
            ("2-3,7\n", 7, true),
            ("2-3,7\n", 4, false),
            ("\n", 0, false),
        ] {
            assert_eq!(is_listed(list, cpu), listed, "{list:?} {cpu}");
        }
    }
}
