//! Paths, patterns, header fields and templates.
//!
//! A path in the configuration must be written in the one normal form that requests are brought to
//! before they are matched (RFC 3986 §6.2.2); any other spelling would never match anything.

use http::{HeaderName, HeaderValue, Method};
use regex::{Regex, RegexBuilder};

use super::{FromText, Mistake, did_you_mean};
use crate::config::model::{HeaderValueMatch, Template, TemplatePart, Variable};

/// A path, or the beginning of one, in normal form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::config) struct NormalPath(pub(in crate::config) String);

/// A whole path in normal form: unlike a beginning, it cannot end in a dot segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::config) struct ExactPath(pub(in crate::config) String);

/// A header value with variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::config) struct HeaderTemplate(pub(in crate::config) Template);

/// A URL or path with variables, for `Location`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::config) struct RedirectTarget(pub(in crate::config) Template);

impl FromText for NormalPath {
    fn from_text(text: &str) -> Result<Self, Mistake> {
        let bad = |why: &str, hint: Option<String>| {
            let hint = hint.or_else(|| Some("requests are matched in normal form".to_owned()));
            Mistake::new(format!(
                "`{}` would never match: {why}",
                text.escape_debug()
            ))
            .hint(hint)
        };
        if !text.starts_with('/') {
            return Err(bad(
                "a path begins with `/`",
                Some(format!("did you mean `/{text}`?")),
            ));
        }
        if let Some(at) = text.find(['?', '#']) {
            let hint = format!("leave out the query: `{}`", &text[..at]);
            return Err(bad("it is more than a path", Some(hint)).within(at..text.len()));
        }
        if let Some(at) = text.find("//") {
            let hint = Some("repeated slashes are merged into one".to_owned());
            return Err(bad("it holds `//`", hint).within(at..at + 2));
        }
        let unwritable = |c: char| !c.is_ascii_graphic() || "\"<>[\\]^`{|}".contains(c);
        if let Some(c) = text.chars().find(|c| unwritable(*c)) {
            let mut utf8 = [0; 4];
            let encoded: String = c
                .encode_utf8(&mut utf8)
                .bytes()
                .map(|byte| format!("%{byte:02X}"))
                .collect();
            let hint = match c {
                '\\' => "a backslash is refused in requests".to_owned(),
                _ => format!("it is sent as `{encoded}`"),
            };
            let at = text.find(c).unwrap_or(0);
            let why = format!("`{}` cannot stand in a path", c.escape_debug());
            return Err(bad(&why, Some(hint)).within(at..at + c.len_utf8()));
        }
        let mut at = 1;
        let segments: Vec<&str> = text[1..].split('/').collect();
        for (index, segment) in segments.iter().enumerate() {
            // At the end, `/.` may also be the beginning of `/.git`.
            let last = index + 1 == segments.len();
            if (*segment == "." || *segment == "..") && !last {
                let hint = Some("`.` and `..` are resolved first".to_owned());
                return Err(bad("it holds a dot segment", hint).within(at..at + segment.len()));
            }
            at += segment.len() + 1;
        }
        for (at, _) in text.match_indices('%') {
            check_escape(text, at).map_err(|why| {
                let within = at..(at + 3).min(text.len());
                bad(&why, None).within(within)
            })?;
        }
        // Servers disagree about parameters within a path, and about bytes that are not UTF-8.
        let hint = Some("such requests are refused".to_owned());
        if let Some(at) = text.find(';').filter(|at| text[*at..].contains('/')) {
            let why = "a `;` can only stand in the last segment";
            return Err(bad(why, hint).within(at..at + 1));
        }
        if String::from_utf8(unescaped(text)).is_err() {
            return Err(bad("its escapes are not UTF-8", hint));
        }
        Ok(NormalPath(text.to_owned()))
    }
}

impl FromText for ExactPath {
    fn from_text(text: &str) -> Result<Self, Mistake> {
        let NormalPath(path) = NormalPath::from_text(text)?;
        if path.ends_with("/.") || path.ends_with("/..") {
            let message = format!("`{path}` would never match: it ends in a dot segment");
            return Err(Mistake::new(message).hint("they are resolved first".to_owned()));
        }
        Ok(ExactPath(path))
    }
}

