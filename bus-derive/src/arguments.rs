//! What stands in `#[message(…)]`.

use proc_macro2::TokenStream;
use quote::quote;
use syn::parse::Parser;
use syn::{Path, Result, Token, parse_quote};

/// The arguments of the attribute.
pub(crate) struct Arguments {
    /// Where `rkyv` and `schema` are found.
    pub(crate) root: Path,
    /// Whether the archived type gets a `Debug`.
    pub(crate) debug: bool,
}

impl Arguments {
    /// Reads the arguments; refuses those that it does not know.
    pub(crate) fn parse(tokens: TokenStream) -> Result<Self> {
        let mut arguments = Self {
            root: parse_quote!(::bus_client),
            debug: true,
        };
        let parser = syn::meta::parser(|meta| {
            if meta.path.is_ident("crate") {
                meta.input.parse::<Token![=]>()?;
                arguments.root = meta.input.call(Path::parse_mod_style)?;
                Ok(())
            } else if meta.path.is_ident("no_debug") {
                arguments.debug = false;
                Ok(())
            } else {
                Err(meta.error(
                    "unknown argument of #[message]; known are `crate = path` and `no_debug`",
                ))
            }
        });
        parser.parse2(tokens)?;
        Ok(arguments)
    }

    /// The path of rkyv.
    pub(crate) fn rkyv(&self) -> TokenStream {
        let root = &self.root;
        quote!(#root::rkyv)
    }

    /// The path of the schema module.
    pub(crate) fn schema(&self) -> TokenStream {
        let root = &self.root;
        quote!(#root::schema)
    }
}
