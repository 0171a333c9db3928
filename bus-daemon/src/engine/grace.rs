//! Newcomers that wait for members of an earlier broker.
//!
//! A newcomer waits as long as members may come back that it would have to know, or that would have to know it: after
//! an unclean start for a short time for those that nobody knows; while processes are coming back; and while absentees
//! of the other role are known on its topic. It waits for [`PATIENCE`] at most. When it joins after that, the absentees
//! of the other role are fenced.
//!
//! Promises: nothing else waits; one request of a handle is deferred, and its descriptors with it.

use std::time::Duration;

use bus_core::control::Role;
use bus_core::schema::Schema;
use bus_core::{Pattern, TopicName};

use super::member::Member;
use super::open::Open;
use super::recovery::PATIENCE;
use super::refused::Refused;
use super::session::Handle;
use super::state::Engine;
use super::world::World;

/// A request that is to be served later.
#[derive(Debug)]
pub(crate) struct Deferred<W: World> {
    what: What<W>,
    /// Until when it waits, whatever happens.
    until: Duration,
}

#[derive(Debug)]
enum What<W: World> {
    Open(TopicName, Box<Open>),
    Join {
        topic: u64,
        id: u64,
        role: Role,
        segment: W::Fd,
    },
    Watch(Pattern, Box<Schema>),
}

impl<W: World> Engine<W> {
    /// Puts an opening aside if it has to wait; else gives it back.
    pub(crate) fn defer_open(
        &mut self,
        session: u64,
        handle: u32,
        name: &TopicName,
        open: Open,
    ) -> Option<Open> {
        let topic = self.names.get(name).copied();
        if !self.has_to_wait(topic, open.role) {
            return Some(open);
        }
        self.put_aside(session, handle, What::Open(name.clone(), Box::new(open)));
        if let Some(entry) = self.sessions.get_mut(&session) {
            entry.handles.insert(handle, Handle::Deferred);
        }
        None
    }

    /// The same for a join.
    pub(crate) fn defer_join(
        &mut self,
        session: u64,
        handle: u32,
        topic: u64,
        role: Role,
        segment: W::Fd,
    ) -> Option<W::Fd> {
        if !self.has_to_wait(Some(topic), role) {
            return Some(segment);
        }
        let known = self.sessions.get(&session)?.handles.get(&handle).copied();
        let Some(Handle::Member { topic, id }) = known else {
            return None;
        };
        let join = What::Join {
            topic,
            id,
            role,
            segment,
        };
        self.put_aside(session, handle, join);
        None
    }

    /// The same for a watch: a topic that comes back later would look new to it.
    pub(crate) fn defer_watch(
        &mut self,
        session: u64,
        handle: u32,
        pattern: Pattern,
        schema: Schema,
    ) -> Option<(Pattern, Schema)> {
        if self.recovery.grace(self.now).is_none() {
            return Some((pattern, schema));
        }
        self.put_aside(session, handle, What::Watch(pattern, Box::new(schema)));
        if let Some(entry) = self.sessions.get_mut(&session) {
            entry.handles.insert(handle, Handle::Deferred);
        }
        None
    }

    fn put_aside(&mut self, session: u64, handle: u32, what: What<W>) {
        tracing::debug!(
            session,
            handle,
            "a newcomer waits for members of an earlier broker"
        );
        let until = self.now + PATIENCE;
        let before = self
            .deferred
            .insert((session, handle), Deferred { what, until });
        debug_assert!(before.is_none(), "one request of a handle waits at a time");
    }

    /// Whether a newcomer with this role has to wait.
    fn has_to_wait(&self, topic: Option<u64>, role: Role) -> bool {
        #[cfg(feature = "simulator")]
        if self.planted == Some(crate::simulator::Planted::GraceIgnored) {
            return false;
        }
        if self.recovery.grace(self.now).is_some() {
            return true;
        }
        let topic = topic.and_then(|topic| self.topics.get(&topic));
        topic.is_some_and(|topic| topic.may_come(role.other()))
    }

