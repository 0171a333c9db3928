//! What a hostile client does to the broker, over and over until it is killed.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use bus_core::control::{
    Connection, Event, KnownPeer, MAX_PACKET, Message, Request, Role, SESSION,
};
use bus_core::schema::Schema;
use bus_core::{Delivery, Settings};
use fastrand::Rng;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::member::{HANDLE, Member, hello, open};
use super::zoo::{Zoo, lingering, send};
use crate::process::{say, settings};

/// The name of the role.
pub const ROLE: &str = "hostile-client";

/// Connections that it has at a time.
const CONNECTIONS: usize = 300;
/// Connections that it makes before it waits for the broker to take them.
const QUEUED: u64 = 64;
/// How long it waits for an answer when it is still honest.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often it says how much it has done.
const TELL: Duration = Duration::from_millis(50);
/// How long a socket that is to linger does, in seconds.
const LINGER: i32 = 20;

/// A kind of attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Attack {
    /// Packets that are none: truncated, too long, of another version, with bits turned over, random.
    Malformed,
    /// Good requests in any order, with any descriptors.
    OutOfOrder,
    /// Descriptors that are wrong, too many, unsealed, of another size, with requests that want some.
    Descriptors,
    /// Requests without end, and no answer is read.
    Flood,
    /// Members and watches that never read, while others come and go.
    NeverReads,
    /// Connections without end: some say nothing, some go at once.
    Connections,
    /// As many topics as there can be, with long descriptions and odd settings.
    Topics,
    /// Sockets whose `close` waits.
    Lingering,
}

/// All of them.
pub const ALL: [Attack; 8] = [
    Attack::Malformed,
    Attack::OutOfOrder,
    Attack::Descriptors,
    Attack::Flood,
    Attack::NeverReads,
    Attack::Connections,
    Attack::Topics,
    Attack::Lingering,
];

/// What a hostile client is to do.
#[derive(Debug, Serialize, Deserialize)]
pub struct Given {
    /// Where the broker is.
    pub socket: PathBuf,
    /// What to do to it.
    pub attack: Attack,
    /// Decides all choices.
    pub seed: u64,
}

/// Attacks until it is killed.
///
/// # Errors
/// The run is gone, or it cannot even begin.
pub fn play(given: Value) -> Result<()> {
    let given: Given = settings(given)?;
    let mut client = Client {
        path: &given.socket,
        random: Rng::with_seed(given.seed),
        zoo: Zoo::new()?,
        connections: VecDeque::new(),
        members: Vec::new(),
        connected: 0,
        keep: Vec::new(),
    };
    let mut sent = 0_u64;
    let mut told = Instant::now();
    say("sent 0")?;
    loop {
        for _ in 0..16 {
            // What the broker thinks of it, and whether it is there, is not this client's concern.
            sent += client.attack(given.attack).unwrap_or(0);
            if told.elapsed() >= TELL {
                say(&format!("sent {sent}"))?;
                told = Instant::now();
            }
        }
    }
}

struct Client<'a> {
    path: &'a Path,
    random: Rng,
    zoo: Zoo,
    connections: VecDeque<Connection>,
    members: Vec<Member>,
    connected: u64,
    keep: Vec<OwnedFd>,
}

