//! Errands: what a member asks for that costs others, and that is the same however often it is asked for.
//!
//! A publisher of another user wakes subscribers through the broker, and a member that has lost descriptors has the
//! versions moved that all of its side watch. Nothing bounds how often an honest one needs that, and one packet of a
//! few bytes makes much work.
//!
//! Promises: each user has so many errands done a second. Those beyond it are done later, once each, in the order in
//! which they were asked for first; doorbells are rung once for all who ask in one turn of the loop. None is lost: a
//! wake-up that is lost is a member that sleeps for ever.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::time::Duration;

use bus_core::control::{Role, SESSION};

use super::session::Handle;
use super::state::Engine;
use super::world::World;
use crate::accounts::Account;

/// Something to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Errand {
    /// To ring the doorbells of all members with this role.
    Wake { topic: u64, role: Role },
    /// To tell a handle everything again, or a session the processes.
    Retell { session: u64, handle: u32 },
}

/// All that is to be done, and who has asked for it.
#[derive(Debug, Default)]
pub(crate) struct Errands {
    asked: HashMap<Errand, Asked>,
    /// Errands that were asked for so far.
    count: u64,
}

#[derive(Debug)]
struct Asked {
    /// Its place in the order.
    place: u64,
    by: BTreeMap<u32, Rc<Account>>,
}

impl Errands {
    fn ask(&mut self, errand: Errand, account: Rc<Account>) {
        self.count += 1;
        let place = self.count;
        let by = BTreeMap::new();
        let asked = self
            .asked
            .entry(errand)
            .or_insert_with(|| Asked { place, by });
        asked.by.insert(account.uid(), account);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.asked.is_empty()
    }

    /// When the next can be done, if there is one.
    fn next(&self, now: Duration) -> Option<Duration> {
        let accounts = self.asked.values().flat_map(|asked| asked.by.values());
        accounts.map(|account| account.errand_in(now)).min()
    }
}

impl<W: World> Engine<W> {
    /// A session asks for an errand.
    pub(crate) fn ask_errand(&mut self, session: u64, errand: Errand) {
        let Some(session) = self.sessions.get(&session) else {
            return;
        };
        let account = Rc::clone(session.charge.account());
        let at_once = matches!(errand, Errand::Retell { .. });
        if at_once && account.take_errand(self.now, self.concerned_by(errand)) {
            self.do_errand(errand);
        } else {
            self.errands.ask(errand, account);
        }
    }

    /// All that is ready was served: does the errands of those who may have one done. A broker that stops does all.
    pub(crate) fn end_turn(&mut self) {
        if self.errands.is_empty() {
            return;
        }
        let asked = std::mem::take(&mut self.errands.asked);
        let mut asked: Vec<_> = asked.into_iter().collect();
        asked.sort_unstable_by_key(|(_, asked)| asked.place);
        for (errand, asked) in asked {
            let concerned = self.concerned_by(errand);
            let mut by = asked.by.values();
            if by.any(|account| account.take_errand(self.now, concerned)) || self.stopping {
                self.do_errand(errand);
            } else {
                self.errands.asked.insert(errand, asked);
            }
        }
        self.settle();
    }

    /// When errands are to be looked at that have to wait.
    pub(crate) fn next_errand(&self) -> Option<Duration> {
        self.errands.next(self.now).map(|wait| self.now + wait)
    }

    /// How many members or processes it is about, or may be.
    fn concerned_by(&self, errand: Errand) -> usize {
        let session = |number| self.sessions.get(&number);
        let topic = match errand {
            Errand::Wake { topic, .. } => topic,
            Errand::Retell {
                session: number,
                handle: SESSION,
            } => return session(number).map_or(0, |session| session.told.len()),
            Errand::Retell {
                session: number,
                handle,
            } => match session(number).and_then(|session| session.handles.get(&handle)) {
                Some(Handle::Member { topic, .. }) => *topic,
                _ => return 0,
            },
        };
        self.topics
            .get(&topic)
            .map_or(0, |topic| topic.members.len())
    }

    fn do_errand(&mut self, errand: Errand) {
        match errand {
            Errand::Wake { topic, role } => self.ring_parked(topic, role),
            Errand::Retell {
                session,
                handle: SESSION,
            } => self.retell_processes(session),
            Errand::Retell { session, handle } => {
                let known = self.sessions.get(&session);
                let known = known.and_then(|session| session.handles.get(&handle));
                if let Some(known) = known.copied() {
                    self.retell(session, handle, known);
                }
            }
        }
    }
}
