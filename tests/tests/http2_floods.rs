//! HTTP/2 clients that try to wear the proxy out: it ends their connection or stays small, and
//! serves others all the while.

use sluicegate_tests::http2::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PADDED, PING, PRIORITY, RST_STREAM,
    SETTINGS, Site, WINDOW_UPDATE, block, frame, headers, read_frame,
};
use sluicegate_tests::upstream::{Script, Upstream};
use sluicegate_tests::{soon, wire};
use tokio::io::AsyncWriteExt;

const LAST_PING: &[u8] = b"the last";
const GET: &[(&str, &str)] = &[
    (":method", "GET"),
    (":scheme", "https"),
    (":authority", "localhost"),
    (":path", "/flood"),
];

/// How a flood ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// The proxy has read all of it.
    Swallowed,
    /// The proxy closed the connection.
    Cut,
}

/// Sends `first`, then `times` what `again` makes of a counter, reading whatever comes back.
async fn flood(first: &[u8], times: u32, mut again: impl FnMut(u32) -> Vec<u8>) -> End {
    let upstream = Upstream::describing("pages").await;
    let site = Site::in_front_of(upstream.addr, "").await;
    site.assert_serves().await;
    let before = site.resident_kib();
    let raw = site.connect_raw(&[]).await;
    let (mut reader, mut writer) = tokio::io::split(raw.stream);
    let reading = async {
        loop {
            match read_frame(&mut reader).await {
                Ok(frame) if frame.flags == ACK && frame.payload == LAST_PING => {
                    return End::Swallowed;
                }
                Ok(_) => {}
                Err(_) => return End::Cut,
            }
        }
    };
    let writing = async {
        writer.write_all(first).await?;
        let mut batch = Vec::new();
        for count in 0..times {
            batch.extend(again(count));
            if batch.len() > 16 * 1024 {
                writer.write_all(&batch).await?;
                batch.clear();
            }
        }
        batch.extend(frame(PING, 0, 0, LAST_PING));
        writer.write_all(&batch).await?;
        writer.flush().await
    };
    let others = async {
        for _ in 0..5 {
            site.assert_serves().await;
        }
    };
    // That a write fails tells nothing that the reader does not see.
    let all = async { tokio::join!(reading, writing, others).0 };
    let end = soon("the end of the flood", all).await;
    site.assert_serves().await;
    let grown = site.resident_kib().saturating_sub(before);
    assert!(grown < 48 * 1024, "grown by {grown} KiB");
    end
}

/// A flood without an end, which the proxy must cut.
async fn check_is_cut(first: &[u8], again: impl FnMut(u32) -> Vec<u8>) {
    assert_eq!(flood(first, u32::MAX, again).await, End::Cut);
}

#[tokio::test]
async fn a_rapid_reset_is_cut() {
    let cancel = 8_u32.to_be_bytes();
    check_is_cut(b"", |count| {
        let stream = 2 * count + 1;
        [headers(stream, GET), frame(RST_STREAM, 0, stream, &cancel)].concat()
    })
    .await;
}

#[tokio::test]
async fn resets_that_the_client_provokes_are_cut() {
    type Fault<'a> = &'a dyn Fn(u32) -> Vec<u8>;
    let closed = |stream| headers(stream, GET);
    let open = |stream| {
        let mut fields = GET.to_vec();
        fields[0] = (":method", "POST");
        fields.push(("content-length", "1"));
        frame(HEADERS, END_HEADERS, stream, &block(&fields))
    };
    let most = (u32::MAX >> 1).to_be_bytes();
    let faults: [(&str, Fault<'_>); 6] = [
        ("a window by nothing", &|stream| {
            [closed(stream), frame(WINDOW_UPDATE, 0, stream, &[0; 4])].concat()
        }),
        ("a window by too much", &|stream| {
            [closed(stream), frame(WINDOW_UPDATE, 0, stream, &most)].concat()
        }),
        ("a priority of itself", &|stream| {
            let itself = [&stream.to_be_bytes()[..], &[16]].concat();
            [closed(stream), frame(PRIORITY, 0, stream, &itself)].concat()
        }),
        ("a body that is too long", &|stream| {
            [open(stream), frame(DATA, END_STREAM, stream, b"ab")].concat()
        }),
        ("trailers that are none", &|stream| {
            [open(stream), headers(stream, &[("X", "y")])].concat()
        }),
        ("a head that is none", &|stream| headers(stream, &GET[1..])),
    ];
    for (name, fault) in faults {
        let end = flood(b"", u32::MAX, |count| fault(2 * count + 1)).await;
        assert_eq!(end, End::Cut, "{name}");
    }
}

#[tokio::test]
async fn an_endless_head_is_cut() {
    let start = frame(HEADERS, END_STREAM, 1, &block(GET));
    let value = "v".repeat(1000);
    check_is_cut(&start, |_| {
        frame(CONTINUATION, 0, 1, &block(&[("x", &value)]))
    })
    .await;
}

#[tokio::test]
async fn an_endless_head_of_empty_frames_is_cut() {
    let start = frame(HEADERS, END_STREAM, 1, &block(GET));
    check_is_cut(&start, |_| frame(CONTINUATION, 0, 1, b"")).await;
}

#[tokio::test]
async fn empty_data_frames_are_cut() {
    let mut fields = GET.to_vec();
    fields[0] = (":method", "POST");
    let start = frame(HEADERS, END_HEADERS, 1, &block(&fields));
    check_is_cut(&start, |_| frame(DATA, 0, 1, b"")).await;
}

#[tokio::test]
async fn frames_that_carry_nothing_are_cut() {
    let counted = |count: u32| u64::from(count).to_be_bytes();
    let setting = |count: u32| [&4_u16.to_be_bytes()[..], &count.to_be_bytes()].concat();
    type Again<'a> = &'a dyn Fn(u32) -> Vec<u8>;
    let kinds: [(&str, Again<'_>); 7] = [
        ("PING", &|count| frame(PING, 0, 0, &counted(count))),
        ("answers to PING", &|count| {
            frame(PING, ACK, 0, &counted(count))
        }),
        ("SETTINGS", &|count| frame(SETTINGS, 0, 0, &setting(count))),
        ("empty SETTINGS", &|_| frame(SETTINGS, 0, 0, b"")),
        ("PRIORITY", &|count| {
            frame(PRIORITY, 0, 2 * count + 1, &[0, 0, 0, 0, 16])
        }),
        ("WINDOW_UPDATE", &|_| {
            frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])
        }),
        ("unknown frames", &|_| frame(0x42, 0, 0, b"")),
    ];
    for (name, again) in kinds {
        assert_eq!(flood(b"", u32::MAX, again).await, End::Cut, "{name}");
    }
}

