//! What the attribute refuses, and in which words.

use proc_macro2::TokenStream;
use quote::quote;

use crate::item::expand;

fn refusal(arguments: TokenStream, item: TokenStream) -> String {
    expand(arguments, item)
        .expect_err("this should have been refused")
        .to_string()
}

#[test]
fn unknown_arguments() {
    let why = refusal(
        quote!(name = "x"),
        quote!(
            struct Tick(u32);
        ),
    );
    assert!(why.contains("known are `crate = path`"), "{why}");
}

#[test]
fn unions() {
    let why = refusal(quote!(), quote!(union Word { a: u32, b: f32 }));
    assert!(why.contains("use an enum"), "{why}");
}

#[test]
fn lifetimes() {
    let why = refusal(
        quote!(),
        quote!(
            struct Tick<'a> {
                venue: &'a str,
            }
        ),
    );
    assert!(why.contains("owns its data"), "{why}");
}

#[test]
fn enums_without_variants() {
    let why = refusal(
        quote!(),
        quote!(
            enum Never {}
        ),
    );
    assert!(why.contains("no values"), "{why}");
}

#[test]
fn conditions_on_parts() {
    let field = refusal(
        quote!(),
        quote!(
            struct Tick {
                #[cfg(unix)]
                price: f64,
            }
        ),
    );
    let variant = refusal(
        quote!(),
        quote!(
            enum Side {
                #[cfg(unix)]
                Buy,
            }
        ),
    );
    let inner = refusal(
        quote!(),
        quote!(
            enum Side {
                Buy(#[cfg_attr(unix, doc = "x")] u32),
            }
        ),
    );
    for why in [field, variant, inner] {
        assert!(why.contains("cannot depend on the build"), "{why}");
    }
}

#[test]
fn archived_types_from_elsewhere() {
    for option in [quote!(as = Other), quote!(remote = Other)] {
        let why = refusal(
            quote!(),
            quote!(
                #[rkyv(#option)]
                struct Tick(u32);
            ),
        );
        assert!(why.contains("archived type of its own"), "{why}");
    }
    let why = refusal(
        quote!(),
        quote!(
            #[rkyv(crate = other)]
            struct Tick(u32);
        ),
    );
    assert!(why.contains("#[message(crate"), "{why}");
}

#[test]
fn self_as_the_type_of_a_field() {
    let why = refusal(
        quote!(),
        quote!(
            struct Node {
                next: Option<Box<Self>>,
            }
        ),
    );
    assert!(why.contains("write `Node`"), "{why}");
}

#[test]
fn items_that_are_no_types() {
    assert!(
        expand(
            quote!(),
            quote!(
                fn tick() {}
            )
        )
        .is_err()
    );
}

#[test]
fn every_path_goes_through_the_named_crate() {
    let text = expand(
        quote!(),
        quote!(
            struct Tick {
                price: f64,
            }
        ),
    )
    .expect("a plain struct")
    .to_string();
    assert!(text.contains(":: bus_client :: rkyv :: Archive"), "{text}");
    assert!(
        text.contains(":: bus_client :: schema :: Describe"),
        "{text}"
    );
    assert!(
        !text
            .replace(":: bus_client :: rkyv", "")
            .contains(":: rkyv"),
        "{text}"
    );
}
