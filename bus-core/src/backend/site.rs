//! Every place of the protocol that carries an ordering, in one table.
//!
//! `loom-tests` weakens each of them in turn (an acquire or release access becomes relaxed, a fence is
//! left out) and demands that a model fails. A site that no model misses does not belong here:
//! such an access is [`RELAXED`].

use std::sync::atomic::Ordering;

/// One place of the protocol and the ordering that it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// Its name, as the mutation gate prints it.
    pub name: &'static str,
    /// The ordering of the access; of a fence always sequentially consistent.
    pub ordering: Ordering,
}

// ORDERING: for words whose order against others is made by a fence beside them, or does not matter.
/// An access that carries no ordering of its own.
pub const RELAXED: Site = Site {
    name: "relaxed",
    ordering: Ordering::Relaxed,
};

macro_rules! sites {
    ($($(#[$doc:meta])* $name:ident = $ordering:ident $text:literal;)*) => {
        $(
            $(#[$doc])*
            // ORDERING: the doc line above names what it pairs with.
            pub const $name: Site = Site { name: $text, ordering: Ordering::$ordering };
        )*
        /// All sites, in the order of a message's life.
        pub const ALL: &[Site] = &[$($name),*];
    };
}

sites! {
    /// Publisher stores the stamp; pairs with [`RECEIVE_COMMIT`]: the payload is seen whole.
    PUBLISH_COMMIT = Release "publish.commit";
    /// Subscriber loads the stamp; pairs with [`PUBLISH_COMMIT`].
    RECEIVE_COMMIT = Acquire "receive.commit";
    /// Subscriber stores its cursor; pairs with [`PUBLISH_CURSOR`]: its reads are over before the slot is written again.
    RELEASE_CURSOR = Release "release.cursor";
    /// Publisher loads a cursor; pairs with [`RELEASE_CURSOR`].
    PUBLISH_CURSOR = Acquire "publish.cursor";
    /// Publisher closes its ring; pairs with [`RECEIVE_STATE`]: its last message is seen before its end.
    CLOSE_STATE = Release "close.state";
    /// Subscriber loads the state of a ring; pairs with [`CLOSE_STATE`].
    RECEIVE_STATE = Acquire "receive.state";
    /// Subscriber leaves; pairs with [`PUBLISH_STATE`]: its reads are over before its slots are written again.
    LEAVE_STATE = Release "leave.state";
    /// Publisher loads the state of a reader; pairs with [`LEAVE_STATE`].
    PUBLISH_STATE = Acquire "publish.state";
    /// Publisher stores where a message lies, in a slot of which an older one is still held; pairs with [`RECEIVE_PLACE`]: who
    /// reads the new place sees that the stamp is no longer the old one.
    REPLACE_PLACE = Release "replace.place";
    /// Subscriber loads where a message lies, before it looks at the stamp again; pairs with [`REPLACE_PLACE`].
    RECEIVE_PLACE = Acquire "receive.place";
    /// Subscriber gives a pin back, or takes it for another message; pairs with [`FLOOR_PIN`]: its reads are over before the message is
    /// written over.
    RELEASE_PIN = Release "release.pin";
    /// Publisher loads a pin; pairs with [`RELEASE_PIN`].
    FLOOR_PIN = Acquire "floor.pin";
    /// Publisher, between its floor and its look at versions, cursors and pins; pairs with [`PROTECT_FENCE`].
    FLOOR_FENCE = SeqCst "floor.fence";
    /// Subscriber, between its cursor and its look at the floor; pairs with [`FLOOR_FENCE`].
    PROTECT_FENCE = SeqCst "protect.fence";
    /// Publisher, between a commit and its look at sleepers; pairs with [`SLEEP_READER_FENCE`] and [`JOIN_FENCE`].
    PUBLISH_FENCE = SeqCst "publish.fence";
    /// Subscriber, between its odd `waiting` and its second look; pairs with [`PUBLISH_FENCE`].
    SLEEP_READER_FENCE = SeqCst "sleep.reader.fence";
    /// Subscriber, between its cursor or state and its bell or its look at a waiting publisher; pairs with [`SLEEP_PUBLISHER_FENCE`].
    RELEASE_FENCE = SeqCst "release.fence";
    /// Publisher, between its odd `waiting` and its second look; pairs with [`RELEASE_FENCE`].
    SLEEP_PUBLISHER_FENCE = SeqCst "sleep.publisher.fence";
    /// Subscriber, between the version's move and its look at the head; pairs with [`PUBLISH_FENCE`].
    JOIN_FENCE = SeqCst "join.fence";
}
