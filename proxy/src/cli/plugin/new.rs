//! `sluicegate plugin new`: a folder with a filter that works, its tests, and what it takes to build it.
//!
//! The files are those of `examples/filters` and `examples/messages`, which the tests of the repository build and run; only the name is
//! put in its place. A Rust crate gets the sources of the SDK (`sdk`) and the versions of its
//! dependencies that this proxy was built with; the other languages get the interface. So nothing has
//! to be fetched that is not fetched to build a plugin at all.
//!
//! A folder that exists is left alone, and one that could not be finished is taken away again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use super::super::{Failure, print};
use super::sdk;

/// Begin a plugin: a folder with a working filter, its tests, a case file and a README
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct Args {
    /// Name of the plugin and of its folder: lower-case letters, digits and hyphens
    #[arg(value_name = "NAME", value_parser = name)]
    name: String,
    /// What the plugin is asked about
    #[arg(long, value_enum, default_value_t = Kind::Handshake)]
    kind: Kind,
    /// What it is written in
    #[arg(long, value_enum, default_value_t = Language::Rust)]
    lang: Language,
    /// Where to put the folder
    #[arg(long, value_name = "DIR", default_value = ".")]
    path: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Opening handshakes and ordinary requests
    Handshake,
    /// What both ends of a WebSocket say; in Rust
    Messages,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Language {
    Rust,
    /// JavaScript; needs Node.js
    Js,
    /// Python; needs componentize-py
    Python,
}

/// Files of the repository, about a filter of this name.
struct Example {
    name: &'static str,
    files: &'static [(&'static str, &'static str)],
}

/// A new file: its path in the folder, and its text.
type NewFile = (PathBuf, String);

pub(in crate::cli) fn new(args: &Args) -> Result<(), Failure> {
    let folder = args.path.join(&args.name);
    let (files, what) = match (args.kind, args.lang) {
        (Kind::Handshake, Language::Rust) => (rust(&TOKEN_GATE, &args.name)?, ASKS),
        (Kind::Handshake, Language::Js) => (with_wit(JAVASCRIPT, &args.name), ASKS),
        (Kind::Handshake, Language::Python) => (with_wit(PYTHON, &args.name), ASKS),
        (Kind::Messages, Language::Rust) => (rust(&WORD_GUARD, &args.name)?, MASKS),
        (Kind::Messages, _) => {
            let what = "there is no message filter to begin with in this language yet";
            let hint = "`--lang rust`; the interface for all of them is `messages.wit`";
            return Err(Failure::runtime(what).hint(hint));
        }
    };
    write_all(&folder, &files)?;
    let build = match args.lang {
        Language::Rust => "sluicegate plugin build",
        Language::Js => "npm install && npm run build",
        Language::Python => "sh build.sh",
    };
    let folder = folder.strip_prefix(".").unwrap_or(&folder).display();
    print(&format!(
        "made {folder}, a filter that {what}. Next:\n\n    cd {folder}\n    {build}\n    sluicegate plugin test\n"
    ))
}

fn rust(example: &Example, name: &str) -> Result<Vec<NewFile>, Failure> {
    let mut files = named(example, name);
    files.push(("Cargo.lock".into(), sdk::versions()));
    for (path, text) in sdk::files().map_err(Failure::runtime)? {
        files.push((Path::new("sdk").join(path), text));
    }
    Ok(files)
}

/// A language that is built from the interface itself.
fn with_wit(files: &'static [(&str, &str)], name: &str) -> Vec<NewFile> {
    let example = Example {
        files,
        ..TOKEN_GATE
    };
    let mut files = named(&example, name);
    for (path, text) in sdk::interface() {
        files.push((
            Path::new("wit/deps/sluicegate-plugin").join(path),
            text.to_owned(),
        ));
    }
    files
}

/// The example's files, under this name.
fn named(example: &Example, name: &str) -> Vec<NewFile> {
    let ours = |text: &str| {
        text.replace(CRATE, name)
            .replace(example.name, name)
            .replace(&example.name.replace('-', "_"), &name.replace('-', "_"))
            .replace(&type_name(example.name), &type_name(name))
    };
    let files = example.files.iter().chain(COMMON);
    files
        .map(|(path, text)| (path.into(), ours(text)))
        .collect()
}

/// `my-filter` as `MyFilter`.
fn type_name(name: &str) -> String {
    let words = name.split('-').map(|word| {
        let (first, rest) = word.split_at(1);
        first.to_ascii_uppercase() + rest
    });
    words.collect()
}

fn name(text: &str) -> Result<String, String> {
    let words_are_good = text.split('-').all(|word| {
        !word.is_empty()
            && word
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    });
    if !words_are_good || !text.starts_with(|c: char| c.is_ascii_lowercase()) {
        return Err(
            "a name is lower-case letters, digits and single hyphens, and begins with a letter"
                .into(),
        );
    }
    if text.len() > MAX_NAME {
        return Err(format!("a name has at most {MAX_NAME} characters"));
    }
    if RESERVED.contains(&text) || text.starts_with("sluicegate-plugin") {
        return Err("the name means something else to Rust or to the SDK".into());
    }
    Ok(text.to_owned())
}

fn write_all(folder: &Path, files: &[NewFile]) -> Result<(), Failure> {
    let failed =
        |error: io::Error| Failure::runtime(format!("cannot make `{}`: {error}", folder.display()));
    if let Some(parent) = folder.parent() {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    fs::create_dir(folder).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            Failure::runtime(format!("`{}` exists already", folder.display()))
                .hint("another name, or another place: `--path DIR`")
        }
        _ => failed(error),
    })?;
    let written = files.iter().try_for_each(|(path, text)| {
        let file = folder.join(path);
        fs::create_dir_all(file.parent().unwrap_or(folder))?;
        fs::write(file, text)
    });
    written.map_err(|error| {
        // Nothing but what was written just now is in it.
        let _ = fs::remove_dir_all(folder);
        failed(error)
    })
}

