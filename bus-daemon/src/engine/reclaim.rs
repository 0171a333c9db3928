//! A process comes back from an earlier broker: it presents its handles, and the peers that these know.
//!
//! Nothing that a process says about another user's member makes that member more than awaited. What a ring is comes
//! from its owner; an owner is known by its secret. A claim that contradicts what is known fences the claimant.

use std::collections::BTreeSet;
use std::time::Duration;

use bus_core::control::{Event, KnownPeer, MAX_PRESENTED, Refusal, Role, SESSION};
use bus_core::memory::MAX_READER_BYTES;
use bus_core::schema::Schema;
use bus_core::{TopicName, TopicSettings};

use super::admission::{grant_amounts, segment_bytes, segment_kind, topic_amounts};
use super::decide::too_short;
use super::member::{Asked, Member, Owner, Told, View};
use super::recovery::{AbsentProcess, PATIENCE};
use super::refused::Refused;
use super::session::Handle;
use super::state::Engine;
use super::topic::Absent;
use super::world::World;
use crate::limits::{MAX_PRESENTED_PROCESSES, MAX_TOPICS};
use crate::report::note;

/// Peers that a session may have presented for handles that it is yet to reclaim.
const MAX_WAITING: usize = 64 * MAX_PRESENTED;
/// Handles for which it may have presented them.
const MAX_WAITING_HANDLES: usize = 256;

/// What a handle presents itself with.
pub(crate) struct Reclaim<F> {
    pub(crate) role: Role,
    pub(crate) topic: String,
    pub(crate) schema: Schema,
    pub(crate) settings: TopicSettings,
    pub(crate) id: u64,
    pub(crate) index: u16,
    pub(crate) watch: Option<u64>,
    pub(crate) closed: bool,
    pub(crate) since: u64,
    pub(crate) foreign: bool,
    pub(crate) segment: F,
    pub(crate) doorbell: Option<F>,
}

/// What a handle that comes back knows of the settings of its topic.
#[derive(Clone, Copy, Debug)]
enum Knows {
    /// It is a publisher, or a subscriber of rings whose user may publish: what it presents was decided.
    Decided,
    /// It is a subscriber of rings whose user may only subscribe: what it says is not held against others.
    Unsure,
    /// It is a subscriber without rings: it takes what there is.
    Provisional,
}

impl<W: World> Engine<W> {
    /// A process that the presenter knows.
    pub(crate) fn present_process(
        &mut self,
        session: u64,
        process: u64,
        pidfd: W::Fd,
    ) -> Result<(), Refused> {
        if !self.sessions.contains_key(&session) || self.processes.contains_key(&process) {
            return Ok(());
        }
        if !self.world.is_alive(&pidfd) {
            return Ok(());
        }
        if self.recovery.processes.len() >= MAX_PRESENTED_PROCESSES {
            let why = format!(
                "the broker waits for {MAX_PRESENTED_PROCESSES} processes, which is the limit"
            );
            return Err(Refused::new(Refusal::Limit, why));
        }
        let entry = self
            .recovery
            .processes
            .entry(process)
            .or_insert_with(AbsentProcess::new);
        if entry.add(pidfd.clone()) && entry.pidfds.len() == 1 {
            self.world.watch_process(process, &pidfd);
        }
        Ok(())
    }

    /// Peers of a handle that is about to reclaim.
    pub(crate) fn present_peers(
        &mut self,
        session: u64,
        handle: u32,
        peers: Vec<KnownPeer>,
    ) -> Result<(), Refused> {
        let Some(entry) = self.sessions.get_mut(&session) else {
            return Ok(());
        };
        if peers.is_empty() {
            return Ok(());
        }
        let (handles, before) = (entry.presented.len(), entry.presented.values());
        let before: usize = before.map(Vec::len).sum();
        let more = !entry.presented.contains_key(&handle);
        if peers.len() > MAX_PRESENTED
            || before + peers.len() > MAX_WAITING
            || (more && handles >= MAX_WAITING_HANDLES)
        {
            return Err(Refused::protocol("it presents too many peers"));
        }
        let presented = entry.presented.entry(handle).or_default();
        presented.extend(peers);
        Ok(())
    }

