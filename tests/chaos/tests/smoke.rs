//! The chaos run, small: some hundred sockets for some seconds.

use std::process::Command;

#[test]
fn under_load_nothing_is_lost_left_behind_or_miscounted_while_everything_breaks() {
    let run = Command::new(env!("CARGO_BIN_EXE_sluicegate-chaos"))
        .arg("--smoke")
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&run.stdout);
    let complained = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{said}\n{complained}");
}
