//! Where a selector keeps what it watches: numbered places, which are used again.
//!
//! Promises: a token of something that was removed names nothing, also where its place is used again.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use bus_core::backend::doorbell::Doorbell;

use super::{Selector, Source, Token};
use crate::inlet::Inlet;

pub(super) enum What<'a> {
    /// Nothing: the place is free.
    Free,
    Subscription {
        source: Box<dyn Source + 'a>,
        /// Its doorbell, open for as long as it is watched.
        own: Arc<Doorbell>,
        parked: bool,
    },
    Timer,
    Descriptor(BorrowedFd<'a>),
}

pub(super) struct Entry<'a> {
    pub(super) generation: u32,
    pub(super) what: What<'a>,
    /// It is in the list of the hot.
    pub(super) hot: bool,
}

impl<'a> Selector<'a> {
    /// A place for something new.
    pub(super) fn place(&mut self) -> u32 {
        if self.free.is_empty() {
            self.sweep();
        }
        self.free.pop().unwrap_or_else(|| {
            self.entries.push(Entry {
                generation: 0,
                what: What::Free,
                hot: false,
            });
            self.entries.len() as u32 - 1
        })
    }

    /// Frees the places of subscribers that were dropped.
    fn sweep(&mut self) {
        for place in 0..self.entries.len() as u32 {
            if let What::Subscription { source, .. } = &self.entries[place as usize].what
                && !source.with(&mut |_| ())
            {
                self.release(place);
            }
        }
    }

    pub(super) fn fill(&mut self, index: u32, what: What<'a>) -> Token {
        let entry = &mut self.entries[index as usize];
        entry.what = what;
        entry.generation = entry.generation.wrapping_add(1);
        Token {
            index,
            generation: entry.generation,
        }
    }

    /// Frees a place, and takes it out of every list: whatever comes there next has not fired.
    pub(super) fn release(&mut self, index: u32) {
        let entry = &mut self.entries[index as usize];
        let generation = entry.generation;
        if std::mem::take(&mut entry.hot) {
            self.hot.retain(|place| *place != index);
        }
        match std::mem::replace(&mut entry.what, What::Free) {
            What::Free => return,
            What::Timer => self.timers.remove(Token { index, generation }),
            What::Descriptor(fd) => self.poller.forget(fd),
            What::Subscription {
                source,
                own,
                parked,
            } => {
                self.poller.forget(own.as_fd());
                source.with(&mut |inlet| {
                    if parked {
                        inlet.unpark();
                    }
                });
                self.quiet.retain(|place| *place != index);
            }
        }
        self.free.push(index);
    }
}

impl Entry<'_> {
    /// What a look at a subscription says; false for everything else.
    pub(super) fn looks(&self, look: impl Fn(&Inlet) -> bool) -> bool {
        let mut found = false;
        if let What::Subscription { source, .. } = &self.what {
            source.with(&mut |inlet| found = look(inlet));
        }
        found
    }
}

pub(super) fn heat(hot: &mut VecDeque<u32>, entries: &mut [Entry<'_>], place: u32) {
    let entry = &mut entries[place as usize];
    if !entry.hot {
        entry.hot = true;
        hot.push_back(place);
    }
}
