//! Connections come, speak, and go; topics live as long as somebody has them open. One that keeps rings for who comes later
//! stays idle, until there are too many of those.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::rc::Rc;
use std::time::Instant;

use bus_core::control::{Connection, Refusal, Request, pidfd_alive};
use bus_core::fork::Unshared;
use bus_core::{Error, TopicName};
use nix::sys::epoll::{Epoll, EpollFlags};

use crate::accounts::Accounts;
use crate::admission::connection_amounts;
use crate::awaited::Awaited;
use crate::census::{Census, Record};
use crate::client::{Clients, Kind, Leaving, refused};
use crate::limits::{MAX_CONNECTIONS, MAX_IDLE_TOPICS, REQUESTS_PER_TURN};
use crate::parked::Parked;
use crate::policy::{Policy, Subject};
use crate::report;
use crate::reserve::is_exhaustion;
use crate::store::Store;
use crate::topic::Topic;
use crate::waste;
use crate::watch::Watch;

/// Everything that the broker knows.
pub(crate) struct Hub {
    pub(crate) clients: Clients,
    pub(crate) topics: HashMap<TopicName, Topic>,
    /// The topics that nobody has open, the longest idle first.
    idle: VecDeque<TopicName>,
    pub(crate) watches: BTreeMap<u64, Watch>,
    /// The number of the topic that was created last.
    pub(crate) created: u64,
    pub(crate) policy: Rc<Policy>,
    pub(crate) accounts: Accounts,
    pub(crate) census: Census,
    pub(crate) awaited: Awaited,
    pub(crate) parked: BTreeMap<u64, Parked>,
    pub(crate) store: Store,
}

impl Hub {
    /// A broker that waits for those who were written down before.
    pub(crate) fn new(
        epoll: Rc<Unshared<Epoll>>,
        policy: Policy,
        census: Census,
        before: Vec<Record>,
    ) -> Self {
        // No number of an earlier broker comes again.
        let base = census.incarnation() << 32;
        Self {
            awaited: Awaited::new(Rc::clone(&epoll), before, Instant::now()),
            parked: BTreeMap::new(),
            store: Store::none(),
            clients: Clients::new(epoll, base),
            topics: HashMap::new(),
            idle: VecDeque::new(),
            watches: BTreeMap::new(),
            created: base,
            policy: Rc::new(policy),
            accounts: Accounts::default(),
            census,
        }
    }

    /// Takes a new connection in, or turns it away.
    pub(crate) fn admit(&mut self, connection: Connection) {
        let peer = connection.credentials();
        let awaited = peer.is_ok_and(|peer| self.awaited.has_process(peer.pid));
        let away = if awaited { 0 } else { self.awaited.away() };
        if self.clients.len() + away >= MAX_CONNECTIONS {
            let why = format!("the broker has {MAX_CONNECTIONS} connections, which is the limit");
            return turn_away(&connection, Refusal::Limit, &why);
        }
        let identified = connection.credentials().and_then(|peer| {
            let who = Subject::of_peer(&connection)?;
            Ok((peer, who, connection.peer_pidfd()?))
        });
        let (peer, who, pidfd) = match identified {
            Ok(peer) => peer,
            // It is gone already.
            Err(Error::Closed) => return waste::close(&connection),
            Err(error) => return turn_away(&connection, Refusal::Limit, &error.to_string()),
        };
        if let Err(why) = self.let_in(&who) {
            return turn_away(&connection, Refusal::NotAllowed, &why);
        }
        let account = self.accounts.of(who.uid, &self.policy);
        let charge = match self.charge_account(&account, peer.pid, connection_amounts()) {
            Ok(charge) => charge,
            Err((kind, why)) => return turn_away(&connection, kind, &why),
        };
        // A second descriptor for a refusal, should the table not take the first, is not worth having.
        match self.clients.insert(connection, peer, pidfd, who, charge) {
            Ok(id) => tracing::debug!(id, pid = peer.pid, "connected"),
            Err(error) => tracing::warn!(pid = peer.pid, %error, "cannot watch a new connection"),
        }
    }

