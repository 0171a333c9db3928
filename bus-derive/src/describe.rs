//! The implementation of `Describe`: the truth about the archived layout.
//!
//! A struct's offsets are asked of the archived struct itself. Those of an enum's variants are worked
//! out by `schema::Variant`, since `offset_of!` does not take variants yet.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::ext::IdentExt;
use syn::{GenericParam, parse_quote};

use crate::arguments::Arguments;
use crate::item::{Item, Shape, Variant};
use crate::part::Part;

/// The implementation for `item`.
pub(crate) fn implementation(item: &Item, arguments: &Arguments) -> TokenStream {
    let schema = arguments.schema();
    let rkyv = arguments.rkyv();
    let name = &item.name;
    let generics = item.bounded(
        |parameter| parse_quote!(#parameter: #schema::Describe),
        |part| {
            let ty = &part.ty;
            match &part.with {
                None => vec![parse_quote!(#ty: #schema::Describe)],
                Some(with) => vec![parse_quote!(#with: #rkyv::with::ArchiveWith<#ty>)],
            }
        },
    );
    let (impl_generics, ty_generics, where_clause) = generics.split_for_impl();
    let fixed = all(item, &schema, &quote!(FIXED));
    let tamper_proof = match &item.shape {
        // Not every number passes the user's own check.
        Shape::Struct(_) if item.verified => quote!(false),
        Shape::Struct(_) => all(item, &schema, &quote!(TAMPER_PROOF)),
        // Not every tag is that of a variant.
        Shape::Enum(_) => quote!(false),
    };
    let kind = kind(item, &schema);
    let body = match &item.shape {
        Shape::Struct(parts) => parts.iter().map(|part| field(part, &rkyv)).collect(),
        Shape::Enum(variants) => enumeration(variants, &rkyv),
    };
    quote! {
        #[automatically_derived]
        impl #impl_generics #schema::Describe for #name #ty_generics #where_clause {
            const FIXED: bool = #fixed;
            const TAMPER_PROOF: bool = #tamper_proof;

            fn kind() -> ::std::string::String {
                #kind
            }

            fn describe(__walk: &mut #schema::Walk) {
                let _ = &__walk;
                #body
            }
        }
    }
}

/// Bounds that are there for their errors only. Standing ahead of rkyv's, they are the first to tell
/// of a field that cannot be part of a message, in words of this project.
pub(crate) fn demands(item: &Item, arguments: &Arguments) -> TokenStream {
    let schema = arguments.schema();
    let parameters: Vec<_> = item.generics.type_params().map(|p| &p.ident).collect();
    let constants = item.generics.const_params().next().is_some();
    let bounds: Vec<_> = item
        .parts()
        .filter(|part| !part.recursive && part.with.is_none())
        // A bound outside of the item cannot name its parameters.
        .filter(|part| !constants && !part.depends_on(&parameters))
        .map(|part| {
            let ty = &part.ty;
            quote_spanned!(part.span()=> #ty: #schema::Describe)
        })
        .collect();
    if bounds.is_empty() {
        return TokenStream::new();
    }
    quote! {
        const _: () = {
            #[allow(dead_code, trivial_bounds)]
            fn __demands() where #(#bounds),* {}
        };
    }
}

/// Whether all parts have no pointers, or whatever else this constant says of them. What a wrapper makes of a field is not known: it may point.
fn all(item: &Item, schema: &TokenStream, constant: &TokenStream) -> TokenStream {
    let parts: Vec<_> = item
        .parts()
        .map(|part| {
            let ty = &part.ty;
            match part.with {
                None => quote_spanned!(part.span()=> <#ty as #schema::Describe>::#constant),
                Some(_) => quote!(false),
            }
        })
        .collect();
    if parts.is_empty() {
        quote!(true)
    } else {
        quote!(#(#parts)&&*)
    }
}

/// The name with its arguments.
fn kind(item: &Item, schema: &TokenStream) -> TokenStream {
    let name = item.name.unraw().to_string();
    let arguments: Vec<_> = item
        .generics
        .params
        .iter()
        .filter_map(|parameter| match parameter {
            GenericParam::Type(parameter) => {
                let name = &parameter.ident;
                Some(quote!(<#name as #schema::Describe>::kind()))
            }
            GenericParam::Const(parameter) => {
                let name = &parameter.ident;
                Some(quote!(#name))
            }
            GenericParam::Lifetime(_) => None,
        })
        .collect();
    if arguments.is_empty() {
        return quote!(::std::string::String::from(#name));
    }
    let format = format!("{name}<{}>", vec!["{}"; arguments.len()].join(", "));
    quote!(::std::format!(#format, #(#arguments),*))
}

/// One field of a struct.
fn field(part: &Part, rkyv: &TokenStream) -> TokenStream {
    let (name, ty, member) = (part.name(), &part.ty, &part.member);
    let offset = quote!(::core::mem::offset_of!(<Self as #rkyv::Archive>::Archived, #member));
    if part.with.is_none() {
        quote_spanned!(part.span()=> __walk.field::<#ty>(#name, #offset);)
    } else {
        let (kind, archived) = (part.wrapped_kind(), part.archived(rkyv));
        quote!(__walk.opaque(#name, #kind, #offset, ::core::mem::size_of::<#archived>());)
    }
}

/// The variants of an enum. Their tags are asked of an enum of the same discriminants.
fn enumeration(variants: &[Variant], rkyv: &TokenStream) -> TokenStream {
    let tags = variants.iter().map(|variant| {
        let name = &variant.name;
        let value = variant.discriminant.as_ref().map(|value| quote!(= #value));
        quote!(#name #value)
    });
    let told = variants.iter().map(|variant| {
        let (ident, name) = (&variant.name, variant.name.unraw().to_string());
        let fields = variant.parts.iter().map(|part| {
            let (name, ty) = (part.name(), &part.ty);
            if part.with.is_none() {
                quote_spanned!(part.span()=> __fields.field::<#ty>(#name);)
            } else {
                let (kind, archived) = (part.wrapped_kind(), part.archived(rkyv));
                quote!(__fields.opaque::<#archived>(#name, #kind);)
            }
        });
        quote! {
            __walk.variant(#name, __Tag::#ident as u8, |__fields| {
                let _ = &__fields;
                #(#fields)*
            });
        }
    });
    quote! {
        #[allow(dead_code, non_camel_case_types, clippy::enum_variant_names)]
        #[repr(u8)]
        enum __Tag {
            #(#tags,)*
        }
        #(#told)*
    }
}
