//! Plays a script: the broker, its clients and the kernel take the steps, and every promise is looked at after each.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use bus_core::control::{Credentials, Event, Role, SESSION};

use super::books::Counts;
use super::client::{Client, HANDLES};
use super::handle::{Handle, Known};
use super::script::{Setup, Step};
use super::world::{Fd, Host, Outside};
use super::{OWN_USER, Planted};
use crate::engine::{End, Engine, Start};
use crate::policy::{Policy, Subject};

/// What a broker leaves in the lock file.
#[derive(Clone, Copy, Debug)]
struct Marker {
    generation: u64,
    clean: bool,
}

/// A broker at work.
pub(super) struct Running {
    pub(super) engine: Engine<Outside>,
    generation: u64,
    pub(super) unclean: bool,
    /// The last number that was looked at.
    pub(super) last_id: u64,
    /// Handles that were opened here and have not joined: topic, number.
    pub(super) fresh: Vec<(u64, u64)>,
}

/// What was found.
pub(super) type Checked = Result<(), String>;

/// One episode.
pub(super) struct Play {
    policy: Policy,
    room: usize,
    planted: Option<Planted>,
    pub(super) outside: Outside,
    pub(super) running: Option<Running>,
    marker: Marker,
    /// Brokers so far.
    pub(super) brokers: u32,
    pub(super) clients: Vec<Option<Client>>,
    processes: u64,
    /// Rings that their publishers have closed.
    closed: BTreeSet<u64>,
    /// Handles that a broker let go of without their knowing.
    pub(super) let_go: BTreeSet<u64>,
    /// Handles that missed messages or readers while they had no broker, and whose.
    pub(super) missed: BTreeMap<u64, u64>,
    inputs: u64,
    /// What was said last while everybody went on.
    pub(super) last: String,
}

impl Play {
    pub(super) fn new(setup: &Setup, planted: Option<Planted>) -> Self {
        let policy = Policy::parse(Path::new("simulated"), &setup.policy(), OWN_USER);
        Self {
            policy: policy.unwrap_or_else(|problems| panic!("{problems}")),
            room: setup.room,
            planted,
            outside: Outside::default(),
            running: None,
            marker: Marker {
                generation: 0,
                clean: false,
            },
            brokers: 0,
            clients: (0..setup.processes).map(|_| None).collect(),
            processes: 0,
            closed: BTreeSet::new(),
            let_go: BTreeSet::new(),
            missed: BTreeMap::new(),
            inputs: 0,
            last: String::new(),
        }
    }

    /// A number that depends on everything that happened, and how much that was.
    pub(super) fn figures(&self) -> (u64, Counts) {
        let books = &self.outside.0.borrow().books;
        let counts = Counts {
            processes: self.processes,
            brokers: u64::from(self.brokers),
            ..books.counts
        };
        (books.trace, counts)
    }

