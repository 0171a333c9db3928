//! The real topic and the model, stepped together.

use bus_core::receive::{Held, Message};
use bus_core::{Error, TopicSettings};
use proptest::sample::Index;

use super::model::{Content, Model, Next};
use super::reader::Reader;
use crate::common::{Event, Topic, payload};

pub struct World {
    topic: Topic,
    model: Model,
    /// Held messages and whose they are.
    held: Vec<(u64, Held)>,
    ids: u64,
}

impl World {
    pub fn new(settings: TopicSettings) -> Self {
        let topic = Topic::new(settings);
        Self {
            model: Model::new(&topic),
            topic,
            held: Vec::new(),
            ids: 0,
        }
    }

    pub fn send(&mut self, len: usize) {
        self.topic.sync();
        let room = self.model.has_room(len, 0);
        let bytes = payload(self.model.head(), len);
        let result = self.topic.publisher.try_send_bytes(&bytes);
        if self.model.too_large(len) {
            assert!(matches!(result, Err(Error::TooLarge { .. })));
            return;
        }
        let sent = result.unwrap();
        self.published(Content::Bytes(bytes), sent, room);
    }

    fn published(&mut self, content: Content, sent: Option<u64>, room: bool) {
        assert!(
            sent.is_some() || !self.model.lossy(),
            "a lossy topic is never full"
        );
        self.model.publish(content, sent, room);
        assert_eq!(self.topic.publisher.nowhere(), self.model.nowhere);
        assert_eq!(self.topic.publisher.head(), self.model.head());
    }

    pub fn send_text(&mut self, len: usize) {
        self.topic.sync();
        let letters = payload(self.model.head(), len);
        let text: String = letters.iter().map(|b| char::from(b'a' + b % 26)).collect();
        // Its room is looked for as if it were as long as it may be.
        let longest = self.model.settings.max_payload as usize;
        let room = self.model.has_room(longest, 0);
        match self.topic.publisher.try_send(&text) {
            Ok(sent) => self.published(Content::Text(text), sent, room),
            Err(Error::TooLarge { .. }) => {
                assert!(self.model.too_large(len.next_multiple_of(4) + 8))
            }
            Err(other) => panic!("{other}"),
        }
    }

    pub fn loan(&mut self, len: usize, commit: Option<usize>) {
        self.topic.sync();
        let room = self.model.has_room(len, 0);
        let head = self.model.head();
        let result = self.topic.publisher.try_loan(len);
        if self.model.too_large(len) {
            assert!(matches!(result, Err(Error::TooLarge { .. })));
            return;
        }
        let Some(mut slot) = result.unwrap() else {
            self.published(Content::Bytes(Vec::new()), None, room);
            return;
        };
        assert_eq!(slot.bytes().len(), len);
        let mut bytes = payload(head, len);
        slot.bytes().copy_from_slice(&bytes);
        let Some(commit) = commit else {
            assert_eq!(self.topic.publisher.head(), head);
            return;
        };
        assert_eq!(slot.commit(commit), head);
        bytes.truncate(commit);
        self.published(Content::Bytes(bytes), Some(head), room);
    }

    /// A subscriber that has the ring and has not joined; none where there are enough.
    fn joiner(&mut self, history: u32) -> Option<Reader> {
        let readers = self.model.readers.iter();
        if readers.filter(|r| r.subscriber().is_some()).count() >= 3 {
            return None;
        }
        self.ids += 1;
        let reader = Reader::new(self.ids, &self.topic);
        self.topic.attach(reader.subscriber().unwrap(), history);
        Some(reader)
    }

    /// It has joined: it starts where it may, whatever the publisher knows.
    fn joined(model: &mut Model, id: u64, history: u32) {
        let (head, floor) = (model.head(), model.floor());
        let (keep, window) = (model.settings.keep, model.rules.window);
        let reader = model.readers.iter_mut().find(|r| r.id == id).unwrap();
        reader.subscriber().unwrap().joined(history);
        reader.next = head.saturating_sub(history.min(keep).into());
        reader.end = reader.next + window;
        assert_eq!(reader.cursor(), reader.next);
        assert!(floor <= reader.next, "what a joiner may count on is gone");
    }

    pub fn join(&mut self, history: u32, before: usize, after: usize) {
        let Some(reader) = self.joiner(history) else {
            return;
        };
        for i in 0..before {
            self.send(i * 13);
        }
        let id = reader.id;
        let segment = reader
            .subscriber()
            .unwrap()
            .fd()
            .try_clone_to_owned()
            .unwrap();
        self.topic.sync();
        self.topic.announce(Event::Joined(id, segment));
        // The version moved behind the check: it may be full until the publisher has looked again.
        for i in 0..after {
            let bytes = payload(self.model.head(), 8 * i);
            if self.model.too_large(bytes.len()) {
                continue;
            }
            let sent = self.topic.publisher.try_send_bytes(&bytes).unwrap();
            self.model.publish(Content::Bytes(bytes), sent, false);
            assert_eq!(self.topic.publisher.nowhere(), self.model.nowhere);
        }
        self.model.readers.push(reader);
        for i in 0..after {
            self.send(i * 41);
        }
        Self::joined(&mut self.model, id, history);
    }

