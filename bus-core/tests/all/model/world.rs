//! The real topic and the model, stepped together.

use std::collections::VecDeque;

use bus_core::receive::Held;
use bus_core::{Error, TopicSettings};
use proptest::sample::Index;

use super::floor::FloorCheck;
use super::reader::Reader;
use crate::common::{Event, Topic, payload};

/// What the model says of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Sent,
    Full,
    /// It depends on where the spans happen to lie.
    Either,
}

/// A published message, as the model keeps it.
struct Published {
    bytes: Vec<u8>,
    /// Bytes of arena that it takes, and that were claimed for it: the longest gap that it may have left.
    taken: u64,
    claimed: u64,
}

pub struct World {
    topic: Topic,
    log: Vec<Published>,
    readers: Vec<Reader>,
    /// Held messages and whose they are.
    held: Vec<(u64, Held)>,
    ids: u64,
    floor: FloorCheck,
}

fn units(len: usize) -> u64 {
    (len as u64).next_multiple_of(64)
}

impl World {
    pub fn new(settings: TopicSettings) -> Self {
        let topic = Topic::new(settings);
        Self {
            floor: FloorCheck::new(&topic),
            topic,
            log: Vec::new(),
            readers: Vec::new(),
            held: Vec::new(),
            ids: 0,
        }
    }

    fn head(&self) -> u64 {
        self.log.len() as u64
    }

    fn inline(&self) -> u64 {
        let settings = &self.topic.settings;
        settings.inline().min(settings.max_payload)
    }

    /// The lag of the slowest member.
    fn lag(&self) -> u64 {
        let members = self.readers.iter().filter(|r| r.member());
        let lags = members.map(|r| self.head() - r.cursor());
        lags.max().unwrap_or(0)
    }

    /// Whether there is room for `len` bytes, after `unchecked` messages since the version check.
    fn verdict(&self, len: usize, unchecked: u64) -> Verdict {
        let settings = &self.topic.settings;
        if self.lag() >= u64::from(settings.depth) {
            return Verdict::Full;
        }
        if len as u64 <= self.inline() {
            return Verdict::Sent;
        }
        let kept = self.lag().max(unchecked + u64::from(settings.keep));
        let kept = &self.log[self.head().saturating_sub(kept) as usize..];
        let used: u64 = kept.iter().map(|m| m.taken).sum::<u64>() + units(len);
        // At most one gap lies among the spans in use: they are shorter than the arena together.
        let gap = kept.iter().map(|m| m.claimed).max().unwrap_or(0);
        let gap = gap.max(units(len)) - 64;
        if used > settings.arena {
            Verdict::Full
        } else if used + gap <= settings.arena {
            Verdict::Sent
        } else {
            Verdict::Either
        }
    }

    fn compare(&self, verdict: Verdict, sent: Option<u64>) {
        if let Some(sequence) = sent {
            assert_eq!(sequence, self.head());
        }
        match verdict {
            Verdict::Sent => assert!(sent.is_some(), "full, though there is room"),
            Verdict::Full => assert!(sent.is_none(), "sent, though there is no room"),
            Verdict::Either => {}
        }
    }

    /// The model publishes. A payload claimed beyond a slot takes arena, whatever was committed of it.
    fn publish(&mut self, bytes: Vec<u8>, claimed: usize) {
        let in_arena = claimed as u64 > self.inline();
        let taken = if in_arena { units(bytes.len()) } else { 0 };
        let claimed = if in_arena { units(claimed) } else { 0 };
        let sequence = self.head();
        self.log.push(Published {
            bytes,
            taken,
            claimed,
        });
        for reader in self.readers.iter_mut().filter(|r| r.subscriber().is_some()) {
            reader.coming.push_back(sequence);
        }
    }

    fn too_large(&self, len: usize) -> bool {
        len as u64 > self.topic.settings.max_payload
    }

