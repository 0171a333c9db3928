//! Whether a handle is let in: by the policy, by what its user takes already, and by whom it would block.
//!
//! Promises: a user that may not use a topic learns nothing of it, not even whether it is there. A user that is over a
//! quota is refused with the quota, its limit and the processes that use it, and no other user notices. A user that may
//! only subscribe never keeps away, or blocks, one that may publish. A new policy is for newcomers.

use std::rc::Rc;

use bus_core::control::{Refusal, Role};
use bus_core::memory::layout::PAGE;
use bus_core::memory::segment::Kind;
use bus_core::memory::{reader_bytes, ring_bytes};
use bus_core::{TopicName, TopicSettings};

use super::member::Grant;
use super::refused::Refused;
use super::state::Engine;
use super::world::World;
use crate::accounts::{Account, Amounts, Charge};
use crate::policy::{Quota, Right, Subject};

impl<W: World> Engine<W> {
    /// Counts a handle that asks to be taken in, and for which so many things are looked at.
    pub(crate) fn count_registration(&self, session: u64, looked_at: usize) -> Result<(), Refused> {
        let Some(session) = self.sessions.get(&session) else {
            return Ok(());
        };
        let account = session.charge.account();
        account.register(self.now, looked_at).map_err(|wait| {
            let why = format!(
                "user {} asks for more than {} {} a second; try again in {} ms, or raise `registrations` in the broker's policy",
                account.uid(),
                account.rate(),
                Quota::Registrations,
                wait.as_millis() + 1
            );
            Refused::new(Refusal::Limit, why)
        })
    }

    /// What a user may do on a topic, whether or not it may anything there.
    pub(crate) fn grant(&self, who: &Subject, topic: &TopicName) -> Grant {
        let decision = self.policy.decide(who, topic);
        Grant {
            trust: decision.trust(),
            stall: decision.stall(),
            publishes: decision.may(Right::Publish),
        }
    }

    /// Refuses a session that may not use a topic in this role.
    pub(crate) fn allow(
        &self,
        session: u64,
        role: Role,
        topic: &TopicName,
    ) -> Result<Grant, Refused> {
        let Some(session) = self.sessions.get(&session) else {
            return Err(Refused::protocol("the session is over"));
        };
        let (who, right) = (&session.who, Right::from(role));
        if self.policy.decide(who, topic).may(right) {
            return Ok(self.grant(who, topic));
        }
        let user = who.uid;
        let why = format!(
            "user {user} may not {right} on topic {topic}; ask for an [[allow]] rule in the policy of the broker (bus policy explain {user} {topic})"
        );
        Err(Refused::new(Refusal::NotAllowed, why))
    }

    /// Charges the user of a session.
    pub(crate) fn charge(&self, session: u64, amounts: Amounts) -> Result<Charge, Refused> {
        let (account, pid) = self.account(session)?;
        account
            .charge(pid, amounts)
            .map_err(|over| Refused::new(Refusal::Limit, account.explain(over)))
    }

    /// Charges the user of a session for what it had before this broker came.
    pub(crate) fn charge_anyway(&self, session: u64, amounts: Amounts) -> Result<Charge, Refused> {
        let (account, pid) = self.account(session)?;
        Ok(account.charge_anyway(pid, amounts))
    }

    fn account(&self, session: u64) -> Result<(Rc<Account>, u32), Refused> {
        let Some(session) = self.sessions.get(&session) else {
            return Err(Refused::protocol("the session is over"));
        };
        Ok((Rc::clone(session.charge.account()), session.peer.pid))
    }

    /// Refuses a subscriber that could block publishers of another user, and may not.
    pub(crate) fn check_stall(&self, topic: u64, uid: u32, grant: Grant) -> Result<(), Refused> {
        let Some(topic) = self.topics.get(&topic) else {
            return Ok(());
        };
        let lossless = !topic.settings.delivery.overruns();
        let foreign = topic.of(Role::Publisher).any(|(_, m)| m.owner.uid != uid);
        if lossless && !grant.stall && foreign {
            let name = &topic.name;
            let why = format!(
                "topic {name} is lossless, so a subscriber of user {uid} could block publishers of other users; the broker's policy must say stall = true in an [[allow]] rule for it"
            );
            return Err(Refused::new(Refusal::NotAllowed, why));
        }
        Ok(())
    }

