//! Telling a session the difference between what its handles were told and what is true now.
//!
//! There is no queue of events. A member keeps the set of peers that it was told of and the set of peers of which
//! something has changed; when the socket takes something, the difference is worked out and sent, and
//! [`Event::Synced`] with the version that it leads to. So a join, a session that does not read, and a return after a
//! restart are one code path, and what waits is bounded by the number of members.
//!
//! Descriptors in flight are bounded as well: a difference stops where the session has no credit, and goes on when the
//! client has acknowledged some, or the broker stops.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bus_core::control::{Event, Role, SESSION, Sent, Trust};

use super::member::{Owner, Told, View};
use super::session::{Answer, Blocked, Handle, Session};
use super::state::{End, Engine};
use super::topic::{Peer, Topic};
use super::watch::Watch;
use super::world::World;

/// Why a session is sent nothing more for now.
enum Stop {
    Blocked(Blocked),
    Ended,
}

type Step = Result<(), Stop>;

impl<W: World> Engine<W> {
    /// These members have something to be told: what their sessions take is sent at once.
    pub(crate) fn queue(&mut self, topic: u64, members: &[u64]) {
        let Some(entry) = self.topics.get_mut(&topic) else {
            return;
        };
        let mut sessions = Vec::new();
        for id in members {
            let Some(member) = entry.members.get_mut(id) else {
                continue;
            };
            if std::mem::replace(&mut member.view.queued, true) {
                continue;
            }
            if let Some(session) = self.sessions.get_mut(&member.session) {
                session.outbox.dirty.push_back(member.handle);
                sessions.push(member.session);
            }
        }
        sessions.dedup();
        for session in sessions {
            self.flush(session);
        }
    }

    /// A watch has something to be told.
    pub(crate) fn queue_watch(&mut self, watch: u64) {
        let Some(entry) = self.watches.get_mut(&watch) else {
            return;
        };
        if std::mem::replace(&mut entry.queued, true) {
            return;
        }
        let (number, handle) = (entry.session, entry.handle);
        if let Some(session) = self.sessions.get_mut(&number) {
            session.outbox.dirty.push_back(handle);
        }
        self.flush(number);
    }

    /// What a session waited for may be there.
    pub(crate) fn resume_sending(&mut self, number: u64) {
        if let Some(session) = self.sessions.get_mut(&number) {
            if session.outbox.blocked == Some(Blocked::Room) {
                self.world.await_room(number, false);
            }
            session.outbox.blocked = None;
            self.flush(number);
        }
    }

    /// Sends a session what it takes.
    pub(crate) fn flush(&mut self, number: u64) {
        let Some(session) = self.sessions.get_mut(&number) else {
            return;
        };
        if session.outbox.blocked.is_some() || session.over {
            return;
        }
        let mut sender = Sender {
            number,
            session,
            world: &mut self.world,
            now: self.now,
            grace: self.recovery.grace(self.now).is_some(),
            stopping: self.stopping,
        };
        let sent = sender.send_all(&mut self.topics, &mut self.watches);
        match sent {
            Ok(()) => {}
            Err(Stop::Ended) => self.closing.push_back((number, End::Closed)),
            Err(Stop::Blocked(blocked)) => {
                session.outbox.blocked = Some(blocked);
                match blocked {
                    Blocked::Room => self.world.await_room(number, true),
                    Blocked::Time => drop(self.later.insert(number)),
                    Blocked::Credit => drop(self.starved.insert(number)),
                }
            }
        }
        if session.outbox.deaf && !session.is_stuffed() {
            session.outbox.deaf = false;
            self.world.listen(number, true);
        }
    }

    /// A handle of a session does not know a peer of this process any more.
    pub(crate) fn forget_process(&mut self, number: u64, process: u64) {
        let Some(session) = self.sessions.get_mut(&number) else {
            return;
        };
        if !session.over && session.forget_peer(process) {
            self.answer(number, SESSION, Event::ProcessGone { process }, Vec::new());
        }
    }

    /// A handle has lost descriptors.
    pub(crate) fn retell(&mut self, session: u64, handle: u32, known: Handle) {
        match known {
            Handle::Member { topic, id } => self.retell_member(session, handle, topic, id),
            // Their messages carry none.
            Handle::Watch(_) | Handle::Deferred | Handle::Orphan { .. } => {}
        }
    }

