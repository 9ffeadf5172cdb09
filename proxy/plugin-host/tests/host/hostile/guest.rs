//! Guests made of numbers: components that fit the interface and keep no promise beyond that.
//!
//! The types of all imports and exports come from the interface's own text, so a function that is added to it is called
//! as well. Each export does a few things (calls what is imported with any arguments, spoils its memory, grows, loops,
//! traps) and returns what is right, or anything. Handles are lent ones, dropped ones, invented ones.

use std::fmt::Write as _;
use std::path::Path;

use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::abi::{AbiVariant, WasmType};
use wit_parser::{Function, FunctionKind, Resolve, WorldItem};

/// Numbers that follow from a seed.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// One of so many (splitmix64).
    fn roll(&mut self, sides: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ mixed >> 31) % u64::from(sides)) as u32
    }

    fn once_in(&mut self, times: u32) -> bool {
        self.roll(times) == 0
    }

    /// A handle, a length, a pointer: small, somewhere in memory, at its end, or far beyond.
    fn number(&mut self) -> u32 {
        match self.roll(10) {
            0..=2 => self.roll(8),
            3..=4 => self.roll(300),
            5..=7 => WILD + 4 * self.roll(512),
            8 => MEMORY - self.roll(16),
            _ => [u32::MAX, 1 << 31, MEMORY, 0xd800, 1 << 20][self.roll(5) as usize],
        }
    }
}

/// A guest of version 0.2.0 of the interface.
pub(crate) fn wasm(seed: u64) -> Vec<u8> {
    let mut dice = Dice::new(seed);
    let mut resolve = Resolve::default();
    let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugin-sdk/wit/0.2.0");
    let (package, _) = resolve.push_dir(wit).expect("our interface");
    let name = ["handshake-filter", "message-filter"][dice.roll(2) as usize];
    let world = resolve
        .select_world(&[package], Some(name))
        .expect("our world");
    let text = text(&resolve, world, &mut dice);
    let mut module = wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8, false)
        .expect("it fits");
    module
}

/// A function that can be called, by its name in the text.
struct Import {
    name: String,
    params: Vec<WasmType>,
    /// Of what it is a method.
    resource: Option<String>,
    returns: bool,
}

fn text(resolve: &Resolve, world: wit_parser::WorldId, dice: &mut Dice) -> String {
    let world = &resolve.worlds[world];
    let mut imports = Vec::new();
    let mut declared = String::new();
    for (key, item) in &world.imports {
        let module = resolve.name_world_key(key);
        for function in functions(resolve, item) {
            let signature = resolve.wasm_signature(AbiVariant::GuestImport, function);
            let import = Import {
                name: format!("$import{}", imports.len()),
                params: signature.params,
                resource: resource_of(&function.name),
                returns: !signature.results.is_empty(),
            };
            let (name, params) = (&import.name, list("param", &import.params));
            let results = list("result", &signature.results);
            let _ = writeln!(
                declared,
                r#"(import "{module}" "{}" (func {name} {params} {results}))"#,
                function.name
            );
            imports.push(import);
        }
    }
    for lent in ["request", "response"] {
        let _ = writeln!(
            declared,
            r#"(import "sluicegate:plugin/http@0.2.0" "[resource-drop]{lent}" (func $drop-{lent} (param i32)))"#
        );
    }
    let messages = "sluicegate:plugin/messages@0.2.0";
    let talks = world.exports.len() > 4;
    if talks {
        let _ = writeln!(
            declared,
            r#"(import "[export]{messages}" "[resource-new]conversation" (func $new (param i32) (result i32)))"#
        );
    }
    let mut exported = String::new();
    for (key, item) in &world.exports {
        for function in functions(resolve, item) {
            let signature = resolve.wasm_signature(AbiVariant::GuestExport, function);
            let name = match item {
                WorldItem::Interface { .. } => {
                    format!("{}#{}", resolve.name_world_key(key), function.name)
                }
                _ => function.name.clone(),
            };
            let params = list("param", &signature.params);
            let results = list("result", &signature.results);
            let body = body(function, &imports, dice);
            let returned = match signature.results.is_empty() {
                true => String::new(),
                false if dice.once_in(16) => format!("(i32.const {})", dice.number() as i32),
                false => format!("(i32.const {})", place_of(&function.name)),
            };
            let _ = writeln!(
                exported,
                r#"(func (export "{name}") {params} {results} {body} {returned})"#
            );
        }
    }
    let at_realloc = match dice.roll(24) {
        0 => format!("(return (i32.const {}))", dice.number() as i32),
        1 => call(&imports, None, dice),
        _ => String::new(),
    };
    let hooks = match (talks, dice.once_in(6)) {
        (_, true) => dice.roll(256),
        (true, false) => 7,
        (false, false) => 3,
    };
    format!(
        r#"(module
          {declared}
          (memory (export "memory") {PAGES})
          (global $heap (mut i32) (i32.const {HEAP}))
          (data (i32.const 16) "{description}")
          (data (i32.const 64) "\00\00\00\00\{hooks:02x}")
          (data (i32.const 128) "\0f\0f\00\00\00\00\00\00\00\00\00\00\01\00\00\00\64\00\00\00\01")
          (data (i32.const 256) "p")
          (data (i32.const {WILD}) "{wild}")
          (func $deep (call $deep))
          (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
            (local $at i32)
            {at_realloc}
            (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 15)) (i32.const -8)))
            (global.set $heap (i32.add (local.get $at) (local.get 3)))
            (local.get $at))
          {exported})"#,
        description = bytes(&description(hooks)),
        wild = bytes(&wild(dice)),
    )
}

