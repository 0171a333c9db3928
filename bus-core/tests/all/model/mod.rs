//! The native ring against a plain model, one thread, over random histories: any length, batches, loans, joins
//! in the middle of traffic, messages kept and held to the limit, releases in any order, leaves; in tiny rings with tiny arenas.
//!
//! After every step the model knows what each subscriber receives next, what its cursor says, and
//! whether there is room; and every message from the ring's floor on is intact.

mod floor;
mod reader;
mod world;

use bus_core::TopicSettings;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use self::world::World;
use crate::common;

/// One step. Indices pick among what is there; a step that finds nothing to pick does nothing.
#[derive(Clone, Debug)]
enum Step {
    Send(usize),
    /// Messages at once; somebody may join in the middle, which the publisher then does not know yet.
    Batch {
        lens: Vec<usize>,
        join: Option<(Index, u32)>,
    },
    Loan {
        len: usize,
        commit: Option<usize>,
    },
    /// Joins with some history, while messages are sent before and after the version moves.
    Join {
        history: u32,
        before: usize,
        after: usize,
    },
    Receive {
        who: Index,
        keep: bool,
    },
    ReceiveBatch {
        who: Index,
        max: usize,
    },
    Release {
        who: Index,
        which: Index,
    },
    Hold {
        who: Index,
        which: Index,
    },
    GiveBack {
        which: Index,
    },
    Leave {
        who: Index,
    },
}

fn settings() -> impl Strategy<Value = TopicSettings> {
    let depths = select(vec![2_u32, 4, 8, 32]);
    let payloads = select(vec![0_u64, 8, 48, 49, 64, 200, 500]);
    (
        depths,
        select(vec![64_u32, 128]),
        payloads,
        (any::<Index>(), any::<Index>()),
        0..6_u64,
    )
        .prop_map(|(depth, stride, max_payload, (history, held), spare)| {
            let history = 1 + history.index((depth as usize - 1).min(7)) as u32;
            TopicSettings {
                held: 1 + held.index(depth as usize) as u32,
                ..common::settings(depth, stride, max_payload, history, spare * 64)
            }
        })
}

fn step() -> impl Strategy<Value = Step> {
    // Beyond the limit at times, and often at its edges.
    let len = || {
        prop_oneof![
            3 => 0..=600_usize,
            2 => select(vec![0_usize, 1, 8, 48, 49, 63, 64, 65, 112, 113, 200, 500]),
        ]
    };
    let index = any::<Index>;
    prop_oneof![
        8 => len().prop_map(Step::Send),
        4 => (vec(len(), 0..12), proptest::option::of((index(), 0..9_u32)))
            .prop_map(|(lens, join)| Step::Batch { lens, join }),
        2 => (len(), proptest::option::of(len())).prop_map(|(len, commit)| Step::Loan { len, commit }),
        2 => (0..9_u32, 0..12_usize, 0..3_usize)
            .prop_map(|(history, before, after)| Step::Join { history, before, after }),
        8 => (index(), any::<bool>()).prop_map(|(who, keep)| Step::Receive { who, keep }),
        3 => (index(), 0..10_usize).prop_map(|(who, max)| Step::ReceiveBatch { who, max }),
        6 => (index(), index()).prop_map(|(who, which)| Step::Release { who, which }),
        2 => (index(), index()).prop_map(|(who, which)| Step::Hold { who, which }),
        3 => index().prop_map(|which| Step::GiveBack { which }),
        2 => index().prop_map(|who| Step::Leave { who }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn content_order_room_lag_and_cursors_are_those_of_the_model(
        settings in settings(),
        first in any::<bool>(),
        steps in vec(step(), 1..120),
    ) {
        let mut world = World::new(settings);
        if first {
            world.join(1, 0, 0);
        }
        for step in steps {
            match step {
                Step::Send(len) => world.send(len),
                Step::Batch { lens, join } => world.batch(&lens, join),
                Step::Loan { len, commit } => world.loan(len, commit),
                Step::Join { history, before, after } => world.join(history, before, after),
                Step::Receive { who, keep } => world.receive(who, keep),
                Step::ReceiveBatch { who, max } => world.receive_batch(who, max),
                Step::Release { who, which } => world.release(who, which),
                Step::Hold { who, which } => world.hold(who, which),
                Step::GiveBack { which } => world.give_back(which),
                Step::Leave { who } => world.leave(who),
            }
            world.check_cursors();
            world.check_floor();
        }
        world.close_and_drain();
    }
}
