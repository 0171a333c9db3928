//! The script of an episode: which steps, in which order. It depends on the seed alone, never on what the steps do, so
//! that a script with fewer steps means the same for those that are left.

use fastrand::Rng;

use super::client::HANDLES;

/// One step. `process` is a slot for processes, `handle` a slot for handles of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A process starts.
    Start { process: usize },
    /// It is killed.
    Kill { process: usize },
    /// It is stopped by a signal.
    Stop { process: usize },
    /// It goes on.
    Continue { process: usize },
    /// It connects to the broker.
    Connect { process: usize },
    /// It reads messages; the descriptors of one are lost.
    Read {
        process: usize,
        most: usize,
        acknowledges: bool,
        lost: Option<usize>,
    },
    /// It and the broker do what there is to do between them.
    Turn { process: usize },
    /// It asks again for what it lacks.
    LookAround { process: usize },
    /// It opens a topic; with a history of 2, it has a wish that publishers do not grant.
    Open {
        process: usize,
        handle: usize,
        topic: usize,
        publisher: bool,
        history: u32,
    },
    /// It begins to watch.
    Watch { process: usize, handle: usize },
    /// It joins.
    Join { process: usize, handle: usize },
    /// It publishes.
    Publish { process: usize, handle: usize },
    /// It has done with a ring.
    Release {
        process: usize,
        handle: usize,
        ring: usize,
    },
    /// It may park from now on.
    Doorbell { process: usize, handle: usize },
    /// It finds a peer parked.
    Wake { process: usize, handle: usize },
    /// It drops a handle.
    Close { process: usize, handle: usize },
    /// A publisher comes, publishes and goes.
    Cycle {
        process: usize,
        handle: usize,
        topic: usize,
    },
    /// Its socket has room for so many messages.
    Room { process: usize, messages: usize },
    /// The kernel refuses so many messages to it.
    Later { process: usize, times: u32 },
    /// The broker serves it.
    Serve {
        process: usize,
        requests: usize,
        deaths_first: bool,
        millis: u64,
    },
    /// The kernel has no memory for so many registries.
    NoMemory { times: u32 },
    /// Time passes.
    Wait { millis: u64 },
    /// The broker is killed.
    KillBroker,
    /// The broker is told to stop, or yields.
    EndBroker,
    /// A broker starts; the lock file may be gone.
    StartBroker { lost: bool },
    /// Everybody goes on until nothing is left to be done, and everything has to be as it should.
    Settle,
}

/// What an episode is like.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// Slots for processes.
    pub(crate) processes: usize,
    pub(crate) topics: usize,
    /// Messages that a socket has room for.
    pub(crate) room: usize,
    /// Of 1000 steps, so many are faults of processes and of the broker.
    pub(crate) faults: u32,
    /// Subscribers seldom release rings.
    pub(crate) hoards: bool,
    /// The policy of the broker.
    pub(crate) policy: String,
}

impl Setup {
    /// An episode like no other.
    pub(crate) fn draw(random: &mut Rng) -> Self {
        let processes = match random.u32(..20) {
            0 => 1000,
            1 | 2 => random.usize(50..200),
            3..8 => random.usize(12..40),
            _ => random.usize(2..10),
        };
        let topics = match random.u32(..3) {
            0 => 1,
            1 => random.usize(2..4),
            _ => random.usize(4..16),
        };
        let stall = random.bool();
        let may = match random.u32(..3) {
            0 => "\"subscribe\"",
            _ => "\"publish\", \"subscribe\"",
        };
        let mut policy =
            format!("[[allow]]\ntopics = \"**\"\nusers = [1001]\nmay = [{may}]\nstall = {stall}\n");
        if random.u32(..3) == 0 {
            policy += "[[limits.user]]\nusers = [1001]\npublishers = 4\nsubscriptions = 5\ntopics = 2\nregistrations = 20\n";
        }
        Self {
            processes,
            topics,
            room: [2, 4, 16, 200][random.usize(..4)],
            faults: [0, 2, 5, 20][random.usize(..4)],
            hoards: random.u32(..4) == 0,
            policy,
        }
    }

