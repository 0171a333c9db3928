//! The books: what every worker said, and whether it adds up.
//!
//! | said | must be |
//! | --- | --- |
//! | a run of messages | the one that follows on the last one of that publisher; from 0 where the publisher came later than its reader |
//! | the end of a publisher | the same for all its readers, and what the publisher said that it sent: at least that, where it was killed |
//! | nothing | nothing is owed: a reader that was there before a publisher's last message must say that one's end |

use std::collections::{BTreeMap, HashMap};

use super::said::{Run, Said};
use super::topic::Topic;

/// What a reader follows.
#[derive(Clone, Debug)]
pub enum Follows {
    /// A topic.
    Topic(Topic),
    /// All topics whose names begin so; they lose nothing. Where a broker may go, so may the place that it keeps in a new one.
    Prefix {
        /// What the names begin with.
        prefix: String,
        /// No broker goes.
        whole: bool,
    },
}

impl Follows {
    fn follow(&self, topic: &Topic) -> bool {
        match self {
            Self::Topic(own) => own.name == topic.name,
            Self::Prefix { prefix, .. } => topic.name.starts_with(prefix.as_str()),
        }
    }

    fn lossless(&self) -> bool {
        match self {
            Self::Topic(topic) => topic.kind.lossless(),
            Self::Prefix { .. } => true,
        }
    }

    /// Whether it gets all that is sent after it came.
    fn gets_all(&self) -> bool {
        match self {
            Self::Topic(topic) => topic.kind.lossless(),
            Self::Prefix { whole, .. } => *whole,
        }
    }

    /// Whether it may be told of publishers that ended before it came.
    fn looks_back(&self) -> bool {
        matches!(self, Self::Topic(topic) if topic.kind.history() > 0)
    }
}

/// How a publisher ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    Left,
    Killed,
}

#[derive(Debug)]
struct Publisher {
    topic: Topic,
    /// When its opening began, by the common clock.
    opened: Option<u64>,
    /// It said that it had sent all below this, and when it had begun the last one.
    next: u64,
    began: u64,
    nowhere: u64,
    over: Option<Over>,
    /// Where its readers saw its end.
    end: Option<u64>,
}

#[derive(Debug)]
struct Reader {
    follows: Follows,
    joined: Option<u64>,
    /// The next number of each publisher, by its tag.
    next: HashMap<u32, u64>,
    /// Publishers whose end it has said.
    ended: Vec<u32>,
}

/// The sums.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sums {
    /// Messages received, by all readers.
    pub received: u64,
    /// Bytes received.
    pub bytes: u64,
    /// Messages that lossy topics were said to have lost.
    pub lost: u64,
    /// Messages that publishers said they had sent.
    pub sent: u64,
    /// Ends of publishers that readers saw.
    pub ends: u64,
    /// Handles that were opened.
    pub joins: u64,
    /// Times that a join found no broker and was tried again.
    pub again: u64,
    /// Longest join, in nanoseconds.
    pub longest_join: u64,
    /// Times that a send found no room at once.
    pub full: u64,
}

/// The books of a run.
#[derive(Debug, Default)]
pub struct Books {
    publishers: BTreeMap<u32, Publisher>,
    readers: BTreeMap<u32, Reader>,
    /// Where those ended of whom nobody is owed anything, if anybody saw.
    closed: HashMap<u32, Option<u64>>,
    wrong: Vec<String>,
    /// A broker has ended: places that it kept for who follows all topics are lost.
    places_lost: bool,
    /// The sums so far.
    pub sums: Sums,
}

impl Books {
    /// A broker ends, or may end at any time.
    pub fn broker_ends(&mut self) {
        self.places_lost = true;
    }

    /// A publisher will come.
    pub fn publisher(&mut self, tag: u32, topic: &Topic) {
        let publisher = Publisher {
            topic: topic.clone(),
            opened: None,
            next: 0,
            began: 0,
            nowhere: 0,
            over: None,
            end: None,
        };
        self.publishers.insert(tag, publisher);
    }

    /// A reader will come.
    pub fn reader(&mut self, number: u32, follows: Follows) {
        let reader = Reader {
            follows,
            joined: None,
            next: HashMap::new(),
            ended: Vec::new(),
        };
        self.readers.insert(number, reader);
    }

    /// The process with this number is gone; nothing is owed to it any more.
    pub fn gone(&mut self, number: u32) {
        self.readers.remove(&number);
        if let Some(publisher) = self.publishers.get_mut(&number) {
            publisher.over.get_or_insert(Over::Killed);
        }
    }

    /// What did not add up since the last time.
    pub fn wrongs(&mut self) -> Vec<String> {
        std::mem::take(&mut self.wrong)
    }

