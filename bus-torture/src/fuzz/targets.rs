//! What is fuzzed: each takes any bytes, and panics where a promise does not hold. `fuzz/` runs the same functions with libFuzzer.

use std::hint::black_box;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;

use bus_client::rkyv::Archived;
use bus_client::rkyv::string::ArchivedString;
use bus_client::rkyv::util::AlignedVec;
use bus_core::control::{
    Addressed, Connection, Event, MAX_DESCRIPTORS, MAY_BE_IGNORED, Message, Packet, Request, Trust,
    Unread,
};
use bus_core::memory::layout::{PAGE, READER_MAGIC, RING_MAGIC};
use bus_core::memory::registry::Registry;
use bus_core::memory::{reader_bytes, ring_bytes};
use bus_core::publish::{Payload, Publisher};
use bus_core::receive::{Start, Subscriber, access};
use bus_core::schema::{Describe, Nesting, Schema};
use bus_core::{ClientName, Delivery, Error, Pattern, Settings, TopicName, TopicSettings};
use bus_daemon::policy::Policy;

use crate::pen::Pen;

/// A target: its name, and what takes the bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const ALL: &[Target] = &[
    ("request", request),
    ("event", event),
    ("prefix", prefix),
    ("wire", wire),
    ("payload", payload),
    ("schema", schema),
    ("names", names),
    ("policy", policy),
    ("ring", ring),
    ("reader", reader),
];

/// Bytes where rkyv wants them.
fn aligned(bytes: &[u8]) -> AlignedVec {
    let mut aligned = AlignedVec::new();
    aligned.extend_from_slice(bytes);
    aligned
}

/// What is taken for a message is one: it goes back onto the wire and comes out the same.
fn unpack<M: Message + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    if let Ok(Addressed {
        handle,
        message: Some(message),
    }) = M::unpack(&aligned(bytes))
        && let Ok(packet) = message.pack(handle)
    {
        let again = M::unpack(packet.as_bytes());
        let message = Some(message);
        assert_eq!(again.ok(), Some(Addressed { handle, message }));
    }
}

/// What a client says to the broker.
pub fn request(bytes: &[u8]) {
    unpack::<Request>(bytes);
}

/// What the broker says to a client.
pub fn event(bytes: &[u8]) {
    unpack::<Event>(bytes);
}

/// Where a prefix has its version, its length, and its end.
const PREFIX_VERSION: usize = 4;
const PREFIX_LENGTH: usize = 8;
const PREFIX: usize = 16;
/// No version of the protocol numbers a message as high as this yet.
const UNKNOWN_KIND: u16 = 256;

/// The prefix of a packet. The first ten bytes are its kind, its handle, and what is wrong with the rest of the prefix,
/// where 0 is nothing; behind them comes the archive.
pub fn prefix(bytes: &[u8]) {
    let Some((given, archive)) = bytes.split_first_chunk::<10>() else {
        return;
    };
    let kind = u16::from_le_bytes([given[0], given[1]]);
    let handle = u32::from_le_bytes([given[2], given[3], given[4], given[5]]);
    let [magic, version, longer, shorter] = [given[6], given[7], given[8], given[9]];
    let mut packet = Packet::unknown(kind, handle).as_bytes().to_vec();
    packet[0] ^= magic;
    packet[PREFIX_VERSION] ^= version;
    let length = archive.len() as u32 + u32::from(longer);
    packet[PREFIX_LENGTH..][..4].copy_from_slice(&length.to_le_bytes());
    packet.extend_from_slice(archive);
    let cut = usize::from(shorter).min(packet.len());
    packet.truncate(packet.len() - cut);
    let sound = [magic, version, longer, shorter] == [0; 4];
    expect_prefix::<Request>(&packet, kind, handle, (magic, version), sound);
    expect_prefix::<Event>(&packet, kind, handle, (magic, version), sound);
}

/// A packet is refused for what is wrong with its prefix. Where nothing is, a message that is not known is ignored if
/// its sender says that it may be, and is refused otherwise.
fn expect_prefix<M: Message + PartialEq + std::fmt::Debug>(
    packet: &[u8],
    kind: u16,
    handle: u32,
    (magic, version): (u8, u8),
    sound: bool,
) {
    let got = M::unpack(&aligned(packet));
    if packet.len() >= PREFIX && magic == 0 && version != 0 {
        assert!(matches!(got, Err(Error::Version { .. })), "{got:?}");
    } else if !sound {
        assert!(matches!(got, Err(Error::Control(_))), "{got:?}");
    } else if kind & MAY_BE_IGNORED != 0 {
        let ignored = Addressed {
            handle,
            message: None,
        };
        assert_eq!(got.ok(), Some(ignored));
    } else if kind >= UNKNOWN_KIND {
        assert!(matches!(got, Err(Error::UnknownMessage { .. })), "{got:?}");
    } else if let Ok(addressed) = got {
        assert!(addressed.handle == handle && addressed.message.is_some());
    }
}

