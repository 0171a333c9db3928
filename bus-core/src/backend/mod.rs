//! What the ring protocol stands on: atomic words, fences, sleep and wake.
//!
//! The protocol is written once, over [`Backend`]; [`Native`] runs it on mapped memory, and
//! `loom-tests` runs the same lines under a model checker. Each access that carries an ordering names its
//! [`Site`], so that the model can weaken one site at a time and show that it is needed.
//!
//! A backend promises the semantics of C++20 atomics between processes. It does not know what a
//! ring is.

mod ahead;
pub(crate) mod copy;
pub mod doorbell;
mod futex;
mod membarrier;
mod native;
pub mod site;

use std::ops::Deref;
use std::time::Instant;

pub use native::{MappedReader, MappedRegistry, MappedRing, Native};
pub use site::{Site, WakeUp};

use crate::memory::layout::{ReaderHeader, RegistryPage, RingHeader, SlotHeader};

/// Atomic words, fences, sleeping: real or modelled.
///
/// An implementation never calls back into the publisher or subscriber whose words it is given.
pub trait Backend: Sized + 'static {
    /// A 32-bit word in a segment; one that can be slept on.
    type Word32;
    /// A 64-bit word in a segment.
    type Word64;
    /// A ring, as a publisher or a subscriber sees it.
    type Ring: RingMemory<Self>;
    /// A subscriber's own segment.
    type Reader: ReaderMemory<Self>;
    /// A topic's registry.
    type Registry: Deref<Target = RegistryPage<Self>>;
    /// What wakes one sleeper that is parked: its doorbell.
    type Notify;
    /// The way to parked sleepers of the topic whose doorbell is not known here: through the broker.
    type Relay: Clone;

    /// Loads a 32-bit word with the site's ordering.
    fn load32(word: &Self::Word32, site: Site) -> u32;
    /// Stores a 32-bit word with the site's ordering.
    fn store32(word: &Self::Word32, value: u32, site: Site);
    /// Loads a 64-bit word with the site's ordering.
    fn load64(word: &Self::Word64, site: Site) -> u64;
    /// Stores a 64-bit word with the site's ordering.
    fn store64(word: &Self::Word64, value: u64, site: Site);
    /// The data path's half of a fence pair: next to free.
    fn light_fence(site: Site);
    /// The sleeper's half of a fence pair: pays for both.
    fn heavy_fence(site: Site);
    /// A fence with the site's ordering that needs no part of the other side's: both pay for their own.
    fn fence(site: Site);
    /// Sleeps until one of the words is woken or no longer holds its value, or until the deadline.
    /// May return early. At most 128 words.
    fn sleep(words: &[(&Self::Word32, u32)], deadline: Option<Instant>);
    /// Wakes everyone asleep on this word.
    fn wake(word: &Self::Word32);
    /// Wakes the sleeper that is parked there, now or when it next looks. Never waits.
    fn notify(notify: &Self::Notify);
    /// Has the parked sleepers of the other side woken, by who knows them. Never waits.
    fn relay(relay: &Self::Relay);
    /// One turn of a spin loop.
    fn spin();
    /// Whether this wake-up is made. It always is, but where a model asks whether it is needed.
    #[inline(always)]
    fn makes(_call: WakeUp) -> bool {
        true
    }
}

/// A ring's words. Indices come from the protocol, bounds from the registration.
pub trait RingMemory<B: Backend> {
    /// The words beside the slots.
    fn header(&self) -> &RingHeader<B>;
    /// The words at the head of the slot that holds `sequence`.
    fn slot(&self, sequence: u64) -> &SlotHeader<B>;
    /// Number of slots, a power of two.
    fn depth(&self) -> u64;
    /// Somebody waits for the next message: where its payload probably lies, it may come nearer. A hint without a meaning.
    #[inline(always)]
    fn foresee(&self) {}
}

/// A subscriber's words.
pub trait ReaderMemory<B: Backend> {
    /// The words beside the cursors.
    fn header(&self) -> &ReaderHeader<B>;
    /// The cursor for the ring with this index; the index is below the number of
    /// [rings](crate::TopicSettings::rings) that the topic can have.
    fn cursor(&self, index: usize) -> &B::Word64;
    /// A pin for the ring with this index; its number is below what the topic lets a subscriber hold.
    fn pin(&self, index: usize, number: usize) -> &B::Word64;
}
