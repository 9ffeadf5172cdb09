//! The programs behind the peers: how each is called, started, and asked for its version.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::bounded;
use crate::failure::{Failure, Result};

/// Whose program it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    Sluicegate,
    /// An earlier sluicegate, to compare this one with.
    Baseline,
    Nginx,
    /// An nginx for which there are modules with scripting languages.
    ScriptedNginx,
    Haproxy,
    Envoy,
    Caddy,
    /// A server, not a proxy.
    Node,
    /// A server, not a proxy.
    Python,
}

impl Program {
    /// Where it is: where `told` says, else on PATH.
    ///
    /// # Errors
    /// When it is not there.
    pub(crate) fn locate(self, told: Option<&Path>) -> Result<PathBuf> {
        if let Some(path) = told {
            return if path.is_file() {
                Ok(path.to_owned())
            } else {
                Err(Failure::new(format!("there is no `{}`", path.display())))
            };
        }
        let name = self.name();
        // Debian keeps servers where ordinary users do not look.
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
            .map(|folder| folder.join(name))
            .find(|path| path.is_file())
            .ok_or_else(|| Failure::new(format!("no `{name}` on PATH")))
    }

    /// The number of its version.
    ///
    /// # Errors
    /// When it cannot be run, or takes longer than [`ANSWER`].
    pub(crate) fn version(self, path: &Path) -> Result<String> {
        let asked = match self {
            Program::Nginx | Program::ScriptedNginx | Program::Haproxy => "-v",
            Program::Caddy => "version",
            Program::Sluicegate
            | Program::Baseline
            | Program::Envoy
            | Program::Node
            | Program::Python => "--version",
        };
        let output = bounded::output(Command::new(path).arg(asked), ANSWER)?;
        let said = [output.stdout, output.stderr].concat();
        // Envoy begins with its own path, which may hold a version of something else.
        let said = String::from_utf8_lossy(&said).replace(&path.display().to_string(), "");
        Ok(version_in(&said).unwrap_or("unknown").to_owned())
    }

    /// How to start it in the foreground.
    pub(crate) fn arguments(self, config: &Path, folder: &Path) -> Vec<OsString> {
        let config: OsString = config.into();
        let words: &[&str] = match self {
            Program::Sluicegate | Program::Baseline => &["run", "--config"],
            Program::Nginx | Program::ScriptedNginx => {
                let folder: OsString = folder.into();
                return vec![
                    "-p".into(),
                    folder,
                    "-e".into(),
                    "stderr".into(),
                    "-c".into(),
                    config,
                ];
            }
            Program::Node | Program::Python => &[],
            Program::Haproxy => &["-db", "-f"],
            Program::Envoy => &[
                "--concurrency",
                "1",
                "--disable-hot-restart",
                "--log-level",
                "error",
                "-c",
            ],
            Program::Caddy => &["run", "--adapter", "caddyfile", "--config"],
        };
        words.iter().map(OsString::from).chain([config]).collect()
    }

    /// What it needs in its environment.
    pub(crate) fn environment(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Program::Caddy => &[("GOMAXPROCS", "1")],
            _ => &[],
        }
    }

    /// Some go by the ending of the file's name.
    pub(crate) fn config_name(self) -> &'static str {
        match self {
            Program::Envoy => "envoy.yaml",
            Program::Node => "server.js",
            _ => "config",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Program::Sluicegate | Program::Baseline => "sluicegate",
            Program::Nginx | Program::ScriptedNginx => "nginx",
            Program::Haproxy => "haproxy",
            Program::Envoy => "envoy",
            Program::Caddy => "caddy",
            Program::Node => "node",
            Program::Python => "python3",
        }
    }
}

/// The first thing that looks like a version: numbers and dots, at least one of each.
fn version_in(said: &str) -> Option<&str> {
    said.split(|letter: char| !letter.is_ascii_digit() && letter != '.')
        .map(|word| word.trim_matches('.'))
        .find(|word| word.contains('.'))
}

/// A program that has not said its version by then will not.
const ANSWER: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_found_in_what_programs_say() {
        for (said, version) in [
            (
                "nginx version: nginx/1.22.1\nbuilt with 3.0",
                Some("1.22.1"),
            ),
            (
                "HAProxy version 2.6.12-1+deb12u4 2026/10/17",
                Some("2.6.12"),
            ),
            (" version: 9e5580/1.40.0/Clean", Some("1.40.0")),
            ("v2.11.7 h1:yj0Y4=", Some("2.11.7")),
            ("none, really.", None),
        ] {
            assert_eq!(version_in(said), version);
        }
    }

    #[test]
    fn a_program_that_is_not_there_is_not_found() {
        assert!(
            Program::Nginx
                .locate(Some(Path::new("/no/such/nginx")))
                .is_err()
        );
    }
}