impl FromText for Regex {
    const EXPECTED: &'static str = "a regex";

    /// Regexes that would need more than 1 MiB are refused.
    fn from_text(text: &str) -> Result<Self, Mistake> {
        RegexBuilder::new(text)
            .size_limit(MAX_REGEX_BYTES)
            .build()
            .map_err(|error| match error {
                regex::Error::CompiledTooBig(_) => Mistake::new("this regex is too large")
                    .hint("use smaller repetitions, or several routes".to_owned()),
                error => {
                    // The crate draws its own caret over several lines; only the reason is wanted.
                    let report = error.to_string();
                    let reason = report.rsplit("error: ").next().unwrap_or(&report).trim();
                    Mistake::new(format!(
                        "this regex is wrong: {}",
                        reason.replace('\n', " ")
                    ))
                }
            })
    }
}

impl FromText for Method {
    const EXPECTED: &'static str = "a method";

    fn from_text(text: &str) -> Result<Self, Mistake> {
        let bad = |hint: String| Mistake::new(format!("`{text}` is not a method")).hint(hint);
        if let Some(method) = METHODS
            .iter()
            .find(|method| method.eq_ignore_ascii_case(text))
            && *method != text
        {
            return Err(bad(format!(
                "methods are written in upper case: `{method}`"
            )));
        }
        if text == "CONNECT" || text == "TRACE" {
            return Err(bad(format!("{text} requests are always refused")));
        }
        let method = Method::from_bytes(text.as_bytes())
            .map_err(|_| bad("as in `GET` or `POST`".to_owned()))?;
        match did_you_mean(text, METHODS.iter().copied()) {
            Some(hint) if !METHODS.contains(&text) && text.len() > 2 => Err(bad(hint)),
            _ => Ok(method),
        }
    }
}

impl FromText for HeaderName {
    fn from_text(text: &str) -> Result<Self, Mistake> {
        HeaderName::from_bytes(text.as_bytes()).map_err(|_| {
            let message = format!(
                "`{}` is not the name of a header field",
                text.escape_debug()
            );
            Mistake::new(message).hint("letters, digits and `-`, as in `X-Request-Id`".to_owned())
        })
    }
}

impl FromText for HeaderValue {
    fn from_text(text: &str) -> Result<Self, Mistake> {
        HeaderValue::from_str(text)
            .ok()
            .filter(|_| plain_value(text))
            .ok_or_else(bad_value)
    }
}

impl FromText for HeaderValueMatch {
    /// `*`, `~regex` or the value itself.
    fn from_text(text: &str) -> Result<Self, Mistake> {
        if text == "*" {
            return Ok(HeaderValueMatch::Present);
        }
        match text.strip_prefix('~') {
            Some(regex) => Regex::from_text(regex).map(HeaderValueMatch::Regex),
            None => HeaderValue::from_text(text).map(HeaderValueMatch::Exact),
        }
    }
}

impl FromText for HeaderTemplate {
    fn from_text(text: &str) -> Result<Self, Mistake> {
        let template = template(text)?;
        if !plain_value(text) {
            return Err(bad_value());
        }
        Ok(HeaderTemplate(template))
    }
}

impl FromText for RedirectTarget {
    fn from_text(text: &str) -> Result<Self, Mistake> {
        let bad = |hint: &str| {
            Mistake::new(format!(
                "`{}` is not a place to redirect to",
                text.escape_debug()
            ))
            .hint(hint.to_owned())
        };
        let template = template(text)?;
        let uri_byte = |byte: u8| byte.is_ascii_graphic();
        if !text.bytes().all(uri_byte) {
            return Err(bad(
                "blanks and letters beyond ASCII must be percent-encoded",
            ));
        }
        let absolute = ["http://", "https://", "{scheme}://"]
            .iter()
            .any(|s| text.starts_with(s));
        let local =
            text.starts_with("{path}") || (text.starts_with('/') && !text.starts_with("//"));
        if !absolute && !local {
            return Err(bad("as in `https://{host}{path}{query}` or `/new{query}`"));
        }
        Ok(RedirectTarget(template))
    }
}

