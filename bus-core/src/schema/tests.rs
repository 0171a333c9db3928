//! The limits of a schema and the words of a difference. The archived layout itself is
//! tested where `#[message]` is, against bytes that rkyv wrote.

use proptest::prelude::*;

use super::walk::shorten;
use super::{Describe, Field, MAX_FIELDS, MAX_TEXT, Schema, Walk};

/// A leaf with whatever inside is told of it: layouts that no real type has.
macro_rules! pretend {
    ($vis:vis $name:ident, |$walk:ident| $describe:expr) => {
        #[derive(rkyv::Archive)]
        $vis struct $name;

        impl Describe for $name {
            const FIXED: bool = true;

            fn kind() -> String {
                stringify!($name).to_owned()
            }

            fn describe($walk: &mut Walk) {
                $describe;
            }
        }
    };
}

fn field(path: &str, kind: &str, offset: u32, size: u32) -> Field {
    Field {
        path: path.to_owned(),
        kind: kind.to_owned(),
        offset,
        size,
    }
}

fn tick() -> Schema {
    Schema {
        name: "Tick".to_owned(),
        size: 16,
        fields: vec![
            field("leg", "Leg", 0, 8),
            field("leg.lots", "u32", 0, 4),
            field("leg.side", "u32", 4, 4),
            field("price", "f64", 8, 8),
        ],
        align: 8,
        fixed: true,
        ..Schema::of::<u64>()
    }
}

#[test]
fn raw_bytes_are_a_schema_of_their_own() {
    let bytes = Schema::bytes();
    assert!(bytes.check().is_ok());
    assert_eq!(bytes.difference(&Schema::bytes()), None);
    assert_eq!(
        bytes.difference(&Schema::of::<Vec<u8>>()).as_deref(),
        Some("type: asked bytes, topic has Vec<u8>")
    );
}

#[test]
fn a_type_that_holds_itself_is_described_once() {
    pretend!(Node, |walk| {
        walk.field::<u32>("value", 0);
        walk.field::<Vec<Node>>("children", 8);
    });
    let node = Schema::of::<Node>();
    let paths: Vec<_> = node.fields.iter().map(|f| f.path.as_str()).collect();
    assert_eq!(paths, ["value", "children"]);
    assert_eq!(node.fields[1].kind, "Vec<Node>");
}

#[test]
fn types_of_one_name_in_two_modules_are_both_described() {
    mod other {
        use super::{Describe, Walk};
        pretend!(pub(super) Leg, |walk| walk.field::<u8>("lots", 0));
    }
    pretend!(Leg, |walk| walk.field::<other::Leg>("other", 0));
    let leg = Schema::of::<Leg>();
    assert_eq!(leg.fields[1].path, "other.lots");
}

#[test]
fn deep_nesting_is_folded() {
    type Deep4<T> = Option<Option<Option<Option<T>>>>;
    type Deep<T> = Deep4<Deep4<Deep4<T>>>;
    pretend!(Leg, |walk| walk.field::<u8>("lots", 0));
    let deep = Schema::of::<Deep<Leg>>();
    let last = deep.fields.last().map(|f| f.path.as_str());
    assert_eq!(last, Some("????????????.lots"));

    let deeper = Schema::of::<Deep<Deep4<Leg>>>();
    let last = deeper
        .fields
        .last()
        .map(|f| (f.path.as_str(), f.kind.as_str()));
    assert_eq!(last, Some(("????????????????", "Leg")));
}

#[test]
fn a_type_with_too_much_inside_is_folded_from_the_inside() {
    pretend!(Row, |walk| for column in 0..100 {
        walk.field::<u8>(&format!("c{column}"), column);
    });
    pretend!(Table, |walk| for row in 0..10 {
        walk.field::<Row>(&format!("r{row}"), row);
    });
    let table = Schema::of::<Table>();
    assert!(table.check().is_ok());
    assert_eq!(table.fields.len(), 10);
    assert!(table.fields.iter().all(|f| f.kind == "Row"));
}

#[test]
fn a_type_with_too_many_fields_of_its_own_is_cut() {
    pretend!(Wide, |walk| for column in 0..1000 {
        walk.field::<u8>(&format!("c{column}"), column);
    });
    let wide = Schema::of::<Wide>();
    assert!(wide.check().is_ok());
    assert_eq!(wide.fields.len(), MAX_FIELDS);
    assert_eq!(wide.fields[MAX_FIELDS - 1].path, "c511");

    pretend!(Wordy, |walk| for column in 0..500 {
        walk.field::<u8>(&format!("{}{column}", "c".repeat(200)), column);
    });
    let wordy = Schema::of::<Wordy>();
    assert!(wordy.check().is_ok());
    assert!((100..500).contains(&wordy.fields.len()));
}

#[test]
fn a_large_schema_fits_in_a_control_message() {
    pretend!(Full, |walk| for column in 0..MAX_FIELDS {
        walk.field::<u8>(&format!("{}{column:03}", "c".repeat(55)), column);
    });
    let full = Schema::of::<Full>();
    assert_eq!(full.fields.len(), MAX_FIELDS);
    let bytes = rkyv::to_bytes::<rkyv::rancor::Error>(&full).expect("serialise");
    assert!(bytes.len() < 48 * 1024, "{} bytes", bytes.len());
}

