//! Subscribers that the broker goes on with no more, and whose processes live.
//!
//! Such a subscriber may still read messages where their publishers wrote them, and will until its program drops them.
//! A publisher that is told that it has left writes there. So the broker tells nobody: the subscriber is *absent*, as
//! one of an earlier broker is, until one of these says that it reads no more:
//!
//! * its client closes the handle, or comes back without it;
//! * its process is gone.
//!
//! In that time it may come back, unless it is fenced. A client that closes its connection itself has left.

use std::rc::Rc;

use bus_core::TopicName;
use bus_core::control::{Refusal, Role};

use super::recovery::AbsentProcess;
use super::refused::Refused;
use super::session::Handle;
use super::state::Engine;
use super::topic::Absent;
use super::world::World;

/// Whether a handle that is refused for this reason may hold messages. Those that give way to others do not.
fn may_hold(kind: Refusal) -> bool {
    matches!(
        kind,
        Refusal::Fenced
            | Refusal::Unknown
            | Refusal::Protocol
            | Refusal::Limit
            | Refusal::Broker
            | Refusal::Segment
    )
}

impl<W: World> Engine<W> {
    /// A handle is refused: whether its membership ends otherwise than by leaving.
    pub(crate) fn orphan_refused(&mut self, session: u64, handle: u32, refused: &Refused) -> bool {
        let entry = self.sessions.get(&session);
        let known = entry
            .and_then(|session| session.handles.get(&handle))
            .copied();
        let (topic, id) = match known {
            Some(Handle::Orphan { .. }) => return true,
            Some(Handle::Member { topic, id }) if may_hold(refused.kind) => (topic, id),
            _ => return false,
        };
        if !self.orphan(topic, id, true) {
            return false;
        }
        if let Some(entry) = self.sessions.get_mut(&session) {
            entry.handles.insert(handle, Handle::Orphan { topic, id });
        }
        true
    }

    /// A handle is not taken back: the subscriber that it was is not told of as gone for that.
    pub(crate) fn orphan_unclaimed(
        &mut self,
        session: u64,
        handle: u32,
        name: &str,
        id: u64,
        refused: &Refused,
    ) {
        let Some(process) = self.owner_of(session).map(|owner| owner.process) else {
            return;
        };
        let topic = TopicName::new(name)
            .ok()
            .and_then(|name| self.names.get(&name).copied());
        let Some(topic) = topic else {
            return;
        };
        let absent = self
            .topics
            .get_mut(&topic)
            .and_then(|entry| entry.absent.get_mut(&id));
        let Some(absent) =
            absent.filter(|absent| absent.role == Role::Subscriber && absent.process == process)
        else {
            return;
        };
        absent.fenced |= !refused.kind.may_pass();
        if let Some(entry) = self.sessions.get_mut(&session) {
            entry.handles.insert(handle, Handle::Orphan { topic, id });
        }
    }

    /// Puts a subscriber aside that may still read what it holds; false where there is none, or its process is gone.
    pub(crate) fn orphan(&mut self, topic: u64, id: u64, fenced: bool) -> bool {
        let Some(entry) = self.topics.get_mut(&topic) else {
            return false;
        };
        let reads = entry
            .members
            .get(&id)
            .is_some_and(|member| member.role == Role::Subscriber && member.has_joined());
        if !reads || !self.world.is_alive(&entry.members[&id].owner.pidfd) {
            return false;
        }
        let Some(member) = entry.members.remove(&id) else {
            unreachable!("it was there");
        };
        self.member_ids.remove(&id);
        let owner = Rc::clone(&member.owner);
        let absent = Absent {
            role: Role::Subscriber,
            process: owner.process,
            fenced,
        };
        entry.absent.insert(id, absent);
        let process = self
            .recovery
            .processes
            .entry(owner.process)
            .or_insert_with(AbsentProcess::new);
        process.members.insert((topic, id));
        for told in member.view.told.values() {
            self.forget_process(member.session, told.process);
        }
        tracing::warn!(
            id,
            client = %owner.client,
            pid = owner.pid,
            "a subscriber is put aside: publishers leave alone what it holds"
        );
        self.recharge(topic);
        true
    }

    /// The members of a session that the broker ends, of a process that lives.
    pub(crate) fn orphan_all(&mut self, number: u64) {
        let Some(session) = self.sessions.get(&number) else {
            return;
        };
        let handles: Vec<_> = session.handles.iter().map(|(h, k)| (*h, *k)).collect();
        let mut orphans = Vec::new();
        for (handle, known) in handles {
            let put_aside = match known {
                Handle::Member { topic, id } => self.orphan(topic, id, false),
                Handle::Orphan { .. } => true,
                Handle::Watch(_) | Handle::Deferred => false,
            };
            orphans.extend(put_aside.then_some(handle));
        }
        if let Some(session) = self.sessions.get_mut(&number) {
            for handle in orphans {
                session.handles.remove(&handle);
            }
        }
    }

    /// A subscriber that was put aside reads no more.
    pub(crate) fn orphan_left(&mut self, topic: u64, id: u64) {
        // Its topic may be closed by now.
        let mut processes = self.recovery.processes.iter_mut();
        let of = processes.find(|(_, process)| process.members.contains(&(topic, id)));
        if let Some((&process, entry)) = of {
            entry.members.remove(&(topic, id));
            if entry.members.is_empty() {
                self.process_is_here(process);
            }
        }
        self.absent_left(topic, id);
    }
}
