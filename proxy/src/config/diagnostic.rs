//! What is wrong with a configuration, and how it is shown.
//!
//! A [`Diagnostic`] is one mistake (or one warning) with its place in the text; a [`Report`] is all
//! of them together with the text. Whoever finds a mistake only says what and where: the two ways
//! to show it (for people, for programs) are here. Spans from anywhere are safe: they are clipped
//! to the text, to whole characters and to their first line.

use std::fmt;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet, normalize_untrusted_str};
use serde_json::{Value, json};

use super::model::{Located, Span};
use super::{Source, private};

/// One mistake or warning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    pub severity: Severity,
    /// Where; `None` when it is about the whole configuration.
    pub span: Option<Span>,
    /// What is wrong: lower case, no final dot, user values in backticks.
    pub message: String,
    /// A few words beside the caret, where the message alone does not explain the place.
    pub label: Option<String>,
    /// How to mend it.
    pub hint: Option<String>,
    /// Other places that the mistake is about, e.g. the first of two equal routes.
    pub related: Vec<Located<String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// The configuration works, but probably not as meant.
    Warning,
}

/// All diagnostics of one configuration, in file order.
#[derive(Debug, Clone)]
pub struct Report {
    pub source: Arc<Source>,
    pub diagnostics: Vec<Diagnostic>,
}

impl Diagnostic {
    pub fn error(span: Span, message: impl Into<String>) -> Self {
        Diagnostic {
            severity: Severity::Error,
            span: Some(span),
            message: message.into(),
            label: None,
            hint: None,
            related: Vec::new(),
        }
    }

    pub fn warning(span: Span, message: impl Into<String>) -> Self {
        Diagnostic {
            severity: Severity::Warning,
            ..Diagnostic::error(span, message)
        }
    }

    /// A mistake without a place: something is missing from the whole.
    pub fn missing(message: impl Into<String>) -> Self {
        Diagnostic {
            span: None,
            ..Diagnostic::error(0..0, message)
        }
    }

    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<Option<String>>) -> Self {
        self.hint = hint.into();
        self
    }

    #[must_use]
    pub fn related(mut self, span: Span, label: impl Into<String>) -> Self {
        self.related.push(Located {
            value: label.into(),
            span,
        });
        self
    }
}

impl Report {
    /// Puts the diagnostics into file order; those without a place come last.
    pub fn new(source: &Arc<Source>, mut diagnostics: Vec<Diagnostic>) -> Self {
        diagnostics.sort_by_key(|d| d.span.as_ref().map_or(usize::MAX, |span| span.start));
        Report {
            source: Arc::clone(source),
            diagnostics,
        }
    }

    pub fn has_errors(&self) -> bool {
        self.count(Severity::Error) > 0
    }

