//! Quiescence: everybody goes on until nothing is left to be done. Then everybody knows exactly what there is to know.

use std::collections::BTreeSet;
use std::time::Duration;

use bus_core::control::Role;

use super::client::Client;
use super::handle::{Handle, Stage};
use super::play::{Checked, Play};

/// Time between two rounds.
const ROUND: Duration = Duration::from_millis(100);
/// Rounds until everything has to be quiet: more than the grace takes.
const MOST: usize = 200;
/// Rounds more for each process: the processes of a user share what may be in flight.
const MORE: usize = 20;
/// Rounds without a message after which nothing more will come.
const QUIET: usize = 3;

impl Play {
    /// Lets everybody go on, and looks at what they know.
    ///
    /// # Errors
    /// The promise that did not hold.
    pub(super) fn settle(&mut self) -> Checked {
        self.start_broker(false);
        self.outside.0.borrow_mut().no_memory = 0;
        let mut quiet = 0;
        for number in 0..MOST + MORE * self.clients.len() {
            if number == MOST {
                self.drop_unknown();
            }
            let moved = self.round()?;
            self.pass(ROUND)?;
            quiet = if moved { 0 } else { quiet + 1 };
            if quiet >= QUIET && self.is_idle() {
                self.outside.0.borrow_mut().books.counts.settled += 1;
                return self.check_knowledge();
            }
        }
        Err(format!("it does not come to rest: {}", self.unrest()))
    }

    /// Everybody does what there is to do; whether there was anything.
    fn round(&mut self) -> Result<bool, String> {
        let mut moved = false;
        for process in 0..self.clients.len() {
            if let Some(client) = &mut self.clients[process] {
                client.stopped = false;
            }
            self.connect(process);
            let mut host = self.outside.0.borrow_mut();
            for socket in host.sockets.values_mut() {
                if socket.life.slot == process {
                    (socket.room, socket.later) = (1000, 0);
                    let asked = socket
                        .to_broker
                        .front()
                        .map(|(h, r, _)| format!("{h} {r:?}"));
                    let told = socket
                        .to_client
                        .front()
                        .map(|(h, e, _)| format!("{h} {e:?}"));
                    if let Some(last) = asked.or(told) {
                        self.last = format!("slot {process}, handle {last}");
                        moved = true;
                    }
                }
            }
            drop(host);
            self.serve(process, usize::MAX, false)?;
            self.read(process, usize::MAX, true, None)?;
            self.with(process, Client::look_around);
            self.serve(process, usize::MAX, false)?;
        }
        Ok(moved)
    }

    /// Drops the subscribers that were refused, may still read, and are not known to a publisher that has lost their
    /// descriptors: it is told of nobody and waits until then, so that it overwrites nothing that they read.
    fn drop_unknown(&mut self) {
        let all = self.clients.iter().flatten();
        let all = all.flat_map(|client| client.handles.iter().flatten());
        let lacking = all.filter_map(Handle::lacks).flat_map(|(_, ids)| ids);
        let lacking: BTreeSet<_> = lacking.copied().collect();
        for process in 0..self.clients.len() {
            for slot in Self::slots() {
                let client = self.clients[process].as_ref();
                let handle = client.and_then(|client| client.handles[slot].as_ref());
                if handle.is_some_and(|h| h.may_still_read() && lacking.contains(&h.id)) {
                    self.close(process, slot);
                }
            }
        }
    }

    fn is_idle(&self) -> bool {
        let Some(running) = &self.running else {
            return false;
        };
        let engine = &running.engine;
        let host = self.outside.0.borrow();
        let mut unread = host.sockets.values().map(|socket| &socket.to_client);
        unread.all(|messages| messages.is_empty())
            && engine.deferred.is_empty()
            && engine.later.is_empty()
            && engine.errands.is_empty()
            && engine.recovery.returning.is_empty()
            && engine.recovery.held.is_empty()
    }

    fn unrest(&self) -> String {
        let Some(running) = &self.running else {
            return "there is no broker".into();
        };
        let engine = &running.engine;
        let handles = self.clients.iter().flatten().filter(|c| c.life.alive.get());
        let handles = handles.flat_map(|client| client.handles.iter().flatten());
        let lacking: Vec<_> = handles.filter_map(Handle::lacks).collect();
        format!(
            "{} requests are deferred, {} sessions wait for the kernel, {} come back, {} publishers are held; {lacking:?}; {}",
            engine.deferred.len(),
            engine.later.len(),
            engine.recovery.returning.len(),
            engine.recovery.held.len(),
            self.last
        )
    }