fn functions<'a>(resolve: &'a Resolve, item: &'a WorldItem) -> Vec<&'a Function> {
    match item {
        WorldItem::Interface { id, .. } => resolve.interfaces[*id].functions.values().collect(),
        WorldItem::Function(function) => vec![function],
        WorldItem::Type { .. } => Vec::new(),
    }
}

/// `[method]request.path` is a method of `request`.
fn resource_of(name: &str) -> Option<String> {
    let (resource, _) = name.strip_prefix("[method]")?.split_once('.')?;
    Some(resource.to_owned())
}

/// What an export does before it returns.
fn body(function: &Function, imports: &[Import], dice: &mut Dice) -> String {
    let mut body = String::new();
    let lent = match function.name.as_str() {
        "on-request" => Some("request"),
        "on-response" => Some("response"),
        _ => None,
    };
    // Where nothing may be asked, mostly nothing is.
    let quiet = matches!(function.name.as_str(), "describe" | "configure" | "wants");
    let steps = match quiet && !dice.once_in(12) {
        true => 0,
        false => dice.roll(5),
    };
    for _ in 0..steps {
        body.push_str(&match dice.roll(60) {
            0 => "(unreachable)".to_owned(),
            1 => "(loop $again (br $again))".to_owned(),
            2 => "(call $deep)".to_owned(),
            3 => "(drop (memory.grow (i32.const 1000)))".to_owned(),
            4..=9 => {
                let (at, value) = (dice.number() as i32, dice.number() as i32);
                format!("(i32.store (i32.const {at}) (i32.const {value}))")
            }
            _ => call(imports, lent, dice),
        });
    }
    if let Some(lent) = lent {
        // Not given back is a fault, and so is twice.
        let times = [1, 1, 1, 1, 1, 1, 1, 1, 0, 2][dice.roll(10) as usize];
        for _ in 0..times {
            let _ = write!(body, "(call $drop-{lent} (local.get 0))");
        }
    }
    if lent.is_some() && dice.once_in(3) {
        // A reply of any kind.
        let place = place_of(&function.name);
        let (status, fields, size) = (190 + dice.roll(420), dice.roll(3), dice.roll(1 << 17));
        for (offset, value) in [
            (0, 1),
            (4, status),
            (8, WILD),
            (12, fields),
            (16, WILD),
            (20, size),
        ] {
            let at = place + offset;
            let _ = write!(body, "(i32.store (i32.const {at}) (i32.const {value}))");
        }
    }
    if function.name == "open" {
        let place = place_of("open");
        let handle = match dice.once_in(8) {
            true => format!("(i32.const {})", dice.number() as i32),
            false => "(call $new (i32.const 7))".to_owned(),
        };
        let _ = write!(
            body,
            "(i32.store (i32.const {place}) (i32.const 1)) (i32.store offset=4 (i32.const {place}) {handle})"
        );
    }
    if matches!(function.kind, FunctionKind::Method(_)) && dice.once_in(3) {
        // A reaction of any kind.
        let place = place_of("");
        let (kind, at) = (dice.roll(5), dice.number() as i32);
        let _ = write!(
            body,
            "(i32.store8 (i32.const {place}) (i32.const {kind})) (i32.store offset=8 (i32.const {place}) (i32.const {at}))"
        );
    }
    body
}

