//! Tests: what a request costs others is counted, and what is beyond the limit comes later or is refused.

use bus_core::control::{Request, Role, SESSION};
use bus_core::schema::Schema;

use super::still::{Done, broker, broker_after};

const ALICE: u32 = 1;
const BOB: u32 = 2;

/// Room for what the tests need beside.
const ROOM: &str =
    "segments = 10000\nbytes = \"64G\"\ndescriptors = 10000\ntopics = 1000\npublishers = 1000\n";

/// A policy that lets both users do everything, within these limits.
fn both(limits: &str) -> String {
    format!(
        "[[allow]]\ntopics = [\"**\"]\nusers = [{ALICE}, {BOB}]\nmay = [\"publish\", \"subscribe\"]\nstall = true\n[limits]\n{ROOM}{limits}\n"
    )
}

/// Rings of a doorbell.
fn rings(done: &Done, doorbell: usize) -> u32 {
    done.rings.borrow().get(doorbell).copied().unwrap_or(0)
}

#[test]
fn a_doorbell_is_rung_once_a_turn_and_so_often_a_second_and_the_last_wake_is_not_lost() {
    let (mut engine, done) = broker(&both(""));
    engine.come(1, ALICE).unwrap();
    engine.come(2, BOB).unwrap();
    engine.parks(1, 1, Role::Publisher, "t", 0);
    engine.parks(2, 1, Role::Subscriber, "t", 1);
    let before = [rings(&done, 0), rings(&done, 1)];
    for _ in 0..100 {
        engine.received(2, 1, Request::Wake {}, Vec::new());
    }
    engine.end_turn();
    assert_eq!(rings(&done, 0), before[0] + 1);
    for _ in 0..10_000 {
        engine.received(2, 1, Request::Wake {}, Vec::new());
        engine.end_turn();
    }
    assert_eq!(rings(&done, 0), before[0] + 4000);
    // The other user is not late for that.
    engine.received(1, 1, Request::Wake {}, Vec::new());
    engine.end_turn();
    assert_eq!(rings(&done, 1), before[1] + 1);
    // What is beyond is done as soon as it may be, and once.
    let wait = engine.next_wakeup().expect("something is to be done");
    assert!(wait.as_millis() < 1, "{wait:?}");
    engine.go_on(1);
    assert_eq!(rings(&done, 0), before[0] + 4001);
    assert!(engine.errands.is_empty());
    engine.go_on(10);
    assert_eq!(rings(&done, 0), before[0] + 4001);
}

#[test]
fn a_wake_counts_by_the_members_that_it_concerns() {
    let (mut engine, done) = broker(&both(""));
    engine.come(1, ALICE).unwrap();
    engine.come(2, BOB).unwrap();
    for publisher in 1..=47 {
        engine.parks(1, publisher, Role::Publisher, "t", 0);
    }
    engine.parks(2, 1, Role::Subscriber, "t", 1);
    let before = rings(&done, 0);
    for _ in 0..10_000 {
        engine.received(2, 1, Request::Wake {}, Vec::new());
        engine.end_turn();
    }
    // Forty-eight members are there, so that one counts four times.
    assert_eq!(rings(&done, 0), before + 47 * 1000);
}

#[test]
fn a_broker_that_stops_does_what_is_still_to_be_done() {
    let (mut engine, done) = broker(&both(""));
    engine.come(1, ALICE).unwrap();
    engine.come(2, BOB).unwrap();
    engine.parks(1, 1, Role::Publisher, "t", 0);
    engine.parks(2, 1, Role::Subscriber, "t", 1);
    let before = rings(&done, 0);
    for _ in 0..5000 {
        engine.received(2, 1, Request::Wake {}, Vec::new());
        engine.end_turn();
    }
    assert_eq!(rings(&done, 0), before + 4000);
    engine.begin_to_stop();
    engine.end_turn();
    assert_eq!(rings(&done, 0), before + 4001);
}

#[test]
fn who_asks_to_be_told_again_without_end_moves_versions_so_often_a_second_and_is_told_in_the_end() {
    let (mut engine, done) = broker(&both(""));
    engine.come(1, ALICE).unwrap();
    engine.parks(1, 1, Role::Publisher, "t", 0);
    let before = done.moved.get();
    for _ in 0..10_000 {
        engine.received(1, 1, Request::Retell {}, Vec::new());
        engine.received(1, SESSION, Request::Retell {}, Vec::new());
        engine.acknowledges(1);
        engine.end_turn();
    }
    assert_eq!(done.moved.get(), before + 2000);
    engine.go_on(10);
    assert_eq!(done.moved.get(), before + 2001);
}

