//! The clients: one for each connection, with what the kernel says of its process and what it has not read yet.
//!
//! Promises: posting to a client never waits and never fails; a client that cannot be posted to, or that is to
//! go for another reason, is put on the list of those who leave, and is taken from there when
//! whatever is being done is done.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use bus_core::control::{Connection, Credentials, Event, Refusal, Request, Sent};
use bus_core::fork::Unshared;
use bus_core::{Error, TopicName};
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};

use crate::accounts::Charge;
use crate::limits::{MAX_QUEUED, MAX_QUEUED_OF_WATCH, MAX_WHY};
use crate::outbox::{Outbox, Outgoing, Posted};
use crate::policy::Subject;
use crate::{report, waste};

/// One connection.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) connection: Connection,
    pub(crate) peer: Credentials,
    pub(crate) pidfd: Rc<OwnedFd>,
    /// Its user and groups.
    pub(crate) who: Rc<Subject>,
    /// What its user is charged for the connection.
    pub(crate) charge: Charge,
    /// The topic that it has open.
    pub(crate) topic: Option<TopicName>,
    pub(crate) kind: Kind,
    outbox: Outbox,
    /// What its outbox waits for; [`Sent::Yes`] if it is empty.
    waits: Sent,
    /// It is not listened to for now: what it asked for waits for others.
    parked: bool,
}

/// What a connection is, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A publisher or subscriber, or not yet anything.
    Handle,
    /// A watch.
    Watch,
    /// A subscriber whose topic was closed; it reads what is there.
    Dismissed {
        /// The last version of its set of publishers.
        version: u32,
        /// It has said, since then, that it may park.
        notified: bool,
    },
}

/// Requests that are looked through for a last word: more than anybody has to say who comes back.
const LAST_WORDS: usize = 128;

impl Client {
    /// Whether what it said last, and nobody has read, is that it is back: that it has gone since may be found out before, by who tells it something.
    pub(crate) fn said_back(&self) -> bool {
        let mut unwanted = Vec::new();
        let mut back = false;
        for _ in 0..LAST_WORDS {
            let Ok(Some((request, descriptors))) =
                self.connection.try_recv_or::<Request>(&mut unwanted)
            else {
                break;
            };
            unwanted.extend(descriptors);
            back |= request == Request::Back;
        }
        waste::throw(unwanted);
        back
    }
}

/// Why a client leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaving {
    /// It closed its connection, or nothing can be sent to it any more.
    Closed,
    /// Its process is gone.
    Died,
    /// It was refused what it may not have.
    Refused,
    /// It did not read its events, and too many were waiting.
    Overflow,
    /// The broker lacks what it needs to go on with it.
    Failed,
    /// It resumed, was not back in time, and others could not wait any longer.
    Late,
}

/// What an epoll event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    Listener,
    Stop,
    Signal,
    Path,
    Connection(u64),
    Process(u64),
}

/// Identifiers of clients start here, so that their tokens differ from the others.
const FIRST_ID: u64 = 16;

impl Token {
    pub(crate) fn pack(self) -> u64 {
        match self {
            Self::Listener => 0,
            Self::Stop => 1,
            Self::Signal => 2,
            Self::Path => 3,
            Self::Connection(id) => id * 2,
            Self::Process(id) => id * 2 + 1,
        }
    }

    pub(crate) fn unpack(data: u64) -> Self {
        match data {
            0 => Self::Listener,
            1 => Self::Stop,
            2 => Self::Signal,
            3 => Self::Path,
            data if data % 2 == 0 => Self::Connection(data / 2),
            data => Self::Process(data / 2),
        }
    }
}

/// All clients.
#[derive(Debug)]
pub(crate) struct Clients {
    epoll: Rc<Unshared<Epoll>>,
    table: HashMap<u64, Client>,
    next_id: u64,
    leaving: VecDeque<(u64, Leaving)>,
    /// Clients that are to be tried again after a while.
    later: BTreeSet<u64>,
}