    /// Draws a script.
    pub(crate) fn script(&self, random: &mut Rng, steps: usize) -> Vec<Step> {
        let mut script = Vec::with_capacity(steps);
        script.push(Step::StartBroker { lost: false });
        script.push(Step::Wait { millis: 1000 });
        for process in 0..self.processes.min(steps / 4) {
            script.push(Step::Start { process });
            script.push(Step::Connect { process });
        }
        while script.len() < steps {
            script.push(self.step(random));
        }
        script
    }

    fn step(&self, random: &mut Rng) -> Step {
        if random.u32(..1000) < self.faults {
            return self.fault(random);
        }
        let process = random.usize(..self.processes);
        let handle = random.usize(..HANDLES);
        let topic = random.usize(..self.topics);
        let release = if self.hoards { 1 } else { 40 };
        let cycle = if self.hoards { 80 } else { 15 };
        let weights = [
            ("turn", 250),
            ("serve", 150),
            ("read", 130),
            ("connect", 30),
            ("start", 30),
            ("open", 90),
            ("join", 60),
            ("publish", 80),
            ("close", 25),
            ("doorbell", 10),
            ("wake", 3),
            ("watch", 6),
            ("look", 30),
            ("continue", 15),
            ("room", 12),
            ("later", 6),
            ("wait", 25),
            ("broker", 10),
            ("settle", 1),
            ("release", release),
            ("cycle", cycle),
        ];
        let total: u32 = weights.iter().map(|(_, weight)| weight).sum();
        let mut left = random.u32(..total);
        let mut chosen = "serve";
        for (what, weight) in weights {
            if left < weight {
                chosen = what;
                break;
            }
            left -= weight;
        }
        match chosen {
            "read" => Step::Read {
                process,
                most: [1, 2, 8, 1000][random.usize(..4)],
                acknowledges: random.u32(..6) > 0,
                lost: (random.u32(..12) == 0).then(|| random.usize(..3)),
            },
            "turn" => Step::Turn { process },
            "connect" => Step::Connect { process },
            "start" => Step::Start { process },
            "open" => Step::Open {
                process,
                handle,
                topic,
                publisher: random.bool(),
                history: [0, 0, 0, 1, 1, 2][random.usize(..6)],
            },
            "join" => Step::Join { process, handle },
            "publish" => Step::Publish { process, handle },
            "close" => Step::Close { process, handle },
            "doorbell" => Step::Doorbell { process, handle },
            "wake" => Step::Wake { process, handle },
            "watch" => Step::Watch { process, handle },
            "look" => Step::LookAround { process },
            "continue" => Step::Continue { process },
            "room" => Step::Room {
                process,
                messages: random.usize(..self.room + 1),
            },
            "later" => Step::Later {
                process,
                times: random.u32(1..4),
            },
            "wait" => Step::Wait {
                millis: [1, 10, 100, 1000][random.usize(..4)],
            },
            "broker" => Step::StartBroker { lost: false },
            "settle" => Step::Settle,
            "release" => Step::Release {
                process,
                handle,
                ring: random.usize(..8),
            },
            "cycle" => Step::Cycle {
                process,
                handle,
                topic,
            },
            _ => Step::Serve {
                process,
                requests: [1, 2, 16][random.usize(..3)],
                deaths_first: random.bool(),
                millis: random.u64(..3),
            },
        }
    }

    fn fault(&self, random: &mut Rng) -> Step {
        let process = random.usize(..self.processes);
        match random.u32(..10) {
            0..3 => Step::Kill { process },
            3..5 => Step::Stop { process },
            5 => Step::KillBroker,
            6 => Step::EndBroker,
            7 => Step::StartBroker {
                lost: random.u32(..4) == 0,
            },
            8 => Step::NoMemory {
                times: random.u32(1..3),
            },
            _ => Step::Continue { process },
        }
    }
}
