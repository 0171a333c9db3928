//! A client comes back to a later broker: it presents what it has, and completes its return when all is answered.

use std::collections::BTreeSet;
use std::rc::Rc;

use bus_core::control::{KnownPeer, Request, Role, SESSION};
use bus_core::memory::segment::Kind;

use super::client::{Client, HANDLES};
use super::handle::Stage;
use super::topics;
use super::world::{Fd, Host};

impl Client {
    /// Presents everything to a new broker.
    pub(super) fn present_all(&mut self, host: &mut Host) {
        let homeless = self.handles.iter().flatten();
        let homeless = homeless.filter(|handle| handle.is_to_present());
        let known = homeless.flat_map(|handle| handle.known.values().map(|k| k.process));
        let known: BTreeSet<_> = known.collect();
        self.processes.retain(|process, _| known.contains(process));
        for (&process, pidfd) in &self.processes {
            if let Fd::Pidfd(life, _) = pidfd {
                let present = Request::PresentProcess {
                    process,
                    pid: 0,
                    user: 0,
                    client: "simulated".into(),
                };
                let pidfd = Fd::Pidfd(Rc::clone(life), 0);
                self.post(host, SESSION, present, vec![pidfd]);
            }
        }
        let mut order: Vec<_> = (0..HANDLES).collect();
        // Members come before watches.
        order.sort_by_key(|slot| {
            self.handles[*slot]
                .as_ref()
                .is_some_and(|h| h.role.is_none())
        });
        for slot in order {
            self.present(host, slot);
        }
    }

    /// Presents a handle to the broker of now.
    pub(super) fn present(&mut self, host: &mut Host, slot: usize) {
        let Some(handle) = self.handles[slot].as_mut() else {
            return;
        };
        let lost = handle.may_still_read();
        if !lost && !matches!(handle.stage, Stage::Homeless | Stage::Postponed) {
            return;
        }
        if !lost {
            handle.stage = Stage::Presented;
        }
        let (number, role) = (handle.number, handle.role);
        let Some(role) = role else {
            let watch = Request::Watch {
                pattern: topics::PATTERN.into(),
                schema: topics::schema(),
                reclaims: Some(handle.id),
            };
            self.awaited.insert(number);
            return self.post(host, number, watch, Vec::new());
        };
        let peers = handle.known.iter().filter(|(_, known)| !known.kept);
        let peers = peers.map(|(&id, known)| KnownPeer {
            id,
            process: known.process,
            index: known.index,
            left: known.left,
            doorbell: known.doorbell,
        });
        let peers: Vec<_> = peers.collect();
        let (Some(settings), true) = (handle.settings, handle.id != 0) else {
            return;
        };
        let kind = match role {
            Role::Publisher => Kind::Ring,
            Role::Subscriber => Kind::Reader,
        };
        let segment = Fd::Segment(kind, handle.bytes);
        let reclaim = Request::Reclaim {
            role,
            topic: topics::name(handle.topic),
            schema: topics::schema(),
            settings,
            id: handle.id,
            index: handle.index,
            watch: handle.watch,
            closed: handle.closed,
            since: if lost { 0 } else { handle.since },
            foreign: (handle.registry.as_ref()).is_some_and(|words| words.is_foreign()),
        };
        let mut descriptors = vec![segment];
        if handle.doorbell {
            descriptors.push(Fd::Doorbell);
        }
        self.awaited.insert(number);
        if !peers.is_empty() {
            let peers = Request::PresentPeers { peers };
            self.post(host, number, peers, Vec::new());
        }
        self.post(host, number, reclaim, descriptors);
    }

    /// Tells the broker when everything is answered.
    pub(super) fn complete(&mut self, host: &mut Host) {
        if !self.welcome || !self.returning || !self.awaited.is_empty() {
            return;
        }
        self.returning = false;
        if self.announced {
            self.post(host, SESSION, Request::ReclaimComplete {}, Vec::new());
        }
    }

    /// Does what it does every now and then: asks again for descriptors that were lost, and presents handles again.
    pub(crate) fn look_around(&mut self, host: &mut Host) {
        if !self.welcome {
            return;
        }
        if std::mem::take(&mut self.reintroduce) {
            self.post(host, SESSION, Request::Retell {}, Vec::new());
        }
        let mut requests = Vec::new();
        for handle in self.handles.iter_mut().flatten() {
            if handle.asks_again() {
                requests.push(handle.number);
            }
        }
        for handle in requests {
            self.post(host, handle, Request::Retell {}, Vec::new());
        }
        for slot in 0..HANDLES {
            if self.handles[slot].as_ref().map(|h| h.stage) == Some(Stage::Postponed) {
                self.present(host, slot);
            }
        }
    }
}
