//! A value for each key: the writer.
//!
//! ```text
//!   messages that the ring keeps                          head
//!   | a  b  b  c  a  b  c  d  b  b  b  b  b  b  b  b  b |
//!     ^ old          ^a ^c ^d: the latest of their keys
//! ```
//! Promises: the messages that a ring keeps hold the latest of every key. A value that is about to leave them is sent again. As
//! a ring keeps twice as many messages as there may be keys, that happens once for each value set, on average.
//!
//! Values longer than a slot lie in the ring's arena, and fill it before the ring has kept as many messages. So
//! the writer keeps only the messages from the oldest value on that is still the latest of its key. Before it
//! sends such a value, it sends the oldest ones again until there is room for the new value and for the longest
//! one beside it. A state whose values take up to half of the arena always finds that room.

use std::collections::{HashMap, VecDeque};

use bus_core::publish::{Payload, to_bytes};
use bus_core::schema::{Nesting, Schema};
use rkyv::util::AlignedVec;

use super::keyed::Key;
use super::{Entry, KeyedState};
use crate::outlet::Outlet;
use crate::{Error, Peer, Result, TopicBuilder};

/// Writes a keyed state. There is one writer at a time; the values stay when it ends.
pub struct KeyedStateWriter<K: Key, V: Payload> {
    outlet: Outlet,
    latest: HashMap<K, Latest>,
    /// Messages in the order in which they were sent: the latest of a key, or one that was replaced since.
    sent: VecDeque<(u64, K)>,
    /// Most keys.
    keys: usize,
    nesting: Nesting,
    _writes: std::marker::PhantomData<fn(V)>,
}

struct Latest {
    sequence: u64,
    bytes: AlignedVec,
}

impl<K: Key, V: Payload> KeyedStateWriter<K, V> {
    pub(crate) fn open(builder: TopicBuilder, keys: u32) -> Result<Self> {
        let mut before = KeyedState::<K, V>::open(builder.clone(), keys)?;
        let builder = super::for_keys(builder, keys)?;
        let mut outlet =
            builder.open(|b, until| Outlet::open(b, &Schema::of::<Entry<K, V>>(), until))?;
        outlet.refuse_losses();
        let mut writer = Self {
            outlet,
            latest: HashMap::new(),
            sent: VecDeque::new(),
            keys: keys as usize,
            nesting: Nesting::of::<Entry<K, V>>(),
            _writes: std::marker::PhantomData,
        };
        // Who comes later hears of this writer's ring, perhaps no more of the one before.
        for (key, bytes) in before.entries()? {
            let mut own = AlignedVec::with_capacity(bytes.len());
            own.extend_from_slice(bytes);
            writer.put(key.clone(), own)?;
        }
        let complete = writer.serialise(&Entry::Complete)?;
        writer.outlet.send_kept(&complete)?;
        Ok(writer)
    }

    /// Sets the value of a key. Never waits.
    ///
    /// # Errors
    /// [`Error::Keys`] where there are as many keys as the state takes; [`Error::Topic`] where the two are too large or cannot be
    /// serialised, or where the values of all keys take too much of the arena (`CoreError::Kept`); [`Error::Full`] where readers protect
    /// so many old values that there is no room. All values stay what they were.
    pub fn set(&mut self, key: K, value: V) -> Result<()> {
        if !self.latest.contains_key(&key) && self.latest.len() >= self.keys {
            return Err(Error::Keys {
                topic: self.outlet.topic(),
                keys: self.keys,
            });
        }
        let entry = Entry::Set {
            key: key.clone(),
            value,
        };
        let bytes = self.serialise(&entry)?;
        self.make_room(bytes.len())?;
        self.put(key, bytes)?;
        self.send_again()
    }

