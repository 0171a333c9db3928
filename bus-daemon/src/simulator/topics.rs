//! The topics of a simulation. Their kinds differ in what they may lose and keep.

use bus_core::schema::Schema;
use bus_core::{Delivery, Settings};

/// What watches watch.
pub(crate) const PATTERN: &str = "w/**";

/// The name of a topic. Every fourth is watched.
pub(crate) fn name(topic: usize) -> String {
    match topic % 4 {
        3 => format!("w/{topic}"),
        _ => format!("t/{topic}"),
    }
}

/// The topic of a name.
pub(crate) fn index(name: &str) -> Option<usize> {
    name.split_once('/')?.1.parse().ok()
}

/// The type of all messages.
pub(crate) fn schema() -> Schema {
    Schema::bytes()
}

/// What a handle asks for that decides nothing, but has a wish that the publishers may not grant.
pub(crate) fn wish(topic: usize) -> Settings {
    Settings {
        depth: Some(32),
        ..settings(topic)
    }
}

/// What the handles of a topic ask for.
pub(crate) fn settings(topic: usize) -> Settings {
    let delivery = match topic % 3 {
        0 => Delivery::Wait,
        1 => Delivery::Lossy,
        _ => Delivery::Evict { after_us: 1000 },
    };
    let retain = if topic % 5 == 2 { 2 } else { 0 };
    let publishers = if topic % 6 == 5 { 3 } else { 60 };
    Settings {
        depth: Some(16),
        max_payload: Some(48),
        delivery: Some(delivery),
        retain: Some(retain),
        publishers: Some(publishers),
        ..Settings::default()
    }
}
