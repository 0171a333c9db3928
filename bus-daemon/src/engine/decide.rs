//! What a topic is like, and what gives way for that.
//!
//! What the policy declares of a topic holds for everybody who opens it. Beyond that, mere subscribers decide nothing. As long as no publisher has opened a topic, its settings are provisional: what
//! the policy says, then what the subscribers asked for, then what suits the type. The first publisher decides; what
//! it leaves open is filled from the subscribers. A subscriber that asked for something else is refused then, never
//! the publisher.
//!
//! Promises: a handle that is refused decides nothing, and takes nothing away from others.

use bus_core::control::{Refusal, Role};
use bus_core::memory::reader_bytes;
use bus_core::schema::Schema;
use bus_core::{Settings, TopicName, TopicSettings};

use super::admission::topic_amounts;
use super::member::Grant;
use super::open::Open;
use super::refused::Refused;
use super::state::Engine;
use super::topic::Topic;
use super::world::World;
use crate::limits::MAX_TOPICS;
use crate::policy::Policy;
use crate::report::note;

impl<W: World> Engine<W> {
    /// The settings that a publisher decides on a topic with subscribers: what these asked for fills what it leaves
    /// open.
    pub(super) fn settle_settings(
        &self,
        topic: &Topic<W>,
        open: &Open,
    ) -> Result<TopicSettings, Refused> {
        let mut settings = open.settings.clone();
        let mut history = 0;
        for (_, member) in topic.of(Role::Subscriber) {
            fill(&mut settings, &member.asked.settings);
            history = history.max(member.asked.history);
        }
        let filled = self.settings_for(&topic.name, &settings, history, &open.schema);
        // What the subscribers asked for may not go together, which is no fault of the publisher.
        filled.or_else(|_| self.settings_for(&topic.name, &open.settings, 0, &open.schema))
    }

    /// What a topic is like: what the policy says, then what is asked for, then what suits the type.
    fn settings_for(
        &self,
        name: &TopicName,
        asked: &Settings,
        history: u32,
        schema: &Schema,
    ) -> Result<TopicSettings, Refused> {
        let settings = self.declared(name, asked, history)?;
        let keep = settings.keep.or((history > 0).then_some(history));
        Settings { keep, ..settings }
            .decide(schema)
            .map_err(|e| Refused::new(Refusal::BadSetting, format!("topic {name}: {e}")))
    }

    /// What is asked for, and what the policy declares.
    pub(super) fn declared(
        &self,
        name: &TopicName,
        asked: &Settings,
        history: u32,
    ) -> Result<Settings, Refused> {
        let Some(rule) = self.policy.topic(name) else {
            return Ok(asked.clone());
        };
        let settings = rule.decide(asked).map_err(|conflict| {
            let (setting, decided, asked) = (conflict.setting, conflict.decided, conflict.asked);
            let why = format!(
                "topic {name} has {setting} {decided}{}, asked {asked}; leave it open, or change the declaration",
                declared_at(&self.policy, name, setting, &decided)
            );
            Refused::new(Refusal::Settings, why)
        })?;
        match rule.settings.keep {
            Some(keep) => check_history(&self.policy, name, history, keep).map(|()| settings),
            None => Ok(settings),
        }
    }

    /// Opens a topic that has subscribers only, for the publisher that decides what it is like.
    pub(super) fn open_deciding(
        &mut self,
        session: u64,
        handle: u32,
        topic: u64,
        open: Open,
        grant: Grant,
        settings: TopicSettings,
    ) -> Result<(), Refused> {
        let Some(entry) = self.topics.get_mut(&topic) else {
            return Ok(());
        };
        let before = std::mem::replace(&mut entry.settings, settings);
        let opened = self.open_there(session, handle, topic, open, grant);
        match (&opened, self.topics.get_mut(&topic)) {
            (Ok(()), _) => self.decide(topic, &before, session),
            (Err(_), Some(entry)) => entry.settings = before,
            _ => {}
        }
        opened
    }

