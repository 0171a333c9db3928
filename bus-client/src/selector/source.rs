//! What a selector can receive from, and how it gets at it.

use std::rc::Weak;

use bus_core::publish::Payload;

use crate::inlet::Inlet;
use crate::{BytesSubscriber, Subscriber};

/// A subscriber that a [`Selector`](super::Selector) can watch: `&Subscriber<T>`, `&BytesSubscriber`, or a
/// [`Weak`] to one of them. Nothing else can be one.
pub trait Source: Sealed {}

impl<S: Sealed> Source for S {}

/// Within reach of this crate only.
pub trait Sealed {
    /// Shows its inlet, if it is still there; whether it was.
    fn with(&self, show: &mut dyn FnMut(&Inlet)) -> bool;
}

impl<T: Payload> Sealed for &Subscriber<T> {
    fn with(&self, show: &mut dyn FnMut(&Inlet)) -> bool {
        show(&self.inlet);
        true
    }
}

impl Sealed for &BytesSubscriber {
    fn with(&self, show: &mut dyn FnMut(&Inlet)) -> bool {
        show(&self.inlet);
        true
    }
}

impl<T: Payload> Sealed for Weak<Subscriber<T>> {
    fn with(&self, show: &mut dyn FnMut(&Inlet)) -> bool {
        self.upgrade().is_some_and(|s| (&*s).with(show))
    }
}

impl Sealed for Weak<BytesSubscriber> {
    fn with(&self, show: &mut dyn FnMut(&Inlet)) -> bool {
        self.upgrade().is_some_and(|s| (&*s).with(show))
    }
}