#[tokio::test]
async fn window_updates_of_a_stream_are_cut() {
    let mut fields = GET.to_vec();
    fields[0] = (":method", "POST");
    let start = frame(HEADERS, END_HEADERS, 1, &block(&fields));
    check_is_cut(&start, |_| frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])).await;
}

#[tokio::test]
async fn data_that_is_all_padding_is_cut() {
    let mut fields = GET.to_vec();
    fields[0] = (":method", "POST");
    let start = frame(HEADERS, END_HEADERS, 1, &block(&fields));
    check_is_cut(&start, |_| frame(DATA, PADDED, 1, &[9; 10])).await;
}

#[tokio::test]
async fn compressed_bombs_cost_nothing_that_lasts() {
    // One long field goes into the table; each byte after it stands for the whole field again.
    let mut bomb = block(GET);
    bomb.extend([0x40, 1, b'x', 0x7f, 0x80 | 0x21, 0x1e]);
    bomb.extend([b'v'; 4000]);
    bomb.extend([0xbe; 12_000]);
    assert!(bomb.len() <= 16 * 1024 + 200);
    let (head, rest) = bomb.split_at(10_000);
    flood(b"", 200, |count| {
        let stream = 2 * count + 1;
        [
            frame(HEADERS, END_STREAM, stream, head),
            frame(CONTINUATION, END_HEADERS, stream, rest),
        ]
        .concat()
    })
    .await;
}

#[tokio::test]
async fn cookie_crumbs_count_as_fields() {
    // `cookie` with an empty value, two bytes each.
    let mut crumbs = block(GET);
    crumbs.extend([0x0f, 0x11, 0].repeat(4000));
    flood(b"", 500, |count| {
        frame(HEADERS, END_STREAM | END_HEADERS, 2 * count + 1, &crumbs)
    })
    .await;
}

#[tokio::test]
async fn streams_that_never_end_leave_room_for_others() {
    let mut fields = GET.to_vec();
    fields[0] = (":method", "POST");
    let start = block(&fields);
    flood(b"", 20_000, |count| {
        frame(HEADERS, END_HEADERS, 2 * count + 1, &start)
    })
    .await;
}

/// Answers without an end, until so many were asked for.
async fn pour(server: &Script) {
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..ENDLESS {
        let mut stream = server.accept().await;
        eprintln!("n");tasks.spawn(async move {
            wire::read_head(&mut stream).await.unwrap();
            let head = "HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n";
            stream.write_all(head.as_bytes()).await.unwrap();
            while stream.write_all(&[b'x'; 16 * 1024]).await.is_ok() {}
        });
    }
}

#[tokio::test]
async fn windows_of_nothing_hold_little() {
    let server = Script::new().await;
    let site = Site::in_front_of(server.addr, "").await;
    let before = site.resident_kib();
    let asking = async {
        let mut clients = Vec::new();
        for _ in 0..ENDLESS.div_ceil(STREAMS) {
            // SETTINGS_INITIAL_WINDOW_SIZE: no stream may send a byte of its body.
            let mut client = site.connect_raw(&[(4, 0)]).await;
            for count in 0..u32::try_from(STREAMS).unwrap() {
                client.send(&headers(2 * count + 1, GET)).await;
            }
            let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(3);
            while let Ok(Ok(f)) = tokio::time::timeout_at(deadline, read_frame(&mut client.stream)).await {
                if f.kind == RST_STREAM || (f.kind == 1 && !f.is_ok()) || f.kind == 7 || f.kind==4 { eprintln!("odd {f:?}"); } if f.kind==1 { eprintln!("got {}", f.stream); }
            }
            clients.push(client);
        }
        clients
    };
    let all = async { tokio::join!(pour(&server), asking) };
    let r = tokio::time::timeout(std::time::Duration::from_secs(8), all).await;
    if r.is_err() { panic!("{:#?}", &site.proxy.access_lines()); }
    let ((), clients) = r.unwrap();
    let grown = site.resident_kib().saturating_sub(before);
    assert!(grown < 48 * 1024, "grown by {grown} KiB");
    drop(clients);
}

/// Streams of one connection, and answers that nobody takes.
const STREAMS: usize = 128;
const ENDLESS: usize = 256;