    /// Refuses a publisher that subscribers could block which may publish themselves: these do not give way.
    pub(crate) fn check_displaceable(&self, topic: u64, uid: u32) -> Result<(), Refused> {
        let Some(entry) = self.topics.get(&topic) else {
            return Ok(());
        };
        if entry.settings.delivery.overruns() {
            return Ok(());
        }
        let (name, blocking) = (&entry.name, entry.blocking(uid));
        if let Some((_, other)) = blocking.iter().find(|(_, member)| member.grant.publishes) {
            let why = format!(
                "topic {name} is lossless, and has subscribers of user {} that could block publishers of user {uid}; the broker's policy must say stall = true in an [[allow]] rule for them",
                other.owner.uid
            );
            return Err(Refused::new(Refusal::NotAllowed, why));
        }
        Ok(())
    }

    /// A publisher has opened a topic: subscribers that could block it, and may not, give way.
    pub(crate) fn displace_blocking(&mut self, topic: u64, uid: u32) {
        let Some(entry) = self.topics.get(&topic) else {
            return;
        };
        if entry.settings.delivery.overruns() {
            return;
        }
        let (name, blocking) = (&entry.name, entry.blocking(uid));
        let why = format!(
            "topic {name} is lossless and has a publisher of another user now, which this subscriber could block; the broker's policy must say stall = true in an [[allow]] rule for it"
        );
        let handles: Vec<_> = blocking
            .iter()
            .map(|(_, m)| (m.session, m.handle))
            .collect();
        self.forfeit_places(topic, uid);
        for (session, handle) in handles {
            let refused = Refused::new(Refusal::NotAllowed, why.clone());
            self.refuse(session, handle, &refused);
        }
    }

    /// A user that keeps a topic open is charged for it: once nothing of the user does any more, another one is.
    pub(crate) fn recharge(&mut self, topic: u64) {
        let Some(entry) = self.topics.get_mut(&topic) else {
            return;
        };
        if let Some((uid, pid)) = entry.heir() {
            let account = self.accounts.of(uid, &self.policy, self.now);
            entry.charge = Some(account.charge_anyway(pid, topic_amounts()));
        }
    }
}

/// What a session takes: its connection and its process.
pub(crate) fn session_amounts() -> Amounts {
    Amounts::of(&[(Quota::Connections, 1), (Quota::Descriptors, 2)])
}

/// What a topic takes: its registry.
pub(crate) fn topic_amounts() -> Amounts {
    Amounts::of(&[
        (Quota::Topics, 1),
        (Quota::Segments, 1),
        (Quota::Bytes, PAGE as u64),
        (Quota::Descriptors, 2),
    ])
}

/// The segment that a handle brings.
pub(crate) fn segment_kind(role: Role) -> Kind {
    match role {
        Role::Publisher => Kind::Ring,
        Role::Subscriber => Kind::Reader,
    }
}

/// Bytes of the segment that a handle needs.
pub(crate) fn segment_bytes(role: Role, settings: &TopicSettings) -> u64 {
    match role {
        Role::Publisher => ring_bytes(settings),
        Role::Subscriber => reader_bytes(settings),
    }
}

/// What a handle takes: its segment of `bytes` bytes, and its doorbell if it may park. They are charged for before the client makes
/// them.
pub(crate) fn grant_amounts(role: Role, bytes: u64) -> Amounts {
    let quota = match role {
        Role::Publisher => Quota::Publishers,
        Role::Subscriber => Quota::Subscriptions,
    };
    Amounts::of(&[
        (quota, 1),
        (Quota::Segments, 1),
        (Quota::Bytes, bytes.next_multiple_of(PAGE as u64)),
        (Quota::Descriptors, 2),
    ])
}

/// What a watch takes.
pub(crate) fn watch_amounts() -> Amounts {
    Amounts::of(&[(Quota::Subscriptions, 1)])
}

/// What the place takes that is kept for a watch.
pub(crate) fn place_amounts(settings: &TopicSettings) -> Amounts {
    let bytes = reader_bytes(settings).next_multiple_of(PAGE as u64);
    Amounts::of(&[
        (Quota::Segments, 1),
        (Quota::Bytes, bytes),
        (Quota::Descriptors, 1),
    ])
}
