//! What a build of the next version does otherwise. It is there with the feature `next-build` only, which nobody but `scripts/builds.sh` asks for.
//!
//! Such a build speaks one version more, knows a feature of sessions and two bits of segments, and has two messages in each direction. Without a
//! word it keeps the rules by which versions live together: it says `Remark`, which may be ignored, to everybody; `Demand`, which may not, only to who
//! knows the feature; and sets the bit of segments that may be ignored. `BUS_NEXT` makes a process break one rule, so that tests see what the other
//! build says to that: `demands` sends `Demand` to everybody, `newest` speaks the newest version only, `segments` sets the bit that every peer must know.

use std::sync::{Mutex, PoisonError};

use super::{Connection, Event, FEATURES, PROTOCOL_VERSIONS, Request, SESSION};

/// Remarks that a broker makes to each session: more than it may have descriptors in flight there.
const REMARKS: usize = 20;
/// Bits of a segment: one that its reader must know, and one that it may ignore.
pub const SEGMENT_FEATURES: [u64; 2] = [1, 1 << 32];

/// How often this process has heard `Remark` and `Demand`.
static HEARD: Mutex<[u32; 2]> = Mutex::new([0; 2]);

fn breaks(rule: &str) -> bool {
    super::variable("BUS_NEXT").is_some_and(|broken| broken == rule)
}

/// The versions that this process speaks, where it does not speak those of its build.
pub(super) fn versions() -> Option<(u16, u16)> {
    let newest = PROTOCOL_VERSIONS.1;
    breaks("newest").then_some((newest, newest))
}

/// The feature bits of the segments that this process makes.
pub fn segment_features() -> u64 {
    let [needed, ignored] = SEGMENT_FEATURES;
    ignored | if breaks("segments") { needed } else { 0 }
}

/// What a broker says to a session that has these features.
pub fn events(features: u64) -> Vec<Event> {
    let mut events = vec![Event::Remark {}; REMARKS];
    if features & FEATURES != 0 || breaks("demands") {
        events.push(Event::Demand {});
    }
    events
}

/// A client says to the broker that has let it in what such a client says.
pub fn address(connection: &Connection, welcome: &Event) {
    let Event::Welcome { features, .. } = welcome else {
        return;
    };
    // Of a broker that is gone already it is heard elsewhere.
    let _ = connection.try_send(SESSION, &Request::Remark {}, &[]);
    if features & FEATURES != 0 || breaks("demands") {
        let _ = connection.try_send(SESSION, &Request::Demand {}, &[]);
    }
}

/// Counts a `Remark`, or a `Demand`.
pub fn hear(demand: bool) {
    let mut heard = HEARD.lock().unwrap_or_else(PoisonError::into_inner);
    heard[usize::from(demand)] += 1;
}

/// How often this process has heard `Remark` and `Demand`, as broker and as client.
pub fn heard() -> [u32; 2] {
    *HEARD.lock().unwrap_or_else(PoisonError::into_inner)
}
