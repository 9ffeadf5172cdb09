//! permessage-deflate as it is negotiated: who offers what to whom, seen from both ends.

use sluicegate_tests::client::tcp;
use sluicegate_tests::proxy::Proxy;
use sluicegate_tests::soon;
use sluicegate_tests::upstream::Script;
use sluicegate_tests::websocket::inflate::Inflater;
use sluicegate_tests::websocket::negotiation::Params;
use sluicegate_tests::wire::{self, Head};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const FIELD: &str = "sec-websocket-extensions";
const CHROME: &str = "permessage-deflate; client_max_window_bits";
/// What the proxy offers of itself.
const OURS: &str = "permessage-deflate; server_max_window_bits=12; client_max_window_bits, \
                    permessage-deflate; client_max_window_bits";

struct Handshake {
    /// As the upstream saw it.
    asked: Head,
    /// As the client got it.
    answered: Head,
    client: TcpStream,
    server: TcpStream,
}

/// One handshake in which the client offers, and the upstream chooses, these extensions.
async fn handshake(
    proxy: &Proxy,
    upstream: &Script,
    offered: &[&str],
    chosen: &[&str],
) -> Handshake {
    let lines = |values: &[&str]| -> String {
        let lines = values
            .iter()
            .map(|value| format!("Sec-WebSocket-Extensions: {value}\r\n"));
        lines.collect()
    };
    let request = format!(
        "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{}\r\n",
        lines(offered)
    );
    let accept = derive_accept_key(KEY.as_bytes());
    let response = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\n{}\r\n",
        lines(chosen)
    );
    let mut client = tcp(proxy.addr(0)).await;
    client.write_all(request.as_bytes()).await.unwrap();
    let mut server = upstream.accept().await;
    let asked = wire::read_head(&mut server).await.unwrap();
    server.write_all(response.as_bytes()).await.unwrap();
    let answered = wire::read_head(&mut client).await.unwrap();
    Handshake {
        asked,
        answered,
        client,
        server,
    }
}

/// The extensions that the upstream saw and that the client got.
async fn negotiated(
    proxy: &Proxy,
    upstream: &Script,
    offered: &[&str],
    chosen: &[&str],
) -> [Vec<String>; 2] {
    let ends = handshake(proxy, upstream, offered, chosen).await;
    assert_eq!(ends.answered.status(), 101, "{offered:?} {chosen:?}");
    [ends.asked, ends.answered].map(|head| {
        let values = head.fields.all(FIELD).into_iter();
        values.map(str::to_owned).collect()
    })
}

/// What a first payload says, within the windows that the proxy asks for.
fn inflated(payload: &[u8]) -> Vec<u8> {
    let params = Params {
        window_bits: 12,
        takeover: true,
    };
    Inflater::new(params).message(payload).unwrap()
}

/// A proxy whose heads are written in one pass, and one that edits them on the way.
async fn proxies(upstream: &Script, more: &str) -> [Proxy; 2] {
    let edited = format!("{more}\nrequest_headers = {{ set = {{ x-one = \"1\" }} }}");
    [
        Proxy::in_front_of(upstream.addr, more).await,
        Proxy::in_front_of(upstream.addr, &edited).await,
    ]
}

#[tokio::test]
async fn by_default_extensions_are_between_the_two_ends() {
    let upstream = Script::new().await;
    for proxy in proxies(&upstream, "").await {
        let offered = [
            "x-unknown;a=\"b\", permessage-deflate;client_max_window_bits",
            "y",
        ];
        let chosen = ["permessage-deflate;client_max_window_bits=9, x-unknown"];
        let seen = negotiated(&proxy, &upstream, &offered, &chosen).await;
        assert_eq!(seen, [&offered[..], &chosen[..]]);
        let nothing: [Vec<String>; 2] = Default::default();
        assert_eq!(negotiated(&proxy, &upstream, &[], &[]).await, nothing);
    }
}

#[tokio::test]
async fn terminated_legs_are_compressed_each_on_its_own() {
    let upstream = Script::new().await;
    for proxy in proxies(&upstream, "compression = \"terminate\"").await {
        for (offered, given) in [
            (
                &[CHROME][..],
                &["permessage-deflate; client_max_window_bits=12"][..],
            ),
            (&["permessage-deflate"], &["permessage-deflate"]),
            (&["x-unknown"], &[]),
            (&[], &[]),
        ] {
            for chosen in [
                &[][..],
                &["permessage-deflate; server_max_window_bits=12"],
                &["permessage-deflate; server_no_context_takeover; client_no_context_takeover"],
            ] {
                let seen = negotiated(&proxy, &upstream, offered, chosen).await;
                assert_eq!(seen, [&[OURS][..], given]);
            }
        }
    }
}

