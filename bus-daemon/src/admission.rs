//! Who is let in: by the policy, by what its user takes already, and by whom it would be in the way of.
//!
//! Promises: who may not use a topic learns nothing of it, not even whether it is there; who is over a quota is refused with the quota, its limit
//! and who uses it, and nobody else notices; who may only subscribe never keeps away, or holds up, who may publish. A new policy is for
//! those who come; who is there stays as it is.

use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Instant;

use bus_core::control::{Refusal, Role, Trust, may_be_anybody};
use bus_core::memory::layout::PAGE;
use bus_core::memory::{reader_bytes, ring_bytes};
use bus_core::{TopicName, TopicSettings};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::accounts::{Account, Amounts, Charge};
use crate::client::Leaving;
use crate::hub::Hub;
use crate::policy::{Policy, Quota, Right, Subject};
use crate::request::{Asked, Refused, Unsuited};
use crate::topic::Topic;

/// What a user is on a topic, decided when its handle opens it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    /// How subscribers of other users read what it publishes.
    pub(crate) trust: Trust,
    /// Its subscribers may hold up publishers of other users.
    pub(crate) stall: bool,
    /// It may publish there.
    pub(crate) publishes: bool,
}

/// What somebody is on a topic, and is charged for being there.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) standing: Standing,
    pub(crate) charge: Charge,
}

/// What becomes of a topic when somebody opens it.
enum Plan {
    /// It is there and suits.
    Take(TopicSettings),
    /// It is not there, or gives way to one with these settings.
    Create(TopicSettings),
}

/// What who opens a topic is charged for.
pub(crate) struct Charges {
    /// The handle and its segment.
    pub(crate) seat: Charge,
    /// The topic, if it was to be created.
    pub(crate) topic: Option<Charge>,
}

impl Hub {
    /// From now on this policy decides about who comes.
    pub(crate) fn set_policy(&mut self, policy: Policy) {
        self.accounts.set_limits(&policy);
        self.policy = Rc::new(policy);
    }

    /// Whether a user is served at all; the refusal if not.
    pub(crate) fn let_in(&self, who: &Subject) -> Result<(), String> {
        let uid = who.uid;
        if may_be_anybody(uid) {
            return Err(format!(
                "the client's user has no number in the broker's user namespace, where all such users appear as {uid}; map the user there"
            ));
        }
        if self.policy.knows(who) {
            return Ok(());
        }
        Err(format!(
            "this broker serves user {} and whom its policy names, and the client is user {uid}",
            self.policy.own_user()
        ))
    }

    /// Counts one who asks to be taken in.
    pub(crate) fn register(&self, id: u64) -> Result<(), Refused> {
        let Some(client) = self.clients.get(id) else {
            return Ok(());
        };
        let account = client.charge.account();
        account.register(Instant::now()).map_err(|wait| {
            let why = format!(
                "user {} asks for more than {} {} a second; try again in {} ms, or raise `registrations` in the broker's policy",
                account.uid(),
                account.rate(),
                Quota::Registrations,
                wait.as_millis() + 1
            );
            (Refusal::Limit, why)
        })
    }

    /// What a user is on a topic, whether or not it may anything there.
    pub(crate) fn standing(&self, who: &Subject, topic: &TopicName) -> Standing {
        let decision = self.policy.decide(who, topic);
        Standing {
            trust: decision.trust(),
            stall: decision.stall(),
            publishes: decision.may(Right::Publish),
        }
    }

    /// Refuses a client that may not use a topic in this role.
    pub(crate) fn allow(
        &self,
        id: u64,
        role: Role,
        topic: &TopicName,
    ) -> Result<Standing, Refused> {
        let Some(client) = self.clients.get(id) else {
            return Err((Refusal::Protocol, "the connection is closed".into()));
        };
        let (who, right) = (&client.who, Right::from(role));
        if self.policy.decide(who, topic).may(right) {
            return Ok(self.standing(who, topic));
        }
        let user = who.uid;
        let why = format!(
            "user {user} may not {right} on topic {topic}; ask for an [[allow]] rule in the policy of the broker (bus policy explain {user} {topic})"
        );
        Err((Refusal::NotAllowed, why))
    }

    /// Charges the user of a client. Who of its handles is gone, and not yet noticed, makes room first.
    pub(crate) fn charge(&mut self, id: u64, amounts: Amounts) -> Result<Charge, Refused> {
        let Some(client) = self.clients.get(id) else {
            return Err((Refusal::Protocol, "the connection is closed".into()));
        };
        let (account, pid) = (Rc::clone(client.charge.account()), client.peer.pid);
        self.charge_account(&account, pid, amounts)
    }

