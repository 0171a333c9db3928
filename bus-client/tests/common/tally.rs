//! The check, where publishers go past, that each message comes whole, in order and once, and that what was received and what was
//! lost add up to what was sent.

use super::content::Content;

/// What came from one publisher.
#[derive(Clone, Debug)]
pub struct Tally {
    /// The publisher, as the broker numbers it.
    pub publisher: u64,
    /// The publisher, as the test names it.
    pub tag: u32,
    /// Where its messages began for this subscriber.
    pub start: u64,
    /// Messages that came.
    pub received: u64,
    /// Messages that were said to be lost, up to the last one that came.
    pub lost: u64,
}

impl Tally {
    /// The sequence number after the last one that came.
    pub fn next(&self) -> u64 {
        self.start + self.received + self.lost
    }
}

/// What came from each publisher.
#[derive(Default)]
pub struct Tallies(pub Vec<Tally>);

impl Tallies {
    /// Enters a message; panics if it is not whole, or not the one that follows from what was received and lost.
    pub fn enter(&mut self, publisher: u64, sequence: u64, lost: u64, bytes: &[u8]) -> Content {
        let content = Content::read_padded(bytes)
            .unwrap_or_else(|why| panic!("message {sequence} of publisher {publisher}: {why}"));
        assert_eq!(
            content.sequence, sequence,
            "publisher {publisher}: a mix, {content:?}"
        );
        let known = self.0.iter().position(|t| t.publisher == publisher);
        let at = known.unwrap_or_else(|| {
            let start = sequence.checked_sub(lost);
            self.0.push(Tally {
                publisher,
                tag: content.tag,
                start: start.unwrap_or_else(|| panic!("{lost} lost before message {sequence}")),
                received: 0,
                lost: 0,
            });
            self.0.len() - 1
        });
        let tally = &mut self.0[at];
        assert_eq!(
            (tally.tag, tally.next() + lost),
            (content.tag, sequence),
            "{lost} lost before message {sequence} of {tally:?}"
        );
        tally.received += 1;
        tally.lost += lost;
        content
    }

    /// Messages that were said to be lost, of all publishers.
    pub fn lost(&self) -> u64 {
        self.0.iter().map(|tally| tally.lost).sum()
    }
}
