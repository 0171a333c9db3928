//! What a subscriber hands out: a message, or several of one publisher; in place, or copied where their publisher is not trusted to leave
//! them as they are.
//!
//! Promises: what is handed out stays mapped and unchanged until it is dropped; dropping it gives the slots back, which copies have given
//! back before. A place or length that breaks the ring's bounds is an error, and nothing is read there.

use std::cell::Cell;
use std::ptr::NonNull;
use std::sync::Arc;

use super::copies::{Chain, OwnCopy, Spares};
use super::held::{Desk, Held, Home};
use super::ring::{Found, Refused, RingReader};
use super::subscriber::Subscriber;
use crate::backend::Native;
use crate::{Error, Result};

/// Where the payload of a message lies, if its slot keeps to the ring's bounds; none in a ring whose messages are copied.
#[inline(always)]
pub(super) fn payload(ring: &RingReader<Native>, found: Found) -> Option<NonNull<u8>> {
    ring.ring().payload(found.sequence, found.place, found.len)
}

/// What becomes of a message that is not read in place: a copy, or an error. It is released. It takes the parts of what was found: who is lent out to a
/// function that stays one lies in memory, also where nothing is copied.
#[inline(never)]
pub(super) fn copy(
    spares: &Spares,
    ring: &RingReader<Native>,
    sequence: u64,
    place: u32,
    len: u32,
) -> Result<OwnCopy> {
    let found = Found {
        sequence,
        place,
        len,
    };
    let lies = |ring: &RingReader<Native>| {
        let ring = ring.ring();
        ring.payload_to_copy(found.sequence, found.place, found.len)
    };
    match lies(ring).filter(|_| ring.copies()) {
        Some(payload) => {
            let payload = NonNull::slice_from_raw_parts(payload, found.len as usize);
            spares.copy(ring, found, payload)
        }
        None => {
            ring.release(found.sequence);
            Err(out_of_bounds(found))
        }
    }
}

/// The error of a ring that refuses.
#[cold]
pub(super) fn refuse(desk: &Desk, ring: &RingReader<Native>, refused: Refused) -> Error {
    let publisher = ring.publisher();
    match refused {
        Refused::Held => Error::Holding {
            publisher,
            held: ring.outstanding(),
            who: desk.holders(publisher),
        },
        Refused::Evicted => Error::Evicted { publisher },
        Refused::Broken => {
            ring.disbelieve();
            Error::Corrupt {
                sequence: ring.next(),
                why: "its ring says that it was written over, and that it is intact".into(),
            }
        }
    }
}

/// The error of a slot that breaks them.
#[cold]
fn out_of_bounds(found: Found) -> Error {
    Error::Corrupt {
        sequence: found.sequence,
        why: "its slot points outside the ring".into(),
    }
}

/// A message that was found, and is yet to be handed out, once. It is small, so that it stays in registers on the way to who receives it.
#[must_use = "a message that is found and not taken is never released"]
pub struct Arrival<'a> {
    pub(super) subscriber: &'a Subscriber,
    pub(super) ring: &'a RingReader<Native>,
    pub(super) payload: NonNull<u8>,
    pub(super) sequence: u64,
    pub(super) len: u32,
}

impl<'a> Arrival<'a> {
    /// The message.
    #[inline(always)]
    pub fn take(self) -> Message<'a> {
        Message {
            subscriber: self.subscriber,
            ring: self.ring,
            sequence: self.sequence,
            lost: self.ring.take_lost(),
            passed: self.ring.take_passed(),
            payload: NonNull::slice_from_raw_parts(self.payload, self.len as usize),
        }
    }
}

/// A message, in place in its publisher's ring, or copied out of it. Dropping it gives the slot back, or the copy's memory.
pub struct Message<'a> {
    pub(super) subscriber: &'a Subscriber,
    pub(super) ring: &'a RingReader<Native>,
    pub(super) sequence: u64,
    pub(super) lost: u64,
    pub(super) passed: bool,
    pub(super) payload: NonNull<[u8]>,
}

impl Message<'_> {
    /// The payload.
    #[inline(always)]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the span is a copy of its own; or it is within the ring's mapping, which stays while a message is outstanding, and the
        // publisher does not write there until this is released. A publisher that breaks the protocol can change the bytes
        // meanwhile: `docs/protocol.md`, *Trust*, says what then holds.
        unsafe { self.payload.as_ref() }
    }

    /// Its sequence number in its publisher's ring.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Its publisher, as the broker numbers them.
    pub fn publisher(&self) -> u64 {
        self.ring.publisher()
    }

    /// How many messages of its publisher were lost right before it; 0 but on a lossy topic.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Whether its publisher went past this subscriber right before it: then it is the oldest that was intact, and everything that the ring keeps
    /// follows. Messages that only found no room are [lost](Self::lost) as well, and nothing follows from that.
    pub fn passed(&self) -> bool {
        self.passed
    }

    /// The same message, independent of the subscriber's life and thread.
    ///
    /// On a topic whose publishers wait it holds its publisher back as an unread message does; on others its publisher goes round it. A topic
    /// limits how many may be held. After the subscriber is dropped it keeps the
    /// membership, until the last one held is dropped. A copy holds nobody back, and keeps nothing.
    ///
    /// One that is dropped gives its slot back when the subscriber makes its next call, or at once where the subscriber sleeps or is
    /// gone. A subscriber that is busy with other work holds publishers back until then, although nothing is held.
    pub fn hold(self) -> Held {
        let desk = self.subscriber.hold(self.ring.copies());
        let home = if self.ring.copies() {
            self.ring.keep_lent();
            Home::Copy(Arc::downgrade(desk))
        } else {
            Home::Ring {
                desk: desk.clone(),
                _mapping: self.ring.ring().mapping().clone(),
            }
        };
        let (publisher, sequence) = (self.ring.publisher(), self.sequence);
        let held = Held::new(desk, home, publisher, sequence, self.lost, self.payload);
        std::mem::forget(self);
        held
    }
}

