//! What a run has found, written down: for programs, for people, and as plots.

mod json;
mod judgement;
pub(crate) mod markdown;
mod plots;
mod svg;

use std::fs;
use std::path::Path;

use crate::failure::{Failure, Result};
use crate::machine::Machine;
use crate::run::RowResult;

/// All that a run has found.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    /// Day of the run, as `2026-11-22`.
    pub(crate) date: String,
    pub(crate) rounds: u32,
    pub(crate) seconds: f64,
    pub(crate) pinned: bool,
    /// Commit of the sources, as [`crate::sources::commit`] says it.
    pub(crate) commit: Option<String>,
    /// Each peer and the version of its program.
    pub(crate) versions: Vec<(&'static str, String)>,
    /// Peers and rows that were left out, and why.
    pub(crate) left_out: Vec<String>,
    pub(crate) rows: Vec<RowResult>,
}

impl Report {
    /// Writes all forms into `folder`, which is made if need be.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        let failed = Failure::of("cannot write the results");
        fs::create_dir_all(folder).map_err(&failed)?;
        let plots = [
            ("cpu.svg", plots::cpu(self)),
            ("memory.svg", plots::memory(self)),
        ];
        let texts = [
            ("results.json", Some(json::render(self))),
            ("results.md", Some(markdown::render(self))),
        ];
        for (name, text) in texts.into_iter().chain(plots) {
            if let Some(text) = text {
                fs::write(folder.join(name), text).map_err(&failed)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run of two processors that has found `rows`.
    pub(super) fn report(rows: Vec<RowResult>) -> Report {
        Report {
            machine: Machine {
                processor: "Z80".to_owned(),
                processors: 2,
                kernel: "6.1".to_owned(),
            },
            date: "2026-11-22".to_owned(),
            rounds: 3,
            seconds: 1.0,
            pinned: true,
            commit: Some("abc1234".to_owned()),
            versions: vec![
                ("sluicegate", "1.2".to_owned()),
                ("nginx", "3.4".to_owned()),
            ],
            left_out: vec!["caddy: none".to_owned()],
            rows,
        }
    }
}
