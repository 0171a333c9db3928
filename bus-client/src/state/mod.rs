//! State: the latest value of something, to be read at any time.
//!
//! A state is a lossy topic of one writer whose ring the broker keeps when the writer ends. Readers copy what is new when they look, and
//! read their copy else: a look at an unchanged value is two loads of shared memory, in the reader's own cache, beside the value itself.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `single` | [`State`], [`StateWriter`]: one value |
//! | `keyed` | [`KeyedState`]: a value for each key |
//! | `keyed_writer` | [`KeyedStateWriter`]: keeps the latest of every key in the ring |
//! | `entry` | what travels: a key, and its value or none |
//!
//! Promises: a writer never waits for readers, readers never wait for the writer nor for each other, and read nothing half written. Values outlive their writer, for
//! readers that are there and for those that come later, as long as the broker lives. A later writer takes over where the last one ended.

mod entry;
mod keyed;
mod keyed_writer;
mod single;

use std::time::Duration;

use bus_core::receive;

pub use entry::Entry;
pub use keyed::{Key, KeyMaker, KeyedState};
pub use keyed_writer::KeyedStateWriter;
pub use single::{State, StateWriter};

use crate::inlet::Inlet;
use crate::{Bus, Delivery, Error, Payload, Peer, Result, TopicBuilder};

/// Slots of the ring of a single value.
const DEPTH: u32 = 8;
/// Rings of writers before that are there for who comes later: the last one may have been killed before it had taken over, and the one before.
const RETAIN: u32 = 4;
/// Keys of a state, unless told otherwise.
const DEFAULT_KEYS: u32 = 1024;
/// Most keys of a state.
const MAX_KEYS: u32 = 1 << 20;

impl Bus {
    /// A reader of a state: of the latest value, at any time.
    ///
    /// # Errors
    /// As for [`subscriber`](Self::subscriber).
    pub fn state<T: Payload>(&self, name: impl Into<String>) -> Result<State<T>> {
        self.topic(name)?.state()
    }

    /// The writer of a state.
    ///
    /// # Errors
    /// [`Error::Refused`] where it has a writer, and as for [`publisher`](Self::publisher).
    pub fn state_writer<T: Payload>(&self, name: impl Into<String>) -> Result<StateWriter<T>> {
        self.topic(name)?.state_writer()
    }

    /// A reader of a state of up to 1,024 keys: of the latest value of each.
    ///
    /// The writer's ring takes about 2.5 MiB by default. See
    /// [`TopicBuilder::keyed_state`](TopicBuilder::keyed_state) for other numbers of keys and lengths of values.
    ///
    /// # Errors
    /// As for [`subscriber`](Self::subscriber).
    pub fn keyed_state<K: Key, V: Payload>(
        &self,
        name: impl Into<String>,
    ) -> Result<KeyedState<K, V>> {
        self.topic(name)?.keyed_state(DEFAULT_KEYS)
    }

    /// The writer of a state of up to 1,024 keys. Its ring takes about 2.5 MiB by default.
    ///
    /// # Errors
    /// [`Error::Refused`] where it has a writer, and as for [`publisher`](Self::publisher).
    pub fn keyed_state_writer<K: Key, V: Payload>(
        &self,
        name: impl Into<String>,
    ) -> Result<KeyedStateWriter<K, V>> {
        self.topic(name)?.keyed_state_writer(DEFAULT_KEYS)
    }
}

impl TopicBuilder {
    /// Opens a reader of a state. Its settings are those of a lossy topic of one publisher, 8 slots deep, which keeps one message; four rings are retained.
    ///
    /// # Errors
    /// As for [`Bus::state`].
    pub fn state<T: Payload>(self) -> Result<State<T>> {
        State::open(self)
    }

    /// Opens the writer of a state.
    ///
    /// # Errors
    /// As for [`Bus::state_writer`].
    pub fn state_writer<T: Payload>(self) -> Result<StateWriter<T>> {
        StateWriter::open(self)
    }

