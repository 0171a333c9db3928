//! Keeping a thread on one processor.

use std::fs;

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::{Error, Result};

const ONLINE: &str = "/sys/devices/system/cpu/online";

/// Keeps the calling thread on processor number `cpu`, from now on. Threads that it starts later inherit that.
///
/// A publisher and a subscriber that poll are fastest on two processors that share a cache, with nobody else on them;
/// `docs/placement.md` has what it was measured to do.
///
/// ```
/// bus_client::pin_thread(0)?;
/// let error = bus_client::pin_thread(1 << 20).unwrap_err().to_string();
/// assert!(error.contains("processor 1048576"), "{error}");
/// # Ok::<(), bus_client::Error>(())
/// ```
///
/// # Errors
/// [`Error::Processor`] where there is no such processor, or this process may not use it. The thread stays where it may run now.
pub fn pin_thread(cpu: usize) -> Result<()> {
    let refused = |why| Error::Processor { cpu, why };
    let online = || match fs::read_to_string(ONLINE) {
        Ok(list) => format!("this machine has {}", list.trim()),
        Err(_) => "see nproc(1) for how many there are".into(),
    };
    let mut set = CpuSet::new();
    let set = set.set(cpu).map(|()| set);
    let set = set.map_err(|_| refused(online()))?;
    sched_setaffinity(Pid::from_raw(0), &set).map_err(|error| {
        refused(match error {
            Errno::EINVAL => format!(
                "{}, of which the control group (cpuset) of this process may allow fewer",
                online()
            ),
            error => error.desc().into(),
        })
    })
}

#[cfg(test)]
mod tests {
    use std::thread;

    use nix::sched::sched_getaffinity;

    use super::*;

    #[test]
    fn a_pinned_thread_may_run_nowhere_else_and_the_others_may() {
        let may_use = || {
            let set = sched_getaffinity(Pid::from_raw(0)).unwrap();
            let all = 0..CpuSet::count();
            all.filter(|cpu| set.is_set(*cpu).unwrap())
                .collect::<Vec<_>>()
        };
        let before = may_use();
        let last = *before.last().unwrap();
        thread::spawn(move || {
            pin_thread(last).unwrap();
            assert_eq!(may_use(), [last]);
            for absent in [CpuSet::count() - 1, CpuSet::count(), usize::MAX] {
                let error = pin_thread(absent).unwrap_err().to_string();
                assert!(error.contains(&absent.to_string()), "{error}");
                assert!(error.contains("this machine has"), "{error}");
                assert_eq!(may_use(), [last]);
            }
        })
        .join()
        .unwrap();
        assert_eq!(may_use(), before);
    }
}