    /// A handle goes on at this broker.
    pub(crate) fn reclaim(
        &mut self,
        session: u64,
        handle: u32,
        claim: Reclaim<W::Fd>,
    ) -> Result<(), Refused> {
        let peers = self
            .sessions
            .get_mut(&session)
            .and_then(|entry| entry.presented.remove(&handle))
            .unwrap_or_default();
        let name = TopicName::new(claim.topic.as_str())
            .map_err(|e| Refused::new(Refusal::BadName, format!("topic: {e}")))?;
        let grant = self.allow(session, claim.role, &name)?;
        let bytes = self.check_claim(&name, &claim)?;
        let Some(owner) = self.owner_of(session) else {
            return Ok(());
        };
        let claimed = peers.iter().map(|peer| peer.id).chain([claim.id]);
        claimed.for_each(|id| self.skip_id(id));
        let knows = match claim.role {
            Role::Publisher => Knows::Decided,
            Role::Subscriber if peers.is_empty() => Knows::Provisional,
            Role::Subscriber if grant.publishes => Knows::Decided,
            Role::Subscriber => Knows::Unsure,
        };
        let mut topic = self.topic_for(session, &name, &claim, knows)?;
        let checked = self
            .check_room(topic, &claim, bytes)
            .and_then(|()| self.check_not_fenced(session, topic, &name, &claim, &peers));
        if let Ok(missed) = &checked {
            self.make_room(session, topic, &claim, &peers, missed);
            // Unless those that gave way were the last that had it open.
            if !claim.closed && self.names.get(&name) != Some(&topic) {
                topic = self.topic_for(session, &name, &claim, knows)?;
            }
        }
        let checked = checked.and_then(|missed| {
            self.take_back_index(topic, &name, &claim)?;
            self.check_rings(topic, &name, &claim, &peers)?;
            Ok(missed)
        });
        let missed = match checked {
            Ok(missed) => missed,
            Err(refused) => {
                self.drop_if_empty(topic);
                return Err(refused);
            }
        };
        let amounts = grant_amounts(claim.role, bytes);
        // It has been here: what its user may take is for newcomers.
        let charge = self.charge_anyway(session, amounts)?;
        charge.account().name(owner.pid, owner.client.as_str());
        // Members of another user may still map what the last broker gave them, whether they come
        // back or not.
        self.let_user_in(topic, owner.uid, claim.foreign);
        let mut view = self.adopt_peers(session, topic, &claim, &peers);
        if claim.role == Role::Publisher {
            let until = self.now + PATIENCE;
            view.hold = Some(until);
            self.recovery.held.push((topic, claim.id, until));
        }
        let Some(entry) = self.topics.get_mut(&topic) else {
            return Ok(());
        };
        if let Some(absent) = entry.absent.remove(&claim.id)
            && let Some(process) = self.recovery.processes.get_mut(&absent.process)
        {
            process.members.remove(&(topic, claim.id));
            if process.members.is_empty() && process.pidfds.is_empty() {
                self.recovery.processes.remove(&absent.process);
            }
        }
        // A publisher that may come back has decided; but nobody is kept away by a user that may only subscribe.
        let awaited = grant.publishes && entry.may_come(Role::Publisher);
        entry.decided |= claim.role == Role::Publisher || awaited;
        view.decided = entry.settings != claim.settings;
        let (role, id, index) = (claim.role, claim.id, claim.index);
        note!(topic = %name, id, %role, client = %owner.client, pid = owner.pid, "reclaimed");
        let member = Member {
            session,
            handle,
            role,
            owner,
            index: if role == Role::Publisher { index } else { 0 },
            segment: Some(claim.segment),
            bytes,
            doorbell: claim.doorbell,
            watch: claim.watch,
            asked: Asked::default(),
            grant,
            charge,
            reclaimed: true,
            since: claim.since,
            view,
        };
        self.member_ids.insert(id);
        entry.members.insert(id, member);
        // Both sides of every pair that is there know each other, or are told now.
        match role {
            Role::Publisher => {
                let subscribers: Vec<_> = entry.of(Role::Subscriber).map(|(id, _)| id).collect();
                for subscriber in subscribers {
                    entry.rings.add_reader(id, subscriber);
                }
            }
            Role::Subscriber => {
                let fenced = |m: &Member<W>| missed.contains(&(m.session, m.handle));
                let publishers = entry.of(Role::Publisher);
                let publishers = publishers.filter(|(_, m)| m.has_joined() && !fenced(m));
                let publishers: Vec<_> = publishers.map(|(id, _)| id).collect();
                for publisher in publishers {
                    entry.rings.add_reader(publisher, id);
                }
            }
        }
        self.await_all_peers(topic, id, role);
        let version = self
            .topics
            .get(&topic)
            .map_or(0, |t| t.version_of(role.other()));
        let registry = self.topics.get(&topic).map(|t| t.registry_fd.clone());
        if let Some(entry) = self.sessions.get_mut(&session) {
            entry.handles.insert(handle, Handle::Member { topic, id });
        }
        let reclaimed = Event::Reclaimed { version, topic };
        self.answer(session, handle, reclaimed, registry.into_iter().collect());
        // Only now, so that the topic is not closed beneath the one that has come.
        for (session, handle) in missed {
            let known = self.sessions.get(&session);
            let is_open = known.is_some_and(|session| session.handles.contains_key(&handle));
            if is_open {
                self.refuse(session, handle, &fenced(&name));
            }
        }
        self.announce(topic, id, role);
        self.queue(topic, &[id]);
        Ok(())
    }

