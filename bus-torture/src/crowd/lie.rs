//! What a worker does wrong on purpose. Each is what a broken bus would do to it: a check that does not notice is none.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// A fault that one worker of the run plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lie {
    /// A reader does not see one message.
    Drop,
    /// A reader sees one message twice.
    Double,
    /// A reader sees a message with one bit changed.
    Corrupt,
    /// A publisher says that it sent one message more than it did: as if the last one were lost to all.
    Tail,
    /// A process keeps a descriptor open each time that it looks around.
    Leak,
    /// A process takes memory each time that it looks around.
    Grow,
    /// A reader knows of a publisher that is not there.
    Stale,
    /// A reader says that it was evicted, though it was never stopped.
    Evicted,
    /// A process that goes on after a stop does nothing any more.
    Hang,
}

/// Messages after which a lie is told.
pub const AFTER: u64 = 500;
