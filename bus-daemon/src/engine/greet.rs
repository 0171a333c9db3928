//! A session begins, acknowledges, is refused, and ends.

use std::collections::BTreeSet;
use std::rc::Rc;

use bus_core::ClientName;
use bus_core::control::{
    Credentials, Event, FEATURES, Refusal, SESSION, Secret, may_be_anybody, versions,
};

use super::admission::session_amounts;
use super::member::Owner;
use super::refused::Refused;
use super::session::{Answer, Handle, Session};
use super::state::{End, Engine};
use super::world::World;
use crate::accounts::Account;
use crate::limits::MAX_SESSIONS;
use crate::policy::Subject;
use crate::report;

/// The bits of features that the other side must know.
const NEEDED: u64 = 0xffff_ffff;

/// By how many generations a client may be ahead of a broker whose lock file was lost. Without a limit, one client could use
/// up the numbers of all brokers to come.
const MOST_AHEAD: u64 = 1 << 32;

impl<W: World> Engine<W> {
    /// Takes a new connection in.
    pub(crate) fn connected(
        &mut self,
        number: u64,
        peer: Credentials,
        who: Subject,
        pidfd: W::Fd,
    ) -> Result<(), Refused> {
        assert!(
            !self.sessions.contains_key(&number),
            "numbers of sessions are new"
        );
        if self.sessions.len() >= MAX_SESSIONS {
            let why = format!("the broker has {MAX_SESSIONS} sessions, which is the limit");
            return Err(Refused::new(Refusal::Limit, why));
        }
        if may_be_anybody(who.uid) {
            let why = format!(
                "the client's user has no number in the broker's user namespace, where all such users appear as {}; map the user there",
                who.uid
            );
            return Err(Refused::new(Refusal::NotAllowed, why));
        }
        // Root may ask the broker to end, wherever it is served.
        if who.uid != 0 {
            self.check_known(&who)?;
        }
        let account = self.accounts.of(who.uid, &self.policy, self.now);
        let charge = account.charge(peer.pid, session_amounts());
        let charge = charge.or_else(|over| match self.sweep_user(&account, number) {
            true => account.charge(peer.pid, session_amounts()),
            false => Err(over),
        });
        let charge = charge.map_err(|over| Refused::new(Refusal::Limit, account.explain(over)))?;
        let session = Session::new(peer, pidfd, Rc::new(who), charge);
        self.sessions.insert(number, session);
        Ok(())
    }

    /// Whether connections of this user are served, or may be told more than that they are not.
    pub(crate) fn may_connect(&self, who: &Subject) -> bool {
        !may_be_anybody(who.uid) && (who.uid == 0 || self.policy.knows(who))
    }

