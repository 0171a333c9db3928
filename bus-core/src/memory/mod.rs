//! Shared memory: what lies where, how a segment comes to be, and how a peer's is checked before use.
//!
//! Every segment has one writer. Its creator maps it read-write, seals it, and hands out the descriptor;
//! everybody else can map it read-only and nothing more.

pub mod layout;
mod pages;
mod place;
pub mod placement;
pub mod registry;
mod room;
pub mod segment;
mod told;

pub use place::reserve;

use crate::TopicSettings;

/// Bytes of a page.
const PAGE: u64 = layout::PAGE as u64;

/// Bytes of a registry segment.
pub const REGISTRY_BYTES: u64 = PAGE;

/// Bytes of a reader segment with these settings: header and cursors, then pins.
pub fn reader_bytes(settings: &TopicSettings) -> u64 {
    let pins = settings.overrun().map_or(0, |rules| rules.pins);
    let words = pins as u64 * u64::from(settings.rings());
    cursor_bytes(settings.rings()) + (words * size_of::<u64>() as u64).next_multiple_of(PAGE)
}

/// Bytes of the longest reader segment that any topic needs.
pub const MAX_READER_BYTES: u64 = {
    let pins = (layout::MAX_RINGS * crate::settings::MAX_HELD as usize * size_of::<u64>()) as u64;
    cursor_bytes(layout::MAX_RINGS as u16) + pins.next_multiple_of(PAGE)
};

/// Messages of a publisher that a subscriber can hold on a topic that was undecided when it joined, where publishers
/// may go past subscribers: as many as the default.
const UNDECIDED_HELD: u64 = 16;

/// Least bytes of a reader segment that is made before a publisher has decided what the topic is like.
///
/// It does for 60 publishers, and for 16 messages held of each where publishers may go past subscribers. Whoever makes
/// it takes more where the provisional settings [need](reader_bytes) more.
pub const fn undecided_reader_bytes() -> u64 {
    let words = layout::FIRST_CURSORS as u64 * UNDECIDED_HELD;
    PAGE + (words * size_of::<u64>() as u64).next_multiple_of(PAGE)
}

/// Bytes of the first page and the further cursor pages of a reader segment with so many cursors. The pins start
/// there.
pub(crate) const fn cursor_bytes(rings: u16) -> u64 {
    let further = (rings as u64).saturating_sub(layout::FIRST_CURSORS as u64);
    PAGE + further.div_ceil(layout::PAGE_CURSORS as u64) * PAGE
}

/// Bytes of a ring segment with these settings: header, slots, arena.
pub fn ring_bytes(settings: &TopicSettings) -> u64 {
    PAGE + slot_bytes(settings) + settings.arena
}

/// Bytes of all slots of a ring.
pub(crate) fn slot_bytes(settings: &TopicSettings) -> u64 {
    u64::from(settings.depth) * u64::from(settings.stride)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::ops::Range;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::layout::Line;
    use super::segment::{self, Kind};
    use super::*;
    use crate::backend::{Backend, MappedReader, Native, ReaderMemory};
    use crate::schema::Schema;
    use crate::{Delivery, Settings};

    type Word = <Native as Backend>::Word64;

    fn settings(publishers: u32, held: Option<u32>) -> TopicSettings {
        let settings = Settings {
            max_payload: Some(8),
            delivery: held.map(|_| Delivery::Lossy),
            held,
            publishers: Some(publishers),
            ..Settings::default()
        };
        settings.decide(&Schema::bytes()).unwrap()
    }

    #[test]
    fn a_reader_segment_has_a_page_for_each_64_publishers_more_than_60() {
        let pages = |publishers| reader_bytes(&settings(publishers, None)) / PAGE;
        assert_eq!([1, 60, 61, 124, 125, 1024].map(pages), [1, 1, 2, 2, 3, 17]);
        let with_pins = |publishers| reader_bytes(&settings(publishers, Some(16))) / PAGE;
        // 60, 124, 188 and 1,084 times 16 words of pins.
        let expected = [1 + 2, 2 + 4, 2 + 4, 3 + 6, 17 + 34];
        assert_eq!([60, 61, 124, 125, 1024].map(with_pins), expected);
    }

    #[test]
    fn an_undecided_reader_segment_does_for_whatever_is_decided_by_default() {
        for max_payload in [8, 1 << 20] {
            for delivery in [
                Delivery::Wait,
                Delivery::Fail,
                Delivery::Lossy,
                Delivery::Evict { after_us: 1 },
            ] {
                let settings = Settings {
                    max_payload: Some(max_payload),
                    delivery: Some(delivery),
                    ..Settings::default()
                };
                let settings = settings.decide(&Schema::bytes()).unwrap();
                assert!(reader_bytes(&settings) <= undecided_reader_bytes());
            }
        }
        let most = settings(1024, Some(1024));
        assert_eq!(MAX_READER_BYTES, reader_bytes(&most));
        assert_eq!(
            undecided_reader_bytes(),
            reader_bytes(&settings(60, Some(16)))
        );
    }

    /// Where the words of a reader segment lie, each as a range of bytes from its start.
    fn words(publishers: u32, held: Option<u32>) -> (u64, Vec<Range<usize>>) {
        let settings = settings(publishers, held);
        let bytes = reader_bytes(&settings);
        let (_fd, mapping) = segment::create(Kind::Reader, bytes).unwrap();
        let base = mapping.base().addr().get();
        let reader = MappedReader::new(Arc::new(mapping), &settings);
        let header = std::ptr::from_ref(reader.header()).addr() - base;
        let mut words = Vec::new();
        words.push(header..header + size_of_val(reader.header()));
        let at = |word: &Word| std::ptr::from_ref(word).addr() - base;
        for index in 0..usize::from(settings.rings()) {
            let cursor = at(reader.cursor(index));
            assert_eq!(cursor, 256 + 64 * index, "as the protocol says");
            words.push(cursor..cursor + size_of::<Line<Word>>());
            for number in 0..held.unwrap_or(0) as usize {
                let pin = at(reader.pin(index, number));
                assert!(pin.is_multiple_of(align_of::<Word>()));
                words.push(pin..pin + size_of::<Word>());
            }
        }
        (bytes, words)
    }

    fn check(publishers: u32, held: Option<u32>) {
        let (bytes, words) = words(publishers, held);
        let mut ends = BTreeMap::new();
        for word in words {
            assert!(word.end as u64 <= bytes, "{word:?} of {bytes} bytes");
            assert!(ends.insert(word.start, word.end).is_none());
        }
        let next = ends.keys().skip(1);
        for (end, next) in ends.values().zip(next) {
            assert!(end <= next, "two words share a byte at {next}");
        }
    }

    #[test]
    fn no_two_words_of_a_reader_segment_overlap_at_the_edges() {
        for publishers in [1, 60, 61, 124, 125, 1024] {
            check(publishers, None);
            check(publishers, Some(3));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn no_two_words_of_a_reader_segment_overlap(
            publishers in 1_u32..=1024,
            held in prop::option::of(1_u32..=40),
        ) {
            check(publishers, held);
        }
    }

    #[test]
    #[should_panic(expected = "index < self.rings")]
    fn there_is_no_cursor_behind_the_last_one() {
        let settings = settings(61, None);
        let (_fd, mapping) = segment::create(Kind::Reader, reader_bytes(&settings)).unwrap();
        MappedReader::new(Arc::new(mapping), &settings).cursor(124);
    }
}
