//! The side of a process that plays a role: what it was given, what it says, what it hears.

use std::env;
use std::fmt::Display;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::str::FromStr;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use bus_client::{Bus, TopicBuilder};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

use super::process::ROLE;

/// A role and its name.
pub type Part = (&'static str, fn(&Given));

/// Plays the role that this process was started for. Does nothing in a process that was not started for one.
pub fn play(parts: &[Part]) {
    let Ok(name) = env::var(ROLE) else {
        return;
    };
    // Nothing of a test that ends early stays behind.
    set_pdeathsig(Signal::SIGKILL).unwrap();
    let part = parts.iter().find(|(known, _)| *known == name);
    let (_, part) = part.unwrap_or_else(|| panic!("no role {name:?} in this test"));
    part(&Given);
}

/// The settings of a role.
pub struct Given;

impl Given {
    /// A setting that the test gave, if it did.
    pub fn find<T: FromStr>(&self, key: &str) -> Option<T> {
        let value = env::var(format!("{ROLE}_{key}")).ok()?;
        match value.parse() {
            Ok(value) => Some(value),
            Err(_) => panic!("setting {key}: {value:?} makes no sense"),
        }
    }

    /// A setting that the test must give.
    pub fn get<T: FromStr>(&self, key: &str) -> T {
        self.find(key)
            .unwrap_or_else(|| panic!("setting {key} is missing"))
    }

    /// A setting with a value of its own.
    pub fn or<T: FromStr>(&self, key: &str, default: T) -> T {
        self.find(key).unwrap_or(default)
    }

    /// The bus at the test's socket, under the role's name. It never hosts a broker, unless the test says so.
    pub fn bus(&self) -> Bus {
        let mut bus = Bus::builder(self.or("name", env::var(ROLE).unwrap()))
            .socket(self.get::<String>("socket"))
            .embedded(self.or("embedded", false));
        if let Some(micros) = self.find("spin") {
            bus = bus.spin(Duration::from_micros(micros));
        }
        bus.connect().unwrap()
    }

    /// The topic of the test, with the settings that it gave.
    pub fn topic(&self, bus: &Bus) -> TopicBuilder {
        let mut topic = bus.topic(self.or("topic", "t".to_owned())).unwrap();
        if let Some(depth) = self.find("depth") {
            topic = topic.depth(depth);
        }
        if let Some(stride) = self.find("stride") {
            topic = topic.stride(stride);
        }
        if let Some(keep) = self.find("keep") {
            topic = topic.keep(keep);
        }
        if let Some(retain) = self.find("retain") {
            topic = topic.retain(retain);
        }
        topic
    }
}

/// Tells the test something, as one line.
pub fn say(line: impl Display) {
    let mut text = String::new();
    // The harness may have left its line unfinished.
    writeln!(text, "\n@{line}").unwrap();
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).unwrap();
    out.flush().unwrap();
}

/// The next line from the test; none when there will be no more.
pub fn hear() -> Option<String> {
    let mut line = String::new();
    match io::stdin().read_line(&mut line).unwrap() {
        0 => None,
        _ => Some(line.trim_end().to_owned()),
    }
}

/// Waits until the test says this.
pub fn wait_for(word: &str) {
    assert_eq!(hear().as_deref(), Some(word));
}

/// The test's lines, read on a thread of their own, for roles that have no time to wait for one.
pub fn lines() -> Receiver<String> {
    let (sender, lines) = channel();
    thread::spawn(move || while hear().is_some_and(|line| sender.send(line).is_ok()) {});
    lines
}
