//! Any of the targets, as `SLUICEGATE_FUZZ` says: libFuzzer sees only code that runs, and one program links once.
//!
//! At its start it puts the target's seeds into `corpus/TARGET`, where libFuzzer is told to look for them.
#![no_main]

use std::fs;
use std::io;
use std::path::Path;
use std::sync::LazyLock;

use sluicegate_fuzz::bodies::{self, TARGETS, Target};

libfuzzer_sys::fuzz_target!(
    init: {
        if let Err(error) = write_seeds(&TARGET) {
            panic!("the seeds cannot be written: {error}");
        }
    },
    |data: &[u8]| (TARGET.body)(data)
);

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let name = std::env::var("SLUICEGATE_FUZZ").unwrap_or_default();
    let mut targets = TARGETS.iter();
    targets
        .find(|target| target.name == name)
        .unwrap_or_else(|| panic!("SLUICEGATE_FUZZ names no target: `{name}`"))
});

fn write_seeds(target: &Target) -> io::Result<()> {
    let folder = Path::new("corpus").join(target.name);
    fs::create_dir_all(&folder)?;
    for (at, seed) in bodies::seeds(target.seeds).enumerate() {
        fs::write(folder.join(format!("seed-{at}")), seed)?;
    }
    if target.name == "config" {
        for kind in ["valid", "invalid"] {
            for file in fs::read_dir(Path::new("../tests/ui").join(kind))? {
                let file = file?;
                fs::copy(file.path(), folder.join(file.file_name()))?;
            }
        }
    }
    Ok(())
}
