//! The models, in one table.
//!
//! Each is small on purpose: what loom explores grows exponentially with threads and steps. A model that needs more
//! than its bound of preemptions to fail is not seen to fail: the mutation gates show that the bounds are high enough
//! for every ordering, fence and wake-up.

mod batch;
mod end;
mod evict;
mod hold;
mod join;
mod join_past;
mod past;
mod publish;
mod room;
mod sleep;
mod stop;
mod stop_past;
mod tally;
mod tap;

use loom::model::Builder;

/// A program for the model checker.
#[derive(Clone, Copy)]
pub struct Model {
    /// Its name, as the gate prints it.
    pub name: &'static str,
    /// Preemptions explored.
    preemptions: usize,
    program: fn(),
}

impl Model {
    const fn new(name: &'static str, preemptions: usize, program: fn()) -> Self {
        Self {
            name,
            preemptions,
            program,
        }
    }

    /// The model of this name.
    pub fn find(name: &str) -> Option<&'static Self> {
        MODELS.iter().find(|model| model.name == name)
    }

    /// Runs it in every order.
    ///
    /// # Panics
    /// Where one of them goes wrong: that is the finding.
    pub fn check(&self) {
        let mut builder = Builder::new();
        builder.preemption_bound = Some(self.preemptions);
        builder.max_branches = MAX_BRANCHES;
        builder.check(self.program);
    }
}

/// Steps of one execution; one that takes more does not come to an end.
const MAX_BRANCHES: usize = 5_000;

/// All models.
pub const MODELS: &[Model] = &[
    Model::new("past.replaced", 3, past::replaced),
    Model::new("past.laps", 2, past::laps),
    Model::new("past.window", 2, past::window),
    Model::new("past.arena", 2, past::arena),
    Model::new("past.two-readers", 2, past::two_readers),
    Model::new("past.sleeps", 2, past::sleeps),
    Model::new("hold.pinned", 3, hold::pinned),
    Model::new("hold.unpinned", 3, hold::unpinned),
    Model::new("hold.pinned-again", 3, hold::pinned_again),
    Model::new("hold.island", 2, hold::island),
    Model::new("hold.nowhere", 3, hold::nowhere),
    Model::new("hold.held-too-many", 2, hold::held_too_many),
    Model::new("hold.beside-reader", 2, hold::beside_reader),
    Model::new("hold.room-again", 2, hold::room_again),
    Model::new("hold.nowhere-replaced", 3, hold::nowhere_replaced),
    Model::new("evict.waits-for-pin", 2, evict::waits_for_pin),
    Model::new("evict.waits", 2, evict::waits),
    Model::new("evict.wakes-for-window", 2, evict::wakes_for_window),
    Model::new("evict.stalled", 2, evict::stalled),
    Model::new("join.lossy", 2, join_past::lossy),
    Model::new("join.lossy-history", 2, join_past::lossy_history),
    Model::new("join.lossy-arena", 2, join_past::lossy_arena),
    Model::new("join.lossy-batch", 2, join_past::lossy_batch),
    Model::new("join.evicting", 2, join_past::evicting),
    Model::new("join.evicting-at-first", 2, join_past::evicting_at_first),
    Model::new("stop.past-after-floor", 2, stop_past::after_floor),
    Model::new("stop.past-after-mark", 2, stop_past::after_mark),
    Model::new("stop.past-after-place", 2, stop_past::after_place),
    Model::new("stop.past-after-stamp", 2, stop_past::after_stamp),
    Model::new("publish.content", 3, publish::content),
    Model::new("publish.laps", 3, publish::laps),
    Model::new("publish.arena", 3, publish::arena),
    Model::new("tap.steps", 3, tap::steps),
    Model::new("batch.publish", 3, batch::publish),
    Model::new("batch.receive", 3, batch::receive),
    Model::new("batch.out-of-order", 3, batch::out_of_order),
    Model::new("end.close", 3, end::close),
    Model::new("end.close-after-batch", 3, end::close_after_batch),
    Model::new("end.wakes-sleeper", 3, end::wakes_sleeper),
    Model::new("end.wakes-parked", 3, end::wakes_parked),
    Model::new("room.one-reader", 3, room::one_reader),
    Model::new("room.two-readers", 2, room::two_readers),
    Model::new("room.reader-leaves", 3, room::reader_leaves),
    Model::new("room.reader-drops", 3, room::reader_drops),
    Model::new(
        "room.unattached-reader-drops",
        3,
        room::unattached_reader_drops,
    ),
    Model::new("room.parked-unknown", 3, room::parked_unknown),
    Model::new("room.parked-reader-drops", 3, room::parked_reader_drops),
    Model::new("sleep.one-reader", 3, sleep::one_reader),
    Model::new("sleep.two-readers", 3, sleep::two_readers),
    Model::new("sleep.two-writers", 3, sleep::two_writers),
    Model::new("sleep.both-sides", 3, sleep::both_sides),
    Model::new("sleep.parked", 3, sleep::parked),
    Model::new("sleep.parked-unknown", 3, sleep::parked_unknown),
    Model::new("sleep.parked-stranger", 3, sleep::parked_stranger),
    Model::new("sleep.parked-and-asleep", 3, sleep::parked_and_asleep),
    Model::new("sleep.second-user", 3, sleep::second_user),
    Model::new("sleep.both-parked", 2, sleep::both_parked),
    Model::new("join.singles", 2, join::singles),
    Model::new("join.history", 2, join::history),
    Model::new("join.batch", 2, join::batch),
    Model::new("join.arena", 2, join::arena),
    Model::new("join.arena-batch", 2, join::arena_batch),
    Model::new("join.idle-publisher", 3, join::idle_publisher),
    Model::new("join.wakes-for-message", 3, join::wakes_for_message),
    Model::new("join.wakes-for-room", 3, join::wakes_for_room),
    Model::new("join.wakes-parked-for-room", 3, join::wakes_parked_for_room),
    Model::new("join.waited-for", 3, join::waited_for),
    Model::new("join.waited-for-parked", 3, join::waited_for_parked),
    Model::new("join.waited-for-unattached", 3, join::waited_for_unattached),
    Model::new("join.parked", 3, join::parked),
    Model::new("stop.after-claim", 3, stop::after_claim),
    Model::new("stop.after-payload", 3, stop::after_payload),
    Model::new("stop.after-commit", 3, stop::after_commit),
    Model::new("stop.after-announce", 3, stop::after_announce),
    Model::new("stop.parked", 3, stop::parked),
];
