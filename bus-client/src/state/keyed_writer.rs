//! A value for each key: the writer.
//!
//! ```text
//!   messages that the ring keeps                          head
//!   | a  b  b  c  a  b  c  d  b  b  b  b  b  b  b  b  b |
//!     ^ old          ^a ^c ^d: the latest of their keys
//! ```
//! Promises: the messages that a ring keeps hold the latest of every key. What is about to leave them is sent again, which
//! happens at most once for each message set, on average, as a ring keeps twice as many messages as there may be keys.

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
        let outlet =
            builder.open(|b, until| Outlet::open(b, &Schema::of::<Entry<K, V>>(), until))?;
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
        writer.send(&complete)?;
        Ok(writer)
    }

    /// Sets the value of a key. Never waits.
    ///
    /// # Errors
    /// [`Error::Keys`] where there are as many keys as the state takes; [`Error::Topic`] where the two are too large or cannot be
    /// serialised; [`Error::Full`] where readers protect so many old values that there is no room. All values stay what they were.
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
        self.put(key, bytes)
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
        self.send(&bytes)?;
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

    fn put(&mut self, key: K, bytes: AlignedVec) -> Result<()> {
        let sequence = self.send(&bytes)?;
        self.sent.push_back((sequence, key.clone()));
        self.latest.insert(key, Latest { sequence, bytes });
        self.send_again()
    }

    fn send(&mut self, bytes: &[u8]) -> Result<u64> {
        self.outlet.send_kept(bytes)
    }

    /// Sends again what is the latest of its key and about to leave what the ring keeps. What finds no room now is tried again at the next call.
    fn send_again(&mut self) -> Result<()> {
        let keep = u64::from(self.outlet.settings().keep);
        // One more may be sent before anybody looks here again.
        while let Some((sent, key)) = self.sent.front()
            && self.outlet.core.head() - sent + 1 >= keep
        {
            let current = self.latest.get(key).filter(|l| l.sequence == *sent);
            if let Some(bytes) = current.map(|latest| latest.bytes.clone()) {
                let key = key.clone();
                let sequence = match self.send(&bytes) {
                    Err(Error::Full { .. }) => return Ok(()),
                    sent => sent?,
                };
                self.sent.push_back((sequence, key.clone()));
                self.latest.insert(key, Latest { sequence, bytes });
            }
            self.sent.pop_front();
        }
        Ok(())
    }
}