    /// When the next deferred request or held publisher is to be looked at.
    pub(crate) fn next_deferred(&self) -> Option<Duration> {
        let deferred = self.deferred.values().map(|deferred| deferred.until);
        // They are in the order in which they came, and all have the same patience.
        let held = self.recovery.held.first().map(|(.., until)| *until);
        let next = deferred.chain(held).min()?;
        let grace = self.recovery.grace(self.now).unwrap_or(next);
        Some(next.min(grace))
    }

    /// Serves requests that need not wait any longer; whether it has served any.
    pub(crate) fn serve_deferred(&mut self) -> bool {
        let due = self.next_deferred().is_some_and(|next| self.now >= next);
        let waits = !self.deferred.is_empty() || !self.recovery.held.is_empty();
        // In the grace period all wait, whatever changes.
        if !waits || !(due || self.recovery.grace(self.now).is_none()) {
            return false;
        }
        self.release_held();
        let mut ready = Vec::new();
        for (&key, deferred) in &self.deferred {
            let waits = match &deferred.what {
                What::Open(name, open) => {
                    self.has_to_wait(self.names.get(name).copied(), open.role)
                }
                What::Join { topic, role, .. } => self.has_to_wait(Some(*topic), *role),
                What::Watch(..) => self.recovery.grace(self.now).is_some(),
            };
            if !waits || self.now >= deferred.until {
                ready.push(key);
            }
        }
        let any = !ready.is_empty();
        for (session, handle) in ready {
            let Some(deferred) = self.deferred.remove(&(session, handle)) else {
                continue;
            };
            if let Err(refused) = self.serve_now(session, handle, deferred.what) {
                self.refuse(session, handle, &refused);
            }
        }
        any
    }

    fn serve_now(&mut self, session: u64, handle: u32, what: What<W>) -> Result<(), Refused> {
        match what {
            What::Join {
                topic, id, segment, ..
            } => self.join_now(topic, id, segment),
            What::Open(name, open) => {
                self.no_longer_deferred(session, handle);
                self.open_now(session, handle, name, *open)
            }
            What::Watch(pattern, schema) => {
                self.no_longer_deferred(session, handle);
                self.watch_now(session, handle, pattern, *schema, None)
            }
        }
    }

    fn no_longer_deferred(&mut self, session: u64, handle: u32) {
        if let Some(entry) = self.sessions.get_mut(&session) {
            entry.handles.remove(&handle);
        }
    }

    /// Tells publishers that came back the version, if they need not wait for absent subscribers any longer.
    fn release_held(&mut self) {
        let grace = self.recovery.grace(self.now).is_some();
        let held = std::mem::take(&mut self.recovery.held);
        for (topic, id, until) in held {
            let Some(entry) = self.topics.get_mut(&topic) else {
                continue;
            };
            if self.now < until && (grace || entry.may_come(Role::Subscriber)) {
                self.recovery.held.push((topic, id, until));
            } else {
                // For good: its session may take the version only when somebody is absent again.
                if let Some(member) = entry.members.get_mut(&id) {
                    member.view.hold = None;
                }
                self.queue(topic, &[id]);
            }
        }
    }

    /// A newcomer has joined: absent members with this role do not know it, and may not come back. Members that came
    /// back and do not listen to their new registries yet may not either.
    pub(crate) fn fence_absentees(&mut self, topic: u64, role: Role) {
        let Some(entry) = self.topics.get_mut(&topic) else {
            return;
        };
        for (id, absent) in &mut entry.absent {
            if absent.role == role && !std::mem::replace(&mut absent.fenced, true) {
                tracing::warn!(topic = %entry.name, id, %role, "an absent member is fenced: a newcomer has joined");
            }
        }
        let back = |m: &&Member<W>| m.role == role && m.reclaimed;
        let members = entry.members.values().filter(back);
        let unheard = members.filter(|member| {
            let session = self.sessions.get(&member.session);
            session.is_some_and(|session| session.returning)
        });
        let unheard: Vec<_> = unheard.map(|m| (m.session, m.handle)).collect();
        let name = entry.name.clone();
        for (session, handle) in unheard {
            let why = format!("topic {name} has gone on without this handle: open a new one");
            let refused = Refused::new(bus_core::control::Refusal::Fenced, why);
            self.refuse(session, handle, &refused);
        }
    }
}
