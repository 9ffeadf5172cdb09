//! The command line: what can be asked for, and how each wish ends.
//!
//! A command returns `Ok` or one [`Failure`], and [`main`] alone turns that into a message and an
//! exit code: 0 fine, 1 runtime, 2 usage, 3 configuration, 4 cannot listen. What a command was
//! asked for goes to stdout; what it tells a person on the way goes to stderr.

mod check;
mod demo;
mod echo;
mod plugin;
mod reload;
mod run;
mod watch;

use std::fmt;
use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config;
use crate::server::RunError;

/// A WebSocket-first reverse proxy that you program with WebAssembly.
#[derive(Debug, Parser)]
#[command(name = "sluicegate", version, after_help = EXAMPLES, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Args),
    Check(check::Args),
    Schema(SchemaArgs),
    Reload(reload::Args),
    /// Begin, build, test and examine plugins
    #[command(subcommand)]
    Plugin(plugin::Command),
    Demo(demo::Args),
    Echo(echo::Args),
}

/// Print the JSON schema of the configuration file, for editors
#[derive(Debug, clap::Args)]
struct SchemaArgs {
    /// Of a plugin's case files instead
    #[arg(long)]
    cases: bool,
}

/// Why a command did not do what it was asked; the message is fit for people.
#[derive(Debug)]
enum Failure {
    Runtime(String),
    /// A rendered report, ready to print.
    Config(String),
    Bind(String),
}

/// Runs the command of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    raise_descriptor_limit();
    let done = match cli.command {
        Command::Run(args) => run::run(args),
        Command::Check(args) => check::check(&args),
        Command::Schema(SchemaArgs { cases: false }) => {
            print(&format!("{:#}\n", config::json_schema()))
        }
        Command::Schema(SchemaArgs { cases: true }) => {
            print(&format!("{:#}\n", config::cases::json_schema()))
        }
        Command::Reload(args) => reload::reload(&args),
        Command::Plugin(command) => plugin::plugin(&command),
        Command::Demo(args) => demo::demo(&args),
        Command::Echo(args) => echo::echo(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            say(&failure.to_string());
            failure.exit_code()
        }
    }
}

impl Failure {
    fn runtime(error: impl fmt::Display) -> Failure {
        Failure::Runtime(format!("error: {error}\n"))
    }

    fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Failure::Runtime(_) => 1,
            Failure::Config(_) => 3,
            Failure::Bind(_) => 4,
        })
    }

    /// With a line about what to do.
    #[must_use]
    fn hint(self, hint: impl fmt::Display) -> Failure {
        let add = |text: String| format!("{text}hint: {hint}\n");
        match self {
            Failure::Runtime(text) => Failure::Runtime(add(text)),
            Failure::Config(text) => Failure::Config(add(text)),
            Failure::Bind(text) => Failure::Bind(add(text)),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Failure::Runtime(text) | Failure::Config(text) | Failure::Bind(text)) = self;
        f.write_str(text)
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Failure {
        match error {
            RunError::Config(report) => Failure::Config(report),
            RunError::Bind(error) => Failure::Bind(crate::reload::bind_report(&error)),
            RunError::AdminBind { .. } => {
                Failure::Bind(format!("error: {error}\n")).hint("another address: `[admin] bind`")
            }
            RunError::Telemetry(_) | RunError::Interrupted | RunError::Runtime(_) => {
                Failure::runtime(error)
            }
        }
    }
}

/// Writes what was asked for. A reader that has enough (`| head`) is no error.
fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::runtime(format!("cannot write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}

/// Tells a person something; a closed stderr stops nothing.
fn say(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// `18.1 KiB`, for people.
fn size(bytes: usize) -> String {
    match bytes {
        0..1024 => format!("{bytes} bytes"),
        1024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

/// A runtime for commands that do one thing.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::runtime(format!("cannot start: {error}")))
}

/// Each client and each upstream connection is a descriptor, and the usual soft limit is 1024.
fn raise_descriptor_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        let raised = Rlimit {
            current: maximum,
            maximum,
        };
        // Where that is forbidden, the old limit holds and accepting pauses at it.
        let _ = setrlimit(Resource::Nofile, raised);
    }
}

const EXAMPLES: &str = "\
Examples:
  sluicegate demo                                    see it work, with nothing prepared
  sluicegate run --from :8080 --to 127.0.0.1:3000    proxy one port, without a file
  sluicegate run --config sluicegate.toml            serve a configuration
  sluicegate check                                   find the mistakes in ./sluicegate.toml

Exit codes: 0 fine, 1 runtime, 2 usage, 3 configuration, 4 cannot listen";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn wishes_that_contradict_are_refused() {
        #[track_caller]
        fn check(line: &str, good: bool) {
            let parsed = Cli::try_parse_from(line.split(' '));
            assert_eq!(parsed.is_ok(), good, "{line}: {parsed:?}");
        }
        check("sluicegate run", true);
        check("sluicegate run --config a.toml", true);
        check("sluicegate run --from :80 --to a:1 --to b:2", true);
        check("sluicegate run --watch", true);
        check("sluicegate run --watch --from :80 --to a:1", false);
        check("sluicegate run --from :80", false);
        check("sluicegate run --to a:1", false);
        check("sluicegate run --config a.toml --from :80 --to a:1", false);
        check("sluicegate reload --admin 127.0.0.1:9900", true);
        check("sluicegate reload --admin unix:/run/admin.sock", true);
        check("sluicegate reload --admin localhost:9900", false);
        check("sluicegate reload --admin :9900 --config a.toml", false);
        check("sluicegate plugin build a b --out c --debug", true);
        check("sluicegate plugin inspect", false);
        check("sluicegate plugin inspect a.wasm --json", true);
        check(
            "sluicegate plugin test a b.wasm --cases c --bless --quiet",
            true,
        );
        check("sluicegate demo --bind 127.0.0.1:0", true);
        check("sluicegate demo --bind 8443", false);
        check("sluicegate", false);
    }

    #[test]
    fn sizes_are_for_people() {
        assert_eq!(size(1023), "1023 bytes");
        assert_eq!(size(18_534), "18.1 KiB");
        assert_eq!(size(3 << 20), "3.0 MiB");
    }
}
