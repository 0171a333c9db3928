//! Watches: handles that are told of the topics that match a pattern, those that are there and those that come and go.
//!
//! Promises: a watch hears of each topic once, and of its end. For a topic that is created later and carries the type
//! that the watch asks for, a place is kept from its first message on, until the watch's subscriber has joined, the
//! watch declines, or the watch is gone. So a watch that stands still blocks publishers as a subscriber that stands
//! still does; topics of other types it does not block. A topic that only watches have open is closed.

use std::collections::{BTreeSet, HashSet};
use std::rc::Rc;

use bus_core::Pattern;
use bus_core::control::Refusal;
use bus_core::schema::Schema;

use super::admission::{place_amounts, watch_amounts};
use super::refused::Refused;
use super::session::{Handle, Session};
use super::state::Engine;
use super::topic::Place;
use super::watch::Watch;
use super::world::World;
use crate::report::note;

impl<W: World> Engine<W> {
    /// A handle begins to watch, now or when it need not wait for absent members any more.
    pub(crate) fn watch(
        &mut self,
        session: u64,
        handle: u32,
        pattern: String,
        schema: Schema,
        reclaims: Option<u64>,
    ) -> Result<(), Refused> {
        // One that comes back has been here, unless its process says so after all others are back.
        let returns = |session: &Session<W>| session.returning;
        let returns = reclaims.is_some() && self.sessions.get(&session).is_some_and(returns);
        if !returns {
            self.count_registration(session, self.topics.len())?;
        }
        let pattern =
            Pattern::new(pattern).map_err(|e| Refused::new(Refusal::BadName, e.to_string()))?;
        schema
            .check()
            .map_err(|e| Refused::new(Refusal::Schema, format!("pattern {pattern}: {e}")))?;
        if let Some(known) = reclaims {
            let back = Some((known, returns));
            return self.watch_now(session, handle, pattern, schema, back);
        }
        match self.defer_watch(session, handle, pattern, schema) {
            Some((pattern, schema)) => self.watch_now(session, handle, pattern, schema, None),
            None => Ok(()),
        }
    }

    /// `back` is the number of one that has been here, and whether it takes what it had.
    pub(crate) fn watch_now(
        &mut self,
        session: u64,
        handle: u32,
        pattern: Pattern,
        schema: Schema,
        back: Option<(u64, bool)>,
    ) -> Result<(), Refused> {
        let reclaims = back.map(|(known, _)| known);
        let charge = match back {
            Some((_, true)) => self.charge_anyway(session, watch_amounts())?,
            _ => self.charge(session, watch_amounts()).or_else(|refused| {
                match self.sweep(session) {
                    true => self.charge(session, watch_amounts()),
                    false => Err(refused),
                }
            })?,
        };
        let Some(owner) = self.owner_of(session) else {
            return Ok(());
        };
        if reclaims.is_some_and(|known| known == 0 || self.watches.contains_key(&known)) {
            let why = "another watch has that number";
            return Err(Refused::new(Refusal::Unknown, why));
        }
        reclaims.into_iter().for_each(|known| self.skip_id(known));
        let id = reclaims.unwrap_or_else(|| self.new_id());
        let Some(entry) = self.sessions.get_mut(&session) else {
            return Ok(());
        };
        charge.account().name(owner.pid, owner.client.as_str());
        note!(id, client = %owner.client, pid = owner.pid, %pattern, "watches");
        let mut watch = Watch {
            session,
            handle,
            pattern,
            schema,
            owner,
            who: Rc::clone(&entry.who),
            charge,
            told: HashSet::new(),
            pending: BTreeSet::new(),
            places: BTreeSet::new(),
            beginning: true,
            queued: false,
        };
        let open = self.topics.values().filter(|topic| !topic.closed);
        let there = open.filter(|topic| watch.follows(&topic.name, &self.policy));
        watch.pending = there.map(|topic| topic.id).collect();
        entry.handles.insert(handle, Handle::Watch(id));
        self.watches.insert(id, watch);
        self.queue_watch(id);
        Ok(())
    }

