//! The pieces of the data path on their own: what each costs without a network; the tunnel goes over
//! socket pairs.
//!
//! `cargo bench --workspace --bench data_path` measures; with `-- --test` each runs once. What the whole proxy costs
//! is the load package's business.

#![allow(clippy::unwrap_used, reason = "a benchmark may fail by panicking")]

use std::fmt::Write as _;
use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use http::{HeaderMap, Method, Request, Response, request};
use http_body_util::Full;
use sluicegate::budget::Budget;
use sluicegate::config;
use sluicegate::drain::Drain;
use sluicegate::handshake;
use sluicegate::http1::{HeadLimits, server};
use sluicegate::route::Table;
use sluicegate::socket::Socket;
use sluicegate::stream::Stream;
use sluicegate::tunnel::{Leg, Level, Tunnel};
use sluicegate::ws::{Follower, Side};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

const HEAD: &[u8] = b"GET /chat/room/17?token=abc HTTP/1.1\r\n\
    Host: ws.example.com\r\n\
    Connection: keep-alive, Upgrade\r\n\
    Upgrade: websocket\r\n\
    Pragma: no-cache\r\n\
    Cache-Control: no-cache\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/131.0.0.0 Safari/537.36\r\n\
    Origin: https://www.example.com\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Accept-Language: en-GB,en;q=0.9\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\n\
    Sec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";

fn routes(c: &mut Criterion) {
    let mut group = c.benchmark_group("route lookup");
    for count in [10, 1_000] {
        let mut text = String::from("[[listener]]\nbind = \"127.0.0.1:0\"\n");
        for n in 0..count {
            let host = n / 5;
            write!(
                text,
                "[[route]]\nhost = \"h{host}.example.com\"\npath = \"/service/{n}/\"\nto = \"127.0.0.1:9\"\n"
            )
            .unwrap();
        }
        let source = Arc::new(config::Source {
            name: "bench.toml".to_owned(),
            text,
            dir: PathBuf::new(),
        });
        let (config, _) = config::parse(&source).unwrap();
        let table = Table::new(&config.routes);
        let n = count / 2;
        let (host, path) = (
            format!("h{}.example.com", n / 5),
            format!("/service/{n}/room"),
        );
        let headers = HeaderMap::new();
        group.bench_function(BenchmarkId::from_parameter(count), |b| {
            b.iter(|| table.find(black_box(&host), black_box(&path), &Method::GET, &headers));
        });
    }
}

fn opening_handshake(c: &mut Criterion) {
    let parts = head_parts();
    c.bench_function("handshake check", |b| {
        b.iter(|| handshake::classify(black_box(&parts), true).is_ok());
    });
    c.bench_function("handshake accept key", |b| {
        b.iter(|| handshake::accept_key(black_box("dGhlIHNhbXBsZSBub25jZQ==")));
    });
}

fn head_parts() -> request::Parts {
    let text = std::str::from_utf8(HEAD).unwrap();
    let fields = text.lines().skip(1).take_while(|line| !line.is_empty());
    let mut builder = Request::get("/chat/room/17?token=abc");
    for (name, value) in fields.filter_map(|line| line.split_once(": ")) {
        builder = builder.header(name, value);
    }
    builder.body(()).unwrap().into_parts().0
}

/// A request read and answered, on a stream that has it at hand.
fn http1_server(c: &mut Criterion) {
    let limits = HeadLimits {
        size: 32 * 1024,
        fields: 100,
    };
    let request = HEAD.repeat(100);
    let mut cx = Context::from_waker(Waker::noop());
    let mut group = c.benchmark_group("http1 server");
    group.throughput(Throughput::Elements(100));
    group.bench_function("100 GET", |b| {
        b.iter(|| {
            let stream = tokio::io::join(request.as_slice(), tokio::io::sink());
            let mut connection = server::Connection::new(stream, limits);
            while let Poll::Ready(Ok(Some(request))) = connection.poll_request(&mut cx) {
                drop(request);
                let body = Full::new(Bytes::from_static(b"hello"));
                let mut answer = connection.begin_answer(Response::new(body));
                assert!(connection.poll_answer(&mut answer, &mut cx).is_ready());
            }
        });
    });
}

fn frame_heads(c: &mut Criterion) {
    let mut group = c.benchmark_group("frame heads");
    for payload in [64, 16 * 1024] {
        let frame = client_frame(payload);
        let chunk = frame.repeat((64 * 1024 / frame.len()).max(1));
        group.throughput(Throughput::Bytes(chunk.len() as u64));
        group.bench_function(BenchmarkId::from_parameter(payload), |b| {
            let mut follower = Follower::new(Side::FromClient, false);
            b.iter(|| follower.follow(black_box(&chunk)).is_ok());
        });
    }
}

fn tunnel(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut group = c.benchmark_group("tunnel");
    for payload in [64, 16 * 1024] {
        let (mut client, mut server) = runtime.block_on(async { start_tunnel() });
        let frame = client_frame(payload);
        let mut received = vec![0; frame.len()];
        group.throughput(Throughput::Bytes(frame.len() as u64));
        group.bench_function(BenchmarkId::from_parameter(payload), |b| {
            b.iter(|| {
                runtime.block_on(async {
                    client.write_all(&frame).await.unwrap();
                    server.read_exact(&mut received).await.unwrap();
                });
            });
        });
    }
}

/// The two far ends of a tunnel that runs in the background.
fn start_tunnel() -> (UnixStream, UnixStream) {
    let (client, downstream) = UnixStream::pair().unwrap();
    let (server, upstream) = UnixStream::pair().unwrap();
    let leg = |socket| Leg {
        stream: Stream::Plain(Socket::Unix(socket)),
        early: bytes::Bytes::new(),
    };
    let tunnel = Tunnel {
        downstream: leg(downstream),
        upstream: leg(upstream),
        level: Level::Follow { compressed: false },
        silence: (None, None),
        idle_timeout: Duration::from_secs(3600),
        drain: Duration::from_secs(30),
        expiry: None,
        member: Drain::default().join(),
        budget: Budget::new(None),
        metrics: None,
    };
    tokio::spawn(tunnel.run());
    (client, server)
}

/// A masked binary frame.
fn client_frame(payload: usize) -> Vec<u8> {
    let mut frame = vec![0x82];
    match u16::try_from(payload).unwrap() {
        short @ 0..126 => frame.push(0x80 | short as u8),
        long => {
            frame.push(0x80 | 126);
            frame.extend(long.to_be_bytes());
        }
    }
    frame.extend([1, 2, 3, 4]);
    frame.resize(frame.len() + payload, 7);
    frame
}

criterion_group!(
    benches,
    routes,
    opening_handshake,
    http1_server,
    frame_heads,
    tunnel
);
criterion_main!(benches);