    pub fn batch(&mut self, lens: &[usize], join: Option<(Index, u32)>) {
        self.topic.sync();
        let mut join = join.and_then(|(when, history)| {
            let reader = self.joiner(history)?;
            Some((when.index(lens.len() + 1), history, reader))
        });
        let Topic {
            registry,
            publisher,
            events,
            ..
        } = &mut self.topic;
        let first = self.model.head();
        let mut newcomer = None;
        let mut batch = publisher.batch();
        for at in 0..=lens.len() {
            if let Some((_, history, reader)) = join.take_if(|(when, ..)| *when == at) {
                let segment = reader
                    .subscriber()
                    .unwrap()
                    .fd()
                    .try_clone_to_owned()
                    .unwrap();
                events.push_back(Event::Joined(reader.id, segment));
                registry.bump_subscribers();
                newcomer = Some(reader.id);
                self.model.readers.push(reader);
                Self::joined(&mut self.model, newcomer.unwrap(), history);
                Self::receive_one(&mut self.model, newcomer.unwrap(), true);
            }
            let Some(len) = lens.get(at).filter(|len| !self.model.too_large(**len)) else {
                continue;
            };
            let unchecked = self.model.head() - first;
            let ends = newcomer.is_some() || unchecked == u64::from(self.model.settings.depth);
            let room = !ends && self.model.has_room(*len, unchecked);
            let bytes = payload(self.model.head(), *len);
            let sent = batch.push_bytes(&bytes).unwrap();
            assert!(sent.is_some() || ends || unchecked > 0 || !self.model.lossy());
            self.model.publish(Content::Bytes(bytes), sent, room);
            if let Some(id) = newcomer {
                Self::receive_one(&mut self.model, id, at % 2 == 0);
            }
        }
        assert_eq!(batch.sent(), self.model.head() - first);
        drop(batch);
        assert_eq!(self.topic.publisher.nowhere(), self.model.nowhere);
    }

    /// A reader whose subscriber is not dropped.
    fn pick(&self, who: Index) -> Option<u64> {
        let alive = self
            .model
            .readers
            .iter()
            .filter(|r| r.subscriber().is_some());
        let ids: Vec<u64> = alive.map(|reader| reader.id).collect();
        (!ids.is_empty()).then(|| ids[who.index(ids.len())])
    }

    fn reader(&mut self, id: u64) -> &mut Reader {
        self.model.readers.iter_mut().find(|r| r.id == id).unwrap()
    }

    pub fn receive(&mut self, who: Index, count: usize, keep: u8) {
        let Some(id) = self.pick(who) else { return };
        for n in 0..count {
            Self::receive_one(&mut self.model, id, keep >> n & 1 == 1);
        }
    }

    /// Receives one message; whether there was one.
    fn receive_one(model: &mut Model, id: u64, keep: bool) -> bool {
        let position = model.readers.iter().position(|r| r.id == id).unwrap();
        let mut reader = model.readers.swap_remove(position);
        let subscriber = reader.subscriber().unwrap();
        assert_eq!(subscriber.has_message(), reader.next != model.head());
        let next = model.next(&mut reader);
        let mut result = subscriber.poll();
        if matches!(next, Next::Message { .. }) && matches!(result, Ok(None)) {
            // A look passes over so many, and then says that there is nothing yet.
            assert!(subscriber.has_message());
            result = subscriber.poll();
        }
        let got = match result {
            Ok(None) => Next::Nothing,
            Ok(Some(message)) => {
                let (sequence, lost) = (message.sequence(), message.lost());
                model.check(sequence, message.bytes());
                if keep {
                    reader.kept.push(message);
                } else {
                    reader.out.remove(&sequence);
                }
                Next::Message { sequence, lost }
            }
            Err(Error::Holding {
                held,
                publisher,
                who,
            }) => {
                assert_eq!(publisher, 0);
                assert!(who.contains(if who.contains("none") {
                    "own thread"
                } else {
                    "since"
                }));
                Next::Holding(held)
            }
            Err(other) => panic!("{other}"),
        };
        assert_eq!(got, next);
        assert_eq!(subscriber.lost(), reader.lost);
        model.readers.push(reader);
        matches!(got, Next::Message { .. })
    }

