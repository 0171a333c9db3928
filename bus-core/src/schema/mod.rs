//! What a topic carries: a description of a Rust type that two processes can compare.
//!
//! Promises: two types with equal schemas have the same archived layout and name the same things in
//! the same places, down to the limits below; [`Schema::difference`] names the first thing that differs.
//! A schema depends on the type only, not on the build, the platform or the place of the type in its crate.
//!
//! Asks: that the schema of a peer passes [`Schema::check`] before anything of it is shown or kept.
//!
//! Does not: check payloads (that is `receive`), convert between types, or describe anything but the
//! archived form. What nests deeper than the limits allow is compared by its name and size only.
//!
//! ```text
//! struct Tick { leg: Leg, venue: String }     path        kind     offset  size
//! struct Leg { price: f64, lots: u32 }        leg         Leg           0    16
//!                                             leg.price   f64           0     8
//!                                             leg.lots    u32           8     4
//!                                             venue       String       16     8
//! ```
//!
//! A path says how to get there: `leg.price` a field, `side::Buy.0` the first field of a variant,
//! `legs[]` an element, `leg?` what an `Option` holds, `leg*` what a `Box` points to, `book[key]` and
//! `book[value]` the entries of a map. Offsets start at the archived root; behind a pointer (`Vec`,
//! `Box`, maps) they start at what is pointed to.

mod check;
mod collections;
mod compounds;
mod describe;
mod difference;
mod leaves;
#[cfg(test)]
mod tests;
mod walk;

pub use check::{MAX_ALIGN, MAX_FIELDS, MAX_NESTING, MAX_SIZE, MAX_TEXT};
pub use describe::Describe;
pub use walk::{Nesting, Variant, Walk};

use rkyv::{Archive, Deserialize, Serialize};

/// The serialisation format of every typed topic, as [`Schema::format`] states it.
pub const FORMAT: &str = "rkyv 0.8 little_endian aligned pointer_width_32";

// Another crate of the same build may switch features of rkyv on. These lines refuse
// to build when the archived form is no longer what `FORMAT` says.
const _: fn(rkyv::rend::u64_le) -> rkyv::primitive::ArchivedU64 = |word| word;
const _: () = assert!(size_of::<rkyv::primitive::ArchivedUsize>() == 4);
const _: () = assert!(align_of::<rkyv::primitive::ArchivedU64>() == 8);

/// What one topic carries.
///
/// ```
/// use bus_core::schema::Schema;
///
/// let asked = Schema::of::<(u32, f64)>();
/// assert_eq!(asked.size, 16);
/// assert!(asked.fixed);
///
/// let topic = Schema::of::<(u32, f64)>();
/// assert_eq!(asked.difference(&topic), None);
/// ```
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Schema {
    /// The type's name with its generic arguments, without its module: `Tick`, `Pair<u32, f64>`.
    pub name: String,
    /// Size of the archived root in bytes; 0 for raw bytes.
    pub size: u32,
    /// Alignment of the archived root in bytes, a power of two.
    pub align: u32,
    /// Whether the archived form has no pointers, so that every message has exactly `size` bytes.
    pub fixed: bool,
    /// The serialisation format: [`FORMAT`], or `raw` for raw bytes.
    pub format: String,
    /// The fields in the order of their declaration, each followed by what it holds.
    pub fields: Vec<Field>,
}

/// One place in the archived form.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// How to get there from the root, as the [module](self) says.
    pub path: String,
    /// The Rust type (`u32`, `String`, `Vec<f64>`, `Leg`), or `tag 1` for a variant of an enum.
    pub kind: String,
    /// Bytes from the root, or from the start of what the closest pointer above points to.
    pub offset: u32,
    /// Size of the archived form in bytes; what it points to does not count.
    pub size: u32,
}

impl Schema {
    /// The schema of a topic that carries raw bytes, of any length and without a type.
    pub fn bytes() -> Self {
        Self {
            name: "bytes".to_owned(),
            size: 0,
            align: 1,
            fixed: false,
            format: "raw".to_owned(),
            fields: Vec::new(),
        }
    }

    /// The schema of `T`.
    ///
    /// Nesting is folded until the limits are kept ([`MAX_FIELDS`], [`MAX_TEXT`], [`MAX_NESTING`]): a
    /// field that is too deep stands for what it holds, with its name and size. A type with more
    /// fields of its own than that is described by the first of them.
    /// A type that holds itself is described once, then named.
    pub fn of<T: Describe>() -> Self {
        let name = walk::shorten(T::kind());
        let fields = Walk::within_limits::<T>(name.len() + FORMAT.len());
        Self {
            name,
            size: walk::bytes(size_of::<T::Archived>()),
            align: walk::bytes(align_of::<T::Archived>()),
            fixed: T::FIXED,
            format: FORMAT.to_owned(),
            fields,
        }
    }
}