    /// Takes a step.
    ///
    /// # Errors
    /// The promise that did not hold.
    pub(super) fn step(&mut self, step: Step) -> Checked {
        match step {
            Step::Start { process } => self.start(process),
            Step::Kill { process } => self.with(process, |client, host| client.die(host)),
            Step::Stop { process } => self.with(process, |client, _| client.stopped = true),
            Step::Continue { process } => {
                if let Some(client) = &mut self.clients[process] {
                    client.stopped = false;
                }
            }
            Step::Connect { process } => self.connect(process),
            Step::Read {
                process,
                most,
                acknowledges,
                lost,
            } => self.read(process, most, acknowledges, lost)?,
            Step::LookAround { process } => self.with(process, Client::look_around),
            Step::Open {
                process,
                handle,
                topic,
                publisher,
                history,
            } => {
                let role = match publisher {
                    true => Role::Publisher,
                    false => Role::Subscriber,
                };
                self.with(process, |client, host| {
                    client.open(host, handle, topic, role, history, None);
                });
            }
            Step::Watch { process, handle } => {
                self.with(process, |client, host| client.watch(host, handle));
            }
            Step::Join { process, handle } => {
                self.with(process, |client, host| client.join(host, handle));
            }
            Step::Publish { process, handle } => {
                let of = self.clients[process].as_ref();
                let publishes =
                    |handle: &Handle| handle.role == Some(Role::Publisher) && handle.has_joined();
                let slot = of.and_then(|client| {
                    client.next_slot(handle, |handle| handle.is_some_and(publishes))
                });
                if let Some(slot) = slot {
                    self.publish(process, slot)?;
                }
            }
            Step::Turn { process } => self.turn(process)?,
            Step::Release {
                process,
                handle,
                ring,
            } => self.release(process, handle, ring),
            Step::Doorbell { process, handle } => self.with(process, |client, host| {
                client.register_doorbell(host, handle)
            }),
            Step::Wake { process, handle } => {
                self.with(process, |client, host| client.wake(host, handle));
            }
            Step::Close { process, handle } => self.close(process, handle),
            Step::Cycle {
                process,
                handle,
                topic,
            } => self.cycle(process, handle, topic)?,
            Step::Room { process, messages } => self.with(process, |client, host| {
                let socket = client.session.and_then(|n| host.sockets.get_mut(&n));
                if let Some(socket) = socket {
                    socket.room = messages;
                }
            }),
            Step::Later { process, times } => self.with(process, |client, host| {
                let socket = client.session.and_then(|n| host.sockets.get_mut(&n));
                if let Some(socket) = socket {
                    socket.later = times;
                }
            }),
            Step::Serve {
                process,
                requests,
                deaths_first,
                millis,
            } => {
                self.pass(Duration::from_millis(millis))?;
                self.serve(process, requests, deaths_first)?;
            }
            Step::NoMemory { times } => self.outside.0.borrow_mut().no_memory = times,
            Step::Wait { millis } => self.pass(Duration::from_millis(millis))?,
            Step::KillBroker => self.end_broker(false)?,
            Step::EndBroker => self.end_broker(true)?,
            Step::StartBroker { lost } => {
                if lost {
                    self.end_broker(false)?;
                }
                self.start_broker(lost);
            }
            Step::Settle => self.settle()?,
        }
        Ok(())
    }

    /// Lets a process do something, if it can.
    pub(super) fn with(&mut self, process: usize, does: impl FnOnce(&mut Client, &mut Host)) {
        if let Some(client) = self.clients[process].as_mut().filter(|c| c.acts()) {
            does(client, &mut self.outside.0.borrow_mut());
        }
    }

    fn start(&mut self, process: usize) {
        if let Some(client) = &self.clients[process]
            && client.life.alive.get()
        {
            return;
        }
        self.processes += 1;
        let uid = OWN_USER + u32::from(process % 3 == 2);
        self.clients[process] = Some(Client::new(process, self.processes, uid));
    }

    pub(super) fn connect(&mut self, process: usize) {
        if self.running.is_none() {
            return;
        }
        let (broker, room) = (self.brokers, self.room);
        self.with(process, |client, host| client.connect(host, broker, room));
    }

    pub(super) fn read(
        &mut self,
        process: usize,
        most: usize,
        acknowledges: bool,
        lost: Option<usize>,
    ) -> Checked {
        let mut noticed = Ok(());
        self.with(process, |client, host| {
            noticed = client.read(host, most, acknowledges, lost);
        });
        noticed?;
        self.check_missed(process)
    }

    pub(super) fn close(&mut self, process: usize, handle: usize) {
        let mut closed = None;
        self.with(process, |client, host| closed = client.close(host, handle));
        if let Some(handle) = closed
            && handle.role == Some(Role::Publisher)
        {
            self.closed.insert(handle.id);
        }
    }

    fn release(&mut self, process: usize, handle: usize, ring: usize) {
        let closed = &self.closed;
        let Some(client) = self.clients[process].as_ref().filter(|c| c.acts()) else {
            return;
        };
        let done = |ring: &u64, known: &Known| known.left || closed.contains(ring);
        let may = |of: &Handle| {
            of.role == Some(Role::Subscriber)
                && of.has_joined()
                && of.known.iter().any(|(ring, known)| done(ring, known))
        };
        let Some(handle) = client.next_slot(handle, |of| of.is_some_and(may)) else {
            return;
        };
        let Some(of) = &client.handles[handle] else {
            return;
        };
        let known = of.known.iter();
        let all: Vec<_> = known.filter(|(ring, known)| done(ring, known)).collect();
        if let Some((&ring, _)) = all.get(ring % all.len().max(1)).copied() {
            self.with(process, |client, host| client.release(host, handle, ring));
        }
    }

