//! One field of a struct or of a variant.

use proc_macro2::{Span, TokenStream, TokenTree};
use quote::{ToTokens, quote};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Error, Fields, Ident, Member, Result, Type};

use crate::attributes::{FieldAttributes, refuse_conditions};

/// A field, with what the implementations need to know of it.
pub(crate) struct Part {
    /// Its name or its index, as in `self.name`.
    pub(crate) member: Member,
    /// Its type.
    pub(crate) ty: Type,
    /// The wrapper that archives it, if there is one.
    pub(crate) with: Option<Type>,
    /// Whether its type holds the type that it is part of, or is declared to.
    pub(crate) recursive: bool,
}

impl Part {
    /// The parts of a struct or a variant of the type `owner`.
    pub(crate) fn all(fields: &Fields, owner: &Ident) -> Result<Vec<Self>> {
        let parts = fields.iter().zip(fields.members()).map(|(field, member)| {
            refuse_conditions(&field.attrs)?;
            let attributes = FieldAttributes::parse(&field.attrs)?;
            if let Some(span) = find(field.ty.to_token_stream(), &Ident::new("Self", owner.span())) {
                let message = format!(
                    "`Self` would be the archived type in a part of the generated code; write `{owner}`"
                );
                return Err(Error::new(span, message));
            }
            Ok(Self {
                member,
                ty: field.ty.clone(),
                with: attributes.with,
                recursive: attributes.omit_bounds || mentions(&field.ty, owner),
            })
        });
        parts.collect()
    }

    /// Its name or index as a schema gives it.
    pub(crate) fn name(&self) -> String {
        match &self.member {
            Member::Named(name) => name.unraw().to_string(),
            Member::Unnamed(index) => index.index.to_string(),
        }
    }

    /// The type that stands for it in the archived item.
    pub(crate) fn archived(&self, rkyv: &TokenStream) -> TokenStream {
        let ty = &self.ty;
        match &self.with {
            None => quote!(<#ty as #rkyv::Archive>::Archived),
            Some(with) => quote!(<#with as #rkyv::with::ArchiveWith<#ty>>::Archived),
        }
    }

    /// Its type and wrapper in words, for a field that is archived by a wrapper.
    pub(crate) fn wrapped_kind(&self) -> String {
        let text = |ty: &Type| ty.to_token_stream().to_string();
        match &self.with {
            None => text(&self.ty),
            Some(with) => format!("{} with {}", text(&self.ty), text(with)),
        }
    }

    /// Whether its type depends on one of the item's type parameters.
    pub(crate) fn depends_on(&self, parameters: &[&Ident]) -> bool {
        let wrapper = self.with.as_ref();
        parameters.iter().any(|parameter| {
            mentions(&self.ty, parameter) || wrapper.is_some_and(|with| mentions(with, parameter))
        })
    }

    /// Where errors about its type belong: at the type, but with names looked up where the attribute
    /// stands, so that items made by other macros work as well.
    pub(crate) fn span(&self) -> Span {
        self.ty.span().resolved_at(Span::call_site())
    }
}

/// Whether a type mentions `name` as a name of its own, not as the end of a path.
fn mentions(ty: &Type, name: &Ident) -> bool {
    find(ty.to_token_stream(), name).is_some()
}

/// Finds `name` in `tokens`, but not behind `::`.
fn find(tokens: TokenStream, name: &Ident) -> Option<Span> {
    let mut behind_colon = false;
    for token in tokens {
        let found = match &token {
            TokenTree::Ident(ident) if ident == name && !behind_colon => Some(ident.span()),
            TokenTree::Group(group) => find(group.stream(), name),
            _ => None,
        };
        if found.is_some() {
            return found;
        }
        behind_colon = matches!(&token, TokenTree::Punct(punct) if punct.as_char() == ':');
    }
    None
}
