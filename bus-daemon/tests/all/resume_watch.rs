//! A broker is killed, another comes: what watches hear of topics that were there before.

use crate::common::{Busd, Handle, next};
use bus_core::control::{Connection, Event, Request, Role};
use bus_core::schema::Schema;

fn watch(pattern: &str) -> Request {
    Request::Watch {
        client: "watcher".into(),
        pattern: pattern.into(),
        schema: Schema::bytes(),
        resumes: None,
    }
}

/// Class 23 of the field notes, the other way round: a topic that was there before is taken for new, so that its watcher counts on a first message that
/// it can not get.
#[test]
fn who_begins_to_watch_waits_for_members_that_keep_such_topics_open() {
    let dir = tempfile::tempdir().unwrap();
    let mut busd = Busd::start(&dir.path().join("bus.sock"), "");
    let path = busd.path.clone();
    let mut publisher = Handle::open(&path, Role::Publisher, "a/b").joined();
    busd.replace();
    let ask = |pattern| {
        let connection = Connection::connect(&path).unwrap();
        connection.send(&watch(pattern), &[]).unwrap();
        connection
    };
    let waits = ask("a/*");
    // Another pattern is nobody's business; and the broker has heard of the first one when it answers the second.
    let elsewhere = ask("b/*");
    assert!(matches!(next(&elsewhere).0, Event::Watching { .. }));
    assert!(waits.try_recv::<Event>().unwrap().is_none());
    publisher.resume(&path, "a/b", 0);
    // Not yet back, of which the broker has heard.
    assert!(matches!(next(&ask("b/*")).0, Event::Watching { .. }));
    assert!(waits.try_recv::<Event>().unwrap().is_none());
    publisher.back();
    assert!(matches!(
        next(&waits).0,
        Event::TopicAppeared { topic, kept: false, .. } if topic == "a/b"
    ));
    assert!(matches!(next(&waits).0, Event::Watching { .. }));
}