    pub fn send(&mut self, len: usize) {
        self.topic.sync();
        let bytes = payload(self.head(), len);
        let verdict = self.verdict(len, 0);
        let result = self.topic.publisher.try_send_bytes(&bytes);
        if self.too_large(len) {
            assert!(matches!(result, Err(Error::TooLarge { .. })));
            return;
        }
        let sent = result.unwrap();
        self.compare(verdict, sent);
        if sent.is_some() {
            self.publish(bytes, len);
        } else {
            self.check_slowest();
        }
    }

    /// After a refusal the publisher knows who is furthest behind, and by how much.
    fn check_slowest(&self) {
        let Some((id, lag)) = self.topic.publisher.slowest() else {
            assert!(self.readers.is_empty());
            return;
        };
        assert_eq!(lag, self.lag());
        let reader = self.readers.iter().find(|r| r.id == id).unwrap();
        assert_eq!(self.head() - reader.cursor(), lag);
    }

    pub fn batch(&mut self, lens: &[usize], join: Option<(Index, u32)>) {
        self.topic.sync();
        let lens = lens.iter().filter(|len| !self.too_large(**len));
        let lens: Vec<usize> = lens.copied().collect();
        let first = self.head();
        let mut joiner = join
            .filter(|_| self.readers.len() < 4)
            .map(|(when, history)| {
                self.ids += 1;
                let reader = Reader::new(self.ids, &self.topic);
                self.topic.attach(reader.subscriber().unwrap(), history);
                (when.index(lens.len() + 1), history, reader)
            });
        let Topic {
            settings,
            registry,
            publisher,
            events,
            ..
        } = &mut self.topic;
        let most = u64::from(settings.depth - settings.keep);
        let mut results = Vec::new();
        let mut batch = publisher.batch();
        for at in 0..=lens.len() {
            let head = first + batch.sent();
            if let Some((when, history, reader)) = &mut joiner
                && at == *when
            {
                let subscriber = reader.subscriber().unwrap();
                let segment = subscriber.fd().try_clone_to_owned().unwrap();
                events.push_back(Event::Joined(reader.id, segment));
                registry.bump_subscribers();
                subscriber.joined(*history);
                let back = u64::from((*history).min(settings.keep));
                reader.start(head.saturating_sub(back), head);
            }
            if let Some(len) = lens.get(at) {
                results.push(batch.push_bytes(&payload(head, *len)).unwrap());
            }
        }
        let sent = batch.sent();
        drop(batch);
        for (at, (len, sent)) in lens.iter().zip(results).enumerate() {
            let unchecked = self.head() - first;
            let verdict = match self.verdict(*len, unchecked) {
                _ if unchecked >= most => Verdict::Full,
                // A batch may end early: it looks for room once, at its start.
                Verdict::Sent if at > 0 => Verdict::Either,
                verdict => verdict,
            };
            self.compare(verdict, sent);
            if let Some(sequence) = sent {
                self.publish(payload(sequence, *len), *len);
            }
        }
        assert_eq!(sent, self.head() - first);
        if let Some((_, _, mut reader)) = joiner {
            reader.start(reader.next, self.head());
            self.readers.push(reader);
        }
    }

    pub fn loan(&mut self, len: usize, commit: Option<usize>) {
        self.topic.sync();
        let verdict = self.verdict(len, 0);
        let head = self.head();
        let result = self.topic.publisher.try_loan(len);
        if len as u64 > self.topic.settings.max_payload {
            assert!(matches!(result, Err(Error::TooLarge { .. })));
            return;
        }
        let mut published = None;
        let granted = result.unwrap().map(|mut slot| {
            assert_eq!(slot.bytes().len(), len);
            let bytes = payload(head, len);
            slot.bytes().copy_from_slice(&bytes);
            if let Some(commit) = commit {
                assert_eq!(slot.commit(commit), head);
                published = Some(bytes[..commit.min(len)].to_vec());
            }
            head
        });
        self.compare(verdict, granted);
        if let Some(bytes) = published {
            self.publish(bytes, len);
        }
        assert_eq!(self.topic.publisher.head(), self.head());
    }

