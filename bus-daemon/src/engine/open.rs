//! A handle opens a topic, or creates it; and what decides what a topic is like.
//!
//! Mere subscribers decide nothing. As long as no publisher has opened a topic, its settings are provisional: what
//! the policy says, then what the subscribers asked for, then what suits the type. The first publisher decides; what
//! it leaves open is filled from the subscribers. A subscriber that asked for something else is refused then, never
//! the publisher.

use std::rc::Rc;

use bus_core::control::{Event, Refusal, Role, Watched};
use bus_core::memory::{reader_bytes, undecided_reader_bytes};
use bus_core::schema::Schema;
use bus_core::{Settings, TopicName, TopicSettings};

use super::admission::{grant_amounts, segment_bytes, topic_amounts};
use super::member::{Asked, Grant, Member, View};
use super::refused::Refused;
use super::session::Handle;
use super::state::Engine;
use super::topic::Topic;
use super::world::World;
use crate::accounts::Charge;
use crate::limits::{MAX_IDLE_TOPICS, MAX_TOPICS};
use crate::report::note;

/// How a topic is to be opened.
#[derive(Clone, Debug)]
pub(crate) struct Open {
    pub(crate) role: Role,
    pub(crate) topic: String,
    pub(crate) schema: Schema,
    pub(crate) settings: Settings,
    pub(crate) history: u32,
    pub(crate) watched: Option<Watched>,
}

impl<W: World> Engine<W> {
    /// Opens a topic for a handle, now or when it need not wait for absent members any more.
    pub(crate) fn open(
        &mut self,
        session: u64,
        handle: u32,
        mut open: Open,
    ) -> Result<(), Refused> {
        self.count_registration(session)?;
        let name = TopicName::new(open.topic.as_str())
            .map_err(|e| Refused::new(Refusal::BadName, format!("topic: {e}")))?;
        // Ahead of everything that depends on whether the topic is there.
        self.allow(session, open.role, &name)?;
        open.schema
            .check()
            .map_err(|e| Refused::new(Refusal::Schema, format!("topic {name}: {e}")))?;
        open.watched = open.watched.filter(|_| open.role == Role::Subscriber);
        if open.role == Role::Publisher {
            open.history = 0;
        }
        match self.defer_open(session, handle, &name, open) {
            Some(open) => self.open_now(session, handle, name, open),
            None => Ok(()),
        }
    }

    pub(crate) fn open_now(
        &mut self,
        session: u64,
        handle: u32,
        name: TopicName,
        open: Open,
    ) -> Result<(), Refused> {
        let grant = self.allow(session, open.role, &name)?;
        let Some(uid) = self.sessions.get(&session).map(|s| s.peer.uid) else {
            return Ok(());
        };
        if let Some(watched) = open.watched {
            let of = self.watches.get(&watched.watch).map(|watch| watch.session);
            if of != Some(session) {
                return Err(gone(&name));
            }
        }
        let topic = match self.names.get(&name).copied() {
            None if open.watched.is_some() => return Err(gone(&name)),
            None => self.create(session, &name, &open)?,
            Some(topic) => match self.suits(topic, &open) {
                Ok(()) => topic,
                Err(Unsuited::Anew) => {
                    self.empty(topic, &open, session);
                    self.create(session, &name, &open)?
                }
                Err(Unsuited::Decide(settings)) => {
                    self.decide(topic, settings, session)?;
                    topic
                }
                Err(Unsuited::Refused(refused)) => return Err(refused),
            },
        };
        let opened = match open.role {
            Role::Subscriber => self.check_stall(topic, uid, grant),
            Role::Publisher => self.displace_blocking(topic, uid),
        }
        .and_then(|()| {
            // Those that gave way may have been the last that had the topic open.
            let topic = match self.names.get(&name).copied() {
                Some(topic) => topic,
                None => self.create(session, &name, &open)?,
            };
            self.take_in(session, handle, topic, open, grant)
        });
        if opened.is_err()
            && let Some(topic) = self.names.get(&name).copied()
        {
            self.drop_if_empty(topic);
        }
        opened
    }

