//! Who takes part is written down, and members of an earlier broker come back: the states of `awaited`, and who is told of what.
//!
//! Promises: nobody is told of a member before it is written down, and it is struck out when everybody has been told that it left. Who comes back is
//! the process that was written down, with the type and the settings that were written down, and is told of all whom it may have to know.
//! That a member left is told when its process has ended or it says so, never because it was away for long: it may still read.

use std::os::fd::OwnedFd;
use std::rc::Rc;

use bus_core::backend::doorbell;
use bus_core::control::{Event, Refusal, Role, pidfd_alive};
use bus_core::memory::registry::Registry;
use bus_core::memory::segment;
use bus_core::memory::{reader_bytes, ring_bytes};
use bus_core::schema::Schema;
use bus_core::{ClientName, TopicName, TopicSettings};

use crate::accounts::Charge;
use crate::admission::{Seat, seat_amounts, topic_amounts};
use crate::census::{self, Record, State};
use crate::client::{Client, Leaving};
use crate::hub::Hub;
use crate::limits::MAX_TOPICS;
use crate::member::Member;
use crate::outbox::Outgoing;
use crate::process;
use crate::request::{Refused, own_fault, protocol};
use crate::topic::{Earlier, Topic};

/// What a handle says of itself that resumes.
pub(crate) struct Resuming {
    pub(crate) client: String,
    pub(crate) role: Role,
    pub(crate) topic: String,
    pub(crate) schema: Schema,
    pub(crate) settings: TopicSettings,
    pub(crate) id: u64,
    pub(crate) index: u16,
    pub(crate) rings: u64,
}

/// A handle that is found to be who it says.
struct Known {
    client: ClientName,
    name: TopicName,
    record: Record,
    segment: OwnedFd,
    doorbell: Option<OwnedFd>,
}

impl Hub {
    /// Writes a member down that is about to join.
    pub(crate) fn write_down(&mut self, id: u64, name: &TopicName) -> Result<(), Refused> {
        let Some(topic) = self.topics.get(name) else {
            return protocol("the topic is closed");
        };
        let Some(member) = topic.member(id) else {
            return protocol("the topic is closed");
        };
        let digest = self.census.digest(&topic.schema, Some(&topic.settings));
        let record = Record {
            id,
            kind: member.role.into(),
            state: State::Here,
            index: member.index,
            watch: member.watch,
            pid: member.pid,
            start: 0,
            uid: member.uid,
            digest: digest.map_err(own_fault)?,
            name: name.to_string(),
        };
        self.write_record(record)
    }

    /// Writes a watch down.
    pub(crate) fn write_down_watch(
        &mut self,
        id: u64,
        pattern: &str,
        schema: &Schema,
    ) -> Result<(), Refused> {
        let Some(peer) = self.clients.get(id).map(|client| client.peer) else {
            return Ok(());
        };
        let record = Record {
            id,
            kind: census::Kind::Watch,
            state: State::Here,
            index: 0,
            watch: None,
            pid: peer.pid,
            start: 0,
            uid: peer.uid,
            digest: self.census.digest(schema, None).map_err(own_fault)?,
            name: pattern.to_owned(),
        };
        self.write_record(record)
    }

    fn write_record(&mut self, mut record: Record) -> Result<(), Refused> {
        match process::start_time(record.pid) {
            Ok(start) => record.start = start,
            // It cannot be told from a later process with its number, so no broker can wait for it.
            Err(error) => {
                tracing::debug!(pid = record.pid, %error, "a member that is not to be seen is not written down");
                return Ok(());
            }
        }
        self.census.write(record).map_err(own_fault)
    }