/// Some import with some arguments: mostly one that needs no handle, or the one that is `lent`.
fn call(imports: &[Import], lent: Option<&str>, dice: &mut Dice) -> String {
    let mut import = &imports[0];
    for _ in 0..20 {
        import = &imports[dice.roll(imports.len() as u32) as usize];
        if import.resource.is_none() || import.resource.as_deref() == lent {
            break;
        }
    }
    let mut arguments = String::new();
    for (at, param) in import.params.iter().enumerate() {
        let number = dice.number();
        let is_handle = at == 0 && import.resource.is_some() && lent.is_some();
        let _ = match param {
            _ if is_handle && !dice.once_in(20) => write!(arguments, "(local.get 0)"),
            WasmType::I64 | WasmType::PointerOrI64 => write!(arguments, "(i64.const {number})"),
            WasmType::F32 => write!(arguments, "(f32.const {number})"),
            WasmType::F64 => write!(arguments, "(f64.const {number})"),
            _ => write!(arguments, "(i32.const {})", number as i32),
        };
    }
    let call = format!("(call {} {arguments})", import.name);
    match import.returns {
        true => format!("(drop {call})"),
        false => call,
    }
}

fn list(kind: &str, types: &[WasmType]) -> String {
    let name = |kind: &WasmType| match kind {
        WasmType::I64 | WasmType::PointerOrI64 => "i64",
        WasmType::F32 => "f32",
        WasmType::F64 => "f64",
        _ => "i32",
    };
    let names: Vec<&str> = types.iter().map(name).collect();
    match names.is_empty() {
        true => String::new(),
        false => format!("({kind} {})", names.join(" ")),
    }
}

/// Where what an export returns lies, mostly as zeros: `ok`, `continue`, `forward`.
fn place_of(export: &str) -> u32 {
    match export {
        "describe" => 16,
        "configure" => 64,
        "on-request" | "on-response" => 96,
        "wants" => 128,
        "open" => 192,
        _ => 224,
    }
}

/// Name and version `p`, these hooks, no schema, nothing optional.
fn description(hooks: u32) -> Vec<u8> {
    let words = [256, 1, 256, 1, hooks & 0xff, 0, 0, 0, 0, 0];
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}

/// Where wild pointers lead: names, values, lengths that are too long; to some guests also what is no text.
fn wild(dice: &mut Dice) -> Vec<u8> {
    let sides = if dice.once_in(3) { 12 } else { 9 };
    let mut wild = Vec::new();
    while wild.len() < 2048 {
        match dice.roll(sides) {
            0..=3 => wild.extend_from_slice(WORDS[dice.roll(WORDS.len() as u32) as usize]),
            4..=6 => wild.extend_from_slice(&dice.roll(100).to_le_bytes()),
            7..=8 => wild.extend_from_slice(&[0; 8]),
            9 => wild.extend_from_slice(&dice.number().to_le_bytes()),
            10 => wild.extend_from_slice(b"\xc3\x28"),
            _ => wild.push(dice.roll(256) as u8),
        }
    }
    wild
}

fn bytes(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("\\{byte:02x}")).collect()
}

const PAGES: u32 = 4;
const MEMORY: u32 = PAGES << 16;
const WILD: u32 = 8192;
const HEAP: u32 = 16384;
const WORDS: [&[u8]; 10] = [
    b"connection",
    b"content-length",
    b"x-a",
    b"a\r\nb: c",
    b"\xf0\x9f\x92\xa9",
    b"x-b",
    b"text/plain",
    b"other",
    b"chat",
    b"idp",
];
