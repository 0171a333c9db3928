//! What a broker writes into the log: its own, and that of the program that hosts it.

mod common;

use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bus_core::control::{Connection, Role};
use common::{Busd, Handle, Host, refusal, until};

/// What was logged, as text.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Kept {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Joins and leaves; returns when the broker has noticed.
fn come_and_go(path: &std::path::Path) {
    let publisher = Handle::open(path, Role::Publisher, "t").joined();
    let subscriber = Handle::open(path, Role::Subscriber, "t").joined();
    drop(publisher);
    let left = subscriber.version.wrapping_add(1);
    until(|| subscriber.registry().publishers() == left);
}

#[test]
fn handles_that_come_and_go_are_no_news_in_the_log_of_a_program_that_hosts_the_broker() {
    let kept = Kept::default();
    let writer = kept.clone();
    let log = tracing_subscriber::fmt().with_ansi(false);
    let log = log.with_max_level(tracing::Level::TRACE);
    log.with_writer(move || writer.clone()).init();
    let mut host = Host::new();
    come_and_go(&host.path);
    host.stop();
    let text = kept.text();
    let of = |word: &str| text.lines().filter(|line| line.contains(word)).count();
    assert!(of(" joined ") == 2 && of("topic created") == 1, "{text}");
    let news: Vec<_> = text
        .lines()
        .filter(|line| !line.contains("DEBUG"))
        .collect();
    assert_eq!(news.len(), 2, "{news:?}");
    assert!(
        news[0].contains("listening on") && news[1].contains("stopped"),
        "{news:?}"
    );
}

#[test]
fn busd_says_who_comes_and_goes() {
    let dir = tempfile::tempdir().unwrap();
    let mut busd = Busd::start(&dir.path().join("bus.sock"), "");
    come_and_go(&busd.path);
    for line in ["topic created", "joined", "joined", "left"] {
        assert!(busd.wait_for(line).contains("INFO"));
    }
}

#[test]
fn a_user_that_is_turned_away_again_and_again_costs_a_line_a_second() {
    const TIMES: usize = 300;
    let dir = tempfile::tempdir().unwrap();
    let policy = dir.path().join("bus.toml");
    let own = nix::unistd::geteuid();
    let text = format!("[[limits.user]]\nusers = [{own}]\nconnections = 1\n");
    std::fs::write(&policy, text).unwrap();
    let setup = format!("export BUS_POLICY={}", policy.display());
    let mut busd = Busd::start(&dir.path().join("bus.sock"), &setup);
    let start = Instant::now();
    let _first = Handle::open(&busd.path, Role::Publisher, "t").joined();
    for _ in 0..TIMES {
        refusal(&Connection::connect(&busd.path).unwrap());
    }
    let most = 2 + start.elapsed().as_secs() as usize;
    busd.child.kill().unwrap();
    let mut log = String::new();
    busd.child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut log)
        .unwrap();
    let lines = log.lines().filter(|line| line.contains("WARN")).count();
    assert!((1..=most).contains(&lines), "{lines} lines: {log}");
}
