//! Faults that the simulator has found, each with the shortest script that showed it.

use super::run::replay;
use super::script::Setup;
use super::script::Step::{self, *};

fn holds(setup: Setup, script: &[Step]) {
    if let Some(what) = replay(&setup, script) {
        panic!("{what}");
    }
}

#[test]
fn a_publisher_that_is_refused_for_now_is_not_told_to_have_left() {
    holds(
        Setup {
            processes: 9,
            topics: 1,
            room: 16,
            faults: 2,
            hoards: true,
            stalls: false,
            publishes: false,
            limited: false,
        },
        &[
            StartBroker { lost: false },
            Start { process: 0 },
            Turn { process: 0 },
            Open {
                process: 0,
                handle: 0,
                topic: 0,
                publisher: false,
                history: 0,
            },
            Wait { millis: 1000 },
            Turn { process: 0 },
            NoMemory { times: 2 },
            Open {
                process: 0,
                handle: 2,
                topic: 0,
                publisher: true,
                history: 0,
            },
            Turn { process: 0 },
            StartBroker { lost: true },
            Cycle {
                process: 0,
                handle: 5,
                topic: 0,
            },
            Turn { process: 0 },
        ],
    );
}

#[test]
fn a_subscriber_that_may_still_read_is_not_told_to_have_left() {
    holds(
        Setup {
            processes: 6,
            topics: 1,
            room: 4,
            faults: 20,
            hoards: false,
            stalls: false,
            publishes: true,
            limited: false,
        },
        &[
            Start { process: 3 },
            Start { process: 1 },
            StartBroker { lost: false },
            Turn { process: 1 },
            Open {
                process: 1,
                handle: 5,
                topic: 0,
                publisher: false,
                history: 0,
            },
            Turn { process: 3 },
            Wait { millis: 100 },
            Open {
                process: 3,
                handle: 1,
                topic: 0,
                publisher: true,
                history: 0,
            },
            Serve {
                process: 1,
                requests: 1,
                deaths_first: false,
                millis: 1,
            },
            Wait { millis: 100 },
            Open {
                process: 3,
                handle: 1,
                topic: 0,
                publisher: false,
                history: 1,
            },
            Open {
                process: 1,
                handle: 1,
                topic: 0,
                publisher: true,
                history: 0,
            },
            Open {
                process: 1,
                handle: 1,
                topic: 0,
                publisher: true,
                history: 0,
            },
            Start { process: 5 },
            Room {
                process: 1,
                messages: 3,
            },
            Turn { process: 3 },
            Turn { process: 3 },
            Turn { process: 5 },
            Open {
                process: 3,
                handle: 5,
                topic: 0,
                publisher: true,
                history: 0,
            },
            Open {
                process: 5,
                handle: 4,
                topic: 0,
                publisher: true,
                history: 0,
            },
            Turn { process: 3 },
            Turn { process: 1 },
            Turn { process: 5 },
            Turn { process: 1 },
            Turn { process: 1 },
            Turn { process: 1 },
            NoMemory { times: 2 },
            Turn { process: 5 },
            Read {
                process: 1,
                most: 1000,
                acknowledges: true,
                lost: None,
            },
            EndBroker,
            Close {
                process: 1,
                handle: 1,
            },
            StartBroker { lost: false },
            Turn { process: 1 },
            Turn { process: 1 },
        ],
    );
}

#[test]
fn a_refused_subscriber_that_is_closed_is_not_awaited() {
    holds(
        Setup {
            processes: 137,
            topics: 15,
            room: 200,
            faults: 5,
            hoards: false,
            stalls: false,
            publishes: true,
            limited: false,
        },
        &[
            Start { process: 126 },
            Start { process: 92 },
            Settle,
            Open {
                process: 126,
                handle: 4,
                topic: 10,
                publisher: false,
                history: 2,
            },
            Turn { process: 126 },
            EndBroker,
            StartBroker { lost: false },
            Wait { millis: 1000 },
            Read {
                process: 126,
                most: 8,
                acknowledges: true,
                lost: None,
            },
            Read {
                process: 92,
                most: 1000,
                acknowledges: true,
                lost: None,
            },
            Turn { process: 92 },
            Turn { process: 126 },
            Wait { millis: 1000 },
            Wait { millis: 1000 },
            Open {
                process: 92,
                handle: 0,
                topic: 10,
                publisher: true,
                history: 1,
            },
            Wait { millis: 1000 },
            Turn { process: 92 },
        ],
    );
}