    /// Opens a new topic. One of the same name gives way to it when the handle is taken in.
    pub(super) fn open_anew(
        &mut self,
        session: u64,
        handle: u32,
        name: &TopicName,
        open: Open,
        grant: Grant,
    ) -> Result<(), Refused> {
        let old = self.names.get(name).copied();
        let type_name = open.schema.name.clone();
        // Nobody pays for both.
        let charge = old.and_then(|old| self.topics.get_mut(&old)?.charge.take());
        let charged = charge.map(|charge| (charge.account().uid(), charge.pid()));
        let created = self.create(session, name, &open);
        let opened = match created {
            Ok(topic) => self
                .open_there(session, handle, topic, open, grant)
                .map(|()| topic),
            Err(refused) => Err(refused),
        };
        match (opened, old) {
            (Ok(topic), old) => {
                if let Some(old) = old {
                    self.empty(old, &type_name, session);
                }
                self.tell_watches(topic, true);
                Ok(())
            }
            (Err(refused), Some(old)) => {
                self.names.insert(name.clone(), old);
                if let (Some((uid, pid)), Some(entry)) = (charged, self.topics.get_mut(&old)) {
                    let account = self.accounts.of(uid, &self.policy, self.now);
                    entry.charge = Some(account.charge_anyway(pid, topic_amounts()));
                }
                Err(refused)
            }
            (Err(refused), None) => Err(refused),
        }
    }

    /// A publisher has decided what a topic with subscribers is like, which was provisional before.
    pub(super) fn decide(&mut self, topic: u64, before: &TopicSettings, session: u64) {
        let winner = self.describe(session);
        let Some(entry) = self.topics.get_mut(&topic) else {
            return;
        };
        let (name, settings) = (entry.name.clone(), entry.settings);
        tracing::debug!(topic = %name, ?settings, winner, "the first publisher decided");
        let (needed, policy) = (reader_bytes(&settings), &self.policy);
        // What was provisional may be what is decided, and still not what each subscriber asked for.
        let changed = settings != *before;
        let (mut told, mut refused) = (Vec::new(), Vec::new());
        for (id, member) in &mut entry.members {
            if member.role != Role::Subscriber {
                continue;
            }
            let conflict = member.asked.settings.conflict(&settings).map(|(setting, asked, has)| {
                let why = format!(
                    "publisher {winner} has decided that topic {name} has {setting} {has}{}, and this subscriber asked {asked}",
                    declared_at(policy, &name, setting, &has)
                );
                Refused::new(Refusal::Settings, why)
            });
            let history =
                || check_history(policy, &name, member.asked.history, settings.keep).err();
            // A reader segment cannot grow.
            let short = || (member.bytes < needed).then(|| too_short(&name, &settings));
            // Only after a return from an earlier broker: else nothing is decided while a ring is read.
            let reads = || {
                let why = format!(
                    "publisher {winner} has decided anew what topic {name} is like, while this subscriber reads rings of before; open the topic again"
                );
                let reads = changed && !member.view.told.is_empty();
                reads.then(|| Refused::new(Refusal::Settings, why))
            };
            match conflict.or_else(history).or_else(short).or_else(reads) {
                Some(why) => refused.push((member.session, member.handle, why)),
                None if changed => {
                    member.view.decided = true;
                    told.push(*id);
                }
                None => {}
            }
        }
        for (session, handle, why) in refused {
            self.refuse(session, handle, &why);
        }
        if needed > reader_bytes(before) {
            self.resize_places(topic);
        }
        self.queue(topic, &told);
    }

    /// A topic has given way to another one of the same name: the subscribers that are there are told.
    fn empty(&mut self, topic: u64, type_name: &str, session: u64) {
        let winner = self.describe(session);
        let Some(entry) = self.topics.get(&topic) else {
            return;
        };
        let name = &entry.name;
        let why = format!(
            "topic {name} has a publisher now, {winner}, which carries {type_name}; open it with that type"
        );
        let there = entry
            .members
            .values()
            .filter(|member| member.watch.is_none());
        let there: Vec<_> = there.map(|m| (m.session, m.handle)).collect();
        for (session, handle) in there {
            self.refuse(session, handle, &Refused::new(Refusal::Schema, why.clone()));
        }
        self.close_topic(topic);
    }

