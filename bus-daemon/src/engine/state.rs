//! Everything that the broker knows, and the inputs that change it.
//!
//! Each input is served whole: [`Engine::settle`] lets sessions go that turn out to be over, serves requests that
//! need not wait any longer, and leaves nothing half done.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use bus_core::TopicName;
use bus_core::control::{Refusal, Request};

use super::errands::Errands;
use super::grace::Deferred;
use super::recovery::Recovery;
use super::refused::Refused;
use super::session::Session;
use super::topic::Topic;
use super::watch::Watch;
use super::world::World;
use crate::accounts::Accounts;
use crate::policy::Policy;
#[cfg(feature = "simulator")]
use crate::simulator::Planted;

/// Stretches of numbers left out that are remembered. Only clients that make numbers up cause any.
const MAX_SKIPPED: usize = 64;
/// The most that one step of the outside clock counts: time in which the broker itself stood still is nobody's fault.
const LONGEST_STEP: Duration = Duration::from_millis(250);

/// More numbers than a broker gives out. A number that is claimed, and is so many ahead at most, may have been guessed.
const CLAIMED_AHEAD: u64 = 1 << 40;

/// What a broker starts with.
pub(crate) struct Start {
    pub(crate) policy: Policy,
    /// A random number: the numbers of members, watches and topics follow it.
    pub(crate) ids: u64,
    /// Higher than that of every earlier broker of this path, as far as is known.
    pub(crate) generation: u64,
    /// The predecessor may have ended with members.
    pub(crate) unclean: bool,
    /// A process hosts it until a broker of its own comes.
    pub(crate) gives_way: bool,
    /// A fault to be played, so that the simulator can show that it finds it.
    #[cfg(feature = "simulator")]
    pub(crate) planted: Option<Planted>,
}

/// Why a session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The client closed it, or nothing can be sent to it any more.
    Closed,
    /// Its process is gone.
    Died,
    /// It broke the protocol, or asked for what it may not have.
    Refused,
    /// Its process has come back on another connection.
    Replaced,
}

/// The broker.
pub(crate) struct Engine<W: World> {
    pub(crate) world: W,
    pub(crate) sessions: BTreeMap<u64, Session<W>>,
    /// The sessions of processes, by the processes' numbers.
    pub(crate) processes: BTreeMap<u64, u64>,
    pub(crate) topics: BTreeMap<u64, Topic<W>>,
    /// Topics that are not closed.
    pub(crate) names: BTreeMap<TopicName, u64>,
    /// Topics that nothing has open but watches and that keep rings, the longest idle first.
    pub(crate) idle: VecDeque<u64>,
    pub(crate) watches: BTreeMap<u64, Watch<W>>,
    /// The members of all topics.
    pub(crate) member_ids: BTreeSet<u64>,
    pub(crate) policy: Rc<Policy>,
    pub(crate) accounts: Accounts,
    pub(crate) recovery: Recovery<W>,
    pub(crate) deferred: BTreeMap<(u64, u32), Deferred<W>>,
    /// For how long the broker has run.
    pub(crate) now: Duration,
    pub(crate) last_id: u64,
    /// The number before the first that this broker gave.
    pub(crate) first_id: u64,
    /// Numbers that it left out, because clients claim them: from behind the first one up to the second.
    pub(crate) skipped: Vec<(u64, u64)>,
    /// Members of earlier brokers that came back to this one and have left it. Bounded by those that came back.
    pub(crate) departed: BTreeSet<u64>,
    pub(crate) generation: u64,
    /// Sessions that end.
    pub(crate) closing: VecDeque<(u64, End)>,
    /// Sessions for which the kernel lacked something; they are tried again after a while.
    pub(crate) later: BTreeSet<u64>,
    /// Sessions that wait for credit.
    pub(crate) starved: BTreeSet<u64>,
    /// What is to be done when all that is ready was served.
    pub(crate) errands: Errands,
    /// The rings to be stored for the next broker may be others than those that are.
    pub(crate) store_stale: bool,
    /// Another broker has asked this one to end.
    pub(crate) yields: bool,
    /// It is told to stop, and sends what it still has to say.
    pub(crate) stopping: bool,
    /// It may be asked to.
    pub(crate) gives_way: bool,
    /// A fault to be played.
    #[cfg(feature = "simulator")]
    pub(crate) planted: Option<Planted>,
}

impl<W: World> Engine<W> {
    pub(crate) fn new(world: W, start: Start) -> Self {
        Self {
            world,
            sessions: BTreeMap::new(),
            processes: BTreeMap::new(),
            topics: BTreeMap::new(),
            names: BTreeMap::new(),
            idle: VecDeque::new(),
            watches: BTreeMap::new(),
            member_ids: BTreeSet::new(),
            policy: Rc::new(start.policy),
            accounts: Accounts::default(),
            recovery: Recovery::new(start.unclean),
            deferred: BTreeMap::new(),
            now: Duration::ZERO,
            last_id: start.ids,
            first_id: start.ids,
            skipped: Vec::new(),
            departed: BTreeSet::new(),
            generation: start.generation.max(1),
            closing: VecDeque::new(),
            later: BTreeSet::new(),
            starved: BTreeSet::new(),
            errands: Errands::default(),
            store_stale: false,
            yields: false,
            stopping: false,
            gives_way: start.gives_way,
            #[cfg(feature = "simulator")]
            planted: start.planted,
        }
    }

