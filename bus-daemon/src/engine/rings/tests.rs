//! How many ring indices a topic has, and what happens when they are used up.

use bus_core::schema::Schema;
use bus_core::{Delivery, Settings};

use super::*;
use crate::kernel::Kernel;

fn settings(publishers: u32, delivery: Delivery) -> TopicSettings {
    let settings = Settings {
        publishers: Some(publishers),
        delivery: Some(delivery),
        ..Settings::default()
    };
    settings.decide(&Schema::bytes()).unwrap()
}

/// The numbers of publishers start here.
const FIRST: u64 = 1000;

/// Takes indices for new publishers until there is none, at most `most`; how many there were.
fn fill(
    rings: &mut Rings<Kernel>,
    settings: &TopicSettings,
    first: u64,
    most: u64,
) -> (u64, Option<Full>) {
    for count in 0..most {
        match rings.find(settings) {
            Ok(found) => {
                assert!(found.index < settings.rings());
                assert!(rings.take(found.index, first + count));
            }
            Err(full) => return (count, Some(full)),
        }
    }
    (most, None)
}

#[test]
fn a_topic_takes_as_many_publishers_as_its_settings_admit() {
    for publishers in [1, 60, 61, 124, 125, 1024] {
        let settings = settings(publishers, Delivery::Wait);
        let mut rings = Rings::<Kernel>::default();
        let filled = fill(&mut rings, &settings, FIRST, 2000);
        assert_eq!(filled, (publishers.into(), Some(Full::Publishers)));
    }
}

#[test]
fn unread_rings_of_publishers_that_left_take_the_indices_that_are_not_live() {
    for (publishers, indices) in [(60, 60), (61, 124), (1024, 1084)] {
        let settings = settings(publishers, Delivery::Wait);
        let mut rings = Rings::<Kernel>::default();
        let mut first = FIRST;
        let subscriber = 7;
        while rings.find(&settings).is_ok() {
            let (taken, _) = fill(&mut rings, &settings, first, publishers.into());
            for ring in first..first + taken {
                rings.add_reader(ring, subscriber);
                rings.give_back(ring);
            }
            first += taken;
        }
        let draining = rings.find(&settings).unwrap_err();
        assert_eq!(draining, Full::Draining(indices));
        assert_eq!(first - FIRST, indices as u64);
        rings.release(FIRST + 3, subscriber, 0);
        assert_eq!(rings.find(&settings).map(|found| found.index), Ok(3));
    }
}

#[test]
fn a_lossy_topic_gives_up_an_unread_ring_for_a_new_publisher() {
    let settings = settings(61, Delivery::Lossy);
    let mut rings = Rings::<Kernel>::default();
    for ring in FIRST..FIRST + 124 {
        let found = rings.find(&settings).unwrap();
        assert!(rings.take(found.index, ring));
        rings.add_reader(ring, 7);
        rings.give_back(ring);
    }
    let found = rings.find(&settings).unwrap();
    let (lost, readers) = found.dropped.unwrap();
    assert!((FIRST..FIRST + 124).contains(&lost));
    assert_eq!(readers, BTreeSet::from([7]));
    assert!(found.index < 124);
}
