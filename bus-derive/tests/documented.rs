//! A user may forbid undocumented items and every other warning: what the attribute adds keeps to it.
//!
//! It is a program of its own, because what it forbids, it forbids in its whole crate.
#![deny(missing_docs, warnings, unused_qualifications, unreachable_pub)]

/// What `bus_client` re-exports.
pub mod bus {
    pub use bus_core::schema;
    pub use rkyv;
}

/// Public types, as a library would have them.
pub mod market {
    use bus_derive::message;

    /// One trade.
    #[message(crate = crate::bus)]
    pub struct Tick {
        /// In francs.
        pub price: f64,
        /// Where it was made.
        pub venue: String,
        /// Which way.
        pub side: Side,
    }

    /// Which way it went.
    #[message(crate = crate::bus)]
    pub enum Side {
        /// With a limit, in francs.
        Buy(f64),
        /// With a count.
        Sell(u32),
        /// Neither.
        Hold,
    }

    /// Two of a kind.
    #[message(crate = crate::bus)]
    pub struct Pair<T>(pub T, pub T);
}

#[test]
fn a_public_message_needs_no_further_documentation() {
    let schema = bus::schema::Schema::of::<market::Pair<market::Tick>>();
    assert_eq!(schema.name, "Pair<Tick>");
    assert_eq!(schema.fields[3].path, "0.side");
}
