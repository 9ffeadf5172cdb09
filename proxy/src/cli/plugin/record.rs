//! `sluicegate plugin record`: stands between clients and a server, and writes down what they say as cases.
//!
//! Bytes are passed on as they come, but for the offer of extensions: without it nothing is compressed. What is
//! read along goes into a `Transcript`. Of the handshake only what a case needs is kept: path, query and
//! subprotocols, no cookie and no other field. Plain HTTP/1.1 only; TLS and routes are the proxy's, before this
//! or behind it.

mod transcript;

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::super::echo::cannot_listen;
use super::super::{Failure, print, runtime, say};
use crate::ws::Side;
use transcript::{Handshake, Transcript};

/// Write down what clients and a server say, as cases for a plugin
///
/// It listens, passes everything on to the server at ADDR, and makes a case of each WebSocket that ends.
/// `plugin test --bless` then says what a plugin makes of it. Secrets in messages are written as they are; of
/// the handshake only path, query and subprotocols. SIGTERM and SIGINT stop it.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct Args {
    /// The server
    #[arg(value_name = "ADDR")]
    to: SocketAddr,
    /// Listen here; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8081")]
    bind: SocketAddr,
    /// Add the cases to this file instead of printing them
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(in crate::cli) fn record(args: &Args) -> Result<(), Failure> {
    runtime()?.block_on(async {
        let mut term = signal(SignalKind::terminate()).map_err(Failure::runtime)?;
        let mut int = signal(SignalKind::interrupt()).map_err(Failure::runtime)?;
        let listener = TcpListener::bind(args.bind)
            .await
            .map_err(|error| cannot_listen(args.bind, &error, "plugin record"))?;
        let address = listener.local_addr().map_err(Failure::runtime)?;
        say(&format!("recording what goes through {address}\n"));
        let (stop, stopped) = watch::channel(());
        let mut connections = JoinSet::new();
        let mut number = 0;
        loop {
            tokio::select! {
                _ = term.recv() => break,
                _ = int.recv() => break,
                Some(ended) = connections.join_next() => {
                    write(args, &mut number, ended.ok().flatten())?;
                }
                accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => {
                    // What fails in accepting fails for one client.
                    if let Ok((client, _)) = accepted {
                        connections.spawn(pass(client, args.to, stopped.clone()));
                    }
                }
            }
        }
        drop(stop);
        while let Some(ended) = connections.join_next().await {
            write(args, &mut number, ended.ok().flatten())?;
        }
        Ok(())
    })
}

/// Writes a conversation down, if there was one.
fn write(args: &Args, number: &mut u32, transcript: Option<Transcript>) -> Result<(), Failure> {
    let Some(transcript) = transcript else {
        return Ok(());
    };
    *number += 1;
    let case = transcript.case(*number);
    let Some(file) = &args.output else {
        return print(&case);
    };
    let written = OpenOptions::new().create(true).append(true).open(file);
    let written = written.and_then(|mut file| file.write_all(case.as_bytes()));
    written.map_err(|error| Failure::runtime(format!("cannot write `{}`: {error}", file.display())))
}

/// One connection, to its end or until it is to stop; `None`: no WebSocket came of it.
async fn pass(
    mut client: TcpStream,
    to: SocketAddr,
    mut stopped: watch::Receiver<()>,
) -> Option<Transcript> {
    let connect = async {
        let request = read_head(&mut client).await?;
        let handshake = Handshake::read(&request.head);
        let mut server = TcpStream::connect(to).await?;
        server.write_all(&handshake.without_extensions()).await?;
        server.write_all(&request.rest).await?;
        let answer = read_head(&mut server).await?;
        client.write_all(&answer.head).await?;
        client.write_all(&answer.rest).await?;
        io::Result::Ok((
            server,
            Transcript::begin(&handshake, &answer.head),
            request,
            answer,
        ))
    };
    let (mut server, transcript, request, answer) =
        timeout(HANDSHAKE_TIMEOUT, connect).await.ok()?.ok()?;
    let Some(mut transcript) = transcript else {
        tokio::select! {
            _ = copy_bidirectional(&mut client, &mut server) => {}
            _ = stopped.changed() => {}
        }
        return None;
    };
    transcript.read(Side::FromClient, &request.rest);
    transcript.read(Side::FromServer, &answer.rest);
    let transcript = Mutex::new(transcript);
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let talk = async {
        tokio::join!(
            listen(from_client, to_server, Side::FromClient, &transcript),
            listen(from_server, to_client, Side::FromServer, &transcript),
        )
    };
    tokio::select! {
        _ = talk => {}
        _ = stopped.changed() => {}
    }
    let transcript = transcript
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    Some(transcript)
}

/// Passes one direction on, and reads along, until it ends.
async fn listen(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    sender: Side,
    transcript: &Mutex<Transcript>,
) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = from.read(&mut chunk).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        let chunk = &chunk[..read];
        transcript
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .read(sender, chunk);
        to.write_all(chunk).await?;
    }
}

/// A head, with its blank line, and what came behind it.
struct HeadAndRest {
    head: Vec<u8>,
    rest: Vec<u8>,
}

/// Reads a head of HTTP/1.1.
async fn read_head(stream: &mut TcpStream) -> io::Result<HeadAndRest> {
    let mut head = Vec::new();
    loop {
        if stream.read_buf(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(end) = head.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            let rest = head.split_off(end + 4);
            return Ok(HeadAndRest { head, rest });
        }
        if head.len() > MAX_HEAD {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
}

/// A recorder for one's own tests has few clients.
const MAX_CONNECTIONS: usize = 256;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_HEAD: usize = 64 << 10;
const CHUNK: usize = 16 << 10;

const EXAMPLES: &str = "\
Examples:
  sluicegate plugin record 127.0.0.1:3000 --output cases/recorded.toml
  sluicegate run --from :8080 --to 127.0.0.1:8081    a proxy before it, for TLS and routes
  sluicegate plugin test --bless                     what the plugin makes of it, written down";