/// A file of `examples`.
macro_rules! example {
    ($folder:literal, $file:literal) => {
        (
            $file,
            include_str!(concat!("../../../../examples/", $folder, "/", $file)),
        )
    };
}

const TOKEN_GATE: Example = Example {
    name: "token-gate",
    files: &[
        CARGO_TOML,
        example!("filters/rust", "src/lib.rs"),
        example!("filters/rust", "cases/token.toml"),
        example!("filters/rust", "sluicegate.toml"),
        example!("filters/rust", "README.md"),
    ],
};
const WORD_GUARD: Example = Example {
    name: "word-guard",
    files: &[
        CARGO_TOML,
        example!("messages", "src/lib.rs"),
        example!("messages", "cases/words.toml"),
        example!("messages", "sluicegate.toml"),
        example!("messages", "README.md"),
    ],
};
/// A manifest that stands alone, of a crate called [`CRATE`].
const CARGO_TOML: (&str, &str) = (
    "Cargo.toml",
    include_str!("../../../assets/plugin-new/Cargo.toml"),
);
const CRATE: &str = "new-plugin";
const JAVASCRIPT: &[(&str, &str)] = &[
    example!("filters/javascript", "package.json"),
    example!("filters/javascript", "filter.js"),
    example!("filters/javascript", "wit/filter.wit"),
    example!("filters/javascript", "cases/token.toml"),
    example!("filters/javascript", "sluicegate.toml"),
    example!("filters/javascript", "README.md"),
];
const PYTHON: &[(&str, &str)] = &[
    example!("filters/python", "requirements.txt"),
    example!("filters/python", "build.sh"),
    example!("filters/python", "app.py"),
    example!("filters/python", "wit/filter.wit"),
    example!("filters/python", "cases/token.toml"),
    example!("filters/python", "sluicegate.toml"),
    example!("filters/python", "README.md"),
];
const COMMON: &[(&str, &str)] = &[(
    ".gitignore",
    include_str!("../../../assets/plugin-new/gitignore"),
)];

