//! `#[config]`: what every config of a plugin derives, said once.

#![forbid(unsafe_code)]

use proc_macro::TokenStream;

/// Makes a struct or enum (part of) a plugin's config: it can be read with serde and described by a JSON
/// Schema, and keys that it does not know are refused.
///
/// Doc comments become the schema's descriptions. All of serde's and schemars' own attributes work;
/// one that flattens another struct cannot refuse unknown keys and derives by hand instead.
#[proc_macro_attribute]
pub fn config(arguments: TokenStream, item: TokenStream) -> TokenStream {
    if !arguments.is_empty() {
        return tokens("::core::compile_error!{\"`#[config]` takes no arguments\"}");
    }
    let mut out = tokens(DERIVES);
    out.extend(item);
    out
}

fn tokens(text: &str) -> TokenStream {
    // Both texts are constants above and below: they are Rust.
    text.parse().unwrap_or_default()
}

const DERIVES: &str = r#"
    #[derive(::sluicegate_plugin::serde::Deserialize, ::sluicegate_plugin::schemars::JsonSchema)]
    #[serde(crate = "::sluicegate_plugin::serde", deny_unknown_fields)]
    #[schemars(crate = "::sluicegate_plugin::schemars")]
"#;
