//! Lossy and evicting topics against a plain model, one thread, over random histories: subscribers that lag, hold several messages for
//! long, jump, leave, and join with history, while the publisher sends, lends and batches; in tiny rings with tiny arenas.
//!
//! The model is the list of all payloads. What each subscriber gets next is then known from the floor alone: its loss is exact message by
//! message. What is held is compared with the list when it comes, and again before it goes. A refusal, and a message
//! that lies nowhere, is believed only where a naive map of the arena finds no room either.

mod model;
mod reader;
mod room;
mod world;

use bus_core::{Delivery, TopicSettings};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use self::world::World;
use crate::common;

/// One step. Indices pick among what is there; a step that finds nothing to pick does nothing.
#[derive(Clone, Debug)]
enum Step {
    /// So many messages, one by one.
    Send(usize, usize),
    /// A value that does not know its length beforehand.
    SendText(usize),
    /// Messages at once; somebody may join and read in the middle, whom the publisher then does not know yet.
    Batch {
        lens: Vec<usize>,
        join: Option<(Index, u32)>,
    },
    Loan {
        len: usize,
        commit: Option<usize>,
    },
    /// Joins with some history; so many messages are tried before the publisher adopts it.
    Join {
        history: u32,
        before: usize,
        after: usize,
    },
    /// Receives so many, and keeps those of the mask.
    Receive {
        who: Index,
        count: usize,
        keep: u8,
    },
    /// Messages at once; so many are sent while they are out.
    ReceiveBatch {
        who: Index,
        max: usize,
        meanwhile: usize,
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
    let deliveries = prop_oneof![
        3 => Just(Delivery::Lossy),
        1 => Just(Delivery::Evict { after_us: 3_600_000_000 }),
    ];
    (
        deliveries,
        select(vec![2_u32, 4, 8, 64]),
        select(vec![0_u64, 8, 48, 49, 64, 200, 500]),
        (any::<Index>(), 1..5_u32),
        0..12_u64,
    )
        .prop_map(|(delivery, depth, max_payload, (keep, held), spare)| {
            let most = depth - (depth / 8).max(1);
            let keep = 1 + keep.index(most.min(8) as usize) as u32;
            common::overrun_settings(delivery, depth, max_payload, (keep, held), spare * 64)
        })
}

fn step() -> impl Strategy<Value = Step> {
    let len = || {
        prop_oneof![
            3 => 0..=500_usize,
            2 => select(vec![0_usize, 1, 8, 48, 49, 63, 64, 65, 112, 200, 500]),
        ]
    };
    let index = any::<Index>;
    prop_oneof![
        8 => (len(), prop_oneof![3 => 1..4_usize, 1 => 4..100_usize])
            .prop_map(|(len, count)| Step::Send(len, count)),
        1 => len().prop_map(Step::SendText),
        3 => (vec(len(), 0..12), proptest::option::of((index(), 0..9_u32)))
            .prop_map(|(lens, join)| Step::Batch { lens, join }),
        2 => (len(), proptest::option::of(len())).prop_map(|(len, commit)| Step::Loan { len, commit }),
        2 => (0..9_u32, 0..12_usize, 0..6_usize)
            .prop_map(|(history, before, after)| Step::Join { history, before, after }),
        8 => (index(), 1..6_usize, any::<u8>()).prop_map(|(who, count, keep)| Step::Receive { who, count, keep }),
        3 => (index(), 0..10_usize, 0..10_usize)
            .prop_map(|(who, max, meanwhile)| Step::ReceiveBatch { who, max, meanwhile }),
        5 => (index(), index()).prop_map(|(who, which)| Step::Release { who, which }),
        2 => (index(), index()).prop_map(|(who, which)| Step::Hold { who, which }),
        2 => index().prop_map(|which| Step::GiveBack { which }),
        1 => index().prop_map(|who| Step::Leave { who }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn content_order_losses_and_refusals_are_those_of_the_model(
        settings in settings(),
        first in any::<bool>(),
        steps in vec(step(), 1..100),
    ) {
        let mut world = World::new(settings);
        if first {
            world.join(1, 0, 0);
        }
        for step in steps {
            match step {
                Step::Send(len, count) => (0..count).for_each(|n| world.send(len * (n + 2) / 2 % 501)),
                Step::SendText(len) => world.send_text(len),
                Step::Batch { lens, join } => world.batch(&lens, join),
                Step::Loan { len, commit } => world.loan(len, commit),
                Step::Join { history, before, after } => world.join(history, before, after),
                Step::Receive { who, count, keep } => world.receive(who, count, keep),
                Step::ReceiveBatch { who, max, meanwhile } => world.receive_batch(who, max, meanwhile),
                Step::Release { who, which } => world.release(who, which),
                Step::Hold { who, which } => world.hold(who, which),
                Step::GiveBack { which } => world.give_back(which),
                Step::Leave { who } => world.leave(who),
            }
            world.check_kept();
        }
        world.drain();
    }
}
