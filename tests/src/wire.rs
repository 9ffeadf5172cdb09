//! HTTP/1.1 as it is on the wire, for either side: read without a library's opinion, byte by byte,
//! so that what follows a message stays in the stream.
//!
//! The reader is strict about what it is sent: a body that breaks off or is badly framed is an
//! error, never a shorter body. Lines that are no UTF-8 are read as Latin-1.

use std::io::{Error, ErrorKind, Result};

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::soon;

/// The first line of a message and its fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    pub start: String,
    pub fields: Fields,
}

/// Field lines in the order of the wire.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields(
    /// Names in lower case.
    pub Vec<(String, String)>,
);

/// A whole message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub head: Head,
    pub body: Vec<u8>,
    pub trailers: Fields,
}

/// How long a body is.
enum Framing {
    /// Not told.
    None,
    Length(usize),
    Chunked,
}

impl Head {
    /// The status of a response.
    pub fn status(&self) -> u16 {
        let status = self.start.split(' ').nth(1);
        status.and_then(|text| text.parse().ok()).unwrap()
    }

    /// The target of a request.
    pub fn target(&self) -> &str {
        self.start.split(' ').nth(1).unwrap()
    }

    /// The first value of a field.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields.all(name).first().copied()
    }
}

impl Fields {
    /// All values of a field.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let own = self.0.iter().filter(|(own, _)| own == name);
        own.map(|(_, value)| value.as_str()).collect()
    }
}

/// Reads the head of a request or of a response.
pub async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> Result<Head> {
    soon("a head", async {
        let start = read_line(stream).await?;
        let fields = read_fields(stream).await?;
        Ok(Head { start, fields })
    })
    .await
}

/// Reads a whole request.
pub async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Result<Message> {
    let head = read_head(stream).await?;
    read_body(stream, head, false).await
}

/// Reads a whole response to anything but HEAD; without framing it lasts until the stream ends.
///
/// An interim one that nobody expects is an error.
pub async fn read_response(stream: &mut (impl AsyncRead + Unpin)) -> Result<Message> {
    let (interims, response) = read_responses(stream).await?;
    match interims.is_empty() {
        true => Ok(response),
        false => Err(bad(&format!("an answer behind {interims:?}"))),
    }
}

/// As [`read_response`], with the heads of the interim ones before it.
pub async fn read_responses(stream: &mut (impl AsyncRead + Unpin)) -> Result<(Vec<Head>, Message)> {
    let mut interims = Vec::new();
    let mut head = read_head(stream).await?;
    while is_interim(head.status()) {
        interims.push(std::mem::replace(&mut head, read_head(stream).await?));
    }
    let may_have_body = !matches!(head.status(), 101 | 204 | 304);
    let response = read_body(stream, head, may_have_body).await?;
    Ok((interims, response))
}

/// Whether an answer is still to come behind this one.
pub fn is_interim(status: u16) -> bool {
    status < 200 && status != 101
}

async fn read_body(
    stream: &mut (impl AsyncRead + Unpin),
    head: Head,
    until_end: bool,
) -> Result<Message> {
    let mut message = Message {
        head,
        body: Vec::new(),
        trailers: Fields::default(),
    };
    let framing = framing(&message.head.fields)?;
    let reading = async {
        match framing {
            Framing::Chunked => {
                message.trailers = read_chunks(stream, &mut message.body).await?;
            }
            Framing::Length(length) => {
                message.body = vec![0; length];
                stream.read_exact(&mut message.body).await?;
            }
            Framing::None if until_end => {
                stream.read_to_end(&mut message.body).await?;
            }
            Framing::None => {}
        }
        Ok::<_, Error>(())
    };
    soon("a body", reading).await?;
    Ok(message)
}

/// The framing that a head tells: at most one, said once.
fn framing(fields: &Fields) -> Result<Framing> {
    let codings = fields.all("transfer-encoding");
    let lengths = fields.all("content-length");
    match (&*codings, &*lengths) {
        ([], []) => Ok(Framing::None),
        (["chunked"], []) => Ok(Framing::Chunked),
        ([], [length]) => number(length, 10).map(Framing::Length),
        _ => Err(bad("the framing of a body")),
    }
}

/// Digits and nothing else.
fn number(text: &str, radix: u32) -> Result<usize> {
    let digits = text.chars().all(|c| c.is_digit(radix));
    let number = usize::from_str_radix(text, radix).ok();
    number.filter(|_| digits).ok_or(bad("a length"))
}

async fn read_chunks(stream: &mut (impl AsyncRead + Unpin), body: &mut Vec<u8>) -> Result<Fields> {
    loop {
        let line = read_line(stream).await?;
        let size = number(&line, 16)?;
        if size == 0 {
            return read_fields(stream).await;
        }
        let start = body.len();
        body.resize(start + size, 0);
        stream.read_exact(&mut body[start..]).await?;
        if !read_line(stream).await?.is_empty() {
            return Err(bad("the end of a chunk"));
        }
    }
}

async fn read_fields(stream: &mut (impl AsyncRead + Unpin)) -> Result<Fields> {
    let mut fields = Vec::new();
    loop {
        let line = read_line(stream).await?;
        if line.is_empty() {
            return Ok(Fields(fields));
        }
        let (name, value) = line.split_once(':').ok_or(bad("a field line"))?;
        if name.is_empty() || name.contains([' ', '\t']) {
            return Err(bad("a field name"));
        }
        fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
}

async fn read_line(stream: &mut (impl AsyncRead + Unpin)) -> Result<String> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.push(stream.read_u8().await?);
    }
    line.truncate(line.len() - 2);
    let latin1 = |bytes: Vec<u8>| bytes.into_iter().map(char::from).collect();
    Ok(String::from_utf8(line).unwrap_or_else(|error| latin1(error.into_bytes())))
}

fn bad(what: &str) -> Error {
    Error::new(ErrorKind::InvalidData, format!("{what} is malformed"))
}
