//! A subscriber, as one publisher sees it.

use std::time::Duration;

use super::stall::Stall;
use crate::backend::{Backend, ReaderMemory, site};
use crate::memory::layout::{JOINED, LEFT};
use crate::wake::Alarm;

/// For as long a subscriber may join at least, whatever a topic allows those that have: it cannot read anything before, so that it would be evicted
/// without having stood still.
const JOIN: Duration = Duration::from_millis(100);

/// A subscriber that this publisher waits for and wakes.
pub(super) struct Follower<B: Backend> {
    pub(super) id: u64,
    pub(super) reader: B::Reader,
    /// Its cursor, as it stood when room was last looked for.
    pub(super) seen: u64,
    /// How long it has not moved while this publisher waited for it.
    pub(super) stall: Stall,
    /// It had not joined when that was last looked at.
    pub(super) joining: bool,
    /// Nobody waits for it any more; what it holds is left alone.
    pub(super) evicted: bool,
    pub(super) alarm: Alarm,
    /// Wakes it where it is parked, once that is known here.
    pub(super) notify: Option<B::Notify>,
}

impl<B: Backend> Follower<B> {
    /// Whether it gets what is published from now on.
    pub(super) fn receives(&self) -> bool {
        self.joined() && !self.evicted
    }

    /// Whether it knows where it starts.
    pub(super) fn joined(&self) -> bool {
        // ORDERING: the subscriber found its start with `RECEIVE_COMMIT` before it stored this. So a message that
        // is committed after this load, with `PUBLISH_COMMIT`, was none that it could start behind.
        B::load32(&self.reader.header().bell.state, site::RELAXED) == JOINED
    }

    /// How long it may stand still, where those that have joined may for `patience`. Its time starts anew when it joins.
    pub(super) fn patience(&mut self, patience: Duration) -> Duration {
        if self.joining && self.joined() {
            self.joining = false;
            self.stall.clear();
        }
        if self.joining {
            return patience.max(JOIN);
        }
        patience
    }

    /// Whether it reads nothing any more.
    pub(super) fn left(&self) -> bool {
        // ORDERING: acquire pairs with the subscriber's `LEAVE_STATE`: its reads are over.
        B::load32(&self.reader.header().bell.state, site::PUBLISH_STATE) == LEFT
    }
}
