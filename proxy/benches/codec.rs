//! The WebSocket codec on its own: what a byte and what a small frame cost at each level.
//!
//! `cargo bench --workspace --bench codec` measures; with `-- --test` each runs once. Frames are read as a
//! tunnel does it, from chunks of 64 KiB. `copy` beside `mask` is the machine's own limit.

#![allow(clippy::unwrap_used, reason = "a benchmark may fail by panicking")]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sluicegate::ws::deflate::{Deflater, Params};
use sluicegate::ws::utf8::Utf8;
use sluicegate::ws::{
    DataKind, Event, Follower, Reader, Rules, Side, Want, encode_compressed, encode_message, mask,
};

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const CHUNK: usize = 64 * 1024;
/// Frames of one iteration, and compressed ones.
const FRAMES: usize = 4096;
const COMPRESSED: usize = 200;

/// English with some other letters, as chats are.
fn text(len: usize) -> Vec<u8> {
    let mut text = String::new();
    while text.len() < len {
        text.push_str("Good morning, wie geht's? Schön, to hear from you: 東京 was great! ");
    }
    text.truncate(text.floor_char_boundary(len));
    text.push_str(&" ".repeat(len - text.len()));
    text.into_bytes()
}

fn frames(payload: &[u8], count: usize) -> Vec<u8> {
    let mut stream = Vec::new();
    for _ in 0..count {
        encode_message(DataKind::Text, payload, Some(KEY), &mut stream);
    }
    stream
}

fn rules(inspect: bool, deflate: Option<Params>) -> Rules {
    Rules {
        side: Side::FromClient,
        deflate,
        max_message: 1 << 20,
        max_frames: 4096,
        inspect,
    }
}

/// Reads a stream in chunks; returns something of every event, so that none is left out.
fn read(reader: &mut Reader, stream: &[u8], want: Want) -> usize {
    let mut seen = 0;
    for mut chunk in stream.chunks(CHUNK) {
        while let Some(event) = reader.read(&mut chunk, |_| want).unwrap() {
            seen += match event {
                Event::Message(message) => message.plain().len(),
                Event::Passed { wire, .. } => wire.len(),
                Event::Control(control) => control.payload().len(),
            };
        }
    }
    seen
}

/// Small frames: nanoseconds each. Large ones: bytes per second.
fn throughput(payload: usize) -> Throughput {
    if payload < 1024 {
        Throughput::Elements(FRAMES as u64)
    } else {
        Throughput::Bytes((payload * count(payload)) as u64)
    }
}

fn count(payload: usize) -> usize {
    if payload < 1024 { FRAMES } else { 256 }
}

fn follow(c: &mut Criterion) {
    let mut group = c.benchmark_group("follow");
    for size in [64, 16 * 1024] {
        let stream = frames(&text(size), count(size));
        group.throughput(throughput(size));
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter(|| {
                let mut follower = Follower::new(Side::FromClient, false);
                for chunk in stream.chunks(CHUNK) {
                    follower.follow(black_box(chunk)).unwrap();
                }
                follower.messages()
            });
        });
    }
}

fn read_messages(c: &mut Criterion) {
    let mut group = c.benchmark_group("read");
    for size in [64, 1024, 16 * 1024] {
        let stream = frames(&text(size), count(size));
        group.throughput(throughput(size));
        for (name, inspect, want) in [
            ("pass", false, Want::Pass),
            ("inspect", true, Want::Pass),
            ("whole", false, Want::Whole),
        ] {
            let mut reader = Reader::new(rules(inspect, None));
            group.bench_function(BenchmarkId::new(name, size), |b| {
                b.iter(|| read(&mut reader, black_box(&stream), want));
            });
        }
        // What a filter that forwards costs besides its call.
        let mut reader = Reader::new(rules(false, None));
        let mut out = Vec::new();
        group.bench_function(BenchmarkId::new("whole and on", size), |b| {
            b.iter(|| {
                for mut chunk in black_box(&stream[..]).chunks(CHUNK) {
                    out.clear();
                    while let Some(event) = reader.read(&mut chunk, |_| Want::Whole).unwrap() {
                        if let Event::Message(message) = event {
                            message.append_wire(&mut out);
                        }
                    }
                }
                out.len()
            });
        });
    }
}

fn read_compressed(c: &mut Criterion) {
    let params = Params {
        window_bits: 12,
        takeover: true,
    };
    let mut group = c.benchmark_group("read compressed");
    for size in [64, 1024, 16 * 1024] {
        let mut deflater = Deflater::new(params, 6);
        let mut stream = Vec::new();
        let payload = text(size.max(128));
        for n in 0..COMPRESSED {
            let mut deflated = Vec::new();
            // Each begins elsewhere in the text, as no two messages are the same.
            let start = n % 32;
            let plain = &payload[..payload.len() - 64];
            let plain = [&b"0123456789abcdefghijklmnopqrstuvwxyz"[start..], plain].concat();
            assert!(deflater.message(&plain, &mut deflated));
            encode_compressed(DataKind::Binary, &deflated, Some(KEY), &mut stream);
        }
        group.throughput(Throughput::Elements(COMPRESSED as u64));
        for (name, want) in [("inspect", Want::Pass), ("whole", Want::Whole)] {
            group.bench_function(BenchmarkId::new(name, size), |b| {
                b.iter(|| {
                    let mut reader = Reader::new(rules(true, Some(params)));
                    read(&mut reader, black_box(&stream), want)
                });
            });
        }
    }
}

fn encode(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode");
    for size in [64, 1024, 16 * 1024] {
        let payload = text(size);
        let mut out = Vec::new();
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter(|| {
                out.clear();
                encode_message(DataKind::Text, black_box(&payload), Some(KEY), &mut out);
                out.len()
            });
        });
    }
}

fn masking(c: &mut Criterion) {
    let mut group = c.benchmark_group("mask");
    for size in [64, 16 * 1024, 8 << 20] {
        let mut bytes = vec![7; size];
        let copy_of = bytes.clone();
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new("in place", size), |b| {
            b.iter(|| mask::apply(black_box(&mut bytes), black_box(KEY), 1));
        });
        group.bench_function(BenchmarkId::new("copy", size), |b| {
            b.iter(|| bytes.copy_from_slice(black_box(&copy_of)));
        });
    }
}

fn utf8(c: &mut Criterion) {
    let mut group = c.benchmark_group("utf8");
    for (name, bytes) in [
        ("64 B", text(64)),
        ("16 KiB", text(16 * 1024)),
        ("16 KiB of ASCII", vec![b'a'; 16 * 1024]),
    ] {
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                let mut utf8 = Utf8::default();
                utf8.push(black_box(&bytes)).unwrap();
                utf8.finish()
            });
        });
    }
}

criterion_group!(
    benches,
    follow,
    read_messages,
    read_compressed,
    encode,
    masking,
    utf8
);
criterion_main!(benches);