/// Gives the memory of copies back. It takes its parts, and not the message or batch that has them: who is lent out to a function that stays one lies
/// in memory from its beginning, also where nothing is copied, and is slow to be handed on.
#[inline(never)]
fn give_back(ring: &RingReader<Native>, spares: &Spares, copies: Chain) {
    ring.unlend(copies.len());
    while let Some(copy) = copies.pop() {
        spares.put(copy);
    }
}

/// The same for the copy of one message.
///
/// # Safety
/// The payload is that of a copy that nobody else has.
#[inline(never)]
unsafe fn give_one_back(ring: &RingReader<Native>, spares: &Spares, payload: NonNull<u8>) {
    // SAFETY: the caller's promise.
    let copy = unsafe { OwnCopy::from_payload(payload) };
    give_back(ring, spares, Chain::of(copy));
}

impl Drop for Message<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        if self.ring.copies() {
            // SAFETY: the payload is that of a copy that was left to this message, which is being dropped.
            unsafe { give_one_back(self.ring, self.subscriber.spares(), self.payload.cast()) };
        } else {
            self.ring.release(self.sequence);
        }
    }
}

/// Messages of one publisher, in order; released together, with one store of the cursor.
pub struct Batch<'a> {
    pub(super) ring: &'a RingReader<Native>,
    pub(super) desk: &'a Desk,
    pub(super) spares: &'a Spares,
    /// Of a publisher whose messages are copied: the copies.
    pub(super) copies: Chain,
    pub(super) first: Cell<u64>,
    pub(super) end: Cell<u64>,
    pub(super) left: Cell<usize>,
    pub(super) lost: Cell<u64>,
}

impl Batch<'_> {
    /// Who published all of them.
    pub fn publisher(&self) -> u64 {
        self.ring.publisher()
    }

    /// The sequence number of its first message; the others follow without a gap.
    pub fn sequence(&self) -> u64 {
        self.first.get()
    }

    /// How many messages of its publisher were lost right before the first; 0 but on a lossy topic, and until that was received.
    pub fn lost(&self) -> u64 {
        self.lost.get()
    }

    /// The next one's sequence number and payload, which stays until the batch is dropped.
    ///
    /// Ends after the number asked for, when the ring has no more, when as many are held as may be, or when the subscriber was polled beside
    /// it; on a topic whose publishers may go past, also where messages were lost or as many are protected as one store protects.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where a slot breaks the ring's bounds; the message is passed over. [`Error::Holding`], [`Error::Evicted`] as for
    /// [`Subscriber::poll`], instead of the first message.
    #[inline(always)]
    pub fn next(&self) -> Option<Result<(u64, &[u8])>> {
        if self.left.get() == 0 || self.ring.next() != self.end.get() {
            return None;
        }
        let starts = self.first.get() == self.end.get();
        let found = if starts {
            self.ring.poll()
        } else {
            self.ring.poll_following()
        };
        let Some(found) = found else {
            let refused = self.ring.take_refusal().filter(|_| starts)?;
            self.left.set(0);
            return Some(Err(refuse(self.desk, self.ring, refused)));
        };
        if starts {
            self.first.set(found.sequence);
            self.lost.set(self.ring.take_lost());
        }
        self.left.set(self.left.get() - 1);
        self.end.set(self.ring.next());
        Some(match payload(self.ring, found) {
            Some(payload) => {
                let payload = NonNull::slice_from_raw_parts(payload, found.len as usize);
                // SAFETY: as for `Message::bytes`.
                Ok((found.sequence, unsafe { payload.as_ref() }))
            }
            None => self.copy(found),
        })
    }

    /// Copies a message, which stays until the batch is dropped.
    #[inline(always)]
    fn copy(&self, found: Found) -> Result<(u64, &[u8])> {
        if !self.ring.copies() {
            // Released with the others.
            return Err(out_of_bounds(found));
        }
        let copy = copy(
            self.spares,
            self.ring,
            found.sequence,
            found.place,
            found.len,
        )
        .inspect_err(|error| {
            if matches!(error, Error::NoMemory { .. }) {
                // The message is still there, for another batch.
                self.left.set(0);
                self.end.set(self.ring.next());
            }
        })?;
        let payload = NonNull::slice_from_raw_parts(copy.payload(), found.len as usize);
        self.copies.push(copy);
        // SAFETY: the copy stays where it is until the batch is dropped.
        Ok((found.sequence, unsafe { payload.as_ref() }))
    }
}

impl Drop for Batch<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        if self.ring.copies() {
            give_back(self.ring, self.spares, std::mem::take(&mut self.copies));
        } else {
            self.ring.release_range(self.first.get(), self.end.get());
        }
        self.ring.close_batch();
    }
}
