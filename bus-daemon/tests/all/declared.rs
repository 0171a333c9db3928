//! Topics that the policy declares: they are as declared, whoever opens them, in whatever order, and who asks for something else is told
//! which setting, both values, and where the declaration stands.

use std::path::Path;

use crate::common::{Busd, Handle, Host};
use bus_core::control::{Event, Refusal, Request, Role};
use bus_core::schema::Schema;
use bus_core::{Delivery, Settings};
use nix::sys::signal::Signal;

const DECLARED: &str = "[[topic]]\ntopics = [\"other\"]\nretain = 1\n\n\
    [[topic]]\ntopics = [\"market/*\"]\ndepth = 64\nkeep = 4\ndelivery = \"lossy\"\n";

fn open(role: Role, settings: Settings, history: u32) -> Request {
    Request::Open {
        role,
        topic: "market/eu".into(),
        schema: Schema::bytes(),
        settings,
        history,
        watched: None,
    }
}

fn depth(depth: u32) -> Settings {
    Settings {
        depth: Some(depth),
        ..Settings::default()
    }
}

/// Who asks for another depth, or for more history than is declared, is refused in these words.
fn refuses(host: &Host, role: Role) {
    let file = host.path.with_extension("toml");
    let (kind, why) = host.refused(&open(role, depth(2), 0));
    assert_eq!(kind, Refusal::Settings);
    let says = format!(
        "topic market/eu has depth 64, as {}:5 declares, asked 2",
        file.display()
    );
    assert!(why.starts_with(&says), "{why}");
    if role == Role::Subscriber {
        let (kind, why) = host.refused(&open(role, Settings::default(), 5));
        assert_eq!(kind, Refusal::BadSetting);
        let says = format!(
            "topic market/eu has keep 4, as {}:5 declares, asked for a history of 5",
            file.display()
        );
        assert!(why.starts_with(&says), "{why}");
    }
}

#[test]
fn the_declaration_decides_whoever_comes_first_and_is_named_to_who_wants_something_else() {
    let host = Host::governed(DECLARED);
    let declared = |handle: &Handle| {
        let settings = handle.settings;
        (settings.depth, settings.keep, settings.delivery)
    };
    // While nobody has it open; while a subscriber has; while a publisher has.
    for first in [None, Some(Role::Subscriber), Some(Role::Publisher)] {
        let first = first.map(|role| {
            let nothing = open(role, Settings::default(), 0);
            Handle::ask(&host.path, &nothing).joined()
        });
        for role in [Role::Publisher, Role::Subscriber] {
            refuses(&host, role);
            let as_declared = Handle::ask(&host.path, &open(role, depth(64), 0));
            assert_eq!(declared(&as_declared), (64, 4, Delivery::Lossy));
        }
        if let Some(first) = first {
            assert_eq!(declared(&first), (64, 4, Delivery::Lossy));
        }
    }
}

#[test]
fn what_is_declared_later_holds_for_topics_that_are_created_later() {
    let dir = tempfile::tempdir().unwrap();
    let (path, file) = (dir.path().join("bus.sock"), dir.path().join("bus.toml"));
    // It is found beside the socket.
    std::fs::write(&file, "").unwrap();
    let mut busd = Busd::start(&path, "unset BUS_POLICY");
    let ask = |path: &Path, role| Handle::ask(path, &open(role, Settings::default(), 0));
    let before = ask(&path, Role::Publisher).joined();
    assert_ne!(before.settings.depth, 64);

    std::fs::write(&file, DECLARED).unwrap();
    busd.signal(Signal::SIGHUP);
    busd.wait_for("following the policy");
    // The topic that is there stays as it is, and nobody is refused for what is declared of later ones.
    let beside = open(Role::Subscriber, depth(before.settings.depth), 0);
    let beside = Handle::ask(&path, &beside);
    assert_eq!(beside.settings, before.settings);
    let (id, subscriber) = (before.id, beside.joined());
    drop(before);
    loop {
        match subscriber.change() {
            Event::PublisherLeft { id: left, .. } => break assert_eq!(left, id),
            Event::PublisherJoined { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    drop(subscriber);
    crate::common::until(|| ask(&path, Role::Publisher).settings.depth == 64);
}