    /// Enters what the process with this number said.
    pub fn enter(&mut self, number: u32, said: &Said) {
        match said {
            Said::Joined {
                opened,
                joined,
                again,
            } => {
                self.sums.joins += 1;
                self.sums.again += again;
                self.sums.longest_join = self.sums.longest_join.max(joined - opened);
                if let Some(reader) = self.readers.get_mut(&number) {
                    reader.joined = Some(*joined);
                    reader.next.clear();
                    reader.ended.clear();
                } else if let Some(publisher) = self.publishers.get_mut(&number) {
                    publisher.opened = Some(*opened);
                }
            }
            Said::Sent { next, began } => self.sent(number, *next, *began),
            Said::Left {
                next,
                began,
                nowhere,
                full,
            } => {
                self.sent(number, *next, *began);
                if let Some(publisher) = self.publishers.get_mut(&number) {
                    self.sums.full += full;
                    publisher.nowhere = *nowhere;
                    publisher.over = Some(Over::Left);
                    if let Some(end) = publisher.end
                        && end != *next
                    {
                        let what = format!(
                            "publisher {number} sent {next} messages, a reader saw its end at {end}"
                        );
                        self.wrong.push(what);
                    }
                }
            }
            Said::Run(run) => self.run(number, run),
            Said::Ended { tag, end, .. } => self.ended(number, *tag, *end),
            Said::Evicted | Said::Unusable { .. } => {
                if let Some(reader) = self.readers.get_mut(&number) {
                    // What it was owed, it was told that it will not get.
                    reader.joined = None;
                }
            }
            Said::Wrong { what } => self.wrong.push(format!("process {number}: {what}")),
            Said::At { .. } | Said::Peers { .. } | Said::Value { .. } => {}
        }
    }

    fn sent(&mut self, number: u32, next: u64, began: u64) {
        if let Some(publisher) = self.publishers.get_mut(&number) {
            self.sums.sent += next - publisher.next.min(next);
            publisher.next = next;
            publisher.began = began;
        }
    }

    fn run(&mut self, number: u32, run: &Run) {
        let received = run.next - run.first - run.lost;
        self.sums.received += received;
        self.sums.bytes += run.bytes;
        self.sums.lost += run.lost;
        let Some(reader) = self.readers.get_mut(&number) else {
            return;
        };
        let tag = run.tag;
        let publisher = self.publishers.get(&tag);
        let due = reader.next.insert(tag, run.next);
        let why = if publisher.is_none_or(|p| !reader.follows.follow(&p.topic))
            && !(reader.follows.looks_back() && self.closed.contains_key(&tag))
        {
            Some("that publisher is not on its topic".to_owned())
        } else if let Some(due) = due {
            (due != run.first).then(|| format!("{due} was due"))
        } else if run.first > 0
            && let (Some(joined), Some(opened)) = (reader.joined, publisher.and_then(|p| p.opened))
            && opened > joined
            && (reader.follows.gets_all() || !reader.follows.lossless())
        {
            Some("it was there before that publisher".to_owned())
        } else if run.lost > 0 && reader.follows.lossless() {
            Some("its topic loses none".to_owned())
        } else if publisher.is_some_and(|p| p.over == Some(Over::Left) && run.next > p.next) {
            Some("so many were never sent".to_owned())
        } else {
            None
        };
        if let Some(why) = why {
            self.wrong
                .push(format!("reader {number} says {run:?}, but {why}"));
        }
    }

    fn ended(&mut self, number: u32, tag: u32, end: Option<u64>) {
        self.sums.ends += 1;
        let Some(reader) = self.readers.get_mut(&number) else {
            return;
        };
        reader.next.remove(&tag);
        let Some(publisher) = self.publishers.get_mut(&tag) else {
            if let Some(Some(seen)) = self.closed.get(&tag)
                && end.is_some_and(|end| end != *seen)
            {
                let what =
                    format!("reader {number} saw publisher {tag} end at {end:?}, others at {seen}");
                self.wrong.push(what);
            }
            return;
        };
        if reader.ended.contains(&tag) {
            let what = format!("reader {number} saw publisher {tag} end twice");
            self.wrong.push(what);
        }
        reader.ended.push(tag);
        let Some(end) = end else {
            return;
        };
        let right = match (publisher.over, publisher.end) {
            (_, Some(seen)) if seen != end => format!("others at {seen}"),
            (Some(Over::Left), _) if publisher.next != end => format!("it sent {}", publisher.next),
            (_, _) if publisher.next > end => format!("it had sent {}", publisher.next),
            _ => {
                publisher.end = Some(end);
                return;
            }
        };
        self.wrong.push(format!(
            "reader {number} saw publisher {tag} end at {end}, but {right}"
        ));
    }

