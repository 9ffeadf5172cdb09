//! The configuration: one TOML file becomes a model whose invalid states cannot be built.
//!
//! The way: [`read`] the text, walk it once against the tables of `schema` (unknown keys, wrong
//! types, values that mean nothing), then `lower` what was written to what it means (names that
//! resolve, routes that do not collide). Both stages go on after a mistake, so one run reports all
//! of them, each with its place and a hint.
//!
//! Nothing here opens a socket, reads a certificate or compiles a plugin: `Snapshot::build` does,
//! and reports what it finds with the same [`Diagnostic`]s. Relative paths in the model have been
//! joined to the directory of the file.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;
use toml::Spanned;
use toml::de::DeTable;

pub mod cases;
pub mod diagnostic;
mod lower;
pub mod model;
mod private;
mod reader;
mod schema;
mod values;

pub use diagnostic::{Diagnostic, Report, Severity};
use model::{Bind, Config};
use reader::Reader;
use values::FromText;
pub use values::did_you_mean;

/// The text of a configuration and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The path as the user gave it; reports begin with it.
    pub name: String,
    pub text: String,
    /// What relative paths in the text are relative to.
    pub dir: PathBuf,
}

/// Why a configuration file could not be read.
#[derive(Debug, Error)]
pub enum ReadError {
    #[error("cannot read `{path}`: {error}")]
    Io { path: String, error: io::Error },
    #[error("`{path}` is larger than {MAX_FILE_BYTES} bytes")]
    TooLarge { path: String },
    #[error("`{path}` is not UTF-8: bad byte in line {line}")]
    NotUtf8 { path: String, line: usize },
}

/// Reads a configuration file.
///
/// # Errors
/// When it cannot be read, is no UTF-8, or is larger than 4 MiB.
pub fn read(path: &Path) -> Result<Arc<Source>, ReadError> {
    let name = path.display().to_string();
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|error| ReadError::Io {
            path: name.clone(),
            error,
        })?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(ReadError::TooLarge { path: name });
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
        ReadError::NotUtf8 {
            path: name.clone(),
            line,
        }
    })?;
    let dir = path.parent().unwrap_or(Path::new("")).to_owned();
    Ok(Arc::new(Source { name, text, dir }))
}

/// Turns the text into the model; the diagnostics beside it are warnings.
///
/// # Errors
/// A report of every mistake in the text, in file order. Text that is not TOML
/// is reported alone: its meaning would be a guess.
pub fn parse(source: &Arc<Source>) -> Result<(Config, Vec<Diagnostic>), Report> {
    let document = document(source)?;
    let mut reader = Reader::new(&source.text, &schema::WORDS);
    let file = schema::File::from_document(&document, &mut reader);
    let mut diagnostics = reader.into_diagnostics();
    let config = lower::lower(&file, &source.dir, &mut diagnostics);
    let report = Report::new(source, diagnostics);
    match config {
        Some(config) => Ok((config, report.diagnostics)),
        None => Err(report),
    }
}

/// The text as TOML, with places.
fn document(source: &Arc<Source>) -> Result<Spanned<DeTable<'_>>, Report> {
    let (document, faults) = DeTable::parse_recoverable(&source.text);
    if faults.is_empty() {
        return Ok(document);
    }
    let faults = faults.into_iter().map(|fault| {
        let message = format!("this is not TOML: {}", fault.message());
        Diagnostic {
            span: fault.span(),
            ..Diagnostic::error(0..0, message)
        }
    });
    Err(Report::new(source, faults.collect()))
}

/// `[admin] bind` of a text that may be wrong everywhere else.
pub fn admin_bind(source: &Source) -> Option<model::Bind> {
    let (document, _) = DeTable::parse_recoverable(&source.text);
    let bind = document.get_ref().get("admin")?.get_ref().get("bind")?;
    let bind = parse_bind(bind.get_ref().as_str()?).ok()?;
    Some(match bind {
        model::Bind::Unix(path) => model::Bind::Unix(source.dir.join(path)),
        tcp => tcp,
    })
}

/// The JSON schema (draft 2020-12) of the configuration file, for editors.
pub fn json_schema() -> serde_json::Value {
    schemars::schema_for!(schema::File).to_value()
}

/// Reads an address to listen on, as `bind` has it in the file.
///
/// # Errors
/// What is wrong with it, with a hint.
pub fn parse_bind(text: &str) -> Result<Bind, String> {
    Bind::from_text(text).map_err(|mistake| match mistake.hint {
        Some(hint) => format!("{}: {hint}", mistake.message),
        None => mistake.message,
    })
}

/// The configuration of `run --from FROM --to TO…`: one listener, one route, the servers `to`.
///
/// It is text like any other, so the two arguments are checked by [`parse`].
pub fn quick(from: &str, to: &[String]) -> Arc<Source> {
    let quoted = |text: &str| toml::Value::from(text).to_string();
    let listener = format!("[[listener]]\nbind = {}\n\n", quoted(from));
    let text = match to {
        [one] => format!("{listener}[[route]]\nto = {}\n", quoted(one)),
        many => {
            let servers: Vec<String> = many.iter().map(|server| quoted(server)).collect();
            format!(
                "{listener}[upstream.default]\nservers = [{}]\n\n[[route]]\nto = \"default\"\n",
                servers.join(", ")
            )
        }
    };
    Arc::new(Source {
        name: "command line".to_owned(),
        text,
        dir: PathBuf::new(),
    })
}

/// The configuration file of commands that were given none.
pub const DEFAULT_FILE: &str = "sluicegate.toml";

/// A hand-written file is a thousand times smaller; this keeps a wrong path from filling memory.
const MAX_FILE_BYTES: u64 = 4 << 20;