/// A packet in a socket, with descriptors: the first byte says how many.
pub fn wire(bytes: &[u8]) {
    let Some((count, packet)) = bytes.split_first() else {
        return;
    };
    let Ok((ours, theirs)) = Connection::pair() else {
        return;
    };
    let count = usize::from(*count) % (MAX_DESCRIPTORS + 3);
    let descriptors: Vec<BorrowedFd<'_>> = (0..count).map(|_| theirs.as_fd()).collect();
    if crate::hostile::zoo::send(&theirs, packet, &descriptors).is_err() {
        return;
    }
    let mut refused = Vec::new();
    match ours.try_recv_or::<Request>(&mut refused) {
        Ok(Some(frame)) => {
            assert!(frame.descriptors.len() == count && count <= MAX_DESCRIPTORS);
        }
        // It may be ignored, and is.
        Ok(None) => assert!(refused.len() == count, "a descriptor is lost"),
        Err(_) => assert!(refused.len() == count, "a descriptor is lost"),
    }
    ours.shut_down();
    assert_eq!(ours.unread(), Unread::Nothing);
}

/// A message with what types can have in them.
#[bus_client::message]
struct Order {
    id: u64,
    side: Side,
    note: Option<String>,
    legs: Vec<Leg>,
    tags: Vec<Vec<String>>,
    price: f64,
    letter: char,
    pair: (bool, [u16; 3]),
}

/// One of several.
#[bus_client::message]
enum Side {
    /// Without anything.
    Buy,
    /// With a value.
    Sell(u32),
    /// With fields.
    Cross {
        /// Text.
        with: String,
    },
}

/// A part of a message.
#[bus_client::message]
struct Leg {
    name: String,
    ratio: Option<(i8, u128)>,
}

fn text(text: &ArchivedString) -> usize {
    text.as_str().chars().count()
}

fn read_order(order: &Archived<Order>) -> usize {
    let side = match &order.side {
        ArchivedSide::Buy => 0,
        ArchivedSide::Sell(count) => count.to_native() as usize,
        ArchivedSide::Cross { with } => text(with),
    };
    let legs = order.legs.iter().map(|leg| {
        let ratio = leg
            .ratio
            .as_ref()
            .map_or(0, |ratio| ratio.1.to_native() as usize);
        text(&leg.name).wrapping_add(ratio)
    });
    let tags = order.tags.iter().flat_map(|list| list.iter().map(text));
    let rest = [
        side,
        order.id.to_native() as usize,
        order.note.as_ref().map_or(0, text),
        order.letter.to_native() as usize,
        usize::from(order.pair.0),
        order.price.to_native() as usize,
    ];
    let all = legs.chain(tags).chain(rest);
    all.fold(0, usize::wrapping_add)
}

fn valid<T: Payload>(bytes: &[u8], read: impl Fn(&T::Archived) -> usize) {
    match access::<T>(bytes, 0) {
        Ok(value) => drop(black_box(read(value))),
        Err(Error::Corrupt { sequence: 0, .. }) => {}
        Err(other) => panic!("{other}"),
    }
}

/// A payload that is to be a value of its type.
pub fn payload(bytes: &[u8]) {
    let bytes = aligned(bytes);
    valid::<Order>(&bytes, read_order);
    valid::<String>(&bytes, text);
    valid::<Vec<String>>(&bytes, |list| list.iter().map(text).sum());
    valid::<Vec<Option<u32>>>(&bytes, |list| {
        let values = list.iter().flat_map(|value| value.as_ref());
        values.fold(0, |sum, value| sum ^ value.to_native() as usize)
    });
    valid::<Option<char>>(&bytes, |value| {
        value
            .as_ref()
            .map_or(0, |letter| letter.to_native() as usize)
    });
    valid::<(u8, Vec<(bool, String)>)>(&bytes, |value| {
        value
            .1
            .iter()
            .map(|entry| usize::from(entry.0) + text(&entry.1))
            .sum()
    });
    valid::<Side>(&bytes, |side| match side {
        ArchivedSide::Buy => 0,
        ArchivedSide::Sell(count) => count.to_native() as usize,
        ArchivedSide::Cross { with } => text(with),
    });
}

