//! A value for each key: the reader.
//!
//! It reads the writer's ring from its oldest kept message on, and keeps a copy of the latest value of each key. The writer sees to it that
//! the messages that a ring keeps hold the latest of every key. So a reader that lost messages only goes on: once it has caught up it has
//! seen every key that there is, and forgets those that it has not seen again.

use std::collections::{HashMap, hash_map};
use std::hash::Hash;
use std::time::{Duration, Instant};

use bus_core::publish::Payload;
use bus_core::receive::{self, Copied};
use bus_core::schema::Schema;
use rkyv::api::high::HighDeserializer;
use rkyv::rancor::Failure;
use rkyv::{Archive, Deserialize};

use super::entry::{ArchivedEntry, Entry};
use crate::inlet::Inlet;
use crate::{Peer, Result, TopicBuilder};

/// What can be a key: it is compared, hashed, and made anew from what was received.
pub trait Key:
    Clone + Eq + Hash + Payload + Archive<Archived: Deserialize<Self, KeyMaker>>
{
}

impl<K> Key for K where K: Clone + Eq + Hash + Payload + Archive<Archived: Deserialize<K, KeyMaker>> {}

/// Makes a key anew.
pub type KeyMaker = HighDeserializer<Failure>;

/// Reads the latest value of each key of a state.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let bus = bus_client::Bus::private("risk")?;
/// let mut writer = bus.keyed_state_writer::<String, f64>("risk/positions")?;
/// writer.set("AAPL".into(), 1500.0)?;
/// writer.set("MSFT".into(), -20.0)?;
///
/// let mut positions = bus.keyed_state::<String, f64>("risk/positions")?;
/// assert_eq!(positions.get(&"AAPL".into())?.map(|p| p.to_native()), Some(1500.0));
/// assert_eq!(positions.len()?, 2);
/// # Ok(()) }
/// ```
///
/// `Send`: one thread at a time; each thread that reads opens one of its own.
pub struct KeyedState<K: Key, V: Payload> {
    inlet: Inlet,
    table: Table<K, V>,
}

impl<K: Key, V: Payload> KeyedState<K, V> {
    pub(crate) fn open(builder: TopicBuilder, keys: u32) -> Result<Self> {
        let builder = super::for_keys(builder, keys)?;
        let keep = builder.settings.keep.unwrap_or(1);
        let builder = builder.history(keep);
        let inlet = builder.open(|b, until| Inlet::open(b, &Schema::of::<Entry<K, V>>(), until))?;
        Ok(Self {
            inlet,
            table: Table::new(),
        })
    }

    /// Takes over what is new, if anything is.
    #[inline(always)]
    fn look(&mut self) -> Result<()> {
        if self.inlet.quiet() {
            return Ok(());
        }
        self.catch_up()
    }

    #[cold]
    fn catch_up(&mut self) -> Result<()> {
        let (table, inlet) = (&mut self.table, &self.inlet);
        let mut take = |core: &receive::Subscriber| match core.poll()? {
            Some(message) => {
                let writer = inlet.order(message.publisher());
                Ok(Some(table.take(&message, writer)?))
            }
            None => Ok(None),
        };
        if super::drain(&self.inlet, || Ok(self.inlet.once(&mut take)?.is_some()))? {
            self.table.settle();
        }
        Ok(())
    }

    /// The latest value of a key; none if it has none. Never waits, and consumes nothing.
    ///
    /// # Errors
    /// [`Error::Topic`](crate::Error::Topic) where what a writer sent is not valid: the next call goes on behind it.
    #[inline]
    pub fn get(&mut self, key: &K) -> Result<Option<&V::Archived>> {
        self.look()?;
        Ok(self.table.get(key))
    }

    /// All keys and their latest values, in any order.
    ///
    /// # Errors
    /// As for [`get`](Self::get).
    pub fn iter(&mut self) -> Result<impl Iterator<Item = (&K, &V::Archived)>> {
        self.look()?;
        let values = self.table.values.iter();
        Ok(values.filter_map(|(key, latest)| Some((key, latest.value()?))))
    }

    /// Number of keys.
    ///
    /// # Errors
    /// As for [`get`](Self::get).
    pub fn len(&mut self) -> Result<usize> {
        self.look()?;
        let values = self.table.values.values();
        Ok(values.filter(|latest| latest.value().is_some()).count())
    }

