//! Which plugins can have an image: those that remember all in memories and globals that can be
//! reached. Wizer refuses most of the others itself; here is what it would panic on or overlook.

use wasmparser::{BinaryReaderError, CanonicalFunction, Parser, Payload, TypeRef};

use super::Refusal;

/// What matters of a core module, or of a component around it.
#[derive(Default)]
struct Open {
    remembers: bool,
    exports: bool,
}

/// Looks through a valid component; one that `talks` has a resource that it hands out, conversations.
pub(super) fn check(component: &[u8], talks: bool) -> Result<(), Refusal> {
    let refuse = |why: &str| Err(Refusal::Shape(why.to_owned()));
    let invalid = |e: BinaryReaderError| Refusal::Shape(e.to_string());
    let mut open: Vec<Open> = Vec::new();
    for payload in Parser::new(0).parse_all(component) {
        let payload = payload.map_err(invalid)?;
        if let Payload::Version { .. } = payload {
            open.push(Open::default());
        }
        let Some(innermost) = open.last_mut() else {
            continue;
        };
        match payload {
            Payload::ComponentImportSection(imports) => {
                for import in imports {
                    if import.map_err(invalid)?.name.name.starts_with("wasi:") {
                        return refuse(
                            "its runtime may have taken the time and random bytes from WASI",
                        );
                    }
                }
            }
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    if matches!(import.map_err(invalid)?.ty, TypeRef::Tag(_)) {
                        return refuse("a module imports an exception's tag");
                    }
                }
            }
            Payload::MemorySection(memories) => {
                for memory in memories {
                    let memory = memory.map_err(invalid)?;
                    if memory.memory64 || memory.shared || memory.page_size_log2.is_some() {
                        return refuse("a memory is shared, of 64 bits or of odd pages");
                    }
                    innermost.remembers = true;
                }
            }
            Payload::GlobalSection(globals) => {
                for global in globals {
                    innermost.remembers |= global.map_err(invalid)?.ty.mutable;
                }
            }
            Payload::ExportSection(_) => innermost.exports = true,
            // A handle that is alive would mean nothing, or something else, in an instance. Conversations there
            // are none yet: only `open` can hand one out.
            Payload::ComponentCanonicalSection(functions) if !talks => {
                for function in functions {
                    if let CanonicalFunction::ResourceNew { .. } = function.map_err(invalid)? {
                        return refuse("it has resources of its own");
                    }
                }
            }
            Payload::End(_) if open.pop().is_some_and(|it| it.remembers && !it.exports) => {
                return refuse("a module with a memory or a mutable global exports nothing");
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_cannot_be_read_is_refused() {
        #[track_caller]
        fn check(text: &str, expect: Option<&str>) {
            let component = wat::parse_str(format!("(component {text})")).unwrap();
            match (super::check(&component, false), expect) {
                (Ok(()), None) => {}
                (Err(refusal), Some(expect)) => {
                    let refusal = refusal.to_string();
                    assert!(refusal.contains(expect), "{text}: {refusal}");
                }
                (result, _) => panic!("{text}: {result:?}"),
            }
        }
        check("", None);
        check(
            r#"(import "wasi:random/random@0.2.6" (instance))"#,
            Some("random bytes from WASI"),
        );
        check("(core module (func))", None);
        check(r#"(core module (memory (export "m") 1))"#, None);
        check(r#"(core module (global i32 i32.const 1))"#, None);
        let nothing = Some("exports nothing");
        check("(core module (memory 1))", nothing);
        check("(core module (global (mut i32) i32.const 1))", nothing);
        check(
            r#"(core module (memory 1)) (core module (memory (export "m") 1))"#,
            nothing,
        );
        check("(component (core module (memory 1)))", nothing);
        for memory in ["i64 1", "1 1 shared", "1 (pagesize 1)"] {
            let module = format!(r#"(core module (memory (export "m") {memory}))"#);
            check(&module, Some("odd pages"));
        }
        check(
            r#"(core module (import "" "" (tag)))"#,
            Some("an exception's tag"),
        );
        check(
            "(type $r (resource (rep i32))) (core func (canon resource.new $r))",
            Some("resources of its own"),
        );
        check(
            "(type $r (resource (rep i32))) (core func (canon resource.drop $r))",
            None,
        );
        let conversations =
            "(component (type $r (resource (rep i32))) (core func (canon resource.new $r)))";
        let component = wat::parse_str(conversations).unwrap();
        assert!(super::check(&component, true).is_ok());
    }
}
