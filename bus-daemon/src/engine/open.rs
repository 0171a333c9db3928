//! A handle opens a topic: it takes the topic that is there, or [`decide`](super::decide) makes one or changes it.

use std::collections::BTreeSet;
use std::rc::Rc;

use bus_core::control::{Event, Refusal, Role, Watched};
use bus_core::memory::undecided_reader_bytes;
use bus_core::schema::Schema;
use bus_core::{Settings, TopicName, TopicSettings};

use super::admission::{grant_amounts, segment_bytes};
use super::decide::{check_history, declared_at};
use super::member::{Asked, Grant, Member, View};
use super::refused::Refused;
use super::session::Handle;
use super::state::Engine;
use super::topic::Topic;
use super::world::World;
use crate::accounts::Charge;
use crate::limits::MAX_IDLE_TOPICS;
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
        self.count_registration(session, 0)?;
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
        let again = (name.clone(), open.clone());
        match self.try_open(session, handle, name, open) {
            Err(refused) if refused.kind == Refusal::Limit && self.sweep(session) => {
                let (name, open) = again;
                self.try_open(session, handle, name, open)
            }
            opened => opened,
        }
    }

    fn try_open(
        &mut self,
        session: u64,
        handle: u32,
        name: TopicName,
        open: Open,
    ) -> Result<(), Refused> {
        let grant = self.allow(session, open.role, &name)?;
        if let Some(watched) = open.watched {
            let of = self.watches.get(&watched.watch).map(|watch| watch.session);
            if of != Some(session) {
                return Err(gone(&name));
            }
        }
        let Some(topic) = self.names.get(&name).copied() else {
            if open.watched.is_some() {
                return Err(gone(&name));
            }
            return self.open_anew(session, handle, &name, open, grant);
        };
        match self.suits(topic, &open) {
            Ok(()) => self.open_there(session, handle, topic, open, grant),
            Err(Unsuited::Anew) => self.open_anew(session, handle, &name, open, grant),
            Err(Unsuited::Decide(settings)) => {
                self.open_deciding(session, handle, topic, open, grant, settings)
            }
            Err(Unsuited::Refused(refused)) => Err(refused),
        }
    }

    /// Opens a topic as it is. Subscribers give way only for a publisher that is taken in.
    pub(crate) fn open_there(
        &mut self,
        session: u64,
        handle: u32,
        topic: u64,
        open: Open,
        grant: Grant,
    ) -> Result<(), Refused> {
        let Some(uid) = self.sessions.get(&session).map(|s| s.peer.uid) else {
            return Ok(());
        };
        let role = open.role;
        let checked = match role {
            Role::Subscriber => self.check_stall(topic, uid, grant),
            Role::Publisher => self.check_displaceable(topic, uid),
        };
        let opened = checked.and_then(|()| self.take_in(session, handle, topic, open, grant));
        match (&opened, role) {
            (Ok(()), Role::Publisher) => self.displace_blocking(topic, uid),
            (Ok(()), Role::Subscriber) => {}
            (Err(_), _) => self.drop_if_empty(topic),
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
            // What is declared is no provision.
            let declared = self.declared(name, &open.settings, open.history);
            return declared.map(drop).map_err(Unsuited::Refused);
        }
        if let Some((setting, asked, has)) = open.settings.conflict(&topic.settings) {
            if empty {
                return Err(Unsuited::Anew);
            }
            let why = format!(
                "topic {name} has {setting} {has}{}, asked {asked}{}",
                declared_at(&self.policy, name, setting, &has),
                opened_by(topic)
            );
            return Err(Unsuited::Refused(Refused::new(Refusal::Settings, why)));
        }
        check_history(&self.policy, name, open.history, topic.settings.keep)
            .map_err(Unsuited::Refused)
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
            return Err(Refused::new(
                Refusal::Gone,
                "the topic was closed meanwhile",
            ));
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
        self.let_user_in(topic, owner.uid, false);
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
        self.member_ids.insert(id);
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
                since: 0,
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
        #[cfg(feature = "simulator")]
        if self.planted == Some(crate::simulator::Planted::IndexReusedEarly) {
            entry.rings.play_reused_early();
        }
        let found = entry.rings.find(&settings);
        let found = found.map_err(|full| Refused::new(Refusal::Limit, entry.explain(&full)))?;
        let taken = entry.rings.take(found.index, id);
        assert!(taken, "an index that was found is free");
        if let Some((ring, readers)) = found.dropped {
            self.lose_ring(topic, ring, &readers);
        }
        Ok(found.index)
    }

    /// These subscribers are told that they have lost a ring.
    pub(crate) fn lose_ring(&mut self, topic: u64, ring: u64, readers: &BTreeSet<u64>) {
        let Some(entry) = self.topics.get_mut(&topic) else {
            return;
        };
        tracing::info!(topic = %entry.name, ring, readers = readers.len(), "an unread ring of an ended publisher is dropped");
        let readers: Vec<_> = readers.iter().copied().collect();
        for reader in &readers {
            if let Some(member) = entry.members.get_mut(reader) {
                member.view.mark(ring, false);
            }
        }
        self.queue(topic, &readers);
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
        // What a claim made that was refused has nobody, and must not stand in the way of the right one.
        let has_any = !entry.members.is_empty() || !entry.absent.is_empty();
        if has_any && self.recovery.grace(self.now).is_some() {
            self.recovery.unswept = true;
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
        for watch in places.keys() {
            if let Some(watch) = self.watches.get_mut(watch) {
                watch.places.remove(&topic);
            }
        }
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