    /// Everything of the other side that a member may have to be told.
    fn await_all_peers(&mut self, topic: u64, id: u64, role: Role) {
        let Some(entry) = self.topics.get_mut(&topic) else {
            return;
        };
        let there: Vec<u64> = match role {
            Role::Publisher => {
                let joined = entry.of(Role::Subscriber).filter(|(_, m)| m.has_joined());
                joined
                    .map(|(id, _)| id)
                    .chain(entry.places.keys().copied())
                    .collect()
            }
            Role::Subscriber => entry.rings.of_reader(id),
        };
        if let Some(member) = entry.members.get_mut(&id) {
            let told: Vec<_> = member.view.told.keys().copied().collect();
            member.view.pending.extend(there.into_iter().chain(told));
            member.view.behind = true;
        }
    }

    /// Checks a claim as such; the bytes of its segment.
    fn check_claim(&self, name: &TopicName, claim: &Reclaim<W::Fd>) -> Result<u64, Refused> {
        claim
            .schema
            .check()
            .map_err(|e| Refused::new(Refusal::Schema, format!("topic {name}: {e}")))?;
        claim
            .settings
            .check()
            .map_err(|e| Refused::new(Refusal::BadSetting, format!("topic {name}: {e}")))?;
        if claim.role == Role::Publisher && claim.index >= claim.settings.rings() {
            return Err(Refused::protocol(format!(
                "ring {} of topic {name}: the highest is {}",
                claim.index,
                claim.settings.rings() - 1
            )));
        }
        let least = segment_bytes(claim.role, &claim.settings);
        // A subscriber may have been there before what it presents was decided.
        let bytes = match claim.role {
            Role::Publisher => least..=least,
            Role::Subscriber => least..=MAX_READER_BYTES,
        };
        let bytes = self
            .world
            .check_segment(&claim.segment, segment_kind(claim.role), bytes)
            .map_err(|e| Refused::new(Refusal::Segment, format!("topic {name}: {e}")))?;
        if let Some(doorbell) = &claim.doorbell {
            self.world
                .check_doorbell(doorbell)
                .map_err(|e| Refused::protocol(format!("topic {name}: {e}")))?;
        }
        if claim.id == 0 || self.member_ids.contains(&claim.id) {
            let why = format!("handle {} of topic {name} is taken", claim.id);
            return Err(Refused::new(Refusal::Unknown, why));
        }
        Ok(bytes)
    }

