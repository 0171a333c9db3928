//! A control message whose descriptors this process has no room for. It lowers the limit of its own process, so it is
//! alone in this file.

use std::fs::File;
use std::os::fd::AsFd;

use bus_core::Error;
use bus_core::control::{Connection, Event};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

#[test]
fn a_message_without_room_for_its_descriptors_is_told_apart_and_the_next_one_arrives() {
    let (a, b) = Connection::pair().unwrap();
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 64.min(hard), hard).unwrap();
    let event = Event::Joined { version: 1 };
    for _ in 0..3 {
        a.send(7, &event, &[a.as_fd(), b.as_fd()]).unwrap();
    }
    let mut files: Vec<_> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    let lost = b.try_recv::<Event>().unwrap_err();
    assert!(
        matches!(lost, Error::DescriptorsLost { handle: 7 }),
        "{lost}"
    );
    files.pop();
    let (frame, bereft) = b.try_recv_bereft::<Event>().unwrap().unwrap();
    assert!(bereft);
    assert_eq!((frame.handle, &frame.message), (7, &Some(event)));
    assert_eq!(frame.descriptors.len(), 1, "there was room for one");
    drop((files, frame));
    let (frame, bereft) = b.try_recv_bereft::<Event>().unwrap().unwrap();
    assert!(!bereft);
    assert_eq!(frame.descriptors.len(), 2);
}
