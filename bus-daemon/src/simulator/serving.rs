//! The broker serves, ends and starts. A connection is served as the real loop does it: deaths, room, requests, hang-up.

use std::rc::Rc;
use std::time::Duration;

use bus_core::control::{Credentials, Event, SESSION};

use super::play::{Checked, Marker, Play, Running};
use super::world::{Fd, Outside};
use crate::engine::{End, Engine, Start};
use crate::policy::Subject;

impl Play {
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
            running.engine.end_turn();
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
        self.input(Engine::end_turn)
    }

    pub(super) fn serve_connection(
        &mut self,
        number: u64,
        requests: usize,
        deaths_first: bool,
    ) -> Checked {
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
    pub(super) fn accept(&mut self, number: u64) -> bool {
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
    pub(super) fn input(&mut self, input: impl FnOnce(&mut Engine<Outside>)) -> Checked {
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

    pub(super) fn end_broker(&mut self, told: bool) -> Checked {
        if told && self.running.is_some() {
            self.outside.0.borrow_mut().books.stopping = true;
            self.input(Engine::begin_to_stop)?;
            // It serves what has come before.
            for process in 0..self.clients.len() {
                self.serve(process, 16, false)?;
            }
            self.check_stopped()?;
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
}