    /// Opens a reader of a state of up to `keys` keys, 1 to 1,048,576.
    ///
    /// # Memory
    /// The writer's ring has four to eight slots for each key. Of keys and values without pointers that fit a slot
    /// it needs nothing else. For all others it has an [arena](Self::arena): by default 2 MiB, or 640 to 1,280
    /// bytes a key where that is more. Up to half of the arena may be taken by the values of all keys
    /// together, whatever the length of one; a `set` beyond what there is room for fails with
    /// [`CoreError::Kept`](crate::CoreError::Kept), and no value is lost.
    ///
    /// Where the longest value is known, [`max_payload`](Self::max_payload) makes an arena in which every key
    /// may have one. It counts key and value together, serialised. The broker keeps the rings of up to four writers that have ended.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let bus = bus_client::Bus::private("risk")?;
    /// let topic = || bus.topic("risk/notes").map(|topic| topic.max_payload(256));
    /// let mut notes = topic()?.keyed_state_writer::<u32, String>(5_000)?;
    /// notes.set(7, "stop".into())?;
    /// assert_eq!(topic()?.keyed_state::<u32, String>(5_000)?.len()?, 1);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As for [`Bus::keyed_state`].
    pub fn keyed_state<K: Key, V: Payload>(self, keys: u32) -> Result<KeyedState<K, V>> {
        KeyedState::open(self, keys)
    }

    /// Opens the writer of a state of up to `keys` keys, 1 to 1,048,576. Its memory is that which
    /// [`keyed_state`](Self::keyed_state) says.
    ///
    /// # Errors
    /// As for [`Bus::keyed_state_writer`].
    pub fn keyed_state_writer<K: Key, V: Payload>(
        self,
        keys: u32,
    ) -> Result<KeyedStateWriter<K, V>> {
        KeyedStateWriter::open(self, keys)
    }

    /// Settings of a state that keeps its last `keep` messages, as far as the user has not chosen others.
    fn for_state(mut self, depth: u32, keep: u32) -> Self {
        let settings = &mut self.settings;
        settings.delivery.get_or_insert(Delivery::Lossy);
        settings.depth.get_or_insert(depth);
        settings.keep.get_or_insert(keep);
        settings.retain.get_or_insert(RETAIN);
        settings.publishers.get_or_insert(1);
        self
    }
}

/// Settings of a state of up to this many keys: its ring keeps twice as many messages.
fn for_keys(builder: TopicBuilder, keys: u32) -> Result<TopicBuilder> {
    if !(1..=MAX_KEYS).contains(&keys) {
        return Err(Error::Argument(bus_core::Error::Setting {
            setting: "keys",
            value: keys.into(),
            allowed: "1 to 1048576",
        }));
    }
    let depth = (4 * keys).next_power_of_two().max(16);
    let builder = builder.for_state(depth, depth / 8 * 5);
    // Fewer could not hold the latest of every key beside what replaces it.
    match builder.settings.keep {
        Some(keep) if keep < 2 * keys => Err(Error::Argument(bus_core::Error::Setting {
            setting: "keep",
            value: keep.into(),
            allowed: "twice as many messages as keys, at least",
        })),
        _ => Ok(builder),
    }
}

/// Who writes now, if anybody does.
fn writer(inlet: &Inlet) -> Result<Option<Peer>> {
    Ok(inlet.publishers()?.pop())
}

/// Takes messages until there is none, or as many as the rings hold: a writer may be faster than this, and the next call goes on. Whether there
/// was none.
fn drain(inlet: &Inlet, mut take: impl FnMut() -> Result<bool>) -> Result<bool> {
    let depth = inlet.settings().depth as usize;
    let (mut taken, mut rings) = (0, 1);
    while taken <= depth * rings {
        if !take()? {
            return Ok(true);
        }
        taken += 1;
        // Some may have come, and others are let go of when they are read.
        rings = inlet.core.rings().max(rings);
    }
    Ok(false)
}

/// Waits for a message and takes it, with the [order](Inlet::order) of its writer; whether there was one in time.
fn wait(
    inlet: &Inlet,
    timeout: Option<Duration>,
    mut take: impl FnMut(&receive::Message<'_>, u64) -> bus_core::Result<bool>,
) -> Result<bool> {
    let found = inlet.until(timeout, |core| match core.poll()? {
        Some(message) => {
            let order = inlet.order(message.publisher());
            Ok(Some(take(&message, order)?))
        }
        None => Ok(None),
    })?;
    Ok(found.unwrap_or(false))
}
