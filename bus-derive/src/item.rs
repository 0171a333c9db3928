//! The whole item: what is refused, and what it expands to.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::ext::IdentExt;
use syn::{Data, DeriveInput, Error, Expr, Generics, Ident, Result, WherePredicate, parse_quote};

use crate::arguments::Arguments;
use crate::attributes::{ItemAttributes, refuse_conditions};
use crate::part::Part;
use crate::{debug, describe, recursion};

/// An item that can be a message.
pub(crate) struct Item {
    pub(crate) name: Ident,
    pub(crate) archived: Ident,
    pub(crate) generics: Generics,
    pub(crate) shape: Shape,
    /// The user's own code says which bit patterns are values.
    pub(crate) verified: bool,
    archive_bounds: Vec<WherePredicate>,
}

/// Struct or enum.
pub(crate) enum Shape {
    /// A struct, with its fields.
    Struct(Vec<Part>),
    /// An enum, with its variants.
    Enum(Vec<Variant>),
}

/// One variant of an enum.
pub(crate) struct Variant {
    pub(crate) name: Ident,
    pub(crate) discriminant: Option<Expr>,
    pub(crate) named: bool,
    pub(crate) parts: Vec<Part>,
}

impl Item {
    /// Reads an item, and refuses one that cannot be a message.
    fn parse(input: &DeriveInput, attributes: &ItemAttributes) -> Result<Self> {
        if let Some(lifetime) = input.generics.lifetimes().next() {
            return Err(Error::new_spanned(
                lifetime,
                "a message owns its data: use String, Vec or Box instead of references",
            ));
        }
        let name = &input.ident;
        let shape = match &input.data {
            Data::Struct(data) => Shape::Struct(Part::all(&data.fields, name)?),
            Data::Enum(data) if data.variants.is_empty() => {
                return Err(Error::new_spanned(
                    name,
                    "an enum without variants has no values to send",
                ));
            }
            Data::Enum(data) => {
                let variants = data.variants.iter().map(|variant| {
                    refuse_conditions(&variant.attrs)?;
                    Ok(Variant {
                        name: variant.ident.clone(),
                        discriminant: variant
                            .discriminant
                            .as_ref()
                            .map(|(_, value)| value.clone()),
                        named: matches!(variant.fields, syn::Fields::Named(_)),
                        parts: Part::all(&variant.fields, name)?,
                    })
                });
                Shape::Enum(variants.collect::<Result<_>>()?)
            }
            Data::Union(data) => {
                return Err(Error::new_spanned(
                    data.union_token,
                    "a union cannot be a message: nobody could check what it holds; use an enum",
                ));
            }
        };
        let archived = attributes.archived.clone();
        Ok(Self {
            name: name.clone(),
            archived: archived.unwrap_or_else(|| format_ident!("Archived{}", name.unraw())),
            generics: input.generics.clone(),
            shape,
            verified: attributes.verify,
            archive_bounds: attributes.archive_bounds.clone(),
        })
    }

    /// All fields, of all variants.
    pub(crate) fn parts(&self) -> Box<dyn Iterator<Item = &Part> + '_> {
        match &self.shape {
            Shape::Struct(parts) => Box::new(parts.iter()),
            Shape::Enum(variants) => Box::new(variants.iter().flat_map(|variant| &variant.parts)),
        }
    }

    /// The item's generics, with its bounds and those on which its archived type depends, one more
    /// for each type parameter, and for each field that depends on one.
    pub(crate) fn bounded(
        &self,
        parameter: impl Fn(&Ident) -> WherePredicate,
        part: impl Fn(&Part) -> Vec<WherePredicate>,
    ) -> Generics {
        let parameters: Vec<_> = self.generics.type_params().map(|p| &p.ident).collect();
        let mut generics = self.generics.clone();
        let predicates = &mut generics.make_where_clause().predicates;
        predicates.extend(self.archive_bounds.iter().cloned());
        predicates.extend(parameters.iter().map(|name| parameter(name)));
        let dependent = self
            .parts()
            .filter(|part| !part.recursive && part.depends_on(&parameters));
        predicates.extend(dependent.flat_map(part));
        generics
    }
}

/// The expansion of `#[message(arguments)] item`.
pub(crate) fn expand(arguments: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let arguments = Arguments::parse(arguments)?;
    let mut input: DeriveInput = syn::parse2(item)?;
    let attributes = ItemAttributes::parse(&input.attrs)?;
    let item = Item::parse(&input, &attributes)?;
    let rkyv = arguments.rkyv();

    if item.parts().any(|part| part.recursive) {
        let mut parts = item.parts();
        each_field(&mut input.data, |field| match parts.next() {
            Some(part) if part.recursive => recursion::omit_bounds(field),
            _ => Ok(()),
        })?;
        input
            .attrs
            .extend(recursion::item_attributes(&attributes, &rkyv));
    }
    input.attrs.insert(0, parse_quote!(#[rkyv(crate = #rkyv)]));
    let demands = describe::demands(&item, &arguments);
    let describe = describe::implementation(&item, &arguments);
    let debug =
        (arguments.debug && !attributes.debug).then(|| debug::implementation(&item, &arguments));

    Ok(quote! {
        #demands

        #[derive(#rkyv::Archive, #rkyv::Serialize, #rkyv::Deserialize)]
        #input

        #describe

        #debug
    })
}

/// Visits the fields in the order of [`Item::parts`].
fn each_field(data: &mut Data, mut visit: impl FnMut(&mut syn::Field) -> Result<()>) -> Result<()> {
    match data {
        Data::Struct(data) => data.fields.iter_mut().try_for_each(visit),
        Data::Enum(data) => data
            .variants
            .iter_mut()
            .flat_map(|variant| variant.fields.iter_mut())
            .try_for_each(&mut visit),
        Data::Union(_) => Ok(()),
    }
}
