//! Plays a script: the broker, its clients and the kernel take the steps, and every promise is looked at after each.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use bus_core::control::Role;

use super::client::{Client, HANDLES};
use super::counts::Counts;
use super::handle::{Handle, Known};
use super::script::{Setup, Step};
use super::world::{Host, Outside};
use super::{OWN_USER, Planted};
use crate::engine::Engine;
use crate::policy::Policy;

/// What a broker leaves in the lock file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Marker {
    pub(super) generation: u64,
    pub(super) clean: bool,
}

/// A broker at work.
pub(super) struct Running {
    pub(super) engine: Engine<Outside>,
    pub(super) generation: u64,
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
    pub(super) policy: Policy,
    pub(super) room: usize,
    pub(super) planted: Option<Planted>,
    pub(super) outside: Outside,
    pub(super) running: Option<Running>,
    pub(super) marker: Marker,
    /// Brokers so far.
    pub(super) brokers: u32,
    pub(super) clients: Vec<Option<Client>>,
    pub(super) processes: u64,
    /// Rings that their publishers have closed.
    pub(super) closed: BTreeSet<u64>,
    /// Handles that a broker let go of without their knowing.
    pub(super) let_go: BTreeSet<u64>,
    /// Handles that missed messages or readers while they had no broker, and whose.
    pub(super) missed: BTreeMap<u64, u64>,
    pub(super) inputs: u64,
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

    pub(super) fn start(&mut self, process: usize) {
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

    pub(super) fn release(&mut self, process: usize, handle: usize, ring: usize) {
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
    pub(super) fn turn(&mut self, process: usize) -> Checked {
        self.connect(process);
        self.serve(process, 16, true)?;
        self.read(process, 1000, true, None)?;
        self.with(process, |client, host| {
            client.look_around(host);
            client.join(host, 0);
        });
        self.serve(process, 16, true)
    }

    pub(super) fn cycle(&mut self, process: usize, handle: usize, topic: usize) -> Checked {
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

    /// All processes and their open handles: slots and handles.
    pub(super) fn slots() -> std::ops::Range<usize> {
        0..HANDLES
    }
}
