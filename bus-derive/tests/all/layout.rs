//! What the schema of a message says, against the bytes that rkyv writes.

use std::collections::{BTreeMap, HashMap};

use crate::bus::schema::{FORMAT, Schema};
use bus_derive::message;
use rkyv::rancor::Error;

#[message(crate = crate::bus)]
struct Tick {
    symbol: u32,
    price: f64,
    venue: String,
}

#[message(crate = crate::bus)]
struct Leg {
    side: Side,
    lots: u16,
}

#[message(crate = crate::bus)]
#[repr(u8)]
enum Side {
    Buy(u8, u32),
    Sell { price: f64 },
    None = 9,
}

#[message(crate = crate::bus)]
struct Order {
    id: u64,
    leg: Leg,
    others: Vec<Leg>,
    limit: Option<Leg>,
    best: Box<Leg>,
    pair: [Leg; 2],
    book: HashMap<u8, Leg>,
    r#type: (u8, Leg),
}

/// `path kind offset size`, one line for each field.
fn lines(schema: &Schema) -> Vec<String> {
    let line =
        |f: &crate::bus::schema::Field| format!("{} {} {} {}", f.path, f.kind, f.offset, f.size);
    schema.fields.iter().map(line).collect()
}

#[test]
fn a_struct_is_told_field_by_field() {
    let schema = Schema::of::<Tick>();
    assert_eq!(schema.name, "Tick");
    assert_eq!((schema.size, schema.align, schema.fixed), (24, 8, false));
    assert_eq!(schema.format, FORMAT);
    assert_eq!(
        lines(&schema),
        ["symbol u32 0 4", "price f64 8 8", "venue String 16 8"]
    );
    assert!(schema.check().is_ok());
}

#[test]
fn an_enum_is_told_variant_by_variant() {
    let schema = Schema::of::<Leg>();
    assert!(schema.fixed);
    assert_eq!(
        lines(&schema),
        [
            "side Side 0 16",
            "side::Buy tag 0 0 1",
            "side::Buy.0 u8 1 1",
            "side::Buy.1 u32 4 4",
            "side::Sell tag 1 0 1",
            "side::Sell.price f64 8 8",
            "side::None tag 9 0 1",
            "lots u16 16 2",
        ]
    );
}

#[test]
fn what_a_message_holds_is_told_wherever_it_stands() {
    let schema = Schema::of::<Order>();
    let has = |line: &str| {
        let lines = lines(&schema);
        assert!(lines.iter().any(|l| l == line), "{line} in {lines:#?}");
    };
    has("leg.side::Sell.price f64 16 8");
    has("others Vec<Leg> 32 8");
    has("others[] Leg 0 24");
    has("others[].lots u16 16 2");
    has("limit Option<Leg> 40 32");
    has("limit? Leg 48 24");
    has("limit?.lots u16 64 2");
    has("best Box<Leg> 72 4");
    has("best*.lots u16 16 2");
    has("pair [Leg; 2] 80 48");
    has("pair[].lots u16 96 2");
    has("book[value] Leg 8 24");
    has("book[value].lots u16 24 2");
    has("type.1.side::Buy.1 u32 156 4");
    assert!(!lines(&schema).iter().any(|l| l.starts_with("book[key]")));
}

#[test]
fn offsets_are_those_of_the_bytes() {
    let at = |path: &str, schema: &Schema| {
        let field = schema.fields.iter().find(|f| f.path == path);
        field.expect(path).offset as usize
    };
    let leg = Leg {
        side: Side::Buy(0xa1, 0xb1b2_b3b4),
        lots: 0xc1c2,
    };
    let bytes = rkyv::to_bytes::<Error>(&leg).expect("serialise");
    let schema = Schema::of::<Leg>();
    assert_eq!(bytes.len(), schema.size as usize);
    assert_eq!(bytes[at("side::Buy.0", &schema)], 0xa1);
    assert_eq!(
        bytes[at("side::Buy.1", &schema)..][..4],
        0xb1b2_b3b4u32.to_le_bytes()
    );
    assert_eq!(bytes[at("lots", &schema)..][..2], 0xc1c2u16.to_le_bytes());
    assert_eq!(bytes[at("side::Buy", &schema)], 0);

    let leg = Leg {
        side: Side::Sell { price: 1.5 },
        lots: 1,
    };
    let bytes = rkyv::to_bytes::<Error>(&leg).expect("serialise");
    assert_eq!(bytes[at("side::Sell", &schema)], 1);
    assert_eq!(
        bytes[at("side::Sell.price", &schema)..][..8],
        1.5f64.to_le_bytes()
    );
    let none = rkyv::to_bytes::<Error>(&Side::None).expect("serialise");
    assert_eq!(none[0], 9);

    let limit = Some(0x0102_0304u32);
    let bytes = rkyv::to_bytes::<Error>(&limit).expect("serialise");
    assert_eq!(bytes[4..8], 0x0102_0304u32.to_le_bytes());
}

#[test]
fn entries_of_a_map_are_where_the_schema_says() {
    #[message(crate = crate::bus)]
    struct Book {
        by_name: HashMap<u8, (u64,)>,
        sorted: BTreeMap<u8, (u32,)>,
    }
    let schema = Schema::of::<Book>();
    assert!(!schema.fixed);
    let value = schema.fields.iter().find(|f| f.path == "by_name[value]");
    let value = value.expect("an entry's value").offset as usize;
    assert!(lines(&schema).contains(&"sorted[value].0 u32 0 4".to_owned()));
    let book = Book {
        by_name: HashMap::from([(7, (8,))]),
        sorted: BTreeMap::from([(1, (2,))]),
    };
    let bytes = rkyv::to_bytes::<Error>(&book).expect("serialise");
    let read = rkyv::access::<ArchivedBook, Error>(&bytes).expect("valid");
    let (key, held) = read.by_name.iter().next().expect("one entry");
    let apart = std::ptr::from_ref(held).addr() - std::ptr::from_ref(key).addr();
    assert_eq!(apart, value);
}

#[test]
fn the_first_difference_is_named() {
    mod other {
        use bus_derive::message;

        #[message(crate = crate::bus)]
        pub(super) struct Tick {
            symbol: u32,
            price: u64,
            venue: String,
        }
    }
    mod longer {
        use bus_derive::message;

        #[message(crate = crate::bus)]
        pub(super) struct Tick {
            symbol: u32,
            price: f64,
            venue: String,
            lots: u32,
        }
    }
    let (asked, topic) = (Schema::of::<Tick>(), Schema::of::<other::Tick>());
    assert_eq!(
        asked.difference(&topic).as_deref(),
        Some(r#"field "price": asked f64 at byte 8, topic has u64 at byte 8"#)
    );
    let longer = Schema::of::<longer::Tick>();
    assert_eq!(
        asked.difference(&longer).as_deref(),
        Some(r#"field "lots" is only in the topic"#)
    );
    assert_eq!(
        longer.difference(&asked).as_deref(),
        Some(r#"field "lots" is asked for, topic does not have it"#)
    );
    assert_eq!(
        asked.difference(&Schema::of::<Leg>()).as_deref(),
        Some("type: asked Tick, topic has Leg")
    );
    assert_eq!(asked.difference(&Schema::of::<Tick>()), None);
}
