//! Every place of the protocol that carries an ordering, and every call that may wake a sleeper, in two
//! tables.
//!
//! `loom-tests` weakens each ordering in turn (an acquire or release access becomes relaxed, a fence is
//! left out) and leaves out each wake-up in turn. Each time some model must fail. A site that no model
//! misses does not belong here: such an access is [`RELAXED`], and such a call is removed.

use std::sync::atomic::Ordering;

/// One place of the protocol and the ordering that it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// Its name, as the mutation gate prints it.
    pub name: &'static str,
    /// The ordering of the access or fence.
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
    /// Publisher that waits for its subscribers, between its floor and what it writes over below the floor; pairs with the
    /// acquire fence of a reader that nobody waits for, between its copy and its look at the floor.
    FLOOR_STEP_FENCE = Release "floor.step.fence";
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

/// One call of the protocol that may wake a sleeper.
///
/// The mutation gate finds a wrong ordering by its [`Site`]; a missing call has none. So each call
/// asks [`Backend::makes`](super::Backend::makes) first, which only a model ever answers with no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WakeUp {
    /// Its name, as the mutation gate prints it.
    pub name: &'static str,
}

macro_rules! wake_ups {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        $(
            $(#[$doc])*
            pub const $name: WakeUp = WakeUp { name: $text };
        )*
        /// All wake-ups: first those of publishers, then those of subscribers, then how each is done.
        pub const WAKE_UPS: &[WakeUp] = &[$($name),*];
    };
}

wake_ups! {
    /// A publisher closes its ring and looks for subscribers that sleep.
    CLOSE_WAKES = "close.wakes";
    /// A publisher rings its bell, as a subscriber sleeps on it.
    READER_BELL = "reader.bell";
    /// A publisher rings the doorbell of a subscriber that is parked.
    READER_DOORBELL = "reader.doorbell";
    /// A publisher asks the broker to ring a subscriber that is parked and has told no doorbell here.
    READER_RELAY = "reader.relay";
    /// A publisher rings its bell, as the set of subscribers has moved: a new one may sleep on it.
    NEWCOMER_BELL = "newcomer.bell";
    /// A publisher asks the broker to ring, as the set of subscribers has moved: a new one may be parked.
    NEWCOMER_RELAY = "newcomer.relay";
    /// A subscriber has released messages of a ring where publishers wait for it.
    RELEASE_WAKES = "release.wakes";
    /// A subscriber has moved its window, where publishers may go past.
    SLIDE_WAKES = "slide.wakes";
    /// A subscriber has given back what it held outside of a wider window, where publishers may go past.
    GIVE_BACK_WAKES = "give-back.wakes";
    /// A subscriber has joined: a publisher may wait for that, or for room.
    JOIN_WAKES = "join.wakes";
    /// The same for a publisher whose ring is not attached yet. It sleeps on the subscriber's bell.
    JOIN_BELL = "join.bell";
    /// A subscriber has left: a publisher may wait for room.
    LEAVE_WAKES = "leave.wakes";
    /// The same for a publisher whose ring was never attached. It sleeps on the subscriber's bell.
    LEAVE_BELL = "leave.bell";
    /// A subscriber rings its bell, as a publisher sleeps on it.
    PUBLISHER_BELL = "publisher.bell";
    /// A subscriber rings the doorbell of a publisher that is parked.
    PUBLISHER_DOORBELL = "publisher.doorbell";
    /// A subscriber asks the broker to ring a publisher that is parked and has told no doorbell here.
    PUBLISHER_RELAY = "publisher.relay";
    /// A bell moves, so that a sleeper that has not reached the kernel stays awake.
    BELL_MOVES = "bell.moves";
    /// A bell wakes those that the kernel has put to sleep on it.
    BELL_WAKES = "bell.wakes";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ordering_and_wake_up_has_a_name_of_its_own() {
        let orderings = ALL.iter().map(|site| site.name);
        let wake_ups = WAKE_UPS.iter().map(|call| call.name);
        let mut names: Vec<_> = orderings.chain(wake_ups).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all, "the gate takes a mutant by its name");
    }
}