    /// Charges the user of a client for what it had before this broker came.
    pub(crate) fn charge_anyway(&self, id: u64, amounts: Amounts) -> Result<Charge, Refused> {
        let Some(client) = self.clients.get(id) else {
            return Err((Refusal::Protocol, "the connection is closed".into()));
        };
        let account = client.charge.account();
        Ok(account.charge_anyway(client.peer.pid, amounts))
    }

    pub(crate) fn charge_account(
        &mut self,
        account: &Rc<Account>,
        pid: u32,
        amounts: Amounts,
    ) -> Result<Charge, Refused> {
        if let Ok(charge) = account.charge(pid, amounts) {
            return Ok(charge);
        }
        self.sweep(account.uid());
        account
            .charge(pid, amounts)
            .map_err(|over| (Refusal::Limit, account.explain(over)))
    }

    /// Lets those of a user go whose end the kernel has not told of yet.
    fn sweep(&mut self, uid: u32) {
        let clients: Vec<_> = self.clients.of_user(uid).collect();
        let mut fds: Vec<_> = clients
            .iter()
            .flat_map(|(_, client)| {
                let connection = PollFd::new(client.connection.as_fd(), PollFlags::empty());
                [
                    connection,
                    PollFd::new(client.pidfd.as_fd(), PollFlags::POLLIN),
                ]
            })
            .collect();
        while poll(&mut fds, PollTimeout::ZERO) == Err(Errno::EINTR) {}
        let over = |fd: &PollFd<'_>| fd.any().unwrap_or(false);
        let gone: Vec<_> = clients
            .iter()
            .zip(fds.chunks_exact(2))
            .filter(|(_, fds)| fds.iter().any(over))
            .map(|((id, _), fds)| match over(&fds[1]) {
                true => (*id, Leaving::Died),
                false => (*id, Leaving::Closed),
            })
            .collect();
        for (id, why) in gone {
            self.clients.leave(id, why);
        }
        self.bury();
    }

    /// Charges a client for what it opens, as far as it is known before the topic is looked at in earnest.
    pub(crate) fn charge_open(
        &mut self,
        id: u64,
        name: &TopicName,
        asked: &Asked,
    ) -> Result<Charges, Refused> {
        let (settings, new) = match self.plan(name, asked)? {
            Plan::Take(settings) => (settings, false),
            Plan::Create(settings) => (settings, true),
        };
        let topic = match new {
            true => Some(self.charge(id, topic_amounts())?),
            false => None,
        };
        let seat = self.charge(id, seat_amounts(asked.role, &settings))?;
        Ok(Charges { seat, topic })
    }

    fn plan(&self, name: &TopicName, asked: &Asked) -> Result<Plan, Refused> {
        if let Some(topic) = self.topics.get(name) {
            match asked.suits(topic) {
                Ok(()) => return Ok(Plan::Take(topic.settings)),
                Err(Unsuited::Refused(_)) if gives_way(topic, asked) => {}
                Err(Unsuited::Refused(refused)) => return Err(refused),
                Err(Unsuited::Yields) => {}
            }
        }
        self.settings_of_a_new_topic(name, asked).map(Plan::Create)
    }

    /// What a topic is like that does not exist yet: what the policy says, then what is asked for, then what suits the type.
    pub(crate) fn settings_of_a_new_topic(
        &self,
        name: &TopicName,
        asked: &Asked,
    ) -> Result<TopicSettings, Refused> {
        let settings = match self.policy.topic(name) {
            None => asked.settings.clone(),
            Some(rule) => rule.decide(&asked.settings).map_err(|conflict| {
                let why = format!(
                    "the broker's policy gives topic {name} {} {}, asked {}; leave it open, or change the [[topic]] rule",
                    conflict.setting, conflict.decided, conflict.asked
                );
                (Refusal::Settings, why)
            })?,
        };
        asked
            .with_history(settings)
            .decide(&asked.schema)
            .map_err(|e| (Refusal::BadSetting, format!("topic {name}: {e}")))
    }