    /// Removes a key; whether it had a value.
    ///
    /// # Errors
    /// As for [`set`](Self::set).
    pub fn remove(&mut self, key: &K) -> Result<bool> {
        if !self.latest.contains_key(key) {
            return Ok(false);
        }
        let bytes = self.serialise(&Entry::Removed { key: key.clone() })?;
        if let Err(error) = self.outlet.send_kept(&bytes) {
            // A key may be as long as a value.
            self.make_room(bytes.len()).map_err(|_| error)?;
            self.outlet.send_kept(&bytes)?;
        }
        self.latest.remove(key);
        self.send_again()?;
        Ok(true)
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.latest.len()
    }

    /// Whether no key has a value.
    pub fn is_empty(&self) -> bool {
        self.latest.is_empty()
    }

    /// Who reads this state now.
    ///
    /// # Errors
    /// [`Error::Broker`] where the broker breaks the protocol.
    pub fn readers(&mut self) -> Result<Vec<Peer>> {
        self.outlet.subscribers()
    }

    fn serialise(&self, entry: &Entry<K, V>) -> Result<AlignedVec> {
        let limit = self.outlet.settings().max_payload as usize;
        to_bytes(entry, limit, self.nesting).map_err(|e| self.outlet.wrap(e))
    }

    /// Sends the value of a key, which is its latest from now on.
    fn put(&mut self, key: K, bytes: AlignedVec) -> Result<()> {
        let sequence = self.outlet.send_kept(&bytes)?;
        self.sent.push_back((sequence, key.clone()));
        self.latest.insert(key, Latest { sequence, bytes });
        Ok(())
    }

    /// Sends again what is the latest of its key and about to leave what the ring keeps. What finds no room now is tried again at the next call.
    fn send_again(&mut self) -> Result<()> {
        let keep = u64::from(self.outlet.settings().keep);
        self.forget_replaced();
        // One more may be sent before anybody looks here again.
        while let Some((sent, _)) = self.sent.front()
            && self.outlet.core.head() - sent + 1 >= keep
        {
            match self.send_oldest_again() {
                Err(Error::Full { .. }) => return Ok(()),
                sent => sent?,
            }
        }
        Ok(())
    }

    /// Sends the oldest values again until a message of `len` bytes finds room, and the longest one beside it.
    ///
    /// # Errors
    /// [`Error::Topic`] with [`Kept`](bus_core::Error::Kept) where the values themselves take too much room;
    /// [`Error::Full`] where readers do.
    fn make_room(&mut self, len: usize) -> Result<()> {
        let settings = self.outlet.settings();
        let len = len as u64;
        if len <= settings.inline() || settings.keeps_longest() {
            return Ok(());
        }
        let needed = len.next_multiple_of(64) + settings.max_payload.next_multiple_of(64);
        // In a round all that was replaced is forgotten.
        for _ in 0..=self.sent.len() {
            self.forget_replaced();
            if self.outlet.has_room(needed)? {
                return Ok(());
            }
            if self.sent.is_empty() {
                break;
            }
            self.send_oldest_again()?;
        }
        let settings = self.outlet.settings();
        Err(self.outlet.wrap(bus_core::Error::Kept {
            keep: settings.keep,
            arena: settings.arena,
        }))
    }

    /// Keeps no message that another one has replaced, before the oldest that none has.
    fn forget_replaced(&mut self) {
        while let Some((sent, key)) = self.sent.front()
            && self.latest.get(key).is_none_or(|l| l.sequence != *sent)
        {
            self.sent.pop_front();
        }
        let head = self.outlet.core.head();
        let oldest = self.sent.front().map_or(head, |(sent, _)| *sent);
        self.outlet.core.keep_from(oldest);
    }

    /// Sends the oldest message again that is the latest of its key, and keeps only what came after it.
    fn send_oldest_again(&mut self) -> Result<()> {
        if let Some((_, key)) = self.sent.front() {
            let key = key.clone();
            if let Some(latest) = self.latest.get(&key) {
                let bytes = latest.bytes.clone();
                self.put(key, bytes)?;
            }
        }
        self.forget_replaced();
        Ok(())
    }
}
