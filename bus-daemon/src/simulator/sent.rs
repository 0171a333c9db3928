//! What the engine sends, held against the promises about each message.

use std::collections::BTreeMap;
use std::rc::Rc;

use bus_core::control::{Event, Refusal, Role};
use bus_core::memory::segment::Kind;

use super::books::{Books, HandleBook, Told};
use super::world::{Fd, Socket, Words};

/// Descriptors of a session that are not acknowledged, at most.
const CREDIT: u32 = 8;
/// The same for all sessions of a user together.
const USER_CREDIT: u32 = 64;
/// Descriptors of a message, at most.
const LARGEST: u32 = 2;

impl Books {
    /// A version has moved: all members that are concerned were told, or cannot be told now.
    pub(crate) fn version_moved(
        &mut self,
        sockets: &BTreeMap<u64, Socket>,
        registry: &Rc<Words>,
        of: Role,
        version: u32,
    ) {
        self.mix(u64::from(version));
        let user = |number: &u64| sockets.get(number).map(|socket| socket.life.uid);
        let of_user = |session: &u64| -> u32 {
            let all = self
                .sessions
                .iter()
                .filter(|(n, _)| user(n) == user(session));
            all.map(|(_, book)| book.in_flight).sum()
        };
        let mut untold = Vec::new();
        for &(session, handle) in self.members.get(&registry.number).into_iter().flatten() {
            let Some(of_session) = self.sessions.get(&session) else {
                continue;
            };
            let Some(book) = of_session.handles.get(&handle) else {
                continue;
            };
            // A publisher that has come back may be told later.
            if book.role == of || book.heard == Some(version) || book.heard.is_none() {
                continue;
            }
            let blocked = of_session.in_flight + LARGEST > CREDIT
                || sockets
                    .get(&session)
                    .is_none_or(|socket| socket.refuses || !socket.client);
            if !blocked && of_user(&session) + LARGEST <= USER_CREDIT {
                untold.push((session, handle));
            }
        }
        for (session, handle) in untold {
            let what = format!(
                "the version moved to {version} before handle {handle} of session {session} was told the difference"
            );
            self.suspect(session, handle, what);
        }
    }

    /// The broker has put a message into a socket.
    pub(crate) fn sent(&mut self, session: u64, handle: u32, event: &Event, descriptors: &[Fd]) {
        self.mix(session << 32 | u64::from(handle));
        self.count(event);
        let count = descriptors.len() as u32;
        let book = self.sessions.entry(session).or_default();
        let over = count > 0 && book.in_flight > 0 && book.in_flight + count > CREDIT;
        if over && !self.stopping {
            let what = format!(
                "session {session} has {} descriptors in flight, and {count} more were sent",
                book.in_flight
            );
            self.fail(what);
            return;
        }
        book.in_flight += count;
        if let Err(what) = self.hear(session, handle, event, descriptors) {
            self.fail(format!(
                "handle {handle} of session {session} was sent {event:?}: {what}"
            ));
        }
    }

    pub(super) fn count(&mut self, event: &Event) {
        let counts = &mut self.counts;
        let count = match event {
            Event::Joined { .. } => &mut counts.joined,
            Event::Reclaimed { .. } => &mut counts.reclaimed,
            Event::Refused { kind, .. } => {
                counts.fenced += u64::from(*kind == Refusal::Fenced);
                &mut counts.refused
            }
            Event::PublisherJoined { ended, .. } => {
                counts.ended += u64::from(*ended);
                &mut counts.introduced
            }
            Event::SubscriberJoined { .. } => &mut counts.introduced,
            Event::PublisherLeft { dropped: true, .. } => &mut counts.dropped,
            Event::TopicAppeared { .. } => &mut counts.appeared,
            _ => return,
        };
        *count += 1;
    }

    pub(super) fn hear(
        &mut self,
        session: u64,
        handle: u32,
        event: &Event,
        descriptors: &[Fd],
    ) -> Result<(), String> {
        match event {
            Event::Refused { kind, .. } => {
                self.mix(1);
                if *kind == Refusal::Protocol {
                    return Err("an honest client does not break the protocol".into());
                }
                self.refused.insert((session, handle));
                if let Some(book) = self.sessions.get_mut(&session) {
                    book.asked.remove(&handle);
                    if let Some(member) = book.handles.get(&handle)
                        && *kind == Refusal::Fenced
                        && member.id != 0
                    {
                        self.told_fenced.insert(member.id);
                    }
                }
                self.not_owed(session, handle);
                self.forget_handle(session, handle);
                return Ok(());
            }
            Event::Process { process, .. } => {
                let book = self.sessions.entry(session).or_default();
                return match book.processes.insert(*process, false) {
                    Some(false) => Err("the process was introduced before".into()),
                    _ => Ok(()),
                };
            }
            Event::ProcessGone { process } => {
                let book = self.sessions.entry(session).or_default();
                let known = |book: &HandleBook| book.told.values().any(|t| t.process == *process);
                let knows = book.handles.iter().filter(|(_, book)| known(book));
                let knows: Vec<_> = knows.map(|(handle, _)| *handle).collect();
                for handle in knows {
                    let what = format!(
                        "process {process} is told to be gone, and handle {handle} of session {session} knows a peer of it"
                    );
                    self.suspect(session, handle, what);
                }
                let book = self.sessions.entry(session).or_default();
                let brought = book.brought.contains(process);
                return match book.processes.remove(process) {
                    Some(_) => Ok(()),
                    None if brought => Ok(()),
                    None => Err("the process was not introduced".into()),
                };
            }
            Event::Watching { .. } => return Ok(()),
            _ => {}
        }
        self.hear_of_member(session, handle, event, descriptors)
    }

