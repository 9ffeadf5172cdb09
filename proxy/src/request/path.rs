//! The one normal form of a path: what is matched is what is forwarded.
//!
//! A server behind us may decode, merge and resolve a path before it acts on it. So every spelling
//! that some server takes for another path is either brought to one form here, or refused:
//!
//! - `%XX` of a character that means the same raw is decoded (RFC 3986 §6.2.2.2 for unreserved
//!   ones; in a path segment also `! $ & ' ( ) * , = : @`, which delimit nothing there). All other
//!   escapes stay, in upper case; raw characters that a path may not hold get escaped.
//! - `.` and `..` segments are resolved, after decoding; above the root is refused.
//! - `//` counts as `/`, as most file servers read it.
//! - Refused, because servers disagree about them: `\` and the escapes of `/` and `\`; controls and
//!   NUL, raw or escaped; `%` without two digits; escapes that are not UTF-8 (overlong ones among
//!   them); `;`, raw or escaped, but in the last segment (servlet containers cut `;x` out of each
//!   segment, so that `/a;x/b` is `/a/b` to them) and dot segments with `;` anywhere.
//! - Case stays: to us two spellings are two paths.

use std::borrow::Cow;

use thiserror::Error;

/// Why a path has no normal form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PathFault {
    #[error("the path does not start with a slash")]
    NoSlash,
    #[error("a character that no path may hold")]
    BadCharacter,
    #[error("a percent sign without two hex digits")]
    BadEscape,
    #[error("an escaped control character")]
    EscapedControl,
    #[error("a backslash, or an escaped slash or backslash")]
    HiddenSlash,
    #[error("escapes that are not UTF-8")]
    NotUtf8,
    #[error("dot segments that lead above the root")]
    AboveRoot,
    #[error("path parameters before the last segment or on a dot segment")]
    Parameters,
}

impl PathFault {
    /// A short stable word for logs and metrics.
    pub fn label(self) -> &'static str {
        match self {
            PathFault::NoSlash => "bad_target",
            PathFault::BadCharacter => "path_bad_character",
            PathFault::BadEscape => "path_bad_escape",
            PathFault::EscapedControl => "path_escaped_control",
            PathFault::HiddenSlash => "path_hidden_slash",
            PathFault::NotUtf8 => "path_not_utf8",
            PathFault::AboveRoot => "path_above_root",
            PathFault::Parameters => "path_parameters",
        }
    }
}

/// The normal form of an absolute path. Applying it twice changes nothing.
pub fn normal_path(path: &str) -> Result<Cow<'_, str>, PathFault> {
    if is_normal(path) {
        return Ok(Cow::Borrowed(path));
    }
    let rest = path.strip_prefix('/').ok_or(PathFault::NoSlash)?;
    let mut normal = String::with_capacity(path.len());
    let mut segments = rest.split('/').peekable();
    let mut ends_open = false;
    while let Some(segment) = segments.next() {
        let start = normal.len();
        normal.push('/');
        let parameters = push_segment(segment, &mut normal)?;
        if parameters && segments.peek().is_some() {
            return Err(PathFault::Parameters);
        }
        ends_open = true;
        match &normal[start + 1..] {
            "" | "." => normal.truncate(start),
            ".." => {
                normal.truncate(start);
                let parent = normal.rfind('/').ok_or(PathFault::AboveRoot)?;
                normal.truncate(parent);
            }
            name if parameters && is_dots_with_parameters(name) => {
                return Err(PathFault::Parameters);
            }
            _ => ends_open = false,
        }
    }
    // A path that ends in a slash or in a dot segment names the directory.
    if ends_open {
        normal.push('/');
    }
    Ok(Cow::Owned(normal))
}

/// Whether nothing is to be done, as with most paths: plain characters, no segment that is empty or
/// begins with a dot.
fn is_normal(path: &str) -> bool {
    let mut previous = None;
    for byte in path.bytes() {
        let fine = match (previous, byte) {
            (None, b'/') => true,
            (None, _) | (Some(b'/'), b'/' | b'.') => false,
            _ => byte == b'/' || is_plain(byte),
        };
        if !fine {
            return false;
        }
        previous = Some(byte);
    }
    previous.is_some()
}

/// Appends a segment in normal form, and says whether it holds a `;`.
fn push_segment(segment: &str, normal: &mut String) -> Result<bool, PathFault> {
    let mut parameters = false;
    // Bytes of a character beyond ASCII, as the escapes spell them.
    let mut beyond_ascii = Vec::new();
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        let value = match byte {
            b'%' => {
                let (Some(high), Some(low)) = (hex(bytes.next()), hex(bytes.next())) else {
                    return Err(PathFault::BadEscape);
                };
                high << 4 | low
            }
            b'\\' => return Err(PathFault::HiddenSlash),
            _ if !byte.is_ascii_graphic() => return Err(PathFault::BadCharacter),
            _ => byte,
        };
        if value >= 0x80 {
            beyond_ascii.push(value);
            push_escape(value, normal);
            continue;
        }
        check_utf8(&mut beyond_ascii)?;
        parameters |= value == b';';
        match value {
            b'/' | b'\\' => return Err(PathFault::HiddenSlash),
            _ if value.is_ascii_control() => return Err(PathFault::EscapedControl),
            _ if is_plain(value) => normal.push(char::from(value)),
            // Their raw and escaped forms differ to some servers: each stays as it came.
            b';' | b'+' if byte != b'%' => normal.push(char::from(value)),
            _ => push_escape(value, normal),
        }
    }
    check_utf8(&mut beyond_ascii)?;
    Ok(parameters)
}

