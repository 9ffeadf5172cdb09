//! cargo, run for one crate, and its output made a component.
//!
//! The build goes to a target folder of its own (`plugins` inside the crate's), so that it neither
//! waits for nor disturbs other builds. The user's environment (RUSTFLAGS, CARGO_TARGET_DIR, …) is
//! passed on as it is; size and heap are tuned by `--config`, which a crate's own manifest need not
//! repeat. Where RUSTFLAGS is set it has the last word, and the plugin grows its heap itself.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;
use sluicegate_plugin_host::{Inspection, componentize, inspect};

use super::super::{Failure, say};

/// A component, not yet written anywhere.
pub(in crate::cli) struct Built {
    /// `my_filter.wasm`.
    file_name: OsString,
    pub(in crate::cli) component: Vec<u8>,
    pub(super) inspection: Inspection,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Profile {
    /// For serving: small code, no debug information.
    Small,
    Debug,
}

/// Builds the crate in `folder`; cargo's progress and errors go to stderr.
///
/// # Errors
/// When the folder is no crate that makes a plugin, the target is missing and cannot be added,
/// cargo fails, or what it made is no plugin; each with what to do.
pub(in crate::cli) fn compile(folder: &Path, profile: Profile) -> Result<Built, Failure> {
    let manifest = folder.join("Cargo.toml");
    if !manifest.is_file() {
        let what = format!(
            "`{}` is not a crate: it has no Cargo.toml",
            folder.display()
        );
        return Err(Failure::runtime(what).hint("name the folder of a plugin's crate"));
    }
    let workspace = metadata(folder)?;
    let package = workspace.package(&manifest)?;
    if !package.makes_cdylib() {
        let what = format!(
            "`{}` does not build a plugin: it has no cdylib",
            package.name
        );
        return Err(Failure::runtime(what).hint(
            "put this into its Cargo.toml:\n\n    [lib]\n    crate-type = [\"cdylib\", \"rlib\"]\n",
        ));
    }
    ensure_target(folder)?;
    let wasm = cargo_build(folder, package, &workspace.target_directory, profile)?;

    let failed = |what: String| Failure::runtime(format!("`{}`: {what}", wasm.display()));
    let module = std::fs::read(&wasm).map_err(|error| failed(error.to_string()))?;
    let component = componentize(&module).map_err(|error| failed(error.to_string()))?;
    let inspection = inspect(&component).map_err(|error| failed(error.to_string()))?;
    Ok(Built {
        file_name: wasm.file_name().unwrap_or_default().to_owned(),
        component,
        inspection,
    })
}

/// Puts the component into `out`, whole or not at all: a proxy may be about to read it.
///
/// # Errors
/// When the folder cannot be made or written to.
pub(in crate::cli) fn write(built: &Built, out: &Path) -> Result<PathBuf, Failure> {
    let file = out.join(&built.file_name);
    let written = || {
        std::fs::create_dir_all(out)?;
        let mut new = tempfile::NamedTempFile::new_in(out)?;
        new.write_all(&built.component)?;
        // Temporary files are private; the proxy may run as another user.
        let readable = std::fs::Permissions::from_mode(0o644);
        new.as_file().set_permissions(readable)?;
        new.persist(&file)?;
        Ok(())
    };
    written().map_err(|error: std::io::Error| {
        Failure::runtime(format!("cannot write `{}`: {error}", file.display()))
    })?;
    Ok(file)
}

/// What of `cargo metadata` matters here.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    target_directory: PathBuf,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    manifest_path: PathBuf,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    crate_types: Vec<String>,
}

/// What of cargo's messages matters here.
#[derive(Deserialize)]
struct Artifact {
    reason: String,
    package_id: String,
    target: Target,
    filenames: Vec<PathBuf>,
}

impl Metadata {
    fn package(&self, manifest: &Path) -> Result<&Package, Failure> {
        let same = |package: &&Package| {
            let (Ok(own), Ok(wanted)) = (
                package.manifest_path.canonicalize(),
                manifest.canonicalize(),
            ) else {
                return false;
            };
            own == wanted
        };
        self.packages.iter().find(same).ok_or_else(|| {
            let what = format!("`{}` is a workspace, not a crate", manifest.display());
            Failure::runtime(what).hint("name the folder of the plugin's crate in it")
        })
    }
}

impl Package {
    fn makes_cdylib(&self) -> bool {
        self.targets.iter().any(Target::is_cdylib)
    }
}

impl Target {
    fn is_cdylib(&self) -> bool {
        self.crate_types.iter().any(|kind| kind == "cdylib")
    }
}

/// cargo in the crate's folder, where its own settings and toolchain hold.
fn cargo(folder: &Path) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(folder).stdin(Stdio::null());
    cargo
}

