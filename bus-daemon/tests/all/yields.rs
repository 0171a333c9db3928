//! A broker that serves a path for good asks the one that is there to end.

use crate::common::actor::Actor;
use crate::common::{Busd, Host, Session, deadline, ended, until};
use bus_core::control::{Connection, Event, Refusal, Request, SESSION};
use bus_testkit::needs;

const ALICE: u32 = 12345;

fn ask(connection: &Connection) {
    let request = Request::Yield {};
    connection.send(SESSION, &request, &[]).unwrap();
}

#[test]
fn the_brokers_own_user_may_ask_it_to_end() {
    let host = Host::new();
    let member = host.publisher("t");
    let connection = Connection::connect(&host.path).unwrap();
    ask(&connection);
    ended(&connection);
    member.session.ends();
    let broker = host.broker.as_ref().unwrap();
    assert!(broker.has_yielded());
    until(|| !broker.is_running());
    assert!(!host.path.exists());
    let again = bus_daemon::Broker::bind(&host.path).unwrap();
    drop(again);
}

#[test]
fn a_user_that_the_broker_serves_may_not_ask_it_to_end() {
    if !needs::root() {
        return;
    }
    let host = Host::governed(&format!(
        "[[allow]]\ntopics = \"t\"\nusers = [{ALICE}]\nmay = \"publish\"\n"
    ));
    let mut alice = Actor::start(&host.path, ALICE, &[]);
    let said = alice.tell("yield");
    assert!(said.contains("NotAllowed"), "{said}");
    assert!(said.contains(&format!("not user {ALICE}")), "{said}");
    alice.ok("take publisher t");
    assert!(!host.broker.as_ref().unwrap().has_yielded());
}

/// Root serves whole machines: its broker takes the path from one that a user hosts, which serves root nothing.
#[test]
fn root_may_ask_a_broker_of_any_user_to_end_and_nothing_else() {
    if !needs::root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(dir.path(), open).unwrap();
    let path = dir.path().join("bus.sock");
    let mut alice = Actor::start(&path, ALICE, &[]);
    alice.ok(&format!("serve {}", path.display()));
    let connect = || {
        let socket = connected(&path);
        Connection::from_fd(socket).unwrap()
    };
    let greeting = crate::common::Greeting::new();
    let refused = Session::greet_over(connect(), greeting);
    assert_eq!(refused.unwrap_err().0, Refusal::NotAllowed);
    let connection = connect();
    ask(&connection);
    ended(&connection);
    until(|| !path.exists());
}

#[test]
fn busd_takes_the_path_of_a_broker_that_a_process_hosts() {
    let host = Host::new();
    let member = host.publisher("t");
    let busd = Busd::start(&host.path, "");
    member.session.ends();
    let broker = host.broker.as_ref().unwrap();
    assert!(broker.has_yielded());
    until(|| !broker.is_running());
    let session = Session::greet(&busd.path, crate::common::Greeting::new());
    assert!(session.is_ok());
}

#[test]
fn busd_does_not_end_another_busd() {
    let dir = tempfile::tempdir().unwrap();
    let first = Busd::start(&dir.path().join("bus.sock"), "");
    let mut second = Busd::launch(&first.path, "");
    second.wait_for("another broker already serves");
    assert!(!second.child.wait().unwrap().success());
    let connection = Connection::connect(&first.path).unwrap();
    ask(&connection);
    let refused = connection.recv::<Event>(deadline()).unwrap().message;
    let Event::Refused { why, .. } = refused else {
        panic!("{refused:?}");
    };
    assert!(why.contains("busd"), "{why}");
}

/// A socket that is connected to the broker, whoever runs that.
fn connected(path: &std::path::Path) -> std::os::fd::OwnedFd {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
    use std::os::fd::AsRawFd;
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).unwrap();
    connect(fd.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
    fd
}