    pub(super) fn hear_of_member(
        &mut self,
        session: u64,
        handle: u32,
        event: &Event,
        descriptors: &[Fd],
    ) -> Result<(), String> {
        let Some(of_session) = self.sessions.get_mut(&session) else {
            return Ok(());
        };
        let (processes, brought) = (&of_session.processes, &of_session.brought);
        let known = |process: &u64| processes.contains_key(process) || brought.contains(process);
        // What is said of a handle that was closed goes nowhere.
        let Some(book) = of_session.handles.get_mut(&handle) else {
            return Ok(());
        };
        let mut mixed = 0;
        match event {
            Event::Opened {
                settings,
                index,
                id,
                ..
            } => {
                (book.id, book.index) = (*id, *index);
                book.lossless = !settings.delivery.overruns();
                book.registry = registry(descriptors);
                if book.role == Role::Publisher {
                    return self.index_given(session, handle);
                }
            }
            Event::PublisherJoined {
                id,
                process,
                index,
                ended,
                ..
            } => {
                mixed = *id;
                if !known(process) {
                    return Err("its process was not introduced".into());
                }
                if book.released.contains(id) {
                    return Err("the subscriber has released this ring".into());
                }
                let other = book
                    .told
                    .iter()
                    .find(|(ring, told)| told.index == *index && *ring != id);
                if let Some((ring, _)) = other {
                    return Err(format!(
                        "its index is that of ring {ring}, which the subscriber has not released"
                    ));
                }
                book.owed.remove(id);
                introduce(book, *id, *process, *index, *ended, descriptors)?;
            }
            Event::SubscriberJoined { id, process, .. } => {
                mixed = *id;
                if !known(process) {
                    return Err("its process was not introduced".into());
                }
                match descriptors.first() {
                    Some(Fd::Segment(Kind::Reader, _)) => {}
                    other => return Err(format!("it comes with {other:?}")),
                }
                introduce(book, *id, *process, 0, false, descriptors)?;
            }
            Event::PublisherLeft { id, dropped } => {
                mixed = *id;
                let Some(told) = book.told.get_mut(id) else {
                    return Err("the subscriber does not know it".into());
                };
                if *dropped {
                    if book.lossless {
                        return Err("the topic loses nothing".into());
                    }
                    book.told.remove(id);
                } else if std::mem::replace(&mut told.left, true) {
                    return Err("the subscriber was told before".into());
                }
                self.told_left.push((*id, *dropped));
            }
            Event::SubscriberLeft { id } => {
                mixed = *id;
                if book.told.remove(id).is_none() {
                    return Err("the publisher does not know it".into());
                }
                self.told_left.push((*id, false));
            }
            Event::PeerDoorbell { id } => {
                mixed = *id;
                match book.told.get_mut(id) {
                    None => return Err("the handle does not know it".into()),
                    Some(told) if told.doorbell && !told.again => {
                        return Err("its doorbell was told before".into());
                    }
                    Some(told) => told.doorbell = true,
                }
            }
            Event::Joined { version } => {
                book.member = true;
                book.heard = Some(*version);
                return self.joined(session, handle);
            }
            Event::Synced { version } => {
                mixed = u64::from(*version);
                book.heard = Some(*version);
                if book.member {
                    self.synced(session, handle);
                }
            }
            Event::Reclaimed { version, .. } => {
                mixed = u64::from(*version);
                let told = self.told_fenced.contains(&book.id) && book.role == Role::Publisher;
                let fenced = self.fenced.contains_key(&book.id) || told;
                let id = book.id;
                book.registry = registry(descriptors);
                book.member = true;
                book.heard = match book.role {
                    // It is told the version when no subscriber is absent.
                    Role::Publisher => None,
                    Role::Subscriber => Some(*version),
                };
                self.came_back(session, handle);
                if fenced {
                    let what = format!("{id} was fenced, and is taken back");
                    self.suspect(session, handle, what);
                }
            }
            _ => {}
        }
        self.mix(mixed);
        Ok(())
    }
}

fn registry(descriptors: &[Fd]) -> Option<Rc<Words>> {
    match descriptors {
        [Fd::Registry(words)] => Some(Rc::clone(words)),
        _ => None,
    }
}

/// A handle is told of a peer.
fn introduce(
    book: &mut HandleBook,
    id: u64,
    process: u64,
    index: u16,
    left: bool,
    descriptors: &[Fd],
) -> Result<(), String> {
    if descriptors.is_empty() {
        return Err("it comes without its segment".into());
    }
    let doorbell = descriptors.len() > 1;
    let told = Told {
        index,
        process,
        left,
        doorbell,
        again: false,
    };
    match book.told.insert(id, told) {
        Some(before) if !before.again => Err("the handle was told of it before".into()),
        _ => Ok(()),
    }
}
