//! Raw requests of HTTP/1.1, and what both ends must have seen of them.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::client::tcp;
use crate::proxy::Proxy;
use crate::soon;
use crate::upstream::Upstream;
use crate::wire::Message;

/// A proxy before an upstream that answers 200 and keeps what it was asked.
pub struct Bench {
    pub proxy: Proxy,
    pub upstream: Upstream,
    requests: UnboundedReceiver<Message>,
}

impl Bench {
    /// `more` goes on with the table of the one route, as [`Proxy::in_front_of`] has it.
    pub async fn new(more: &str) -> Bench {
        let (upstream, requests) = Upstream::collecting().await;
        let more = format!("{more}\n[admin]\nbind = \"127.0.0.1:0\"\n");
        Bench {
            proxy: Proxy::in_front_of(upstream.addr, &more).await,
            upstream,
            requests,
        }
    }

    /// Sends bytes that must be refused: one answer, with this status, that is the connection's last; and
    /// no whole request to the upstream.
    pub async fn refuses(&mut self, name: &str, request: impl AsRef<[u8]>, status: u16) {
        let mut stream = tcp(self.proxy.addr(0)).await;
        // The proxy may have closed before it has read everything.
        let _ = stream.write_all(request.as_ref()).await;
        // The end of the stream is the proof that the connection was closed.
        let answer = rest_of(name, &mut stream).await;
        let shown = String::from_utf8_lossy(&answer).to_ascii_lowercase();
        assert_eq!(statuses(&answer), [status], "{name}: {shown}");
        assert!(shown.contains("connection: close\r\n"), "{name}: {shown}");
        let reached = self.requests.try_recv();
        assert!(reached.is_err(), "{name}: the upstream got {reached:?}");
    }

    /// Sends bytes, and the end of the stream behind them, that must be answered with these statuses; gives
    /// the requests that the upstream got.
    pub async fn serves(
        &mut self,
        name: &str,
        requests: impl AsRef<[u8]>,
        expect: &[u16],
    ) -> Vec<Message> {
        let mut stream = tcp(self.proxy.addr(0)).await;
        let _ = stream.write_all(requests.as_ref()).await;
        let _ = stream.shutdown().await;
        let answer = rest_of(name, &mut stream).await;
        let shown = String::from_utf8_lossy(&answer);
        assert_eq!(statuses(&answer), expect, "{name}: {shown}");
        let mut seen = Vec::new();
        while let Ok(request) = self.requests.try_recv() {
            seen.push(request);
        }
        seen
    }

    /// As [`Bench::serves`], for one request.
    pub async fn passes(&mut self, name: &str, request: impl AsRef<[u8]>) -> Message {
        let mut seen = self.serves(name, request, &[200]).await;
        assert_eq!(seen.len(), 1, "{name}: {seen:?}");
        seen.remove(0)
    }

    /// On none of its connections has the upstream read more than the beginning of one request.
    pub fn check_unfinished(&self) {
        for bytes in self.upstream.received() {
            let shown = bytes.escape_ascii();
            assert!(bytes.is_empty() || is_unfinished(&bytes), "{shown}");
        }
    }

    /// How many requests the proxy has counted as refused for their form.
    pub async fn rejected(&self) -> usize {
        let (_, metrics) = self.proxy.admin_request("GET", "/metrics", "").await;
        let rejected = metrics
            .lines()
            .filter(|line| line.starts_with("sluicegate_requests_rejected_total{"))
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<usize>().ok());
        rejected.sum()
    }
}

/// What comes until the proxy ends the stream.
async fn rest_of(name: &str, stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let reading = stream.read_to_end(&mut bytes);
    // A reset after the last byte is an end like any other here.
    let _ = soon(&format!("the end of the stream of `{name}`"), reading).await;
    bytes
}

