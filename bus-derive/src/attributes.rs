//! The `#[rkyv(…)]` attributes that a user wrote, as far as they matter here.
//!
//! Does not: check them. They stay on the item, and rkyv says what is wrong with them.

use proc_macro2::{TokenStream, TokenTree};
use syn::meta::ParseNestedMeta;
use syn::parse::Parse;
use syn::punctuated::Punctuated;
use syn::{Attribute, Error, Ident, Meta, Result, Token, Type, WherePredicate, parenthesized};

/// What rkyv is told about the whole item.
#[derive(Default)]
pub(crate) struct ItemAttributes {
    /// `archived = Name`: the name of the archived type.
    pub(crate) archived: Option<Ident>,
    /// `derive(Debug)`: rkyv makes the `Debug` of the archived type.
    pub(crate) debug: bool,
    /// `archive_bounds(…)`: bounds on which the archived type depends.
    pub(crate) archive_bounds: Vec<WherePredicate>,
    /// `serialize_bounds(…)` is there.
    pub(crate) serialize_bounds: bool,
    /// `deserialize_bounds(…)` is there.
    pub(crate) deserialize_bounds: bool,
    /// `bytecheck(…)` is there.
    pub(crate) bytecheck: bool,
    /// `bytecheck(verify)` is there: the user's own code says which bit patterns are values.
    pub(crate) verify: bool,
}

impl ItemAttributes {
    /// Reads them, and refuses those that a message cannot have.
    pub(crate) fn parse(attributes: &[Attribute]) -> Result<Self> {
        let mut found = Self::default();
        each(attributes, |meta| {
            let Some(name) = meta.path.get_ident().map(Ident::to_string) else {
                return skip(&meta);
            };
            match name.as_str() {
                "as" | "remote" => {
                    return Err(meta.error(
                        "a message has an archived type of its own; remove this, or wrap the other type in a field",
                    ));
                }
                "crate" => {
                    return Err(meta.error(
                        "#[message] names the crate of rkyv itself; use #[message(crate = …)] on it",
                    ));
                }
                "archived" => {
                    meta.input.parse::<Token![=]>()?;
                    found.archived = Some(meta.input.parse()?);
                    return Ok(());
                }
                "derive" => {
                    let content;
                    parenthesized!(content in meta.input);
                    let list = content.parse_terminated(Meta::parse, Token![,])?;
                    found.debug |= list.iter().any(is_debug);
                    return Ok(());
                }
                "archive_bounds" => {
                    let content;
                    parenthesized!(content in meta.input);
                    let bounds: Punctuated<_, _> =
                        content.parse_terminated(WherePredicate::parse, Token![,])?;
                    found.archive_bounds.extend(bounds);
                    return Ok(());
                }
                "serialize_bounds" => found.serialize_bounds = true,
                "deserialize_bounds" => found.deserialize_bounds = true,
                "bytecheck" => {
                    found.bytecheck = true;
                    let content;
                    parenthesized!(content in meta.input);
                    let arguments = content.parse::<TokenStream>()?;
                    found.verify |= arguments.into_iter().any(is_verify);
                    return Ok(());
                }
                _ => {}
            }
            skip(&meta)
        })?;
        Ok(found)
    }
}

/// What rkyv is told about one field.
#[derive(Default)]
pub(crate) struct FieldAttributes {
    /// `with = Type`: the field is archived by a wrapper.
    pub(crate) with: Option<Type>,
    /// `omit_bounds`: the field adds no bounds to the implementations.
    pub(crate) omit_bounds: bool,
}

impl FieldAttributes {
    /// Reads them.
    pub(crate) fn parse(attributes: &[Attribute]) -> Result<Self> {
        let mut found = Self::default();
        each(attributes, |meta| {
            if meta.path.is_ident("with") {
                meta.input.parse::<Token![=]>()?;
                found.with = Some(meta.input.parse()?);
                return Ok(());
            }
            found.omit_bounds |= meta.path.is_ident("omit_bounds");
            skip(&meta)
        })?;
        Ok(found)
    }
}

/// Refuses conditions inside of the item: this attribute sees them before they are decided.
pub(crate) fn refuse_conditions(attributes: &[Attribute]) -> Result<()> {
    let condition = attributes.iter().find(|attribute| {
        attribute.path().is_ident("cfg") || attribute.path().is_ident("cfg_attr")
    });
    match condition {
        None => Ok(()),
        Some(attribute) => Err(Error::new_spanned(
            attribute,
            "a part of a message cannot depend on the build: two builds would not understand each other; \
             put the condition on the whole type, or use an Option",
        )),
    }
}

/// Calls `read` for each argument of each `#[rkyv(…)]`.
fn each(
    attributes: &[Attribute],
    mut read: impl FnMut(ParseNestedMeta<'_>) -> Result<()>,
) -> Result<()> {
    attributes
        .iter()
        .filter(|attribute| attribute.path().is_ident("rkyv"))
        .try_for_each(|attribute| attribute.parse_nested_meta(&mut read))
}

/// Passes over the value of an argument: nothing, `(…)`, or `= type`.
fn skip(meta: &ParseNestedMeta<'_>) -> Result<()> {
    if meta.input.peek(Token![=]) {
        meta.input.parse::<Token![=]>()?;
        meta.input.parse::<Type>()?;
    } else if meta.input.peek(syn::token::Paren) {
        let content;
        parenthesized!(content in meta.input);
        content.parse::<TokenStream>()?;
    }
    Ok(())
}

/// Whether an argument of `bytecheck` is the word `verify`.
fn is_verify(argument: TokenTree) -> bool {
    matches!(argument, TokenTree::Ident(ident) if ident == "verify")
}

/// Whether a derive is that of `Debug`, by whatever path.
fn is_debug(meta: &Meta) -> bool {
    meta.path()
        .segments
        .last()
        .is_some_and(|segment| segment.ident == "Debug")
}
