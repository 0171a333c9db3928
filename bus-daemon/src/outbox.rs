//! What a client has not read yet, once its socket is full.
//!
//! Promises: events leave in the order in which they were posted; what waits is bounded; a client that has read
//! all there is has an event with the last version. Who joined and left while the client did not read is not
//! told: only that something changed is. So what waits is about as much as there are members now. But a ring that the client is to read, whose
//! publisher came and went, is told of whole: its messages are there. Such rings keep their indices, which bounds them.
//!
//! So a member is never cut off for being slow, or stopped, however long and whatever happens meanwhile: a leaving waits only of those whose joining
//! was sent, and they were all there at the moment at which the first of them left; a joining and a doorbell only of those who are there.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use bus_core::control::{Connection, Event, Message, Packet, Sent};

/// Whose joining or leaving an event is about: a member's, or, for a watch, a topic's. No client hears of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    Joined(u64),
    Left(u64),
    /// Whose doorbell it brings.
    Notify(u64),
    /// A leaving whose joining was never told.
    Unheard,
    Nobody,
}

/// An event that is packed and has its descriptors. Cloning it copies neither.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    packet: Rc<Packet>,
    descriptors: Vec<Rc<OwnedFd>>,
    /// The button of somebody's doorbell, and whose user's it is: the last of the descriptors, to clients of the same user.
    button: Option<(Rc<OwnedFd>, u32)>,
    subject: Subject,
    /// Of a publisher's leaving: its ring is still to be read by who has not heard of it. Of a topic's end: messages of it were owed.
    owed: bool,
    /// What to say instead, to who has not yet heard of the joining that this is about.
    whole: Option<Rc<Outgoing>>,
}

impl Outgoing {
    pub(crate) fn new(event: &Event, descriptors: Vec<Rc<OwnedFd>>) -> bus_core::Result<Self> {
        let subject = match event {
            Event::PublisherJoined { id, .. }
            | Event::SubscriberJoined { id, .. }
            | Event::TopicAppeared { id, .. } => Subject::Joined(*id),
            Event::PublisherLeft { id, .. }
            | Event::SubscriberLeft { id, .. }
            | Event::TopicGone { id } => Subject::Left(*id),
            Event::PublisherNotify { id, .. } | Event::SubscriberNotify { id, .. } => {
                Subject::Notify(*id)
            }
            _ => Subject::Nobody,
        };
        Ok(Self {
            packet: Rc::new(event.pack()?),
            descriptors,
            button: None,
            subject,
            owed: false,
            whole: None,
        })
    }

    /// A publisher's leaving, to a subscriber that is to read its ring; a topic's end, to a watch that was to.
    pub(crate) fn with_ring_owed(mut self) -> Self {
        self.owed = true;
        self
    }

    /// With the button of a doorbell of this user, if there is one.
    pub(crate) fn with_button(mut self, button: Option<Rc<OwnedFd>>, user: u32) -> Self {
        self.button = button.map(|button| (button, user));
        self
    }

    /// As a client of this user gets it. Whoever has a button can break the doorbell, so those of other users ring through the broker.
    pub(crate) fn for_user(mut self, user: u32) -> Self {
        self.button.take_if(|(_, of)| *of != user);
        let whole = self.whole.take();
        self.whole = whole.map(|whole| Rc::new(Outgoing::clone(&whole).for_user(user)));
        self
    }

    /// A doorbell of who has joined. `whole` tells of the joining with the doorbell, for who has not yet heard of either.
    pub(crate) fn or_whole(mut self, whole: Outgoing) -> Self {
        self.whole = Some(Rc::new(whole));
        self
    }
}

/// What became of an event that was posted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Posted {
    /// It is in the queue, perhaps in the place of the joining that it undoes.
    Queued,
    /// The queue is full, and the client is to be cut off.
    Overflow,
}

/// The queue of one client.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    queue: VecDeque<Outgoing>,
}