#[test]
fn a_watch_counts_by_the_topics_that_are_looked_at_for_it() {
    let (mut engine, done) = broker(&both("registrations = 1000"));
    engine.come(1, ALICE).unwrap();
    engine.come(2, BOB).unwrap();
    for topic in 0..640 {
        engine.opens(1, topic + 1, Role::Publisher, &format!("t/{topic}"));
    }
    assert_eq!(done.refusals(1), Vec::<String>::new());
    for watch in 1..=300 {
        engine.watches(2, watch, "none/*");
    }
    // Ten times for what is looked at, and once for itself.
    let refused = done.refusals(2);
    assert_eq!(refused.len(), 300 - 91);
    assert!(refused[0].contains("1000 registrations a second"));
}

#[test]
fn a_new_topic_counts_by_the_watches_that_may_have_to_hear_of_it() {
    let (mut engine, done) = broker(&both("subscriptions = 1000\nregistrations = 1000"));
    engine.come(1, ALICE).unwrap();
    engine.come(2, BOB).unwrap();
    for watch in 1..=640 {
        engine.watches(2, watch, "none/*");
    }
    for topic in 0..300 {
        engine.opens(1, topic + 1, Role::Publisher, &format!("t/{topic}"));
    }
    assert_eq!(done.refusals(1).len(), 300 - 91);
    // Who opens what is there pays no more than ever.
    engine.go_on(1000);
    for handle in 1001..=1090 {
        engine.opens(2, handle, Role::Subscriber, "t/0");
    }
    assert_eq!(done.refusals(2), Vec::<String>::new());
}

#[test]
fn a_watch_that_says_it_has_been_here_counts_unless_its_process_is_coming_back() {
    let (mut engine, done) = broker(&both("registrations = 20\nsubscriptions = 10"));
    engine.come(1, ALICE).unwrap();
    for watch in 1..=100 {
        let request = Request::Watch {
            pattern: "none/*".into(),
            schema: Schema::bytes(),
            reclaims: Some(1 << 50 | u64::from(watch)),
        };
        engine.received(1, watch, request, Vec::new());
    }
    let refused = done.refusals(1);
    assert_eq!(refused.len(), 90);
    assert!(refused[0].contains("10 subscriptions"), "{}", refused[0]);
    assert!(refused[10].contains("20 registrations"), "{}", refused[10]);
}

#[test]
fn who_is_turned_away_without_end_has_so_many_connections_looked_at_a_second() {
    let (mut engine, done) = broker(&both("connections = 100"));
    for session in 1..=100 {
        engine.come(session, ALICE).unwrap();
    }
    for session in 101..=10_100 {
        engine.come(session, ALICE).unwrap_err();
    }
    assert_eq!(done.polls.get(), 50_000);
    engine.come(30_000, BOB).unwrap();
    // A tenth of a second later it may be so for a tenth of them.
    engine.go_on(100);
    for session in 10_101..=20_000 {
        engine.come(session, ALICE).unwrap_err();
    }
    assert_eq!(done.polls.get(), 55_000);
}

/// Who has few connections is looked at each time, so that room is there at once.
#[test]
fn who_has_one_connection_is_looked_at_whenever_it_is_turned_away() {
    let (mut engine, done) = broker(&both("connections = 1"));
    engine.come(1, ALICE).unwrap();
    for session in 2..=10_001 {
        engine.come(session, ALICE).unwrap_err();
    }
    assert_eq!(done.polls.get(), 10_000);
}

/// The time of an answer would tell whether a topic is there.
#[test]
fn a_newcomer_that_may_not_open_a_topic_is_refused_at_once_also_where_others_wait() {
    let policy = format!("[[allow]]\ntopics = [\"own\"]\nusers = [{BOB}]\nmay = [\"subscribe\"]\n");
    let (mut engine, done) = broker_after(true, &policy);
    engine.come(1, BOB).unwrap();
    engine.opens(1, 1, Role::Subscriber, "own");
    let before = done.sent.borrow().len();
    engine.opens(1, 2, Role::Subscriber, "secret");
    let refused = done.refusals(1);
    assert_eq!(refused.len(), 1);
    assert!(refused[0].contains("may not subscribe"), "{}", refused[0]);
    assert_eq!(done.sent.borrow().len(), before + 1);
    engine.go_on(201);
    assert!(
        done.sent.borrow().len() > before + 1,
        "the other one waits for ever"
    );
    assert_eq!(done.refusals(1).len(), 1);
}
