//! Descriptors that the broker cannot close: they cost who sent them.
//!
//! It is a program of its own, because its tests mount a file system.

mod common;

use std::path::Path;

use bus_core::control::{Event, Role};
use bus_testkit::needs;
use common::actor::Actor;
use common::fuse::Unanswering;
use common::{Busd, Handle, until};

const ALICE: u32 = 12345;
const BOB: u32 = 65533;

/// Where a test runs: a `busd` for both users that cannot close what `alice` opens.
struct Scene {
    files: Unanswering,
    busd: Busd,
    dir: tempfile::TempDir,
}

impl Scene {
    #[track_caller]
    fn new() -> Option<Self> {
        if !needs::root() {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(dir.path(), open).unwrap();
        let files = dir.path().join("files");
        std::fs::create_dir(&files).unwrap();
        let files = match Unanswering::mount(&files) {
            Ok(files) => files,
            Err(why) => {
                needs::skipped(why);
                return None;
            }
        };
        let policy = format!(
            "[[allow]]\ntopics = \"**\"\nusers = [{ALICE}, {BOB}]\nmay = [\"publish\", \"subscribe\"]\nstall = true\n"
        );
        let file = dir.path().join("bus.toml");
        std::fs::write(&file, policy).unwrap();
        let path = dir.path().join("bus.sock");
        let busd = Busd::start(&path, &format!("export BUS_POLICY='{}'", file.display()));
        files.ignore(busd.child.id());
        Some(Self { files, busd, dir })
    }

    fn path(&self) -> &Path {
        &self.busd.path
    }

    fn file(&self) -> String {
        self.dir.path().join("files/a").display().to_string()
    }

    /// Descriptors that `busd` has.
    fn descriptors(&self) -> usize {
        let all = format!("/proc/{}/fd", self.busd.child.id());
        std::fs::read_dir(all).unwrap().count()
    }

    /// Two handles come, meet and go.
    fn serves(&self, topic: &str) {
        let witness = Handle::open(self.path(), Role::Publisher, topic).joined();
        let _subscriber = Handle::open(self.path(), Role::Subscriber, topic).joined();
        let event = witness.change();
        assert!(matches!(event, Event::SubscriberJoined { .. }), "{event:?}");
    }
}

/// As a file whose file system does not answer: each close of a descriptor waits, and not only that of the last one.
#[test]
fn a_descriptor_whose_every_close_waits_stops_nobody() {
    let Some(scene) = Scene::new() else {
        return;
    };
    let mut alice = Actor::start(scene.path(), ALICE, &[]);
    // With a request that is refused for its descriptor, and with what is none.
    for way in ["Retell", "nothing"] {
        alice.refused(&format!("foul {way} {} 1", scene.file()), "Protocol");
        scene.files.wait_for_closing();
        scene.serves("t");
        scene.files.answer();
        scene.files.ignore(scene.busd.child.id());
    }
}

#[test]
fn a_user_whose_descriptors_cannot_be_closed_is_served_again_when_they_are_and_others_always_are() {
    let Some(scene) = Scene::new() else {
        return;
    };
    let mut alice = Actor::start(scene.path(), ALICE, &[]);
    let mut bob = Actor::start(scene.path(), BOB, &[]);
    let joined = alice.ok("take publisher alice");
    let before = scene.descriptors();
    let foul = format!("foul nothing {} 250", scene.file());
    let mut sent = 0;
    let why = loop {
        let said = alice.tell(&foul);
        match said.strip_prefix("refused Limit ") {
            Some(why) => break why.to_owned(),
            None => assert!(said.starts_with("refused Protocol "), "{said}"),
        }
        sent += 1;
        assert!(sent < 20, "nobody counts the descriptors that wait");
    };
    assert!(why.contains(&format!("user {ALICE} ")), "{why}");
    assert!(why.contains("the limit is 512"), "{why}");
    assert!(scene.descriptors() < before + 1000);
    // What the others send is closed, and they are served.
    for _ in 0..10 {
        bob.refused("foul nothing /dev/null 250", "Protocol");
        let handle = bob.ok("take publisher bob");
        bob.ok(&format!("give {handle}"));
    }
    scene.serves("own");
    until(|| scene.descriptors() < before + 1000);
    // A request of a session that is there is read when there is room.
    alice.ok(&format!("ask {joined}"));
    scene.files.answer();
    alice.ok(&format!("told {joined}"));
    until(|| scene.descriptors() < before + 50);
    alice.ok("take subscriber alice");
}
