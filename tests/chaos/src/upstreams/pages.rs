//! Ordinary requests, answered as they should be.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Result;
use std::time::Duration;

use sluicegate_tests::wire;
use tokio::io::{AsyncWriteExt, BufStream};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Answers each request with what was understood of it ([`answer`]), one for `/big` with [`BIG`] bytes.
pub(crate) async fn serve(stream: TcpStream) {
    // The proxy goes whenever it likes.
    let _ = serve_all(stream).await;
}

/// The answer to this request.
pub(crate) fn answer(method: &str, target: &str, body: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    let (length, hash) = (body.len(), hasher.finish());
    format!("{method} {target} {length} {hash:x}")
}

async fn serve_all(stream: TcpStream) -> Result<()> {
    let mut stream = BufStream::new(stream);
    loop {
        // The proxy keeps no connection for so long.
        let reading = timeout(Duration::from_secs(20), wire::read_request(&mut stream));
        let request = reading.await??;
        let target = request.head.target();
        let method = request.head.start.split(' ').next().unwrap_or_default();
        let body = match target.starts_with("/big") {
            true => "b".repeat(BIG),
            false => answer(method, target, &request.body),
        };
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body.as_bytes()).await?;
        stream.flush().await?;
    }
}

/// More than the buffers between the two ends hold.
pub(crate) const BIG: usize = 16 << 20;