impl Clients {
    /// None; the numbers of those who come are above `base`, and its lower half is 0.
    pub(crate) fn new(epoll: Rc<Unshared<Epoll>>, base: u64) -> Self {
        Self {
            epoll,
            table: HashMap::new(),
            next_id: base + FIRST_ID,
            leaving: VecDeque::new(),
            later: BTreeSet::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    pub(crate) fn get(&self, id: u64) -> Option<&Client> {
        self.table.get(&id)
    }

    /// All connections of a user.
    pub(crate) fn of_user(&self, uid: u32) -> impl Iterator<Item = (u64, &Client)> {
        let of_user = self
            .table
            .iter()
            .filter(move |(_, client)| client.who.uid == uid);
        of_user.map(|(id, client)| (*id, client))
    }

    pub(crate) fn get_mut(&mut self, id: u64) -> Option<&mut Client> {
        self.table.get_mut(&id)
    }

    /// Takes a connection in and watches it and its process.
    pub(crate) fn insert(
        &mut self,
        connection: Connection,
        peer: Credentials,
        pidfd: OwnedFd,
        who: Subject,
        charge: Charge,
    ) -> nix::Result<u64> {
        let id = self.next_id;
        let event = |token: Token| EpollEvent::new(EpollFlags::EPOLLIN, token.pack());
        self.epoll.add(&connection, event(Token::Connection(id)))?;
        // The connection is closed on failure, which ends its being watched.
        self.epoll.add(&pidfd, event(Token::Process(id)))?;
        self.next_id += 1;
        let client = Client {
            connection,
            peer,
            pidfd: Rc::new(pidfd),
            who: Rc::new(who),
            charge,
            topic: None,
            kind: Kind::Handle,
            outbox: Outbox::default(),
            waits: Sent::Yes,
            parked: false,
        };
        self.table.insert(id, client);
        Ok(id)
    }

    /// Gives a client that has not been told anything yet the number that it had at an earlier broker.
    pub(crate) fn rename(&mut self, id: u64, known: u64) -> nix::Result<()> {
        let Some(client) = self.table.get(&id) else {
            return Ok(());
        };
        let event = |token: Token| EpollEvent::new(EpollFlags::EPOLLIN, token.pack());
        self.epoll
            .modify(&client.connection, &mut event(Token::Connection(known)))?;
        self.epoll
            .modify(&*client.pidfd, &mut event(Token::Process(known)))?;
        if let Some(client) = self.table.remove(&id) {
            self.table.insert(known, client);
        }
        Ok(())
    }

    /// Listens to a client no longer, or again. One that hangs up is noticed all the same.
    pub(crate) fn park(&mut self, id: u64, parked: bool) {
        if let Some(client) = self.table.get_mut(&id) {
            client.parked = parked;
            self.listen(id);
        }
    }

    /// Asks the kernel for what a client waits for.
    fn listen(&mut self, id: u64) {
        let Some(client) = self.table.get(&id) else {
            return;
        };
        let mut flags = EpollFlags::empty();
        flags.set(EpollFlags::EPOLLIN, !client.parked);
        flags.set(EpollFlags::EPOLLOUT, client.waits == Sent::Full);
        let mut event = EpollEvent::new(flags, Token::Connection(id).pack());
        if let Err(error) = self.epoll.modify(&client.connection, &mut event) {
            tracing::error!(id, %error, "cannot watch a client's socket");
            self.leaving.push_back((id, Leaving::Failed));
        }
    }

    /// Takes a client out. Its descriptors are no longer watched: others hold its pidfd too, so that closing
    /// ours would not end that, and it would be ready for ever.
    pub(crate) fn remove(&mut self, id: u64) -> Option<Client> {
        let client = self.table.remove(&id)?;
        self.later.remove(&id);
        for result in [
            self.epoll.delete(&client.connection),
            self.epoll.delete(&*client.pidfd),
        ] {
            if let Err(error) = result {
                tracing::error!(id, %error, "cannot stop watching a client");
            }
        }
        Some(client)
    }

    /// A client does not want the ring of a publisher that has left, and need not hear of it.
    pub(crate) fn unsay(&mut self, id: u64, publisher: u64) {
        if let Some(client) = self.table.get_mut(&id) {
            client.outbox.unsay(publisher);
        }
    }

    /// Sends an event, or keeps it until the client reads.
    pub(crate) fn post(&mut self, id: u64, event: Outgoing) -> Posted {
        let Some(client) = self.table.get_mut(&id) else {
            return Posted::Queued;
        };
        let limit = match client.kind {
            Kind::Watch => MAX_QUEUED_OF_WATCH,
            Kind::Handle | Kind::Dismissed { .. } => MAX_QUEUED,
        };
        let posted = client.outbox.post(event.for_user(client.peer.uid), limit);
        if posted == Posted::Overflow {
            self.leaving.push_back((id, Leaving::Overflow));
        } else if client.waits == Sent::Yes {
            self.flush(id);
        }
        posted
    }

    /// Sends a client what waits for it, as far as its socket takes it.
    pub(crate) fn flush(&mut self, id: u64) {
        let Some(client) = self.table.get_mut(&id) else {
            return;
        };
        let before = client.waits;
        client.waits = match client.outbox.flush(&client.connection) {
            Ok(waits) => waits,
            Err(Error::Closed) => return self.leaving.push_back((id, Leaving::Closed)),
            Err(_) => return self.leaving.push_back((id, Leaving::Failed)),
        };
        if client.waits == Sent::Later {
            self.later.insert(id);
        }
        if (before == Sent::Full) != (client.waits == Sent::Full) {
            self.listen(id);
        }
    }

    /// Whether somebody is to be tried again after a while.
    pub(crate) fn any_later(&self) -> bool {
        !self.later.is_empty()
    }

    /// Tries again those who are to be tried again.
    pub(crate) fn flush_later(&mut self) {
        for id in std::mem::take(&mut self.later) {
            self.flush(id);
        }
    }

    /// Tells a client that it is refused, and lets it leave.
    pub(crate) fn refuse(&mut self, id: u64, kind: Refusal, why: &str) {
        if let Some(client) = self.table.get(&id) {
            report::refused(client.peer.uid, client.peer.pid, kind, why);
        }
        if let Ok(event) = Outgoing::new(&refused(kind, why), Vec::new()) {
            self.post(id, event);
        }
        self.leave(
            id,
            match kind {
                Refusal::Limit | Refusal::Broker => Leaving::Failed,
                _ => Leaving::Refused,
            },
        );
    }

    /// The topic of a client is closed, and it is none of who keep it open.
    pub(crate) fn dismiss(&mut self, id: u64, version: u32) {
        if let Some(client) = self.table.get_mut(&id) {
            client.topic = None;
            client.kind = Kind::Dismissed {
                version,
                notified: false,
            };
        }
    }

    /// Puts a client on the list of those who leave.
    pub(crate) fn leave(&mut self, id: u64, why: Leaving) {
        self.leaving.push_back((id, why));
    }

    /// The next one who leaves.
    pub(crate) fn next_leaving(&mut self) -> Option<(u64, Leaving)> {
        self.leaving.pop_front()
    }
}

/// A refusal with a sentence of bounded length.
pub(crate) fn refused(kind: Refusal, why: &str) -> Event {
    Event::Refused {
        kind,
        why: cut(why).to_owned(),
    }
}

/// As much of a sentence as is told.
pub(crate) fn cut(why: &str) -> &str {
    let longest = MAX_WHY.min(why.len());
    let end = (0..=longest).rfind(|&end| why.is_char_boundary(end));
    &why[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_sentence_is_cut_between_characters() {
        let why = format!("x{}", "ä".repeat(MAX_WHY));
        let Event::Refused { why, .. } = refused(Refusal::Schema, &why) else {
            panic!("not a refusal");
        };
        assert_eq!(why.len(), MAX_WHY - 1);
    }

    #[test]
    fn tokens_come_out_as_they_went_in() {
        for token in [
            Token::Listener,
            Token::Stop,
            Token::Signal,
            Token::Connection(FIRST_ID),
            Token::Process(FIRST_ID),
        ] {
            assert_eq!(Token::unpack(token.pack()), token);
        }
    }
}
