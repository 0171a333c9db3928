//! Two builds on one bus: this one, and one of the next version (feature `next-build`). `scripts/builds.sh` makes that one and runs these tests.
//!
//! Classes of bugs that this is to catch: an update of one program, or of the broker, takes down what works; something is ignored that may not be,
//! or refused in words that do not say what to do.

mod common;

use std::env;
use std::fmt::{Debug, Display, Write};
use std::process::Command;

use bus_client::Bus;
use common::process::{Process, WATCHDOG};
use common::role::{Given, hear, play, say};
use common::roles::{HOST, SENDER, TAKER};
use common::stage::Stage;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Messages of each publisher.
const EACH: u64 = 1000;
/// This build speaks version 2, the next one 2 and 3.
const BOTH: [Build; 2] = [Build::This, Build::Next];

#[test]
#[ignore = "what the other tests start as processes of their own"]
fn role() {
    play(&[
        HOST,
        SENDER,
        TAKER,
        ("asker", asker),
        ("listener", listener),
        ("reader", reader),
        ("writer", writer),
    ]);
}

/// Says why it cannot open a topic.
fn asker(given: &Given) {
    let bus = Bus::builder("asker")
        .socket(given.get::<String>("socket"))
        .embedded(false);
    let opened = bus.connect().and_then(|bus| bus.publisher::<u64>("t"));
    match opened {
        Ok(_) => say("opened"),
        Err(error) => say(format_args!(
            "error {}",
            error.to_string().replace('\n', " ")
        )),
    }
}

/// Says `heard` when it has heard all that a broker of the next version says only to its like, and what anybody may ignore.
#[cfg(feature = "next-build")]
fn listener(given: &Given) {
    let bus = given.bus();
    let _subscriber = bus.subscriber::<u64>("t").unwrap();
    let deadline = std::time::Instant::now() + WATCHDOG;
    while bus_core::control::next::heard() != [20, 1] {
        let heard = bus_core::control::next::heard();
        assert!(std::time::Instant::now() < deadline, "heard {heard:?}");
        std::thread::yield_now();
    }
    say("heard");
}

#[cfg(not(feature = "next-build"))]
fn listener(_: &Given) {
    panic!("this build is no next one");
}

/// Subscribes; says what it is warned of, and each number that it receives.
fn reader(given: &Given) {
    tracing::subscriber::set_global_default(Warnings).unwrap();
    let bus = given.bus();
    let subscriber = bus.subscriber::<u64>("t").unwrap();
    say("joined");
    while hear().is_some() {
        let number = subscriber.recv_timeout(WATCHDOG).unwrap();
        say(format_args!("number {}", *number.unwrap()));
    }
}

/// Publishes; sends a number, if it was given one, when somebody subscribes.
fn writer(given: &Given) {
    let bus = given.bus();
    let mut publisher = bus.publisher::<u64>("t").unwrap();
    say("joined");
    if let Some(number) = given.find("number") {
        publisher.wait_for_subscribers(1, Some(WATCHDOG)).unwrap();
        publisher.send(&number).unwrap();
        say("sent");
    }
    assert_eq!(hear(), None);
}

/// Says each warning.
struct Warnings;

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, " {field}={value:?}").unwrap();
    }
}

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut line = Line("warned".into());
        event.record(&mut line);
        say(line.0);
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Build {
    This,
    Next,
}

impl Build {
    /// A process of this build that keeps the rules.
    #[track_caller]
    fn start(self, stage: &Stage, role: &str, settings: &[(&str, &dyn Display)]) -> Process {
        self.start_breaking("", stage, role, settings)
    }

    /// A process of this build that breaks one of the rules by which versions live together: see `bus_core::control::next`.
    #[track_caller]
    fn start_breaking(
        self,
        rule: &str,
        stage: &Stage,
        role: &str,
        settings: &[(&str, &dyn Display)],
    ) -> Process {
        let program = match self {
            Self::This => env::current_exe().unwrap(),
            Self::Next => env::var_os("BUS_NEXT_BUILD")
                .expect("scripts/builds.sh makes the other build, and says where it is")
                .into(),
        };
        let socket = stage.path.display();
        let mut all: Vec<(&str, &dyn Display)> = vec![("socket", &socket)];
        all.extend_from_slice(settings);
        Process::start_by(Command::new(program).env("BUS_NEXT", rule), role, &all)
    }

    /// A process that hosts the broker.
    #[track_caller]
    fn host(self, stage: &Stage) -> Process {
        self.host_breaking("", stage)
    }

    #[track_caller]
    fn host_breaking(self, rule: &str, stage: &Stage) -> Process {
        let mut host = self.start_breaking(rule, stage, "host", &[("embedded", &true)]);
        host.expect("listening");
        host
    }

    /// A process that sends when it is told to.
    #[track_caller]
    fn sender(self, stage: &Stage, subscribers: usize) -> Process {
        let settings: [(&str, &dyn Display); 3] = [
            ("tag", &(self as u64)),
            ("count", &EACH),
            ("subscribers", &subscribers),
        ];
        let mut sender = self.start(stage, "sender", &settings);
        sender.expect("joined");
        sender
    }

    /// A process that receives until its publishers have ended.
    #[track_caller]
    fn taker(self, stage: &Stage) -> Process {
        let mut taker = self.start(stage, "taker", &[]);
        taker.expect("joined");
        taker
    }

