//! The bounds of a type that holds itself behind a pointer.
//!
//! rkyv bounds each implementation by the types of the fields. For a field that holds its own type
//! that is a circle, which the compiler refuses. rkyv's way out is to leave the field's bounds out
//! and to state what serialising through a pointer needs, here done for the user.

use proc_macro2::TokenStream;
use syn::{Attribute, Field, Result, parse_quote};

use crate::attributes::{FieldAttributes, ItemAttributes};

/// The attributes that a recursive item needs beside those that it has.
pub(crate) fn item_attributes(has: &ItemAttributes, rkyv: &TokenStream) -> Vec<Attribute> {
    let mut added = Vec::new();
    if !has.serialize_bounds {
        added.push(parse_quote!(#[rkyv(serialize_bounds(
            __S: #rkyv::ser::Writer + #rkyv::ser::Allocator,
            __S::Error: #rkyv::rancor::Source,
        ))]));
    }
    if !has.deserialize_bounds {
        added.push(parse_quote!(#[rkyv(deserialize_bounds(
            __D::Error: #rkyv::rancor::Source,
        ))]));
    }
    if !has.bytecheck {
        added.push(parse_quote!(#[rkyv(bytecheck(bounds(
            __C: #rkyv::validation::ArchiveContext,
            __C::Error: #rkyv::rancor::Source,
        )))]));
    }
    added
}

/// Leaves the bounds of a recursive field out.
pub(crate) fn omit_bounds(field: &mut Field) -> Result<()> {
    if !FieldAttributes::parse(&field.attrs)?.omit_bounds {
        field.attrs.push(parse_quote!(#[rkyv(omit_bounds)]));
    }
    Ok(())
}