    /// Refuses a subscriber whose segment does not do for what was decided meanwhile.
    fn check_room(&self, topic: u64, claim: &Reclaim<W::Fd>, bytes: u64) -> Result<(), Refused> {
        let Some(entry) = self.topics.get(&topic) else {
            return Ok(());
        };
        let settings = &entry.settings;
        if claim.role == Role::Publisher || bytes >= segment_bytes(claim.role, settings) {
            return Ok(());
        }
        Err(too_short(&entry.name, settings))
    }

    /// The topic that a handle goes on with; made as it was, if it is not there.
    ///
    /// Handles may differ in what the topic is like if the last broker went right after it was decided.
    fn topic_for(
        &mut self,
        session: u64,
        name: &TopicName,
        claim: &Reclaim<W::Fd>,
        knows: Knows,
    ) -> Result<u64, Refused> {
        if claim.closed {
            return self.closed_topic(session, name, claim);
        }
        if let Some(&topic) = self.names.get(name) {
            let entry = &self.topics[&topic];
            if entry.schema != claim.schema {
                return Err(fenced(name));
            }
            if entry.settings != claim.settings {
                match knows {
                    Knows::Provisional => {}
                    Knows::Decided if !entry.decided => {
                        self.redecide(topic, claim.settings, session);
                    }
                    Knows::Decided | Knows::Unsure => return Err(fenced(name)),
                }
            }
            // Unless those that gave way were the last that had it open.
            if self.names.contains_key(name) {
                if claim.watch.is_none() {
                    self.idle.retain(|idle| *idle != topic);
                }
                return Ok(topic);
            }
        }
        if self.names.len() >= MAX_TOPICS {
            let why = format!("the broker has {MAX_TOPICS} topics, which is the limit");
            return Err(Refused::new(Refusal::Limit, why));
        }
        let charge = self.charge_anyway(session, topic_amounts())?;
        let topic = self.new_topic(name, claim.schema.clone(), claim.settings, charge)?;
        note!(topic = %name, "a topic is there again");
        self.tell_watches(topic, true);
        Ok(topic)
    }

    /// The topic is what its publisher, or a subscriber of its rings, says, and not what those knew that came first.
    fn redecide(&mut self, topic: u64, settings: TopicSettings, session: u64) {
        let Some(entry) = self.topics.get_mut(&topic) else {
            return;
        };
        let before = std::mem::replace(&mut entry.settings, settings);
        entry.decided = true;
        self.decide(topic, &before, session);
    }

    /// A topic without a name, for a subscriber that only reads what is there.
    fn closed_topic(
        &mut self,
        session: u64,
        name: &TopicName,
        claim: &Reclaim<W::Fd>,
    ) -> Result<u64, Refused> {
        let taken = self.names.get(name).copied();
        let charge = self.charge_anyway(session, topic_amounts())?;
        let topic = self.new_topic(name, claim.schema.clone(), claim.settings, charge)?;
        match taken {
            Some(taken) => self.names.insert(name.clone(), taken),
            None => self.names.remove(name),
        };
        if let Some(entry) = self.topics.get_mut(&topic) {
            (entry.closed, entry.charge) = (true, None);
        }
        Ok(topic)
    }

