//! What the broker waits for after a start whose predecessor ended with members.
//!
//! Nothing is written down. A process that comes back presents its handles and the peers that these know. The
//! *absentees* are all members that were presented and have not come back. In NFSv4 the time for that is the *grace
//! period*; the presenting is a *reclaim*, and a member that may not come back any more is *fenced*.
//!
//! ```text
//!   unknown --presented by a peer--> absent --Reclaim--> member
//!      |                               |  |
//!      | Reclaim                       |  | a newcomer of the other role has joined
//!      v                               |  v
//!    member                            | fenced: refused if it comes, gone when its process ends
//!                                      v
//!                                     gone: its process ended, or came back without it
//! ```
//! Time counts only while the broker runs; see `Engine::tick`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::world::World;

/// How long newcomers wait after an unclean start for members that nobody knows.
pub(crate) const UNKNOWN: Duration = Duration::from_millis(200);
/// How long newcomers of any topic wait while processes are still coming back, from the start on.
pub(crate) const RETURNING: Duration = Duration::from_secs(4);
/// How long one newcomer waits, whatever happens.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);
/// Pidfds of one process that are kept, from different presenters.
const MAX_PIDFDS: usize = 8;

/// What the broker waits for.
#[derive(Debug)]
pub(crate) struct Recovery<W: World> {
    /// The predecessor may have ended with members.
    unclean: bool,
    /// Processes with absent members.
    pub(crate) processes: BTreeMap<u64, AbsentProcess<W>>,
    /// Sessions that have not presented everything yet.
    pub(crate) returning: BTreeSet<u64>,
    /// Publishers that have come back and are not told the version yet, because they may not know a subscriber that
    /// is absent: topic, number, and until when.
    pub(crate) held: Vec<(u64, u64, Duration)>,
    /// Topics without members may be left: they are closed when nobody is waited for any longer, because a member that
    /// comes back late must find the topic of those that it knows.
    pub(crate) unswept: bool,
}

/// A process that is known from what others presented.
#[derive(Debug)]
pub(crate) struct AbsentProcess<W: World> {
    /// One from each presenter, in case that one of them lies: the process is dead when all of them say so.
    pub(crate) pidfds: Vec<W::Fd>,
    /// Its absent members, each with its topic.
    pub(crate) members: BTreeSet<(u64, u64)>,
}

impl<W: World> Recovery<W> {
    pub(crate) fn new(unclean: bool) -> Self {
        Self {
            unclean,
            processes: BTreeMap::new(),
            returning: BTreeSet::new(),
            held: Vec::new(),
            unswept: unclean,
        }
    }

    /// Whether members that nobody has presented may still come back.
    pub(crate) fn expects_any(&self, now: Duration) -> bool {
        !self.returning.is_empty() || self.grace(now).is_some()
    }

    /// Until when newcomers of any topic wait, if they do.
    pub(crate) fn grace(&self, now: Duration) -> Option<Duration> {
        let until = match (self.unclean, self.returning.is_empty()) {
            (_, false) => RETURNING,
            (true, true) => UNKNOWN,
            (false, true) => return None,
        };
        (now < until).then_some(until)
    }
}

impl<W: World> AbsentProcess<W> {
    pub(crate) fn new() -> Self {
        Self {
            pidfds: Vec::new(),
            members: BTreeSet::new(),
        }
    }

    /// Another presenter's pidfd of it. False if there are enough.
    pub(crate) fn add(&mut self, pidfd: W::Fd) -> bool {
        let room = self.pidfds.len() < MAX_PIDFDS;
        if room {
            self.pidfds.push(pidfd);
        }
        room
    }
}