    /// The process of a session, for people.
    fn describe(&self, session: u64) -> String {
        let session = self.sessions.get(&session);
        session.map_or_else(String::new, |session| {
            format!("{} (process {})", session.client(), session.peer.pid)
        })
    }

    fn create(&mut self, session: u64, name: &TopicName, open: &Open) -> Result<u64, Refused> {
        let more = !self.names.contains_key(name);
        if more && self.names.len() >= MAX_TOPICS {
            self.close_longest_idle();
        }
        if more && self.names.len() >= MAX_TOPICS {
            let why = format!(
                "the broker has {MAX_TOPICS} topics, which is the limit; asked for {name} as well"
            );
            return Err(Refused::new(Refusal::Limit, why));
        }
        let settings = self.settings_for(name, &open.settings, open.history, &open.schema)?;
        check_history(&self.policy, name, open.history, settings.keep)?;
        let charge = self.charge(session, topic_amounts())?;
        // Each of them may have to be told.
        charge.account().register_more(self.now, self.watches.len());
        let topic = self.new_topic(name, open.schema.clone(), settings, charge)?;
        if let Some(entry) = self.topics.get_mut(&topic) {
            entry.decided = open.role == Role::Publisher;
        }
        let creator = self.sessions.get(&session).map(|session| session.peer.uid);
        if let Err(refused) = self.keep_places(topic, creator) {
            self.drop_if_empty(topic);
            return Err(refused);
        }
        note!(topic = %name, ?settings, "topic created");
        Ok(topic)
    }
}

/// Part of a sentence: where the policy declares what a topic has, if it does.
pub(super) fn declared_at(policy: &Policy, name: &TopicName, setting: &str, has: &str) -> String {
    let place = policy.declaration(name, setting, has);
    place.map_or_else(String::new, |place| format!(", as {place} declares"))
}

/// Whether a topic that keeps so many messages has the history that a subscriber asks for.
pub(super) fn check_history(
    policy: &Policy,
    name: &TopicName,
    history: u32,
    keep: u32,
) -> Result<(), Refused> {
    if history <= keep {
        return Ok(());
    }
    let declared = declared_at(policy, name, "keep", &keep.to_string());
    let change = if declared.is_empty() {
        "create the topic with a larger keep"
    } else {
        "change the declaration"
    };
    let why = format!(
        "topic {name} has keep {keep}{declared}, asked for a history of {history}; ask for up to {keep}, or {change}"
    );
    Err(Refused::new(Refusal::BadSetting, why))
}

/// A subscriber was there before the topic was decided, and its segment does not do for these settings.
pub(super) fn too_short(name: &TopicName, settings: &TopicSettings) -> Refused {
    let why = format!(
        "a publisher has decided that topic {name} has publishers {}, delivery {} and held {}; the segment of this subscriber was made before, and is too short for that: open the topic again",
        settings.publishers, settings.delivery, settings.held
    );
    Refused::new(Refusal::Settings, why)
}

/// Takes from `other` what is open in `settings`.
fn fill(settings: &mut Settings, other: &Settings) {
    let other = other.clone();
    settings.depth = settings.depth.or(other.depth);
    settings.stride = settings.stride.or(other.stride);
    settings.max_payload = settings.max_payload.or(other.max_payload);
    settings.keep = settings.keep.or(other.keep);
    settings.arena = settings.arena.or(other.arena);
    settings.delivery = settings.delivery.or(other.delivery);
    settings.held = settings.held.or(other.held);
    settings.retain = settings.retain.or(other.retain);
    settings.publishers = settings.publishers.or(other.publishers);
}
