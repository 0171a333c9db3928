//! Members of an earlier broker that this one waits for, and those of them who will not come.
//!
//! ```text
//!              Resume                      Back
//!   away ----------------> returning ----------------> a member like any other
//!    |  ^                     |  |
//!    |  | its connection ends |  |
//!    |  +---------------------+  |
//!    |       its process ends, or it says that it has ended
//!    +------------------------------------------------> gone
//! ```
//! Promises: who is away is waited for as long as its process runs, and holds newcomers up for [`GRACE`] at most; who has gone is remembered until
//! everybody who may know it was told. A stopped process is away, not gone. It tells nobody anything; `resume` does.

use std::collections::{BTreeMap, HashSet};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bus_core::control::Role;
use bus_core::fork::Unshared;
use bus_core::{Pattern, TopicName};
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};

use crate::census::{Kind, Record, State};
use crate::client::Token;
use crate::process;

/// How long newcomers wait for somebody who is away, or returns. It counts while the broker looks.
pub(crate) const GRACE: Duration = Duration::from_secs(2);
/// The most that the time between two looks counts: who came while the broker itself stood still is not late.
const GLANCE: Duration = Duration::from_millis(250);

/// Everybody who is waited for.
pub(crate) struct Awaited {
    epoll: Rc<Unshared<Epoll>>,
    table: BTreeMap<u64, One>,
    gone: Vec<Record>,
    /// Since the last look of those who wait.
    changed: bool,
    clock: Clock,
}

/// The time for which this broker has looked.
struct Clock {
    now: Instant,
    looked: Instant,
}

impl Clock {
    fn look(&mut self, at: Instant) {
        self.now += at.saturating_duration_since(self.looked).min(GLANCE);
        self.looked = at;
    }
}

/// Somebody who is waited for.
pub(crate) struct One {
    pub(crate) record: Record,
    presence: Presence,
    /// Until when newcomers wait.
    due: Instant,
}

enum Presence {
    /// With what tells that its process has ended.
    Away(Option<Rc<OwnedFd>>),
    Returning,
}

impl One {
    pub(crate) fn is_away(&self) -> bool {
        matches!(self.presence, Presence::Away(_))
    }

    /// Whether it can still come back: nobody has joined meanwhile whom it would have had to know.
    pub(crate) fn may_come(&self) -> bool {
        self.record.state == State::Here
    }

    fn holds_up(&self, now: Instant) -> bool {
        self.may_come() && self.due > now
    }
}

impl Awaited {
    /// Those of an earlier broker's members whose process still runs.
    pub(crate) fn new(epoll: Rc<Unshared<Epoll>>, records: Vec<Record>, now: Instant) -> Self {
        let mut awaited = Self {
            epoll,
            table: BTreeMap::new(),
            gone: Vec::new(),
            changed: true,
            clock: Clock { now, looked: now },
        };
        for record in records {
            if record.state == State::Gone {
                awaited.gone.push(record);
                continue;
            }
            let pidfd = match process::find(record.pid, record.start) {
                Ok(Some(pidfd)) => Some(Rc::new(pidfd)),
                Ok(None) => {
                    awaited.gone.push(record);
                    continue;
                }
                // Not known to be dead: it may come back, and its end is asked for again later.
                Err(error) => {
                    tracing::warn!(id = record.id, pid = record.pid, %error, "cannot watch a member that is waited for");
                    None
                }
            };
            awaited.wait_for(record, pidfd, now);
        }
        awaited
    }

