//! A watch: a handle that is told of the topics that match a pattern.

use std::collections::{BTreeSet, HashSet};
use std::rc::Rc;

use bus_core::schema::Schema;
use bus_core::{Pattern, TopicName};

use super::member::Owner;
use super::world::World;
use crate::accounts::Charge;
use crate::policy::{Policy, Right, Subject};

/// What is watched for, and what was told.
#[derive(Debug)]
pub(crate) struct Watch<W: World> {
    pub(crate) session: u64,
    pub(crate) handle: u32,
    pub(crate) pattern: Pattern,
    pub(crate) schema: Schema,
    pub(crate) owner: Rc<Owner<W>>,
    pub(crate) who: Rc<Subject>,
    /// What its user is charged for it.
    pub(crate) charge: Charge,
    /// Topics that it was told of.
    pub(crate) told: HashSet<u64>,
    /// Topics of which something may be to be told.
    pub(crate) pending: BTreeSet<u64>,
    /// Topics in which a place is kept for it.
    pub(crate) places: BTreeSet<u64>,
    /// It is to be told that it watches, when nothing is pending.
    pub(crate) beginning: bool,
    pub(crate) queued: bool,
}

impl<W: World> Watch<W> {
    /// Whether it is to be told of this topic: the pattern matches, and its user may subscribe to it.
    pub(crate) fn follows(&self, topic: &TopicName, policy: &Policy) -> bool {
        self.pattern.matches(topic) && policy.decide(&self.who, topic).may(Right::Subscribe)
    }

    /// A topic has appeared, or is gone.
    pub(crate) fn mark(&mut self, topic: u64, exists: bool) {
        if exists || self.told.contains(&topic) {
            self.pending.insert(topic);
        } else {
            self.pending.remove(&topic);
        }
    }
}