#[tokio::test]
async fn the_window_is_the_operators_choice() {
    let upstream = Script::new().await;
    for (window, ours, given) in [
        (15, CHROME, "permessage-deflate; client_max_window_bits=15"),
        (
            9,
            "permessage-deflate; server_max_window_bits=9; client_max_window_bits, \
             permessage-deflate; client_max_window_bits",
            "permessage-deflate; client_max_window_bits=9",
        ),
    ] {
        let more = format!("compression = \"terminate\"\ncompression_window = {window}");
        let proxy = Proxy::in_front_of(upstream.addr, &more).await;
        let seen = negotiated(&proxy, &upstream, &[CHROME], &[]).await;
        assert_eq!(seen, [[ours], [given]]);
    }
}

#[tokio::test]
async fn where_compression_is_off_nothing_is_offered_or_answered() {
    let upstream = Script::new().await;
    for proxy in proxies(&upstream, "compression = \"off\"").await {
        let nothing: [Vec<String>; 2] = Default::default();
        let offered = [CHROME, "x-unknown"];
        assert_eq!(negotiated(&proxy, &upstream, &offered, &[]).await, nothing);
    }
}

#[tokio::test]
async fn where_messages_are_read_only_deflate_passes() {
    let upstream = Script::new().await;
    for proxy in proxies(&upstream, "message_size = \"64KiB\"").await {
        let offered = [
            "x-unknown, permessage-deflate; server_max_window_bits=\"10\"",
            "y",
        ];
        let chosen = ["permessage-deflate; server_max_window_bits=10"];
        let seen = negotiated(&proxy, &upstream, &offered, &chosen).await;
        assert_eq!(seen, [chosen, chosen]);
        // Without others it goes on as it was spelled.
        let offered = ["permessage-deflate;client_max_window_bits"];
        let seen = negotiated(&proxy, &upstream, &offered, &[]).await;
        assert_eq!(seen, [&offered[..], &[]]);
    }
}

#[tokio::test]
async fn an_upstream_may_choose_only_what_it_was_offered() {
    let upstream = Script::new().await;
    for (more, chosen) in [
        ("", "x-unknown"),
        ("", "permessage-deflate; server_max_window_bits=16"),
        ("message_size = \"64KiB\"", "y"),
        ("compression = \"off\"", "permessage-deflate"),
        ("compression = \"terminate\"", "y"),
        (
            "compression = \"terminate\"",
            "permessage-deflate; client_max_window_bits",
        ),
        (
            "compression = \"terminate\"",
            "permessage-deflate, permessage-deflate",
        ),
    ] {
        let proxy = Proxy::in_front_of(upstream.addr, more).await;
        let ends = handshake(&proxy, &upstream, &["permessage-deflate, y"], &[chosen]).await;
        assert_eq!(ends.answered.status(), 502, "{more} {chosen}");
        assert_eq!(ends.answered.get(FIELD), None);
    }
}

