//! The floor of a ring whose publisher waits: what it says is so, and it is no higher than it needs to be.

use bus_core::TopicSettings;
use bus_core::memory::ring_bytes;

use crate::common::{Topic, Words};

const FLOOR: usize = 192;
const SLOTS: usize = 4096;
/// High half of a slot's `place` whose payload lies in the slot.
const INLINE: u32 = u32::MAX;

/// Looks at a ring as a reader does that nobody waits for.
pub struct FloorCheck {
    ring: Words,
    settings: TopicSettings,
    /// The floor when it was looked at last.
    last: u64,
}

impl FloorCheck {
    pub fn new(topic: &Topic) -> Self {
        Self {
            ring: Words::first(&topic.publisher.fd(), ring_bytes(&topic.settings)),
            settings: topic.settings,
            last: 0,
        }
    }

    /// Demands that each message from the floor up to the head is the one that was published.
    pub fn check<'a>(&mut self, head: u64, published: impl Fn(u64) -> &'a [u8]) {
        let floor = self.ring.at64(FLOOR);
        assert!(self.last <= floor && floor <= head, "the floor only rises");
        self.last = floor;
        let depth = u64::from(self.settings.depth);
        assert!(
            head - floor <= depth,
            "a slot was written before the floor rose"
        );
        if self.settings.arena == 0 {
            let step = (depth / 8).max(1);
            let most = (head + step).saturating_sub(depth);
            assert!(
                floor <= most,
                "the floor rose to {floor}, the head is {head}"
            );
        }
        for sequence in floor..head {
            let slot = SLOTS + (sequence % depth) as usize * self.settings.stride as usize;
            assert_eq!(self.ring.at64(slot), sequence + 1, "the floor is {floor}");
            let (len, place) = (self.ring.at32(slot + 8), self.ring.at32(slot + 12));
            let at = match place {
                INLINE => slot + 16,
                unit => {
                    let arena = SLOTS + depth as usize * self.settings.stride as usize;
                    arena + unit as usize * 64
                }
            };
            let found = self.ring.bytes(at, len as usize);
            assert_eq!(
                found,
                published(sequence),
                "message {sequence}, the floor is {floor}"
            );
        }
    }
}
