//! Golden configuration files: each `ui/{valid,invalid}/X.toml` and the `X.expected` beside it.
//!
//! An invalid file shows its report as a user sees it, a valid one its warnings and the model
//! (without spans, which say nothing to a reader). `SLUICEGATE_BLESS=1` rewrites the expectations;
//! read the difference before you commit it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;
use sluicegate::config::{self, Diagnostic, Report, Severity, Source};

#[test]
fn invalid_files_are_refused_with_their_reports() {
    check_all("invalid", |source| match config::parse(source) {
        Ok(_) => panic!("{} was accepted", source.name),
        Err(report) => {
            assert!(report.has_errors());
            report.render(false)
        }
    });
}

#[test]
fn valid_files_become_their_models() {
    check_all("valid", |source| match config::parse(source) {
        Ok((config, warnings)) => {
            let mut out = String::new();
            if !warnings.is_empty() {
                out = format!("{}\n", Report::new(source, warnings).render(false));
            }
            out + &without_spans(&format!("{config:#?}\n"))
        }
        Err(report) => panic!("{report}"),
    });
}

#[test]
fn the_first_mistake_hides_no_other() {
    let source = source(
        "many.toml",
        &fs::read_to_string(ui("invalid").join("many.toml")).unwrap(),
    );
    let report = config::parse(&source).unwrap_err();
    let mut lines: Vec<_> = report
        .to_json()
        .as_array()
        .unwrap()
        .iter()
        .map(|d| d["line"].as_u64())
        .collect();
    lines.dedup();
    let marked: Vec<_> = (1..)
        .zip(source.text.lines())
        .filter(|(_, line)| line.contains("# wrong"))
        .map(|(number, _)| Some(number))
        .collect();
    assert_eq!(lines, marked);
}

#[test]
fn the_reference_names_every_key() {
    let reference = include_str!("../../CONFIGURATION.md");
    let code = reference
        .lines()
        .flat_map(|line| line.split('`').skip(1).step_by(2));
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words: HashSet<&str> = code.flat_map(|code| code.split(|c| !part(c))).collect();
    let schema = config::json_schema();
    for table in schema["$defs"].as_object().unwrap().values() {
        for key in table["properties"].as_object().unwrap().keys() {
            assert!(words.contains(key.as_str()), "{key}: {table:#}");
        }
    }
}

#[test]
fn two_arguments_are_a_configuration() {
    let quick = |from: &str, to: &[&str]| {
        let to: Vec<String> = to.iter().map(|to| (*to).to_owned()).collect();
        config::parse(&config::quick(from, &to))
    };
    let (one, warnings) = quick(":8080", &["127.0.0.1:3000"]).unwrap();
    assert!(warnings.is_empty());
    assert_eq!(&*one.upstreams[0].name, "127.0.0.1:3000");

    let (two, warnings) = quick(":8080", &["127.0.0.1:3000", "https://b.example"]).unwrap();
    assert!(warnings.is_empty());
    assert_eq!(two.upstreams[0].servers.len(), 2);

    for (from, to) in [("8080", "a:1"), (":1", "\" \\ \n"), (":1", "nowhere")] {
        let report = quick(from, &[to]).unwrap_err();
        assert_eq!(report.diagnostics.len(), 1, "{report}");
    }
    assert!(quick(":8080", &[]).is_err());
}

#[test]
fn reading_says_what_is_wrong_with_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.toml");
    let check = |content: &[u8], expected: &str| {
        fs::write(&path, content).unwrap();
        let message = config::read(&path)
            .map_err(|error| error.to_string())
            .unwrap_err();
        assert_eq!(
            message,
            expected.replace("FILE", &path.display().to_string())
        );
    };
    check(
        b"a = 1\n\n# \xff",
        "`FILE` is not UTF-8: bad byte in line 3",
    );
    check(
        &vec![b'#'; (4 << 20) + 1],
        "`FILE` is larger than 4194304 bytes",
    );

    fs::remove_file(&path).unwrap();
    let missing = config::read(&path).unwrap_err().to_string();
    assert!(
        missing.starts_with(&format!("cannot read `{}`: ", path.display())),
        "{missing}"
    );

    fs::write(&path, "x").unwrap();
    let source = config::read(&path).unwrap();
    assert_eq!(
        (source.text.as_str(), source.dir.as_path()),
        ("x", dir.path())
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// The big valid file with pieces cut out, doubled and replaced: a report, never a panic.
    #[test]
    fn no_text_makes_it_panic(
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 0usize..40, piece()), 1..6),
    ) {
        let mut text = fs::read_to_string(ui("valid").join("everything.toml")).unwrap();
        for (at, length, piece) in cuts {
            let start = text.floor_char_boundary(at.index(text.len() + 1));
            let end = text.ceil_char_boundary((start + length).min(text.len()));
            text.replace_range(start..end, &piece);
        }
        check_any(&text);
    }

    #[test]
    fn no_noise_makes_it_panic(text in "([a-z\\[\\]{}=\"'.,#\n €\u{0}0-9_-]|\\[\\[route\\]\\]\n|host = ){0,60}") {
        check_any(&text);
    }
}