    /// A watch is gone.
    pub(crate) fn unwatch(&mut self, watch: u64) {
        let gone = self.watches.remove(&watch);
        for topic in gone.into_iter().flat_map(|gone| gone.places) {
            self.give_up_place(topic, watch);
        }
    }

    /// A watch will open no subscriber to this topic.
    pub(crate) fn decline(&mut self, watch: u64, topic: u64) {
        self.give_up_place(topic, watch);
    }

    /// Keeps a place in a new topic for each watch that will subscribe to it: those of the user that creates it, and
    /// those that may block others.
    pub(crate) fn keep_places(&mut self, topic: u64, creator: Option<u32>) -> Result<(), Refused> {
        let Some(entry) = self.topics.get(&topic) else {
            return Ok(());
        };
        let (name, settings) = (entry.name.clone(), entry.settings);
        let mut places = Vec::new();
        let mut segment: Option<W::Fd> = None;
        for (&id, watch) in &self.watches {
            if !watch.follows(&name, &self.policy) || watch.schema != entry.schema {
                continue;
            }
            let grant = self.grant(&watch.who, &name);
            if creator != Some(watch.who.uid) && !grant.stall {
                continue;
            }
            let account = watch.charge.account();
            let charge = match account.charge(watch.owner.pid, place_amounts(&settings)) {
                Ok(charge) => charge,
                Err(over) => {
                    let why = account.explain(over);
                    tracing::warn!(topic = %name, id, why, "no place is kept for a watch");
                    continue;
                }
            };
            // Nothing moves it, so one will do for all.
            let segment = match &segment {
                Some(segment) => segment.clone(),
                None => {
                    let made = self.world.create_place(&settings);
                    let made = made.map_err(|error| Refused::own_fault(&error))?;
                    segment.insert(made).clone()
                }
            };
            let owner = Rc::clone(&watch.owner);
            places.push((
                id,
                Place {
                    owner,
                    segment,
                    grant,
                    charge,
                },
            ));
        }
        for (id, _) in &places {
            if let Some(watch) = self.watches.get_mut(id) {
                watch.places.insert(topic);
            }
        }
        if let Some(entry) = self.topics.get_mut(&topic) {
            entry.places.extend(places);
        }
        Ok(())
    }

    /// The readers of a topic have another size now: so do the places that are kept in it. A place without memory is
    /// given up.
    pub(crate) fn resize_places(&mut self, topic: u64) {
        let Some(entry) = self.topics.get_mut(&topic) else {
            return;
        };
        if entry.places.is_empty() {
            return;
        }
        match self.world.create_place(&entry.settings) {
            Ok(segment) => {
                let places = entry.places.values_mut();
                places.for_each(|place| place.segment = segment.clone());
            }
            Err(error) => {
                tracing::warn!(topic = %entry.name, %error, "no place is kept for watches");
                let watches: Vec<_> = entry.places.keys().copied().collect();
                for watch in watches {
                    self.give_up_place(topic, watch);
                }
            }
        }
    }

    /// Tells the watches that follow a topic that it has appeared, or is gone.
    pub(crate) fn tell_watches(&mut self, topic: u64, exists: bool) {
        let Some(name) = self.topics.get(&topic).map(|topic| topic.name.clone()) else {
            return;
        };
        let mut concerned = Vec::new();
        for (&id, watch) in &mut self.watches {
            // Of the end of a topic those hear that have heard of it, or would have.
            let concerns = watch.told.contains(&topic) || watch.pending.contains(&topic);
            if concerns || (exists && watch.follows(&name, &self.policy)) {
                watch.mark(topic, exists);
                concerned.push(id);
            }
        }
        for watch in concerned {
            self.queue_watch(watch);
        }
    }
}
