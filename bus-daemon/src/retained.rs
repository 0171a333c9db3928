//! Rings of ended publishers go into the service manager's store and come back from it; see `store`.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::rc::Rc;

use bus_core::control::{Refusal, Role};
use bus_core::memory::ring_bytes;
use bus_core::memory::segment::{self, Kind};

use crate::engine::{Ended, Engine, Owner, Refused, grant_amounts, topic_amounts};
use crate::kernel::Kernel;
use crate::limits::MAX_TOPICS;
use crate::report::note;
use crate::store::{About, Store, Stored};

/// What is stored.
pub(crate) struct Retained {
    store: Store,
}

impl Retained {
    /// No service manager stores anything.
    pub(crate) fn none() -> Self {
        Self {
            store: Store::none(),
        }
    }

    /// Takes over what the service manager has kept.
    pub(crate) fn restore(engine: &mut Engine<Kernel>, store: Store, all: Vec<Stored>) -> Self {
        for stored in all {
            let (topic, id) = (stored.name.clone(), stored.about.id);
            match restore_ring(engine, stored) {
                Ok(()) => {
                    note!(%topic, id, "the ring of an ended publisher is there again");
                }
                Err(refused) => {
                    let why = refused.why;
                    tracing::warn!(%topic, id, why, "a ring that was stored is not used");
                }
            }
            if let Some(&number) = engine.names.get(&topic) {
                engine.drop_if_empty(number);
            }
        }
        engine.store_stale = true;
        Self { store }
    }

    /// Brings the service manager's store up to date, if anything may have changed.
    pub(crate) fn update(&mut self, engine: &mut Engine<Kernel>) {
        if std::mem::take(&mut engine.store_stale) {
            self.store.stale = true;
        }
        if !self.store.is_behind() {
            return;
        }
        let mut wanted = BTreeMap::new();
        for topic in engine
            .topics
            .values()
            .filter(|t| t.settings.retain > 0 && !t.closed)
        {
            for ended in topic.rings.retained(topic.retain()) {
                let about = move || About {
                    topic: topic.name.to_string(),
                    schema: topic.schema.clone(),
                    settings: topic.settings,
                    id: ended.id,
                    process: ended.owner.process,
                    client: ended.owner.client.to_string(),
                    pid: ended.owner.pid,
                    uid: ended.owner.uid,
                    index: ended.index,
                    order: ended.order,
                    trust: ended.trust,
                };
                let descriptors = [ended.segment.as_fd(), ended.owner.pidfd.as_fd()];
                wanted.insert(ended.id, (about, descriptors));
            }
        }
        self.store.update(wanted);
    }

    /// Whether the service manager has yet to be told something.
    pub(crate) fn is_behind(&self) -> bool {
        self.store.is_behind()
    }
}

fn restore_ring(engine: &mut Engine<Kernel>, stored: Stored) -> Result<(), Refused> {
    let Stored {
        about,
        name,
        client,
        ring,
        process,
    } = stored;
    let settings = about.settings;
    let refuse = |why: &str| Err(Refused::new(Refusal::Segment, why));
    if about.index >= settings.rings() || settings.retain == 0 {
        return refuse("its topic retains none");
    }
    if let Err(error) = segment::check(&ring, Kind::Ring, ring_bytes(&settings)) {
        return refuse(&error.to_string());
    }
    let account = engine.accounts.of(about.uid, &engine.policy, engine.now);
    let number = match engine.names.get(&name) {
        Some(number) => *number,
        None if engine.names.len() >= MAX_TOPICS => return refuse("there are too many topics"),
        None => {
            let charge = account.charge_anyway(about.pid, topic_amounts());
            engine.new_topic(&name, about.schema.clone(), settings, charge)?
        }
    };
    let Some(topic) = engine.topics.get_mut(&number) else {
        return refuse("its topic is gone");
    };
    topic.decided = true;
    if topic.schema != about.schema || topic.settings != settings {
        return refuse("its topic has another type or other settings");
    }
    let charge = account.charge_anyway(
        about.pid,
        grant_amounts(Role::Publisher, ring_bytes(&settings)),
    );
    let ended = Ended {
        id: about.id,
        owner: Rc::new(Owner {
            process: about.process,
            pid: about.pid,
            uid: about.uid,
            client,
            pidfd: Rc::new(process),
        }),
        index: about.index,
        segment: Rc::new(ring),
        trust: about.trust,
        charge,
        order: about.order,
    };
    if !topic.rings.restore(ended, settings.retain as usize) {
        return refuse("its index is another's");
    }
    Ok(())
}