impl Client<'_> {
    /// Attacks once; how many messages that was.
    fn attack(&mut self, attack: Attack) -> Result<u64> {
        match attack {
            Attack::Malformed => self.malformed(),
            Attack::OutOfOrder => self.out_of_order(),
            Attack::Descriptors => self.descriptors(),
            Attack::Flood => self.flood(),
            Attack::NeverReads => self.never_reads(),
            Attack::Connections => self.connect_only(),
            Attack::Topics => self.topics(),
            Attack::Lingering => self.linger(),
        }
    }

    /// A new connection. Now and then it waits for the broker, for who only queues up is another attack.
    fn connect(&mut self) -> Result<Connection> {
        self.connected += 1;
        let connection = Connection::connect(self.path)?;
        if self.connected.is_multiple_of(QUEUED) {
            let last = Connection::connect(self.path)?;
            send(&last, b"?", &[])?;
            let _ = last.recv::<Event>(Some(Instant::now() + PATIENCE));
        }
        Ok(connection)
    }

    /// A new connection that the broker has answered: the kernel takes no descriptors for one that it has not accepted.
    fn welcome(&mut self) -> Result<Connection> {
        let connection = self.connect()?;
        connection.send(SESSION, &hello(0), &[])?;
        connection.recv::<Event>(Some(Instant::now() + PATIENCE))?;
        Ok(connection)
    }

    /// Some connection: most of the time a new one.
    fn connection(&mut self) -> Result<&Connection> {
        if self.connections.is_empty() || self.random.u8(..4) > 0 {
            if self.connections.len() >= CONNECTIONS {
                self.connections.pop_front();
            }
            let new = self.connect()?;
            if self.random.u8(..8) > 0 {
                let reclaims = self.random.u32(..3);
                new.send(SESSION, &hello(reclaims), &[])?;
            }
            self.connections.push_back(new);
        }
        let which = self.random.usize(..self.connections.len());
        Ok(&self.connections[which])
    }

    fn malformed(&mut self) -> Result<u64> {
        let request = self.request();
        let handle = self.handle();
        let mut bytes = request.pack(handle)?.as_bytes().to_vec();
        let random = &mut self.random;
        match random.u8(..8) {
            0 => bytes.truncate(random.usize(..bytes.len())),
            1 => bytes.resize(random.usize(..MAX_PACKET + 2), random.u8(..)),
            2 => bytes = (0..random.usize(1..400)).map(|_| random.u8(..)).collect(),
            3 => {
                let prefix = random.usize(..16);
                bytes[prefix] = random.u8(..);
            }
            4 => {
                let from = random.usize(16..=bytes.len());
                random.fill(&mut bytes[from..]);
            }
            _ => {
                for _ in 0..random.usize(1..5) {
                    let at = random.usize(..bytes.len());
                    bytes[at] ^= 1 << random.u8(..8);
                }
            }
        }
        if bytes.is_empty() {
            bytes.push(0);
        }
        send(self.connection()?, &bytes, &[])?;
        Ok(1)
    }

    /// A good request, though perhaps not now.
    fn request(&mut self) -> Request {
        let random = &mut self.random;
        let topic = format!("hostile/{}", random.u8(..20));
        let role = if random.bool() {
            Role::Publisher
        } else {
            Role::Subscriber
        };
        match random.u8(..20) {
            0..=4 => open(role, &topic, small(random)),
            5 => Request::Watch {
                pattern: "**".into(),
                schema: Schema::bytes(),
                reclaims: random.bool().then(|| random.u64(..40)),
            },
            6 => Request::Decline {
                topic: random.u64(..50),
            },
            7 => Request::Released {
                ring: random.u64(..64),
            },
            8 => Request::RegisterDoorbell {},
            9 => Request::Wake {},
            10 => Request::ReclaimComplete {},
            11 => Request::Retell {},
            12 => Request::Received {
                descriptors: random.u32(..12),
            },
            13 => reclaim(random, role, topic),
            14 => Request::PresentPeers {
                peers: (0..random.usize(..200)).map(|_| peer(random)).collect(),
            },
            15 => Request::PresentProcess {
                process: random.u64(..100),
                pid: random.u32(..),
                user: random.u32(..),
                client: topic,
            },
            16 => Request::Close {},
            17 => hello(random.u32(..3)),
            _ => Request::Join {},
        }
    }

    /// The number of a handle: one of a few, that of the session, or any.
    fn handle(&mut self) -> u32 {
        match self.random.u8(..16) {
            0 => self.random.u32(..),
            1..=4 => SESSION,
            _ => self.random.u32(1..5),
        }
    }

    fn out_of_order(&mut self) -> Result<u64> {
        let request = self.request();
        let packet = request.pack(self.handle())?;
        let most = if self.random.u8(..4) == 0 { 4 } else { 0 };
        self.connection()?;
        let which = self.random.usize(..self.connections.len());
        let descriptors = self.zoo.some(&mut self.random, most);
        send(&self.connections[which], packet.as_bytes(), &descriptors)?;
        Ok(1)
    }

    /// Opens a topic as it should, and then sends what is not what it should be.
    fn descriptors(&mut self) -> Result<u64> {
        let role = if self.random.bool() {
            Role::Publisher
        } else {
            Role::Subscriber
        };
        let connection = self.welcome()?;
        let settings = small(&mut self.random);
        connection.send(HANDLE, &open(role, "hostile/descriptors", settings), &[])?;
        let most = [1, 1, 4, 5, 253][self.random.usize(..5)];
        let mut descriptors = self.zoo.some(&mut self.random, most);
        if self.random.u8(..8) == 0 {
            // The connection in its own queue.
            descriptors.push(connection.as_fd());
            descriptors.truncate(253);
        }
        let request = if self.random.u8(..4) == 0 {
            Request::RegisterDoorbell {}
        } else {
            Request::Join {}
        };
        send(&connection, request.pack(HANDLE)?.as_bytes(), &descriptors)?;
        if self.connections.len() >= CONNECTIONS {
            self.connections.pop_front();
        }
        self.connections.push_back(connection);
        Ok(2)
    }

    fn flood(&mut self) -> Result<u64> {
        if self.members.len() < 4 {
            let role = if self.members.len().is_multiple_of(2) {
                Role::Subscriber
            } else {
                Role::Publisher
            };
            let topic = "hostile/flood";
            let member = Member::join(self.path, role, topic, Settings::default(), PATIENCE)?;
            self.members.push(member);
        }
        let wake = Request::Wake {}.pack(HANDLE)?;
        let released = Request::Released { ring: 3 }.pack(HANDLE)?;
        let mut sent = 0;
        for (number, member) in self.members.iter().enumerate() {
            let packet = if number % 2 == 0 { &released } else { &wake };
            while send(&member.connection, packet.as_bytes(), &[]).is_ok() && sent < 10_000 {
                sent += 1;
            }
        }
        Ok(sent)
    }

    /// Eight of each kind that never read, and one more that comes and goes.
    fn never_reads(&mut self) -> Result<u64> {
        let topic = "hostile/silent";
        let join = |path, role| Member::join(path, role, topic, Settings::default(), PATIENCE);
        if self.members.len() < 16 {
            let role = if self.members.len().is_multiple_of(2) {
                Role::Subscriber
            } else {
                Role::Publisher
            };
            self.members.push(join(self.path, role)?);
            let watch = self.connect()?;
            watch.send(SESSION, &hello(0), &[])?;
            let request = Request::Watch {
                pattern: "hostile/**".into(),
                schema: Schema::bytes(),
                reclaims: None,
            };
            watch.send(HANDLE, &request, &[])?;
            self.connections.push_back(watch);
        }
        join(self.path, Role::Subscriber)?;
        let passing = format!("hostile/passing/{}", self.random.u32(..));
        let connection = self.connect()?;
        connection.send(SESSION, &hello(0), &[])?;
        let request = open(Role::Publisher, &passing, Settings::default());
        connection.send(HANDLE, &request, &[])?;
        Ok(4)
    }

    fn connect_only(&mut self) -> Result<u64> {
        let connection = Connection::connect(self.path)?;
        if self.random.bool() {
            connection.send(SESSION, &hello(0), &[])?;
            let request = open(Role::Subscriber, "hostile/many", Settings::default());
            connection.send(HANDLE, &request, &[])?;
        }
        if self.random.u8(..8) > 0 {
            if self.connections.len() >= CONNECTIONS {
                self.connections.pop_front();
            }
            self.connections.push_back(connection);
        }
        Ok(1)
    }

    fn topics(&mut self) -> Result<u64> {
        let mut schema = Schema::bytes();
        let fields = Schema::of::<(u32, f64)>().fields;
        for _ in 0..self.random.usize(..600) {
            schema.fields.push(fields[0].clone());
        }
        let settings = Settings {
            depth: Some(1 << self.random.u32(..32)),
            stride: Some(64 * self.random.u32(..1200)),
            max_payload: Some(self.random.u64(..1 << 31)),
            arena: Some(64 * self.random.u64(..1 << 34)),
            retain: Some(self.random.u32(..70)),
            ..Settings::default()
        };
        let plain = self.random.bool();
        let request = Request::Open {
            role: Role::Publisher,
            topic: format!("hostile/topics/{}", self.random.u16(..)),
            schema: if plain { Schema::bytes() } else { schema },
            settings: if plain { Settings::default() } else { settings },
            history: self.random.u32(..4),
            watched: None,
        };
        let connection = self.connect()?;
        connection.send(SESSION, &hello(0), &[])?;
        connection.send(HANDLE, &request, &[])?;
        if self.connections.len() >= CONNECTIONS {
            self.connections.pop_front();
        }
        self.connections.push_back(connection);
        Ok(1)
    }

    /// Sends the last descriptor of a socket that lingers; some with a request that wants none, some in a packet that is none, some too many
    /// at once, and some so that they are never read.
    fn linger(&mut self) -> Result<u64> {
        let (socket, peer) = lingering(LINGER)?;
        // Ended only with this process, for until then nobody takes what was sent.
        self.keep.push(peer);
        let connection = self.welcome()?;
        let wake = Request::Wake {}.pack(SESSION)?;
        let many = [socket.as_fd(); 9];
        match self.random.u8(..4) {
            0 => send(&connection, wake.as_bytes(), &[socket.as_fd()])?,
            1 => send(&connection, b"nothing", &[socket.as_fd()])?,
            2 => send(&connection, wake.as_bytes(), &many)?,
            _ => {
                // After the first, nothing more is read.
                send(&connection, b"nothing", &[])?;
                send(&connection, wake.as_bytes(), &[socket.as_fd()])?;
            }
        }
        // Where the broker was faster than this, it is this side that waits.
        thread::spawn(move || drop(socket));
        thread::sleep(TELL);
        Ok(1)
    }
}

