//! A process, maybe of another user, that does on the bus what it is told, a line at a time.
//!
//! ```text
//!  take ROLE TOPIC [KEY=VALUE...]   opens and joins on a session of its own; "ok 0" with the number of the handle, or
//!                                   "refused KIND why"
//!  open ROLE TOPIC [KEY=VALUE...]   the same without joining
//!  watch PATTERN                    the same for a watch
//!  give N                           lets go of a handle and its session; "ok"
//!  next N                           the next event of a handle, as Rust shows it, and how many descriptors came with it
//!  early N                          the same of each event that came while it joined
//!  notify N                         gives a handle a doorbell, and tells the broker; "ok"
//!  rung N                           waits until that is rung; "ok"
//!  foreign N                        whether a handle's registry says that there is a second
//!                                   user; "ok true" or "ok false"
//!  wake N                           asks the broker to wake the other side; "ok"
//!  return N                         presents a handle to the next broker; "ok" or "refused KIND why"
//!  complete N                       says that this was all; "ok"
//!  greet N                          connects to the next broker as a process that comes back, and presents nothing; "ok"
//!  hang N                           hangs up the session of a handle that it still has; "ok"
//!  pretend A B                      connects with this secret; "ok" or "refused KIND why"
//!  churn TIMES TOPIC                joins and leaves so often, one after the other; "ok" or the first refusal
//!  flood TIMES TOPIC                opens so often, as fast as it can; "ok" with how many were refused, and one of the
//!                                   refusals
//!  idle SESSIONS TIMES TOPIC        lets sessions subscribe that never read again, then publishers join so
//!                                   often, one after the other; all lossy; "ok" or the first
//!                                   refusal
//!  foul WAY FILE TIMES              connects, and sends one packet with so many descriptors of a file: "Retell", or
//!                                   bytes that are no request; "refused KIND why"
//!  ask N                            sends something on the session of a handle that is refused; "ok"
//!  told N                           waits for the refusal of what was asked last; "ok"
//!  limit N                          may have so many descriptors from now on; "ok"
//!  yield                            asks the broker to end; "ok" or "refused KIND why"
//!  serve PATH [POLICY]              hosts a broker there; "ok"
//!  reach                            connects, and no more; "ok" or "refused Connection why"
//! ```
//! Only root can become somebody else: a test that starts one of another user asks `needs::root` first.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;

use bus_core::Delivery;
use bus_core::control::{Connection, Event, Message, Refusal, Request, Role, SESSION, Secret};
use bus_daemon::policy::Source;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Gid, Uid, geteuid, setgid, setgroups, setuid};

use super::session::Told;
use super::{Greeting, Handle, LONG, Session, open_request, refusal, send_with, watch_request};

/// The test that becomes the process.
const ENTRY: &str = "common::actor::an_actor";

