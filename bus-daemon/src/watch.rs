//! Watches: connections that are told of the topics that match a pattern, those that are there and those that come and go.
//!
//! Promises: a watch hears of each topic once, and of its end, in order; one that does not read is bounded as any client is. For a topic that is
//! created later and carries the type that the watch asks for, a place is kept from its first message on, until the watch's subscriber has
//! joined, the watch declines, or it is gone. So a watch that stands still holds publishers up as a subscriber that stands still does, and those of
//! other types not at all. A topic that only watches have open is closed.

use std::os::fd::OwnedFd;
use std::rc::Rc;

use bus_core::control::{Credentials, Event, Refusal, Request};
use bus_core::memory::reserve;
use bus_core::schema::Schema;
use bus_core::{ClientName, Pattern, TopicName};

use crate::accounts::Charge;
use crate::admission::{Seat, place_amounts, watch_amounts};
use crate::client::{Kind, cut};
use crate::hub::Hub;
use crate::member::Member;
use crate::outbox::Outgoing;
use crate::policy::{Policy, Right, Subject};
use crate::request::{Refused, own_fault, protocol};
use crate::topic::Topic;

/// What is watched for, and who watches.
pub(crate) struct Watch {
    pattern: Pattern,
    schema: Schema,
    client: ClientName,
    peer: Credentials,
    pidfd: Rc<OwnedFd>,
    who: Rc<Subject>,
    /// What its user is charged for it.
    charge: Charge,
}

impl Watch {
    /// Whether it is told of this topic: it asks for it, and may subscribe to it.
    fn follows(&self, topic: &TopicName, policy: &Policy) -> bool {
        self.pattern.matches(topic) && policy.decide(&self.who, topic).may(Right::Subscribe)
    }
}

impl Hub {
    /// Makes a connection a watch.
    pub(crate) fn watch(
        &mut self,
        id: u64,
        client: &str,
        pattern: String,
        schema: Schema,
        resumes: Option<u64>,
    ) -> Result<(), Refused> {
        if resumes.is_none() {
            self.register(id)?;
        }
        let client =
            ClientName::new(client).map_err(|e| (Refusal::BadName, format!("client: {e}")))?;
        let pattern = Pattern::new(pattern).map_err(|e| (Refusal::BadName, e.to_string()))?;
        schema
            .check()
            .map_err(|e| (Refusal::Schema, format!("pattern {pattern}: {e}")))?;
        let charge = match resumes {
            // It has been here.
            Some(_) => self.charge_anyway(id, watch_amounts())?,
            None => self.charge(id, watch_amounts())?,
        };
        let id = match resumes {
            Some(known) => {
                self.resume_watch(id, known, pattern.as_str(), &schema)?;
                known
            }
            None => {
                self.write_down_watch(id, pattern.as_str(), &schema)?;
                id
            }
        };
        let Some(entry) = self.clients.get_mut(id) else {
            return protocol("the connection is closed");
        };
        entry.kind = Kind::Watch;
        let (peer, pidfd) = (entry.peer, Rc::clone(&entry.pidfd));
        let who = Rc::clone(&entry.who);
        charge.account().name(peer.pid, client.as_str());
        crate::report::note!(id, %client, pid = peer.pid, %pattern, "watches");
        let watch = Watch {
            pattern,
            schema,
            client,
            peer,
            pidfd,
            who,
            charge,
        };
        for topic in self.topics.values() {
            if watch.follows(&topic.name, &self.policy) {
                self.clients
                    .post(id, appeared(topic, id, &watch).map_err(own_fault)?);
            }
        }
        let watching = Outgoing::new(&Event::Watching { id }, Vec::new()).map_err(own_fault)?;
        self.clients.post(id, watching);
        self.watches.insert(id, watch);
        Ok(())
    }

    /// Whether this process of this user watches under this number.
    pub(crate) fn is_watched_by(&self, watch: u64, peer: Credentials) -> bool {
        self.watches
            .get(&watch)
            .is_some_and(|watch| watch.peer == peer)
    }

    /// Does what a watch asks for.
    pub(crate) fn serve_watch(&mut self, id: u64, request: &Request) -> Result<(), Refused> {
        let &Request::Declined { topic } = request else {
            return protocol("a connection that watches can only decline");
        };
        let name = self.topics.values().find(|known| known.id == topic);
        if let Some(name) = name.map(|topic| topic.name.clone()) {
            self.give_up_place(&name, id);
        }
        Ok(())
    }

