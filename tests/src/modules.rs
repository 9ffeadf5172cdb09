//! Plugins written by hand, as WebAssembly text: for what no compiler would write.
//!
//! The tests of the plugin host take this file in as well.

use std::path::Path;

use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// The text of a module that fits version 0.1.0 of the interface: a filter that continues, with further
/// imports and declarations, and this done where the host asks for memory while a request is lent, and
/// at each request, whose handle is local 0.
pub fn text(imported: &str, declared: &str, at_realloc: &str, at_request: &str) -> String {
    // Locals are declared before anything is done.
    let (locals, at_request) = match at_request.split_once("(local $at i32)") {
        Some((before, after)) => ("(local $at i32)", format!("{before}{after}")),
        None => ("", at_request.to_owned()),
    };
    format!(
        r#"(module
          (import "sluicegate:plugin/http@0.1.0" "[resource-drop]request"
            (func $drop_request (param i32)))
          (import "sluicegate:plugin/http@0.1.0" "[resource-drop]response"
            (func $drop_response (param i32)))
          {imported}
          (memory (export "memory") 1)
          (global $lent (mut i32) (i32.const 0))
          {declared}
          ;; The description at 16: name and version `p`, and one hook, the request's, as zeros.
          (data (i32.const 16) "\00\01\00\00\01\00\00\00\00\01\00\00\01\00\00\00\00\02\00\00\01\00\00\00")
          (data (i32.const 256) "p")
          (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
            (if (global.get $lent) (then {at_realloc}))
            (i32.const 4096))
          (func (export "describe") (result i32) (i32.const 16))
          ;; Zeros are `ok`, and `continue`.
          (func (export "configure") (param i32 i32) (result i32) (i32.const 1024))
          (func (export "on-request") (param i32) (result i32)
            {locals}
            (global.set $lent (local.get 0))
            {at_request}
            (i32.const 1024))
          (func (export "on-response") (param i32) (result i32)
            (call $drop_response (local.get 0))
            (i32.const 1024)))"#
    )
}

/// The module with what it says of its interface, as cargo would write it.
///
/// # Panics
/// When the text is no module.
pub fn encoded(text: &str) -> Vec<u8> {
    encoded_for("0.1.0", "handshake-filter", text)
}

/// As [`encoded`], for this version and world of the interface.
///
/// # Panics
/// When the text is no module.
pub fn encoded_for(version: &str, world: &str, text: &str) -> Vec<u8> {
    let mut wasm = wat::parse_str(text).expect("valid text");
    let mut resolve = Resolve::default();
    let wit = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|folder| folder.join("plugin-sdk/wit").join(version))
        .find(|folder| folder.is_dir())
        .expect("the tests are in the workspace");
    let (package, _) = resolve.push_dir(wit).expect("our interface");
    let world = resolve
        .select_world(&[package], Some(world))
        .expect("our world");
    embed_component_metadata(&mut wasm, &resolve, world, StringEncoding::UTF8, false)
        .expect("it fits");
    wasm
}