    pub fn join(&mut self, history: u32, before: usize, after: usize) {
        if self.readers.len() >= 4 {
            return;
        }
        self.ids += 1;
        let mut reader = Reader::new(self.ids, &self.topic);
        let subscriber = reader.subscriber().unwrap();
        let back = u64::from(history.min(self.topic.settings.keep));
        self.topic.attach(subscriber, history);
        reader.start(self.head().saturating_sub(back), self.head());
        let start = reader.next;
        for i in 0..before {
            self.send(i * 13);
        }
        // It counts from the moment that the version moves, with the cursor that it had when it registered.
        reader.start(start, self.head());
        self.readers.push(reader);
        let segment = subscriber.fd().try_clone_to_owned().unwrap();
        self.topic.announce(Event::Joined(self.ids, segment));
        for i in 0..after {
            self.send(i * 41);
        }
        subscriber.joined(history);
        let head = self.head();
        let reader = self.readers.last_mut().unwrap();
        reader.start(head.saturating_sub(back), head);
    }

    /// A reader whose subscriber is not dropped.
    fn pick(&mut self, who: Index) -> Option<&mut Reader> {
        let mut alive: Vec<&mut Reader> = self.readers.iter_mut().collect();
        alive.retain(|reader| reader.subscriber().is_some());
        let count = alive.len();
        (count > 0).then(|| alive.swap_remove(who.index(count)))
    }

    pub fn receive(&mut self, who: Index, keep: bool) {
        let Some(reader) = self.pick(who) else {
            return;
        };
        let ready = reader.subscriber().unwrap().ready();
        assert_eq!(ready, !reader.coming.is_empty());
        let id = reader.id;
        self.receive_one(id, keep);
    }

    /// Receives one message; whether there was one.
    fn receive_one(&mut self, id: u64, keep: bool) -> bool {
        let reader = self.readers.iter_mut().find(|r| r.id == id).unwrap();
        let subscriber = reader.subscriber().unwrap();
        reader.fetch();
        let result = subscriber.poll();
        if !reader.coming.is_empty() && reader.may_hold(self.topic.settings.held) == 0 {
            let out = reader.unreleased.len() as u64;
            assert!(
                matches!(result, Err(Error::Holding { publisher: 0, held, .. }) if held == out)
            );
            return false;
        }
        let Some(message) = result.unwrap() else {
            assert_eq!(reader.coming.front(), None);
            return false;
        };
        let expected = reader.coming.pop_front();
        assert_eq!(Some(message.sequence()), expected);
        assert_eq!(message.bytes(), self.log[message.sequence() as usize].bytes);
        assert_eq!(message.publisher(), 0);
        reader.next = message.sequence() + 1;
        if keep {
            reader.unreleased.insert(message.sequence());
            reader.kept.push(message);
        }
        true
    }

    pub fn receive_batch(&mut self, who: Index, max: usize) {
        let Some(id) = self.pick(who).map(|reader| reader.id) else {
            return;
        };
        let reader = self.readers.iter_mut().find(|r| r.id == id).unwrap();
        let subscriber = reader.subscriber().unwrap();
        reader.fetch();
        let Some(batch) = subscriber.poll_batch(max) else {
            assert_eq!(reader.coming.front(), None);
            return;
        };
        let may_hold = reader.may_hold(self.topic.settings.held);
        let mut seen = Vec::new();
        while let Some(message) = batch.next() {
            match message {
                Ok(message) => seen.push(message),
                Err(error) => assert!(matches!(error, Error::Holding { .. }) && may_hold == 0),
            }
        }
        assert_eq!(
            seen.len(),
            max.max(1).min(reader.coming.len()).min(may_hold)
        );
        let cursor = reader.cursor();
        for (sequence, bytes) in seen {
            assert_eq!(Some(sequence), reader.coming.pop_front());
            assert_eq!(bytes, self.log[sequence as usize].bytes);
            reader.next = sequence + 1;
        }
        assert_eq!(
            reader.real_cursor(),
            cursor,
            "released before the batch is dropped"
        );
    }

    /// Takes out a message that a subscriber keeps, unchanged since it came.
    fn take_kept(
        &mut self,
        who: Index,
        which: Index,
    ) -> Option<(u64, bus_core::receive::Message<'static>)> {
        let reader = self.pick(who)?;
        let count = reader.kept.len();
        let id = reader.id;
        let message = (count > 0).then(|| reader.kept.swap_remove(which.index(count)))?;
        assert_eq!(message.bytes(), self.log[message.sequence() as usize].bytes);
        Some((id, message))
    }

