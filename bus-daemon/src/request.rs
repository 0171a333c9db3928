//! What a client asks for: checked, and then done or refused with a sentence that names both sides.
//!
//! A refusal is the last that a connection hears. Everything of a request is hostile until it has passed here.

use std::os::fd::OwnedFd;
use std::rc::Rc;

use bus_core::backend::doorbell;
use bus_core::control::{Event, Refusal, Request, Role, Watched};
use bus_core::memory::segment::{self, Kind};
use bus_core::memory::{reader_bytes, ring_bytes};
use bus_core::schema::Schema;
use bus_core::{ClientName, Error, Settings, TopicName};

use crate::accounts::Charge;
use crate::admission::{Seat, seat_amounts, topic_amounts};
use crate::client::Kind as Connected;
use crate::hub::Hub;
use crate::limits::{MAX_PUBLISHERS, MAX_TOPICS};
use crate::member::Member;
use crate::outbox::Outgoing;
use crate::reserve::is_exhaustion;
use crate::resume::Resuming;
use crate::topic::Topic;

/// Why a request is not done.
pub(crate) type Refused = (Refusal, String);

impl Hub {
    /// Does what a client asks for, now or when it need not wait for others any more.
    pub(crate) fn serve(&mut self, id: u64, request: Request, descriptors: Vec<OwnedFd>) {
        if let Some((request, descriptors)) = self.park(id, request, descriptors) {
            self.serve_now(id, request, descriptors);
        }
    }

    /// Does what a client asks for.
    pub(crate) fn serve_now(&mut self, id: u64, request: Request, descriptors: Vec<OwnedFd>) {
        let Some(client) = self.clients.get(id) else {
            return;
        };
        let served = match client.kind {
            Connected::Handle => {
                let topic = client.topic.clone();
                self.serve_handle(id, topic, request, descriptors)
            }
            Connected::Watch => self.serve_watch(id, &request),
            Connected::Dismissed { version, notified } => {
                self.serve_dismissed(id, version, notified, &request)
            }
        };
        if let Err((kind, why)) = served {
            self.clients.refuse(id, kind, &why);
        }
    }

    /// There is nobody left whom it would concern what a subscriber of a closed topic says.
    fn serve_dismissed(
        &mut self,
        id: u64,
        version: u32,
        notified: bool,
        request: &Request,
    ) -> Result<(), Refused> {
        match request {
            Request::Released { .. } | Request::Wake => Ok(()),
            Request::Back => self.back(id),
            Request::Notify if notified => protocol("Notify comes once, after Join"),
            Request::Notify => {
                if let Some(client) = self.clients.get_mut(id) {
                    client.kind = Connected::Dismissed {
                        version,
                        notified: true,
                    };
                }
                let notified = Outgoing::new(&Event::Notified { version }, Vec::new());
                self.clients.post(id, notified.map_err(own_fault)?);
                Ok(())
            }
            _ => Err((Refusal::Gone, "the topic is closed by now".into())),
        }
    }

