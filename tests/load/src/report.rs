//! What a run has found, written down: `results.json` and `results.md`.

pub(crate) mod json;
pub(crate) mod markdown;

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
    /// Each peer and what its program says of itself.
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
        for (name, text) in [
            ("results.json", json::render(self)),
            ("results.md", markdown::render(self)),
        ] {
            fs::write(folder.join(name), text).map_err(&failed)?;
        }
        Ok(())
    }
}
