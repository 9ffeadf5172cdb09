//! The little that both ends read of HTTP/1.1 heads (RFC 9112). Not for strangers' bytes: it takes
//! what it looks for and ignores the rest.

/// Where the head at the start of `bytes` ends, its empty line included; `None` while it is not whole.
pub(crate) fn end(bytes: &[u8]) -> Option<usize> {
    bytes
        .windows(END.len())
        .position(|window| window == END)
        .map(|at| at + END.len())
}

/// The value of the first field with this name, which is given in lower case.
pub(crate) fn field<'a>(head: &'a [u8], name: &str) -> Option<&'a [u8]> {
    head.split(|byte| *byte == b'\n').skip(1).find_map(|line| {
        let (found, value) = line.split_at_checked(name.len())?;
        let value = value.strip_prefix(b":")?;
        found
            .eq_ignore_ascii_case(name.as_bytes())
            .then(|| value.trim_ascii())
    })
}

const END: &[u8] = b"\r\n\r\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_whatever_its_case() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\nCONNECTION:  close \r\n\r\n";
        assert_eq!(field(head, "connection"), Some(&b"close"[..]));
        assert_eq!(field(head, "host"), Some(&b"a"[..]));
        assert_eq!(field(head, "hos"), None);
        assert_eq!(field(head, "get /"), None);
    }

    #[test]
    fn a_head_ends_after_its_empty_line() {
        assert_eq!(end(b"a\r\nb: c\r\n\r\nbody"), Some(11));
        assert_eq!(end(b"a\r\nb: c\r\n\r"), None);
    }
}