    /// What readers are still owed by publishers that are over.
    #[must_use]
    pub fn owed(&self) -> Vec<String> {
        let mut owed = Vec::new();
        for (tag, publisher) in &self.publishers {
            if publisher.over.is_none() {
                continue;
            }
            for (number, reader) in &self.readers {
                if self.owes(*tag, publisher, reader) {
                    owed.push(format!(
                        "reader {number} never came to the end of publisher {tag} on {} ({:?}, {} sent, it is at {:?})",
                        publisher.topic.name,
                        publisher.over,
                        publisher.next,
                        reader.next.get(tag)
                    ));
                }
            }
        }
        owed
    }

    /// Publishers that are over and of whom nobody is owed anything are put away.
    pub fn close(&mut self) {
        let over: Vec<u32> = self
            .publishers
            .iter()
            .filter(|(tag, publisher)| {
                let owed = self
                    .readers
                    .values()
                    .any(|r| self.owes(**tag, publisher, r));
                publisher.over.is_some() && !owed
            })
            .map(|(tag, _)| *tag)
            .collect();
        for tag in over {
            if let Some(publisher) = self.publishers.remove(&tag) {
                let end = match publisher.over {
                    Some(Over::Left) => Some(publisher.next),
                    _ => publisher.end,
                };
                self.closed.insert(tag, end);
            }
            for reader in self.readers.values_mut() {
                reader.ended.retain(|ended| *ended != tag);
            }
        }
    }

    fn owes(&self, tag: u32, publisher: &Publisher, reader: &Reader) -> bool {
        let Some(joined) = reader.joined else {
            return false;
        };
        if !reader.follows.follow(&publisher.topic) || reader.ended.contains(&tag) {
            return false;
        }
        // Where the last messages found no room, it may never hear of any. Nor may one that follows all topics where the broker that kept its place went, and
        // the publisher ended before another one had told of it.
        let sure = reader.follows.gets_all()
            || !(self.places_lost && reader.follows.lossless())
                && publisher.over == Some(Over::Left)
                && publisher.nowhere == 0;
        reader.next.contains_key(&tag) || sure && publisher.next > 0 && publisher.began > joined
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crowd::topic::Kind;

    fn books() -> Books {
        let topic = Topic::new("t", Kind::Wait);
        let mut books = Books::default();
        books.publisher(1, &topic);
        books.reader(2, Follows::Topic(topic.clone()));
        books.reader(3, Follows::Topic(topic));
        for (number, at) in [(2, 10), (3, 10), (1, 20)] {
            let said = Said::Joined {
                opened: at,
                joined: at,
                again: 0,
            };
            books.enter(number, &said);
        }
        books
    }

    fn run(first: u64, next: u64, lost: u64) -> Said {
        Said::Run(Run {
            publisher: 9,
            tag: 1,
            first,
            next,
            lost,
            bytes: 0,
            pause: 0,
        })
    }

    fn left(next: u64) -> Said {
        Said::Left {
            next,
            began: 30,
            nowhere: 0,
            full: 0,
        }
    }

    fn ended(end: u64) -> Said {
        Said::Ended {
            publisher: 9,
            tag: 1,
            end: Some(end),
        }
    }

    #[test]
    fn what_adds_up_is_right() {
        let mut books = books();
        books.enter(2, &run(0, 5, 0));
        books.enter(2, &run(5, 7, 0));
        books.enter(3, &run(0, 7, 0));
        books.enter(3, &ended(7));
        books.enter(1, &left(7));
        assert_eq!(books.owed().len(), 1);
        books.enter(2, &ended(7));
        assert_eq!((books.owed().len(), books.wrongs().len()), (0, 0));
        books.close();
        assert_eq!((books.sums.received, books.sums.sent), (14, 7));
    }

    #[test]
    fn what_does_not_is_wrong() {
        for said in [
            vec![(2, run(1, 5, 0))],
            vec![(2, run(0, 5, 0)), (2, run(4, 6, 0))],
            vec![(2, run(0, 5, 0)), (2, run(6, 7, 0))],
            vec![(2, run(0, 5, 1))],
            vec![(1, left(5)), (2, run(0, 6, 0))],
            vec![(1, left(5)), (2, ended(4))],
            vec![(2, ended(4)), (1, left(5))],
            vec![(2, ended(4)), (3, ended(5))],
            vec![(1, Said::Sent { next: 6, began: 1 }), (3, ended(5))],
            vec![(2, ended(5)), (2, ended(5))],
        ] {
            let mut books = books();
            said.iter()
                .for_each(|(number, said)| books.enter(*number, said));
            assert_eq!(books.wrongs().len(), 1, "{said:?}");
        }
    }

    #[test]
    fn who_came_before_the_last_message_is_owed_the_end() {
        let mut books = books();
        books.enter(1, &Said::Sent { next: 1, began: 30 });
        books.gone(1);
        assert_eq!(books.owed().len(), 2);
        books.gone(2);
        books.enter(3, &Said::Evicted);
        assert_eq!(books.owed().len(), 0);
    }
}