    /// A process and the broker do what there is to do between them.
    fn turn(&mut self, process: usize) -> Checked {
        self.connect(process);
        self.serve(process, 16, true)?;
        self.read(process, 1000, true, None)?;
        self.with(process, |client, host| {
            client.look_around(host);
            client.join(host, 0);
        });
        self.serve(process, 16, true)
    }

    fn cycle(&mut self, process: usize, handle: usize, topic: usize) -> Checked {
        let Some(client) = &self.clients[process] else {
            return Ok(());
        };
        let Some(handle) = client.next_slot(handle, |handle| handle.is_none()) else {
            return Ok(());
        };
        self.with(process, |client, host| {
            client.open(host, handle, topic, Role::Publisher, 0, None);
        });
        for _ in 0..2 {
            self.serve(process, 16, false)?;
            self.read(process, 1000, true, None)?;
            self.with(process, |client, host| client.join(host, handle));
        }
        self.read(process, 1000, true, None)?;
        self.publish(process, handle)?;
        self.close(process, handle);
        self.serve(process, 16, false)
    }

    /// Time passes at the broker, which wakes up when it has asked to.
    pub(super) fn pass(&mut self, time: Duration) -> Checked {
        let mut left = time;
        while !left.is_zero() {
            let Some(running) = &mut self.running else {
                return Ok(());
            };
            let asked = running.engine.next_wakeup().unwrap_or(left);
            let step = asked
                .clamp(Duration::from_millis(1), Duration::from_millis(250))
                .min(left);
            left -= step;
            running.engine.tick(step);
            self.outside.0.borrow_mut().now = running.engine.now;
            running.engine.settle();
            self.look()?;
        }
        Ok(())
    }

    /// The broker serves the connections of a process.
    pub(super) fn serve(&mut self, process: usize, requests: usize, deaths_first: bool) -> Checked {
        let Some(running) = &mut self.running else {
            return Ok(());
        };
        if !running.engine.later.is_empty() {
            running.engine.try_later();
            self.look()?;
        }
        let dead: Vec<_> = self
            .outside
            .0
            .borrow()
            .watched
            .iter()
            .filter(|(_, life)| life.slot == process && !life.alive.get())
            .map(|(number, _)| *number)
            .collect();
        for dead in dead {
            self.input(|engine| engine.process_died(dead))?;
        }
        let host = self.outside.0.borrow();
        let sockets = host.sockets.iter();
        let own = sockets.filter(|(_, socket)| socket.life.slot == process && socket.broker);
        let own: Vec<_> = own.map(|(number, _)| *number).collect();
        drop(host);
        for number in own {
            self.serve_connection(number, requests, deaths_first)?;
        }
        Ok(())
    }

    fn serve_connection(&mut self, number: u64, requests: usize, deaths_first: bool) -> Checked {
        if !self.accept(number) {
            return Ok(());
        }
        let mut host = self.outside.0.borrow_mut();
        let Some(socket) = host.sockets.get_mut(&number) else {
            return Ok(());
        };
        let dead = !socket.life.alive.get();
        let writable = socket.awaits_room && socket.to_client.len() < socket.room;
        drop(host);
        if dead && deaths_first {
            return self.input(|engine| engine.ended(number, End::Died));
        }
        if writable {
            self.input(|engine| engine.writable(number))?;
        }
        for _ in 0..requests {
            let mut host = self.outside.0.borrow_mut();
            let now = host.now;
            let Some(socket) = host.sockets.get_mut(&number).filter(|s| s.broker) else {
                return Ok(());
            };
            if !socket.listens && socket.client {
                return Ok(());
            }
            let request = match socket.listens {
                true => socket.to_broker.pop_front(),
                false => None,
            };
            let Some((handle, request, descriptors)) = request else {
                let hung_up = !socket.client;
                drop(host);
                if hung_up {
                    return self.input(|engine| engine.ended(number, End::Closed));
                }
                return Ok(());
            };
            host.books.asked(now, number, handle, &request);
            drop(host);
            self.input(|engine| engine.received(number, handle, request, descriptors))?;
        }
        Ok(())
    }

