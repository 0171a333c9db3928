//! The backend of the models: loom's atomics, the fence pair, the futex, the doorbell.
//!
//! Promises: an access has its site's ordering, or none where the site is the weakened one; then a fence is left
//! out. A wake-up is made unless it is the one that is left out. It does not model time: a deadline is ignored, so that no wake-up is missed and yet made good.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bus_core::backend::{Backend, Site, WakeUp};
use bus_core::memory::layout::RegistryPage;
use loom::sync::atomic::{AtomicU32, AtomicU64};
use loom::thread::{self, ThreadId};

use crate::doorbell::{Doorbell, Known};
use crate::memory::{ModelReader, ModelRing};
use crate::{kernel, mutant};

/// A modelled word, or a place in a layout that the protocol never touches.
///
/// A thread that stored last knows what a load would give it, so its loads are no steps of the model. That is
/// more than a saving. Of each word, loom remembers only the latest access: a load before a store of the same
/// thread would hide from it that an earlier load of another thread and that store can come in either order.
#[derive(Debug)]
pub struct Word<A: Atomic> {
    atomic: Option<A>,
    /// Which thread stored last, and what. loom's threads take turns.
    stored: Cell<Option<(ThreadId, A::Value)>>,
}

impl<A: Atomic> Word<A> {
    /// A word that nobody may touch: it costs the model nothing.
    pub fn untouched() -> Self {
        Self {
            atomic: None,
            stored: Cell::new(None),
        }
    }

    fn new(atomic: A) -> Self {
        Self {
            atomic: Some(atomic),
            ..Self::untouched()
        }
    }

    fn atomic(&self) -> &A {
        self.atomic
            .as_ref()
            .expect("the protocol touches only words of its own")
    }

    fn load(&self, site: Site) -> A::Value {
        match self.stored.get() {
            Some((thread, value)) if thread == thread::current().id() => value,
            // ORDERING: the site's, or none.
            _ => self.atomic().load(ordering(site)),
        }
    }

    fn store(&self, value: A::Value, site: Site) {
        kernel::current().fuse.burn();
        // ORDERING: the site's, or none.
        self.atomic().store(value, ordering(site));
        // After the store, which is where others may come first.
        self.stored.set(Some((thread::current().id(), value)));
    }
}

impl Word<AtomicU32> {
    /// A word of 32 bits that holds 0.
    pub fn zero32() -> Self {
        Self::new(AtomicU32::new(0))
    }

    /// Adds one in one step.
    pub fn add_one(&self) {
        // ORDERING: none; see the broker, which alone does so.
        let before = self.atomic().fetch_add(1, Ordering::Relaxed);
        self.stored.set(Some((thread::current().id(), before + 1)));
    }
}

impl Word<AtomicU64> {
    /// A word of 64 bits.
    pub fn new64(value: u64) -> Self {
        Self::new(AtomicU64::new(value))
    }
}

/// loom's atomics, as far as a word needs them.
pub trait Atomic {
    /// What it holds.
    type Value: Copy;
    /// Loads it.
    fn load(&self, ordering: Ordering) -> Self::Value;
    /// Stores it.
    fn store(&self, value: Self::Value, ordering: Ordering);
}

macro_rules! atomic {
    ($atomic:ty, $value:ty) => {
        impl Atomic for $atomic {
            type Value = $value;

            fn load(&self, ordering: Ordering) -> $value {
                // ORDERING: the caller's.
                Self::load(self, ordering)
            }

            fn store(&self, value: $value, ordering: Ordering) {
                // ORDERING: the caller's.
                Self::store(self, value, ordering);
            }
        }
    };
}

atomic!(AtomicU32, u32);
atomic!(AtomicU64, u64);

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
        word.load(site)
    }

    fn store32(word: &Self::Word32, value: u32, site: Site) {
        // ORDERING: the site's, or none.
        word.store(value, site);
    }

    fn load64(word: &Self::Word64, site: Site) -> u64 {
        // ORDERING: the site's, or none.
        word.load(site)
    }

    fn store64(word: &Self::Word64, value: u64, site: Site) {
        // ORDERING: the site's, or none.
        word.store(value, site);
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

    fn fence(site: Site) {
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
        thread::yield_now();
    }

    fn makes(call: WakeUp) -> bool {
        !mutant::is_silent(call)
    }
}
