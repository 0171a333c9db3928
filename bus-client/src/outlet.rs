//! The sending end of a handle, of whatever type: membership, waiting, and the core's publisher.

use std::sync::Arc;
use std::time::Instant;

use bus_core::control::{Event, Role};
use bus_core::publish;
use bus_core::schema::Schema;
use bus_core::wake::SpinBudget;

use crate::member::{Member, Peers};
use crate::wait::{Step, Wait};
use crate::{Error, Peer, Result, TopicBuilder};

pub(crate) struct Outlet {
    pub(crate) core: publish::Publisher,
    member: Arc<Member>,
    peers: Peers,
    spin: SpinBudget,
    version: u32,
    id: u64,
}

impl Outlet {
    pub(crate) fn open(builder: TopicBuilder, schema: Schema) -> Result<Self> {
        let (member, opened) = Member::open(&builder, Role::Publisher, schema)?;
        let core = publish::Publisher::create(&opened.settings, &opened.registry, opened.index)
            .map_err(|e| member.wrap(e))?;
        member.join(core.fd())?;
        let mut outlet = Self {
            core,
            member: Arc::new(member),
            peers: Peers::default(),
            spin: SpinBudget::new(builder.spin),
            version: 0,
            id: opened.id,
        };
        loop {
            match outlet.member.answer()? {
                (Event::Joined { version }, _) => {
                    outlet.version = version;
                    outlet.core.set_version(version);
                    return Ok(outlet);
                }
                (event, descriptors) => outlet.apply(event, descriptors)?,
            }
        }
    }

    fn apply(&mut self, event: Event, descriptors: Vec<std::os::fd::OwnedFd>) -> Result<()> {
        match event {
            Event::SubscriberJoined {
                version,
                id,
                client,
                pid,
            } => {
                let [reader, pidfd] = self.member.descriptors(descriptors)?;
                // A segment that is not one hurts its own subscriber only.
                match self.core.adopt(id, &reader) {
                    Ok(()) => self.peers.insert(Peer { id, client, pid }, pidfd),
                    Err(error) => tracing::warn!(client, pid, %error, "not adopted"),
                }
                self.version = version;
            }
            Event::SubscriberLeft { version, id, .. } => {
                self.drop_peer(id);
                self.version = version;
            }
            event => return Err(self.member.unexpected(&event)),
        }
        Ok(())
    }

    fn drop_peer(&mut self, id: u64) {
        self.core.drop_follower(id);
        self.peers.remove(id);
    }

    /// Adopts and drops subscribers, if their set moved. To be called before each message or batch.
    #[inline(always)]
    pub(crate) fn refresh(&mut self) -> Result<()> {
        match self.core.stale() {
            None => Ok(()),
            Some(version) => self.sync(version),
        }
    }

    #[cold]
    fn sync(&mut self, version: u32) -> Result<()> {
        while (version.wrapping_sub(self.version) as i32) > 0 {
            match self.member.event(None)? {
                Some((event, descriptors)) => self.apply(event, descriptors)?,
                None => self.version = version,
            }
        }
        self.core.set_version(self.version);
        Ok(())
    }

    /// Tries once.
    #[inline(always)]
    pub(crate) fn once<R>(
        &mut self,
        attempt: impl FnOnce(&mut publish::Publisher) -> bus_core::Result<Option<R>>,
    ) -> Result<R> {
        self.refresh()?;
        match attempt(&mut self.core) {
            Ok(Some(done)) => Ok(done),
            Ok(None) => Err(self.full()),
            Err(error) => Err(self.member.wrap(error)),
        }
    }

    /// Tries until there is room, or the deadline.
    #[inline(always)]
    pub(crate) fn until<R>(
        &mut self,
        deadline: Option<Instant>,
        mut attempt: impl FnMut(&mut publish::Publisher) -> bus_core::Result<Option<R>>,
    ) -> Result<R> {
        self.refresh()?;
        match attempt(&mut self.core) {
            Ok(Some(done)) => Ok(done),
            Ok(None) => self.wait(deadline, attempt),
            Err(error) => Err(self.member.wrap(error)),
        }
    }

    #[cold]
    fn wait<R>(
        &mut self,
        deadline: Option<Instant>,
        mut attempt: impl FnMut(&mut publish::Publisher) -> bus_core::Result<Option<R>>,
    ) -> Result<R> {
        let mut wait = Wait::new(&self.spin, deadline);
        loop {
            match wait.step() {
                Step::Again => {}
                Step::Sleep(until) => {
                    self.core.sleep(Some(until));
                    if Instant::now() >= until {
                        self.patrol();
                    }
                }
                Step::Over => {
                    return Err(Error::Timeout {
                        topic: self.member.topic(),
                        what: "room",
                    });
                }
            }
            self.refresh()?;
            match attempt(&mut self.core) {
                Ok(Some(done)) => {
                    self.spin.learn(wait.spin());
                    return Ok(done);
                }
                Ok(None) => {}
                Err(error) => return Err(self.member.wrap(error)),
            }
        }
    }

    /// With no broker to tell, asks the kernel which subscribers are gone.
    fn patrol(&mut self) {
        if self.member.lost_broker() {
            for id in self.peers.dead() {
                self.drop_peer(id);
            }
        }
    }

    /// Room for `len` bytes, if there is some now.
    pub(crate) fn loan(&mut self, len: usize) -> Result<publish::Slot<'_>> {
        let full = self.full();
        match self.core.try_loan(len) {
            Ok(slot) => slot.ok_or(full),
            Err(error) => Err(self.member.wrap(error)),
        }
    }

    #[cold]
    fn full(&self) -> Error {
        let slowest = match self.slowest() {
            Some((peer, lag)) => format!(
                "subscriber {} (process {}) is {lag} messages behind",
                peer.client, peer.pid
            ),
            None => "no subscriber is behind, but the payload does not fit now".into(),
        };
        Error::Full {
            topic: self.member.topic(),
            slowest,
        }
    }

    pub(crate) fn slowest(&self) -> Option<(Peer, u64)> {
        let (id, lag) = self.core.slowest()?;
        Some((self.peers.get(id)?.clone(), lag))
    }

    pub(crate) fn subscribers(&mut self) -> Result<Vec<Peer>> {
        self.refresh()?;
        Ok(self.peers.list())
    }

    pub(crate) fn wait_for_subscribers(
        &mut self,
        count: usize,
        deadline: Option<Instant>,
    ) -> Result<()> {
        self.refresh()?;
        while self.core.followers() < count {
            let until = deadline.unwrap_or_else(|| Instant::now() + crate::wait::PATROL);
            match self.member.event(Some(until)) {
                Ok(Some((event, descriptors))) => self.apply(event, descriptors)?,
                Ok(None) => return Err(self.no_broker()),
                Err(Error::Timeout { .. }) if deadline.is_none() => {}
                Err(Error::Timeout { topic, .. }) => {
                    return Err(Error::Timeout {
                        topic,
                        what: "subscribers",
                    });
                }
                Err(error) => return Err(error),
            }
        }
        self.refresh()
    }

    fn no_broker(&self) -> Error {
        self.member.wrap(bus_core::Error::Closed)
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn topic(&self) -> String {
        self.member.topic()
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        self.core.close();
    }
}