#[tokio::test]
async fn a_client_without_compression_gets_frames_that_are_not_compressed() {
    let upstream = Script::new().await;
    let proxy = Proxy::in_front_of(upstream.addr, "compression = \"terminate\"").await;
    let mut ends = handshake(&proxy, &upstream, &[], &["permessage-deflate"]).await;
    // "Hello" as RFC 7692 §7.2.3.1 has it.
    let compressed = [0xc1, 0x07, 0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    ends.server.write_all(&compressed).await.unwrap();
    assert_eq!(receive(&mut ends.client, 7).await, b"\x81\x05Hello");
}

/// Where one leg has no compression, the proxy compresses for the other what is worth it.
#[tokio::test]
async fn what_a_side_without_compression_says_is_compressed_for_the_other() {
    let upstream = Script::new().await;
    let proxy = Proxy::in_front_of(upstream.addr, "compression = \"terminate\"").await;

    let mut ends = handshake(&proxy, &upstream, &[CHROME], &[]).await;
    // In fragments, of which one message is made; and one too short to get smaller, which stays as it was.
    let from_server = b"\x01\x08aaaaaaaa\x80\x08aaaaaaaa\x01\x01a\x80\x01b";
    ends.server.write_all(from_server).await.unwrap();
    let head = receive(&mut ends.client, 2).await;
    assert_eq!(head[0], 0xc1);
    let payload = receive(&mut ends.client, head[1].into()).await;
    assert_eq!(inflated(&payload), [b'a'; 16]);
    assert_eq!(receive(&mut ends.client, 6).await, b"\x01\x01a\x80\x01b");

    let mut ends = handshake(&proxy, &upstream, &[], &["permessage-deflate"]).await;
    let from_client = [&[0x81, 0x90, 0, 0, 0, 0][..], &[b'a'; 16]].concat();
    ends.client.write_all(&from_client).await.unwrap();
    let head = receive(&mut ends.server, 6).await;
    assert_eq!(head[0], 0xc1);
    let masked = receive(&mut ends.server, (head[1] & 0x7f).into()).await;
    let keys = head[2..].iter().cycle();
    let payload: Vec<u8> = masked
        .iter()
        .zip(keys)
        .map(|(byte, key)| byte ^ key)
        .collect();
    assert_eq!(inflated(&payload), [b'a'; 16]);
}

/// What must be whole before it is compressed has a limit; where nothing is compressed there is none.
#[tokio::test]
async fn a_message_that_is_collected_to_be_compressed_has_a_largest_size() {
    let upstream = Script::new().await;
    let proxy = Proxy::in_front_of(upstream.addr, "compression = \"terminate\"").await;
    let over_a_mib = [0x82, 0x7f, 0, 0, 0, 0, 0, 0x10, 0, 1];
    let close_1009 = [0x03, 0xf1];
    let mut ends = handshake(&proxy, &upstream, &[CHROME], &[]).await;
    ends.server.write_all(&over_a_mib).await.unwrap();
    let close = receive(&mut ends.client, 4).await;
    assert_eq!((close[0], &close[2..]), (0x88, &close_1009[..]));

    let mut ends = handshake(&proxy, &upstream, &[], &[]).await;
    ends.server.write_all(&over_a_mib).await.unwrap();
    assert_eq!(receive(&mut ends.client, 10).await, over_a_mib);
}

/// Legs that were settled each on its own can still read the same bytes.
#[tokio::test]
async fn a_message_that_both_legs_can_read_goes_on_as_it_came() {
    let upstream = Script::new().await;
    let proxy = Proxy::in_front_of(upstream.addr, "compression = \"terminate\"").await;
    let mut ends = handshake(&proxy, &upstream, &[CHROME], &["permessage-deflate"]).await;
    // "Hello", and "Hello" again by what is remembered of the first (RFC 7692 §7.2.3.2), in fragments.
    let from_client = [
        0xc1, 0x87, 0, 0, 0, 0, 0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, //
        0x41, 0x82, 0, 0, 0, 0, 0xf2, 0x00, 0x80, 0x83, 1, 2, 3, 4, 0x10, 0x02, 0x03,
    ];
    ends.client.write_all(&from_client).await.unwrap();
    assert_eq!(
        receive(&mut ends.server, from_client.len()).await,
        from_client
    );
    let from_server = [
        0xc1, 0x07, 0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, //
        0xc1, 0x05, 0xf2, 0x00, 0x11, 0x00, 0x00,
    ];
    ends.server.write_all(&from_server).await.unwrap();
    assert_eq!(
        receive(&mut ends.client, from_server.len()).await,
        from_server
    );
}

/// Here the client may refer to earlier messages, and the upstream keeps none.
#[tokio::test]
async fn a_message_that_the_other_leg_cannot_read_is_compressed_anew() {
    let upstream = Script::new().await;
    let proxy = Proxy::in_front_of(upstream.addr, "compression = \"terminate\"").await;
    let chosen = ["permessage-deflate; client_no_context_takeover; server_no_context_takeover"];
    let mut ends = handshake(&proxy, &upstream, &[CHROME], &chosen).await;
    let from_client = [
        0xc1, 0x87, 0, 0, 0, 0, 0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, //
        0xc1, 0x85, 0, 0, 0, 0, 0xf2, 0x00, 0x11, 0x00, 0x00,
    ];
    ends.client.write_all(&from_client).await.unwrap();
    for _ in 0..2 {
        let frame = receive(&mut ends.server, 2 + 4 + 7).await;
        assert_eq!(frame[..2], [0xc1, 0x87]);
        let key = &frame[2..6];
        let payload: Vec<u8> = (0..7).map(|at| frame[6 + at] ^ key[at % 4]).collect();
        assert_eq!(payload, [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]);
    }
}

async fn receive(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    soon("the bytes", stream.read_exact(&mut bytes))
        .await
        .unwrap();
    bytes
}