    fn serve_handle(
        &mut self,
        id: u64,
        topic: Option<TopicName>,
        request: Request,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), Refused> {
        match (request, topic) {
            (
                Request::Open {
                    client,
                    role,
                    topic,
                    schema,
                    settings,
                    history,
                    watched,
                },
                None,
            ) => {
                if descriptors.is_empty() {
                    let asked = Asked {
                        role,
                        schema,
                        settings,
                        history,
                        watched: watched.filter(|_| role == Role::Subscriber),
                    };
                    self.open(id, &client, topic, asked)
                } else {
                    protocol("Open comes without descriptors")
                }
            }
            (Request::Open { topic: asked, .. }, Some(topic)) => protocol(&format!(
                "this connection has topic {topic} open, asked to open {asked:.127}; use a connection for each handle"
            )),
            (Request::Join, Some(topic)) => self.join(id, &topic, descriptors),
            (Request::Released { index }, Some(topic)) => {
                if descriptors.is_empty() {
                    self.release(id, &topic, index)
                } else {
                    protocol("Released comes without descriptors")
                }
            }
            (Request::Notify, Some(topic)) => self.notify(id, &topic, descriptors),
            (Request::Wake, Some(topic)) => {
                if descriptors.is_empty() {
                    self.wake(id, &topic)
                } else {
                    protocol("Wake comes without descriptors")
                }
            }
            (
                Request::Watch {
                    client,
                    pattern,
                    schema,
                    resumes,
                },
                None,
            ) => {
                if descriptors.is_empty() {
                    self.watch(id, &client, pattern, schema, resumes)
                } else {
                    protocol("Watch comes without descriptors")
                }
            }
            (Request::Watch { .. }, Some(topic)) => protocol(&format!(
                "this connection has topic {topic} open; use another one to watch"
            )),
            (Request::Declined { .. }, _) => protocol("only a watch declines"),
            (
                Request::Resume {
                    client,
                    role,
                    topic,
                    schema,
                    settings,
                    id: known,
                    index,
                    rings,
                },
                None,
            ) => {
                let resuming = Resuming {
                    client,
                    role,
                    topic,
                    schema,
                    settings,
                    id: known,
                    index,
                    rings,
                };
                self.resume(id, &resuming, descriptors)
            }
            (Request::Ended { id: known }, None) => {
                self.ended(id, known);
                Ok(())
            }
            (Request::Resume { .. } | Request::Ended { .. }, Some(topic)) => protocol(&format!(
                "this connection has topic {topic} open; use another one for who was here before"
            )),
            (Request::Back, _) => self.back(id),
            (Request::Join | Request::Released { .. } | Request::Notify | Request::Wake, None) => {
                protocol("this connection has no topic open; the first request is Open")
            }
        }
    }

    fn open(&mut self, id: u64, client: &str, topic: String, asked: Asked) -> Result<(), Refused> {
        self.register(id)?;
        let client =
            ClientName::new(client).map_err(|e| (Refusal::BadName, format!("client: {e}")))?;
        let name = TopicName::new(topic).map_err(|e| (Refusal::BadName, format!("topic: {e}")))?;
        let standing = self.allow(id, asked.role, &name)?;
        asked
            .schema
            .check()
            .map_err(|e| (Refusal::Schema, format!("topic {name}: {e}")))?;
        if let Some(watched) = asked.watched {
            let peer = self.clients.get(id).map(|client| client.peer);
            if !peer.is_some_and(|peer| self.is_watched_by(watched.watch, peer)) {
                return Err(gone(&name));
            }
        }
        let charges = self.charge_open(id, &name, &asked)?;
        self.clear_the_way(id, &name, &asked, standing)?;
        match self.topics.get(&name).map(|topic| asked.suits(topic)) {
            None if asked.watched.is_some() => return Err(gone(&name)),
            None => self.create(id, &name, &asked, charges.topic)?,
            // Watches keep nothing open.
            Some(Ok(())) if asked.watched.is_some() => {}
            Some(Ok(())) => self.rouse(&name),
            // Nobody has it open: what it keeps gives way to a publisher of something else.
            Some(Err(Unsuited::Yields)) => self.create(id, &name, &asked, charges.topic)?,
            Some(Err(Unsuited::Refused(refused))) => return Err(refused),
        }
        let seat = Seat {
            standing,
            charge: charges.seat,
        };
        let opened = self.take_in(id, &name, client, &asked, seat);
        if opened.is_err() {
            self.drop_if_empty(&name);
        }
        opened
    }

    fn create(
        &mut self,
        id: u64,
        name: &TopicName,
        asked: &Asked,
        charge: Option<Charge>,
    ) -> Result<(), Refused> {
        if self.topics_to_be() >= MAX_TOPICS {
            self.close_longest_idle();
        }
        if self.topics_to_be() >= MAX_TOPICS {
            let why = format!(
                "the broker has {MAX_TOPICS} topics, which is the limit; asked for {name} as well"
            );
            return Err((Refusal::Limit, why));
        }
        let settings = self.settings_of_a_new_topic(name, asked)?;
        let charge = match charge {
            Some(charge) => charge,
            // What was there when it was charged for is gone.
            None => self.charge(id, topic_amounts())?,
        };
        let schema = asked.schema.clone();
        let mut topic = self.new_topic(name, schema, settings, charge)?;
        asked.check_history(&topic)?;
        let creator = self.clients.get(id).map(|client| client.who.uid);
        self.keep_places(&mut topic, creator).map_err(own_fault)?;
        if topic.has_places() {
            self.overtake(name, Role::Subscriber);
        }
        self.close(name);
        crate::report::note!(topic = %name, ?settings, "topic created");
        self.tell_appeared(&topic);
        self.topics.insert(name.clone(), topic);
        Ok(())
    }