    /// Refuses a user that the policy does not name.
    fn check_known(&self, who: &Subject) -> Result<(), Refused> {
        if self.policy.knows(who) {
            return Ok(());
        }
        let why = format!(
            "this broker serves user {} and the users that its policy names, and the client is user {}",
            self.policy.own_user(),
            who.uid
        );
        Err(Refused::new(Refusal::NotAllowed, why))
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of Hello")]
    pub(crate) fn greet(
        &mut self,
        number: u64,
        client_versions: (u16, u16),
        features: u64,
        client: &str,
        secret: Secret,
        returns: bool,
        generation: u64,
    ) -> Result<(), Refused> {
        let client = ClientName::new(client)
            .map_err(|e| Refused::new(Refusal::BadName, format!("client: {e}")))?;
        let version = agree(client_versions)?;
        if let Some(bit) = lowest(FEATURES & NEEDED & !features) {
            let why = format!(
                "this broker needs feature {bit}, which the client does not know; use builds of one version"
            );
            return Err(Refused::new(Refusal::Version, why));
        }
        if let Some(bit) = lowest(features & NEEDED & !FEATURES) {
            let why = format!(
                "the client needs feature {bit}, which this broker does not know; use builds of one version"
            );
            return Err(Refused::new(Refusal::Version, why));
        }
        let process = secret.process();
        let Some(session) = self.sessions.get(&number) else {
            return Ok(());
        };
        if session.owner.is_some() {
            return Err(Refused::protocol("Hello comes once"));
        }
        self.check_known(&session.who)?;
        if generation.saturating_sub(self.generation) > MOST_AHEAD {
            let why = format!(
                "the client claims generation {generation}; no path has had so many brokers"
            );
            return Err(Refused::protocol(why));
        }
        let peer = session.peer;
        if let Some(&older) = self.processes.get(&process) {
            let same = self.sessions.get(&older).is_some_and(|s| s.peer == peer);
            if !same {
                let why = "another process has said that it is this one";
                return Err(Refused::new(Refusal::Unknown, why));
            }
            // Its process has given up that connection, and the kernel has not told of it yet.
            self.end_session(older, End::Replaced);
        }
        if generation >= self.generation {
            self.raise_generation(generation + 1);
        }
        let Some(session) = self.sessions.get_mut(&number) else {
            return Ok(());
        };
        session.charge.account().name(peer.pid, client.as_str());
        tracing::debug!(session = number, %client, pid = peer.pid, process, returns, "connected");
        session.owner = Some(Rc::new(Owner {
            process,
            pid: peer.pid,
            uid: peer.uid,
            client,
            pidfd: session.pidfd.clone(),
        }));
        session.versions = client_versions;
        session.returning = returns;
        session.generation = generation;
        self.processes.insert(process, number);
        if returns {
            self.recovery.returning.insert(number);
        } else {
            // A process that comes back without anything had nothing, or has lost it.
            self.process_is_here(process);
        }
        let welcome = Event::Welcome {
            version,
            features: features & FEATURES,
            process,
            generation: self.generation,
        };
        self.answer(number, SESSION, welcome, Vec::new());
        #[cfg(feature = "next-build")]
        self.say_more(number, features);
        Ok(())
    }

    /// What a build of the next version says besides.
    #[cfg(feature = "next-build")]
    fn say_more(&mut self, number: u64, features: u64) {
        let Some(session) = self.sessions.get(&number) else {
            return;
        };
        let descriptor = session.pidfd.clone();
        for event in bus_core::control::next::events(features) {
            let descriptors = match event {
                Event::Remark {} => vec![descriptor.clone()],
                _ => Vec::new(),
            };
            self.answer(number, SESSION, event, descriptors);
        }
    }

    /// There was a broker with this generation, so this one has a higher one.
    fn raise_generation(&mut self, generation: u64) {
        self.generation = generation;
        let greeted = self.sessions.iter().filter(|(_, s)| s.owner.is_some());
        let greeted: Vec<_> = greeted.map(|(number, _)| *number).collect();
        for number in greeted {
            self.answer(
                number,
                SESSION,
                Event::Generation { generation },
                Vec::new(),
            );
        }
    }

    /// The client has taken descriptors out of its socket.
    pub(crate) fn acknowledge(&mut self, number: u64, descriptors: u32) -> Result<(), Refused> {
        let Some(session) = self.sessions.get_mut(&number) else {
            return Ok(());
        };
        let (taken, uid) = (session.acknowledged(descriptors), session.peer.uid);
        self.starved.remove(&number);
        self.flush(number);
        if taken > 0 {
            self.feed(uid);
        }
        Ok(())
    }

    /// Others of a user may have waited for the credit that one session gives back.
    fn feed(&mut self, uid: u32) {
        let of_user = |number: &u64| self.sessions.get(number).is_some_and(|s| s.peer.uid == uid);
        let (fed, starved) = std::mem::take(&mut self.starved)
            .into_iter()
            .partition::<BTreeSet<_>, _>(of_user);
        self.starved = starved;
        for session in fed {
            self.resume_sending(session);
        }
    }

    /// Puts an answer behind those that wait, and sends what can be sent.
    pub(crate) fn answer(
        &mut self,
        number: u64,
        handle: u32,
        event: Event,
        descriptors: Vec<W::Fd>,
    ) {
        let Some(session) = self.sessions.get_mut(&number) else {
            return;
        };
        session.outbox.answers.push_back(Answer {
            handle,
            event,
            descriptors,
        });
        if session.is_stuffed() && !session.outbox.deaf {
            session.outbox.deaf = true;
            self.world.listen(number, false);
        }
        self.flush(number);
    }

    /// Tells a client that it is refused. The handle is closed; a session that is refused ends.
    pub(crate) fn refuse(&mut self, number: u64, handle: u32, refused: &Refused) {
        let Some(session) = self.sessions.get(&number) else {
            return;
        };
        let (kind, why) = (refused.kind, &refused.why);
        report::refused(session.peer.uid, session.peer.pid, kind, why);
        if handle != SESSION && !self.orphan_refused(number, handle, refused) {
            self.close_handle(number, handle);
        }
        self.answer(number, handle, refused.event(), Vec::new());
        // A client that breaks the protocol does not know what it says.
        if handle == SESSION || kind == Refusal::Protocol {
            self.closing.push_back((number, End::Refused));
        }
    }

    /// A handle is gone.
    pub(crate) fn close_handle(&mut self, number: u64, handle: u32) {
        self.deferred.remove(&(number, handle));
        let Some(session) = self.sessions.get_mut(&number) else {
            return;
        };
        session.presented.remove(&handle);
        match session.handles.remove(&handle) {
            Some(Handle::Member { topic, id }) => self.leave(topic, id),
            Some(Handle::Watch(watch)) => self.unwatch(watch),
            Some(Handle::Orphan { topic, id }) => self.orphan_left(topic, id),
            Some(Handle::Deferred) | None => {}
        }
    }

    /// A session is refused more than its user may have: other sessions of that user make room whose end was not
    /// reported yet. Whether there were any. A user that has been refused very often has to wait for the reports.
    pub(crate) fn sweep(&mut self, number: u64) -> bool {
        let session = self.sessions.get(&number);
        let account = session.map(|session| Rc::clone(session.charge.account()));
        account.is_some_and(|account| self.sweep_user(&account, number))
    }

    fn sweep_user(&mut self, account: &Account, but: u64) -> bool {
        let sessions = self.sessions.iter();
        let others = sessions.filter(|(_, session)| session.peer.uid == account.uid());
        let others = others.map(|(number, _)| *number);
        let mut gone: Vec<_> = others.filter(|number| *number != but).collect();
        if !account.take_polls(self.now, gone.len()) {
            return false;
        }
        gone.retain(|number| self.world.is_gone(*number));
        for number in &gone {
            self.end_session(*number, End::Closed);
        }
        !gone.is_empty()
    }

    /// A session is over: its handles leave. Those of a process that was coming back are absent again.
    pub(crate) fn end_session(&mut self, number: u64, why: End) {
        let Some(session) = self.sessions.get_mut(&number).filter(|s| !s.over) else {
            return;
        };
        let (client, pid) = (session.client().to_owned(), session.peer.pid);
        let handles: Vec<_> = session.handles.keys().copied().collect();
        let lives = why != End::Died && self.world.is_alive(&session.pidfd);
        let reverts = session.returning && matches!(why, End::Closed | End::Replaced) && lives;
        tracing::debug!(
            session = number,
            client,
            pid,
            ?why,
            handles = handles.len(),
            "gone"
        );
        session.over = true;
        self.recovery.unswept |= self.recovery.returning.remove(&number);
        self.later.remove(&number);
        self.starved.remove(&number);
        if reverts {
            self.revert(number);
        }
        if lives && why == End::Refused {
            self.orphan_all(number);
        }
        for handle in handles {
            self.close_handle(number, handle);
        }
        self.deferred.retain(|(of, _), _| *of != number);
        let Some(session) = self.sessions.remove(&number) else {
            return;
        };
        let (in_flight, uid) = (session.outbox.in_flight, session.peer.uid);
        session.charge.account().remove_in_flight(in_flight);
        if let Some(owner) = &session.owner
            && self.processes.get(&owner.process) == Some(&number)
        {
            self.processes.remove(&owner.process);
        }
        self.world.close(number);
        // Only now, for its pidfd was watched for the session.
        if let Some(owner) = session.owner {
            self.is_away(&owner);
        }
        // What was on its way to it is not any more.
        if in_flight > 0 {
            self.feed(uid);
        }
    }

    /// A connection that never became a session.
    pub(crate) fn forget_connection(&mut self, number: u64) {
        assert!(!self.sessions.contains_key(&number), "it is no session");
        self.world.close(number);
    }

    /// Another broker asks this one to end.
    pub(crate) fn yield_to(&mut self, number: u64) -> Result<(), Refused> {
        let Some(session) = self.sessions.get(&number) else {
            return Ok(());
        };
        let (uid, own) = (session.peer.uid, self.policy.own_user());
        if uid != 0 && uid != own {
            let why = format!("only root and user {own} may end this broker, not user {uid}");
            return Err(Refused::new(Refusal::NotAllowed, why));
        }
        if !self.gives_way {
            let why = "this broker is busd, which does not give way to another one; stop it first";
            return Err(Refused::new(Refusal::NotAllowed, why));
        }
        self.yields = true;
        Ok(())
    }
}

/// The newest version of the protocol that both sides speak.
fn agree((oldest, newest): (u16, u16)) -> Result<u16, Refused> {
    let (own_oldest, own_newest) = versions();
    let version = newest.min(own_newest);
    if version < oldest.max(own_oldest) {
        let why = format!(
            "the client speaks versions {oldest} to {newest} of the protocol, and this broker {own_oldest} to {own_newest}; use builds of one version"
        );
        return Err(Refused::new(Refusal::Version, why));
    }
    Ok(version)
}

fn lowest(bits: u64) -> Option<u32> {
    (bits != 0).then(|| bits.trailing_zeros())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_common_version_is_spoken_and_both_ranges_are_named_where_there_is_none() {
        let (oldest, newest) = versions();
        assert_eq!(agree((oldest, newest)), Ok(newest));
        assert_eq!(agree((0, newest + 7)), Ok(newest));
        let refused = agree((newest + 1, newest + 3)).unwrap_err();
        assert_eq!(refused.kind, Refusal::Version);
        assert!(
            refused
                .why
                .contains(&format!("{} to {}", newest + 1, newest + 3))
        );
        assert!(refused.why.contains(&format!("{oldest} to {newest}")));
    }
}
