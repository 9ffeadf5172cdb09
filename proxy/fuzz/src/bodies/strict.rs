//! A second reader of HTTP/1.1, written from RFC 9112 alone, that the proxy's own is held against.
//!
//! It is slow and simple: a line at a time, every byte checked, nothing shared with the proxy. It knows no limits.

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub head: Head,
    pub body: Vec<u8>,
    pub trailers: Vec<Field>,
    /// Bytes of chunk extensions.
    pub extensions: usize,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Head {
    /// Method, target, version; or version, status, reason.
    pub start: [String; 3],
    pub fields: Vec<Field>,
    /// Bytes of it.
    pub size: usize,
}

/// A name in lower case, and a value without the blanks around it.
pub type Field = (String, Vec<u8>);

/// How a body is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    Nothing,
    Length(u64),
    Chunked,
    UntilClose,
}

/// Why there is no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// The bytes end in the middle of it.
    Cut,
    Wrong(&'static str),
}

impl Head {
    /// The values of a field, in their order.
    pub fn values(&self, name: &str) -> Vec<&[u8]> {
        let fields = self.fields.iter().filter(|field| field.0 == name);
        fields.map(|field| &field.1[..]).collect()
    }

    /// The value of a field that is there once.
    pub fn only(&self, name: &str) -> Option<&[u8]> {
        match self.values(name)[..] {
            [value] => Some(value),
            _ => None,
        }
    }

    pub fn connection_says(&self, option: &str) -> bool {
        let values = self.values("connection");
        let mut options = values.iter().flat_map(|value| value.split(|b| *b == b','));
        options.any(|said| said.trim_ascii().eq_ignore_ascii_case(option.as_bytes()))
    }
}

/// A request's head, taken from the front of `bytes`. One blank line may stand before it.
pub fn request_head(bytes: &mut &[u8]) -> Result<Head, Broken> {
    let whole = bytes.len();
    if let Some(rest) = bytes.strip_prefix(b"\r\n") {
        *bytes = rest;
    }
    let line = take_line(bytes)?;
    let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let [method, target, version] = words[..] else {
        return Err(Broken::Wrong("request line"));
    };
    if method.is_empty() || !method.iter().all(is_token) {
        return Err(Broken::Wrong("method"));
    }
    if target.is_empty() || !target.iter().all(u8::is_ascii_graphic) || target.contains(&b'#') {
        return Err(Broken::Wrong("target"));
    }
    if version != b"HTTP/1.1" && version != b"HTTP/1.0" {
        return Err(Broken::Wrong("version"));
    }
    let start = [method, target, version].map(text);
    let fields = take_fields(bytes)?;
    let size = whole - bytes.len();
    Ok(Head {
        start,
        fields,
        size,
    })
}

/// How a request's body is delimited (RFC 9112 §6.3, with every doubt refused).
pub fn request_framing(head: &Head) -> Result<Framing, Broken> {
    let framing = said_framing(head)?;
    if framing == Framing::Chunked && head.start[2] == "HTTP/1.0" {
        return Err(Broken::Wrong("chunks in HTTP/1.0"));
    }
    Ok(match framing {
        Framing::UntilClose => Framing::Nothing,
        framing => framing,
    })
}

/// A response's head, taken from the front of `bytes`.
pub fn response_head(bytes: &mut &[u8]) -> Result<Head, Broken> {
    let whole = bytes.len();
    let line = take_line(bytes)?;
    let (version, rest) = match line.split_at_checked(9) {
        Some((b"HTTP/1.1 ", rest)) => ("HTTP/1.1", rest),
        Some((b"HTTP/1.0 ", rest)) => ("HTTP/1.0", rest),
        _ => return Err(Broken::Wrong("version")),
    };
    let (status, reason) = rest.split_at_checked(3).ok_or(Broken::Wrong("status"))?;
    if !status.iter().all(u8::is_ascii_digit) || status[0] == b'0' {
        return Err(Broken::Wrong("status"));
    }
    if reason.first().is_some_and(|byte| *byte != b' ') || !reason.iter().all(is_text) {
        return Err(Broken::Wrong("reason"));
    }
    let start = [version.to_owned(), text(status), text(reason)];
    let fields = take_fields(bytes)?;
    let size = whole - bytes.len();
    Ok(Head {
        start,
        fields,
        size,
    })
}

/// How the body of an answer to `method` is delimited.
pub fn response_framing(head: &Head, method: &str) -> Result<Framing, Broken> {
    let framing = said_framing(head)?;
    if framing == Framing::Chunked && head.start[0] == "HTTP/1.0" {
        return Err(Broken::Wrong("chunks in HTTP/1.0"));
    }
    let status = &head.start[1];
    let bodiless =
        method == "HEAD" || status.starts_with('1') || status == "204" || status == "304";
    Ok(if bodiless { Framing::Nothing } else { framing })
}

