//! One ordinary request on a connection of its own, by a client that is ready for any answer.

use std::io::{Error, ErrorKind, Result};
use std::time::Duration;

use sluicegate_tests::http2::client::Client;
use sluicegate_tests::wire::{self, Head};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) head: Head,
    pub(crate) body: Vec<u8>,
    /// The body ended where its framing says so.
    pub(crate) whole: bool,
}

/// Asks for this path with these extra field lines, each with its line end; the connection ends with it.
pub(crate) async fn get(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    path: &str,
    fields: &str,
) -> Result<Answer> {
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{fields}\r\n");
    exchange(stream, request.as_bytes()).await
}

/// Sends these bytes, and reads one answer until the connection ends.
///
/// # Errors
/// There is no answer's head in time.
pub(crate) async fn exchange(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    request: &[u8],
) -> Result<Answer> {
    timeout(PATIENCE, async {
        stream.write_all(request).await?;
        stream.flush().await?;
        let mut head = wire::read_head(stream).await?;
        while wire::is_interim(head.status()) {
            head = wire::read_head(stream).await?;
        }
        let mut body = Vec::new();
        // An error is a body's end as well, and not a good one.
        let ended = stream.read_to_end(&mut body).await;
        let framed = match head.get("content-length") {
            Some(length) => length.parse() == Ok(body.len()),
            None => body.ends_with(b"0\r\n\r\n"),
        };
        Ok(Answer {
            whole: framed && ended.is_ok(),
            head,
            body,
        })
    })
    .await
    .unwrap_or_else(|_| Err(late()))
}

/// As [`get`], as a stream of a connection that stays.
pub(crate) async fn get_on(client: &Client, path: &str) -> Result<Answer> {
    let request = client.begin(client.request("GET", path)).await;
    let mut request = request.map_err(Error::other)?;
    request.outgoing.shutdown().await?;
    let (answer, mut stream) = request.answered().await.map_err(Error::other)?;
    let mut body = Vec::new();
    let ended = timeout(PATIENCE, stream.read_to_end(&mut body)).await;
    let mut begun = only_reset();
    begun.head.start = format!("HTTP/2 {}", answer.status().as_u16());
    Ok(Answer {
        body,
        whole: matches!(ended, Ok(Ok(_))),
        ..begun
    })
}

/// Whether the error is a stream that the proxy has reset.
pub(crate) fn is_reset(error: &Error) -> bool {
    of_http2(error).is_some_and(|error| error.is_reset() && error.is_remote())
}

/// Whether the connection had come to its end before the request, which nobody has seen.
pub(crate) fn is_goodbye(error: &Error) -> bool {
    of_http2(error).is_some_and(|error| error.is_go_away() && error.is_remote())
}

fn of_http2(error: &Error) -> Option<&h2::Error> {
    error.get_ref()?.downcast_ref()
}

/// An answer that was begun, and of which nothing came but its end.
pub(crate) fn only_reset() -> Answer {
    Answer {
        head: Head {
            start: "HTTP/2 200".to_owned(),
            fields: wire::Fields::default(),
        },
        body: Vec::new(),
        whole: false,
    }
}

pub(crate) fn late() -> Error {
    Error::new(ErrorKind::TimedOut, "nothing came in time")
}

/// Far more than any deadline of the proxy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);