    fn take_in(
        &mut self,
        id: u64,
        name: &TopicName,
        client: ClientName,
        asked: &Asked,
        mut seat: Seat,
    ) -> Result<(), Refused> {
        let settings = self.topics.get(name).map(|topic| topic.settings);
        if let Some(needed) = settings.map(|settings| seat_amounts(asked.role, &settings))
            && seat.charge.amounts() != needed
        {
            // The topic that was there when it was charged for is gone, and another one there.
            drop(seat.charge);
            seat.charge = self.charge(id, needed)?;
        }
        let role = asked.role;
        self.overtake(name, role);
        // A publisher may take the index of a ring that was kept.
        self.store.stale = true;
        let (Some(topic), Some(entry)) = (self.topics.get_mut(name), self.clients.get_mut(id))
        else {
            return protocol("the connection is closed");
        };
        let index = match role {
            Role::Publisher => topic.find_index().map_err(|why| (Refusal::Limit, why))?,
            Role::Subscriber => 0,
        };
        let (pidfd, watch) = (Rc::clone(&entry.pidfd), asked.watched.map(|w| w.watch));
        seat.charge.account().name(entry.peer.pid, client.as_str());
        let member = Member::new(role, client, entry.peer, pidfd, index, watch, seat);
        let opened = topic.open(id, member).map_err(own_fault)?;
        entry.topic = Some(name.clone());
        let event = Event::Opened {
            settings: topic.settings,
            index: opened.index,
            id,
        };
        let event = Outgoing::new(&event, vec![Rc::new(opened.registry)]).map_err(own_fault)?;
        self.clients.post(id, event);
        if role == Role::Subscriber {
            topic
                .introduce_publishers(id, asked.history > 0, &mut self.clients)
                .map_err(own_fault)?;
        }
        Ok(())
    }

    fn join(
        &mut self,
        id: u64,
        name: &TopicName,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), Refused> {
        let Some(topic) = self.topics.get_mut(name) else {
            return protocol("the topic is closed");
        };
        let Some(member) = topic.member(id).filter(|member| !member.has_joined()) else {
            return protocol(&format!(
                "this connection has joined topic {name}, asked to join again"
            ));
        };
        let (kind, bytes) = match member.role {
            Role::Publisher => (Kind::Ring, ring_bytes(&topic.settings)),
            Role::Subscriber => (Kind::Reader, reader_bytes(&topic.settings)),
        };
        let Ok([segment]) = <[OwnedFd; 1]>::try_from(descriptors) else {
            return protocol("Join comes with one descriptor: the handle's segment");
        };
        segment::check(&segment, kind, bytes)
            .map_err(|e| (Refusal::Segment, format!("topic {name}: {e}")))?;
        let (role, client, pid) = (member.role, &member.client, member.pid);
        crate::report::note!(topic = %name, id, %role, %client, pid, "joined");
        self.write_down(id, name)?;
        let Some(topic) = self.topics.get_mut(name) else {
            return protocol("the topic is closed");
        };
        let joined = topic.join(id, segment, &mut self.clients);
        // The place of a watch may have been all that was left.
        self.drop_if_empty(name);
        joined.map_err(own_fault)
    }

    fn notify(
        &mut self,
        id: u64,
        name: &TopicName,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), Refused> {
        let Some(topic) = self.topics.get_mut(name) else {
            return protocol("the topic is closed");
        };
        if topic.member(id).is_none_or(|member| !member.may_notify()) {
            return protocol("Notify comes once, after Join");
        }
        let Ok([doorbell]) = <[OwnedFd; 1]>::try_from(descriptors) else {
            return protocol("Notify comes with one descriptor: the handle's doorbell");
        };
        doorbell::check(&doorbell)
            .map_err(|e| (Refusal::Protocol, format!("topic {name}: {e}")))?;
        topic
            .notify(id, doorbell, &mut self.clients)
            .map_err(own_fault)
    }

