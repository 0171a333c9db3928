//! Which process is which: a number and the time at which it started, which together no two processes have until the machine starts anew.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

use bus_core::control::{open_pidfd, pidfd_alive};

/// When a process started, in clock ticks since the machine did.
///
/// # Errors
/// What the kernel said: there is no such process, or it is not to be seen from here.
pub(crate) fn start_time(pid: u32) -> io::Result<u64> {
    let stat = fs::read(format!("/proc/{pid}/stat"))?;
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, "/proc/PID/stat is unreadable");
    // Its second field is the name of the program, which may hold anything.
    let end = stat.iter().rposition(|b| *b == b')').ok_or_else(wrong)?;
    let fields = stat[end + 1..].split(|b| b.is_ascii_whitespace());
    let start = fields.filter(|field| !field.is_empty()).nth(19);
    let start = start.and_then(|field| std::str::from_utf8(field).ok());
    start.and_then(|s| s.parse().ok()).ok_or_else(wrong)
}

/// The process with this number that started at this time, if it still runs.
///
/// # Errors
/// What the kernel said: whether it runs is not known.
pub(crate) fn find(pid: u32, start: u64) -> bus_core::Result<Option<OwnedFd>> {
    let Some(pidfd) = open_pidfd(pid)? else {
        return Ok(None);
    };
    let known = start_time(pid);
    // Still alive, so it was this one that was asked.
    if !pidfd_alive(&pidfd) {
        return Ok(None);
    }
    match known {
        Ok(known) => Ok((known == start).then_some(pidfd)),
        Err(e) => Err(bus_core::Error::io("cannot read when a process started", e)),
    }
}

/// What numbers of processes mean here: which start of the machine this is, and which name space of processes. Zeros where that is not to be seen.
pub(crate) fn world() -> [u8; 24] {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = boot.chars().filter(char::is_ascii_hexdigit).collect();
    let boot = u128::from_str_radix(&digits, 16).unwrap_or(0);
    let space = fs::metadata("/proc/self/ns/pid").map_or(0, |space| space.ino());
    let mut world = [0; 24];
    world[..16].copy_from_slice(&boot.to_le_bytes());
    world[16..].copy_from_slice(&space.to_le_bytes());
    world
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_number_and_its_start() {
        let me = std::process::id();
        let start = start_time(me).unwrap();
        assert!(start > 0);
        assert!(find(me, start).unwrap().is_some());
        assert!(find(me, start + 1).unwrap().is_none(), "a later process");
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let (pid, start) = (child.id(), start_time(child.id()).unwrap());
        assert!(find(pid, start).unwrap().is_some());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(find(pid, start).unwrap().is_none());
    }

    #[test]
    fn a_program_with_an_odd_name_is_read_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let odd = dir.path().join(") 1 2 (3");
        std::os::unix::fs::symlink("/bin/cat", &odd).unwrap();
        let mut child = std::process::Command::new(&odd)
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let (mine, its) = (start_time(std::process::id()), start_time(child.id()));
        assert!(its.unwrap() >= mine.unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn the_world_is_the_same_until_the_machine_starts_anew() {
        assert_eq!(world(), world());
        assert_ne!(world(), [0; 24]);
    }
}