/// Text with `{variables}`; `{{` and `}}` are braces.
fn template(text: &str) -> Result<Template, Mistake> {
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        let (before, brace) = rest.split_at(at);
        literal.push_str(before);
        let start = text.len() - brace.len();
        if brace.starts_with("{{") || brace.starts_with("}}") {
            literal.push_str(&brace[..1]);
            rest = &brace[2..];
            continue;
        }
        let Some(end) = brace.find('}').filter(|end| *end > 0) else {
            let message = format!("the `{}` has no partner", &brace[..1]);
            let hint = format!("a brace itself is written twice: `{0}{0}`", &brace[..1]);
            return Err(Mistake::new(message).hint(hint).within(start..start + 1));
        };
        let name = &brace[1..end];
        let Some((_, variable)) = VARIABLES.iter().find(|(known, _)| *known == name) else {
            let known = || VARIABLES.iter().map(|(known, _)| *known);
            let hint = did_you_mean(name, known()).unwrap_or_else(|| {
                format!(
                    "the variables are {}",
                    known().collect::<Vec<_>>().join(", ")
                )
            });
            let message = format!("unknown variable `{}`", name.escape_debug());
            return Err(Mistake::new(message)
                .hint(hint)
                .within(start..start + end + 1));
        };
        if !literal.is_empty() {
            parts.push(TemplatePart::Literal(std::mem::take(&mut literal)));
        }
        parts.push(TemplatePart::Variable(*variable));
        rest = &brace[end + 1..];
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        parts.push(TemplatePart::Literal(literal));
    }
    Ok(Template { parts })
}

/// The rules for one `%XX` at `at` of a path in normal form.
fn check_escape(text: &str, at: usize) -> Result<(), String> {
    let hex = text
        .get(at + 1..at + 3)
        .filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
    let Some(byte) = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) else {
        return Err("`%` is not followed by two hex digits".to_owned());
    };
    let escape = &text[at..at + 3];
    match byte {
        _ if byte.is_ascii_alphanumeric() || b"-._~!$&'()*,=:@".contains(&byte) => {
            Err(format!("`{escape}` is written `{}`", char::from(byte)))
        }
        b'/' | b'\\' | 0..0x20 | 0x7f => Err(format!("requests with `{escape}` are refused")),
        _ if escape.bytes().any(|b| b.is_ascii_lowercase()) => Err(format!(
            "`{escape}` is written `{}`",
            escape.to_ascii_uppercase()
        )),
        _ => Ok(()),
    }
}

/// The bytes that a path with good escapes stands for.
fn unescaped(path: &str) -> Vec<u8> {
    let mut pieces = path.split('%');
    let mut bytes = pieces.next().unwrap_or("").as_bytes().to_vec();
    for piece in pieces {
        let (hex, rest) = piece.split_at(piece.len().min(2));
        bytes.extend(u8::from_str_radix(hex, 16).ok());
        bytes.extend_from_slice(rest.as_bytes());
    }
    bytes
}

/// Printable ASCII and no blanks at the ends: what every recipient reads alike (RFC 9110 §5.5).
fn plain_value(text: &str) -> bool {
    text.trim() == text && text.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t'))
}

/// Does not quote the value, which may be a credential.
fn bad_value() -> Mistake {
    Mistake::new("this is not the value of a header field")
        .hint("printable ASCII, without blanks at the ends".to_owned())
}

