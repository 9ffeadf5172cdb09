//! What a file is, before anything of it is compiled: kind, imports, exports, version; and how
//! cargo's core module becomes a component.
//!
//! Everything is validated first, so that the tools behind never see malformed bytes.

use serde::{Deserialize, Serialize};
use wasmparser::{KnownCustom, Parser, Payload, Validator, WasmFeatures};
use wit_component::ComponentEncoder;
use wit_parser::decoding::DecodedWasm;
use wit_parser::{WorldItem, WorldKey};

use crate::error::LoadError;
use crate::grants::Grants;
use crate::wasi;

/// What a WebAssembly file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A component, ready to run.
    Component,
    /// A core module, as cargo writes it for `wasm32-unknown-unknown`.
    Module,
}

/// What can be said of a plugin without compiling it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    pub kind: Kind,
    /// Of the file, bytes.
    pub size: usize,
    /// Of the component that is (or would be made) of it, bytes.
    pub component_size: usize,
    /// Interfaces and functions, e.g. `sluicegate:plugin/http@0.1.0`.
    pub imports: Vec<String>,
    pub exports: Vec<String>,
    /// The interface version it was made for, e.g. `0.1.0`; `None`: it imports nothing of ours.
    pub version: Option<String>,
    /// What it was made with, e.g. `Rust 1.95.0 …`.
    pub producers: Vec<String>,
}

/// Makes a component of a core module; a component comes back as it is.
///
/// # Errors
/// `NotWasm`, `TooBig`, `Invalid`, `NoInterface`, `UnknownImport`, `Interface`.
pub fn componentize(wasm: &[u8]) -> Result<Vec<u8>, LoadError> {
    match validated(wasm)? {
        Kind::Component => Ok(wasm.to_vec()),
        Kind::Module => encode(wasm),
    }
}

/// Describes a plugin without compiling it; it need not be one of ours.
///
/// # Errors
/// As [`componentize`].
pub fn inspect(wasm: &[u8]) -> Result<Inspection, LoadError> {
    let kind = validated(wasm)?;
    let component = componentize(wasm)?;
    let Surface {
        imports, exports, ..
    } = surface(&component)?;
    let version = imports
        .iter()
        .filter_map(|name| name.strip_prefix(PACKAGE))
        .find_map(|rest| rest.split_once('@'))
        .map(|(_, version)| version.to_owned());
    let (size, component_size) = (wasm.len(), component.len());
    let producers = producers(&component);
    Ok(Inspection {
        kind,
        size,
        component_size,
        imports,
        exports,
        version,
        producers,
    })
}

/// A version of the interface that this host speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Version {
    V0_1,
    Current,
}

/// What a plugin can be called by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Dialect {
    pub(crate) version: Version,
    /// It exports the hooks of messages.
    pub(crate) messages: bool,
}

/// What a plugin needs of its host.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Needs {
    pub(crate) dialect: Dialect,
    /// Interfaces of ours of which it calls what may take longer than others should wait for it.
    waits: Vec<String>,
    /// Ours, such as `kv`, and WASI's, such as `wasi:cli/stderr@0.2.6`.
    interfaces: Vec<String>,
}

impl Needs {
    pub(crate) fn wasi(&self) -> bool {
        self.interfaces
            .iter()
            .any(|interface| wasi::offers(interface))
    }

    /// Whether it can make others wait for long, with these grants.
    pub(crate) fn waits(&self, grants: &Grants) -> bool {
        let mut interfaces = self.waits.iter();
        interfaces.any(|interface| grants.allows(interface).is_ok())
    }

    /// # Errors
    /// `NotGranted`: something that it imports is not.
    pub(crate) fn check(&self, grants: &Grants, optional: &[String]) -> Result<(), LoadError> {
        let mut needed = self.interfaces.iter();
        needed.try_for_each(|interface| {
            if optional.contains(interface) {
                return Ok(());
            }
            grants
                .allows(interface)
                .map_err(|key| LoadError::NotGranted {
                    interface: interface.clone(),
                    key: key.to_owned(),
                })
        })
    }
}

/// A component that imports only what there is and exports all that is called.
pub(crate) fn plugin_component(wasm: &[u8]) -> Result<(Vec<u8>, Needs), LoadError> {
    let component = componentize(wasm)?;
    let Surface {
        imports,
        exports,
        waits,
    } = surface(&component)?;
    let mut needs = Needs {
        dialect: Dialect {
            version: Version::Current,
            messages: exports.iter().any(|export| export == MESSAGES),
        },
        waits,
        interfaces: Vec::new(),
    };
    for import in imports {
        let ours = import
            .strip_prefix(PACKAGE)
            .map(|rest| rest.split_once('@').unwrap_or((rest, "")));
        match ours {
            Some((interface, found)) if INTERFACES.contains(&interface) => {
                let spoken = VERSIONS.iter().find(|(spoken, _)| *spoken == found);
                let Some((_, spoken)) = spoken else {
                    return Err(LoadError::Version {
                        found: import,
                        spoken: VERSIONS.map(|(version, _)| version).join(" and "),
                    });
                };
                needs.dialect.version = *spoken;
                needs.interfaces.push(interface.to_owned());
            }
            _ if wasi::offers(&import) => needs.interfaces.push(import),
            _ => return Err(LoadError::UnknownImport(import)),
        }
    }
    for needed in EXPORTS {
        if !exports.iter().any(|export| export == needed) {
            return Err(LoadError::MissingExport(needed.to_owned()));
        }
    }
    Ok((component, needs))
}