impl Outbox {
    /// Puts an event at the end of the queue, unless there are as many as this.
    pub(crate) fn post(&mut self, mut event: Outgoing, limit: usize) -> Posted {
        match (event.subject, event.whole.take()) {
            (Subject::Left(id), _) => {
                // Nobody parks any more.
                self.queue.retain(|e| e.subject != Subject::Notify(id));
                let joined = |e: &Outgoing| e.subject == Subject::Joined(id);
                if !event.owed
                    && let Some(at) = self.queue.iter().position(joined)
                {
                    self.queue.remove(at);
                    // This one has a later version than any before it, and says no less.
                    self.queue.retain(|e| e.subject != Subject::Unheard);
                    event.subject = Subject::Unheard;
                }
            }
            (Subject::Notify(id), Some(whole)) => {
                let joined = |e: &Outgoing| e.subject == Subject::Joined(id);
                // Behind an answer it would be told too late: who joins starts where it stands at the answer.
                let answer = |e: &Outgoing| e.subject == Subject::Nobody;
                if let Some(at) = self.queue.iter().position(joined)
                    && !self.queue.iter().skip(at).any(answer)
                {
                    self.queue.remove(at);
                    event = Outgoing::clone(&whole);
                }
            }
            _ => {}
        }
        if self.queue.len() >= limit {
            return Posted::Overflow;
        }
        self.queue.push_back(event);
        Posted::Queued
    }

    /// The client does not want the ring of this publisher, which has left: it need not hear of it any more.
    pub(crate) fn unsay(&mut self, id: u64) {
        let place = |subject| self.queue.iter().position(|e| e.subject == subject);
        let (Some(joined), Some(left)) = (place(Subject::Joined(id)), place(Subject::Left(id)))
        else {
            return;
        };
        // It says which version this is, until a later one does.
        self.queue[left].subject = Subject::Unheard;
        self.queue.remove(joined);
    }