/// Whether these bytes are a request's, right as far as they go, and not all of it: a head, and of the body
/// that it promises nothing but what is missing at the end.
fn is_unfinished(bytes: &[u8]) -> bool {
    let Some(end) = bytes.windows(4).position(|end| end == b"\r\n\r\n") else {
        return bytes.iter().all(|byte| byte.is_ascii() && *byte != 0);
    };
    let (head, mut body) = bytes.split_at(end + 4);
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let values = |name: &str| -> Vec<String> {
        let lines = head
            .split("\r\n")
            .filter_map(|line| line.strip_prefix(name));
        lines.map(|value| value.trim().to_owned()).collect()
    };
    let (codings, lengths) = (values("transfer-encoding:"), values("content-length:"));
    match (&codings[..], &lengths[..]) {
        ([], [length]) => length
            .parse()
            .is_ok_and(|length: u64| (body.len() as u64) < length),
        ([coding], []) if coding == "chunked" => loop {
            let Some(line) = body.windows(2).position(|end| end == b"\r\n") else {
                let size = body.strip_suffix(b"\r").unwrap_or(body);
                return size.iter().all(u8::is_ascii_hexdigit);
            };
            let size = std::str::from_utf8(&body[..line]).unwrap_or_default();
            let Ok(size @ 1..) = usize::from_str_radix(size, 16) else {
                return false;
            };
            let rest = &body[line + 2..];
            let Some((_, behind)) = rest.split_at_checked(size) else {
                return true;
            };
            match behind {
                [b'\r', b'\n', behind @ ..] => body = behind,
                behind => return matches!(behind, b"" | b"\r"),
            }
        },
        _ => false,
    }
}

/// The statuses of all responses in what came back.
pub fn statuses(answer: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(answer);
    // `HTTP/1.x 200`
    let starts = text.match_indices("HTTP/1.");
    starts
        .map(|(at, _)| text[at + 9..at + 12].parse().unwrap())
        .collect()
}

/// `GET / HTTP/1.1` to a host, with these lines more.
pub fn get_with(fields: impl AsRef<[u8]>) -> Vec<u8> {
    [b"GET / HTTP/1.1\r\nHost: a\r\n", fields.as_ref(), b"\r\n"].concat()
}

/// The same as POST, for a body behind it.
pub fn post_with(fields: impl AsRef<[u8]>, body: impl AsRef<[u8]>) -> Vec<u8> {
    [
        b"POST / HTTP/1.1\r\nHost: a\r\n",
        fields.as_ref(),
        b"\r\n",
        body.as_ref(),
    ]
    .concat()
}

/// A request with this line and a host.
pub fn with_line(line: impl AsRef<[u8]>) -> Vec<u8> {
    [line.as_ref(), b"\r\nHost: a\r\n\r\n"].concat()
}

/// A POST whose body is chunked so.
pub fn chunked(body: impl AsRef<[u8]>) -> Vec<u8> {
    post_with("Transfer-Encoding: chunked\r\n", body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_all_of_a_request() {
        let sized = |body: &str| post_with("Content-Length: 3\r\n", body);
        for (bytes, unfinished) in [
            (b"POST / HT".to_vec(), true),
            (sized("ab"), true),
            (sized("abc"), false),
            (chunked(""), true),
            (chunked("3"), true),
            (chunked("3\r\nab"), true),
            (chunked("3\r\nabc\r\n3\r\nabc\r"), true),
            (chunked("3;a\r\nabc\r\n"), false),
            (chunked("3\r\nabcd"), false),
            (chunked("0\r\n"), false),
            (chunked("3\nabc"), false),
            (get_with(""), false),
            (
                post_with("Content-Length: 3\r\nContent-Length: 3\r\n", ""),
                false,
            ),
            (
                post_with("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", ""),
                false,
            ),
        ] {
            assert_eq!(
                is_unfinished(&bytes),
                unfinished,
                "{}",
                bytes.escape_ascii()
            );
        }
    }
}