#[test]
fn a_publisher_has_not_joined_before_all_subscribers_are_told() {
    holds(
        Setup {
            processes: 5,
            topics: 2,
            room: 200,
            faults: 5,
            hoards: true,
            stalls: false,
            publishes: true,
            limited: false,
        },
        &[
            Start { process: 1 },
            Start { process: 2 },
            Start { process: 3 },
            StartBroker { lost: false },
            Turn { process: 1 },
            Open {
                process: 1,
                handle: 1,
                topic: 0,
                publisher: true,
                history: 2,
            },
            Settle,
            Turn { process: 1 },
            Open {
                process: 3,
                handle: 3,
                topic: 0,
                publisher: false,
                history: 0,
            },
            Cycle {
                process: 3,
                handle: 3,
                topic: 0,
            },
            StartBroker { lost: true },
            Turn { process: 3 },
            Read {
                process: 2,
                most: 8,
                acknowledges: true,
                lost: None,
            },
            Turn { process: 3 },
            Turn { process: 2 },
            Open {
                process: 2,
                handle: 3,
                topic: 0,
                publisher: true,
                history: 1,
            },
            Wait { millis: 1000 },
            Wait { millis: 1000 },
            Open {
                process: 2,
                handle: 2,
                topic: 0,
                publisher: false,
                history: 1,
            },
            Serve {
                process: 2,
                requests: 2,
                deaths_first: false,
                millis: 1,
            },
            Wait { millis: 1000 },
            Wait { millis: 1000 },
            Turn { process: 2 },
            Join {
                process: 2,
                handle: 3,
            },
        ],
    );
}

#[test]
fn a_process_is_not_told_to_be_gone_after_a_new_peer_of_it() {
    holds(
        Setup {
            processes: 24,
            topics: 14,
            room: 2,
            faults: 0,
            hoards: true,
            stalls: true,
            publishes: true,
            limited: false,
        },
        &[
            StartBroker { lost: false },
            Wait { millis: 1000 },
            Start { process: 4 },
            Start { process: 13 },
            Turn { process: 4 },
            Turn { process: 13 },
            Watch {
                process: 4,
                handle: 2,
            },
            Turn { process: 4 },
            Open {
                process: 13,
                handle: 3,
                topic: 11,
                publisher: true,
                history: 1,
            },
            Turn { process: 13 },
            Turn { process: 4 },
            Turn { process: 4 },
        ],
    );
}

#[test]
fn a_process_is_introduced_once_for_each_time_that_it_is_asked_for() {
    holds(
        Setup {
            processes: 5,
            topics: 3,
            room: 2,
            faults: 0,
            hoards: false,
            stalls: false,
            publishes: true,
            limited: false,
        },
        &[
            StartBroker { lost: false },
            Wait { millis: 1000 },
            Start { process: 0 },
            Start { process: 1 },
            Start { process: 2 },
            Start { process: 3 },
            Start { process: 4 },
            Turn { process: 3 },
            Turn { process: 1 },
            Open {
                process: 3,
                handle: 5,
                topic: 2,
                publisher: false,
                history: 0,
            },
            Open {
                process: 1,
                handle: 3,
                topic: 2,
                publisher: true,
                history: 1,
            },
            Turn { process: 0 },
            Open {
                process: 0,
                handle: 5,
                topic: 0,
                publisher: false,
                history: 1,
            },
            Turn { process: 1 },
            Turn { process: 3 },
            Turn { process: 0 },
            Turn { process: 3 },
            Cycle {
                process: 1,
                handle: 0,
                topic: 2,
            },
            Open {
                process: 1,
                handle: 5,
                topic: 0,
                publisher: true,
                history: 0,
            },
            Publish {
                process: 1,
                handle: 5,
            },
            Turn { process: 4 },
            Open {
                process: 4,
                handle: 2,
                topic: 0,
                publisher: false,
                history: 0,
            },
            Room {
                process: 1,
                messages: 1,
            },
            Turn { process: 2 },
            Turn { process: 1 },
            Open {
                process: 2,
                handle: 1,
                topic: 2,
                publisher: false,
                history: 0,
            },
            Doorbell {
                process: 1,
                handle: 2,
            },
            Turn { process: 4 },
            Read {
                process: 3,
                most: 1,
                acknowledges: true,
                lost: None,
            },
            Doorbell {
                process: 3,
                handle: 2,
            },
            Turn { process: 1 },
            Turn { process: 1 },
            Read {
                process: 1,
                most: 2,
                acknowledges: true,
                lost: None,
            },
            Serve {
                process: 1,
                requests: 1,
                deaths_first: true,
                millis: 0,
            },
            Open {
                process: 1,
                handle: 5,
                topic: 2,
                publisher: true,
                history: 1,
            },
            Turn { process: 2 },
            Publish {
                process: 1,
                handle: 0,
            },
            Open {
                process: 1,
                handle: 3,
                topic: 0,
                publisher: false,
                history: 0,
            },
            Turn { process: 1 },
            Turn { process: 1 },
            Turn { process: 1 },
            Open {
                process: 1,
                handle: 3,
                topic: 0,
                publisher: false,
                history: 1,
            },
            Read {
                process: 1,
                most: 1,
                acknowledges: true,
                lost: None,
            },
            Turn { process: 1 },
            Turn { process: 1 },
            Turn { process: 3 },
            Close {
                process: 1,
                handle: 4,
            },
        ],
    );
}