    /// Why a process of this build cannot open a topic.
    #[track_caller]
    fn refusal(self, rule: &str, stage: &Stage) -> String {
        self.start_breaking(rule, stage, "asker", &[])
            .expect("error")
    }
}

/// Lets all of them send, and checks that each taker receives everything.
fn exchange(mut senders: Vec<Process>, mut takers: Vec<Process>) {
    for sender in &mut senders {
        sender.tell("go");
    }
    for sender in &mut senders {
        assert_eq!(sender.number("sent"), EACH);
    }
    let publishers = senders.len() as u64;
    for mut sender in senders {
        sender.tell("leave");
        sender.finish();
    }
    for taker in &mut takers {
        let received = taker.expect("received");
        let all = format!("{publishers} {} ", publishers * EACH);
        assert!(received.starts_with(&all), "{received}");
    }
    takers.into_iter().for_each(Process::finish);
}

fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part:?} in: {text}");
    }
}

#[test]
#[ignore = "needs the other build: scripts/builds.sh"]
fn both_builds_exchange_on_one_topic_whichever_of_them_hosts() {
    for build in BOTH {
        let stage = Stage::new();
        let host = build.host(&stage);
        let takers = BOTH.map(|build| build.taker(&stage));
        let senders = BOTH.map(|build| build.sender(&stage, takers.len()));
        exchange(senders.into(), takers.into());
        if build == Build::Next {
            // That there was something to be ignored.
            let mut listener = Build::Next.start(&stage, "listener", &[]);
            listener.expect("heard");
            listener.finish();
        }
        host.finish();
    }
}

#[test]
#[ignore = "needs the other build: scripts/builds.sh"]
fn handles_go_on_with_a_broker_of_the_other_build() {
    for (first, second) in [(Build::This, Build::Next), (Build::Next, Build::This)] {
        let stage = Stage::new();
        let mut host = first.host(&stage);
        let mut takers = Vec::from(BOTH.map(|build| build.taker(&stage)));
        let senders = BOTH.map(|build| build.sender(&stage, takers.len() + 1));
        host.kill();
        host.reap();
        let host = second.host(&stage);
        takers.push(first.taker(&stage));
        exchange(senders.into(), takers);
        host.finish();
    }
}

#[test]
#[ignore = "needs the other build: scripts/builds.sh"]
fn a_message_that_may_not_be_ignored_is_refused_with_the_versions_of_both() {
    let stage = Stage::new();
    let host = Build::This.host(&stage);
    let said = Build::Next.refusal("demands", &stage);
    says(
        &said,
        &[
            "control message 17",
            "versions 2 to 2 of the protocol",
            "use builds of one version",
            "the client speaks versions 2 to 3",
        ],
    );
    // Nobody else has noticed.
    let takers = BOTH.map(|build| build.taker(&stage));
    let senders = BOTH.map(|build| build.sender(&stage, takers.len()));
    exchange(senders.into(), takers.into());
    host.finish();

    let stage = Stage::new();
    let host = Build::Next.host_breaking("demands", &stage);
    let said = Build::This.refusal("", &stage);
    says(
        &said,
        &[
            "control message 20",
            "versions 2 to 2 of the protocol",
            "use builds of one version",
            "the broker was to speak version 2",
        ],
    );
    exchange(
        vec![Build::Next.sender(&stage, 1)],
        vec![Build::Next.taker(&stage)],
    );
    host.finish();
}

#[test]
#[ignore = "needs the other build: scripts/builds.sh"]
fn builds_without_a_version_in_common_are_told_the_versions_of_both() {
    let advice = "use builds of one version";
    let stage = Stage::new();
    let host = Build::This.host(&stage);
    let said = Build::Next.refusal("newest", &stage);
    says(
        &said,
        &["client speaks versions 3 to 3", "broker 2 to 2", advice],
    );
    host.finish();

    let stage = Stage::new();
    let host = Build::Next.host_breaking("newest", &stage);
    let said = Build::This.refusal("", &stage);
    says(
        &said,
        &["client speaks versions 2 to 2", "broker 3 to 3", advice],
    );
    host.finish();
}

#[test]
#[ignore = "needs the other build: scripts/builds.sh"]
fn a_segment_that_its_reader_must_know_more_of_is_refused_and_others_are_read() {
    let stage = Stage::new();
    let host = Build::This.host(&stage);
    let mut reader = Build::This.start(&stage, "reader", &[]);
    reader.expect("joined");
    let mut newer = Build::Next.start_breaking("segments", &stage, "writer", &[]);
    newer.expect("joined");
    let mut writer = Build::Next.start(&stage, "writer", &[("number", &5)]);
    writer.expect("joined");
    writer.expect("sent");
    reader.tell("next");
    let warned = reader.expect("warned");
    says(
        &warned,
        &["needs feature bit 0", "build this side with that one"],
    );
    assert_eq!(reader.number("number"), 5);
    for process in [newer, writer, reader] {
        process.finish();
    }
    host.finish();

    // The registry is the broker's.
    let stage = Stage::new();
    let host = Build::Next.host_breaking("segments", &stage);
    let said = Build::This.refusal("", &stage);
    says(
        &said,
        &["needs feature bit 0", "build this side with that one"],
    );
    host.finish();
}
