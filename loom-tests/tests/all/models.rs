//! Every model, as it is, in every order of its steps.

use loom_tests::{MODELS, Model};

macro_rules! models {
    ($($test:ident $name:literal)*) => {
        $(
            #[test]
            fn $test() {
                Model::find($name).expect("the table has it").check();
            }
        )*

        #[test]
        fn every_model_of_the_table_is_tested() {
            let table: Vec<_> = MODELS.iter().map(|model| model.name).collect();
            assert_eq!(table, [$($name),*]);
        }
    };
}

models! {
    past_replaced "past.replaced"
    past_laps "past.laps"
    past_window "past.window"
    past_arena "past.arena"
    past_two_readers "past.two-readers"
    past_sleeps "past.sleeps"
    hold_pinned "hold.pinned"
    hold_unpinned "hold.unpinned"
    hold_pinned_again "hold.pinned-again"
    hold_island "hold.island"
    hold_nowhere "hold.nowhere"
    hold_held_too_many "hold.held-too-many"
    hold_beside_reader "hold.beside-reader"
    hold_room_again "hold.room-again"
    hold_nowhere_replaced "hold.nowhere-replaced"
    evict_waits_for_pin "evict.waits-for-pin"
    evict_waits "evict.waits"
    evict_wakes_for_window "evict.wakes-for-window"
    evict_stalled "evict.stalled"
    join_lossy "join.lossy"
    join_lossy_history "join.lossy-history"
    join_lossy_arena "join.lossy-arena"
    join_lossy_batch "join.lossy-batch"
    join_evicting "join.evicting"
    join_evicting_at_first "join.evicting-at-first"
    stop_past_after_floor "stop.past-after-floor"
    stop_past_after_mark "stop.past-after-mark"
    stop_past_after_place "stop.past-after-place"
    stop_past_after_stamp "stop.past-after-stamp"
    publish_content "publish.content"
    publish_laps "publish.laps"
    publish_arena "publish.arena"
    tap_steps "tap.steps"
    batch_publish "batch.publish"
    batch_receive "batch.receive"
    batch_out_of_order "batch.out-of-order"
    end_close "end.close"
    end_close_after_batch "end.close-after-batch"
    end_wakes_sleeper "end.wakes-sleeper"
    end_wakes_parked "end.wakes-parked"
    room_one_reader "room.one-reader"
    room_two_readers "room.two-readers"
    room_reader_leaves "room.reader-leaves"
    room_reader_drops "room.reader-drops"
    room_unattached_reader_drops "room.unattached-reader-drops"
    room_parked_unknown "room.parked-unknown"
    room_parked_reader_drops "room.parked-reader-drops"
    sleep_one_reader "sleep.one-reader"
    sleep_two_readers "sleep.two-readers"
    sleep_two_writers "sleep.two-writers"
    sleep_both_sides "sleep.both-sides"
    sleep_parked "sleep.parked"
    sleep_parked_unknown "sleep.parked-unknown"
    sleep_parked_stranger "sleep.parked-stranger"
    sleep_parked_and_asleep "sleep.parked-and-asleep"
    sleep_second_user "sleep.second-user"
    sleep_both_parked "sleep.both-parked"
    join_singles "join.singles"
    join_history "join.history"
    join_batch "join.batch"
    join_arena "join.arena"
    join_arena_batch "join.arena-batch"
    join_idle_publisher "join.idle-publisher"
    join_wakes_for_message "join.wakes-for-message"
    join_wakes_for_room "join.wakes-for-room"
    join_wakes_parked_for_room "join.wakes-parked-for-room"
    join_waited_for "join.waited-for"
    join_waited_for_parked "join.waited-for-parked"
    join_waited_for_unattached "join.waited-for-unattached"
    join_parked "join.parked"
    stop_after_claim "stop.after-claim"
    stop_after_payload "stop.after-payload"
    stop_after_commit "stop.after-commit"
    stop_after_announce "stop.after-announce"
    stop_parked "stop.parked"
}
