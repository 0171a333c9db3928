//! A client reads its socket: what it makes of each message, and what it acknowledges.

use bus_core::control::{Event, Request, Role, SESSION, Watched};

use super::client::{ACKNOWLEDGE, Client, Noticed};
use super::world::{Fd, Host};

impl Client {
    /// Reads up to `most` messages; without `acknowledges`, says nothing of their descriptors until it reads again. Those
    /// of the message with the number `lost` do not arrive.
    ///
    /// # Errors
    /// What it noticed that is against the promises.
    pub(crate) fn read(
        &mut self,
        host: &mut Host,
        most: usize,
        acknowledges: bool,
        lost: Option<usize>,
    ) -> Noticed {
        for number in 0..most {
            let Some(session) = self.session else {
                return Ok(());
            };
            let Some(socket) = host.sockets.get_mut(&session) else {
                return Ok(());
            };
            let Some((handle, event, mut descriptors)) = socket.to_client.pop_front() else {
                if !socket.broker {
                    self.lose_broker(host);
                }
                break;
            };
            self.unacknowledged += descriptors.len() as u32;
            let bereft = lost == Some(number) && !descriptors.is_empty();
            if bereft && handle == SESSION {
                self.reintroduce = true;
            } else if bereft {
                descriptors.clear();
            }
            self.dispatch(host, handle, event, descriptors)?;
            if acknowledges && self.unacknowledged >= ACKNOWLEDGE {
                self.acknowledge(host);
            }
        }
        if acknowledges {
            self.acknowledge(host);
        }
        self.complete(host);
        Ok(())
    }

    pub(super) fn acknowledge(&mut self, host: &mut Host) {
        let descriptors = std::mem::take(&mut self.unacknowledged);
        if descriptors > 0 {
            let received = Request::Received { descriptors };
            self.post(host, SESSION, received, Vec::new());
        }
    }

    /// The connection is closed, and everything that the broker said was read.
    pub(super) fn lose_broker(&mut self, host: &mut Host) {
        if let Some(session) = self.session.take() {
            host.sockets.remove(&session);
        }
        self.welcome = false;
        self.awaited.clear();
        self.returning = false;
        self.reintroduce = false;
        for slot in &mut self.handles {
            if let Some(handle) = slot
                && !handle.lose_broker()
            {
                *slot = None;
            }
        }
    }

    pub(super) fn dispatch(
        &mut self,
        host: &mut Host,
        handle: u32,
        event: Event,
        mut descriptors: Vec<Fd>,
    ) -> Noticed {
        if handle != SESSION {
            return self.dispatch_handle(host, handle, event, descriptors);
        }
        match event {
            Event::Welcome { generation, .. } => {
                self.generation = generation;
                self.welcome = true;
                self.present_all(host);
            }
            Event::Generation { generation } => self.generation = generation,
            Event::Process { process, .. } => {
                if let Some(pidfd) = descriptors.pop() {
                    self.processes.insert(process, pidfd);
                }
            }
            Event::ProcessGone { process } => {
                // A handle that was refused may know a peer of it.
                let mut own = self.handles.iter().flatten();
                if !own.any(|handle| handle.known.values().any(|k| k.process == process)) {
                    self.processes.remove(&process);
                }
            }
            Event::Refused { .. } => {
                // The session ends; the client tries again later.
                if let Some(socket) = self.session.and_then(|n| host.sockets.get_mut(&n)) {
                    socket.client = false;
                    socket.broker = false;
                    socket.to_broker.clear();
                }
            }
            event => return Err(format!("{event:?} is nothing for a session")),
        }
        Ok(())
    }

    pub(super) fn dispatch_handle(
        &mut self,
        host: &mut Host,
        number: u32,
        event: Event,
        descriptors: Vec<Fd>,
    ) -> Noticed {
        let broker = self.broker;
        let own = self.handles.iter_mut().flatten();
        let Some(handle) = own.into_iter().find(|handle| handle.number == number) else {
            return Ok(());
        };
        handle.generation = self.generation;
        let heard = handle.hear(event, descriptors, broker)?;
        if heard.answered {
            self.awaited.remove(&number);
        }
        for (handle, request) in heard.requests {
            self.post(host, handle, request, Vec::new());
        }
        if let Some(gone) = heard.gone {
            let own = self.handles.iter_mut().flatten();
            let of = own.filter(|handle| handle.watch.is_some() && handle.watched == gone);
            of.for_each(|handle| handle.closed = true);
        }
        if let Some(appeared) = heard.appeared {
            self.appeared(host, number, appeared);
        }
        Ok(())
    }

    /// A watch was told of a topic: subscribes to it, or declines where there is no room for another handle.
    pub(super) fn appeared(
        &mut self,
        host: &mut Host,
        number: u32,
        (topic, id): (usize, Option<u64>),
    ) {
        let own = self.handles.iter().flatten();
        let Some(watch) = own.into_iter().find(|h| h.number == number).map(|h| h.id) else {
            return;
        };
        let Some(id) = id else {
            return;
        };
        let free = self.handles.iter().position(Option::is_none);
        // Until the watch knows its number, it cannot open anything.
        let Some(slot) = free.filter(|_| watch != 0) else {
            return self.post(host, number, Request::Decline { topic: id }, Vec::new());
        };
        let watched = Watched { watch, topic: id };
        self.open(host, slot, topic, Role::Subscriber, 0, Some(watched));
    }
}
