//! A stage whose broker is hosted by a process of its own, and a bus that never spins: who waits sleeps.

use std::fmt::Display;
use std::time::Duration;

use bus_client::{Bus, Publisher, Subscriber};

use super::process::Process;
use super::roles::start_host;

/// The stage.
pub struct Hosted {
    dir: tempfile::TempDir,
    /// The process that hosts the broker, and does nothing else.
    pub host: Process,
    /// The test's own way in.
    pub bus: Bus,
}

impl Hosted {
    /// Starts the host and connects.
    #[track_caller]
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bus.sock");
        let host = start_host(&path);
        let bus = Bus::builder("test").socket(&path).embedded(false);
        let bus = bus.spin(Duration::ZERO).connect().unwrap();
        Self { dir, host, bus }
    }

    /// Starts a role here, which does not spin either.
    #[track_caller]
    pub fn start(&self, role: &str, settings: &[(&str, &dyn Display)]) -> Process {
        let path = self.dir.path().join("bus.sock");
        let path = path.display();
        let mut all: Vec<(&str, &dyn Display)> = vec![("spin", &0), ("socket", &path)];
        all.extend(settings);
        Process::start(role, &all)
    }

    /// A subscriber of this process.
    pub fn subscribe(&self, topic: &str) -> Subscriber<u64> {
        self.bus.subscriber(topic).unwrap()
    }

    /// A publisher of this process.
    pub fn publish(&self, topic: &str) -> Publisher<u64> {
        self.bus.publisher(topic).unwrap()
    }
}