#[test]
fn a_member_that_asks_often_hears_of_all_its_peers() {
    holds(
        Setup {
            processes: 6,
            topics: 1,
            room: 4,
            faults: 0,
            hoards: false,
            stalls: false,
            publishes: false,
            limited: false,
        },
        &[
            Start { process: 0 },
            Start { process: 1 },
            Start { process: 4 },
            Settle,
            Open {
                process: 4,
                handle: 4,
                topic: 0,
                publisher: false,
                history: 0,
            },
            Open {
                process: 0,
                handle: 2,
                topic: 0,
                publisher: true,
                history: 0,
            },
            Open {
                process: 0,
                handle: 2,
                topic: 0,
                publisher: true,
                history: 0,
            },
            Start { process: 3 },
            Open {
                process: 1,
                handle: 4,
                topic: 0,
                publisher: true,
                history: 0,
            },
            Open {
                process: 0,
                handle: 0,
                topic: 0,
                publisher: true,
                history: 2,
            },
            Open {
                process: 4,
                handle: 1,
                topic: 0,
                publisher: true,
                history: 1,
            },
            Turn { process: 4 },
            Open {
                process: 0,
                handle: 1,
                topic: 0,
                publisher: true,
                history: 2,
            },
            Turn { process: 1 },
            Turn { process: 0 },
            Turn { process: 3 },
            Open {
                process: 3,
                handle: 2,
                topic: 0,
                publisher: false,
                history: 2,
            },
            Turn { process: 0 },
            Open {
                process: 3,
                handle: 5,
                topic: 0,
                publisher: false,
                history: 0,
            },
            Open {
                process: 1,
                handle: 3,
                topic: 0,
                publisher: true,
                history: 0,
            },
            Turn { process: 3 },
            Turn { process: 3 },
            Turn { process: 1 },
            Open {
                process: 3,
                handle: 0,
                topic: 0,
                publisher: true,
                history: 1,
            },
            Open {
                process: 1,
                handle: 1,
                topic: 0,
                publisher: true,
                history: 0,
            },
            Turn { process: 3 },
            Turn { process: 0 },
            Turn { process: 4 },
            Read {
                process: 3,
                most: 8,
                acknowledges: false,
                lost: None,
            },
            Watch {
                process: 3,
                handle: 3,
            },
            Doorbell {
                process: 1,
                handle: 2,
            },
            Turn { process: 0 },
            Turn { process: 1 },
            Open {
                process: 3,
                handle: 2,
                topic: 0,
                publisher: false,
                history: 0,
            },
            Turn { process: 3 },
            Read {
                process: 3,
                most: 1000,
                acknowledges: true,
                lost: Some(1),
            },
        ],
    );
}

#[test]
fn a_registry_that_is_lost_late_is_told_again() {
    holds(
        Setup {
            processes: 18,
            topics: 2,
            room: 200,
            faults: 20,
            hoards: false,
            stalls: false,
            publishes: true,
            limited: false,
        },
        &[
            Start { process: 7 },
            Start { process: 14 },
            StartBroker { lost: false },
            Wait { millis: 1000 },
            Turn { process: 14 },
            Open {
                process: 14,
                handle: 5,
                topic: 0,
                publisher: true,
                history: 2,
            },
            Turn { process: 7 },
            Turn { process: 14 },
            Open {
                process: 7,
                handle: 4,
                topic: 0,
                publisher: false,
                history: 0,
            },
            Open {
                process: 14,
                handle: 3,
                topic: 1,
                publisher: true,
                history: 1,
            },
            Turn { process: 7 },
            Turn { process: 14 },
            EndBroker,
            NoMemory { times: 2 },
            Read {
                process: 14,
                most: 2,
                acknowledges: true,
                lost: None,
            },
            StartBroker { lost: false },
            Turn { process: 14 },
            Turn { process: 14 },
            Read {
                process: 14,
                most: 8,
                acknowledges: true,
                lost: Some(1),
            },
        ],
    );
}
