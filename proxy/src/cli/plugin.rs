//! `sluicegate plugin`: from nothing to a crate, from a crate to a .wasm, and what a .wasm is.

mod build;
mod inspect;
mod new;
mod record;
mod sdk;
mod test;

use std::path::PathBuf;

use super::{Failure, print, size};
pub(super) use build::{Built, Profile, compile, write};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    New(new::Args),
    Build(BuildArgs),
    Test(test::Args),
    Inspect(inspect::Args),
    Record(record::Args),
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

pub(super) fn plugin(command: &Command) -> Result<(), Failure> {
    match command {
        Command::New(args) => new::new(args),
        Command::Build(args) => build_all(args),
        Command::Test(args) => test::test(args),
        Command::Inspect(args) => inspect::show(args),
        Command::Record(args) => record::record(args),
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
        let needs = inspect::needs(&built.inspection);
        if !needs.is_empty() {
            print(&format!("  uses, in its `[plugin.NAME]`: {needs}\n"))?;
        }
    }
    Ok(())
}

const EXAMPLES: &str = "\
Examples:
  sluicegate plugin build                            the crate in this folder
  sluicegate plugin build plugins/* --out /etc/sluicegate/plugins";
