//! The kinds of items that can be messages: all of them make the trip through rkyv.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt::Debug;
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::{NonZeroU8, NonZeroU64};
use std::ops::Range;
use std::time::Duration;

use crate::bus::schema::{Describe, Schema};
use bus_derive::message;
use rkyv::api::high::{HighDeserializer, HighSerializer, HighValidator};
use rkyv::bytecheck::{CheckBytes, Verify};
use rkyv::rancor::{Error, Fallible, Source};
use rkyv::ser::allocator::ArenaHandle;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Deserialize, Serialize};

/// There and back; the received form, printed.
fn trip<T>(sent: &T) -> String
where
    T: Describe + Debug + PartialEq,
    T: for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, Error>>,
    T::Archived: Debug
        + Deserialize<T, HighDeserializer<Error>>
        + for<'a> CheckBytes<HighValidator<'a, Error>>,
{
    let schema = Schema::of::<T>();
    schema.check().expect("a schema within the limits");
    let bytes = rkyv::to_bytes::<Error>(sent).expect("serialise");
    if schema.fixed {
        assert_eq!(bytes.len(), schema.size as usize);
    }
    let received = rkyv::access::<T::Archived, Error>(&bytes).expect("valid");
    let back = rkyv::deserialize::<T, Error>(received).expect("deserialise");
    assert_eq!(&back, sent);
    format!("{received:?}")
}

fn paths<T: Describe>() -> Vec<String> {
    Schema::of::<T>()
        .fields
        .into_iter()
        .map(|f| f.path)
        .collect()
}