#[test]
fn deep_nesting_is_refused() {
    for (open, close) in [("[", "]"), ("{ a = ", " }")] {
        let deep = |depth| format!("x = {}1{}", open.repeat(depth), close.repeat(depth));
        check_any(&deep(40));
        check_any(&deep(20_000));
    }
    check_any(&format!("[{}a]", "a.".repeat(20_000)));
}

fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ -~]{0,12}",
        "\\PC{0,4}",
        prop::sample::select(vec![
            "",
            "\"",
            "'",
            "\n",
            "[[route]]\n",
            "[upstream.backend]\n",
            "{",
            "}",
            "]",
            "= 0",
            "= []",
            "= {}",
            "= nan",
            "= 1979-05-27",
            "= \"\"",
            "= \"{\"",
            "= \"%\"",
            "= \"\\u0000\"",
            "€",
            "\"\"\"\n",
            "0x",
            "99999999999999999999",
            "env:",
            "$1",
            "~(",
        ])
        .prop_map(str::to_owned),
    ]
}

/// Parses, and shows what comes out in both ways.
fn check_any(text: &str) {
    let source = source("any.toml", text);
    match config::parse(&source) {
        Ok((config, warnings)) => {
            assert!(!config.listeners.is_empty() && !config.routes.is_empty());
            let is_warning = |d: &Diagnostic| d.severity == Severity::Warning;
            assert!(warnings.iter().all(is_warning));
        }
        Err(report) => {
            assert!(report.has_errors());
            assert!(report.render(true).contains("any.toml"));
            assert_eq!(
                report.to_json().as_array().map(Vec::len),
                Some(report.diagnostics.len())
            );
        }
    }
}

fn check_all(kind: &str, show: impl Fn(&Arc<Source>) -> String) {
    let bless = std::env::var_os("SLUICEGATE_BLESS").is_some();
    let mut wrong = Vec::new();
    let mut paths: Vec<PathBuf> = fs::read_dir(ui(kind))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    for path in paths
        .iter()
        .filter(|path| path.extension().is_some_and(|e| e == "toml"))
    {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let found = show(&source(&name, &fs::read_to_string(path).unwrap()));
        let expectation = path.with_extension("expected");
        if bless {
            fs::write(&expectation, &found).unwrap();
        } else if fs::read_to_string(&expectation).unwrap_or_default() != found {
            wrong.push(format!("{kind}/{name} gives:\n{found}"));
        }
    }
    for path in paths
        .iter()
        .filter(|path| path.extension().is_some_and(|e| e == "expected"))
    {
        assert!(
            path.with_extension("toml").exists(),
            "{} has no .toml",
            path.display()
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn source(name: &str, text: &str) -> Arc<Source> {
    let dir = PathBuf::from("/etc/sluicegate");
    Arc::new(Source {
        name: name.to_owned(),
        text: text.to_owned(),
        dir,
    })
}

fn ui(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/ui")
        .join(kind)
}

fn without_spans(debug: &str) -> String {
    // The places of a plugin's config are nothing but spans: all the way to the brace that ends them.
    let mut end_of_places = None;
    let lines = debug.lines().filter(|line| {
        if let Some(end) = &end_of_places {
            if line == end {
                end_of_places = None;
            }
            return false;
        }
        if let Some(indent) = line.strip_suffix("places: {") {
            end_of_places = Some(format!("{indent}}},"));
            return false;
        }
        let text = line.trim_start();
        !text.starts_with("span: ") && text != "places: {},"
    });
    lines.map(|line| format!("{line}\n")).collect()
}