    /// Refuses a member that has missed others that joined meanwhile; else which members have missed it, by session and
    /// handle. Of two members that do not know each other, the one that missed the newer broker has. A publisher that need
    /// not wait any longer has published without the subscribers that it does not know; those of them that know it have
    /// missed that.
    fn check_not_fenced(
        &self,
        session: u64,
        topic: u64,
        name: &TopicName,
        claim: &Reclaim<W::Fd>,
        peers: &[KnownPeer],
    ) -> Result<Vec<(u64, u32)>, Refused> {
        let Some(entry) = self.topics.get(&topic) else {
            return Ok(Vec::new());
        };
        let owner = self.owner_of(session).map(|owner| owner.process);
        if let Some(absent) = entry.absent.get(&claim.id)
            && (absent.fenced || absent.role != claim.role || Some(absent.process) != owner)
        {
            return Err(fenced(name));
        }
        if !entry.absent.contains_key(&claim.id) && self.has_departed(claim.id) {
            let why = format!(
                "the connection to this broker ended, and with it the membership of topic {name}: others were told so; open a new one"
            );
            return Err(Refused::new(Refusal::Fenced, why));
        }
        // A subscriber of no use any more gives way, whatever else its process has.
        let own = match claim.since {
            0 => 0,
            _ => self.sessions.get(&session).map_or(0, |s| s.generation),
        };
        let mut missed = Vec::new();
        for (other, member) in entry.of(claim.role.other()).filter(|(_, m)| m.has_joined()) {
            let presented = peers.iter().find(|peer| peer.id == other);
            let told = member.view.told.get(&claim.id);
            if presented.is_some_and(|p| p.left) || told.is_some_and(|told| told.left) {
                // The subscriber was told that the publisher is gone, and would not hear of it again.
                match claim.role {
                    Role::Subscriber => return Err(fenced(name)),
                    Role::Publisher => missed.push((member.session, member.handle)),
                }
                continue;
            }
            let theirs = self.sessions.get(&member.session);
            let theirs = match theirs.map(|s| (s.generation, s.returning)) {
                _ if member.since == 0 => 0,
                // What a process has at this broker is newer than what any earlier one had.
                Some((generation, _)) if self.came_back(topic, other) => generation,
                _ => u64::MAX,
            };
            // The publisher knows the subscriber; or it is told of it ahead of its next message, and has published
            // nothing since the subscriber has joined.
            let met = match claim.role {
                Role::Publisher => {
                    presented.is_some() || (told.is_some() && claim.since <= member.since)
                }
                Role::Subscriber => {
                    let waits = member.view.hold.is_some() && member.since <= claim.since;
                    told.is_some() || (presented.is_some() && waits)
                }
            };
            if met {
                continue;
            }
            // A subscriber that knows the publisher would read on where messages were written over.
            let reads = match claim.role {
                Role::Publisher => told.is_some(),
                Role::Subscriber => presented.is_some(),
            };
            let is_late = match reads {
                true => claim.role == Role::Subscriber,
                false => theirs >= own,
            };
            if is_late {
                return Err(fenced(name));
            }
            missed.push((member.session, member.handle));
        }
        Ok(missed)
    }

    /// Whether a member was reclaimed, and not opened here.
    fn came_back(&self, topic: u64, id: u64) -> bool {
        let member = self.topics.get(&topic).and_then(|t| t.members.get(&id));
        member.is_some_and(|member| member.reclaimed)
    }

    /// Gives a publisher that comes back the index that it had.
    fn take_back_index(
        &mut self,
        topic: u64,
        name: &TopicName,
        claim: &Reclaim<W::Fd>,
    ) -> Result<(), Refused> {
        let Some(entry) = self.topics.get_mut(&topic) else {
            return Ok(());
        };
        if claim.role == Role::Publisher && !entry.rings.take(claim.index, claim.id) {
            return Err(fenced(name));
        }
        Ok(())
    }

