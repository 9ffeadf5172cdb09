//! Writes the seeds to the corpus folders where libFuzzer looks for them.

use std::{fs, io};

use sluicegate_fuzz::bodies;

fn main() -> io::Result<()> {
    for (target, text) in [
        ("head", include_str!("../seeds/head.txt")),
        ("follower", include_str!("../seeds/follower.txt")),
        ("reader", include_str!("../seeds/reader.txt")),
        ("deflate", include_str!("../seeds/deflate.txt")),
    ] {
        let folder = format!("corpus/{target}");
        fs::create_dir_all(&folder)?;
        for (at, seed) in bodies::seeds(text).enumerate() {
            fs::write(format!("{folder}/seed-{at}"), seed)?;
        }
    }
    Ok(())
}
