//! A reader's own check: each publisher's messages come whole, in order, each once, and what did not come was said to be lost; and the first
//! one is early enough.
//!
//! *Early enough*: whatever a publisher began to send after the reader's opening was over, the reader gets. So the message before the
//! first one was begun before that; with a history of `h`, the one `h` further on was.

use super::content::Content;
use super::said::Run;

/// What came from one publisher.
#[derive(Clone, Debug)]
struct Account {
    tag: u32,
    /// Where its messages began for this reader, received or lost.
    start: u64,
    /// When the last message came, by the common clock.
    came: u64,
    /// What was not said yet.
    run: Run,
}

/// A message, as it was received.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// Its publisher.
    pub publisher: u64,
    /// Its number.
    pub sequence: u64,
    /// How many before it were lost.
    pub lost: u64,
    /// Its bytes.
    pub bytes: &'a [u8],
}

/// What came from each publisher.
#[derive(Debug)]
pub struct Ledger {
    accounts: Vec<Account>,
    /// When the reader's opening was over.
    joined: u64,
    /// Messages that it asked for from before.
    history: u64,
    lossless: bool,
    /// The first message may be any.
    late: bool,
    received: u64,
}

impl Ledger {
    /// Of a reader that joined then.
    #[must_use]
    pub fn new(joined: u64, history: u32, lossless: bool) -> Self {
        Self {
            accounts: Vec::new(),
            joined,
            history: history.into(),
            lossless,
            late: false,
            received: 0,
        }
    }

    /// Of one to whom nobody promises where messages begin, only that they follow each other.
    #[must_use]
    pub fn that_may_start_late(mut self, late: bool) -> Self {
        self.late = late;
        self
    }

    /// Messages received so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Enters a message that came now.
    ///
    /// # Errors
    /// What is wrong with it. It is entered nevertheless, so that one fault is one complaint.
    pub fn enter(&mut self, message: Received<'_>, now: u64) -> Result<Content, String> {
        let Received {
            publisher,
            sequence,
            lost,
            bytes,
        } = message;
        let whose = format_args!("message {sequence} of publisher {publisher}");
        self.received += 1;
        let content = Content::read(bytes).map_err(|why| format!("{whose}: {why}"))?;
        let known = self
            .accounts
            .iter()
            .position(|account| account.run.publisher == publisher);
        let first = known.is_none();
        let at = known.unwrap_or_else(|| {
            let start = sequence.saturating_sub(lost);
            let run = Run {
                publisher,
                tag: content.tag,
                first: start,
                next: start,
                lost: 0,
                bytes: 0,
                pause: 0,
            };
            self.accounts.push(Account {
                tag: content.tag,
                start,
                came: now,
                run,
            });
            self.accounts.len() - 1
        });
        let account = &mut self.accounts[at];
        let expected = account.run.next;
        account.run.pause = account.run.pause.max(now.saturating_sub(account.came));
        account.came = now;
        account.run.next = sequence + 1;
        account.run.lost += lost;
        account.run.bytes += bytes.len() as u64;
        if content.sequence != sequence || content.tag != account.tag {
            return Err(format!(
                "{whose}: a mix, it says {content:?}, tag was {}",
                account.tag
            ));
        }
        if expected + lost != sequence {
            return Err(format!(
                "{whose} ({content:?}) with {lost} lost came where {expected} was due: lost unsaid, or doubled"
            ));
        }
        if self.lossless && lost > 0 {
            return Err(format!("{whose}: {lost} lost on a topic that loses none"));
        }
        // On a lossy topic the start may have been passed before it was read.
        let marks = sequence == account.start + self.history && account.start > 0;
        if marks && !self.late && (self.lossless || first) && content.before > self.joined {
            return Err(format!(
                "{whose}: the one before was begun {} ns after this reader had joined, and its messages start at {} here",
                content.before - self.joined,
                account.start
            ));
        }
        Ok(content)
    }

    /// What came since the last time.
    pub fn runs(&mut self) -> Vec<Run> {
        let accounts = self.accounts.iter_mut();
        let some = accounts.filter(|account| account.run.next != account.run.first);
        some.map(|account| {
            let run = account.run;
            account.run = Run {
                first: run.next,
                lost: 0,
                bytes: 0,
                pause: 0,
                ..run
            };
            run
        })
        .collect()
    }

    /// Those of whom something came and nothing more is known to have ended: publisher, and tag.
    pub fn publishers(&self) -> impl Iterator<Item = (u64, u32)> {
        self.accounts
            .iter()
            .map(|account| (account.run.publisher, account.tag))
    }

    /// Closes the account of a publisher that has ended, of which `lost` more were lost after the last one that came; the number after all.
    pub fn close(&mut self, publisher: u64, lost: u64) -> Option<u64> {
        let at = self
            .accounts
            .iter()
            .position(|account| account.run.publisher == publisher)?;
        Some(self.accounts.swap_remove(at).run.next + lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(sequence: u64, before: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        let content = Content {
            sequence,
            tag: 3,
            began: before + 1,
            before,
        };
        content.write(100, &mut bytes);
        bytes
    }

    fn enter(ledger: &mut Ledger, sequence: u64, lost: u64, before: u64) -> Result<(), String> {
        let bytes = bytes(sequence, before);
        let message = Received {
            publisher: 1,
            sequence,
            lost,
            bytes: &bytes,
        };
        ledger.enter(message, 0).map(drop)
    }

    #[test]
    fn gaps_doubles_and_late_starts_are_noticed() {
        let mut ledger = Ledger::new(100, 0, true);
        assert_eq!(enter(&mut ledger, 5, 0, 99), Ok(()));
        assert_eq!(enter(&mut ledger, 6, 0, 150), Ok(()));
        assert!(enter(&mut ledger, 6, 0, 150).is_err(), "double");
        assert_eq!(enter(&mut ledger, 7, 0, 151), Ok(()));
        assert!(enter(&mut ledger, 9, 0, 152).is_err(), "gap");
        assert!(enter(&mut ledger, 11, 1, 152).is_err(), "loss");
        assert!(
            enter(&mut Ledger::new(100, 0, true), 5, 0, 101).is_err(),
            "late"
        );
    }

    #[test]
    fn a_history_starts_early_enough() {
        let mut ledger = Ledger::new(100, 2, true);
        assert_eq!(enter(&mut ledger, 5, 0, 97), Ok(()));
        assert_eq!(enter(&mut ledger, 6, 0, 98), Ok(()));
        assert!(enter(&mut ledger, 7, 0, 101).is_err(), "it started at 5");
    }

    #[test]
    fn runs_are_said_once() {
        let mut ledger = Ledger::new(100, 0, false);
        assert_eq!(enter(&mut ledger, 5, 2, 1), Ok(()));
        let runs = ledger.runs();
        assert_eq!((runs[0].first, runs[0].next, runs[0].lost), (3, 6, 2));
        assert!(ledger.runs().is_empty());
        assert_eq!(ledger.close(1, 1), Some(7));
        assert_eq!(ledger.close(1, 1), None);
    }
}
