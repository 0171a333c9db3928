//! The walk through a type that gathers its fields.
//!
//! Promises: it ends for every type, also one that holds itself, and keeps the limits of a schema.
//! Asks: offsets of the archived form. Does not: look at values.

use super::check::{MAX_FIELDS, MAX_NESTING, MAX_TEXT};
use super::{Describe, Field};

/// Longest kind, in bytes. Generic arguments can nest without end; a name is for people.
const MAX_KIND: usize = 255;

/// Gathers the fields of a type, on its way from the archived root inwards.
///
/// What [`Describe::describe`] is given: it tells of each field, and the walk goes inside by itself.
#[derive(Debug)]
pub struct Walk {
    fields: Vec<Field>,
    /// Bytes of text gathered so far, and outside of the fields.
    text: usize,
    /// Set when a field was left out because a limit was reached.
    full: bool,
    /// How to get to where the walk is.
    path: String,
    /// Where it is: bytes from the root or from what the closest pointer points to.
    base: usize,
    /// The full names of the types that the walk is inside of.
    open: Vec<&'static str>,
    /// Types inside types that this walk enters.
    nesting: usize,
    /// A type holds itself, or holds what this walk does not look into.
    open_ended: bool,
}

/// How deep the values of a type may nest: how many containers lie inside each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nesting {
    /// Only as deep as the type itself, which is far less than any limit.
    OfType,
    /// As deep as a value makes it: the type holds itself, such as a list or a tree.
    OfValue,
}

impl Nesting {
    /// How deep values of `T` may nest. [`OfValue`](Self::OfValue) also where that cannot be told, as
    /// for a field with `#[rkyv(with = …)]`.
    pub fn of<T: Describe>() -> Self {
        if T::FIXED {
            return Self::OfType;
        }
        let mut walk = Walk::new(0, MAX_NESTING);
        walk.inside::<T>();
        if walk.open_ended || walk.full {
            Self::OfValue
        } else {
            Self::OfType
        }
    }
}

/// What became of the inside of a type.
#[derive(PartialEq)]
enum Inside {
    /// It was walked through, or it is being walked through further up.
    Told,
    /// It is too deep, and stands for itself.
    Folded,
}

impl Walk {
    fn new(text: usize, nesting: usize) -> Self {
        Self {
            fields: Vec::new(),
            text,
            full: false,
            path: String::new(),
            base: 0,
            open: Vec::new(),
            nesting,
            open_ended: false,
        }
    }

    /// The fields of `T`, nested as deep as the limits allow. `text` bytes are taken already.
    pub(super) fn within_limits<T: Describe>(text: usize) -> Vec<Field> {
        let mut nesting = MAX_NESTING;
        loop {
            let mut walk = Self::new(text, nesting);
            walk.inside::<T>();
            if !walk.full || nesting == 1 {
                return walk.fields;
            }
            nesting -= 1;
        }
    }

    /// A field of a struct: `name`, or its index in a tuple, and its offset in the archived struct.
    pub fn field<T: Describe>(&mut self, name: &str, offset: usize) {
        self.at(&format!(".{name}"), offset, |walk| {
            walk.push(T::kind(), size_of::<T::Archived>());
            walk.inside::<T>();
        });
    }

    /// A field whose archived form is told by its size only, such as one with `#[rkyv(with = …)]`.
    /// `kind` says what it is, `size` is in bytes.
    pub fn opaque(&mut self, name: &str, kind: &str, offset: usize, size: usize) {
        self.open_ended = true;
        self.at(&format!(".{name}"), offset, |walk| {
            walk.push(kind.to_owned(), size);
        });
    }

