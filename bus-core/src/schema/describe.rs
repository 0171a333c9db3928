//! The trait of everything that can be part of a message.
//!
//! Promises: an implementation tells the truth about the archived layout, which is what readers rely on
//! when they take a message for theirs. The `#[message]` attribute writes it for structs and enums.

use super::Walk;

/// A type that can say what its archived form looks like.
///
/// `#[message]` implements it; write it by hand only for a type whose rkyv traits are written by hand
/// as well. A type without inner fields gives its name only:
///
/// ```
/// use bus_core::schema::{Describe, Schema};
/// use rkyv::{Archive, Serialize, Deserialize};
///
/// #[derive(Archive, Serialize, Deserialize)]
/// struct Price(i64);
///
/// impl Describe for Price {
///     const FIXED: bool = true;
///     fn kind() -> String {
///         "Price".to_owned()
///     }
/// }
///
/// assert_eq!(Schema::of::<Vec<Price>>().name, "Vec<Price>");
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be part of a message",
    label = "a field of a message must be a primitive, String, Vec, Option, Box, an array, a tuple, a map, a set or a `#[message]` type itself",
    note = "put `#[message]` on `{Self}` if it is yours, or convert it to one of these types"
)]
pub trait Describe: rkyv::Archive {
    /// Whether the archived form holds no pointers: it then has exactly the size of [`rkyv::Archive::Archived`].
    const FIXED: bool;

    /// Whether every bit pattern of the archived form is a value of the type, and it holds no pointers: plain numbers, and arrays, tuples and
    /// structs of them. A publisher of the same user that rewrites such a payload while it is read [in place](crate::control::Trust)
    /// can then give other values than it has sent, and do nothing worse. `false` is always right, and the default.
    const TAMPER_PROOF: bool = false;

    /// The name of the type with its generic arguments and without its module: `u32`, `Vec<Leg>`.
    fn kind() -> String;

    /// Tells `walk` what the archived form holds, in the order of the declaration.
    /// Left out for a type that says it all with its name.
    fn describe(walk: &mut Walk) {
        let _ = walk;
    }
}