    /// A number that no member, watch or topic has or had; never 0.
    pub(crate) fn new_id(&mut self) -> u64 {
        self.last_id = self.last_id.wrapping_add(1).max(1);
        self.last_id
    }

    /// Whether a member with this number has been at this broker, and is not any more: its peers were told that it left.
    pub(crate) fn has_departed(&self, id: u64) -> bool {
        let given = self.last_id.wrapping_sub(self.first_id);
        let own = (1..=given).contains(&id.wrapping_sub(self.first_id));
        let lies = |(from, to): &(u64, u64)| {
            (1..=to.wrapping_sub(*from)).contains(&id.wrapping_sub(*from))
        };
        let own = own && !self.skipped.iter().any(lies);
        own || self.departed.contains(&id)
    }

    /// A client claims to have this number from an earlier broker: it is not given out again. Numbers that come next are
    /// known to clients, which see their own.
    pub(crate) fn skip_id(&mut self, id: u64) {
        let ahead = id.wrapping_sub(self.last_id);
        if ahead < CLAIMED_AHEAD {
            let last = self
                .skipped
                .last_mut()
                .filter(|(_, to)| *to == self.last_id);
            if let Some((_, to)) = last {
                // Nothing was given since: the members of one process come back in order.
                *to = id;
            } else if self.skipped.len() < MAX_SKIPPED {
                self.skipped.push((self.last_id, id));
            }
            self.last_id = id;
        }
    }

    /// From now on this policy decides about newcomers. What is there stays as it is.
    pub(crate) fn set_policy(&mut self, policy: Policy) {
        self.accounts.set_limits(&policy);
        self.policy = Rc::new(policy);
    }

    /// Time has passed.
    pub(crate) fn tick(&mut self, passed: Duration) {
        self.now += passed.min(LONGEST_STEP);
        #[cfg(feature = "simulator")]
        self.play_absent_gone();
    }

    /// How long until something is to be done that no input announces; none if there is nothing.
    pub(crate) fn next_wakeup(&self) -> Option<Duration> {
        let at = self
            .next_deferred()
            .into_iter()
            .chain(self.next_sweep())
            .chain(self.next_errand())
            .min()?;
        Some(at.saturating_sub(self.now).min(LONGEST_STEP))
    }

    /// A request has come.
    pub(crate) fn received(
        &mut self,
        session: u64,
        handle: u32,
        request: Request,
        descriptors: Vec<W::Fd>,
    ) {
        if let Err(refused) = self.dispatch(session, handle, request, descriptors) {
            self.refuse(session, handle, &refused);
        }
        self.settle();
    }

    /// What a session sent is no request.
    pub(crate) fn malformed(&mut self, session: u64, mut why: Refused) {
        // Both sides are named where they differ in that.
        if why.kind == Refusal::Version
            && let Some(client) = self.sessions.get(&session)
            && client.owner.is_some()
        {
            let (oldest, newest) = client.versions;
            why.why += &format!("; the client speaks versions {oldest} to {newest}");
        }
        self.refuse(session, bus_core::control::SESSION, &why);
        self.settle();
    }

    /// A session is over.
    pub(crate) fn ended(&mut self, session: u64, why: End) {
        self.closing.push_back((session, why));
        self.settle();
    }

    /// A process without a session is gone.
    pub(crate) fn process_died(&mut self, process: u64) {
        self.absent_process_died(process);
        self.settle();
    }

    /// A session's socket can be written to.
    pub(crate) fn writable(&mut self, session: u64) {
        self.resume_sending(session);
        self.settle();
    }

    /// Tries again what the kernel refused a while ago.
    pub(crate) fn try_later(&mut self) {
        for session in std::mem::take(&mut self.later) {
            self.resume_sending(session);
        }
        self.settle();
    }

    /// Whether nothing is left of any input.
    pub(crate) fn settle(&mut self) {
        loop {
            while let Some((session, why)) = self.closing.pop_front() {
                self.end_session(session, why);
            }
            self.drop_empty_topics();
            if !self.serve_deferred() && self.closing.is_empty() {
                return;
            }
        }
    }

    /// Whether any member or watch is there, or may come back: also to the next broker, if this one ends before its
    /// predecessor's members had the time for that.
    pub(crate) fn has_members(&self) -> bool {
        self.recovery.expects_any(self.now)
            || !self.watches.is_empty()
            || self
                .topics
                .values()
                .any(|topic| !topic.members.is_empty() || !topic.absent.is_empty())
    }
}