/// Checks and forgets a run of escapes beyond ASCII.
fn check_utf8(bytes: &mut Vec<u8>) -> Result<(), PathFault> {
    let fine = std::str::from_utf8(bytes).is_ok_and(|text| !text.chars().any(char::is_control));
    bytes.clear();
    if fine {
        Ok(())
    } else {
        Err(PathFault::NotUtf8)
    }
}

fn push_escape(byte: u8, normal: &mut String) {
    normal.push('%');
    for digit in [byte >> 4, byte & 15] {
        normal.push(char::from(HEX_DIGITS[usize::from(digit)]));
    }
}

fn hex(digit: Option<u8>) -> Option<u8> {
    let digit = char::from(digit?).to_digit(16)?;
    u8::try_from(digit).ok()
}

/// Means the same in a segment whether raw or escaped.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*,=:@".contains(&byte)
}

/// `..;x`, in which a servlet container sees `..`.
fn is_dots_with_parameters(segment: &str) -> bool {
    let marks = [segment.find(';'), segment.find("%3B")];
    let name_end = marks.into_iter().flatten().min().unwrap_or(segment.len());
    matches!(&segment[..name_end], "." | "..")
}

const HEX_DIGITS: &[u8; 16] = b"0123456789ABCDEF";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::PathFault::*;
    use super::*;

    fn check(path: &str, expect: Result<&str, PathFault>) {
        assert_eq!(
            normal_path(path).as_deref().map_err(|fault| *fault),
            expect,
            "{path}"
        );
    }

    #[test]
    fn spellings_of_one_path() {
        for path in [
            "/admin/x",
            "//admin/x",
            "/admin//x",
            "/./admin/x",
            "/a/../admin/x",
            "/%61dmin/x",
            "/%2e/admin/x",
            "/a/%2E%2e/admin/x",
            "/a/.%2e/admin/./x",
            "/admin/y/%2e./x",
            "/a/b/../../admin/x",
            "/admin/%78",
        ] {
            check(path, Ok("/admin/x"));
        }
    }

    #[test]
    fn what_stays() {
        check("/", Ok("/"));
        check("/a/", Ok("/a/"));
        check("/a/.", Ok("/a/"));
        check("/a/b/..", Ok("/a/"));
        check("/a/..", Ok("/"));
        check("//", Ok("/"));
        check("/ADMIN", Ok("/ADMIN"));
        check("/...", Ok("/..."));
        check("/.well-known/x", Ok("/.well-known/x"));
        check("/a+b%2bc", Ok("/a+b%2Bc"));
        check("/%40me/a%3ab/(c)%28", Ok("/@me/a:b/(c)("));
        check("/caf%c3%a9", Ok("/caf%C3%A9"));
        check("/%252e%252e/x", Ok("/%252e%252e/x"));
        check("/a|b\"{}^`", Ok("/a%7Cb%22%7B%7D%5E%60"));
        check("/a%20b%3Fc%23", Ok("/a%20b%3Fc%23"));
        check("/page;id=1", Ok("/page;id=1"));
        check("/a/page%3bid", Ok("/a/page%3Bid"));
    }

    #[test]
    fn what_is_refused() {
        check("", Err(NoSlash));
        check("a", Err(NoSlash));
        check("*", Err(NoSlash));
        check("/..", Err(AboveRoot));
        check("/a/../..", Err(AboveRoot));
        check("/%2e%2e/x", Err(AboveRoot));
        check("/a%2fb", Err(HiddenSlash));
        check("/a%5Cb", Err(HiddenSlash));
        check("/a\\b", Err(HiddenSlash));
        check("/a%00", Err(EscapedControl));
        check("/a%0d%0ab", Err(EscapedControl));
        check("/a%7f", Err(EscapedControl));
        check("/a b", Err(BadCharacter));
        check("/caf\u{e9}", Err(BadCharacter));
        check("/a%", Err(BadEscape));
        check("/a%4", Err(BadEscape));
        check("/a%zz", Err(BadEscape));
        check("/a%u0041", Err(BadEscape));
        check("/%c0%ae%c0%ae/x", Err(NotUtf8));
        check("/%c0%af", Err(NotUtf8));
        check("/%e0%80%af", Err(NotUtf8));
        check("/%ed%a0%80", Err(NotUtf8));
        check("/%c3x%a9", Err(NotUtf8));
        check("/%c2%80", Err(NotUtf8));
        check("/a;x/b", Err(Parameters));
        check("/;x/admin", Err(Parameters));
        check("/a/..;/b", Err(Parameters));
        check("/a/..;", Err(Parameters));
        check("/a/%2e%2e%3bx", Err(Parameters));
        check("/a/.%3B;", Err(Parameters));
        check("/a%3Bx/b", Err(Parameters));
    }

    proptest! {
        #[test]
        fn normal_form_is_final(path in "/([a-c./;%]|%2[e5EfF]|%6[1-3]|%c3%a9){0,20}") {
            if let Ok(once) = normal_path(&path) {
                prop_assert_eq!(normal_path(&once), Ok(once.clone()));
                prop_assert!(once.starts_with('/'));
                prop_assert!(!once.contains("//"));
                prop_assert!(!once.split('/').any(|segment| matches!(segment, "." | "..")));
            }
        }

        #[test]
        fn never_panics(path in ".{0,40}") {
            let _ = normal_path(&path);
        }
    }
}