    pub fn receive_batch(&mut self, who: Index, max: usize, meanwhile: usize) {
        let Some(id) = self.pick(who) else { return };
        let head = self.model.head();
        let reader = self.reader(id);
        reader.fetch();
        let subscriber = reader.subscriber().unwrap();
        let Some(batch) = subscriber.poll_batch(max) else {
            assert_eq!(reader.next, head);
            return;
        };
        let mut seen: Vec<(u64, &[u8])> = Vec::new();
        for turn in 0.. {
            let position = self.model.readers.iter().position(|r| r.id == id).unwrap();
            let mut reader = self.model.readers.swap_remove(position);
            let expected = match turn {
                0 => self.model.next(&mut reader),
                _ if turn < max && self.model.goes_on(&mut reader) => Next::Message {
                    sequence: reader.next - 1,
                    lost: 0,
                },
                _ => Next::Nothing,
            };
            self.model.readers.push(reader);
            let got = match batch.next() {
                None => Next::Nothing,
                Some(Ok((sequence, bytes))) => {
                    self.model.check(sequence, bytes);
                    seen.push((sequence, bytes));
                    let lost = if turn == 0 { batch.lost() } else { 0 };
                    Next::Message { sequence, lost }
                }
                Some(Err(Error::Holding { held, .. })) => Next::Holding(held),
                Some(Err(other)) => panic!("{other}"),
            };
            assert_eq!(got, expected);
            if !matches!(got, Next::Message { .. }) {
                break;
            }
            if turn == 1 {
                (0..meanwhile).for_each(|n| self.send(n * 37));
            }
        }
        (0..meanwhile).for_each(|n| self.send(n * 41));
        for (sequence, bytes) in &seen {
            self.model.check(*sequence, bytes);
            self.reader(id).out.remove(sequence);
        }
        assert!(seen.is_empty() || batch.sequence() == seen[0].0);
        drop(batch);
        assert_eq!(subscriber.lost(), self.reader(id).lost);
    }

    /// Takes out a message that a subscriber keeps, unchanged since it came.
    fn take_kept(&mut self, who: Index, which: Index) -> Option<(u64, Message<'static>)> {
        let id = self.pick(who)?;
        let kept = &mut self.reader(id).kept;
        let count = kept.len();
        let message = (count > 0).then(|| kept.swap_remove(which.index(count)))?;
        self.model.check(message.sequence(), message.bytes());
        Some((id, message))
    }

    pub fn release(&mut self, who: Index, which: Index) {
        if let Some((id, message)) = self.take_kept(who, which) {
            self.reader(id).out.remove(&message.sequence());
        }
    }

    pub fn hold(&mut self, who: Index, which: Index) {
        if let Some((id, message)) = self.take_kept(who, which) {
            self.held.push((id, message.hold()));
        }
    }

    pub fn give_back(&mut self, which: Index) {
        if self.held.is_empty() {
            return;
        }
        let (id, held) = self.held.swap_remove(which.index(self.held.len()));
        let sequence = held.sequence();
        self.model.check(sequence, held.bytes());
        drop(held);
        let reader = self.reader(id);
        reader.returned.push(sequence);
        if reader.subscriber().is_none() {
            reader.fetch();
            self.end_membership(id);
        }
    }

    pub fn leave(&mut self, who: Index) {
        let Some(id) = self.pick(who) else { return };
        self.check_kept();
        self.reader(id).drop_subscriber();
        self.end_membership(id);
    }

    /// Nobody holds a message of a dropped subscriber any more: then, and only then, it leaves.
    fn end_membership(&mut self, id: u64) {
        let holds = self.held.iter().any(|(owner, _)| *owner == id);
        assert_eq!(self.reader(id).member(), holds);
        if !holds {
            self.model.readers.retain(|r| r.id != id);
            self.topic.announce(Event::Left(id));
        }
    }

    /// Whatever is held is unchanged since it came.
    pub fn check_kept(&self) {
        for message in self.model.readers.iter().flat_map(|r| &r.kept) {
            self.model.check(message.sequence(), message.bytes());
        }
        for (_, held) in &self.held {
            self.model.check(held.sequence(), held.bytes());
        }
    }

    /// Everybody gives back what it holds, and reads to the end: nothing is left that was neither received nor lost.
    pub fn drain(&mut self) {
        self.check_kept();
        self.topic.publisher.close();
        while !self.held.is_empty() {
            let last = self.held.len() - 1;
            let (id, held) = self.held.swap_remove(last);
            self.reader(id).returned.push(held.sequence());
        }
        let alive = self
            .model
            .readers
            .iter()
            .filter(|r| r.subscriber().is_some());
        for id in alive.map(|r| r.id).collect::<Vec<_>>() {
            let reader = self.reader(id);
            for message in reader.kept.drain(..) {
                reader.out.remove(&message.sequence());
            }
            while Self::receive_one(&mut self.model, id, false) {}
            let head = self.model.head();
            let subscriber = self.reader(id).subscriber().unwrap();
            assert_eq!(self.reader(id).next, head);
            assert_eq!(subscriber.ends().count(), 1);
            let mut indices = Vec::new();
            subscriber.retire(&[0], |index| indices.push(index));
            assert_eq!(indices, [0]);
            // What was lost of a ring that is let go of still counts.
            assert_eq!(subscriber.lost(), self.reader(id).lost);
        }
    }
}
