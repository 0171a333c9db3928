//! What is wrong after a kill.

use std::fmt::Display;

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A promise that no slowness excuses.
    Broken(String),
    /// Survivors took too long: a machine that was busy elsewhere looks the same, so it has to happen again.
    Slow(String),
    /// The run itself failed: what was to be tried was not.
    Run(String),
}

impl Fault {
    /// The run itself failed.
    #[must_use]
    pub fn run(why: impl Display) -> Self {
        Self::Run(why.to_string())
    }

    /// What is wrong, for a reader.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::Broken(text) | Self::Slow(text) | Self::Run(text) => text,
        }
    }
}

/// A survivor's call failed: none of them may, whatever became of the victim.
impl From<bus_client::Error> for Fault {
    fn from(error: bus_client::Error) -> Self {
        Self::Broken(format!("a survivor's call failed: {error}"))
    }
}

impl From<anyhow::Error> for Fault {
    fn from(error: anyhow::Error) -> Self {
        Self::Run(format!("{error:#}"))
    }
}