    fn wake(&mut self, id: u64, name: &TopicName) -> Result<(), Refused> {
        let Some(topic) = self.topics.get(name) else {
            return protocol("the topic is closed");
        };
        match topic.member(id) {
            Some(member) => topic.ring_parked(member.role.other()),
            None => return protocol("the topic is closed"),
        }
        Ok(())
    }

    fn release(&mut self, id: u64, name: &TopicName, index: u16) -> Result<(), Refused> {
        let Some(topic) = self.topics.get_mut(name) else {
            return protocol("the topic is closed");
        };
        if topic
            .member(id)
            .is_none_or(|member| member.role != Role::Subscriber)
        {
            return protocol("only a subscriber releases rings");
        }
        if index >= MAX_PUBLISHERS {
            return protocol(&format!(
                "released ring {index}, and the highest is {}",
                MAX_PUBLISHERS - 1
            ));
        }
        topic.release(id, index, &mut self.clients);
        Ok(())
    }
}

/// How a topic is to be opened.
pub(crate) struct Asked {
    pub(crate) role: Role,
    pub(crate) schema: Schema,
    pub(crate) settings: Settings,
    history: u32,
    watched: Option<Watched>,
}

/// Why a topic is not what is asked for.
pub(crate) enum Unsuited {
    /// Nobody has it open, and a publisher comes: the topic starts anew.
    Yields,
    Refused(Refused),
}

impl Asked {
    /// Whether a topic that is there is what is asked for.
    pub(crate) fn suits(&self, topic: &Topic) -> Result<(), Unsuited> {
        match self.agrees(topic) {
            Err(_) if topic.is_empty() && self.role == Role::Publisher => Err(Unsuited::Yields),
            agrees => agrees.map_err(Unsuited::Refused),
        }
    }

    fn agrees(&self, topic: &Topic) -> Result<(), Refused> {
        let name = &topic.name;
        if self
            .watched
            .is_some_and(|watched| watched.topic != topic.id)
        {
            return Err(gone(name));
        }
        if self
            .watched
            .is_some_and(|watched| topic.has_forfeited(watched.watch))
        {
            let why = format!(
                "topic {name} loses nothing and has had a publisher of another user, whom a watch of this user could have held up"
            );
            return Err((Refusal::NotAllowed, why));
        }
        if let Some(difference) = self.schema.difference(&topic.schema) {
            let why = format!("topic {name} carries {}: {difference}", topic.schema.name);
            return Err((Refusal::Schema, why));
        }
        if let Some((setting, asked, has)) = self.settings.conflict(&topic.settings) {
            let why = format!("topic {name} has {setting} {has}, asked {asked}");
            return Err((Refusal::Settings, why));
        }
        self.check_history(topic)
    }

    fn check_history(&self, topic: &Topic) -> Result<(), Refused> {
        let (name, keep, history) = (&topic.name, topic.settings.keep, self.history);
        if history <= keep {
            return Ok(());
        }
        let why = format!(
            "topic {name} has keep {keep}, asked for a history of {history}; ask for up to {keep}, or create the topic with a larger keep"
        );
        Err((Refusal::BadSetting, why))
    }

    /// Who asks for history of a topic that is not there yet has it keep as much, unless it says otherwise.
    pub(crate) fn with_history(&self, settings: Settings) -> Settings {
        let history = (self.history > 0).then_some(self.history);
        Settings {
            keep: settings.keep.or(history),
            ..settings
        }
    }
}

/// A watch was told of a topic that is none any more; it may be there again, as another one.
fn gone(name: &TopicName) -> Refused {
    let why = format!("topic {name} was closed before its watch opened it");
    (Refusal::Gone, why)
}

pub(crate) fn protocol<T>(why: &str) -> Result<T, Refused> {
    Err((Refusal::Protocol, why.to_owned()))
}

/// What the broker could not do, though it was asked for nothing wrong.
pub(crate) fn own_fault(error: Error) -> Refused {
    let kind = if is_exhaustion(&error) {
        Refusal::Limit
    } else {
        Refusal::Broker
    };
    (kind, format!("the broker could not do it: {error}"))
}