fn validated(wasm: &[u8]) -> Result<Kind, LoadError> {
    if wasm.len() > MAX_SIZE {
        return Err(LoadError::TooBig { size: wasm.len() });
    }
    if !wasm.starts_with(b"\0asm") {
        return Err(LoadError::NotWasm);
    }
    Validator::new_with_features(WasmFeatures::default())
        .validate_all(wasm)
        .map_err(|e| LoadError::Invalid(e.to_string()))?;
    Ok(if Parser::is_component(wasm) {
        Kind::Component
    } else {
        Kind::Module
    })
}

fn encode(module: &[u8]) -> Result<Vec<u8>, LoadError> {
    let mut described = false;
    for payload in Parser::new(0).parse_all(module) {
        match payload.map_err(|e| LoadError::Invalid(e.to_string()))? {
            Payload::CustomSection(section) => {
                described |= section.name().starts_with("component-type");
            }
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    let import = import.map_err(|e| LoadError::Invalid(e.to_string()))?;
                    // Interfaces are `package:name/interface`; the encoder judges those.
                    if !import.module.contains(':') {
                        let (module, name) = (import.module, import.name);
                        return Err(LoadError::UnknownImport(format!("{module}.{name}")));
                    }
                }
            }
            _ => {}
        }
    }
    if !described {
        return Err(LoadError::NoInterface);
    }
    ComponentEncoder::default()
        .validate(true)
        .module(module)
        .and_then(ComponentEncoder::encode)
        .map_err(|e| LoadError::Interface(format!("{e:#}")))
}

/// The names on the outside of a component.
struct Surface {
    imports: Vec<String>,
    exports: Vec<String>,
    /// Interfaces of ours of which it imports a function that waits for others.
    waits: Vec<String>,
}

fn surface(component: &[u8]) -> Result<Surface, LoadError> {
    let decoded = wit_parser::decoding::decode(component)
        .map_err(|e| LoadError::Interface(format!("{e:#}")))?;
    let DecodedWasm::Component(resolve, world) = decoded else {
        return Err(LoadError::Interface(
            "describes an interface, is no plugin".into(),
        ));
    };
    let names = |(key, item): (&WorldKey, &WorldItem)| match item {
        // A world names the types it uses once more; they ask for nothing.
        WorldItem::Type { .. } => None,
        WorldItem::Interface { .. } | WorldItem::Function(_) => Some(resolve.name_world_key(key)),
    };
    let world = &resolve.worlds[world];
    let waits = |(key, item): (&WorldKey, &WorldItem)| {
        let WorldItem::Interface { id, .. } = item else {
            return None;
        };
        let imported = resolve.name_world_key(key);
        let (interface, _) = imported.strip_prefix(PACKAGE)?.split_once('@')?;
        let functions = &resolve.interfaces[*id].functions;
        let waits = WAITING
            .iter()
            .any(|(waiting, function)| *waiting == interface && functions.contains_key(*function));
        waits.then(|| interface.to_owned())
    };
    Ok(Surface {
        waits: world.imports.iter().filter_map(waits).collect(),
        imports: world.imports.iter().filter_map(names).collect(),
        exports: world.exports.iter().filter_map(names).collect(),
    })
}

/// `Rust 1.95.0` and so on; what cannot be read is left out.
fn producers(component: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    for payload in Parser::new(0).parse_all(component).flatten() {
        let Payload::CustomSection(section) = payload else {
            continue;
        };
        let KnownCustom::Producers(fields) = section.as_known() else {
            continue;
        };
        for value in fields
            .into_iter()
            .flatten()
            .flat_map(|field| field.values)
            .flatten()
        {
            // A language has no version of its own.
            let producer = format!("{} {}", value.name, value.version);
            let producer = producer.trim_end().to_owned();
            if !found.contains(&producer) && found.len() < MAX_PRODUCERS {
                found.push(producer);
            }
        }
    }
    found
}

/// A plugin's file, bytes.
pub(crate) const MAX_SIZE: usize = 32 << 20;
const MAX_PRODUCERS: usize = 32;
/// The versions of the interface that this host speaks, the latest last; `plugin-sdk/wit` has them.
const VERSIONS: [(&str, Version); 2] = [("0.1.0", Version::V0_1), (PRESENT, Version::Current)];
pub(crate) const PRESENT: &str = "0.2.0";
const PACKAGE: &str = "sluicegate:plugin/";
const INTERFACES: [&str; 9] = [
    "about", "clock", "crypto", "http", "kv", "logging", "metrics", "outbound", "random",
];
/// Functions that may take as long as another server, or a password, does.
const WAITING: [(&str, &str); 2] = [("outbound", "send"), ("crypto", "verify-password")];
/// What a filter of messages exports.
pub(crate) const MESSAGES: &str = "sluicegate:plugin/messages@0.2.0";
const EXPORTS: [&str; 4] = ["describe", "configure", "on-request", "on-response"];