/// A description of a type, as it comes with the first request of a handle.
pub fn schema(bytes: &[u8]) {
    let Ok(Addressed {
        message: Some(Request::Open {
            schema, settings, ..
        }),
        ..
    }) = Request::unpack(&aligned(bytes))
    else {
        return;
    };
    if schema.check().is_err() {
        return;
    }
    let other = Schema::of::<Order>();
    black_box((schema.difference(&other), other.difference(&schema)));
    assert_eq!(schema.difference(&schema), None);
    if let Ok(topic) = settings.decide(&schema) {
        assert!(topic.check().is_ok());
        assert!(
            settings.conflict(&topic).is_none(),
            "{settings:?} {topic:?}"
        );
        black_box((ring_bytes(&topic), reader_bytes(&topic), topic.overrun()));
    }
}

/// Names and patterns.
pub fn names(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (pattern, name) = text.split_once('\n').unwrap_or((&text, &text));
    let _ = black_box(ClientName::new(name));
    let name = TopicName::new(name);
    if let Ok(pattern) = Pattern::new(pattern) {
        if let Ok(name) = &name {
            black_box(pattern.matches(name));
        }
        assert!(Pattern::new(pattern.as_str()).is_ok());
    }
    if let Ok(name) = name {
        assert!((1..=127).contains(&name.as_str().len()));
        let itself = Pattern::new(name.as_str());
        assert!(itself.is_ok_and(|itself| itself.matches(&name)));
    }
}

/// A `bus.toml`.
pub fn policy(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match Policy::parse(Path::new("bus.toml"), &text, 0) {
        Ok(policy) => drop(black_box(policy.limits(7))),
        Err(problems) => {
            assert!(problems.iter().count() > 0);
            black_box(problems.to_string());
        }
    }
}

/// What the segments of a target are like: the first byte of its input decides.
fn settings(first: u8) -> Option<TopicSettings> {
    let deliveries = [
        Delivery::Wait,
        Delivery::Fail,
        Delivery::Evict { after_us: 1 },
        Delivery::Lossy,
    ];
    let settings = Settings {
        depth: Some(4 << (first >> 2 & 3)),
        max_payload: Some(if first & 16 == 0 { 48 } else { 200 }),
        held: Some(3),
        arena: (first & 20 != 0).then_some(1 << 13),
        delivery: Some(deliveries[usize::from(first & 3)]),
        ..Settings::default()
    };
    settings.decide(&Schema::bytes()).ok()
}

/// Writes bytes into a segment: from its second line on where there are few, so that they reach what matters.
fn fill(pen: &Pen, from: usize, bytes: &[u8]) {
    for (number, part) in bytes.chunks(8).enumerate() {
        let mut word = [0; 8];
        word[..part.len()].copy_from_slice(part);
        if from + 8 * number + 8 <= pen.bytes() {
            pen.write(from + 8 * number, u64::from_le_bytes(word));
        }
    }
}

/// A ring that holds anything: header words first, then slots. It is attached, joined and read.
pub fn ring(bytes: &[u8]) {
    let Some((settings, header, slots)) = segment(bytes) else {
        return;
    };
    let Ok(pen) = Pen::create(RING_MAGIC, ring_bytes(&settings)) else {
        return;
    };
    fill(&pen, 64, header);
    fill(&pen, PAGE, slots);
    let Ok(registry) = Registry::create() else {
        return;
    };
    let Ok(reader) = Subscriber::create(&settings, &registry.fd(), Arc::new(())) else {
        return;
    };
    let ways = [
        (Start::First, Trust::InPlace),
        (Start::Head { history: 1 }, Trust::Copy),
    ];
    for (number, (start, trust)) in (0_u16..).zip(ways) {
        let attached = reader.attach(number.into(), number, &pen, start, trust);
        assert!(attached.is_ok(), "{attached:?}");
    }
    reader.joined(1);
    let mut kept = Vec::new();
    for turn in 0..64 {
        match reader.poll() {
            Ok(Some(message)) => {
                assert!(message.bytes().len() as u64 <= settings.max_payload);
                black_box(message.bytes().iter().fold(0, |sum, byte| sum ^ byte));
                kept.push(message);
            }
            Ok(None) => break,
            Err(_) => drop(kept.pop()),
        }
        if turn % 5 == 0 {
            kept.clear();
        }
    }
    kept.clear();
    black_box((reader.ready(), reader.ends().count(), reader.lost()));
}