#[test]
fn long_kinds_are_cut_between_characters() {
    let kind = shorten("é".repeat(200));
    assert!(kind.len() <= 255 && kind.ends_with("é…"));
    assert_eq!(shorten("u32".to_owned()), "u32");
}

#[test]
fn a_peers_schema_is_held_to_the_limits() {
    type Break = fn(&mut Schema);
    let breaks: [(&str, Break); 10] = [
        ("513 fields", |s| {
            s.fields = vec![field("a", "u8", 0, 1); 513]
        }),
        ("the limit is 32768", |s| {
            s.fields[0].kind = "x".repeat(MAX_TEXT)
        }),
        ("aligned to 0 bytes", |s| s.align = 0),
        ("aligned to 32 bytes, and the limit is 16", |s| s.align = 32),
        ("size is 12 bytes", |s| s.size = 12),
        ("size is 4294967288", |s| s.size = u32::MAX - 7),
        ("empty", |s| s.name.clear()),
        ("control characters", |s| s.name.push('\u{1b}')),
        ("control characters", |s| s.fields[1].path.push('\u{202e}')),
        ("cannot be at byte", |s| s.fields[1].offset = u32::MAX),
    ];
    assert!(tick().check().is_ok());
    for (why, break_it) in breaks {
        let mut schema = tick();
        break_it(&mut schema);
        let error = schema.check().expect_err(why).to_string();
        assert!(error.contains(why), "{why}: {error}");
    }
}

#[test]
fn each_difference_has_its_sentence() {
    type Change = fn(&mut Schema);
    let changes: [(&str, Change); 12] = [
        ("type: asked Tick, topic has Quote", |s| {
            s.name = "Quote".into()
        }),
        (
            "format: asked rkyv 0.8 little_endian aligned pointer_width_32, topic has rkyv 0.9",
            |s| s.format = "rkyv 0.9".into(),
        ),
        (
            r#"field "price": asked f64 at byte 8, topic has u64 at byte 8"#,
            |s| s.fields[3].kind = "u64".into(),
        ),
        (
            r#"field "price": asked f64 at byte 8, topic has f64 at byte 16"#,
            |s| s.fields[3].offset = 16,
        ),
        (r#"field "venue" is only in the topic"#, |s| {
            s.fields.push(field("venue", "String", 16, 8));
        }),
        (
            r#"field "leg.side" is asked for, topic does not have it"#,
            |s| {
                s.fields.remove(2);
            },
        ),
        (r#"field "leg.way" is only in the topic"#, |s| {
            s.fields.insert(2, field("leg.way", "u8", 4, 1));
        }),
        (
            r#"order of fields: asked field "leg.lots" first, topic has field "leg.side" first"#,
            |s| s.fields.swap(1, 2),
        ),
        (
            r#"field "leg": asked Leg of 8 bytes, topic has Leg of 12 bytes"#,
            |s| s.fields[0].size = 12,
        ),
        ("size: asked 16 bytes, topic has 24 bytes", |s| s.size = 24),
        ("alignment: asked 8 bytes, topic has 4 bytes", |s| {
            s.align = 4
        }),
        (
            "length: asked one length for all messages, topic has a length of its own for each message",
            |s| s.fixed = false,
        ),
    ];
    for (sentence, change) in changes {
        let mut topic = tick();
        change(&mut topic);
        assert_eq!(tick().difference(&topic).as_deref(), Some(sentence));
    }
}

#[test]
fn the_innermost_difference_comes_before_the_size_of_what_holds_it() {
    let mut topic = tick();
    topic.fields[0].size = 16;
    topic.fields[2].kind = "u64".to_owned();
    assert_eq!(
        tick().difference(&topic).as_deref(),
        Some(r#"field "leg.side": asked u32 at byte 4, topic has u64 at byte 4"#)
    );
}

#[test]
fn variants_are_called_variants() {
    let mut asked = tick();
    asked.fields = vec![field("::Buy", "tag 0", 0, 1), field("::Buy.0", "u8", 1, 1)];
    let mut topic = asked.clone();
    topic.fields[0].kind = "tag 1".to_owned();
    assert_eq!(
        asked.difference(&topic).as_deref(),
        Some(r#"variant "Buy": asked tag 0 at byte 0, topic has tag 1 at byte 0"#)
    );
    topic.fields[0].kind = "tag 0".to_owned();
    topic.fields[1].kind = "i8".to_owned();
    assert_eq!(
        asked.difference(&topic).as_deref(),
        Some(r#"field "Buy.0": asked u8 at byte 1, topic has i8 at byte 1"#)
    );
}

fn any_schema() -> impl Strategy<Value = Schema> {
    let fields = prop::collection::vec(("[ab]", "[uv]", 0..2u32, 0..2u32), 0..4);
    ("[ST]", 0..2u32, any::<bool>(), fields).prop_map(|(name, size, fixed, fields)| Schema {
        name,
        size,
        fixed,
        fields: fields
            .into_iter()
            .map(|(path, kind, offset, size)| field(&path, &kind, offset, size))
            .collect(),
        ..Schema::bytes()
    })
}

proptest! {
    /// Also for schemas that no type has, such as those with a field twice.
    #[test]
    fn there_is_no_difference_between_equals_only(asked in any_schema(), topic in any_schema()) {
        prop_assert_eq!(asked.difference(&topic).is_none(), asked == topic);
        prop_assert_eq!(asked.difference(&asked.clone()), None);
    }
}