    /// Nobody who may only subscribe is in the way of who may publish: such subscribers give way, or are refused.
    ///
    /// In the way is who has opened the topic with another type or other settings before its first publisher came; and, where nothing is lost,
    /// who could hold up publishers of another user and may not.
    pub(crate) fn clear_the_way(
        &mut self,
        id: u64,
        name: &TopicName,
        asked: &Asked,
        standing: Standing,
    ) -> Result<(), Refused> {
        let (Some(topic), Some(client)) = (self.topics.get(name), self.clients.get(id)) else {
            return Ok(());
        };
        let (uid, lossless) = (client.who.uid, !topic.settings.delivery.overruns());
        if asked.role == Role::Subscriber {
            let held_up = topic.users(Role::Publisher).find(|other| *other != uid);
            if lossless && !standing.stall && asked.suits(topic).is_ok() && held_up.is_some() {
                let why = format!(
                    "topic {name} loses nothing, so a subscriber of user {uid} could hold up publishers of other users; the broker's policy must say stall = true in an [[allow]] rule for it"
                );
                return Err((Refusal::NotAllowed, why));
            }
            return Ok(());
        }
        if gives_way(topic, asked) && matches!(asked.suits(topic), Err(Unsuited::Refused(_))) {
            let why = format!(
                "topic {name} has a publisher now, of another type or with other settings; open it anew"
            );
            return self.displace(topic.members().collect(), Refusal::Settings, &why);
        }
        if !lossless || asked.suits(topic).is_err() {
            return Ok(());
        }
        let intruders = topic.intruders(uid);
        if let Some(other) = intruders.iter().find(|member| member.publishes) {
            let why = format!(
                "topic {name} loses nothing, and has subscribers of user {} that could hold up publishers of user {uid}; the broker's policy must say stall = true in an [[allow]] rule for them",
                other.uid
            );
            return Err((Refusal::NotAllowed, why));
        }
        let subscribers = intruders.iter().map(|member| member.id).collect();
        self.give_up_foreign_places(name, uid);
        let why = format!(
            "topic {name} loses nothing and has a publisher of another user now, whom this subscriber could hold up; the broker's policy must say stall = true in an [[allow]] rule for it"
        );
        self.displace(subscribers, Refusal::NotAllowed, &why)
    }

    fn displace(&mut self, ids: Vec<u64>, kind: Refusal, why: &str) -> Result<(), Refused> {
        for id in ids {
            self.clients.refuse(id, kind, why);
        }
        self.bury();
        Ok(())
    }

    /// Whoever keeps a topic open is charged for it: once nobody of the user is left that is, another one.
    pub(crate) fn recharge(&mut self, name: &TopicName) {
        let Some(topic) = self.topics.get_mut(name) else {
            return;
        };
        if let Some((uid, pid)) = topic.heir() {
            let account = self.accounts.of(uid, &self.policy);
            topic.charge = account.charge_anyway(pid, topic_amounts());
        }
    }
}

/// Whether a topic was opened by nobody but subscribers that may not publish there, and a publisher comes.
fn gives_way(topic: &Topic, asked: &Asked) -> bool {
    asked.role == Role::Publisher && topic.only_listeners()
}

/// What a connection takes: itself, and its process.
pub(crate) fn connection_amounts() -> Amounts {
    Amounts::of(&[(Quota::Connections, 1), (Quota::Descriptors, 2)])
}

/// What a topic takes: its registry.
pub(crate) fn topic_amounts() -> Amounts {
    Amounts::of(&[
        (Quota::Topics, 1),
        (Quota::Segments, 1),
        (Quota::Bytes, PAGE as u64),
        (Quota::Descriptors, 1),
    ])
}

/// What a handle takes: its segment, and its doorbell if it may park. They are charged for before the client makes them.
pub(crate) fn seat_amounts(role: Role, settings: &TopicSettings) -> Amounts {
    let (quota, bytes) = match role {
        Role::Publisher => (Quota::Publishers, ring_bytes(settings)),
        Role::Subscriber => (Quota::Subscriptions, reader_bytes(settings)),
    };
    Amounts::of(&[
        (quota, 1),
        (Quota::Segments, 1),
        (Quota::Bytes, bytes.next_multiple_of(PAGE as u64)),
        (Quota::Descriptors, 2),
    ])
}

/// What a watch takes beside its connection.
pub(crate) fn watch_amounts() -> Amounts {
    Amounts::of(&[(Quota::Subscriptions, 1)])
}

/// What the place takes that is kept for a watch.
pub(crate) fn place_amounts(settings: &TopicSettings) -> Amounts {
    Amounts::of(&[
        (Quota::Segments, 1),
        (
            Quota::Bytes,
            reader_bytes(settings).next_multiple_of(PAGE as u64),
        ),
        (Quota::Descriptors, 1),
    ])
}
