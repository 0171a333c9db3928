//! The recipe of `docs/delivery.md` for requests and replies: a client never waits for a server that is gone.

mod common;

use std::time::{Duration, Instant};

use bus_client::{Error, Publisher, Subscriber};
use common::hosted::Hosted;
use common::process::WATCHDOG;
use common::role::{Given, hear, play, say};
use common::roles::HOST;

#[bus_client::message]
struct Request {
    call: u64,
}

#[bus_client::message]
struct Reply {
    call: u64,
}

#[test]
#[ignore = "what the other tests start as processes of their own"]
fn role() {
    play(&[HOST, ("server", server)]);
}

/// Answers the first request, and takes the second one, which it never answers.
fn server(given: &Given) {
    let bus = given.bus();
    let mut replies = bus.publisher::<Reply>("replies").unwrap();
    let requests = bus.subscriber::<Request>("requests").unwrap();
    say("ready");
    let call = requests.recv().unwrap().call.to_native();
    replies.send(&Reply { call }).unwrap();
    requests.recv().unwrap();
    say("silent");
    assert_eq!(hear(), None);
}

/// As in the recipe.
fn ask(
    requests: &mut Publisher<Request>,
    replies: &Subscriber<Reply>,
    request: &Request,
) -> Result<Option<u64>, Error> {
    let deadline = Instant::now() + WATCHDOG;
    if requests.subscribers()?.is_empty() {
        return Ok(None);
    }
    requests.send(request)?;
    while Instant::now() < deadline {
        match replies.recv_timeout(Duration::from_millis(10))? {
            Some(reply) if reply.call == request.call => return Ok(Some(reply.call.to_native())),
            Some(_) => {}
            None if requests.subscribers()?.is_empty() => return Ok(None),
            None => {}
        }
    }
    panic!("it waited for a server that is gone");
}

#[test]
fn a_client_gives_up_on_a_server_that_is_killed_also_without_a_broker() {
    for broker in [true, false] {
        let mut stage = Hosted::new();
        let replies = stage.bus.subscriber::<Reply>("replies").unwrap();
        let mut requests = stage.bus.publisher::<Request>("requests").unwrap();
        let mut asked = |call| ask(&mut requests, &replies, &Request { call }).unwrap();
        assert_eq!(asked(0), None, "no server is there");
        let mut server = stage.start("server", &[]);
        server.expect("ready");
        assert_eq!(asked(1), Some(1));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                server.expect("silent");
                if !broker {
                    stage.host.kill();
                    stage.host.reap();
                }
                server.kill();
            });
            assert_eq!(asked(2), None);
        });
        assert_eq!(asked(3), None);
    }
}