/// A handle of another process, as if it were this client's, at another broker.
fn reclaim(random: &mut Rng, role: Role, topic: String) -> Request {
    let settings = small(random).decide(&Schema::bytes());
    match settings {
        Ok(settings) => Request::Reclaim {
            role,
            topic,
            schema: Schema::bytes(),
            settings,
            id: random.u64(..100),
            index: random.u16(..70),
            watch: random.bool().then(|| random.u64(..40)),
            closed: random.u8(..8) == 0,
            since: random.u64(..4),
            foreign: random.bool(),
        },
        Err(_) => Request::ReclaimComplete {},
    }
}

/// A peer that nobody knows, or that somebody else is.
fn peer(random: &mut Rng) -> KnownPeer {
    KnownPeer {
        id: random.u64(..100),
        process: random.u64(..100),
        index: random.u16(..70),
        left: random.bool(),
        doorbell: random.bool(),
    }
}

/// Settings of a small topic, of any delivery.
fn small(random: &mut Rng) -> Settings {
    let delivery = match random.u8(..4) {
        0 => Delivery::Wait,
        1 => Delivery::Fail,
        2 => Delivery::Evict { after_us: 1000 },
        _ => Delivery::Lossy,
    };
    Settings {
        depth: Some(2 << random.u32(..4)),
        delivery: random.bool().then_some(delivery),
        ..Settings::default()
    }
}