    /// Takes a connection in; whether it is there.
    fn accept(&mut self, number: u64) -> bool {
        let Some(running) = &mut self.running else {
            return false;
        };
        let mut host = self.outside.0.borrow_mut();
        let Some(socket) = host.sockets.get_mut(&number) else {
            return false;
        };
        if std::mem::replace(&mut socket.accepted, true) {
            return true;
        }
        let life = Rc::clone(&socket.life);
        drop(host);
        let (pid, uid) = (life.pid, life.uid);
        let who = Subject {
            uid,
            groups: Vec::new(),
        };
        let pidfd = Fd::Pidfd(life, number);
        let connected = running
            .engine
            .connected(number, Credentials { pid, uid }, who, pidfd);
        let Err(refused) = connected else {
            return true;
        };
        let mut host = self.outside.0.borrow_mut();
        if let Some(socket) = host.sockets.get_mut(&number) {
            let packet = (SESSION, refused.event(), Vec::new());
            socket.to_client.push_back(packet);
        }
        drop(host);
        running.engine.forget_connection(number);
        false
    }

    /// Gives the engine an input, and looks at what came of it.
    fn input(&mut self, input: impl FnOnce(&mut Engine<Outside>)) -> Checked {
        if let Some(running) = &mut self.running {
            input(&mut running.engine);
        }
        self.inputs += 1;
        if self.inputs.is_multiple_of(64) {
            self.look_closely()?;
        }
        self.look()
    }

    pub(super) fn start_broker(&mut self, lost: bool) {
        if self.running.is_some() {
            return;
        }
        self.brokers += 1;
        if lost {
            self.marker = Marker {
                generation: 0,
                clean: false,
            };
        }
        let before = self.marker;
        let generation = before.generation + 1;
        self.marker = Marker {
            generation,
            clean: false,
        };
        let ids = u64::from(self.brokers) << 32;
        let start = Start {
            policy: self.policy.clone(),
            ids,
            generation,
            unclean: !before.clean,
            gives_way: true,
            planted: self.planted,
        };
        self.outside.0.borrow_mut().now = Duration::ZERO;
        self.running = Some(Running {
            engine: Engine::new(self.outside.clone(), start),
            generation,
            unclean: !before.clean,
            last_id: ids,
            fresh: Vec::new(),
        });
    }

    fn end_broker(&mut self, told: bool) -> Checked {
        if told {
            // It serves what has come before.
            for process in 0..self.clients.len() {
                self.serve(process, 16, false)?;
            }
        }
        let Some(running) = self.running.take() else {
            return Ok(());
        };
        if told {
            self.marker = Marker {
                generation: running.generation,
                clean: !running.engine.has_members(),
            };
        }
        for client in self.clients.iter().flatten() {
            let session = client.session.and_then(|n| running.engine.sessions.get(&n));
            for answer in session.into_iter().flat_map(|s| &s.outbox.answers) {
                let own = client.handles.iter().flatten();
                let of = own.into_iter().find(|h| h.number == answer.handle);
                if let (Some(handle), Event::Refused { .. }) = (of, &answer.event) {
                    self.let_go.insert(handle.id);
                }
            }
        }
        drop(running);
        let mut host = self.outside.0.borrow_mut();
        host.books.broker_ended();
        host.watched.clear();
        for socket in host.sockets.values_mut() {
            socket.broker = false;
            socket.to_broker.clear();
        }
        host.sockets.retain(|_, socket| socket.client);
        Ok(())
    }

    /// All processes and their open handles: slots and handles.
    pub(super) fn slots() -> std::ops::Range<usize> {
        0..HANDLES
    }
}