    /// Whether a topic that is there is what is asked for.
    fn suits(&self, topic: u64, open: &Open) -> Result<(), Unsuited> {
        let Some(topic) = self.topics.get(&topic) else {
            return Err(Unsuited::Anew);
        };
        let name = &topic.name;
        if open
            .watched
            .is_some_and(|watched| watched.topic != topic.id)
        {
            return Err(Unsuited::Refused(gone(name)));
        }
        if open
            .watched
            .is_some_and(|w| topic.forfeited.contains(&w.watch))
        {
            let why = format!(
                "topic {name} is lossless and has had a publisher of another user, which a watch of this user could have blocked"
            );
            return Err(Unsuited::Refused(Refused::new(Refusal::NotAllowed, why)));
        }
        // A topic that nothing has open starts anew with the first that wants something else.
        let empty = topic.is_empty() && !topic.is_awaited() && open.watched.is_none();
        let decides = open.role == Role::Publisher && !topic.decided;
        if let Some(difference) = open.schema.difference(&topic.schema) {
            if empty || decides {
                return Err(Unsuited::Anew);
            }
            let why = format!(
                "topic {name} carries {}: {difference}{}",
                topic.schema.name,
                opened_by(topic)
            );
            return Err(Unsuited::Refused(Refused::new(Refusal::Schema, why)));
        }
        if decides {
            let settings = self
                .settle_settings(topic, open)
                .map_err(Unsuited::Refused)?;
            return Err(Unsuited::Decide(settings));
        }
        let provisional = open.role == Role::Subscriber && !topic.decided;
        if provisional {
            return Ok(());
        }
        if let Some((setting, asked, has)) = open.settings.conflict(&topic.settings) {
            if empty {
                return Err(Unsuited::Anew);
            }
            let why = format!(
                "topic {name} has {setting} {has}, asked {asked}{}",
                opened_by(topic)
            );
            return Err(Unsuited::Refused(Refused::new(Refusal::Settings, why)));
        }
        check_history(name, open.history, &topic.settings).map_err(Unsuited::Refused)
    }

    /// The settings that a publisher decides on a topic with subscribers: what these asked for fills what it leaves
    /// open.
    fn settle_settings(&self, topic: &Topic<W>, open: &Open) -> Result<TopicSettings, Refused> {
        let mut settings = open.settings.clone();
        let mut history = 0;
        for (_, member) in topic.of(Role::Subscriber) {
            fill(&mut settings, &member.asked.settings);
            history = history.max(member.asked.history);
        }
        self.settings_for(&topic.name, &settings, history, &open.schema)
    }

    /// What a topic is like: what the policy says, then what is asked for, then what suits the type.
    fn settings_for(
        &self,
        name: &TopicName,
        asked: &Settings,
        history: u32,
        schema: &Schema,
    ) -> Result<TopicSettings, Refused> {
        let settings = match self.policy.topic(name) {
            None => asked.clone(),
            Some(rule) => rule.decide(asked).map_err(|conflict| {
                let why = format!(
                    "the broker's policy gives topic {name} {} {}, asked {}; leave it open, or change the [[topic]] rule",
                    conflict.setting, conflict.decided, conflict.asked
                );
                Refused::new(Refusal::Settings, why)
            })?,
        };
        let keep = settings.keep.or((history > 0).then_some(history));
        Settings { keep, ..settings }
            .decide(schema)
            .map_err(|e| Refused::new(Refusal::BadSetting, format!("topic {name}: {e}")))
    }