    /// Whether no key has a value.
    ///
    /// # Errors
    /// As for [`get`](Self::get).
    pub fn is_empty(&mut self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Waits until a value changes, or a key comes or goes, after what was last looked at or waited for; false when the time is over.
    ///
    /// # Errors
    /// As for [`get`](Self::get).
    pub fn changed(&mut self, timeout: Option<Duration>) -> Result<bool> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
            let table = &mut self.table;
            if super::wait(&self.inlet, left, |message, writer| {
                table.take(message, writer)
            })? {
                self.catch_up()?;
                return Ok(true);
            }
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(false);
            }
        }
    }

    /// Who writes this state now; none when its writer has ended or was killed. The values stay what they were.
    ///
    /// # Errors
    /// [`Error::Broker`](crate::Error::Broker) where the broker breaks the protocol.
    pub fn writer(&self) -> Result<Option<Peer>> {
        super::writer(&self.inlet)
    }

    /// The values as they were sent.
    pub(super) fn entries(&mut self) -> Result<impl Iterator<Item = (&K, &[u8])>> {
        self.look()?;
        let values = self.table.values.iter();
        let there = values.filter(|(_, latest)| latest.value().is_some());
        Ok(there.map(|(key, latest)| (key, latest.entry.bytes())))
    }
}

/// The latest of each key.
///
/// Of writers that follow each other, the later one has the higher [order](Inlet::order), and what it sent counts. It begins by sending everything that it
/// found; when it has, it says so, and what only those before it sent is no more. One that was killed before leaves the others'.
struct Table<K: Key, V: Payload> {
    values: HashMap<K, Latest<K, V>>,
    /// The latest writer that was heard of.
    writer: u64,
    /// Moves with each writer, and each time that messages of the latest one were lost; 0 for the writers before it.
    era: u64,
    /// Keys in the table that were removed.
    removed: usize,
    /// What is not of this era is no more, once everything that is there was taken over.
    renewed: bool,
}

struct Latest<K: Key, V: Payload> {
    writer: u64,
    sequence: u64,
    era: u64,
    entry: Copied<Entry<K, V>>,
}

impl<K: Key, V: Payload> Latest<K, V> {
    #[inline]
    fn value(&self) -> Option<&V::Archived> {
        match &*self.entry {
            ArchivedEntry::Set { value, .. } => Some(value),
            ArchivedEntry::Removed { .. } | ArchivedEntry::Complete => None,
        }
    }
}

impl<K: Key, V: Payload> Table<K, V> {
    fn new() -> Self {
        Self {
            values: HashMap::new(),
            writer: 0,
            era: 0,
            removed: 0,
            renewed: false,
        }
    }

    #[inline]
    fn get(&self, key: &K) -> Option<&V::Archived> {
        self.values.get(key)?.value()
    }

    /// Takes a message over; whether it says something new.
    fn take(&mut self, message: &receive::Message<'_>, writer: u64) -> bus_core::Result<bool> {
        let sequence = message.sequence();
        let entry = Copied::<Entry<K, V>>::of(message)?;
        if writer > self.writer {
            self.writer = writer;
            self.era += 1;
            // A ring whose first messages are gone is that of a writer that has long taken over.
            self.renewed = sequence > 0;
        } else if writer == self.writer && message.passed() {
            self.era += 1;
            self.renewed = true;
        }
        let era = if writer == self.writer { self.era } else { 0 };
        let key = match &*entry {
            ArchivedEntry::Set { key, .. } | ArchivedEntry::Removed { key } => key,
            ArchivedEntry::Complete => {
                self.renewed |= writer == self.writer;
                return Ok(false);
            }
        };
        let key = rkyv::deserialize::<K, Failure>(key).map_err(|_| {
            let why = format!("its key makes no value of type {}", K::kind());
            bus_core::Error::Corrupt { sequence, why }
        })?;
        let new = Latest {
            writer,
            sequence,
            era,
            entry,
        };
        self.removed += usize::from(new.value().is_none());
        Ok(match self.values.entry(key) {
            hash_map::Entry::Occupied(mut old) => {
                let before = old.get();
                if (before.writer, before.sequence) > (writer, sequence) {
                    return Ok(false);
                }
                // A writer repeats what is about to leave its ring: that is no change.
                let changed = before.entry.bytes() != new.entry.bytes();
                old.insert(new);
                changed
            }
            hash_map::Entry::Vacant(place) => {
                let changed = new.value().is_some();
                place.insert(new);
                changed
            }
        })
    }

    /// Everything that is there was taken over. A writer that follows comes with its ring after those before it, so what was removed need not
    /// be remembered any more.
    fn settle(&mut self) {
        if self.renewed {
            self.renewed = false;
            let era = self.era;
            self.values.retain(|_, latest| latest.era == era);
        }
        if self.removed > 0 {
            self.removed = 0;
            self.values.retain(|_, latest| latest.value().is_some());
        }
    }
}