fn metadata(folder: &Path) -> Result<Metadata, Failure> {
    let output = cargo(folder)
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| no_tool("cargo", &error))?;
    if !output.status.success() {
        let what = format!("cargo cannot read the crate in `{}`", folder.display());
        return Err(Failure::runtime(what));
    }
    serde_json::from_slice(&output.stdout)
        .map_err(|error| Failure::runtime(format!("cargo's description is unreadable: {error}")))
}

/// Has rustup add the target where it is missing.
fn ensure_target(folder: &Path) -> Result<(), Failure> {
    if has_target(folder)? {
        return Ok(());
    }
    say(&format!(
        "the target {TARGET} is missing, running `{ADD_TARGET}`\n"
    ));
    let added = Command::new("rustup")
        .current_dir(folder)
        .args(["target", "add", TARGET])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status();
    // Without rustup there is nobody else to ask; the check decides, not its exit code.
    drop(added);
    if has_target(folder)? {
        return Ok(());
    }
    let what = format!("this Rust cannot build for {TARGET}");
    Err(Failure::runtime(what).hint(format!(
        "install the target: `{ADD_TARGET}`; where rustup has none to offer, the script \
         `.ci/wasm-target.sh` of sluicegate's repository makes it from Debian's sources"
    )))
}

/// Whether the standard library is there for the target, in the toolchain of this folder.
fn has_target(folder: &Path) -> Result<bool, Failure> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc)
        .current_dir(folder)
        .args(["--print", "target-libdir", "--target", TARGET])
        .output()
        .map_err(|error| no_tool("rustc", &error))?;
    let libraries = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    let Ok(libraries) = libraries.read_dir() else {
        return Ok(false);
    };
    let is_std = |name: OsString| name.to_string_lossy().starts_with("libstd-");
    Ok(libraries.flatten().any(|entry| is_std(entry.file_name())))
}

/// Runs the build and returns the module that cargo says it made.
fn cargo_build(
    folder: &Path,
    package: &Package,
    target_directory: &Path,
    profile: Profile,
) -> Result<PathBuf, Failure> {
    let mut cargo = cargo(folder);
    cargo
        .args(["build", "--lib", "--target", TARGET])
        .arg("--message-format=json-render-diagnostics")
        .args(["--package", &package.id])
        .arg("--target-dir")
        .arg(target_directory.join("plugins"));
    if profile == Profile::Small {
        cargo.arg("--release");
        for setting in SMALL {
            cargo
                .arg("--config")
                .arg(format!("profile.release.{setting}"));
        }
        cargo.args(["--config", HEAP]);
    }
    let failed = |error: &dyn std::fmt::Display| {
        Failure::runtime(format!("cannot build `{}`: {error}", package.name))
    };
    let mut child = cargo
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| no_tool("cargo", &error))?;
    let mut made = None;
    if let Some(messages) = child.stdout.take() {
        for line in BufReader::new(messages).lines() {
            let line = line.map_err(|error| failed(&error))?;
            // Other messages have other shapes, and build scripts may print what they like.
            let Ok(artifact) = serde_json::from_str::<Artifact>(&line) else {
                continue;
            };
            if artifact.reason == "compiler-artifact"
                && artifact.package_id == package.id
                && artifact.target.is_cdylib()
            {
                let is_wasm = |file: &PathBuf| file.extension().is_some_and(|ext| ext == "wasm");
                made = artifact.filenames.into_iter().find(is_wasm);
            }
        }
    }
    let status = child.wait().map_err(|error| failed(&error))?;
    if !status.success() {
        return Err(failed(&"cargo failed, see above"));
    }
    made.ok_or_else(|| failed(&"cargo made no .wasm"))
}

fn no_tool(tool: &str, error: &std::io::Error) -> Failure {
    let failure = Failure::runtime(format!("cannot run `{tool}`: {error}"));
    failure.hint("plugins are built with Rust's own tools: https://rustup.rs")
}

const TARGET: &str = "wasm32-unknown-unknown";
const ADD_TARGET: &str = "rustup target add wasm32-unknown-unknown";
/// Settings of the release profile: a plugin is read, hashed and compiled at every start. Under LTO
/// `opt-level=3` makes our plugins smaller than `s` does, and a fresh call 7 % shorter.
const SMALL: [&str; 6] = [
    "opt-level=3",
    "lto=\"fat\"",
    "codegen-units=1",
    "panic=\"abort\"",
    "debug=false",
    "strip=\"debuginfo\"",
];
/// A heap to begin with: growing the memory costs a fresh instance more than most filters do.
const HEAP: &str = "target.wasm32-unknown-unknown.rustflags=[\"-Clink-arg=--initial-heap=131072\"]";
