//! What has to hold after each input of the engine, and what has to hold when a publisher publishes.

use std::collections::BTreeSet;
use std::time::Duration;

use bus_core::control::{Event, Role};

use super::client::Client;
use super::handle::{Handle, Stage};
use super::play::{Checked, Play};
use crate::engine::{Blocked, Engine, Known};

/// For how long newcomers wait at most; see `engine/recovery.rs`.
const PATIENCE: Duration = Duration::from_secs(2);
/// For how long all newcomers wait after an unclean start.
const UNKNOWN: Duration = Duration::from_millis(200);
/// For how long newcomers wait while processes come back.
const RETURNING: Duration = Duration::from_secs(4);

impl Play {
    /// Looks at what the last input has done.
    ///
    /// # Errors
    /// The promise that did not hold.
    pub(super) fn look(&mut self) -> Checked {
        let mut host = self.outside.0.borrow_mut();
        if let Some(failure) = host.books.failure() {
            return Err(failure);
        }
        let Some(running) = &self.running else {
            return Ok(());
        };
        host.now = running.engine.now;
        let topics = &running.engine.topics;
        host.books
            .fenced
            .retain(|_, topic| topics.contains_key(topic));
        let suspicions = std::mem::take(&mut host.books.suspicions);
        let told_left = std::mem::take(&mut host.books.told_left);
        for suspicion in suspicions {
            let either = [(suspicion.session, suspicion.handle), suspicion.or];
            let excused = |&(session, handle): &(u64, u32)| {
                host.books.refused.contains(&(session, handle))
                    || is_let_go(&running.engine, session, handle)
            };
            if !either.iter().any(excused) {
                return Err(suspicion.what);
            }
        }
        drop(host);
        if !told_left.is_empty() {
            self.check_left(&told_left.into_iter().collect())?;
        }
        self.check_newcomers()?;
        self.check_deferred()
    }

    /// Members of which somebody was told that they have left are really gone.
    fn check_left(&self, told: &BTreeSet<(u64, bool)>) -> Checked {
        for client in self.clients.iter().flatten() {
            if !client.life.alive.get() {
                continue;
            }
            for handle in client.handles.iter().flatten() {
                let stays = (handle.has_joined() && !self.is_refused(client, handle))
                    || handle.is_left_alone();
                // The index of one that has not come back may be another's: then it does not come back.
                let back = handle.stage == Stage::Placed && handle.attached == self.brokers;
                let is_told = told.contains(&(handle.id, false))
                    || (back && told.contains(&(handle.id, true)));
                if stays && is_told {
                    return Err(format!(
                        "{:?} {} is told to have left, and lives (process slot {}, {:?})",
                        handle.role, handle.id, client.life.slot, handle.stage
                    ));
                }
            }
        }
        Ok(())
    }

    /// Whether the broker of now has refused a handle, perhaps without its knowing yet.
    fn is_refused(&self, client: &Client, handle: &Handle) -> bool {
        if self.let_go.contains(&handle.id) {
            return true;
        }
        let books = &self.outside.0.borrow().books;
        let Some(session) = client.session else {
            return false;
        };
        let running = self.running.as_ref();
        books.fenced.contains_key(&handle.id)
            || books.told_fenced.contains(&handle.id)
            || books.refused.contains(&(session, handle.number))
            || running.is_some_and(|r| is_let_go(&r.engine, session, handle.number))
    }

