//! One connection to the admin listener, kept for as long as the run: where the proxy has no descriptors left,
//! a new one would wait.

use std::collections::BTreeMap;
use std::io::{Error, Result};
use std::net::SocketAddr;

use sluicegate_tests::wire::{self, Message};
use tokio::io::{AsyncWriteExt, BufStream};
use tokio::net::TcpStream;

/// Asks for metrics and reloads.
pub(crate) struct Admin {
    addr: SocketAddr,
    stream: Option<BufStream<TcpStream>>,
}

/// One series: its labels and its value.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    /// Without the prefix that all have.
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
}

impl Admin {
    pub(crate) fn new(addr: SocketAddr) -> Admin {
        Admin { addr, stream: None }
    }

    /// Everything that is counted and measured.
    pub(crate) async fn metrics(&mut self) -> Result<Vec<Sample>> {
        // The connection may have been closed as idle.
        let answer = match self.ask("GET", "/metrics").await {
            Ok(answer) => answer,
            Err(_) => self.ask("GET", "/metrics").await?,
        };
        let text = String::from_utf8_lossy(&answer.body);
        Ok(text.lines().filter_map(parse).collect())
    }

    /// Whether the reload was applied, and what the proxy said of it.
    pub(crate) async fn reload(&mut self) -> Result<(bool, String)> {
        let answer = self.ask("POST", "/reload").await?;
        let said = String::from_utf8_lossy(&answer.body).into_owned();
        match answer.head.status() {
            200 => Ok((true, said)),
            422 => Ok((false, said)),
            _ => Err(Error::other(answer.head.start)),
        }
    }

    async fn ask(&mut self, method: &str, path: &str) -> Result<Message> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => BufStream::new(TcpStream::connect(self.addr).await?),
        };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nX-Sluicegate-Admin: 1\r\n\
             Content-Length: 0\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await?;
        let answer = wire::read_response(&mut stream).await?;
        self.stream = Some(stream);
        Ok(answer)
    }
}

/// `name{label="value",…} number`; our labels have no quotes in them.
fn parse(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let value = value.parse().ok()?;
    let (name, labels) = match series.split_once('{') {
        None => (series, ""),
        Some((name, labels)) => (name, labels.strip_suffix('}')?),
    };
    let labels = labels.split("\",").filter_map(|label| {
        let (name, value) = label.split_once("=\"")?;
        Some((name.to_owned(), value.trim_end_matches('"').to_owned()))
    });
    Some(Sample {
        name: name.strip_prefix("sluicegate_")?.to_owned(),
        labels: labels.collect(),
        value,
    })
}
