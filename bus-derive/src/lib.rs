//! The `#[message]` attribute: from a Rust type to one that a topic can carry.
//!
//! Promises: the type gets its rkyv form, a description of it (`Describe`) that two processes compare
//! before they exchange anything, and a `{:?}` for received messages. What cannot work is an error at
//! the place in the source that asks for it.
//!
//! Asks: that its users depend on `bus_client`, which brings rkyv and the schema along.
//!
//! | file | idea |
//! | --- | --- |
//! | `arguments` | what stands in `#[message(…)]` |
//! | `attributes` | the `#[rkyv(…)]` that a user wrote, as far as it matters here |
//! | `part` | one field of a struct or a variant |
//! | `item` | the whole item: what is refused, and what it expands to |
//! | `recursion` | the bounds of a type that holds itself |
//! | `describe`, `debug` | the two implementations |

#![forbid(unsafe_code)]

mod arguments;
mod attributes;
mod debug;
mod describe;
mod item;
mod part;
mod recursion;
#[cfg(test)]
mod refusals;

use proc_macro::TokenStream;

/// Makes a struct or an enum a message.
///
/// ```
/// # mod bus { pub use {bus_core::schema, rkyv}; }
/// use bus_derive::message;
///
/// #[message(crate = crate::bus)] // with bus_client as a dependency: #[bus_client::message]
/// #[derive(Clone, Debug)]
/// struct Tick {
///     symbol: u32,
///     price: f64,
///     venue: String,
/// }
///
/// # fn main() {
/// let schema = bus::schema::Schema::of::<Tick>();
/// assert_eq!(schema.fields[1].path, "price");
/// assert_eq!(schema.fields[1].offset, 8);
/// # }
/// ```
///
/// Its fields are primitives, `String`, `Vec`, `Option`, `Box`, arrays, tuples, maps, sets, a few types of
/// the standard library, and other messages. It may have type and constant parameters, and it may hold itself
/// behind a pointer (`Option<Box<Node>>`, `Vec<Node>`), called by its plain name. Where types hold each other
/// in a circle, put `#[rkyv(omit_bounds)]` on one of the fields that close it.
///
/// Types of the standard library that are no part of a message: tuples of more than 6 elements,
/// `Wrapping`, `Ordering`, `RangeInclusive`, `Rc`, `Arc`. Name the elements in a struct of your own,
/// which is a message as well.
///
/// A value has at most 255 levels: itself, and one for each container inside a container. Only a type that
/// holds itself can exceed that; sending such a value is an error. A value of many thousand levels can
/// overflow the stack of the thread that sends it.
///
/// The archived form is aligned to 16 bytes at most. A type with `#[repr(align(32))]` or more cannot be
/// opened as a topic.
///
/// What is generated: rkyv's `Archive`, `Serialize` and `Deserialize`, with an `ArchivedTick` that subscribers
/// read; `Describe`; and `Debug` for `ArchivedTick`, unless `#[rkyv(derive(Debug))]` asks rkyv for one.
/// Other attributes stay as they are, also `#[rkyv(…)]`. A field with `#[rkyv(with = …)]` is compared by
/// the names of its types and its size.
///
/// Arguments:
///
/// | argument | effect |
/// | --- | --- |
/// | `crate = path` | takes `rkyv` and `schema` from there instead of `::bus_client` |
/// | `no_debug` | no `Debug` for the archived type, where a field's archived type has none |
///
/// One thing cannot be hidden: rkyv makes a public `SideResolver` beside a public enum `Side`, and gives
/// no documentation to the named fields of its variants. Under `#![deny(missing_docs)]` put such an
/// enum into a module with `#[allow(missing_docs)]`, or use variants without field names.
///
/// # Errors
///
/// A message owns its data and its layout is the same in every build, so these do not compile: unions,
/// lifetime parameters, enums without variants, `#[cfg]` on a field or variant, `#[rkyv(as = …)]`,
/// `#[rkyv(remote = …)]`, and fields that are no part of a message:
///
/// ```compile_fail,E0277
/// # mod bus { pub use {bus_core::schema, rkyv}; }
/// #[bus_derive::message(crate = crate::bus)]
/// struct Job {
///     done: std::sync::mpsc::Sender<u32>,
/// }
/// # fn main() {}
/// ```
#[proc_macro_attribute]
pub fn message(arguments: TokenStream, item: TokenStream) -> TokenStream {
    item::expand(arguments.into(), item.into())
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}