/// What the examples do.
const ASKS: &str = "asks for a token";
const MASKS: &str = "masks words in messages";

/// As the description of a plugin has it.
const MAX_NAME: usize = 64;
/// Names that cargo refuses, or that hide a crate which every crate has.
const RESERVED: &[&str] = &[
    "abstract",
    "alloc",
    "as",
    "async",
    "await",
    "become",
    "box",
    "break",
    "const",
    "continue",
    "core",
    "crate",
    "do",
    "dyn",
    "else",
    "enum",
    "extern",
    "false",
    "final",
    "fn",
    "for",
    "gen",
    "if",
    "impl",
    "in",
    "let",
    "loop",
    "macro",
    "match",
    "mod",
    "move",
    "mut",
    "override",
    "priv",
    "proc-macro",
    "pub",
    "ref",
    "return",
    "self",
    "static",
    "std",
    "struct",
    "super",
    "test",
    "trait",
    "true",
    "try",
    "type",
    "typeof",
    "unsafe",
    "unsized",
    "use",
    "virtual",
    "where",
    "while",
    "yield",
];

const EXAMPLES: &str = "\
Examples:
  sluicegate plugin new tenant-gate                  a crate, in ./tenant-gate
  sluicegate plugin new word-guard --kind messages   one that sees what a WebSocket carries
  sluicegate plugin new tenant-gate --lang python --path filters";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_fit_for_a_crate_a_folder_and_a_type() {
        for (text, good) in [
            ("gate", true),
            ("my-gate-2", true),
            ("2gate", false),
            ("-gate", false),
            ("gate-", false),
            ("my--gate", false),
            ("my_gate", false),
            ("Gate", false),
            ("gäte", false),
            ("", false),
            ("..", false),
            ("a/b", false),
            ("match", false),
            ("sluicegate-plugin", false),
        ] {
            assert_eq!(name(text).is_ok(), good, "{text}");
        }
        assert!(name(&"a".repeat(64)).is_ok() && name(&"a".repeat(65)).is_err());
        assert_eq!(type_name("my-gate-2"), "MyGate2");
    }

    const TOKEN: &str = "cases/token.toml";
    const WORDS: &str = "cases/words.toml";
    const WIT: &str = "wit/deps/sluicegate-plugin/http.wit";

    #[test]
    fn every_language_gets_its_name_and_what_it_builds_from() {
        let kinds = [
            rust(&TOKEN_GATE, "my-gate").unwrap(),
            rust(&WORD_GUARD, "my-gate").unwrap(),
            with_wit(JAVASCRIPT, "my-gate"),
            with_wit(PYTHON, "my-gate"),
        ];
        for (files, needed) in kinds.into_iter().zip([
            ["Cargo.toml", "src/lib.rs", "sdk/Cargo.toml", TOKEN],
            ["Cargo.toml", "src/lib.rs", "sdk/Cargo.toml", WORDS],
            ["package.json", "filter.js", WIT, TOKEN],
            ["requirements.txt", "app.py", WIT, TOKEN],
        ]) {
            let find = |path: &str| files.iter().find(|(found, _)| found == Path::new(path));
            for path in needed.iter().chain(&["README.md", ".gitignore"]) {
                assert!(find(path).is_some(), "{path}");
            }
            let ours = files.iter().filter(|(path, _)| !path.starts_with("sdk"));
            for (path, text) in ours {
                let text = text.to_lowercase();
                for example in [
                    "token-gate",
                    "token_gate",
                    "tokengate",
                    "word-guard",
                    "word_guard",
                    "wordguard",
                    CRATE,
                ] {
                    assert!(!text.contains(example), "{example} in {}", path.display());
                }
            }
            let (_, config) = find("sluicegate.toml").unwrap();
            assert!(
                config.contains("[plugin.my-gate]\nwasm   = \"my_gate.wasm\""),
                "{config}"
            );
        }
    }
}