    /// Sends what the socket takes. The answer says what to wait for, with [`Sent::Yes`] where nothing is left.
    pub(crate) fn flush(&mut self, connection: &Connection) -> bus_core::Result<Sent> {
        while let Some(event) = self.queue.front() {
            let button = event.button.as_ref().map(|(button, _)| button);
            let descriptors = event.descriptors.iter().chain(button);
            let descriptors: Vec<BorrowedFd<'_>> = descriptors.map(|fd| fd.as_fd()).collect();
            match connection.try_send_packet(&event.packet, &descriptors)? {
                Sent::Yes => self.queue.pop_front(),
                wait => return Ok(wait),
            };
        }
        Ok(Sent::Yes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 1000;

    fn joined(id: u64, version: u32) -> Outgoing {
        let event = Event::SubscriberJoined {
            version,
            id,
            client: "c".into(),
            pid: 1,
            kept: false,
            user: 1,
        };
        Outgoing::new(&event, Vec::new()).unwrap()
    }

    fn left(id: u64, version: u32) -> Outgoing {
        Outgoing::new(
            &Event::SubscriberLeft {
                version,
                id,
                exited: false,
            },
            Vec::new(),
        )
        .unwrap()
    }

    fn read_all(outbox: &mut Outbox) -> Vec<(u32, u64)> {
        let (ours, theirs) = Connection::pair().unwrap();
        assert_eq!(outbox.flush(&ours).unwrap(), Sent::Yes);
        assert!(outbox.queue.is_empty());
        std::iter::from_fn(|| theirs.try_recv::<Event>().unwrap())
            .map(|(event, _)| match event {
                Event::SubscriberJoined { version, id, .. }
                | Event::SubscriberLeft { version, id, .. } => (version, id),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn who_came_and_went_unseen_leaves_only_the_last_version() {
        let mut outbox = Outbox::default();
        assert_eq!(outbox.post(joined(1, 1), LIMIT), Posted::Queued);
        for i in 0..LIMIT as u32 {
            assert_eq!(outbox.post(joined(100, 2 + 2 * i), LIMIT), Posted::Queued);
            assert_eq!(outbox.post(left(100, 3 + 2 * i), LIMIT), Posted::Queued);
        }
        let last = 1 + 2 * LIMIT as u32;
        assert_eq!(read_all(&mut outbox), [(1, 1), (last, 100)]);
    }

    #[test]
    fn a_leaving_whose_joining_was_sent_stays() {
        let mut outbox = Outbox::default();
        assert_eq!(outbox.post(left(1, 7), LIMIT), Posted::Queued);
        assert_eq!(outbox.post(joined(2, 8), LIMIT), Posted::Queued);
        assert_eq!(outbox.post(left(2, 9), LIMIT), Posted::Queued);
        assert_eq!(read_all(&mut outbox), [(7, 1), (9, 2)]);
    }

    fn notify(id: u64, version: u32) -> Outgoing {
        let event = Event::SubscriberNotify { version, id };
        let notify = Outgoing::new(&event, Vec::new()).unwrap();
        notify.or_whole(joined(id, version))
    }

    #[test]
    fn a_doorbell_comes_with_the_joining_where_that_still_waits() {
        let mut outbox = Outbox::default();
        for id in 0..LIMIT as u64 {
            assert_eq!(outbox.post(joined(id, 1), LIMIT), Posted::Queued);
        }
        for id in 0..LIMIT as u64 {
            assert_eq!(outbox.post(notify(id, 2), LIMIT), Posted::Queued);
        }
        let subjects: Vec<_> = outbox.queue.iter().map(|e| e.subject).collect();
        assert_eq!(subjects.len(), LIMIT);
        assert_eq!(subjects[7], Subject::Joined(7));
    }

    #[test]
    fn a_doorbell_of_who_left_is_not_told() {
        let mut outbox = Outbox::default();
        outbox.post(notify(1, 5), LIMIT);
        assert_eq!(outbox.queue[0].subject, Subject::Notify(1));
        outbox.post(left(1, 6), LIMIT);
        assert_eq!(read_all(&mut outbox), [(6, 1)]);
    }

    /// A publisher's leaving is told with its joining where the ring is to be read, and no more where it is not.
    #[test]
    fn a_ring_that_is_owed_is_told_of_until_it_is_released() {
        let mut outbox = Outbox::default();
        outbox.post(joined(1, 1), LIMIT);
        outbox.post(left(1, 2).with_ring_owed(), LIMIT);
        outbox.post(joined(2, 3), LIMIT);
        outbox.post(left(2, 4).with_ring_owed(), LIMIT);
        outbox.unsay(2);
        outbox.unsay(7);
        assert_eq!(read_all(&mut outbox), [(1, 1), (2, 1), (4, 2)]);
    }

    #[test]
    fn the_queue_is_bounded() {
        let mut outbox = Outbox::default();
        for id in 0..LIMIT as u64 {
            assert_eq!(outbox.post(joined(id, 1), LIMIT), Posted::Queued);
        }
        assert_eq!(outbox.post(joined(9_999_999, 2), LIMIT), Posted::Overflow);
        assert_eq!(outbox.post(left(0, 2), LIMIT), Posted::Queued);
    }

    /// Whose doorbell was to be told behind an answer, and who left before that was read, is not told of at all.
    #[test]
    fn a_doorbell_of_who_came_and_went_unseen_is_not_told() {
        let mut outbox = Outbox::default();
        let answer = Event::Joined { version: 1 };
        outbox.post(joined(1, 1), LIMIT);
        outbox.post(Outgoing::new(&answer, Vec::new()).unwrap(), LIMIT);
        outbox.post(notify(1, 2), LIMIT);
        outbox.post(left(1, 3), LIMIT);
        let subjects: Vec<_> = outbox.queue.iter().map(|e| e.subject).collect();
        assert_eq!(subjects, [Subject::Nobody, Subject::Unheard]);
    }

    /// What `limits` counts on: three events for each who may be there at a time, whatever they do and however slowly this is read.
    #[test]
    fn what_waits_is_bounded_by_how_many_may_be_there() {
        const MEMBERS: usize = 40;
        let mut random = fastrand::Rng::with_seed(7);
        let mut outbox = Outbox::default();
        let (mut there, mut next, mut longest) = (Vec::new(), 0, 0);
        for version in 0..200_000 {
            // For a while it reads more than comes, then less, then nothing.
            let reads = [2, 1, 0, 0][version as usize / 500 % 4];
            for _ in 0..random.usize(0..=reads) {
                outbox.queue.pop_front();
            }
            let event = match random.u8(0..3) {
                0 if there.len() < MEMBERS => {
                    next += 1;
                    there.push(next);
                    joined(next, version)
                }
                1 if !there.is_empty() => {
                    left(there.swap_remove(random.usize(0..there.len())), version)
                }
                2 if !there.is_empty() => {
                    let id = there[random.usize(0..there.len())];
                    let queued = outbox.queue.iter();
                    // Once each.
                    if queued.clone().any(|e| e.subject == Subject::Notify(id)) {
                        continue;
                    }
                    notify(id, version)
                }
                _ => continue,
            };
            assert_eq!(outbox.post(event, 3 * MEMBERS + 1), Posted::Queued);
            longest = longest.max(outbox.queue.len());
        }
        assert!(longest > MEMBERS, "{longest}");
    }
}
