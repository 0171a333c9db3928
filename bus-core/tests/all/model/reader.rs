//! One subscriber, real and as the model sees it.

use std::collections::{BTreeSet, VecDeque};
use std::ptr::NonNull;
use std::sync::{Arc, Weak};

use bus_core::receive::{Message, Subscriber};

use crate::common::{Topic, Words, cursor_offset};

/// A subscriber, the messages it keeps, and the model beside it.
pub struct Reader {
    pub id: u64,
    /// None once it is dropped; messages held may keep the membership.
    subscriber: Option<NonNull<Subscriber>>,
    /// Received and kept. They borrow the subscriber: see `drop_subscriber`.
    pub kept: Vec<Message<'static>>,
    membership: Weak<dyn Send + Sync>,
    words: Words,
    /// The model: what is to come, in order.
    pub coming: VecDeque<u64>,
    /// The model: the sequence after the newest received.
    pub next: u64,
    /// The model: received and not released.
    pub unreleased: BTreeSet<u64>,
    /// The model: given back by their holders, not yet fetched by the subscriber.
    pub returned: Vec<u64>,
}

impl Reader {
    pub fn new(id: u64, topic: &Topic) -> Self {
        let membership: Arc<dyn Send + Sync> = Arc::new(());
        let weak = Arc::downgrade(&membership);
        let subscriber = topic.subscriber(membership);
        let words = Words::of(&subscriber.fd());
        Self {
            id,
            subscriber: Some(NonNull::from(Box::leak(Box::new(subscriber)))),
            kept: Vec::new(),
            membership: weak,
            words,
            coming: VecDeque::new(),
            next: 0,
            unreleased: BTreeSet::new(),
            returned: Vec::new(),
        }
    }

    /// The subscriber, if it is not dropped.
    pub fn subscriber(&self) -> Option<&'static Subscriber> {
        // SAFETY: the box lives until `drop_subscriber`, which drops the messages that borrow it first; nothing
        // else in this test keeps what is returned here.
        self.subscriber
            .map(|subscriber| unsafe { subscriber.as_ref() })
    }

    /// Drops what is kept, then the subscriber.
    pub fn drop_subscriber(&mut self) {
        for message in self.kept.drain(..) {
            self.unreleased.remove(&message.sequence());
        }
        self.fetch();
        if let Some(subscriber) = self.subscriber.take() {
            // SAFETY: it came from a box, and the messages that borrowed it are gone.
            drop(unsafe { Box::from_raw(subscriber.as_ptr()) });
        }
    }

    /// The model: starts at `start`, with everything up to `head` to come.
    pub fn start(&mut self, start: u64, head: u64) {
        self.next = start;
        self.coming = (start..head).collect();
    }

    /// The model: the subscriber's next call releases what was given back.
    pub fn fetch(&mut self) {
        for sequence in self.returned.drain(..) {
            self.unreleased.remove(&sequence);
        }
    }

    /// The model: how many more it may hold of `held`.
    pub fn may_hold(&self, held: u32) -> usize {
        (held as usize).saturating_sub(self.unreleased.len())
    }

    /// The model: everything below is released.
    pub fn cursor(&self) -> u64 {
        *self.unreleased.first().unwrap_or(&self.next)
    }

    /// What the shared word says.
    pub fn real_cursor(&self) -> u64 {
        self.words.at64(cursor_offset(0))
    }

    /// Whether it still counts for the publisher: it lives, or a message that it handed out does.
    pub fn member(&self) -> bool {
        self.membership.strong_count() > 0
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.drop_subscriber();
    }
}