    /// A publisher has decided what a topic with subscribers is like.
    ///
    /// # Errors
    /// There is no memory for the place that is kept for watches. Nothing is decided then.
    pub(crate) fn decide(
        &mut self,
        topic: u64,
        settings: TopicSettings,
        session: u64,
    ) -> Result<(), Refused> {
        let winner = self.sessions.get(&session);
        let winner = winner.map_or_else(String::new, |session| {
            format!("{} (process {})", session.client(), session.peer.pid)
        });
        self.fit_places(topic, &settings)?;
        let Some(entry) = self.topics.get_mut(&topic) else {
            return Ok(());
        };
        let changed = entry.settings != settings;
        entry.settings = settings;
        entry.decided = true;
        if !changed {
            return Ok(());
        }
        let name = entry.name.clone();
        tracing::debug!(topic = %name, ?settings, winner, "the first publisher decided");
        let (mut told, mut refused) = (Vec::new(), Vec::new());
        for (id, member) in &mut entry.members {
            if member.role != Role::Subscriber {
                continue;
            }
            let conflict = member.asked.settings.conflict(&settings).map(|(setting, asked, has)| {
                let why = format!(
                    "publisher {winner} has decided that topic {name} has {setting} {has}, and this subscriber asked {asked}"
                );
                Refused::new(Refusal::Settings, why)
            });
            let history = || check_history(&name, member.asked.history, &settings).err();
            let short = || {
                let why = format!(
                    "publisher {winner} has decided that topic {name} has publishers {} and held {}, for which the segment of this subscriber is too short, because it was made before; open the topic again",
                    settings.publishers, settings.held
                );
                let is_short = member.bytes < reader_bytes(&settings);
                is_short.then(|| Refused::new(Refusal::Settings, why))
            };
            // Only after a return from an earlier broker: else nothing is decided while a ring is read.
            let reads = || {
                let why = format!(
                    "publisher {winner} has decided anew what topic {name} is like, while this subscriber reads rings of before; open the topic again"
                );
                let reads = !member.view.told.is_empty();
                reads.then(|| Refused::new(Refusal::Settings, why))
            };
            match conflict.or_else(history).or_else(short).or_else(reads) {
                Some(why) => refused.push((member.session, member.handle, why)),
                None => {
                    member.view.decided = true;
                    told.push(*id);
                }
            }
        }
        for (session, handle, why) in refused {
            self.refuse(session, handle, &why);
        }
        self.queue(topic, &told);
        Ok(())
    }

