//! From an error to what the user sees: one sentence and an exit code.

use bus_client::Error;

/// Exit code of an error.
const FAILED: u8 = 1;
/// Exit code of wrong usage, as clap has it too.
const USAGE: u8 = 2;

/// The error and its causes in one line. A cause that the text before it already tells is left out.
pub fn sentence(error: &anyhow::Error) -> String {
    let mut sentence = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if sentence.contains(&cause) {
            continue;
        }
        if !sentence.is_empty() {
            sentence.push_str(": ");
        }
        sentence.push_str(&cause);
    }
    sentence.replace('\n', " ")
}

/// The exit code for an error: a name or setting that is not acceptable is wrong usage.
pub fn code(error: &anyhow::Error) -> u8 {
    match error.downcast_ref::<Error>() {
        Some(Error::Argument(_)) => USAGE,
        _ => FAILED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_that_was_told_is_not_told_again() {
        let cause = std::io::Error::other("disk on fire");
        let error = anyhow::Error::from(cause).context("cannot write: disk on fire");
        assert_eq!(sentence(&error), "cannot write: disk on fire");
        let cause = std::io::Error::other("disk on fire");
        let error = anyhow::Error::from(cause).context("cannot write");
        assert_eq!(sentence(&error), "cannot write: disk on fire");
    }
}
