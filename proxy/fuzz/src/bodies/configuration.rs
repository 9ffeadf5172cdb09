//! Any text as a configuration, and as a plugin's case file: judged without a panic, every mistake shown in its place.

use std::path::PathBuf;
use std::sync::Arc;

use http::{HeaderMap, Method};

use crate::config::model::PathPattern;
use crate::config::{self, Diagnostic, Report, Source, cases};
use crate::request::normal_path;
use crate::route::{Match, Table};

/// UTF-8, as [`config::read`] sees to it.
pub fn configuration(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let source = Arc::new(Source {
        name: "any.toml".to_owned(),
        text: text.to_owned(),
        dir: PathBuf::from("/etc"),
    });
    config::admin_bind(&source);
    if let Err(report) = cases::parse(&source) {
        assert!(report.has_errors());
        check(&report);
    }
    match config::parse(&source) {
        Ok((config, warnings)) => {
            let report = Report::new(&source, warnings);
            assert!(!report.has_errors());
            check(&report);
            for route in &config.routes {
                if let PathPattern::Exact(path) = &route.path {
                    assert_eq!(
                        normal_path(path).as_deref(),
                        Ok(&**path),
                        "it never matches"
                    );
                }
            }
            let table = Table::new(&config.routes);
            for path in ["/", "/a/b.html", "*"] {
                let found = table.find("a.test", path, &Method::GET, &HeaderMap::new());
                assert!(!matches!(found, Match::Route(index) if index >= config.routes.len()));
            }
        }
        Err(report) => {
            assert!(report.has_errors());
            check(&report);
        }
    }
}

/// It can be shown, and points into the text.
fn check(report: &Report) {
    let text = &report.source.text;
    for Diagnostic {
        span,
        related,
        message,
        ..
    } in &report.diagnostics
    {
        assert!(!message.is_empty());
        let related = related.iter().map(|other| &other.span);
        for span in span.iter().chain(related) {
            assert!(
                span.start <= span.end && span.end <= text.len(),
                "{span:?}: {message}"
            );
            assert!(text.is_char_boundary(span.start), "{span:?}: {message}");
        }
    }
    let shown = report.render(false);
    assert!(!shown.contains('\u{1b}'));
    let lines = text.lines().count().max(1) as u64 + 1;
    let entries = report.to_json();
    for entry in entries.as_array().into_iter().flatten() {
        assert!(
            entry["line"]
                .as_u64()
                .is_none_or(|line| (1..=lines).contains(&line))
        );
    }
}