    /// What a handle knows already, and the members that are absent because of that.
    fn adopt_peers(
        &mut self,
        session: u64,
        topic: u64,
        claim: &Reclaim<W::Fd>,
        peers: &[KnownPeer],
    ) -> View {
        let mut view = View::default();
        for peer in peers {
            let told = Told {
                process: peer.process,
                sent: true,
                again: false,
                doorbell: peer.doorbell,
                left: peer.left,
            };
            if view.told.contains_key(&peer.id) {
                continue;
            }
            view.told.insert(peer.id, told);
            self.session_knows(session, peer.process);
            let Some(entry) = self.topics.get_mut(&topic) else {
                continue;
            };
            if claim.role == Role::Subscriber
                && (peer.index >= claim.settings.rings()
                    || !entry.rings.hold(peer.index, peer.id, claim.id))
            {
                // Another ring has that index: this one is told to have been dropped.
                continue;
            }
            let there = entry.members.contains_key(&peer.id);
            if !there && !peer.left {
                self.await_peer(topic, claim.role.other(), peer);
            }
        }
        view
    }

    /// A session knows a peer of this process from an earlier broker.
    fn session_knows(&mut self, session: u64, process: u64) {
        let owner = self
            .processes
            .get(&process)
            .and_then(|number| self.owner_of(*number));
        let Some(entry) = self.sessions.get_mut(&session) else {
            return;
        };
        entry.known(process, owner);
    }

    /// A member that is known to another, and is not there: it is awaited as long as its process lives and has not come
    /// back without it.
    fn await_peer(&mut self, topic: u64, role: Role, peer: &KnownPeer) {
        let returning = self
            .processes
            .get(&peer.process)
            .and_then(|number| self.sessions.get(number))
            .map(|session| (session.returning, session.unclaimed(peer.id)));
        let process = self.recovery.processes.get_mut(&peer.process);
        let unclaimed = returning.and_then(|(_, unclaimed)| unclaimed);
        let expected = match (returning, &process) {
            (Some((returning, unclaimed)), _) => returning || unclaimed.is_some(),
            (None, Some(process)) => !process.pidfds.is_empty(),
            (None, None) => false,
        };
        let Some(entry) = self.topics.get_mut(&topic) else {
            return;
        };
        if !expected {
            return;
        }
        entry.absent.entry(peer.id).or_insert(Absent {
            role,
            process: peer.process,
            fenced: unclaimed.is_some_and(|unclaimed| unclaimed.fenced),
        });
        if role == Role::Publisher {
            entry.rings.take(peer.index, peer.id);
        }
        self.recovery
            .processes
            .entry(peer.process)
            .or_insert_with(AbsentProcess::new)
            .members
            .insert((topic, peer.id));
    }

    /// A process has presented everything that it had, and listens to its new registries.
    pub(crate) fn reclaim_complete(&mut self, session: u64) -> Result<(), Refused> {
        let Some(entry) = self.sessions.get_mut(&session) else {
            return Ok(());
        };
        if !std::mem::replace(&mut entry.returning, false) {
            return Err(Refused::protocol(
                "ReclaimComplete comes once, from a process that reclaims",
            ));
        }
        entry.presented.clear();
        let strangers = entry.forget_strangers();
        let process = entry.owner.as_ref().map(|owner| owner.process);
        self.recovery.returning.remove(&session);
        for process in strangers {
            self.answer(session, SESSION, Event::ProcessGone { process }, Vec::new());
        }
        if let Some(process) = process {
            self.process_is_here(process);
        }
        self.recovery.unswept = true;
        Ok(())
    }

    /// A process is here with all that it has: what others know of it besides is gone.
    pub(crate) fn process_is_here(&mut self, process: u64) {
        let session = self.processes.get(&process);
        let session = session.and_then(|number| self.sessions.get(number));
        // Those that it was refused may still read: it closes them. Those that were refused for now, it
        // presents again.
        let kept: BTreeSet<_> = session.map_or_else(BTreeSet::new, |session| {
            let orphans = session.handles.values().filter_map(|known| match known {
                Handle::Orphan { id, .. } => Some(*id),
                _ => None,
            });
            let unclaimed = session.unclaimed.values().map(|unclaimed| unclaimed.id);
            orphans.chain(unclaimed).collect()
        });
        let Some(absent) = self.recovery.processes.get_mut(&process) else {
            return;
        };
        let members = std::mem::take(&mut absent.members).into_iter();
        let (keep, gone): (BTreeSet<_>, BTreeSet<_>) =
            members.partition(|(_, id)| kept.contains(id));
        absent.members = keep;
        if absent.members.is_empty() {
            self.forget_absent_process(process);
        }
        for (topic, id) in gone {
            self.absent_left(topic, id);
        }
    }