#[test]
fn named_tuple_and_unit_structs() {
    #[message(crate = crate::bus)]
    #[derive(Debug, PartialEq)]
    struct Tick {
        price: f64,
        venue: String,
    }
    #[message(crate = crate::bus)]
    #[derive(Debug, PartialEq)]
    struct Price(i64, bool);
    #[message(crate = crate::bus)]
    #[derive(Debug, PartialEq)]
    struct Ping;

    let tick = Tick {
        price: 1.5,
        venue: "Zurich".to_owned(),
    };
    assert_eq!(trip(&tick), r#"Tick { price: 1.5, venue: "Zurich" }"#);
    assert_eq!(trip(&Price(-3, true)), "Price(-3, true)");
    assert_eq!(paths::<Price>(), ["0", "1"]);
    assert_eq!(trip(&Ping), "Ping");
    let ping = Schema::of::<Ping>();
    assert_eq!((ping.size, ping.fixed, ping.fields.len()), (0, true, 0));
}

#[test]
fn enums() {
    #[message(crate = crate::bus)]
    #[derive(Debug, PartialEq)]
    #[allow(clippy::upper_case_acronyms)]
    enum Side {
        Buy,
        Sell(u32, String),
        Hold { since: Duration },
    }
    assert_eq!(trip(&Side::Buy), "Buy");
    assert_eq!(trip(&Side::Sell(1, "x".to_owned())), r#"Sell(1, "x")"#);
    let hold = Side::Hold {
        since: Duration::from_secs(2),
    };
    assert!(trip(&hold).starts_with("Hold { since: "));
    assert_eq!(
        paths::<Side>(),
        [
            "::Buy",
            "::Sell",
            "::Sell.0",
            "::Sell.1",
            "::Hold",
            "::Hold.since"
        ]
    );
}

#[test]
fn generic_items() {
    #[message(crate = crate::bus)]
    #[derive(Debug, PartialEq)]
    struct Pair<A, B = u8>
    where
        A: Clone,
    {
        first: A,
        second: Vec<B>,
        third: Option<(A, B)>,
    }
    #[message(crate = crate::bus)]
    #[derive(Debug, PartialEq)]
    enum Either<L, R> {
        Left(L),
        Right { right: R },
    }
    #[message(crate = crate::bus)]
    #[derive(Debug, PartialEq)]
    struct Block<T, const N: usize> {
        cells: [T; N],
        unit: PhantomData<T>,
    }

    let pair = Pair {
        first: 7u32,
        second: vec!["x".to_owned()],
        third: Some((8, "y".to_owned())),
    };
    assert_eq!(
        trip(&pair),
        r#"Pair { first: 7, second: ["x"], third: Some(ArchivedTuple2(8, "y")) }"#
    );
    assert_eq!(Schema::of::<Pair<u32, String>>().name, "Pair<u32, String>");
    assert_eq!(Schema::of::<Pair<u32>>().name, "Pair<u32, u8>");
    assert!(!Schema::of::<Pair<u32>>().fixed);

    assert_eq!(trip(&Either::<u8, f32>::Left(1)), "Left(1)");
    assert_eq!(
        trip(&Either::<u8, f32>::Right { right: 0.5 }),
        "Right { right: 0.5 }"
    );
    assert!(Schema::of::<Either<u8, f32>>().fixed);
    assert!(!Schema::of::<Either<u8, String>>().fixed);

    let block = Block {
        cells: [1u16, 2, 3],
        unit: PhantomData,
    };
    trip(&block);
    assert_eq!(Schema::of::<Block<u16, 3>>().name, "Block<u16, 3>");
    assert_eq!(
        Schema::of::<Block<u16, 3>>()
            .difference(&Schema::of::<Block<u16, 4>>())
            .as_deref(),
        Some("type: asked Block<u16, 3>, topic has Block<u16, 4>")
    );
}

#[test]
fn items_that_hold_themselves() {
    #[message(crate = crate::bus)]
    #[derive(Debug, PartialEq)]
    struct Node {
        value: u32,
        next: Option<Box<Node>>,
        children: Vec<Node>,
        names: HashMap<String, Node>,
    }
    #[message(crate = crate::bus)]
    #[derive(Debug, PartialEq)]
    enum List<T> {
        End,
        Item(T, Box<List<T>>),
    }

    let leaf = |value| Node {
        value,
        next: None,
        children: Vec::new(),
        names: HashMap::new(),
    };
    let node = Node {
        next: Some(Box::new(leaf(2))),
        children: vec![leaf(3), leaf(4)],
        names: HashMap::from([("five".to_owned(), leaf(5))]),
        ..leaf(1)
    };
    assert!(trip(&node).contains("value: 4"));
    assert_eq!(paths::<Node>(), ["value", "next", "children", "names"]);

    trip(&List::Item("x".to_owned(), Box::new(List::End)));
    let list = Schema::of::<List<String>>();
    assert_eq!(list.name, "List<String>");
    assert_eq!(
        paths::<List<String>>(),
        ["::End", "::Item", "::Item.0", "::Item.1"]
    );
}

#[test]
fn items_that_hold_each_other() {
    #[message(crate = crate::bus)]
    #[derive(Debug, PartialEq)]
    struct Folder {
        #[rkyv(omit_bounds)]
        entries: Vec<Entry>,
    }
    #[message(crate = crate::bus)]
    #[derive(Debug, PartialEq)]
    enum Entry {
        File(String),
        Folder(Box<Folder>),
    }
    let empty = Folder {
        entries: Vec::new(),
    };
    trip(&Folder {
        entries: vec![Entry::File("a".to_owned()), Entry::Folder(Box::new(empty))],
    });
    assert_eq!(
        paths::<Folder>(),
        [
            "entries",
            "entries[]",
            "entries[]::File",
            "entries[]::File.0",
            "entries[]::Folder",
            "entries[]::Folder.0"
        ]
    );
}

#[test]
fn every_type_that_a_field_may_have() {
    #[message(crate = crate::bus)]
    #[derive(Debug, PartialEq)]
    struct Everything {
        numbers: (i8, i16, i32, i64, i128, isize),
        counts: (u8, u16, u32, u64, u128, usize),
        others: (bool, char, f32, f64, ()),
        alone: (u32,),
        non_zero: (NonZeroU8, Option<NonZeroU64>),
        text: (String, Box<str>, Vec<String>),
        lists: (Box<[u16]>, VecDeque<f64>, [Option<u8>; 3]),
        maps: (HashMap<String, u32>, BTreeMap<u8, String>),
        sets: (HashSet<String>, BTreeSet<u64>),
        results: (Result<u32, String>, Range<u64>),
        time: Duration,
        places: (Ipv4Addr, Ipv6Addr, IpAddr, SocketAddr),
        nothing: PhantomData<String>,
    }
    let everything = Everything {
        numbers: (-1, -2, -3, -4, -5, -6),
        counts: (1, 2, 3, 4, 5, 6),
        others: (true, 'x', 0.5, 1.5, ()),
        alone: (1,),
        non_zero: (NonZeroU8::MIN, NonZeroU64::new(2)),
        text: ("a".to_owned(), "b".into(), vec!["c".to_owned()]),
        lists: (
            Box::new([1, 2]),
            VecDeque::from([0.5]),
            [None, Some(1), None],
        ),
        maps: (
            HashMap::from([("k".to_owned(), 1)]),
            BTreeMap::from([(1, "v".to_owned())]),
        ),
        sets: (HashSet::from(["s".to_owned()]), BTreeSet::from([9])),
        results: (Err("no".to_owned()), 3..5),
        time: Duration::from_millis(1500),
        places: (
            Ipv4Addr::LOCALHOST,
            Ipv6Addr::LOCALHOST,
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            SocketAddr::from(([127, 0, 0, 1], 80)),
        ),
        nothing: PhantomData,
    };
    trip(&everything);
    let schema = Schema::of::<Everything>();
    let kinds: Vec<_> = schema.fields.iter().map(|f| f.kind.as_str()).collect();
    for kind in [
        "i128",
        "char",
        "NonZeroU8",
        "Box<str>",
        "Box<[u16]>",
        "[Option<u8>; 3]",
        "BTreeMap<u8, String>",
    ] {
        assert!(kinds.contains(&kind), "{kind} in {kinds:?}");
    }
}

#[test]
fn attributes_of_rkyv_stay() {
    use crate::bus::rkyv::with::{AsBox, Skip};

    #[message(crate = crate::bus)]
    #[rkyv(archived = Received, derive(Debug, PartialEq))]
    #[derive(Debug, PartialEq)]
    struct Tick {
        price: f64,
        #[rkyv(with = AsBox)]
        lots: u32,
        #[rkyv(with = Skip)]
        cache: u64,
    }
    let schema = Schema::of::<Tick>();
    assert!(!schema.fixed);
    let kinds: Vec<_> = schema
        .fields
        .iter()
        .map(|f| (f.kind.as_str(), f.offset, f.size))
        .collect();
    assert_eq!(
        kinds,
        [
            ("f64", 0, 8),
            ("u32 with AsBox", 8, 4),
            ("u64 with Skip", 12, 0)
        ]
    );
    let tick = Tick {
        price: 1.0,
        lots: 2,
        cache: 0,
    };
    assert!(trip(&tick).starts_with("Received { price: 1.0"));
}

#[test]
fn no_debug_on_request() {
    // An archived type without `Debug`.
    #[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
    struct Silent(u32);

    impl Describe for Silent {
        const FIXED: bool = true;
        fn kind() -> String {
            "Silent".to_owned()
        }
    }

    #[message(crate = crate::bus, no_debug)]
    struct Holder {
        silent: Silent,
    }
    let bytes = rkyv::to_bytes::<Error>(&Holder { silent: Silent(5) }).expect("serialise");
    let read = rkyv::access::<<Holder as Archive>::Archived, Error>(&bytes).expect("valid");
    assert_eq!(read.silent.0, 5);
    assert_eq!(Schema::of::<Holder>().fields[0].kind, "Silent");
}

macro_rules! declare {
    ($name:ident { $($field:ident: $type:ty = $value:expr),* }) => {
        #[message(crate = crate::bus)]
        #[derive(Debug, PartialEq)]
        struct $name { $($field: $type),* }

        #[test]
        fn items_from_another_macro() {
            trip(&$name { $($field: $value),* });
        }
    };
}

declare!(Declared { price: f64 = 0.5, names: Vec<String> = Vec::new(), next: Option<Box<Declared>> = None });

#[test]
fn a_type_is_tamper_proof_where_every_bit_pattern_is_a_value_of_it() {
    use crate::bus::schema::Describe;

    #[message(crate = crate::bus)]
    struct Numbers {
        id: u64,
        prices: [f64; 4],
        pair: (i32, u8),
    }
    #[message(crate = crate::bus)]
    struct Flagged {
        numbers: Numbers,
        flag: bool,
    }
    #[message(crate = crate::bus)]
    enum Choice {
        One(u8),
        Two,
    }
    #[message(crate = crate::bus)]
    #[rkyv(bytecheck(verify))]
    struct Even(u32);
    // SAFETY: nothing relies on what was verified.
    unsafe impl<C: Fallible<Error: Source> + ?Sized> Verify<C> for ArchivedEven {
        fn verify(&self, _: &mut C) -> Result<(), C::Error> {
            Ok(())
        }
    }
    const {
        assert!(!Even::TAMPER_PROOF);
        assert!(Numbers::TAMPER_PROOF && <[Numbers; 3]>::TAMPER_PROOF);
        assert!(!Flagged::TAMPER_PROOF && !Choice::TAMPER_PROOF);
        assert!(!String::TAMPER_PROOF && !<Vec<u8>>::TAMPER_PROOF && !char::TAMPER_PROOF);
        assert!(!<Option<u8>>::TAMPER_PROOF && !<Box<u8>>::TAMPER_PROOF);
        assert!(!NonZeroU8::TAMPER_PROOF && !Duration::TAMPER_PROOF);
    }
}
