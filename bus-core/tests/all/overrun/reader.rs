//! One subscriber, real and as the model sees it.

use std::collections::BTreeSet;
use std::ptr::NonNull;
use std::sync::{Arc, Weak};

use bus_core::memory::reader_bytes;
use bus_core::receive::{Message, Subscriber};

use bus_core::memory::layout::IDLE;

use crate::common::{Topic, Words, cursor_offset, pin_offset};

/// A subscriber, the messages it keeps, and the model beside it.
pub struct Reader {
    pub id: u64,
    /// None once it is dropped; messages held may keep the membership.
    subscriber: Option<NonNull<Subscriber>>,
    /// Received and kept. They borrow the subscriber: see `drop_subscriber`.
    pub kept: Vec<Message<'static>>,
    membership: Weak<dyn Send + Sync>,
    words: Words,
    pins: usize,
    /// The model: what comes next, if it is still there.
    pub next: u64,
    /// The model: where its window ends; at `next` where it has none.
    pub end: u64,
    /// The model: lost in all, and since a message was last received.
    pub lost: u64,
    pub lost_before: u64,
    /// The model: received and not released.
    pub out: BTreeSet<u64>,
    /// The model: given back by their holders, not yet fetched by the subscriber.
    pub returned: Vec<u64>,
}

impl Reader {
    pub fn new(id: u64, topic: &Topic) -> Self {
        let membership: Arc<dyn Send + Sync> = Arc::new(());
        let weak = Arc::downgrade(&membership);
        let subscriber = topic.subscriber(membership);
        let words = Words::first(&subscriber.fd(), reader_bytes(&topic.settings));
        Self {
            id,
            subscriber: Some(NonNull::from(Box::leak(Box::new(subscriber)))),
            kept: Vec::new(),
            membership: weak,
            words,
            pins: topic.settings.held as usize,
            next: 0,
            end: 0,
            lost: 0,
            lost_before: 0,
            out: BTreeSet::new(),
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
            self.out.remove(&message.sequence());
        }
        self.fetch();
        if let Some(subscriber) = self.subscriber.take() {
            // SAFETY: it came from a box, and the messages that borrowed it are gone.
            drop(unsafe { Box::from_raw(subscriber.as_ptr()) });
        }
    }

    /// The model: the subscriber's next call releases what was given back.
    pub fn fetch(&mut self) {
        for sequence in self.returned.drain(..) {
            self.out.remove(&sequence);
        }
    }

    /// The model: so many are lost.
    pub fn lose(&mut self, count: u64) {
        self.lost += count;
        self.lost_before += count;
        self.next += count;
    }

    /// What the shared word says.
    pub fn cursor(&self) -> u64 {
        self.words.at64(cursor_offset(0)) & !IDLE
    }

    /// What the shared words protect, of messages below `head`.
    pub fn protected(&self, window: u64, head: u64) -> BTreeSet<u64> {
        let cursor = self.cursor();
        let rests = self.words.at64(cursor_offset(0)) & IDLE != 0;
        let window = if rests { 0 } else { window };
        let pins = (0..self.pins).map(|number| self.words.at64(pin_offset(number)));
        let pinned = pins.filter(|pin| *pin != 0).map(|pin| pin - 1);
        let all = (cursor..cursor + window).chain(pinned);
        all.filter(|sequence| *sequence < head).collect()
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