    /// A session has lost the descriptors of processes.
    pub(crate) fn retell_processes(&mut self, number: u64) {
        let Some(session) = self.sessions.get_mut(&number) else {
            return;
        };
        let owners = session
            .told
            .values()
            .filter_map(|(owner, _)| owner.as_ref());
        let again = owners.map(introduction);
        let again: Vec<_> = again.collect();
        // Those that wait to be told again are told with the others.
        let waiting = &mut session.outbox.answers;
        waiting.retain(|answer| !matches!(answer.event, Event::Process { .. }));
        waiting.extend(again);
        self.flush(number);
    }
}

/// One session being sent to.
struct Sender<'a, W: World> {
    number: u64,
    session: &'a mut Session<W>,
    world: &'a mut W,
    now: Duration,
    /// Members that nobody knows may still come back.
    grace: bool,
    /// Nobody will hear of an acknowledgement any more.
    stopping: bool,
}

impl<W: World> Sender<'_, W> {
    fn send_all(
        &mut self,
        topics: &mut BTreeMap<u64, Topic<W>>,
        watches: &mut BTreeMap<u64, Watch<W>>,
    ) -> Step {
        loop {
            while let Some(answer) = self.session.outbox.answers.pop_front() {
                let sent = self.send(answer.handle, &answer.event, &answer.descriptors);
                if sent.is_err() {
                    self.session.outbox.answers.push_front(answer);
                    return sent;
                }
            }
            let Some(&handle) = self.session.outbox.dirty.front() else {
                return Ok(());
            };
            match self.session.handles.get(&handle).copied() {
                Some(Handle::Member { topic, id }) => {
                    if let Some(topic) = topics.get_mut(&topic) {
                        self.tell_member(topic, id)?;
                    }
                }
                Some(Handle::Watch(id)) => {
                    if let Some(watch) = watches.get_mut(&id) {
                        self.tell_watch(watch, id, topics)?;
                    }
                }
                Some(Handle::Deferred | Handle::Orphan { .. }) | None => {}
            }
            self.session.outbox.dirty.pop_front();
        }
    }

    fn send(&mut self, handle: u32, event: &Event, descriptors: &[W::Fd]) -> Step {
        let count = descriptors.len() as u32;
        if !self.stopping && !self.session.has_credit(count) {
            return Err(Stop::Blocked(Blocked::Credit));
        }
        match self.world.send(self.number, handle, event, descriptors) {
            Ok(Sent::Yes) => {
                self.session.sent(count);
                Ok(())
            }
            Ok(Sent::Full) => Err(Stop::Blocked(Blocked::Room)),
            Ok(Sent::Later) => Err(Stop::Blocked(Blocked::Time)),
            Err(error) => {
                tracing::debug!(session = self.number, %error, "cannot send to a session");
                Err(Stop::Ended)
            }
        }
    }

    /// Introduces a process, if the session does not know it.
    fn introduce(&mut self, owner: &Rc<Owner<W>>) -> Step {
        if self.session.told.contains_key(&owner.process) {
            return Ok(());
        }
        let known = (Some(Rc::clone(owner)), 0);
        let process = owner.process;
        let answers = &mut self.session.outbox.answers;
        let gone = answers.iter().position(
            |answer| matches!(answer.event, Event::ProcessGone { process: gone } if gone == process),
        );
        if let Some(gone) = gone {
            // The session still knows the process. To be told that it is gone after a peer of it would be wrong.
            answers.remove(gone);
            self.session.told.insert(process, known);
            return Ok(());
        }
        let Answer {
            handle,
            event,
            descriptors,
        } = introduction(owner);
        self.send(handle, &event, &descriptors)?;
        self.session.told.insert(process, known);
        Ok(())
    }

    /// Tells a member the difference.
    fn tell_member(&mut self, topic: &mut Topic<W>, id: u64) -> Step {
        let Some(member) = topic.members.get_mut(&id) else {
            return Ok(());
        };
        let (handle, role, uid) = (member.handle, member.role, member.owner.uid);
        let mut view = std::mem::take(&mut member.view);
        let mut told;
        loop {
            told = match role {
                Role::Subscriber => self.tell_subscriber(topic, id, handle, uid, &mut view),
                Role::Publisher => self.tell_publisher(topic, handle, uid, &mut view),
            };
            if told.is_err() || !view.tell_again() {
                break;
            }
        }
        let told = told.and_then(|()| self.tell_version(topic, handle, role, &mut view));
        if told.is_ok() {
            view.queued = false;
        }
        if let Some(member) = topic.members.get_mut(&id) {
            member.view = view;
        }
        told
    }

    fn tell_subscriber(
        &mut self,
        topic: &Topic<W>,
        id: u64,
        handle: u32,
        uid: u32,
        view: &mut View,
    ) -> Step {
        if view.decided {
            let settings = topic.settings;
            self.send(handle, &Event::Decided { settings }, &[])?;
            view.decided = false;
        }
        // Publishers that followed each other are told in that order: their numbers do not have it.
        let mut pending: Vec<_> = view.pending.iter().copied().collect();
        pending.sort_by_key(|ring| topic.rings.age(*ring));
        // What has gone comes first: the index of a ring may be another one's by now.
        for &ring in &pending {
            let Some(told) = view.told.get_mut(&ring) else {
                continue;
            };
            let left = |dropped| Event::PublisherLeft { id: ring, dropped };
            match topic.publisher_for(id, ring) {
                Peer::Gone if topic.rings.reads(ring, id) && !told.left => {
                    self.send(handle, &left(false), &[])?;
                    told.left = true;
                }
                Peer::Gone if topic.rings.reads(ring, id) => {}
                Peer::Gone => {
                    let process = told.process;
                    self.send(handle, &left(true), &[])?;
                    view.told.remove(&ring);
                    self.forget(process);
                }
                Peer::Ended(_) if told.sent && !told.left => {
                    self.send(handle, &left(false), &[])?;
                    told.left = true;
                }
                _ => {}
            }
        }
        for ring in pending {
            match topic.publisher_for(id, ring) {
                Peer::Member(member) => {
                    let trust = member.trust(uid);
                    let doorbell = member.doorbell.as_ref().filter(|_| member.owner.uid == uid);
                    let Some(segment) = &member.segment else {
                        continue;
                    };
                    let joined = Event::PublisherJoined {
                        id: ring,
                        process: member.owner.process,
                        index: member.index,
                        ended: false,
                        trust,
                    };
                    let has_doorbell = member.doorbell.is_some();
                    self.tell_peer(
                        handle,
                        ring,
                        &member.owner,
                        &joined,
                        segment,
                        (doorbell, has_doorbell),
                        view,
                    )?;
                }
                Peer::Ended(ended) => {
                    let trust = if ended.owner.uid == uid {
                        Trust::InPlace
                    } else {
                        ended.trust
                    };
                    let joined = Event::PublisherJoined {
                        id: ring,
                        process: ended.owner.process,
                        index: ended.index,
                        ended: true,
                        trust,
                    };
                    let none = (None, false);
                    self.tell_peer(
                        handle,
                        ring,
                        &ended.owner,
                        &joined,
                        &ended.segment,
                        none,
                        view,
                    )?;
                    if let Some(told) = view.told.get_mut(&ring) {
                        told.left = true;
                    }
                }
                _ => {}
            }
            view.pending.remove(&ring);
        }
        Ok(())
    }

    fn tell_publisher(&mut self, topic: &Topic<W>, handle: u32, uid: u32, view: &mut View) -> Step {
        let pending: Vec<_> = view.pending.iter().copied().collect();
        for &peer in &pending {
            if let (Peer::Gone, Some(told)) = (topic.subscriber(peer), view.told.get(&peer)) {
                let process = told.process;
                self.send(handle, &Event::SubscriberLeft { id: peer }, &[])?;
                view.told.remove(&peer);
                self.forget(process);
            }
        }
        for peer in pending {
            match topic.subscriber(peer) {
                Peer::Member(member) => {
                    let doorbell = member.doorbell.as_ref().filter(|_| member.owner.uid == uid);
                    let Some(segment) = &member.segment else {
                        continue;
                    };
                    let joined = Event::SubscriberJoined {
                        id: peer,
                        process: member.owner.process,
                        kept: false,
                    };
                    let has_doorbell = member.doorbell.is_some();
                    self.tell_peer(
                        handle,
                        peer,
                        &member.owner,
                        &joined,
                        segment,
                        (doorbell, has_doorbell),
                        view,
                    )?;
                }
                Peer::Place(place) => {
                    let joined = Event::SubscriberJoined {
                        id: peer,
                        process: place.owner.process,
                        kept: true,
                    };
                    let none = (None, false);
                    self.tell_peer(
                        handle,
                        peer,
                        &place.owner,
                        &joined,
                        &place.segment,
                        none,
                        view,
                    )?;
                }
                _ => {}
            }
            view.pending.remove(&peer);
        }
        Ok(())
    }

    /// Tells a member of a peer, or of what is new about it. `doorbell` is what the receiver gets, and whether the
    /// peer has one at all: peers of other users are woken through the broker.
    #[allow(clippy::too_many_arguments, reason = "what is told, and to whom")]
    fn tell_peer(
        &mut self,
        handle: u32,
        peer: u64,
        owner: &Rc<Owner<W>>,
        joined: &Event,
        segment: &W::Fd,
        (doorbell, has_doorbell): (Option<&W::Fd>, bool),
        view: &mut View,
    ) -> Step {
        if let Some(told) = view.told.get_mut(&peer).filter(|told| told.sent) {
            if has_doorbell && !told.doorbell {
                let descriptors: Vec<_> = doorbell.into_iter().cloned().collect();
                self.send(handle, &Event::PeerDoorbell { id: peer }, &descriptors)?;
                told.doorbell = true;
            }
            return Ok(());
        }
        self.introduce(owner)?;
        let mut descriptors = vec![segment.clone()];
        descriptors.extend(doorbell.cloned());
        self.send(handle, joined, &descriptors)?;
        let known = view.told.insert(
            peer,
            Told {
                process: owner.process,
                sent: true,
                again: false,
                doorbell: has_doorbell,
                left: false,
            },
        );
        if known.is_none()
            && let Some((_, peers)) = self.session.told.get_mut(&owner.process)
        {
            *peers += 1;
        }
        Ok(())
    }

    /// A handle knows a peer of this process less.
    fn forget(&mut self, process: u64) {
        if self.session.forget_peer(process) {
            self.session.outbox.answers.push_back(Answer {
                handle: SESSION,
                event: Event::ProcessGone { process },
                descriptors: Vec::new(),
            });
        }
    }

    /// Nothing of a member is pending: tells it the version.
    fn tell_version(&mut self, topic: &Topic<W>, handle: u32, role: Role, view: &mut View) -> Step {
        debug_assert!(view.pending.is_empty(), "the difference was told");
        let version = topic.version_of(role.other());
        if view.joining {
            self.send(handle, &Event::Joined { version }, &[])?;
            (view.joining, view.behind) = (false, false);
        } else if view.behind {
            let waits = self.grace || topic.may_come(role.other());
            if view.hold.is_some_and(|until| self.now < until) && waits {
                return Ok(());
            }
            view.hold = None;
            self.send(handle, &Event::Synced { version }, &[])?;
            view.behind = false;
        }
        Ok(())
    }

    /// Tells a watch the difference.
    fn tell_watch(
        &mut self,
        watch: &mut Watch<W>,
        id: u64,
        topics: &BTreeMap<u64, Topic<W>>,
    ) -> Step {
        let handle = watch.handle;
        while let Some(&number) = watch.pending.first() {
            let there = topics.get(&number).filter(|topic| !topic.closed);
            match (there, watch.told.contains(&number)) {
                (Some(topic), false) => {
                    let difference = watch.schema.difference(&topic.schema);
                    let differs = difference.map(|difference| {
                        let why = format!("it carries {}: {difference}", topic.schema.name);
                        super::refused::cut(&why).to_owned()
                    });
                    let appeared = Event::TopicAppeared {
                        id: number,
                        topic: topic.name.to_string(),
                        differs,
                        kept: topic.places.contains_key(&id),
                    };
                    self.send(handle, &appeared, &[])?;
                    watch.told.insert(number);
                }
                (None, true) => {
                    self.send(handle, &Event::TopicGone { id: number }, &[])?;
                    watch.told.remove(&number);
                }
                _ => {}
            }
            watch.pending.remove(&number);
        }
        if watch.beginning {
            self.send(handle, &Event::Watching { id }, &[])?;
            watch.beginning = false;
        }
        watch.queued = false;
        Ok(())
    }
}

fn introduction<W: World>(owner: &Rc<Owner<W>>) -> Answer<W> {
    Answer {
        handle: SESSION,
        event: Event::Process {
            process: owner.process,
            pid: owner.pid,
            user: owner.uid,
            client: owner.client.to_string(),
        },
        descriptors: vec![owner.pidfd.clone()],
    }
}