    fn forget_absent_process(&mut self, process: u64) {
        if let Some(absent) = self.recovery.processes.remove(&process)
            && let Some(pidfd) = absent.pidfds.first()
        {
            self.world.unwatch_process(process, pidfd);
        }
    }

    /// One of the pidfds of an absent process says that it is dead.
    pub(crate) fn absent_process_died(&mut self, process: u64) {
        let Some(absent) = self.recovery.processes.get_mut(&process) else {
            return;
        };
        if let Some(pidfd) = absent.pidfds.first() {
            self.world.unwatch_process(process, pidfd);
        }
        absent.pidfds.retain(|pidfd| self.world.is_alive(pidfd));
        match absent.pidfds.first().cloned() {
            // Its presenters do not agree: it is awaited.
            Some(pidfd) => drop(self.world.watch_process(process, &pidfd)),
            None => self.process_is_here(process),
        }
    }

    /// The connection of a process ended before it had presented everything: its members are absent again. A process
    /// without any is not waited for, so that one that connects again and again costs nothing.
    pub(crate) fn revert(&mut self, session: u64) {
        let Some(entry) = self.sessions.get(&session) else {
            return;
        };
        let Some(owner) = entry.owner.clone() else {
            return;
        };
        let handles: Vec<_> = entry.handles.iter().map(|(h, k)| (*h, *k)).collect();
        if !handles
            .iter()
            .any(|(_, known)| matches!(known, Handle::Member { .. }))
        {
            return;
        }
        let process = self
            .recovery
            .processes
            .entry(owner.process)
            .or_insert_with(AbsentProcess::new);
        let mut reverted = Vec::new();
        for (handle, known) in handles {
            let Handle::Member { topic, id } = known else {
                continue;
            };
            process.members.insert((topic, id));
            if let Some(entry) = self.topics.get_mut(&topic)
                && let Some(member) = entry.members.remove(&id)
            {
                self.member_ids.remove(&id);
                entry.absent.insert(
                    id,
                    Absent {
                        role: member.role,
                        process: owner.process,
                        fenced: false,
                    },
                );
            }
            reverted.push(handle);
        }
        if let Some(entry) = self.sessions.get_mut(&session) {
            for handle in reverted {
                entry.handles.remove(&handle);
            }
        }
    }

    /// The session of a process is closed, and no longer tells when the process ends.
    pub(crate) fn is_away(&mut self, owner: &Owner<W>) {
        if !self.world.is_alive(&owner.pidfd) {
            return self.process_is_here(owner.process);
        }
        let Some(absent) = self.recovery.processes.get_mut(&owner.process) else {
            return;
        };
        if absent.pidfds.is_empty() && absent.add(owner.pidfd.clone()) {
            self.world.watch_process(owner.process, &owner.pidfd);
        }
    }

    /// When topics that came back for members that are gone are closed, if that is to come.
    pub(crate) fn next_sweep(&self) -> Option<Duration> {
        let grace = self.recovery.grace(self.now);
        grace.filter(|_| self.recovery.unswept)
    }

    /// Closes topics that came back for members that are gone, as soon as nobody is waited for any longer.
    pub(crate) fn drop_empty_topics(&mut self) {
        if !self.recovery.unswept || self.recovery.grace(self.now).is_some() {
            return;
        }
        self.recovery.unswept = false;
        let all: Vec<_> = self.topics.keys().copied().collect();
        for topic in all {
            self.drop_if_empty(topic);
        }
    }
}

pub(crate) fn fenced(name: &TopicName) -> Refused {
    let why = format!(
        "topic {name} has gone on without this handle: members joined that it does not know; open a new one"
    );
    Refused::new(Refusal::Fenced, why)
}