    /// Newcomers are served by the rules of the grace period, and fence whom they have to.
    fn check_newcomers(&mut self) -> Checked {
        let Some(running) = &mut self.running else {
            return Ok(());
        };
        let mut host = self.outside.0.borrow_mut();
        let engine = &running.engine;
        let first = running.last_id + 1;
        running.last_id = engine.last_id;
        let grace = (running.unclean && engine.now < UNKNOWN)
            || (!engine.recovery.returning.is_empty() && engine.now < RETURNING);
        if first <= engine.last_id {
            for (&number, topic) in &engine.topics {
                for (&id, member) in topic.members.range(first..=engine.last_id) {
                    running.fresh.push((number, id));
                    let waited = host.books.waited(engine.now, member.session, member.handle);
                    let awaited = topic
                        .absent
                        .values()
                        .any(|absent| absent.role != member.role && !absent.fenced);
                    if (grace || awaited) && waited.is_none_or(|waited| waited < PATIENCE) {
                        return Err(format!(
                            "{} {id} was opened before the grace ended, after {waited:?}",
                            member.role
                        ));
                    }
                    let same = topic.members.iter().find(|(other, m)| {
                        **other != id
                            && m.role == Role::Publisher
                            && member.role == Role::Publisher
                            && m.index == member.index
                    });
                    if let Some((other, _)) = same {
                        return Err(format!(
                            "publishers {id} and {other} have the same index {}",
                            member.index
                        ));
                    }
                }
            }
        }
        let mut joined = Vec::new();
        running.fresh.retain(|&(number, id)| {
            let topic = engine.topics.get(&number);
            let Some(member) = topic.and_then(|topic| topic.members.get(&id)) else {
                return false;
            };
            if member.has_joined() {
                let waited = host.books.waited(engine.now, member.session, member.handle);
                joined.push((number, id, member.role, waited));
            }
            !member.has_joined()
        });
        let is_patient = |waited: &Option<Duration>| waited.is_some_and(|w| w >= PATIENCE);
        for &(number, id, role, waited) in &joined {
            if grace && !is_patient(&waited) {
                return Err(format!(
                    "{role} {id} has joined before the grace ended, after {waited:?}"
                ));
            }
            // One that has waited long enough fences for all that come with it.
            let mut all = joined
                .iter()
                .filter(|(n, _, r, _)| *n == number && *r == role);
            let patient = all.any(|(.., waited)| is_patient(waited));
            let topic = engine.topics.get(&number);
            for (&absent, of) in topic.into_iter().flat_map(|topic| &topic.absent) {
                // One that was refused was not fenced by this newcomer.
                let refused =
                    |known: &Known| matches!(known, Known::Orphan { id, .. } if *id == absent);
                let sessions = engine.sessions.values();
                let unclaimed = engine
                    .sessions
                    .values()
                    .any(|s| s.unclaimed(absent).is_some());
                let refused = unclaimed || sessions.flat_map(|s| s.handles.values()).any(refused);
                let fenced = of.fenced && of.role != role;
                let fenced = fenced && host.books.fenced.insert(absent, number).is_none();
                let fenced = fenced && !refused;
                // Those that have come back and are not done are not waited for beyond the grace.
                if fenced && !patient && engine.now < RETURNING {
                    return Err(format!(
                        "{} {absent} was fenced by {id} after {waited:?}",
                        of.role
                    ));
                }
            }
        }
        Ok(())
    }

    fn check_deferred(&self) -> Checked {
        let Some(running) = &self.running else {
            return Ok(());
        };
        let engine = &running.engine;
        let host = self.outside.0.borrow();
        for &(session, handle) in engine.deferred.keys() {
            let waited = host.books.waited(engine.now, session, handle);
            if waited.is_none_or(|waited| waited > PATIENCE) {
                return Err(format!(
                    "the request of handle {handle} of session {session} is not answered after {waited:?}"
                ));
            }
        }
        Ok(())
    }

    /// What is to be sent waits for something that will come.
    pub(super) fn look_closely(&mut self) -> Checked {
        let Some(running) = &self.running else {
            return Ok(());
        };
        let engine = &running.engine;
        let host = self.outside.0.borrow();
        for (number, session) in &engine.sessions {
            let outbox = &session.outbox;
            let Some(socket) = host.sockets.get(number) else {
                return Err(format!("session {number} has no connection"));
            };
            let waits = match outbox.blocked {
                None => outbox.answers.is_empty() && outbox.dirty.is_empty(),
                Some(Blocked::Room) => socket.awaits_room,
                Some(Blocked::Time) => engine.later.contains(number),
                // Its own client will acknowledge.
                Some(Blocked::Credit) => outbox.in_flight > 0 && engine.starved.contains(number),
            };
            if !waits && socket.client {
                return Err(format!(
                    "session {number} waits for nothing ({:?}), and has {} answers and {} handles to be told",
                    outbox.blocked,
                    outbox.answers.len(),
                    outbox.dirty.len()
                ));
            }
        }
        for (id, watch) in &engine.watches {
            let kept = engine.topics.values();
            let kept = kept.filter(|topic| topic.places.contains_key(id));
            if !kept.map(|topic| topic.id).eq(watch.places.iter().copied()) {
                return Err(format!("watch {id} has places in {:?}", watch.places));
            }
        }
        for topic in engine.topics.values() {
            for (id, member) in &topic.members {
                let view = &member.view;
                let waits = !view.pending.is_empty() || view.joining || view.decided;
                let held = view.behind && view.hold.is_none();
                if (waits || held) && !view.queued {
                    return Err(format!(
                        "member {id} has something to be told and is in no queue"
                    ));
                }
            }
        }
        Ok(())
    }

