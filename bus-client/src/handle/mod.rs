//! What is common to all handles: membership of a topic, and the peers there.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `membership` | opening, joining, and what the broker tells a member |
//! | `peers` | the handles on the other side |

mod membership;
mod peers;

pub(crate) use membership::{Membership, Patience};
pub use peers::Peer;
pub(crate) use peers::Peers;

use bus_core::fork::Birth;

use crate::{Error, Result};

/// Why there must be a broker when a handle is to be waited for by its descriptor for the first time.
pub(crate) const NEEDED: &str = "it has to tell others how to wake this handle";

/// That this process is the one where something was born.
///
/// # Errors
/// [`Error::Forked`] in a fork of it.
pub(crate) fn here(birth: Birth) -> Result<()> {
    if birth.is_here() {
        return Ok(());
    }
    Err(Error::Forked {
        process: birth.process(),
    })
}