    /// Waits for somebody who is away, or only for its end where it may not come back. Its process is the pidfd's.
    pub(crate) fn wait_for(&mut self, record: Record, pidfd: Option<Rc<OwnedFd>>, now: Instant) {
        let id = record.id;
        let pidfd = pidfd.filter(|pidfd| {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, Token::Process(id).pack());
            self.epoll
                .add(&**pidfd, event)
                .inspect_err(|error| tracing::error!(id, %error, "cannot watch a process"))
                .is_ok()
        });
        let one = One {
            record,
            presence: Presence::Away(pidfd),
            due: now + GRACE,
        };
        self.table.insert(id, one);
    }

    /// Stops watching for the end of who is away.
    fn unwatch(epoll: &Epoll, id: u64, one: &mut One) {
        if let Presence::Away(pidfd) = std::mem::replace(&mut one.presence, Presence::Returning)
            && let Some(pidfd) = pidfd
            && let Err(error) = epoll.delete(&*pidfd)
        {
            tracing::error!(id, %error, "cannot stop watching a process");
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// The broker looks at what has happened.
    pub(crate) fn look(&mut self) {
        self.clock.look(Instant::now());
    }

    /// The time that counts.
    pub(crate) fn now(&self) -> Instant {
        self.clock.now
    }

    /// When to look again, so that time passes: while somebody holds up newcomers, there or to come.
    pub(crate) fn next_look(&self) -> Option<Instant> {
        let any = self.table.values().any(|one| one.holds_up(self.clock.now));
        any.then(|| self.clock.looked + GLANCE)
    }

    /// How many are away: they have no connection yet.
    pub(crate) fn away(&self) -> usize {
        self.table.values().filter(|one| one.is_away()).count()
    }

    /// Whether a process has somebody who is waited for.
    pub(crate) fn has_process(&self, pid: u32) -> bool {
        self.table.values().any(|one| one.record.pid == pid)
    }

    pub(crate) fn get(&self, id: u64) -> Option<&One> {
        self.table.get(&id)
    }

    /// Who is away resumes.
    pub(crate) fn returns(&mut self, id: u64) {
        let now = self.clock.now;
        if let Some(one) = self.table.get_mut(&id) {
            Self::unwatch(&self.epoll, id, one);
            one.due = now + GRACE;
        }
    }

    /// Whether this one has resumed, and is not back yet.
    pub(crate) fn is_returning(&self, id: u64) -> bool {
        self.table.get(&id).is_some_and(|one| !one.is_away())
    }

    /// Who resumed is back, and not waited for any longer.
    pub(crate) fn back(&mut self, id: u64) -> Option<Record> {
        let one = self.table.remove(&id)?;
        self.changed = true;
        Some(one.record)
    }

    /// The connection of who resumed ended before it was back: it is away again. It holds nobody up longer than it would have.
    pub(crate) fn reverts(&mut self, id: u64, pidfd: Rc<OwnedFd>) {
        if let Some(one) = self.table.remove(&id) {
            let due = one.due;
            self.wait_for(one.record, Some(pidfd), due - GRACE);
        }
    }

    /// Who was waited for will not come. It is remembered for those who may know it.
    pub(crate) fn lose(&mut self, id: u64) -> Option<Record> {
        let mut one = self.table.remove(&id)?;
        Self::unwatch(&self.epoll, id, &mut one);
        self.changed = true;
        Some(one.record)
    }

    /// Remembers somebody of an earlier broker who is gone.
    pub(crate) fn remember(&mut self, record: Record) {
        self.gone.push(record);
        self.changed = true;
    }

    /// Somebody for whom a newcomer to this topic is to wait, if there is any.
    pub(crate) fn hold_up(&self, topic: &str, now: Instant) -> Option<u64> {
        let concerns = |one: &One| match one.record.kind {
            Kind::Watch => matches(&one.record.name, topic),
            Kind::Dismissed => false,
            Kind::Publisher | Kind::Subscriber => one.record.name == topic,
        };
        let mut all = self.table.iter();
        let found = all.find(|(_, one)| one.holds_up(now) && concerns(one));
        found.map(|(id, _)| *id)
    }

    /// Somebody for whom who begins to watch for such topics is to wait, if there is any: a member that keeps one of them open.
    pub(crate) fn hold_up_watch(&self, pattern: &Pattern, now: Instant) -> Option<u64> {
        let concerns = |one: &One| {
            one.record.kind.role().is_some()
                && one.record.watch.is_none()
                && TopicName::new(one.record.name.as_str()).is_ok_and(|name| pattern.matches(&name))
        };
        let mut all = self.table.iter();
        let found = all.find(|(_, one)| one.holds_up(now) && concerns(one));
        found.map(|(id, _)| *id)
    }

    /// Until when newcomers wait for this one, if they do.
    pub(crate) fn holds_up_until(&self, id: u64, now: Instant) -> Option<Instant> {
        let one = self.table.get(&id)?;
        one.holds_up(now).then_some(one.due)
    }

    /// Members of this topic who are away or returning.
    pub(crate) fn members(&self, topic: &str) -> impl Iterator<Item = (u64, &One)> {
        let members = self
            .table
            .iter()
            .filter(move |(_, one)| one.record.name == topic && one.record.kind.role().is_some());
        members.map(|(id, one)| (*id, one))
    }

    /// The names of the topics whose members are waited for.
    pub(crate) fn topics(&self) -> HashSet<&str> {
        let members = self
            .table
            .values()
            .filter(|one| one.record.kind.role().is_some());
        members.map(|one| one.record.name.as_str()).collect()
    }

    /// What is written down about somebody who is waited for has changed.
    pub(crate) fn change(&mut self, record: Record) {
        if let Some(one) = self.table.get_mut(&record.id) {
            one.record = record;
            self.changed = true;
        }
    }

    /// Those of this topic who are gone and had this role.
    pub(crate) fn gone(&self, topic: &str, role: Role) -> impl Iterator<Item = &Record> {
        self.gone
            .iter()
            .filter(move |record| record.name == topic && record.kind.role() == Some(role))
    }

    /// Takes out those who are gone and whom nobody can know who is still to come. They are to be struck out.
    pub(crate) fn forget(&mut self) -> Vec<u64> {
        let table = self.table.values().filter(|one| one.may_come());
        let members = table.filter(|one| one.record.kind.role().is_some());
        let topics: HashSet<_> = members.map(|one| one.record.name.as_str()).collect();
        let mut forgotten = Vec::new();
        self.gone.retain(|record| {
            let known = record.kind.role().is_some() && topics.contains(record.name.as_str());
            if !known {
                forgotten.push(record.id);
            }
            known
        });
        forgotten
    }

    /// Whether anything has changed for those who wait, since this was asked last.
    pub(crate) fn has_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Those whose end nobody tells, and whose process is gone.
    pub(crate) fn unwatched_and_dead(&self) -> Vec<u64> {
        let unwatched = self
            .table
            .iter()
            .filter(|(_, one)| matches!(one.presence, Presence::Away(None)));
        let dead = unwatched
            .filter(|(_, one)| matches!(process::find(one.record.pid, one.record.start), Ok(None)));
        dead.map(|(id, _)| *id).collect()
    }
}

fn matches(pattern: &str, topic: &str) -> bool {
    let (Ok(pattern), Ok(topic)) = (Pattern::new(pattern), TopicName::new(topic)) else {
        return false;
    };
    pattern.matches(&topic)
}