/// The body behind a head, taken from the front of `bytes`. `padded`: blanks may follow a chunk's size.
pub fn body(
    bytes: &mut &[u8],
    head: Head,
    framing: Framing,
    padded: bool,
) -> Result<Message, Broken> {
    let mut message = Message {
        head,
        body: Vec::new(),
        trailers: Vec::new(),
        extensions: 0,
    };
    match framing {
        Framing::Nothing => {}
        Framing::UntilClose => message.body = std::mem::take(bytes).to_vec(),
        Framing::Length(length) => {
            let length = usize::try_from(length).map_err(|_| Broken::Cut)?;
            message.body = take(bytes, length)?.to_vec();
        }
        Framing::Chunked => loop {
            let line = take_line(bytes)?;
            let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit());
            let (digits, extension) = line.split_at(digits.count());
            let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
            let behind = extension.iter().position(|byte| !is_blank(byte));
            match behind.map(|at| extension[at]) {
                Some(b';') => {}
                None if padded || extension.is_empty() => {}
                _ => return Err(Broken::Wrong("chunk size")),
            }
            if !extension.iter().all(is_text) {
                return Err(Broken::Wrong("chunk extension"));
            }
            message.extensions += extension.len();
            let size = text(digits);
            let size = u64::from_str_radix(&size, 16).map_err(|_| Broken::Wrong("chunk size"))?;
            if digits.len() > 16 {
                return Err(Broken::Wrong("chunk size"));
            }
            if size == 0 {
                message.trailers = take_fields(bytes)?;
                break;
            }
            let size = usize::try_from(size).map_err(|_| Broken::Cut)?;
            message.body.extend_from_slice(take(bytes, size)?);
            match bytes.split_at_checked(2) {
                Some((b"\r\n", rest)) => *bytes = rest,
                None if bytes.is_empty() || *bytes == b"\r" => return Err(Broken::Cut),
                _ => return Err(Broken::Wrong("chunk end")),
            }
        },
    }
    Ok(message)
}

/// One whole request.
pub fn request(bytes: &mut &[u8]) -> Result<Message, Broken> {
    let head = request_head(bytes)?;
    let framing = request_framing(&head)?;
    body(bytes, head, framing, false)
}

/// One whole answer to `method`, interim ones left out.
pub fn response(bytes: &mut &[u8], method: &str) -> Result<Message, Broken> {
    loop {
        let head = response_head(bytes)?;
        if head.start[1].starts_with('1') && head.start[1] != "101" {
            continue;
        }
        let framing = response_framing(&head, method)?;
        return body(bytes, head, framing, false);
    }
}

/// The fields by name, those of one name in their order.
pub fn sorted(mut fields: Vec<Field>) -> Vec<Field> {
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    fields
}

fn said_framing(head: &Head) -> Result<Framing, Broken> {
    match (
        &head.values("transfer-encoding")[..],
        &head.values("content-length")[..],
    ) {
        ([], []) => Ok(Framing::UntilClose),
        ([coding], []) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
        ([], [length]) if !length.is_empty() && length.iter().all(u8::is_ascii_digit) => {
            let length = text(length).parse().map_err(|_| Broken::Wrong("length"))?;
            Ok(Framing::Length(length))
        }
        _ => Err(Broken::Wrong("framing")),
    }
}

/// Field lines up to the blank line, which goes too.
fn take_fields(bytes: &mut &[u8]) -> Result<Vec<Field>, Broken> {
    let mut fields = Vec::new();
    loop {
        let line = take_line(bytes)?;
        if line.is_empty() {
            return Ok(fields);
        }
        let colon = line.iter().position(|byte| *byte == b':');
        let (name, value) = line.split_at(colon.ok_or(Broken::Wrong("no colon"))?);
        if name.is_empty() || !name.iter().all(is_token) {
            return Err(Broken::Wrong("field name"));
        }
        if !value.iter().all(is_text) {
            return Err(Broken::Wrong("field value"));
        }
        let value = value[1..].trim_ascii();
        fields.push((text(name).to_ascii_lowercase(), value.to_vec()));
    }
}

/// A line without its CRLF; a lone CR or LF is nowhere right.
fn take_line<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], Broken> {
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let line = take(bytes, end.ok_or(Broken::Cut)? + 1)?;
    let line = line.strip_suffix(b"\r\n").ok_or(Broken::Wrong("bare LF"))?;
    match line.contains(&b'\r') {
        true => Err(Broken::Wrong("bare CR")),
        false => Ok(line),
    }
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Result<&'a [u8], Broken> {
    let (taken, rest) = bytes.split_at_checked(length).ok_or(Broken::Cut)?;
    *bytes = rest;
    Ok(taken)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn is_token(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte)
}

fn is_text(byte: &u8) -> bool {
    *byte == b'\t' || *byte >= b' ' && *byte != 0x7f
}