    /// A publisher of another type comes to a topic that it may begin anew: the subscribers that are there give way.
    fn empty(&mut self, topic: u64, open: &Open, session: u64) {
        let winner = self.sessions.get(&session);
        let winner = winner.map_or_else(String::new, |session| {
            format!("{} (process {})", session.client(), session.peer.pid)
        });
        let Some(entry) = self.topics.get(&topic) else {
            return;
        };
        let (name, type_name) = (&entry.name, &open.schema.name);
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

    fn create(&mut self, session: u64, name: &TopicName, open: &Open) -> Result<u64, Refused> {
        if self.names.len() >= MAX_TOPICS {
            self.close_longest_idle();
        }
        if self.names.len() >= MAX_TOPICS {
            let why = format!(
                "the broker has {MAX_TOPICS} topics, which is the limit; asked for {name} as well"
            );
            return Err(Refused::new(Refusal::Limit, why));
        }
        let settings = self.settings_for(name, &open.settings, open.history, &open.schema)?;
        check_history(name, open.history, &settings)?;
        let charge = self.charge(session, topic_amounts())?;
        let topic = self.new_topic(name, open.schema.clone(), settings, charge)?;
        if let Some(entry) = self.topics.get_mut(&topic) {
            entry.decided = open.role == Role::Publisher;
        }
        let creator = self.sessions.get(&session).map(|session| session.peer.uid);
        self.keep_places(topic, creator)?;
        note!(topic = %name, ?settings, "topic created");
        self.tell_watches(topic, true);
        Ok(topic)
    }

    /// Makes a topic under a new number.
    pub(crate) fn new_topic(
        &mut self,
        name: &TopicName,
        schema: Schema,
        settings: TopicSettings,
        charge: Charge,
    ) -> Result<u64, Refused> {
        let id = self.new_id();
        // No version that a member has seen at an earlier broker is likely to come again; one that does is noticed.
        let version = (id as u32).wrapping_mul(0x9e37_79b9);
        let registry = self.world.create_registry(version);
        let registry = registry.map_err(|error| Refused::own_fault(&error))?;
        let topic = Topic::new(
            id,
            name.clone(),
            schema,
            settings,
            registry,
            version,
            charge,
        );
        self.topics.insert(id, topic);
        self.names.insert(name.clone(), id);
        Ok(id)
    }

    fn take_in(
        &mut self,
        session: u64,
        handle: u32,
        topic: u64,
        open: Open,
        grant: Grant,
    ) -> Result<(), Refused> {
        let Some(entry) = self.topics.get(&topic) else {
            return Ok(());
        };
        let role = open.role;
        let mut bytes = segment_bytes(role, &entry.settings);
        if role == Role::Subscriber && !entry.decided {
            bytes = bytes.max(undecided_reader_bytes());
        }
        let charge = self.charge(session, grant_amounts(role, bytes))?;
        let Some(owner) = self.sessions.get(&session).and_then(|s| s.owner.clone()) else {
            return Ok(());
        };
        let id = self.new_id();
        let index = match role {
            Role::Publisher => self.take_index(topic, id)?,
            Role::Subscriber => 0,
        };
        if open.watched.is_none() {
            self.idle.retain(|idle| *idle != topic);
        }
        charge.account().name(owner.pid, owner.client.as_str());
        let (Some(entry), Some(sessions_entry)) =
            (self.topics.get_mut(&topic), self.sessions.get_mut(&session))
        else {
            return Ok(());
        };
        let mut view = View::default();
        if role == Role::Subscriber {
            let watch = open.watched.map(|watched| watched.watch);
            for ring in rings_for(entry, watch, open.history > 0) {
                entry.rings.add_reader(ring, id);
                view.pending.insert(ring);
            }
            view.behind = true;
        } else {
            entry.decided = true;
        }
        let event = Event::Opened {
            settings: entry.settings,
            decided: entry.decided,
            index,
            id,
        };
        let registry = entry.registry_fd.clone();
        entry.members.insert(
            id,
            Member {
                session,
                handle,
                role,
                owner,
                index,
                segment: None,
                bytes,
                doorbell: None,
                watch: open.watched.map(|watched| watched.watch),
                asked: Asked {
                    settings: open.settings,
                    history: open.history,
                },
                grant,
                charge,
                reclaimed: false,
                view,
            },
        );
        sessions_entry
            .handles
            .insert(handle, Handle::Member { topic, id });
        self.answer(session, handle, event, vec![registry]);
        self.queue(topic, &[id]);
        Ok(())
    }

    /// An index for a publisher; rings that give way for it are lost to their readers.
    fn take_index(&mut self, topic: u64, id: u64) -> Result<u16, Refused> {
        self.store_stale = true;
        let Some(entry) = self.topics.get_mut(&topic) else {
            return Err(Refused::protocol("the topic is closed"));
        };
        let settings = entry.settings;
        let found = entry.rings.find(&settings);
        let found = found.map_err(|full| Refused::new(Refusal::Limit, entry.explain(&full)))?;
        let taken = entry.rings.take(found.index, id);
        assert!(taken, "an index that was found is free");
        if let Some((ring, readers)) = found.dropped {
            tracing::info!(topic = %entry.name, ring, readers = readers.len(), "an unread ring of an ended publisher is dropped");
            let readers: Vec<_> = readers.into_iter().collect();
            for reader in &readers {
                if let Some(member) = entry.members.get_mut(reader) {
                    member.view.mark(ring, false);
                }
            }
            self.queue(topic, &readers);
        }
        Ok(found.index)
    }

    /// Lets go of a topic that nothing has open but watches, or lets it be idle if it keeps rings for subscribers.
    pub(crate) fn drop_if_empty(&mut self, topic: u64) {
        let Some(entry) = self.topics.get_mut(&topic) else {
            return;
        };
        if entry.closed {
            if entry.members.is_empty() {
                self.topics.remove(&topic);
            }
            return;
        }
        if entry.of(Role::Publisher).next().is_none() && entry.rings.are_clear() {
            // The publisher that decided has gone, and nothing of it is left: the next one decides.
            entry.decided = entry.is_awaited();
        }
        if !entry.is_empty() || entry.is_awaited() {
            return;
        }
        if !entry.rings.keep_any(entry.retain()) {
            return self.close_topic(topic);
        }
        if !self.idle.contains(&topic) {
            self.idle.push_back(topic);
        }
        if self.idle.len() > MAX_IDLE_TOPICS {
            self.close_longest_idle();
        }
    }

    /// Closes the topic that has been idle for the longest time, of those of the user that has the most.
    pub(crate) fn close_longest_idle(&mut self) {
        let uid = |topic: &u64| {
            let charge = self.topics.get(topic)?.charge.as_ref()?;
            Some(charge.account().uid())
        };
        let mut of_user = std::collections::BTreeMap::<_, usize>::new();
        for topic in &self.idle {
            *of_user.entry(uid(topic)).or_default() += 1;
        }
        let most = of_user.values().max().copied();
        let of_most = |topic: &&u64| of_user.get(&uid(topic)).copied() == most;
        if let Some(topic) = self.idle.iter().find(of_most).copied() {
            self.close_topic(topic);
        }
    }

    /// A topic loses its name. The subscribers of watches that it has read what is there.
    pub(crate) fn close_topic(&mut self, topic: u64) {
        self.idle.retain(|idle| *idle != topic);
        let Some(entry) = self.topics.get_mut(&topic) else {
            return;
        };
        if std::mem::replace(&mut entry.closed, true) {
            return;
        }
        let (name, places) = (entry.name.clone(), std::mem::take(&mut entry.places));
        entry.charge = None;
        drop(places);
        note!(topic = %name, "topic closed");
        self.store_stale = true;
        if self.names.get(&name) == Some(&topic) {
            self.names.remove(&name);
        }
        self.tell_watches(topic, false);
        self.drop_if_empty(topic);
    }

    /// The owner that a session introduced itself as.
    pub(crate) fn owner_of(&self, session: u64) -> Option<Rc<super::member::Owner<W>>> {
        self.sessions.get(&session)?.owner.clone()
    }
}

/// Why a topic is not what is asked for.
enum Unsuited {
    /// It may begin anew.
    Anew,
    /// It is to be like this.
    Decide(TopicSettings),
    Refused(Refused),
}

/// The rings that a subscriber reads that opens a topic.
fn rings_for<W: World>(topic: &Topic<W>, watch: Option<u64>, history: bool) -> Vec<u64> {
    let place = watch.filter(|watch| topic.places.contains_key(watch));
    let mut rings = match place {
        Some(watch) => topic.rings.owed(watch),
        None if history => {
            let retained = topic.rings.retained(topic.retain());
            retained.into_iter().map(|ended| ended.id).collect()
        }
        None => Vec::new(),
    };
    let live = topic.of(Role::Publisher).filter(|(_, m)| m.has_joined());
    rings.extend(live.map(|(id, _)| id));
    rings
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

fn check_history(name: &TopicName, history: u32, settings: &TopicSettings) -> Result<(), Refused> {
    let keep = settings.keep;
    if history <= keep {
        return Ok(());
    }
    let why = format!(
        "topic {name} has keep {keep}, asked for a history of {history}; ask for up to {keep}, or create the topic with a larger keep"
    );
    Err(Refused::new(Refusal::BadSetting, why))
}

/// The members that a refusal names: those that have decided what the topic is.
fn opened_by<W: World>(topic: &Topic<W>) -> String {
    let publishers = topic.of(Role::Publisher);
    let named: Vec<_> = publishers
        .chain(topic.of(Role::Subscriber))
        .take(3)
        .map(|(_, m)| format!("{} {} (process {})", m.role, m.owner.client, m.owner.pid))
        .collect();
    if named.is_empty() {
        return String::new();
    }
    format!("; it is open in {}", named.join(", "))
}

/// A watch was told of a topic that is none any more; it may be there again, as another one.
fn gone(name: &TopicName) -> Refused {
    let why = format!("topic {name} was closed before its watch opened it");
    Refused::new(Refusal::Gone, why)
}
