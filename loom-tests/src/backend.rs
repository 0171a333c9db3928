//! The backend of the models: loom's atomics, the fence pair, the futex, the doorbell.
//!
//! Promises: an access has its site's ordering, or none where the site is the weakened one; then a fence is left
//! out. It does not model time: a deadline is ignored, so that no wake-up is missed and yet made good.

use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bus_core::backend::{Backend, Site};
use bus_core::memory::layout::RegistryPage;
use loom::sync::atomic::{AtomicU32, AtomicU64};

use crate::doorbell::{Doorbell, Known};
use crate::memory::{ModelReader, ModelRing};
use crate::{kernel, mutant};

/// A modelled word, or a place in a layout that the protocol never touches.
#[derive(Debug)]
pub struct Word<A>(Option<A>);

impl<A> Word<A> {
    /// A word that nobody may touch: it costs the model nothing.
    pub fn untouched() -> Self {
        Self(None)
    }

    fn atomic(&self) -> &A {
        self.0
            .as_ref()
            .expect("the protocol touches only words of its own")
    }
}

impl Word<AtomicU32> {
    /// A word of 32 bits that holds 0.
    pub fn zero32() -> Self {
        Self(Some(AtomicU32::new(0)))
    }
}

impl Word<AtomicU64> {
    /// A word of 64 bits.
    pub fn new64(value: u64) -> Self {
        Self(Some(AtomicU64::new(value)))
    }
}

/// The model checker's memory, fences and sleep.
#[derive(Debug)]
pub struct Loom;

fn ordering(site: Site) -> Ordering {
    if mutant::is_weak(site) {
        // ORDERING: the mutation: what the gate asks the models to notice.
        return Ordering::Relaxed;
    }
    site.ordering
}

impl Backend for Loom {
    type Word32 = Word<AtomicU32>;
    type Word64 = Word<AtomicU64>;
    type Ring = ModelRing;
    type Reader = ModelReader;
    type Registry = Rc<RegistryPage<Self>>;
    type Notify = Rc<Doorbell>;
    type Relay = Known;

    fn load32(word: &Self::Word32, site: Site) -> u32 {
        // ORDERING: the site's, or none.
        word.atomic().load(ordering(site))
    }

    fn store32(word: &Self::Word32, value: u32, site: Site) {
        kernel::current().fuse.burn();
        // ORDERING: the site's, or none.
        word.atomic().store(value, ordering(site));
    }

    fn load64(word: &Self::Word64, site: Site) -> u64 {
        // ORDERING: the site's, or none.
        word.atomic().load(ordering(site))
    }

    fn store64(word: &Self::Word64, value: u64, site: Site) {
        kernel::current().fuse.burn();
        // ORDERING: the site's, or none.
        word.atomic().store(value, ordering(site));
    }

    fn light_fence(site: Site) {
        if !mutant::is_weak(site) {
            kernel::current().fences.light();
        }
    }

    fn heavy_fence(site: Site) {
        if !mutant::is_weak(site) {
            kernel::current().fences.heavy();
        }
    }

    fn full_fence(site: Site) {
        if !mutant::is_weak(site) {
            // ORDERING: the site's.
            loom::sync::atomic::fence(site.ordering);
        }
    }

    fn sleep(words: &[(&Self::Word32, u32)], _deadline: Option<Instant>) {
        kernel::current().futex.sleep(words);
    }

    fn wake(word: &Self::Word32) {
        kernel::current().futex.wake(word);
    }

    fn notify(notify: &Rc<Doorbell>) {
        notify.ring();
    }

    fn relay(relay: &Known) {
        relay.ring();
    }

    fn spin() {
        loom::thread::yield_now();
    }
}
