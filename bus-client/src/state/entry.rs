//! What travels on the topic of a keyed state.

/// One message of a keyed state.
#[bus_derive::message(crate = crate)]
pub enum Entry<K, V> {
    /// The value of a key.
    Set {
        /// The key.
        key: K,
        /// Its value.
        value: V,
    },
    /// A key has no value any more.
    Removed {
        /// The key.
        key: K,
    },
    /// The writer has taken over from the one before it: what it has not sent is no more.
    Complete,
}
