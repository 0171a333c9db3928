//! What is wrong with a policy: everything at once, each with its place.

use std::fmt;
use std::path::{Path, PathBuf};

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// What is wrong, and what is allowed there.
    pub what: String,
}

impl Problem {
    /// Something at a byte of the file's text.
    pub(super) fn at(file: &Path, text: &str, byte: usize, what: String) -> Self {
        let (line, column) = place(text, byte);
        Self {
            file: file.to_owned(),
            line,
            column,
            what,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            line,
            column,
            what,
        } = self;
        write!(f, "{}:{line}:{column}: {what}", file.display())
    }
}

/// Everything that is wrong with a policy, in the order of the file; at least one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    pub(super) fn new(mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| (problem.line, problem.column));
        Self(problems)
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }
}

impl fmt::Display for Problems {
    /// One a line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.0.iter().enumerate() {
            let newline = if at == 0 { "" } else { "\n" };
            write!(f, "{newline}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Line and column of a byte, from 1.
pub(super) fn place(text: &str, byte: usize) -> (usize, usize) {
    let end = (0..=byte.min(text.len())).rfind(|&end| text.is_char_boundary(end));
    let before = &text[..end.unwrap_or(0)];
    let line = before.matches('\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    (line, before[start..].chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_counted_in_lines_and_characters() {
        let text = "ab\näöü = 1\n";
        assert_eq!(place(text, 0), (1, 1));
        assert_eq!(place(text, 3), (2, 1));
        assert_eq!(place(text, 7), (2, 3));
        assert_eq!(place(text, 8), (2, 3), "in the middle of a character");
        assert_eq!(place(text, 1000), (3, 1));
    }
}