    /// A watch is gone.
    pub(crate) fn unwatch(&mut self, id: u64) {
        self.watches.remove(&id);
        let kept = self.topics.values().filter(|topic| topic.has_place(id));
        let names: Vec<_> = kept.map(|topic| topic.name.clone()).collect();
        for name in names {
            self.give_up_place(&name, id);
        }
    }

    fn give_up_place(&mut self, name: &TopicName, watch: u64) {
        let Some(topic) = self.topics.get_mut(name) else {
            return;
        };
        if let Err(error) = topic.give_up_place(watch, &mut self.clients) {
            tracing::error!(topic = %name, watch, %error, "cannot tell that a place is kept no longer");
        }
        // What was owed may have been all that was left.
        self.drop_if_empty(name);
    }

    /// Gives up places that could hold up publishers of this user, and may not.
    pub(crate) fn give_up_foreign_places(&mut self, name: &TopicName, publisher: u32) {
        if let Some(topic) = self.topics.get_mut(name)
            && let Err(error) = topic.forfeit_places(publisher, &mut self.clients)
        {
            tracing::error!(topic = %name, %error, "cannot tell that a place is kept no longer");
        }
    }

    /// Keeps a place in a new topic for each watch that will subscribe to it: those of the user that creates it, and those that may hold up others.
    pub(crate) fn keep_places(
        &self,
        topic: &mut Topic,
        creator: Option<u32>,
    ) -> bus_core::Result<()> {
        let mut segment = None;
        for (&id, watch) in &self.watches {
            if !watch.follows(&topic.name, &self.policy) || watch.schema != topic.schema {
                continue;
            }
            let standing = self.standing(&watch.who, &topic.name);
            if creator != Some(watch.who.uid) && !standing.stall {
                continue;
            }
            let account = watch.charge.account();
            let amounts = place_amounts(&topic.settings);
            let charge = match account.charge(watch.peer.pid, amounts) {
                Ok(charge) => charge,
                Err(over) => {
                    let why = account.explain(over);
                    tracing::warn!(topic = %topic.name, id, why, "no place is kept for a watch");
                    continue;
                }
            };
            // Nobody moves it, so one will do for all.
            let shared = match &segment {
                Some(shared) => Rc::clone(shared),
                None => Rc::clone(segment.insert(Rc::new(reserve(&topic.settings)?))),
            };
            let (client, pidfd) = (watch.client.clone(), Rc::clone(&watch.pidfd));
            let place = Member::place(client, watch.peer, pidfd, shared, Seat { standing, charge });
            topic.keep_place(id, place);
        }
        Ok(())
    }

    /// Tells the watches whom it concerns that a topic is there.
    pub(crate) fn tell_appeared(&mut self, topic: &Topic) {
        self.tell_watches(topic, |id, watch| appeared(topic, id, watch));
    }

    /// Tells the watches whom it concerns that a topic is closed. One that loses messages by that hears of it also where it has not heard of the topic.
    pub(crate) fn tell_gone(&mut self, topic: &Topic) {
        let gone = Event::TopicGone { id: topic.id };
        self.tell_watches(topic, |id, _| {
            let gone = Outgoing::new(&gone, Vec::new())?;
            Ok(if topic.owes(id) {
                gone.with_ring_owed()
            } else {
                gone
            })
        });
    }

    fn tell_watches(
        &mut self,
        topic: &Topic,
        event: impl Fn(u64, &Watch) -> bus_core::Result<Outgoing>,
    ) {
        for (&id, watch) in &self.watches {
            if !watch.follows(&topic.name, &self.policy) {
                continue;
            }
            match event(id, watch) {
                Ok(event) => {
                    self.clients.post(id, event);
                }
                Err(error) => tracing::error!(id, %error, "cannot tell a watch of a topic"),
            }
        }
    }
}

fn appeared(topic: &Topic, id: u64, watch: &Watch) -> bus_core::Result<Outgoing> {
    let differs = watch.schema.difference(&topic.schema).map(|difference| {
        let why = format!("it carries {}: {difference}", topic.schema.name);
        cut(&why).to_owned()
    });
    let event = Event::TopicAppeared {
        id: topic.id,
        topic: topic.name.to_string(),
        differs,
        kept: topic.has_place(id),
    };
    Outgoing::new(&event, Vec::new())
}
