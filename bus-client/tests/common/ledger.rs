//! The check that each publisher's messages come whole, in order, each once, and without a gap.

use super::content::Content;

/// What came from one publisher.
#[derive(Clone, Debug)]
pub struct Account {
    /// The publisher, as the broker numbers it.
    pub publisher: u64,
    /// The publisher, as the test names it.
    pub tag: u32,
    /// The first sequence number that came.
    pub first: u64,
    /// The next sequence number that must come.
    pub next: u64,
}

impl Account {
    /// Messages that came.
    pub fn count(&self) -> u64 {
        self.next - self.first
    }
}

/// What came from each publisher.
#[derive(Default)]
pub struct Ledger {
    accounts: Vec<Account>,
    last: usize,
}

impl Ledger {
    /// Enters a message; panics if it is not the one that had to come next from its publisher.
    pub fn enter(&mut self, publisher: u64, sequence: u64, bytes: &[u8]) -> Content {
        let content = Content::read(bytes)
            .unwrap_or_else(|why| panic!("message {sequence} of publisher {publisher}: {why}"));
        assert_eq!(
            content.sequence, sequence,
            "publisher {publisher}: {content:?}"
        );
        let account = self.account(publisher, content);
        assert_eq!(
            (account.tag, account.next),
            (content.tag, sequence),
            "publisher {publisher}: a gap, a double, or another's message; since {}",
            account.first
        );
        account.next += 1;
        content
    }

    fn account(&mut self, publisher: u64, content: Content) -> &mut Account {
        let known = self.accounts.get(self.last);
        if known.is_none_or(|a| a.publisher != publisher) {
            let found = self.accounts.iter().position(|a| a.publisher == publisher);
            self.last = found.unwrap_or_else(|| {
                self.accounts.push(Account {
                    publisher,
                    tag: content.tag,
                    first: content.sequence,
                    next: content.sequence,
                });
                self.accounts.len() - 1
            });
        }
        &mut self.accounts[self.last]
    }

    /// Everybody's account.
    pub fn accounts(&self) -> &[Account] {
        &self.accounts
    }

    /// Messages that came, of all.
    pub fn count(&self) -> u64 {
        self.accounts.iter().map(Account::count).sum()
    }

    /// What came from the publisher with this tag.
    pub fn of(&self, tag: u32) -> Option<&Account> {
        self.accounts.iter().find(|a| a.tag == tag)
    }
}
