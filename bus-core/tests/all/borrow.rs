//! What a caller still borrows stays, whatever else it does with its subscriber.

use crate::common::{self, Topic};

#[test]
fn a_ring_stays_while_a_batch_of_it_is_open() {
    let mut topic = Topic::new(common::settings(4, 64, 8, 1, 0));
    let reader = topic.joined(1);
    topic.publisher.try_send_bytes(b"last").unwrap().unwrap();
    topic.publisher.close();
    let batch = reader.poll_batch(4).unwrap();
    // Read beside the batch, which is left empty: nothing is outstanding.
    drop(reader.poll().unwrap().unwrap());
    reader.retire(&[0], |_| ());
    assert_eq!(reader.rings(), 1, "the batch still reads it");
    assert!(batch.next().is_none());
    drop(batch);
    reader.retire(&[0], |_| ());
    assert_eq!(reader.rings(), 0);
}