    /// A broker that stops has told each subscriber of the rings that no other process knows, where its socket has room.
    pub(super) fn check_stopped(&self) -> Checked {
        let Some(running) = &self.running else {
            return Ok(());
        };
        let engine = &running.engine;
        for topic in engine.topics.values() {
            for (id, member) in topic.of(Role::Subscriber).filter(|(_, m)| m.has_joined()) {
                let of = engine.sessions.get(&member.session);
                let blocked = of.and_then(|session| session.outbox.blocked);
                if matches!(blocked, Some(Blocked::Room | Blocked::Time)) {
                    continue;
                }
                let told = |ring: &u64| member.view.told.get(ring).is_some_and(|told| told.sent);
                let mut rings = topic.rings.of_reader(id).into_iter();
                let lost =
                    rings.find(|ring| topic.rings.ended_ring(*ring).is_some() && !told(ring));
                if let Some(ring) = lost {
                    return Err(format!(
                        "the broker stops, and subscriber {id} was not told of ring {ring}, which has ended"
                    ));
                }
            }
        }
        Ok(())
    }

    /// A publisher publishes, if it may: it knows all subscribers that count on that.
    ///
    /// # Errors
    /// A subscriber that does not get the message.
    pub(super) fn publish(&mut self, process: usize, slot: usize) -> Checked {
        if !self.may_publish(process, slot) {
            self.read(process, usize::MAX, true, None)?;
            if !self.may_publish(process, slot) {
                return Ok(());
            }
        }
        let Some(publisher) = self.clients[process]
            .as_ref()
            .and_then(|client| client.handles[slot].as_ref())
        else {
            return Ok(());
        };
        let mut missed = Vec::new();
        for client in self.clients.iter().flatten() {
            if !client.life.alive.get() {
                continue;
            }
            for handle in client.handles.iter().flatten() {
                let reads = handle.role == Some(Role::Subscriber)
                    && handle.topic == publisher.topic
                    && handle.has_joined()
                    && !publisher.known.contains_key(&handle.id);
                if !reads || self.is_refused(client, handle) {
                    continue;
                }
                let there = handle.attended.get(&publisher.attached);
                // A watch's subscriber may be in a topic of that name that is closed.
                let missing = handle.watch.is_none();
                if handle.joined_at > publisher.attached {
                    missed.extend(missing.then_some((publisher.id, handle.id)));
                } else if there.is_none() {
                    missed.extend(missing.then_some((handle.id, publisher.id)));
                } else if there == Some(&publisher.number()) {
                    return Err(format!(
                        "publisher {} (slot {process}, {:?}) publishes, and does not know subscriber {} (slot {}, {:?})",
                        publisher.id, publisher.stage, handle.id, client.life.slot, handle.stage
                    ));
                }
            }
        }
        self.outside.0.borrow_mut().books.counts.published += 1;
        self.missed.extend(missed);
        Ok(())
    }

    fn may_publish(&self, process: usize, slot: usize) -> bool {
        let client = self.clients[process].as_ref().filter(|c| c.acts());
        let handle = client.and_then(|client| client.handles[slot].as_ref());
        handle.is_some_and(|handle| {
            handle.role == Some(Role::Publisher)
                && handle.has_joined()
                && handle.is_synced()
                && !handle.behind
        })
    }

    /// A handle that has missed something of another one that is there is not taken back.
    pub(super) fn check_missed(&mut self, process: usize) -> Checked {
        let Some(client) = &self.clients[process] else {
            return Ok(());
        };
        for handle in client.handles.iter().flatten() {
            let back = handle.stage == Stage::Placed && handle.attached == self.brokers;
            let Some(other) = self.missed.get(&handle.id).filter(|_| back) else {
                continue;
            };
            // One that was refused meanwhile, because the topic is another one for it, is missed by nobody. But what a
            // subscriber has not read of a publisher that it knows is lost, whatever becomes of that publisher.
            let reads = handle.role == Some(Role::Subscriber) && handle.known.contains_key(other);
            let there = |client: &Client| {
                let mut of = client.handles.iter().flatten();
                of.any(|o| {
                    o.id == *other
                        && o.has_joined()
                        && o.attached == self.brokers
                        && (reads || !self.is_refused(client, o))
                })
            };
            let all = self.clients.iter().flatten();
            let there = all.filter(|client| client.life.alive.get()).any(there);
            if there && !self.is_refused(client, handle) {
                return Err(format!(
                    "{:?} {} is taken back, and has missed {other} meanwhile",
                    handle.role, handle.id
                ));
            }
        }
        Ok(())
    }
}

/// Whether the engine has refused a handle, and has not been able to say so.
fn is_let_go(engine: &Engine<super::world::Outside>, session: u64, handle: u32) -> bool {
    let Some(session) = engine.sessions.get(&session) else {
        return true;
    };
    let answers = session.outbox.answers.iter();
    let mut answers = answers.filter(|answer| answer.handle == handle);
    answers.any(|answer| matches!(answer.event, Event::Refused { .. }))
}