    /// Takes a handle in that had joined at an earlier broker.
    pub(crate) fn resume(
        &mut self,
        connection: u64,
        asked: &Resuming,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), Refused> {
        let known = self.recognise(connection, asked, descriptors)?;
        let id = asked.id;
        let closed = known.record.kind == census::Kind::Dismissed
            || !self.has_topic_for(&known.name, &known.record);
        if !closed {
            self.find_topic(connection, &known.name, asked)?;
        }
        if let Err(error) = self.clients.rename(connection, id) {
            // It may have been there for this handle alone.
            self.drop_if_empty(&known.name);
            return Err(own_fault(bus_core::Error::io(
                "cannot watch a connection",
                error,
            )));
        }
        self.awaited.returns(id);
        let (topic, pid) = (&known.name, known.record.pid);
        crate::report::note!(%topic, id, role = %asked.role, client = %known.client, pid, closed, "resumed");
        let resumed = if closed {
            self.resume_dismissed(id, asked.rings)
        } else {
            self.resume_member(id, known, asked)
        };
        if let Err(error) = resumed {
            let (kind, why) = own_fault(error);
            self.clients.refuse(id, kind, &why);
        }
        Ok(())
    }

    /// Finds out whether a handle is who it says.
    fn recognise(
        &mut self,
        connection: u64,
        asked: &Resuming,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Known, Refused> {
        let client = ClientName::new(asked.client.as_str());
        let client = client.map_err(|e| (Refusal::BadName, format!("client: {e}")))?;
        let name = TopicName::new(asked.topic.as_str());
        let name = name.map_err(|e| (Refusal::BadName, format!("topic: {e}")))?;
        asked
            .schema
            .check()
            .map_err(|e| (Refusal::Schema, format!("topic {name}: {e}")))?;
        asked
            .settings
            .check()
            .map_err(|e| (Refusal::BadSetting, format!("topic {name}: {e}")))?;
        let record = self.identify(connection, asked.id)?;
        let digest = self.census.digest(&asked.schema, Some(&asked.settings));
        let role = record.kind.role().unwrap_or(Role::Subscriber);
        let same = record.kind != census::Kind::Watch
            && (role, record.index, record.name.as_str())
                == (asked.role, asked.index, name.as_str())
            && record.digest == digest.map_err(own_fault)?;
        if !same {
            return protocol(&format!(
                "handle {} of topic {name} is not what had joined: its role, ring, type or settings differ",
                asked.id
            ));
        }
        if record.state != State::Here {
            return Err(late(&name));
        }
        let mut descriptors = descriptors.into_iter();
        let (Some(segment), doorbell, None) =
            (descriptors.next(), descriptors.next(), descriptors.next())
        else {
            return protocol(
                "Resume comes with the handle's segment, and its doorbell if it may park",
            );
        };
        let (kind, bytes) = match role {
            Role::Publisher => (segment::Kind::Ring, ring_bytes(&asked.settings)),
            Role::Subscriber => (segment::Kind::Reader, reader_bytes(&asked.settings)),
        };
        segment::check(&segment, kind, bytes)
            .map_err(|e| (Refusal::Segment, format!("topic {name}: {e}")))?;
        if let Some(doorbell) = &doorbell {
            doorbell::check(doorbell)
                .map_err(|e| (Refusal::Protocol, format!("topic {name}: {e}")))?;
        }
        Ok(Known {
            client,
            name,
            record,
            segment,
            doorbell,
        })
    }

    /// Who is waited for under this number, if it is the process at the other end of this connection.
    pub(crate) fn identify(&mut self, connection: u64, id: u64) -> Result<Record, Refused> {
        let Some(peer) = self.clients.get(connection).map(|client| client.peer) else {
            return protocol("the connection is closed");
        };
        let one = self.awaited.get(id);
        let Some(one) = one.filter(|one| one.record.pid == peer.pid) else {
            return Err(unknown());
        };
        if one.record.uid != peer.uid {
            let (was, is) = (one.record.uid, peer.uid);
            let why =
                format!("it was user {was} when it joined, and is user {is}; make a new handle");
            return Err((Refusal::NotAllowed, why));
        }
        let record = one.record.clone();
        if self.awaited.is_returning(id) {
            // Its process has given up the connection on which it resumed before.
            self.clients.leave(id, Leaving::Closed);
            self.bury();
        }
        // Known as long as its end is watched, which it may not be.
        match process::find(record.pid, record.start) {
            Ok(Some(_)) if self.awaited.get(id).is_some() => Ok(record),
            Ok(_) => Err(unknown()),
            Err(error) => Err(own_fault(error)),
        }
    }

    /// Whether there is a topic for who resumes, or may be one. A subscriber of a watch opens none.
    fn has_topic_for(&self, name: &TopicName, record: &Record) -> bool {
        record.watch.is_none() || self.topics.contains_key(name) || self.is_topic_awaited(name)
    }

    /// Whether members are waited for that keep a topic open.
    pub(crate) fn is_topic_awaited(&self, name: &TopicName) -> bool {
        let mut members = self.awaited.members(name.as_str());
        members.any(|(_, one)| one.may_come() && one.record.watch.is_none())
    }

    /// Makes sure that a topic is there as it was.
    fn find_topic(
        &mut self,
        connection: u64,
        name: &TopicName,
        asked: &Resuming,
    ) -> Result<(), Refused> {
        if let Some(topic) = self.topics.get(name) {
            if topic.schema != asked.schema || topic.settings != asked.settings {
                return Err(late(name));
            }
            self.rouse(name);
            return Ok(());
        }
        let schema = asked.schema.clone();
        let charge = self.charge_anyway(connection, topic_amounts())?;
        let topic = self.new_topic(name, schema, asked.settings, charge)?;
        crate::report::note!(topic = %name, "topic is there again");
        self.tell_appeared(&topic);
        self.topics.insert(name.clone(), topic);
        Ok(())
    }

    /// A topic in which the indices of publishers who are waited for are theirs.
    pub(crate) fn new_topic(
        &mut self,
        name: &TopicName,
        schema: Schema,
        settings: TopicSettings,
        charge: Charge,
    ) -> Result<Topic, Refused> {
        self.created += 1;
        let version = self.first_version();
        let topic = Topic::create(
            self.created,
            name.clone(),
            schema,
            settings,
            charge,
            version,
        );
        let mut topic = topic.map_err(own_fault)?;
        for (id, one) in self.awaited.members(name.as_str()) {
            if one.record.kind == census::Kind::Publisher {
                topic.reserve(one.record.index, id);
            }
        }
        Ok(topic)
    }

    /// How many topics there are, with those of which members are waited for, if that matters.
    pub(crate) fn topics_to_be(&self) -> usize {
        let there = self.topics.len();
        if there >= MAX_TOPICS || self.awaited.is_empty() {
            return there;
        }
        let awaited = self.awaited.topics();
        let to_come = awaited.iter().filter(|awaited| {
            !TopicName::new(**awaited).is_ok_and(|name| self.topics.contains_key(&name))
        });
        there + to_come.count()
    }

    fn resume_member(&mut self, id: u64, known: Known, asked: &Resuming) -> bus_core::Result<()> {
        let (name, record) = (known.name, known.record);
        let mut earlier = Earlier {
            read: asked.rings,
            ..Earlier::default()
        };
        if asked.role == Role::Subscriber {
            let away = self.awaited.members(name.as_str());
            let away = away.filter(|(_, one)| one.record.kind == census::Kind::Publisher);
            earlier.away = away.map(|(_, one)| one.record.index).collect();
        }
        let gone = self.awaited.gone(name.as_str(), asked.role.other());
        earlier.gone = gone.map(|record| (record.id, record.index)).collect();
        let Some(who) = self.clients.get(id).map(|client| Rc::clone(&client.who)) else {
            return Ok(());
        };
        let standing = self.standing(&who, &name);
        let (Some(topic), Some(entry)) = (self.topics.get_mut(&name), self.clients.get_mut(id))
        else {
            return Ok(());
        };
        // It has been here: what its user may take is for those who come.
        let account = entry.charge.account();
        let amounts = seat_amounts(asked.role, &topic.settings);
        let charge = account.charge_anyway(entry.peer.pid, amounts);
        account.name(entry.peer.pid, known.client.as_str());
        let seat = Seat { standing, charge };
        let pidfd = Rc::clone(&entry.pidfd);
        let (index, watch) = (record.index, record.watch);
        let mut member = Member::new(
            asked.role,
            known.client,
            entry.peer,
            pidfd,
            index,
            watch,
            seat,
        );
        member.segment = Some(Rc::new(known.segment));
        member.doorbell = known.doorbell.map(Rc::new);
        entry.topic = Some(name);
        topic.resume(id, member, &earlier, &mut self.clients)
    }

    /// The topic of a subscriber is closed; it reads what is there.
    fn resume_dismissed(&mut self, id: u64, rings: u64) -> bus_core::Result<()> {
        let version = self.first_version();
        let registry = Registry::starting_at(version)?;
        let registry = registry.fd().try_clone_to_owned();
        let registry =
            registry.map_err(|e| bus_core::Error::io("cannot duplicate a registry", e))?;
        self.mark_dismissed(id);
        self.clients.dismiss(id, version);
        let resumed = Event::Resumed {
            version,
            rings,
            topic: self.no_topic(),
        };
        let resumed = Outgoing::new(&resumed, vec![Rc::new(registry)])?;
        self.clients.post(id, resumed);
        Ok(())
    }

    /// The topic of this one is closed.
    pub(crate) fn mark_dismissed(&mut self, id: u64) {
        let record = self.census.change(id, |record| {
            record.kind = census::Kind::Dismissed;
        });
        if let Some(record) = record {
            self.awaited.change(record);
        }
    }

    /// Who resumed has its new registry in place.
    pub(crate) fn back(&mut self, id: u64) -> Result<(), Refused> {
        match self.awaited.back(id) {
            Some(_) => Ok(()),
            None => protocol("only who resumes is back, once"),
        }
    }

    /// A process says that one of its handles has ended, of which no broker may have heard.
    pub(crate) fn ended(&mut self, connection: u64, id: u64) {
        let Some(peer) = self.clients.get(connection).map(|client| client.peer) else {
            return;
        };
        let one = self.awaited.get(id);
        if one.is_none_or(|one| one.record.pid != peer.pid) {
            return;
        }
        if self.awaited.is_returning(id) {
            self.clients.leave(id, Leaving::Closed);
            self.bury();
        }
        self.lose(id, false);
    }

    /// A process has ended: a client's, or that of somebody who is waited for.
    pub(crate) fn process_ended(&mut self, id: u64) {
        if self.awaited.get(id).is_some() && self.clients.get(id).is_none() {
            return self.lose(id, true);
        }
        self.clients.leave(id, Leaving::Died);
    }

    /// Somebody who was waited for will not come: those are told who may know it.
    pub(crate) fn lose(&mut self, id: u64, exited: bool) {
        let Some(record) = self.awaited.lose(id) else {
            return;
        };
        crate::report::note!(
            topic = record.name,
            id,
            pid = record.pid,
            exited,
            "waited for in vain"
        );
        let (Some(role), Ok(name)) = (record.kind.role(), TopicName::new(record.name.as_str()))
        else {
            return self.census.strike(id);
        };
        self.write_gone(id);
        if let Some(topic) = self.topics.get_mut(&name)
            && let Err(error) = topic.lose(id, role, record.index, exited, &mut self.clients)
        {
            tracing::error!(topic = %name, id, %error, "cannot tell that a member left");
        }
        self.strike(id);
        self.drop_if_empty(&name);
    }

    /// A member left, and nobody has been told of it.
    pub(crate) fn write_gone(&mut self, id: u64) {
        self.census.change(id, |record| record.state = State::Gone);
    }

    /// Everybody who is there was told that a member left. Those who are waited for will be, if they may know it: nobody who joined here is known to them.
    pub(crate) fn strike(&mut self, id: u64) {
        let is_new = id >> 32 >= self.census.incarnation();
        match self.census.get(id) {
            Some(record) if !is_new && !self.awaited.is_empty() => {
                self.awaited.remember(record.clone());
            }
            _ => self.census.strike(id),
        }
    }

    /// The connection of who resumed ended before it was back: it is away again. False if it is nothing of that kind.
    pub(crate) fn goes_away(&mut self, id: u64, client: &Client) -> bool {
        if !self.awaited.is_returning(id) {
            return false;
        }
        if !pidfd_alive(&*client.pidfd) {
            self.awaited.back(id);
            return false;
        }
        crate::report::note!(id, pid = client.peer.pid, "away again");
        self.awaited.reverts(id, Rc::clone(&client.pidfd));
        if let Some(name) = &client.topic {
            if let Some(topic) = self.topics.get_mut(name) {
                topic.withdraw(id);
            }
            self.drop_if_empty(name);
        }
        true
    }

    /// A member with which the broker cannot go on, through no fault of its own, and whose process lives, is late: nobody is told that it left, for it
    /// may still read, and may be sending. False if it is nothing of that kind.
    pub(crate) fn goes_on_alone(&mut self, id: u64, client: &Client) -> bool {
        let Some(topic) = client.topic.as_ref().and_then(|n| self.topics.get_mut(n)) else {
            return false;
        };
        if !topic.member(id).is_some_and(Member::has_joined) || !pidfd_alive(&*client.pidfd) {
            return false;
        }
        let record = self.census.change(id, |record| record.state = State::Late);
        // Whoever is not written down cannot be told from a later process.
        let Some(record) = record else {
            return false;
        };
        tracing::warn!(topic = %topic.name, id, pid = record.pid, "goes on without this broker");
        topic.withdraw(id);
        let name = topic.name.clone();
        let pidfd = Rc::clone(&client.pidfd);
        self.awaited
            .wait_for(record, Some(pidfd), self.awaited.now());
        self.store.stale = true;
        self.drop_if_empty(&name);
        self.recharge(&name);
        true
    }

    /// A newcomer opens a topic, after it waited as long as it had to: who is still away on the other side will not hear of it, and may not
    /// come back. It is not said to have left: it may still read.
    pub(crate) fn overtake(&mut self, name: &TopicName, role: Role) {
        let others = self.awaited.members(name.as_str());
        let others = others.filter(|(_, one)| one.record.kind.role() == Some(role.other()));
        let others: Vec<_> = others
            .filter(|(_, one)| one.may_come())
            .map(|(id, one)| (id, one.is_away()))
            .collect();
        for (id, is_away) in others {
            if !is_away {
                self.clients.leave(id, Leaving::Late);
                self.bury();
            }
            let record = self.census.change(id, |record| record.state = State::Late);
            if let Some(record) = record {
                tracing::warn!(topic = %name, id, pid = record.pid, "away for too long");
                self.awaited.change(record);
            }
        }
    }

    /// What the versions of a registry start at: nothing that a member knows of the broker before this one, which had fewer than a million changes of
    /// one topic, and nobody whose time was before that one.
    fn first_version(&self) -> u32 {
        (self.census.incarnation() as u32).wrapping_sub(1) << 20
    }

    /// A number of this broker's that no topic has or will have.
    fn no_topic(&self) -> u64 {
        self.census.incarnation() << 32
    }

    /// Checks that a watch is who it says; it has its old number then.
    pub(crate) fn resume_watch(
        &mut self,
        connection: u64,
        id: u64,
        pattern: &str,
        schema: &Schema,
    ) -> Result<(), Refused> {
        let record = self.identify(connection, id)?;
        let digest = self.census.digest(schema, None).map_err(own_fault)?;
        let same = (record.kind, record.name.as_str(), record.digest)
            == (census::Kind::Watch, pattern, digest);
        if !same {
            return protocol(&format!(
                "watch {id} is not what it was: its pattern or its type differ"
            ));
        }
        let renamed = self.clients.rename(connection, id);
        renamed.map_err(|e| own_fault(bus_core::Error::io("cannot watch a connection", e)))?;
        self.awaited.returns(id);
        self.awaited.back(id);
        Ok(())
    }
}

fn late(name: &TopicName) -> Refused {
    let why = format!(
        "topic {name} has gone on without this handle, and others may have joined whom it would have had to know; make a new handle"
    );
    (Refusal::Late, why)
}

/// Nobody waits for who wants to go on.
fn unknown() -> Refused {
    let why = "this broker does not wait for a handle of this process with that number; make a new handle";
    (Refusal::Unknown, why.to_owned())
}