/// A reader segment that holds anything: header words first, then cursors and pins. A publisher adopts it and publishes.
pub fn reader(bytes: &[u8]) {
    let Some((settings, header, words)) = segment(bytes) else {
        return;
    };
    let Ok(pen) = Pen::create(READER_MAGIC, reader_bytes(&settings)) else {
        return;
    };
    fill(&pen, 64, header);
    fill(&pen, 256, words);
    let Ok(registry) = Registry::create() else {
        return;
    };
    let Ok(mut publisher) = Publisher::create(&settings, &registry.fd(), 0) else {
        return;
    };
    assert!(publisher.adopt(7, &pen).is_ok());
    let mut room = 0;
    for number in 0..40_u8 {
        publisher.stale();
        let sent = publisher.try_send_bytes(&bytes[..usize::from(number).min(bytes.len())]);
        assert!(sent.is_ok(), "{sent:?}");
        room += u64::from(matches!(sent, Ok(Some(_))));
        publisher.evict_stalled();
    }
    assert_eq!(publisher.head(), room);
    if settings.delivery == Delivery::Lossy {
        assert_eq!(room, 40, "a lossy publisher found no room");
    }
    publisher.drop_follower(7);
    publisher.stale();
    assert!(
        publisher
            .try_send_bytes(b"x")
            .is_ok_and(|sent| sent.is_some())
    );
}

/// Settings, and the two parts of the rest.
fn segment(bytes: &[u8]) -> Option<(TopicSettings, &[u8], &[u8])> {
    let (first, rest) = bytes.split_first()?;
    let (header, words) = rest.split_at(rest.len().min(136));
    Some((settings(*first)?, header, words))
}

/// What each target starts from: an input that gets far.
#[must_use]
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    let open = crate::hostile::member::open(
        bus_core::control::Role::Publisher,
        "market/ticks",
        Settings::default(),
    );
    let request = |request: &Request| request.pack(7).map(|p| p.as_bytes().to_vec());
    let hello = crate::hostile::member::hello(1);
    let requests = [
        &open,
        &hello,
        &Request::Join {},
        &Request::Released { ring: 3 },
    ];
    let packets: Vec<_> = requests
        .into_iter()
        .filter_map(|r| request(r).ok())
        .collect();
    let typed = Request::Open {
        role: bus_core::control::Role::Subscriber,
        topic: "t".into(),
        schema: described::<Order>(),
        settings: Settings::default(),
        history: 1,
        watched: None,
    };
    match target {
        "request" => packets,
        "schema" => request(&typed).into_iter().chain(packets).collect(),
        "prefix" => {
            let bare = |kind: u16| [&kind.to_le_bytes()[..], &[7, 0, 0, 0, 0, 0, 0, 0]].concat();
            let unknown = [MAY_BE_IGNORED | 3, UNKNOWN_KIND, u16::MAX].map(bare);
            let known = packets.iter().map(|packet| {
                let [low, high] = [packet[6], packet[7]];
                [&bare(u16::from_le_bytes([low, high])), &packet[PREFIX..]].concat()
            });
            known.chain(unknown).collect()
        }
        "wire" => packets
            .into_iter()
            .map(|p| [&[1], &p[..]].concat())
            .collect(),
        "event" => {
            let refused = Event::Refused {
                kind: bus_core::control::Refusal::Limit,
                why: "full".into(),
            };
            let events = [refused, Event::Joined { version: 3 }];
            let packets = events.iter().filter_map(|event| event.pack(7).ok());
            packets.map(|packet| packet.as_bytes().to_vec()).collect()
        }
        "payload" => {
            let order = Order {
                id: 1,
                side: Side::Cross {
                    with: "somebody else".into(),
                },
                note: Some("a note that does not fit".into()),
                legs: vec![Leg {
                    name: "first leg of two".into(),
                    ratio: Some((-1, 7)),
                }],
                tags: vec![vec!["x".into()], Vec::new()],
                price: 99.5,
                letter: 'ä',
                pair: (true, [1, 2, 3]),
            };
            let bytes = bus_core::publish::to_bytes(&order, 1 << 12, Nesting::OfType);
            bytes.into_iter().map(|bytes| bytes.to_vec()).collect()
        }
        "names" => vec![
            b"market/*/**\nmarket/ticks/x".to_vec(),
            b"a.b-c/d_9".to_vec(),
        ],
        "policy" => vec![b"# empty\n".to_vec()],
        "ring" | "reader" => (0..32)
            .map(|first| sound(first, target == "ring"))
            .collect(),
        _ => Vec::new(),
    }
}

fn described<T: Describe>() -> Schema {
    Schema::of::<T>()
}

/// A segment as an honest peer would have it, after some messages.
fn sound(first: u8, ring: bool) -> Vec<u8> {
    let mut bytes = vec![0; 1 + 136];
    bytes[0] = first;
    for sequence in 0..4_u64 {
        let place = u64::from(u32::MAX) << 32 | 8;
        let words = if ring { [sequence + 1, place] } else { [0, 0] };
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        bytes.extend([7; 48]);
    }
    bytes
}
