//! What an address in a victim is: the file that is mapped there and the offset in it, and the function, where `addr2line` is there to say so.

use std::fs;
use std::process::{Command, Stdio};

/// The files that a process has mapped, and where.
#[derive(Clone, Debug, Default)]
pub struct Places(Vec<(std::ops::Range<u64>, u64, String)>);

impl Places {
    /// What a process has mapped now; nothing if that is not to be seen.
    #[must_use]
    pub fn of(pid: u32) -> Self {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
        Self(maps.lines().filter_map(mapping).collect())
    }

    /// An address, for a reader.
    #[must_use]
    pub fn name(&self, address: u64) -> String {
        let known = self.0.iter().find(|(range, ..)| range.contains(&address));
        let Some((range, offset, file)) = known else {
            return format!("{address:#x}");
        };
        let offset = address - range.start + offset;
        match function(file, offset, self.base(file).map(|base| address - base)) {
            Some(function) => format!("{file}+{offset:#x} ({function})"),
            None => format!("{file}+{offset:#x}"),
        }
    }

    /// Where the file begins in memory.
    fn base(&self, file: &str) -> Option<u64> {
        let first = self.0.iter().find(|(_, _, name)| name == file)?;
        Some(first.0.start)
    }
}

/// A line of `/proc/PID/maps`: addresses, offset, file.
fn mapping(line: &str) -> Option<(std::ops::Range<u64>, u64, String)> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    let offset = number(words.nth(1)?)?;
    let file = words.nth(2)?;
    Some((number(start)?..number(end)?, offset, file.to_owned()))
}

fn function(file: &str, offset: u64, from_base: Option<u64>) -> Option<String> {
    let address = from_base.unwrap_or(offset);
    let said = Command::new("addr2line")
        .args(["-f", "-C", "-s", "-e", file, &format!("{address:#x}")])
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(said.stdout).ok()?;
    let mut lines = text.lines();
    let (name, line) = (lines.next()?, lines.next().unwrap_or_default());
    (!name.starts_with("??")).then(|| format!("{name} at {line}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_own_function_is_in_this_program() {
        let address = an_own_function_is_in_this_program as fn() as usize as u64;
        let name = Places::of(std::process::id()).name(address);
        assert!(name.contains("bus_torture"), "{name}");
    }
}