const MAX_REGEX_BYTES: usize = 1 << 20;
const METHODS: &[&str] = &[
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE",
];
const VARIABLES: &[(&str, Variable)] = &[
    ("host", Variable::Host),
    ("path", Variable::Path),
    ("query", Variable::Query),
    ("scheme", Variable::Scheme),
    ("client_ip", Variable::ClientIp),
    ("request_id", Variable::RequestId),
    ("tls_subject", Variable::TlsSubject),
    ("route", Variable::Route),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let check = |text: &str, good: bool| {
            assert_eq!(NormalPath::from_text(text).is_ok(), good, "{text}");
        };
        for good in [
            "/",
            "/ws/",
            "/a.b/..c/~d",
            "/.git",
            "/.",
            "/a%20b",
            "/a/b;c=d",
            "/%3Bx",
            "/%2B",
            "/%E2%82%AC",
            "/:@!$&'()*+,=",
        ] {
            check(good, true);
        }
        for bad in [
            "", "ws", "//", "/a//b", "/a/./b", "/a/../b", "/a?b", "/a#b", "/a b", "/ä", "/a\\b",
            "/%61", "/%7E", "/%2f", "/%2F", "/%5C", "/%00", "/%c3%a4", "/%", "/%4", "/%zz", "/%€",
            "/{x}", "/%40", "/[a]", "/a;b/c", "/%FF", "/%C0%AF",
        ] {
            check(bad, false);
        }
    }

    #[test]
    fn whole_paths_end_in_no_dot_segment() {
        let check = |text: &str, good: bool| {
            assert_eq!(ExactPath::from_text(text).is_ok(), good, "{text}");
        };
        check("/", true);
        check("/a.", true);
        check("/.", false);
        check("/a/..", false);
        check("a", false);
    }

    #[test]
    fn templates() {
        let literal = |text: &str| TemplatePart::Literal(text.to_owned());
        let check = |text: &str, expected: &[TemplatePart]| {
            assert_eq!(
                template(text).map(|t| t.parts).as_deref(),
                Ok(expected),
                "{text}"
            );
        };
        let (host, path) = (Variable::Host, Variable::Path);
        check("", &[]);
        check("plain", &[literal("plain")]);
        check(
            "https://{host}{path}",
            &[
                literal("https://"),
                TemplatePart::Variable(host),
                TemplatePart::Variable(path),
            ],
        );
        check(
            "{{{host}}}",
            &[literal("{"), TemplatePart::Variable(host), literal("}")],
        );
        check("a{{b}}c", &[literal("a{b}c")]);

        let blamed = |text: &str| {
            let within = template(text).err().and_then(|mistake| mistake.within);
            within.map(|within| text[within].to_owned())
        };
        assert_eq!(blamed("x{hots}y").as_deref(), Some("{hots}"));
        assert_eq!(blamed("x{host").as_deref(), Some("{"));
        assert_eq!(blamed("x}y").as_deref(), Some("}"));
        assert_eq!(blamed("{}").as_deref(), Some("{}"));
        assert_eq!(blamed("{{host}").as_deref(), Some("}"));
    }

    #[test]
    fn redirect_targets() {
        let check = |text: &str, good: bool| {
            assert_eq!(RedirectTarget::from_text(text).is_ok(), good, "{text}");
        };
        for good in [
            "https://{host}{path}{query}",
            "{scheme}://a.com",
            "/new",
            "{path}/",
        ] {
            check(good, true);
        }
        for bad in [
            "",
            "a.com",
            "//a.com",
            "ftp://a.com",
            "{host}/x",
            "/a b",
            "/ä",
            "/a\nb",
            "javascript:x",
        ] {
            check(bad, false);
        }
    }

    #[test]
    fn header_values() {
        let check = |text: &str, good: bool| {
            assert_eq!(HeaderTemplate::from_text(text).is_ok(), good, "{text}");
            assert_eq!(HeaderValue::from_text(text).is_ok(), good, "{text}");
        };
        check("", true);
        check("max-age=60, private", true);
        check("a\r\nb: c", false);
        check(" a", false);
        check("ä", false);
    }

    #[test]
    fn header_matches() {
        let found = |text: &str| HeaderValueMatch::from_text(text).ok();
        assert!(matches!(found("*"), Some(HeaderValueMatch::Present)));
        assert!(
            matches!(found("~^a"), Some(HeaderValueMatch::Regex(regex)) if regex.as_str() == "^a")
        );
        assert!(matches!(found("a*"), Some(HeaderValueMatch::Exact(value)) if value == "a*"));
        assert!(found("~(").is_none());
    }

    #[test]
    fn methods() {
        let check = |text: &str, good: bool| {
            assert_eq!(Method::from_text(text).is_ok(), good, "{text}");
        };
        check("GET", true);
        check("PROPFIND", true);
        check("get", false);
        check("GTE", false);
        check("G T", false);
        check("", false);
        check("TRACE", false);
    }

    #[test]
    fn regexes() {
        let why = |text: &str| Regex::from_text(text).err().map(|mistake| mistake.message);
        assert_eq!(why("^/v[0-9]+/"), None);
        assert_eq!(
            why("(").as_deref(),
            Some("this regex is wrong: unclosed group")
        );
        assert_eq!(
            why("(.{1000}){1000}").as_deref(),
            Some("this regex is too large")
        );
    }
}
