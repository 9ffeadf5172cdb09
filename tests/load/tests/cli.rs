//! The program as its users call it, as far as that starts no proxy; `--smoke` does the rest.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::process::{Command, Output};

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sluicegate-load"))
        .args(arguments)
        .output()
        .unwrap()
}

#[test]
fn rows_are_listed_and_chosen_by_a_part_of_their_name() {
    let all = String::from_utf8(run(&["--list"]).stdout).unwrap();
    let some = String::from_utf8(run(&["--list", "--only", "life/", "--only", "idle/8"]).stdout);
    let expected: Vec<&str> = all
        .lines()
        .filter(|row| row.contains("life/") || row.contains("idle/8"))
        .collect();
    assert!(expected.len() > 2);
    assert_eq!(some.unwrap().lines().collect::<Vec<_>>(), expected);
}

#[test]
fn what_cannot_be_measured_is_an_error() {
    for (arguments, said) in [
        (&["--only", "no-such-row"][..], "no row has such a name"),
        (&["--peers", "apache"], "there is no peer `apache`"),
        (&["--seconds", "1e9"], "is out of range"),
        (
            &["--sluicegate", "/no/such/proxy"],
            "there is no `/no/such/proxy`",
        ),
    ] {
        let output = run(arguments);
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{arguments:?}");
        assert!(errors.contains(said), "{arguments:?}: {errors}");
    }
}