    /// For people: each diagnostic with its line, as far as nothing in it may be secret, and a caret, then a count.
    ///
    /// At most 100 diagnostics are drawn; the count says how many there are.
    pub fn render(&self, color: bool) -> String {
        let renderer = if color {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        let text = private::masked(&self.source.text);
        let mut out = String::new();
        for diagnostic in self.diagnostics.iter().take(MAX_DRAWN) {
            out.push_str(&self.draw(diagnostic, &text, &renderer));
            out.push_str("\n\n");
        }
        out.push_str(&self.summary());
        out.push('\n');
        out
    }

    /// For programs: an array of `{severity, file, line, column, message, hint}`.
    ///
    /// Lines and columns count from 1, columns in characters; both are null without a place.
    pub fn to_json(&self) -> Value {
        let entry = |diagnostic: &Diagnostic| {
            let place = diagnostic
                .span
                .as_ref()
                .map(|span| self.line_and_column(span.start));
            json!({
                "severity": diagnostic.severity.name(),
                "file": self.source.name,
                "line": place.map(|(line, _)| line),
                "column": place.map(|(_, column)| column),
                "message": diagnostic.message,
                "hint": diagnostic.hint,
            })
        };
        self.diagnostics.iter().map(entry).collect()
    }

    fn draw(&self, diagnostic: &Diagnostic, text: &str, renderer: &Renderer) -> String {
        // Titles and source lines are cleaned of control characters by the renderer, the rest is
        // not; all of it may quote the user's text, which must not reach the terminal raw.
        let clean = |text: &String| normalize_untrusted_str(text);
        let level = match diagnostic.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = level.primary_title(diagnostic.message.as_str());
        let mut group = annotate_snippets::Group::with_title(title);
        if let Some(span) = &diagnostic.span {
            let here = AnnotationKind::Primary
                .span(self.clip(span))
                .label(diagnostic.label.as_ref().map(clean));
            let others = diagnostic.related.iter().map(|other| {
                AnnotationKind::Context
                    .span(self.clip(&other.span))
                    .label(clean(&other.value))
            });
            group = group.element(
                Snippet::source(text)
                    .path(clean(&self.source.name))
                    .annotation(here)
                    .annotations(others),
            );
        } else {
            group = group.element(annotate_snippets::Origin::path(clean(&self.source.name)));
        }
        if let Some(hint) = &diagnostic.hint {
            group = group.element(Level::HELP.message(clean(hint)));
        }
        renderer.render(&[group])
    }

    fn summary(&self) -> String {
        let plural = |count: usize, noun: &str| match count {
            1 => format!("1 {noun}"),
            _ => format!("{count} {noun}s"),
        };
        let errors = self.count(Severity::Error);
        let warnings = self.count(Severity::Warning);
        let found = match (errors, warnings) {
            (errors, 0) => plural(errors, "error"),
            (0, warnings) => plural(warnings, "warning"),
            _ => format!(
                "{} and {}",
                plural(errors, "error"),
                plural(warnings, "warning")
            ),
        };
        format!("{}: {found}", normalize_untrusted_str(&self.source.name))
    }

    fn count(&self, severity: Severity) -> usize {
        self.diagnostics
            .iter()
            .filter(|d| d.severity == severity)
            .count()
    }

    /// The part of a span that can be underlined: inside the text, whole characters, one line.
    fn clip(&self, span: &Span) -> Span {
        let text = &self.source.text;
        let start = text.floor_char_boundary(span.start.min(text.len()));
        let end = text.ceil_char_boundary(span.end.clamp(start, text.len()));
        let line = text[start..end].find(['\r', '\n']).unwrap_or(end - start);
        start..start + line
    }

    fn line_and_column(&self, offset: usize) -> (usize, usize) {
        let text = &self.source.text;
        let before = &text[..text.floor_char_boundary(offset.min(text.len()))];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (
            before.matches('\n').count() + 1,
            before[line_start..].chars().count() + 1,
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Report {}

impl Severity {
    fn name(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
        }
    }
}

const MAX_DRAWN: usize = 100;

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use proptest::prelude::*;

    use super::*;

    fn source(text: &str) -> Arc<Source> {
        let name = "t.toml".to_owned();
        Arc::new(Source {
            name,
            text: text.to_owned(),
            dir: PathBuf::new(),
        })
    }

    #[test]
    fn json_counts_lines_and_columns_in_characters() {
        let check = |text: &str, needle: &str, line: u64, column: u64| {
            let at = text.find(needle).expect("needle");
            let report = Report::new(&source(text), vec![Diagnostic::error(at..at + 1, "x")]);
            let entry = &report.to_json()[0];
            assert_eq!(
                (entry["line"].as_u64(), entry["column"].as_u64()),
                (Some(line), Some(column))
            );
        };
        check("#", "#", 1, 1);
        check("a\nbc#", "#", 2, 3);
        check("ü#", "#", 1, 2);
        check("a\r\n#", "#", 2, 1);
    }

    #[test]
    fn without_a_place_line_and_column_are_null_and_it_comes_last() {
        let mistakes = vec![
            Diagnostic::missing("no listener"),
            Diagnostic::warning(0..1, "odd"),
        ];
        let report = Report::new(&source("x"), mistakes);
        assert_eq!(
            report.to_json(),
            json!([
                {"severity": "warning", "file": "t.toml", "line": 1, "column": 1,
                 "message": "odd", "hint": null},
                {"severity": "error", "file": "t.toml", "line": null, "column": null,
                 "message": "no listener", "hint": null},
            ])
        );
        assert!(
            report
                .render(false)
                .ends_with("\nt.toml: 1 error and 1 warning\n")
        );
    }

    #[test]
    fn colour_is_only_there_when_asked_for() {
        let report = Report::new(&source("x = 1"), vec![Diagnostic::error(0..1, "odd")]);
        assert!(report.render(true).contains('\u{1b}'));
        assert!(!report.render(false).contains('\u{1b}'));
    }

    #[test]
    fn user_text_cannot_write_escapes_to_the_terminal() {
        let text = "x = \"\u{1b}[2J\"";
        let hostile = Diagnostic::error(5..6, "`\u{1b}[2J`").hint("\u{1b}[2J".to_owned());
        let shown = Report::new(&source(text), vec![hostile.label("\u{1b}[2J")]).render(false);
        assert!(!shown.contains('\u{1b}'), "{shown:?}");
    }

    proptest! {
        #[test]
        fn any_span_can_be_shown(text in "[a-zü€\r\n\t𝄞\u{0}]{0,40}", start in 0usize..60, len in 0usize..60) {
            let span = start..start + len;
            let report = Report::new(
                &source(&text),
                vec![Diagnostic::error(span.clone(), "x").label("y").related(len..start, "z")],
            );
            prop_assert!(report.render(false).contains("t.toml: 1 error"));
            prop_assert_eq!(report.to_json().as_array().map(Vec::len), Some(1));
        }
    }
}
