//! The `Debug` of the archived type, so that a received message prints like the one that was sent.
//!
//! Written out instead of derived: the derive bounds type parameters, where it would have to bound their
//! archived forms, and it would print the name `ArchivedTick`.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::ext::IdentExt;
use syn::parse_quote;

use crate::arguments::Arguments;
use crate::item::{Item, Shape, Variant};
use crate::part::Part;

/// The implementation for the archived type of `item`.
pub(crate) fn implementation(item: &Item, arguments: &Arguments) -> TokenStream {
    let rkyv = arguments.rkyv();
    let archived = &item.archived;
    let generics = item.bounded(
        |parameter| parse_quote!(#parameter: #rkyv::Archive),
        |part| {
            let (ty, archived) = (&part.ty, part.archived(&rkyv));
            let archives = match &part.with {
                None => parse_quote!(#ty: #rkyv::Archive),
                Some(with) => parse_quote!(#with: #rkyv::with::ArchiveWith<#ty>),
            };
            vec![archives, parse_quote!(#archived: ::core::fmt::Debug)]
        },
    );
    let (impl_generics, ty_generics, where_clause) = generics.split_for_impl();
    let body = match &item.shape {
        Shape::Struct(parts) => {
            let values = parts.iter().map(|part| {
                let member = &part.member;
                quote!(&self.#member)
            });
            let named = parts.iter().any(is_named);
            print(&item.name, named, parts, values)
        }
        Shape::Enum(variants) => {
            let arms = variants.iter().map(arm);
            quote!(match self { #(#arms)* })
        }
    };
    quote! {
        #[automatically_derived]
        impl #impl_generics ::core::fmt::Debug for #archived #ty_generics #where_clause {
            fn fmt(&self, __f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                #body
            }
        }
    }
}

/// The arm that prints one variant.
fn arm(variant: &Variant) -> TokenStream {
    let name = &variant.name;
    let members = variant.parts.iter().map(|part| &part.member);
    let values: Vec<_> = (0..variant.parts.len())
        .map(|index| format_ident!("__field_{index}"))
        .collect();
    let printed = values.iter().map(|value| quote!(#value));
    let body = print(name, variant.named, &variant.parts, printed);
    quote!(Self::#name { #(#members: #values),* } => #body,)
}

/// Prints one struct or variant.
fn print(
    name: &syn::Ident,
    named: bool,
    parts: &[Part],
    values: impl Iterator<Item = TokenStream>,
) -> TokenStream {
    let name = name.unraw().to_string();
    if named {
        let names = parts.iter().map(Part::name);
        quote!(__f.debug_struct(#name)#(.field(#names, #values))*.finish())
    } else {
        quote!(__f.debug_tuple(#name)#(.field(#values))*.finish())
    }
}

/// Whether a field has a name.
fn is_named(part: &Part) -> bool {
    matches!(part.member, syn::Member::Named(_))
}
