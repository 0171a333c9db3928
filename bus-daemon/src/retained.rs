//! Rings of ended publishers go into the service manager's store and come back from it; see `store`.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::rc::Rc;

use bus_core::control::{Credentials, Role};
use bus_core::memory::ring_bytes;
use bus_core::memory::segment::{self, Kind};

use crate::admission::{Seat, Standing, seat_amounts, topic_amounts};
use crate::hub::Hub;
use crate::limits::{MAX_PUBLISHERS, MAX_TOPICS};
use crate::member::Member;
use crate::request::Refused;
use crate::store::{About, Store, Stored};

impl Hub {
    /// Takes over what the service manager has kept.
    pub(crate) fn restore(&mut self, store: Store, all: Vec<Stored>) {
        self.store = store;
        for stored in all {
            let (topic, id) = (stored.name.clone(), stored.about.id);
            match self.restore_ring(stored) {
                Ok(()) => {
                    crate::report::note!(%topic, id, "the ring of an ended publisher is there again")
                }
                Err((_, why)) => {
                    tracing::warn!(%topic, id, why, "a ring that was stored is not used")
                }
            }
            self.drop_if_empty(&topic);
        }
    }

    fn restore_ring(&mut self, stored: Stored) -> Result<(), Refused> {
        let Stored {
            about,
            name,
            client,
            ring,
            process,
        } = stored;
        let settings = about.settings;
        let refuse = |why: &str| Err((bus_core::control::Refusal::Segment, why.to_owned()));
        if about.index >= MAX_PUBLISHERS || settings.retain == 0 {
            return refuse("its topic retains none");
        }
        if let Err(error) = segment::check(&ring, Kind::Ring, ring_bytes(&settings)) {
            return refuse(&error.to_string());
        }
        let account = self.accounts.of(about.uid, &self.policy);
        if !self.topics.contains_key(&name) {
            if self.topics.len() >= MAX_TOPICS {
                return refuse("there are too many topics");
            }
            let charge = account.charge_anyway(about.pid, topic_amounts());
            let topic = self.new_topic(&name, about.schema.clone(), settings, charge)?;
            self.topics.insert(name.clone(), topic);
        }
        let Some(topic) = self.topics.get_mut(&name) else {
            return refuse("its topic is gone");
        };
        if topic.schema != about.schema || topic.settings != settings {
            return refuse("its topic has another type or other settings");
        }
        let charge = account.charge_anyway(about.pid, seat_amounts(Role::Publisher, &settings));
        let standing = Standing {
            trust: about.trust,
            stall: false,
            publishes: true,
        };
        let peer = Credentials {
            pid: about.pid,
            uid: about.uid,
        };
        let (process, seat) = (Rc::new(process), Seat { standing, charge });
        let role = Role::Publisher;
        let mut member = Member::new(role, client, peer, process, about.index, None, seat);
        member.segment = Some(Rc::new(ring));
        if !topic.restore(about.id, member, about.order) {
            return refuse("its index is another's");
        }
        Ok(())
    }

    /// Brings the service manager's store up to date, if anything may have changed.
    pub(crate) fn update_store(&mut self) {
        if !self.store.is_behind() {
            return;
        }
        let mut wanted = BTreeMap::new();
        for topic in self.topics.values().filter(|t| t.settings.retain > 0) {
            for ended in topic.retained() {
                let member = &ended.member;
                let Some(ring) = &member.segment else {
                    continue;
                };
                let about = move || About {
                    topic: topic.name.to_string(),
                    schema: topic.schema.clone(),
                    settings: topic.settings,
                    id: ended.id,
                    client: member.client.to_string(),
                    pid: member.pid,
                    uid: member.uid,
                    index: member.index,
                    order: ended.order,
                    trust: member.standing.trust,
                };
                wanted.insert(ended.id, (about, [ring.as_fd(), member.process()]));
            }
        }
        self.store.update(wanted);
    }
}