    /// A variant of an archived enum, which is `repr(u8)`: its name, its tag, and in `fields` its fields.
    pub fn variant(&mut self, name: &str, tag: u8, fields: impl FnOnce(&mut Variant<'_>)) {
        self.at(&format!("::{name}"), 0, |walk| {
            walk.push(format!("tag {tag}"), 1);
            fields(&mut Variant { walk, end: 1 });
        });
    }

    /// What stands in place inside of the type, `offset` bytes from its start: the value of an
    /// `Option` (`?`), the first element of an array (`[]`).
    pub fn inner<T: Describe>(&mut self, step: &str, offset: usize) {
        self.at(step, offset, Self::held::<T>);
    }

    /// What the type points to, `offset` bytes from the start of the pointed-to entry: the elements
    /// of a `Vec` (`[]`), the value of a `Box` (`*`).
    pub fn pointee<T: Describe>(&mut self, step: &str, offset: usize) {
        let base = std::mem::replace(&mut self.base, 0);
        self.inner::<T>(step, offset);
        self.base = base;
    }

    /// A nameless part. It is told of only when it adds something to the kind of what holds it.
    fn held<T: Describe>(&mut self) {
        let (fields, text) = (self.fields.len(), self.text);
        self.push(T::kind(), size_of::<T::Archived>());
        if self.inside::<T>() == Inside::Told && self.fields.len() == fields + 1 && !self.full {
            self.fields.truncate(fields);
            self.text = text;
        }
    }

    /// Goes inside of `T`, unless the walk is there already or is deep enough.
    fn inside<T: Describe>(&mut self) -> Inside {
        // Not `TypeId`, which would ask for `'static`. Two types of one full name (from two
        // versions of one crate, nested in each other) are taken for one: then the
        // inner one is named and not described.
        let name = std::any::type_name::<T>();
        let is_inside = self.open.contains(&name);
        self.open_ended |= is_inside;
        if self.full || is_inside {
            return Inside::Told;
        }
        if self.open.len() == self.nesting {
            self.open_ended = true;
            return Inside::Folded;
        }
        self.open.push(name);
        T::describe(self);
        self.open.pop();
        Inside::Told
    }

    /// Runs `tell` one step further, and comes back.
    fn at(&mut self, step: &str, offset: usize, tell: impl FnOnce(&mut Self)) {
        let (path, base) = (self.path.len(), self.base);
        // The fields of the root are called by their name alone.
        let step = if path == 0 {
            step.strip_prefix('.').unwrap_or(step)
        } else {
            step
        };
        self.path.push_str(step);
        self.base = base.saturating_add(offset);
        tell(self);
        self.path.truncate(path);
        self.base = base;
    }

    /// Notes the place where the walk is.
    fn push(&mut self, kind: String, size: usize) {
        let kind = shorten(kind);
        let text = self.text + self.path.len() + kind.len();
        if self.full || self.fields.len() == MAX_FIELDS || text > MAX_TEXT {
            self.full = true;
            return;
        }
        self.text = text;
        self.fields.push(Field {
            path: self.path.clone(),
            kind,
            offset: bytes(self.base),
            size: bytes(size),
        });
    }
}

/// The fields of one variant of an enum, in order. It works out their offsets: a `repr(u8)` enum is laid
/// out as the `repr(C)` structs of its tag and fields.
#[derive(Debug)]
pub struct Variant<'w> {
    walk: &'w mut Walk,
    /// Where the last field ended, in bytes from the start of the enum.
    end: usize,
}

impl Variant<'_> {
    /// The next field: its name, or its index.
    pub fn field<T: Describe>(&mut self, name: &str) {
        let offset = self.place::<T::Archived>();
        self.walk.field::<T>(name, offset);
    }

    /// The next field, of the archived type `A`, which is told by its size only. See [`Walk::opaque`].
    pub fn opaque<A>(&mut self, name: &str, kind: &str) {
        let offset = self.place::<A>();
        self.walk.opaque(name, kind, offset, size_of::<A>());
    }

    /// Makes room for an `A` after what is there.
    fn place<A>(&mut self) -> usize {
        let offset = self.end.next_multiple_of(align_of::<A>());
        self.end = offset + size_of::<A>();
        offset
    }
}

/// A size or an offset as a schema holds it. What is beyond 4 GiB is refused by the check of
/// the schema, as it is with the largest number.
pub(super) fn bytes(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Cuts a kind that is too long.
pub(super) fn shorten(mut kind: String) -> String {
    const MARK: &str = "…";
    if kind.len() > MAX_KIND {
        let mut end = MAX_KIND - MARK.len();
        while !kind.is_char_boundary(end) {
            end -= 1;
        }
        kind.truncate(end);
        kind.push_str(MARK);
    }
    kind
}