    /// A connection is ready: sends what waits, serves what is asked, some requests at a time.
    pub(crate) fn ready(&mut self, id: u64, flags: EpollFlags) {
        if flags.contains(EpollFlags::EPOLLOUT) {
            self.clients.flush(id);
        }
        if !flags.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
            return;
        }
        for _ in 0..REQUESTS_PER_TURN {
            if self.parked.contains_key(&id) {
                // It is not listened to. Who hangs up meanwhile wants no answer.
                if flags.intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
                    self.clients.leave(id, Leaving::Closed);
                }
                return;
            }
            let Some(client) = self.clients.get(id) else {
                return;
            };
            let mut refused = Vec::new();
            let received = client.connection.try_recv_or::<Request>(&mut refused);
            waste::throw(refused);
            match received {
                Ok(Some((request, descriptors))) => {
                    let second = waste::second(&descriptors);
                    self.serve(id, request, descriptors);
                    waste::throw(second);
                }
                Ok(None) => return,
                Err(Error::Closed) => return self.clients.leave(id, Leaving::Closed),
                Err(error) => {
                    let exhausted = is_exhaustion(&error);
                    let kind = if exhausted {
                        Refusal::Limit
                    } else {
                        Refusal::Protocol
                    };
                    return self.clients.refuse(id, kind, &error.to_string());
                }
            }
            self.bury();
        }
    }

    /// Lets those go who leave, and those who turn out to be gone when others are told.
    pub(crate) fn bury(&mut self) {
        while let Some((id, why)) = self.clients.next_leaving() {
            let Some(client) = self.clients.remove(id) else {
                continue;
            };
            if self.awaited.is_returning(id) && client.said_back() {
                self.awaited.back(id);
            }
            // Over before others are told, so that who was told finds it so.
            waste::close(&client.connection);
            if let Some(parked) = self.parked.remove(&id) {
                waste::throw(parked.descriptors);
            }
            if self.goes_away(id, &client) {
                continue;
            }
            if matches!(why, Leaving::Failed | Leaving::Overflow) && self.goes_on_alone(id, &client)
            {
                continue;
            }
            let exited = why == Leaving::Died || !pidfd_alive(&*client.pidfd);
            if client.kind == Kind::Watch {
                crate::report::note!(id, pid = client.peer.pid, ?why, "watch left");
                self.unwatch(id);
                self.census.strike(id);
                continue;
            }
            let Some(name) = client.topic else {
                self.census.strike(id);
                tracing::debug!(id, pid = client.peer.pid, ?why, "gone without a topic");
                continue;
            };
            self.write_gone(id);
            self.store.stale = true;
            let Some(topic) = self.topics.get_mut(&name) else {
                continue;
            };
            if let Some(member) = topic.member(id) {
                let (role, client, pid) = (member.role, &member.client, member.pid);
                crate::report::note!(topic = %name, id, %role, %client, pid, exited, ?why, "left");
            }
            if let Err(error) = topic.leave(id, exited, &mut self.clients) {
                tracing::error!(topic = %name, id, %error, "cannot tell that a member left");
            }
            self.strike(id);
            self.drop_if_empty(&name);
            self.recharge(&name);
        }
    }

    /// Lets go of a topic that nobody has open but watches, or lets it be idle if it keeps rings for who comes.
    pub(crate) fn drop_if_empty(&mut self, name: &TopicName) {
        let Some(topic) = self.topics.get(name).filter(|topic| topic.is_empty()) else {
            return;
        };
        let keeps_rings = topic.keeps_rings();
        if self.is_topic_awaited(name) {
            return;
        }
        if !keeps_rings {
            return self.close(name);
        }
        if !self.idle.contains(name) {
            self.idle.push_back(name.clone());
        }
        if self.idle.len() > MAX_IDLE_TOPICS {
            self.close_longest_idle();
        }
    }

    /// Somebody is about to open a topic.
    pub(crate) fn rouse(&mut self, name: &TopicName) {
        self.idle.retain(|idle| idle != name);
    }

    /// Lets go of the topic that nobody has had open for the longest time, of those of the user who has the most, if there is one.
    pub(crate) fn close_longest_idle(&mut self) {
        let uid = |name: &TopicName| self.topics.get(name).map(|t| t.charge.account().uid());
        let mut idle_of: HashMap<_, usize> = HashMap::new();
        for name in &self.idle {
            *idle_of.entry(uid(name)).or_default() += 1;
        }
        let most = idle_of.values().max().copied();
        let of_most = |name: &&TopicName| idle_of.get(&uid(name)).copied() == most;
        if let Some(name) = self.idle.iter().find(of_most).cloned() {
            self.close(&name);
        }
    }

    /// Forgets a topic that nobody has open but watches, whose subscribers read what is there.
    pub(crate) fn close(&mut self, name: &TopicName) {
        self.rouse(name);
        let Some(topic) = self.topics.remove(name) else {
            return;
        };
        crate::report::note!(topic = %name, "topic closed");
        self.store.stale = true;
        let version = topic.publishers_version();
        for id in topic.members() {
            self.clients.dismiss(id, version);
            self.mark_dismissed(id);
        }
        let awaited = self.awaited.members(name.as_str());
        let readers = awaited.filter(|(_, one)| one.record.watch.is_some());
        let readers: Vec<_> = readers.map(|(id, _)| id).collect();
        for id in readers {
            self.mark_dismissed(id);
        }
        self.tell_gone(&topic);
    }
}

/// Refuses a connection that never becomes a client. Its socket is empty, so there is room.
pub(crate) fn turn_away(connection: &Connection, kind: Refusal, why: &str) {
    if let Ok(peer) = connection.credentials() {
        report::refused(peer.uid, peer.pid, kind, why);
    }
    if let Err(error) = connection.try_send(&refused(kind, why), &[]) {
        tracing::debug!(%error, "who was turned away did not wait for the answer");
    }
    waste::close(connection);
}