    pub fn release(&mut self, who: Index, which: Index) {
        let Some((id, message)) = self.take_kept(who, which) else {
            return;
        };
        let reader = self.readers.iter_mut().find(|r| r.id == id).unwrap();
        reader.unreleased.remove(&message.sequence());
    }

    pub fn hold(&mut self, who: Index, which: Index) {
        if let Some((id, message)) = self.take_kept(who, which) {
            self.held.push((id, message.hold()));
        }
    }

    pub fn give_back(&mut self, which: Index) {
        let count = self.held.len();
        if count == 0 {
            return;
        }
        let (id, held) = self.held.swap_remove(which.index(count));
        let sequence = held.sequence();
        assert_eq!(held.bytes(), self.log[sequence as usize].bytes);
        drop(held);
        let reader = self.readers.iter_mut().find(|r| r.id == id).unwrap();
        reader.returned.push(sequence);
        if reader.subscriber().is_none() {
            reader.fetch();
            self.end_membership(id);
        }
    }

    pub fn leave(&mut self, who: Index) {
        let Some(reader) = self.pick(who) else {
            return;
        };
        let id = reader.id;
        reader.drop_subscriber();
        self.end_membership(id);
    }

    /// Nobody holds a message of a dropped subscriber any more: then, and only then, it leaves.
    fn end_membership(&mut self, id: u64) {
        let position = self.readers.iter().position(|r| r.id == id).unwrap();
        let holds = self.held.iter().any(|(owner, _)| *owner == id);
        assert_eq!(self.readers[position].member(), holds);
        if !holds {
            self.readers.swap_remove(position);
            self.topic.announce(Event::Left(id));
        }
    }

    /// Whatever the floor promises to readers that nobody waits for is so.
    pub fn check_floor(&mut self) {
        let head = self.head();
        let log = &self.log;
        self.floor
            .check(head, |sequence| &log[sequence as usize].bytes);
    }

    pub fn check_cursors(&self) {
        for reader in &self.readers {
            assert_eq!(
                reader.real_cursor(),
                reader.cursor(),
                "reader {}",
                reader.id
            );
        }
    }

    fn coming(&self, id: u64) -> &VecDeque<u64> {
        &self.readers.iter().find(|r| r.id == id).unwrap().coming
    }

    /// Everybody reads to the end, sees it once, and keeps the ring while it keeps a message.
    pub fn close_and_drain(&mut self) {
        self.topic.publisher.close();
        for (id, held) in self.held.drain(..) {
            let reader = self.readers.iter_mut().find(|r| r.id == id).unwrap();
            reader.returned.push(held.sequence());
        }
        let ids: Vec<u64> = self.readers.iter().map(|r| r.id).collect();
        for id in ids {
            let reader = self.readers.iter().find(|r| r.id == id).unwrap();
            let Some(subscriber) = reader.subscriber() else {
                continue;
            };
            let empty = reader.coming.is_empty();
            assert_eq!(subscriber.ends().count(), usize::from(empty));
            // It keeps the last few that it may.
            while !self.coming(id).is_empty() {
                if !self.receive_one(id, true) {
                    let reader = self.readers.iter_mut().find(|r| r.id == id).unwrap();
                    let message = reader.kept.remove(0);
                    reader.unreleased.remove(&message.sequence());
                }
            }
            assert!(!self.receive_one(id, true));
            assert_eq!(subscriber.ends().count(), usize::from(!empty));
            let mut indices = Vec::new();
            let reader = self.readers.iter_mut().find(|r| r.id == id).unwrap();
            subscriber.retire(&[0], |index| indices.push(index));
            assert_eq!(subscriber.rings(), usize::from(!reader.kept.is_empty()));
            reader.kept.clear();
            subscriber.retire(&[0], |index| indices.push(index));
            assert_eq!((subscriber.rings(), reader.real_cursor()), (0, 0));
            assert_eq!(indices, [0]);
        }
    }
}
