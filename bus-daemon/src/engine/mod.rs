//! The broker as a state machine: inputs (a message, a hang-up, a death, time) to calls of a [`World`].
//!
//! ```text
//!  world      what it needs from outside          refused    why not
//!  member  topic  rings  session  watch  recovery            what there is
//!  state      all of it together, and the inputs
//!  dispatch   a request to the one that serves it
//!  greet      a session begins and ends           admission  policy and quotas
//!  open  decide  join  leave                      a member's life
//!  discovery  watches                             reconcile  telling differences
//!  reclaim    coming back from an earlier broker  grace      newcomers that wait for that
//!  orphan     subscribers that may still read
//! ```
//! Promises: it never waits; every input costs bounded work for each member that is concerned; what it keeps for a
//! client is bounded by quotas, whatever the client does. It looks at no clock, socket or descriptor itself, so the
//! simulator runs it as it is.

mod admission;
#[cfg(test)]
mod costs;
mod decide;
mod discovery;
mod dispatch;
mod errands;
mod grace;
mod greet;
mod join;
mod leave;
mod member;
mod open;
mod orphan;
#[cfg(feature = "simulator")]
mod planted;
mod reclaim;
mod reconcile;
mod recovery;
mod refused;
mod rings;
mod room;
mod session;
mod state;
#[cfg(test)]
mod still;
mod stop;
mod topic;
mod unclaimed;
mod watch;
mod world;

pub(crate) use admission::{grant_amounts, topic_amounts};
pub(crate) use member::Owner;
pub(crate) use refused::Refused;
pub(crate) use rings::Ended;
#[cfg(feature = "simulator")]
pub(crate) use session::{Blocked, Handle as Known};
pub(crate) use state::{End, Engine, Start};
pub(crate) use world::World;
