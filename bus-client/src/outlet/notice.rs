//! What a publisher says in the log of its process: that it waits for long, and that nobody read what it sent.
//!
//! Promises: each is said once, for each wait and for each publisher. A handle that ends while the thread-locals
//! of its thread are being destroyed ends in silence where the log needs one of them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use super::Outlet;

/// How long a publisher waits for room before it says so.
const LONG: Duration = Duration::from_secs(1);

/// Is destroyed with the thread-locals of its thread.
struct Thread;

impl Drop for Thread {
    fn drop(&mut self) {}
}

thread_local! {
    static THREAD: Thread = const { Thread };
}

/// Whether thread-locals of this thread can be used, as far as is known.
pub(super) fn thread_is_whole() -> bool {
    THREAD.try_with(|_| ()).is_ok()
}

/// A wait for room: since when, and whether that was said.
#[derive(Default)]
pub(super) struct LongWait {
    began: Option<Instant>,
    said: bool,
}

impl Outlet {
    /// To be asked at each sleep of one wait: says once that it takes long, and for whom. Returns when to ask again, if at all.
    pub(super) fn notice_wait(&self, wait: &mut LongWait) -> Option<Instant> {
        let began = *wait.began.get_or_insert_with(Instant::now);
        if wait.said {
            return None;
        }
        if began.elapsed() < LONG {
            return Some(began + LONG);
        }
        wait.said = true;
        let topic = self.member.topic();
        match self.slowest() {
            Some((peer, lag)) if peer.pid == std::process::id() => tracing::warn!(
                topic,
                subscriber = peer.client,
                messages = lag,
                "a publisher has waited for room for 1 s, and still waits: \
                 a subscriber of this process is behind. A thread that sends on a topic that it reads itself has to read in between; \
                 try_send and send_timeout do not wait for ever"
            ),
            Some((peer, lag)) => tracing::warn!(
                topic,
                subscriber = peer.client,
                process = peer.pid,
                messages = lag,
                "a publisher has waited for room for 1 s, and still waits: \
                 a subscriber is behind"
            ),
            None => tracing::warn!(
                topic,
                "a publisher has waited for room for 1 s, and still waits: \
                 no subscriber is behind, but messages that are held take the room"
            ),
        }
        None
    }

    /// At the end of a publisher: says that nobody can have read what it sent.
    pub(super) fn notice_loss(&mut self) {
        let sent = self.core.head();
        let kept = self.settings.retain > 0;
        // Somebody may have joined since its last call, and read what the ring keeps.
        if sent == 0 || kept || self.had_subscribers || self.core.stale().is_some() {
            return;
        }
        if !thread_is_whole() {
            return;
        }
        let topic = self.member.topic();
        // A log may need a thread-local that is destroyed already. To panic in a destructor would abort the process.
        let _ = catch_unwind(AssertUnwindSafe(|| {
            tracing::warn!(
                topic,
                messages = sent,
                "a publisher has ended, and no subscriber came before: \
                 its messages went to nobody. wait_for_subscribers() waits for one; a topic with retain() keeps them"
            );
        }));
    }
}
