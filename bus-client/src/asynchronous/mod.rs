//! Handles whose waits are futures, for the tokio runtime. Only with the feature `tokio`.
//!
//! Promises: a future that is dropped loses nothing and sends nothing; a handle and its futures may move between threads; who waits for
//! messages or room is woken by its doorbell, which is rung only then. While there is something, no call makes a system call. A
//! handle that always has something lets other tasks in, as everything of tokio does.
//!
//! It asks for a runtime with its I/O driver, and its clock where the broker may go or a topic evicts (`enable_all`). A handle may be
//! awaited in one runtime and later in another: it registers with the runtime of the task that waits. Before it waits it looks again for as long as the handle spins, 5 microseconds at most, for its thread
//! has other tasks: zero spin looks once.

mod publisher;
mod recv;
mod subscriber;
mod watch;

use std::task::{Context, Poll};
use std::time::Duration;

pub use publisher::AsyncPublisher;
pub use recv::Recv;
pub use subscriber::AsyncSubscriber;

/// Longest look again before a wait.
const SPIN: Duration = Duration::from_micros(5);
/// Looks in vain at what seems to be there before other tasks have their turn. Only a hostile peer makes more than a few.
const LOOKS: usize = 16;

/// Lets other tasks have their turn, and goes on then.
fn yield_now<T>(cx: &Context<'_>) -> Poll<T> {
    cx.waker().wake_by_ref();
    Poll::Pending
}