    fn check_knowledge(&mut self) -> Checked {
        self.look_closely()?;
        let Some(running) = &self.running else {
            return Ok(());
        };
        let engine = &running.engine;
        let (mut placed, mut over) = (BTreeSet::new(), BTreeSet::new());
        for client in self.clients.iter().flatten() {
            if !client.life.alive.get() {
                continue;
            }
            for handle in client.handles.iter().flatten() {
                let known = self.check_handle(handle);
                known.map_err(|what| {
                    format!(
                        "at rest, {:?} {} of slot {} ({:?}): {what}",
                        handle.role, handle.id, client.life.slot, handle.stage
                    )
                })?;
                placed.insert(handle.id);
                if handle.may_still_read() {
                    over.insert(handle.id);
                }
            }
        }
        for topic in engine.topics.values() {
            let mut absent = topic.absent.iter().filter(|(id, _)| !over.contains(*id));
            if let Some((id, absent)) = absent.next() {
                return Err(format!("at rest, {} {id} is still absent", absent.role));
            }
            let unknown = topic.members.keys().find(|id| !placed.contains(id));
            if let Some(id) = unknown {
                return Err(format!("at rest, member {id} is nobody's handle"));
            }
        }
        let mut awaited = engine.recovery.processes.iter();
        let nobody = |of: &BTreeSet<(u64, u64)>| !of.iter().all(|(_, id)| over.contains(id));
        if let Some((process, _)) = awaited.find(|(_, of)| nobody(&of.members)) {
            return Err(format!("at rest, process {process} is awaited"));
        }
        for (number, session) in &engine.sessions {
            if session.outbox.in_flight > 0 {
                return Err(format!(
                    "at rest, session {number} has {} descriptors in flight",
                    session.outbox.in_flight
                ));
            }
        }
        Ok(())
    }

    /// A handle is what the engine takes it for, and knows whom it has to.
    fn check_handle(&self, handle: &Handle) -> Checked {
        match handle.stage {
            Stage::Placed => {}
            Stage::Opened | Stage::Over => return Ok(()),
            Stage::Opening
            | Stage::Joining
            | Stage::Homeless
            | Stage::Presented
            | Stage::Postponed => return Err("it is not answered".into()),
        }
        let (Some(role), Some(running)) = (handle.role, &self.running) else {
            return Ok(());
        };
        let number = handle.registry.as_ref().map_or(0, |words| words.number);
        let topics = running.engine.topics.values();
        let mut topics = topics.filter(|topic| topic.registry.number == number);
        let Some(topic) = topics.next() else {
            return Err("its topic is not there".into());
        };
        if !topic
            .members
            .get(&handle.id)
            .is_some_and(|m| m.has_joined())
        {
            return Err("the broker does not know it".into());
        }
        if !handle.is_synced() || handle.behind {
            return Err(format!(
                "it was told version {}, and the registry has {}",
                handle.told,
                handle.word()
            ));
        }
        let known: BTreeSet<_> = handle.known.keys().copied().collect();
        let mut there: BTreeSet<u64> = match role {
            Role::Publisher => {
                let joined = topic.of(Role::Subscriber).filter(|(_, m)| m.has_joined());
                joined
                    .map(|(id, _)| id)
                    .chain(topic.places.keys().copied())
                    .collect()
            }
            Role::Subscriber => topic.rings.of_reader(handle.id).into_iter().collect(),
        };
        if let Some(unknown) = there.difference(&known).next() {
            return Err(format!("it does not know {unknown}"));
        }
        if role == Role::Subscriber {
            let live = topic.of(Role::Publisher).filter(|(_, m)| m.has_joined());
            for (id, _) in live {
                match handle.known.get(&id) {
                    Some(known) if !known.left => {}
                    Some(_) => return Err(format!("it takes {id} for gone")),
                    None if handle.has_released(id) => {}
                    None => return Err(format!("it does not know publisher {id}")),
                }
                there.insert(id);
            }
            // Those that have gone are known until they are released.
            let gone = handle.known.iter().filter(|(_, known)| known.left);
            there.extend(gone.map(|(id, _)| *id));
        }
        // Those that were refused may still read.
        there.extend(topic.absent.keys().copied());
        if let Some(gone) = known.difference(&there).next() {
            return Err(format!("it knows {gone}, which is gone"));
        }
        Ok(())
    }

    /// All handles are dropped, then all processes end: nothing is left of them.
    ///
    /// # Errors
    /// What is left.
    pub(super) fn finish(&mut self) -> Checked {
        self.settle()?;
        for process in 0..self.clients.len() {
            for handle in Self::slots() {
                self.close(process, handle);
            }
        }
        self.settle()?;
        if let Some(running) = &self.running {
            for topic in running.engine.topics.values() {
                if !topic.members.is_empty() || topic.settings.retain == 0 {
                    return Err(format!("topic {} is left, and nobody has it", topic.name));
                }
            }
        }
        for process in 0..self.clients.len() {
            self.with(process, |client, host| client.die(host));
        }
        self.settle()?;
        let Some(running) = &self.running else {
            return Ok(());
        };
        let engine = &running.engine;
        let left = (engine.sessions.len(), engine.watches.len());
        if left != (0, 0) {
            return Err(format!("{left:?} sessions and watches are left"));
        }
        if engine.topics.is_empty() && !engine.accounts.are_empty() {
            return Err(format!(
                "everybody is gone, and somebody is charged: {:?}",
                engine.accounts
            ));
        }
        Ok(())
    }
}
