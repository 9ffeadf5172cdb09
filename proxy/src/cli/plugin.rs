//! `sluicegate plugin`: from a crate to a .wasm, and what a .wasm is.

mod build;
mod test;

use std::path::{Path, PathBuf};

use sluicegate_plugin_host::{
    Description, Grants, Host, HostSettings, Inspection, Kind, Limits, inspect,
};

use super::{Failure, print, size};
pub(super) use build::{Built, Profile, compile, write};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    Build(BuildArgs),
    Test(test::Args),
    Inspect(InspectArgs),
}

/// Build plugins with cargo and make components of them
///
/// Each PATH is a crate with `crate-type = ["cdylib"]` that uses the SDK, `sluicegate-plugin`. The
/// WebAssembly target is added with rustup if it is not installed yet.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct BuildArgs {
    /// Folders of crates
    #[arg(value_name = "PATH", default_value = ".")]
    crates: Vec<PathBuf>,
    /// Where to put the .wasm files [default: the folder of each crate]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Build quickly and keep debug information: larger and slower plugins
    #[arg(long)]
    debug: bool,
}

/// Show what a plugin is, imports and exports, and whether this proxy can run it
#[derive(Debug, clap::Args)]
pub(super) struct InspectArgs {
    /// The .wasm file
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

pub(super) fn plugin(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Build(args) => build_all(args),
        Command::Test(args) => test::test(args),
        Command::Inspect(args) => show(&args.file),
    }
}

fn build_all(args: &BuildArgs) -> Result<(), Failure> {
    let profile = if args.debug {
        Profile::Debug
    } else {
        Profile::Small
    };
    for folder in &args.crates {
        let built = compile(folder, profile)?;
        let file = write(&built, args.out.as_deref().unwrap_or(folder))?;
        let imports = match built.inspection.imports.as_slice() {
            [] => "nothing".to_owned(),
            imports => imports.join(", "),
        };
        let size = size(built.component.len());
        print(&format!("{}: {size}, imports {imports}\n", file.display()))?;
    }
    Ok(())
}

fn show(file: &Path) -> Result<(), Failure> {
    let failed = |what: String| Failure::runtime(format!("`{}`: {what}", file.display()));
    let bytes = std::fs::read(file).map_err(|error| failed(error.to_string()))?;
    let inspection = inspect(&bytes).map_err(|error| failed(error.to_string()))?;
    // What can be said without running it comes first: it is what explains a refusal.
    print(&facts(&inspection))?;
    let host = HostSettings {
        instances: 1,
        ..HostSettings::default()
    };
    let plugin = Host::new(host)
        .map_err(Failure::runtime)?
        .load("inspected", &bytes, Limits::default(), &Grants::all())
        .map_err(|error| failed(format!("this proxy cannot run it: {error}")))?;
    print(&description(plugin.description()))
}

fn facts(inspection: &Inspection) -> String {
    let kind = match inspection.kind {
        Kind::Component => "component".to_owned(),
        Kind::Module => format!(
            "core module, becomes a component of {}",
            size(inspection.component_size)
        ),
    };
    let version = inspection.version.as_deref().unwrap_or("none");
    let list = |names: &[String]| match names {
        [] => "none".to_owned(),
        names => names.join("\n            "),
    };
    [
        line("kind", &kind),
        line("size", &size(inspection.size)),
        line("interface", version),
        line("imports", &list(&inspection.imports)),
        line("exports", &list(&inspection.exports)),
        line("made with", &inspection.producers.join(", ")),
    ]
    .concat()
}

fn description(description: &Description) -> String {
    let hooks = [
        (description.request_hook, "request"),
        (description.response_hook, "response"),
    ];
    let hooks: Vec<&str> = hooks
        .iter()
        .filter_map(|(used, name)| used.then_some(*name))
        .collect();
    let name = format!("{} {}", description.name, description.version);
    [line("plugin", &name), line("hooks", &hooks.join(", "))].concat()
}

fn line(what: &str, value: &str) -> String {
    // Names inside a file from elsewhere must not reach the terminal raw.
    let clean: String = value
        .chars()
        .map(|c| if c.is_control() && c != '\n' { '?' } else { c })
        .collect();
    format!("{what:<11} {clean}\n")
}

const EXAMPLES: &str = "\
Examples:
  sluicegate plugin build                            the crate in this folder
  sluicegate plugin build plugins/* --out /etc/sluicegate/plugins";
