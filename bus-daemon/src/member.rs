//! One member of a topic: a handle that has it open, or the place that is kept for one; and the events that tell of it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use bus_core::control::{Credentials, Event, Role, Trust};
use bus_core::{ClientName, Result};

use crate::accounts::Charge;
use crate::admission::{Seat, Standing};
use crate::outbox::Outgoing;

/// A handle that has the topic open.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) role: Role,
    pub(crate) client: ClientName,
    pub(crate) pid: u32,
    pub(crate) uid: u32,
    pidfd: Rc<OwnedFd>,
    /// Of a publisher: the index of its ring.
    pub(crate) index: u16,
    /// Its ring or its reader segment, once it has joined.
    pub(crate) segment: Option<Rc<OwnedFd>>,
    /// What wakes it where it parks, once it may.
    pub(crate) doorbell: Option<Rc<OwnedFd>>,
    /// Of a subscriber: the watch that it is opened for.
    pub(crate) watch: Option<u64>,
    pub(crate) standing: Standing,
    /// What its user is charged for it.
    pub(crate) charge: Charge,
}

impl Member {
    pub(crate) fn new(
        role: Role,
        client: ClientName,
        peer: Credentials,
        pidfd: Rc<OwnedFd>,
        index: u16,
        watch: Option<u64>,
        seat: Seat,
    ) -> Self {
        Self {
            role,
            client,
            pid: peer.pid,
            uid: peer.uid,
            pidfd,
            index,
            segment: None,
            doorbell: None,
            watch,
            standing: seat.standing,
            charge: seat.charge,
        }
    }

    /// The place that is kept for a watch, with a segment that nobody moves.
    pub(crate) fn place(
        client: ClientName,
        peer: Credentials,
        pidfd: Rc<OwnedFd>,
        segment: Rc<OwnedFd>,
        seat: Seat,
    ) -> Self {
        Self {
            segment: Some(segment),
            ..Self::new(Role::Subscriber, client, peer, pidfd, 0, None, seat)
        }
    }

    /// Its process.
    pub(crate) fn process(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// How a subscriber of this user is to read it.
    pub(crate) fn trust(&self, subscriber: u32) -> Trust {
        if self.uid == subscriber {
            Trust::InPlace
        } else {
            self.standing.trust
        }
    }

    /// Of a subscriber: whether it could hold up publishers of this user where nothing is lost, and may not.
    pub(crate) fn stalls(&self, publisher: u32) -> bool {
        self.uid != publisher && !self.standing.stall
    }

    /// Whether it takes part and has not brought a doorbell yet.
    pub(crate) fn may_notify(&self) -> bool {
        self.has_joined() && self.doorbell.is_none()
    }

    pub(crate) fn has_joined(&self) -> bool {
        self.segment.is_some()
    }

    /// An event that tells of this member, with its segment, its pidfd, and its doorbell if it has one; none if it takes no part.
    fn tell(&self, event: impl FnOnce(String, u32) -> Event) -> Result<Option<Outgoing>> {
        let Some(segment) = &self.segment else {
            return Ok(None);
        };
        let event = event(self.client.to_string(), self.pid);
        let descriptors = vec![Rc::clone(segment), Rc::clone(&self.pidfd)];
        let event = Outgoing::new(&event, descriptors)?;
        Ok(Some(event.with_button(self.doorbell.clone(), self.uid)))
    }
}

/// The event that tells of a publisher, if it takes part, or took part until it ended, to who is to read it so.
pub(crate) fn publisher_joined(
    id: u64,
    member: &Member,
    version: u32,
    ended: bool,
    trust: Trust,
) -> Result<Option<Outgoing>> {
    member.tell(|client, pid| Event::PublisherJoined {
        version,
        index: member.index,
        id,
        client,
        pid,
        ended,
        trust,
        user: member.uid,
    })
}

/// The event that tells of a subscriber, if it takes part, or of the place that is kept for one.
pub(crate) fn subscriber_joined(
    id: u64,
    member: &Member,
    version: u32,
    kept: bool,
) -> Result<Option<Outgoing>> {
    member.tell(|client, pid| Event::SubscriberJoined {
        version,
        id,
        client,
        pid,
        kept,
        user: member.uid,
    })
}
