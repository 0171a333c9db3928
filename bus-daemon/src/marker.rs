//! How the broker before this one ended: a line in the lock file.
//!
//! ```text
//! bus 1 BOOT_ID GENERATION clean PID      it ended without members
//! bus 1 BOOT_ID GENERATION open PID       it runs, or was killed, or ended with members
//! ```
//! The number of the process is for people: see [`Holder`](bus_core::control::Holder).
//!
//! Only a `clean` line of this start of the machine proves that no member is left. A cleaner of temporary files may
//! remove the file, and then nothing is proved. Nothing else is written down: see `engine/recovery.rs`.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;

use nix::sys::resource::{Resource, getrlimit};

/// Longest line, in bytes.
const LONGEST: usize = 256;

/// What the line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Marker {
    /// The generation of the broker that wrote it; 0 if there is none.
    pub(crate) generation: u64,
    /// No member of it is left.
    pub(crate) clean: bool,
}

/// Reads the line. One that makes no sense, or is of another start of the machine, proves nothing.
pub(crate) fn read(file: &File) -> Marker {
    let mut bytes = [0; LONGEST];
    let read = file.read_at(&mut bytes, 0).unwrap_or(0);
    let text = String::from_utf8_lossy(&bytes[..read]);
    let mut words = text.split_ascii_whitespace();
    let mut expect = |word: &str| words.next() == Some(word);
    let known = expect("bus") && expect("1");
    let same_boot = expect(&boot_id());
    let generation = words.next().and_then(|word| word.parse().ok());
    let state = words.next();
    match generation.filter(|_| known) {
        // After a start of the machine nobody is left.
        Some(generation) => Marker {
            generation,
            clean: state == Some("clean") || !same_boot,
        },
        None => Marker {
            generation: 0,
            clean: false,
        },
    }
}

/// Writes the line.
///
/// # Errors
/// What the kernel said. Then nothing is proved to the next broker.
pub(crate) fn write(file: &File, generation: u64, clean: bool) -> io::Result<()> {
    let state = if clean { "clean" } else { "open" };
    let pid = std::process::id();
    let line = format!("bus 1 {} {generation} {state} {pid}\n", boot_id());
    // Past the limit on file sizes, the kernel would end this process.
    let limit = getrlimit(Resource::RLIMIT_FSIZE)?;
    if limit.0 < LONGEST as u64 {
        return Err(io::Error::other("the limit on file sizes is too low"));
    }
    assert!(line.len() <= LONGEST, "the line can be read again");
    file.write_all_at(line.as_bytes(), 0)?;
    file.set_len(line.len() as u64)
}

/// Which start of the machine this is.
fn boot_id() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    match id.trim() {
        "" => "unknown".to_owned(),
        id => id.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_again() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(
            read(&file),
            Marker {
                generation: 0,
                clean: false
            }
        );
        for (generation, clean) in [(u64::MAX, false), (7, true), (8, false)] {
            write(&file, generation, clean).unwrap();
            assert_eq!(read(&file), Marker { generation, clean });
        }
    }

    #[test]
    fn a_line_of_another_start_of_the_machine_proves_that_nobody_is_left() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"bus 1 another-boot 41 open\n", 0)
            .unwrap();
        assert_eq!(
            read(&file),
            Marker {
                generation: 41,
                clean: true
            }
        );
    }

    #[test]
    fn what_is_no_line_proves_nothing() {
        for text in ["", "4711", "bus 2 x 1 clean", "bus 1 x y clean", "\0\0\0"] {
            let file = tempfile::tempfile().unwrap();
            file.write_all_at(text.as_bytes(), 0).unwrap();
            assert!(!read(&file).clean, "{text:?}");
        }
    }
}
