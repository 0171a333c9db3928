//! What two schemas do not agree on, in words.
//!
//! Promises: `None` for equal schemas and only for them; else the first thing that differs in the order of
//! the declaration, the innermost one where types nest.

use super::{Field, Schema};

impl Schema {
    /// The first difference between this schema, which was asked for, and the one that the topic has.
    /// A part of a sentence, to follow "topic market/ticks carries Tick; ".
    ///
    /// ```
    /// use bus_core::schema::Schema;
    ///
    /// let asked = Schema::of::<(u32, f64)>();
    /// let mut topic = asked.clone();
    /// topic.fields[1].kind = "u64".to_owned();
    /// assert_eq!(
    ///     asked.difference(&topic).unwrap(),
    ///     r#"field "1": asked f64 at byte 8, topic has u64 at byte 8"#,
    /// );
    /// ```
    pub fn difference(&self, topic: &Self) -> Option<String> {
        if self == topic {
            return None;
        }
        let differs = |what: &str, asked: &str, has: &str| {
            (asked != has).then(|| format!("{what}: asked {asked}, topic has {has}"))
        };
        let bytes = |what: &str, asked: u32, has: u32| {
            (asked != has).then(|| format!("{what}: asked {asked} bytes, topic has {has} bytes"))
        };
        differs("type", &self.name, &topic.name)
            .or_else(|| differs("format", &self.format, &topic.format))
            .or_else(|| fields(&self.fields, &topic.fields))
            .or_else(|| bytes("size", self.size, topic.size))
            .or_else(|| bytes("alignment", self.align, topic.align))
            .or_else(|| differs("length", length(self), length(topic)))
    }
}

/// How the length of a message is settled.
fn length(schema: &Schema) -> &'static str {
    if schema.fixed {
        "one length for all messages"
    } else {
        "a length of its own for each message"
    }
}

/// The first difference between two lists of fields.
fn fields(asked: &[Field], topic: &[Field]) -> Option<String> {
    let mut size = None;
    for index in 0..asked.len().max(topic.len()) {
        match (asked.get(index), topic.get(index)) {
            (Some(ours), Some(theirs)) if ours.path == theirs.path => {
                if place(ours) != place(theirs) {
                    return Some(misplaced(ours, theirs));
                }
                // A struct that grew differs in size; the field that made it grow comes after it.
                if ours.size != theirs.size && size.is_none() {
                    size = Some(resized(ours, theirs));
                }
            }
            (ours, theirs) => return Some(unpaired(asked, topic, ours, theirs)),
        }
    }
    size
}

/// What to say at the first index where the paths differ.
fn unpaired(
    asked: &[Field],
    topic: &[Field],
    ours: Option<&Field>,
    theirs: Option<&Field>,
) -> String {
    let has = |list: &[Field], field: &Field| list.iter().any(|other| other.path == field.path);
    match (ours, theirs) {
        (Some(ours), _) if !has(topic, ours) => {
            format!("{} is asked for, topic does not have it", label(ours))
        }
        (_, Some(theirs)) if !has(asked, theirs) => {
            format!("{} is only in the topic", label(theirs))
        }
        (Some(ours), Some(theirs)) => format!(
            "order of fields: asked {} first, topic has {} first",
            label(ours),
            label(theirs)
        ),
        _ => format!(
            "number of fields: asked {}, topic has {}",
            asked.len(),
            topic.len()
        ),
    }
}

/// What makes two fields of one path the same: kind and offset.
fn place(field: &Field) -> (&str, u32) {
    (&field.kind, field.offset)
}

/// Says that a field is of another kind or elsewhere.
fn misplaced(asked: &Field, topic: &Field) -> String {
    format!(
        "{}: asked {} at byte {}, topic has {} at byte {}",
        label(asked),
        asked.kind,
        asked.offset,
        topic.kind,
        topic.offset
    )
}

/// Says that a field takes more or less room.
fn resized(asked: &Field, topic: &Field) -> String {
    format!(
        "{}: asked {} of {} bytes, topic has {} of {} bytes",
        label(asked),
        asked.kind,
        asked.size,
        topic.kind,
        topic.size
    )
}

/// The name of a field or of a variant, for people.
fn label(field: &Field) -> String {
    let last = field.path.rsplit('.').next().unwrap_or_default();
    let what = if last.contains("::") {
        "variant"
    } else {
        "field"
    };
    let path = field.path.strip_prefix("::").unwrap_or(&field.path);
    format!("{what} \"{path}\"")
}
