//! A subscriber that survives, and checks what it receives: each message whole, in order, once; what is lost is said.

use std::collections::HashMap;

use bus_client::{BytesSubscriber, Error, Held, Message};

use super::content::Content;
use super::fault::Fault;

/// What came from one publisher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    /// The publisher, as the broker numbers it.
    pub publisher: u64,
    /// The sequence number that has to come next.
    pub next: u64,
}

/// What came from each publisher, by the number that the run gave it.
#[derive(Debug, Default)]
pub struct Accounts {
    by_tag: HashMap<u64, Account>,
    /// Whether publishers may go past subscribers.
    overruns: bool,
}

impl Accounts {
    /// Nothing has come yet.
    #[must_use]
    pub fn new(overruns: bool) -> Self {
        Self {
            by_tag: HashMap::new(),
            overruns,
        }
    }

    /// Enters a message.
    ///
    /// # Errors
    /// It is not whole, or not the one that has to come.
    pub fn enter(&mut self, message: &Message<'_>) -> Result<Content, Fault> {
        let (publisher, sequence) = (message.publisher(), message.sequence());
        let content = Content::read(message.bytes()).map_err(|why| {
            Fault::Broken(format!(
                "message {sequence} of publisher {publisher} is not whole: {why}"
            ))
        })?;
        if content.sequence != sequence {
            return Err(Fault::Broken(format!(
                "message {sequence} of publisher {publisher} is {content:?}"
            )));
        }
        // Nobody here has been joined by a publisher that was there before: each is read from its first message on.
        let account = self
            .by_tag
            .entry(content.tag)
            .or_insert(Account { publisher, next: 0 });
        let due = account.next + message.lost();
        if account.publisher != publisher
            || due != sequence
            || (message.lost() > 0 && !self.overruns)
        {
            return Err(Fault::Broken(format!(
                "after {account:?}, with {} lost, comes message {sequence} of publisher {publisher}: {content:?}",
                message.lost()
            )));
        }
        account.next = sequence + 1;
        Ok(content)
    }

    /// How many messages of this publisher have come, or were lost before one that came.
    #[must_use]
    pub fn of(&self, tag: u64) -> u64 {
        self.by_tag.get(&tag).map_or(0, |account| account.next)
    }

    /// This publisher is gone, and its number is not used again.
    pub fn forget(&mut self, tag: u64) {
        self.by_tag.remove(&tag);
    }
}

/// A subscriber and what it received.
pub struct Reader {
    subscriber: BytesSubscriber,
    accounts: Accounts,
}

impl Reader {
    /// One that has received nothing yet.
    #[must_use]
    pub fn new(subscriber: BytesSubscriber, overruns: bool) -> Self {
        Self {
            subscriber,
            accounts: Accounts::new(overruns),
        }
    }

    /// Receives all that is there.
    ///
    /// # Errors
    /// Something of it is wrong.
    pub fn drain(&mut self) -> Result<(), Fault> {
        while let Some(message) = next(&self.subscriber)? {
            self.accounts.enter(&message)?;
        }
        Ok(())
    }

    /// Receives one, and holds it.
    ///
    /// # Errors
    /// There is none, or it is wrong.
    pub fn hold(&mut self) -> Result<Held, Fault> {
        let message = next(&self.subscriber)?.ok_or_else(|| Fault::run("nothing to hold"))?;
        self.accounts.enter(&message)?;
        Ok(message.hold())
    }

    /// What came so far.
    #[must_use]
    pub fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    /// See [`Accounts::forget`].
    pub fn forget(&mut self, tag: u64) {
        self.accounts.forget(tag);
    }

    /// Whether it follows a publisher of this process.
    ///
    /// # Errors
    /// The handle is of no use any more.
    pub fn follows(&self, pid: u32) -> Result<bool, Fault> {
        let publishers = self.subscriber.publishers()?;
        Ok(publishers.iter().any(|peer| peer.pid == pid))
    }

    /// How many publishers it follows.
    ///
    /// # Errors
    /// The handle is of no use any more.
    pub fn following(&self) -> Result<usize, Fault> {
        Ok(self.subscriber.publishers()?.len())
    }
}

/// The next message, if there is one. A publisher that has evicted this subscriber has none for it.
fn next(subscriber: &BytesSubscriber) -> Result<Option<Message<'_>>, Fault> {
    match subscriber.try_recv() {
        Err(Error::Evicted { .. }) => Ok(None),
        received => Ok(received?),
    }
}