/// The process, seen from the test.
pub struct Actor {
    pub child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Actor {
    /// A process of this test's own user.
    pub fn own(socket: &Path) -> Self {
        Self::start(socket, geteuid().as_raw(), &[])
    }

    /// A process of this user, and of these groups beside the one of the same number.
    pub fn start(socket: &Path, uid: u32, groups: &[u32]) -> Self {
        Self::start_with(socket, uid, groups, &[])
    }

    /// The same, with this in its environment.
    pub fn start_with(socket: &Path, uid: u32, groups: &[u32], set: &[(&str, &str)]) -> Self {
        let groups: Vec<_> = groups.iter().map(u32::to_string).collect();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", ENTRY, "--ignored", "--nocapture"])
            .env("ACTOR_SOCKET", socket)
            .env("ACTOR_UID", uid.to_string())
            .env("ACTOR_GROUPS", groups.join(","))
            .envs(set.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut actor = Self {
            child,
            stdin,
            stdout: BufReader::new(stdout),
        };
        assert_eq!(actor.read(), "here");
        actor
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Tells it to do something; what it says.
    pub fn tell(&mut self, line: &str) -> String {
        writeln!(self.stdin, "{line}").unwrap();
        self.read()
    }

    /// Tells it to do something that must go well; what it says after "ok".
    pub fn ok(&mut self, line: &str) -> String {
        let said = self.tell(line);
        match said.strip_prefix("ok") {
            Some(rest) => rest.trim().to_owned(),
            None => panic!("{line}: {said}"),
        }
    }

    /// Tells it to do something that must be refused so; why.
    pub fn refused(&mut self, line: &str, kind: &str) -> String {
        let said = self.tell(line);
        match said.strip_prefix(&format!("refused {kind} ")) {
            Some(why) => why.to_owned(),
            None => panic!("{line}: {said}"),
        }
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn read(&mut self) -> String {
        loop {
            let mut line = String::new();
            let length = self.stdout.read_line(&mut line).unwrap();
            assert!(length > 0, "the actor ended");
            // The test harness writes on the same line, and around it.
            if let Some((_, said)) = line.split_once("actor: ") {
                return said.trim_end().to_owned();
            }
        }
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Not a test of its own: what the process does.
#[test]
#[ignore = "is started by other tests as a process of its own"]
fn an_actor() {
    let Ok(socket) = std::env::var("ACTOR_SOCKET") else {
        return;
    };
    let id = |text: &str| text.parse::<u32>().unwrap();
    let uid = id(&std::env::var("ACTOR_UID").unwrap());
    let groups = std::env::var("ACTOR_GROUPS").unwrap();
    let groups: Vec<_> = groups.split(',').filter(|g| !g.is_empty()).collect();
    let groups: Vec<_> = groups.into_iter().map(|g| Gid::from_raw(id(g))).collect();
    if geteuid().as_raw() != uid {
        setgroups(&groups).unwrap();
        setgid(Gid::from_raw(uid)).unwrap();
        setuid(Uid::from_raw(uid)).unwrap();
    }
    let mut stage = Stage {
        socket: socket.into(),
        handles: Vec::new(),
        brokers: Vec::new(),
        asked: None,
    };
    println!("actor: here");
    for line in std::io::stdin().lines() {
        let Ok(line) = line else { return };
        let said = stage.perform(&line).unwrap_or_else(|refused| refused);
        println!("actor: {}", said.replace('\n', " "));
    }
}

struct Stage {
    socket: std::path::PathBuf,
    handles: Vec<Option<Held>>,
    brokers: Vec<bus_daemon::BrokerThread>,
    /// What was asked last and is not answered.
    asked: Option<u32>,
}

enum Held {
    Member(Box<Handle>, Vec<String>),
    Watch(Arc<Session>, u32),
}

/// An event, and how many descriptors came with it.
fn shown((event, descriptors): &Told) -> String {
    format!("{event:?} with {} descriptors", descriptors.len())
}

fn refused((kind, why): (Refusal, String)) -> String {
    format!("refused {kind:?} {why}")
}

impl Stage {
    fn perform(&mut self, line: &str) -> Result<String, String> {
        let words: Vec<_> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<usize>().unwrap();
        match words[0] {
            "take" => {
                let held = self.take(&words[1..])?;
                Ok(self.keep(held))
            }
            "open" => {
                let handle = self.open(&words[1..])?;
                Ok(self.keep(Held::Member(Box::new(handle), Vec::new())))
            }
            "watch" => {
                let session = self.connect()?;
                let number = session.ask(&watch_request(words[1]));
                if let Event::Refused { kind, why } = session.next(number).0 {
                    return Err(refused((kind, why)));
                }
                Ok(self.keep(Held::Watch(session, number)))
            }
            "give" => {
                self.handles[number(1)] = None;
                Ok("ok".into())
            }
            "next" => match self.held(number(1)) {
                Held::Member(handle, _) => Ok(shown(&handle.change_told())),
                Held::Watch(session, number) => Ok(shown(&session.next(*number))),
            },
            "early" => match self.held(number(1)) {
                Held::Member(_, early) => Ok(early.join("; ")),
                Held::Watch(..) => panic!("a watch does not join"),
            },
            "notify" => {
                self.member(number(1)).register_doorbell();
                Ok("ok".into())
            }
            "rung" => {
                let doorbell = self.member(number(1)).doorbell();
                let mut fds = [PollFd::new(doorbell.as_fd(), PollFlags::POLLIN)];
                let rung = poll(&mut fds, PollTimeout::try_from(LONG.as_millis()).unwrap());
                assert_eq!(rung, Ok(1), "nobody rang");
                doorbell.drain();
                Ok("ok".into())
            }
            "foreign" => {
                let foreign = self.member(number(1)).registry().is_foreign();
                Ok(format!("ok {foreign}"))
            }
            "wake" => {
                let handle = self.member(number(1));
                (handle.session).send(handle.number, &Request::Wake {}, &[]);
                Ok("ok".into())
            }
            "return" => {
                let socket = self.socket.clone();
                let back = self.member(number(1)).try_reclaim(&socket);
                back.map(|()| "ok".into()).map_err(refused)
            }
            "complete" => {
                self.member(number(1)).complete();
                Ok("ok".into())
            }
            "greet" => {
                let greeting = self.member(number(1)).session.returns(1);
                let session = Session::greet(&self.socket, greeting).map_err(refused)?;
                self.member(number(1)).session = session;
                Ok("ok".into())
            }
            "hang" => {
                self.member(number(1)).session.connection.shut_down();
                Ok("ok".into())
            }
            "pretend" => {
                let secret = Secret(words[1].parse().unwrap(), words[2].parse().unwrap());
                let greeting = Greeting {
                    secret,
                    ..Greeting::new()
                };
                let session = Session::greet(&self.socket, greeting).map_err(refused)?;
                drop(session);
                Ok("ok".into())
            }
            "churn" => {
                for _ in 0..number(1) {
                    self.take(&["publisher", words[2]])?;
                    self.take(&["subscriber", words[2]])?;
                }
                Ok("ok".into())
            }
            "flood" => {
                let (mut times, mut why) = (0, String::new());
                for _ in 0..number(1) {
                    if let Err(refusal) = self.take(&["publisher", words[2]]) {
                        (times, why) = (times + 1, refusal);
                    }
                }
                Ok(format!("ok {times} {why}"))
            }
            "idle" => {
                for _ in 0..number(1) {
                    let held = self.take(&["subscriber", words[3], "delivery=lossy"])?;
                    self.keep(held);
                }
                for _ in 0..number(2) {
                    self.take(&["publisher", words[3], "delivery=lossy"])?;
                }
                Ok("ok".into())
            }
            "foul" => {
                let session = self.connect()?;
                let files: Vec<_> = (0..number(3))
                    .map(|_| File::open(words[2]).unwrap())
                    .collect();
                let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
                let retell = Request::Retell {}.pack(SESSION).unwrap();
                let bytes = match words[1] {
                    "Retell" => retell.as_bytes(),
                    other => other.as_bytes(),
                };
                send_with(&session.connection, bytes, &files);
                Err(refused(session.refusal(SESSION)))
            }
            "ask" => {
                let session = Arc::clone(&self.member(number(1)).session);
                self.asked = Some(session.ask(&open_request(Role::Publisher, "No Name")));
                Ok("ok".into())
            }
            "told" => {
                let asked = self.asked.take().expect("something was asked");
                let refusal = self.member(number(1)).session.refusal(asked);
                assert_eq!(refusal.0, Refusal::BadName);
                Ok("ok".into())
            }
            "limit" => {
                let limit = number(1) as u64;
                setrlimit(Resource::RLIMIT_NOFILE, limit, limit).unwrap();
                Ok("ok".into())
            }
            "yield" => {
                let connection = Connection::connect(&self.socket).unwrap();
                let sent = connection.send(SESSION, &Request::Yield {}, &[]);
                match connection.recv::<Event>(super::deadline()) {
                    Err(bus_core::Error::Closed) => {
                        sent.map(|()| "ok".into()).map_err(|e| e.to_string())
                    }
                    Ok(frame) => Err(format!("refused {:?}", frame.message)),
                    Err(error) => panic!("{error}"),
                }
            }
            "serve" => {
                let mut broker = bus_daemon::Broker::bind(words[1]).unwrap();
                if let Some(policy) = words.get(2) {
                    broker.govern(Source::file(policy)).unwrap();
                }
                self.brokers.push(broker.spawn().unwrap());
                Ok("ok".into())
            }
            "reach" => match Connection::connect(&self.socket) {
                Ok(_) => Ok("ok".into()),
                Err(error) => Err(format!("refused Connection {error:?}")),
            },
            other => panic!("what is {other}?"),
        }
    }

    fn held(&mut self, number: usize) -> &mut Held {
        self.handles[number].as_mut().unwrap()
    }

    fn member(&mut self, number: usize) -> &mut Handle {
        match self.held(number) {
            Held::Member(handle, _) => handle,
            Held::Watch(..) => panic!("a watch is no member"),
        }
    }

    fn keep(&mut self, held: Held) -> String {
        self.handles.push(Some(held));
        format!("ok {}", self.handles.len() - 1)
    }

    fn connect(&self) -> Result<Arc<Session>, String> {
        let greeting = Greeting {
            client: "actor".into(),
            ..Greeting::new()
        };
        Session::greet(&self.socket, greeting).map_err(refused)
    }

    fn open(&self, words: &[&str]) -> Result<Handle, String> {
        let role = match words[0] {
            "publisher" => Role::Publisher,
            "subscriber" => Role::Subscriber,
            other => panic!("what is {other}?"),
        };
        let mut open = open_request(role, words[1]);
        if let Request::Open {
            settings, history, ..
        } = &mut open
        {
            for word in &words[2..] {
                let (key, value) = word.split_once('=').unwrap();
                let number = || Some(value.parse().unwrap());
                match key {
                    "delivery" => settings.delivery = Delivery::parse(value),
                    "depth" => settings.depth = number(),
                    "retain" => settings.retain = number(),
                    "history" => *history = value.parse().unwrap(),
                    _ => panic!("what is {key}?"),
                }
            }
        }
        Handle::try_ask_on(&self.connect()?, &open).map_err(refused)
    }

    fn take(&self, words: &[&str]) -> Result<Held, String> {
        let mut handle = self.open(words)?;
        handle.join();
        let mut early = Vec::new();
        loop {
            let told = handle.next_told();
            match told.0 {
                Event::Joined { .. } => break,
                Event::Refused { kind, why } => return Err(refused((kind, why))),
                Event::Synced { .. } => {}
                _ => early.push(shown(&told)),
            }
        }
        Ok(Held::Member(Box::new(handle), early))
    }
}
