//! Whole lines, as a reader of the log sees them.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use super::*;
use crate::facts::{Peer, TlsFacts};

fn connection() -> ConnectionFacts {
    ConnectionFacts {
        peer: Peer::Ip(([10, 0, 0, 9], 5555).into()),
        listener: Arc::from(":443"),
        tls: Some(Box::new(TlsFacts {
            version: "TLSv1.3",
            cipher: "TLS_AES_128_GCM_SHA256",
            sni: None,
            client_subject: Some(Arc::from("CN=device 7")),
            resumed: false,
            http2: false,
        })),
    }
}

fn exchange<'a>(connection: &'a ConnectionFacts, path: &'a str) -> Exchange<'a> {
    Exchange {
        connection,
        request_id: "0123456789abcdef",
        client_ip: Ipv4Addr::new(192, 0, 2, 1).into(),
        method: "GET",
        host: "ws.example.com",
        path,
        query: Some("token=secret"),
        protocol: "HTTP/1.1",
        route: Some("chat"),
        upstream: Some("backend"),
        labels: &[],
        endpoint: Some("10.0.0.11:3000"),
        upstream_protocol: Some("HTTP/1.1"),
    }
}

fn line(
    format: Format,
    query: bool,
    event: &str,
    fill: impl FnOnce(bool, &mut dyn Line),
) -> String {
    let mut buffer = "left over".to_owned();
    let at = UNIX_EPOCH + Duration::from_millis(1_800_000_000_123);
    format_line(&mut buffer, format, query, event, at, fill);
    buffer
}

fn refused<'a>(connection: &'a ConnectionFacts, path: &'a str) -> RequestEvent<'a> {
    RequestEvent {
        exchange: Exchange {
            upstream: None,
            endpoint: None,
            upstream_protocol: None,
            ..exchange(connection, path)
        },
        status: 403,
        duration: Duration::from_micros(1_234),
        upstream_duration: None,
        bytes_in: 0,
        bytes_out: 9,
        refused: Some("origin"),
        error: Some(ErrorLabel {
            side: "downstream",
            kind: "policy",
        }),
    }
}

fn close<'a>(connection: &'a ConnectionFacts, reason: &'a str) -> WsCloseEvent<'a> {
    WsCloseEvent {
        exchange: exchange(connection, "/ws/"),
        duration: Duration::from_secs(61),
        from_client: Traffic {
            bytes: 10,
            messages: 1,
        },
        from_upstream: Traffic {
            bytes: 2000,
            messages: 20,
        },
        close_code: Some(CloseCode(1001)),
        close_reason: Some(reason),
        closed_by: ClosedBy::Proxy,
        cause: "drain",
    }
}

#[test]
fn a_refused_request_as_json() {
    let connection = connection();
    let event = refused(&connection, "/a\"\n\u{1b}[31m");
    let text = line(Format::Json, false, "request", |q, l| {
        write_request(&event, q, l);
    });
    assert_eq!(
        text,
        concat!(
            r#"{"ts":"2027-01-15T08:00:00.123Z","event":"request","status":403,"method":"GET","#,
            r#""host":"ws.example.com","path":"/a\"\n\u001b[31m","query":"?…","#,
            r#""protocol":"HTTP/1.1","client_ip":"192.0.2.1","peer":"10.0.0.9:5555","#,
            r#""listener":":443","tls":"TLSv1.3","client_subject":"CN=device 7","route":"chat","#,
            r#""request_id":"0123456789abcdef","duration_ms":1.234,"bytes_in":0,"bytes_out":9,"#,
            r#""refused":"origin","error_side":"downstream","error_kind":"policy"}"#,
            "\n"
        )
    );
}

#[test]
fn a_closed_websocket_as_text() {
    let connection = connection();
    let event = close(&connection, "see you");
    let text = line(Format::Text, true, "ws.close", |q, l| {
        write_close(&event, q, l);
    });
    assert_eq!(
        text,
        concat!(
            "2027-01-15T08:00:00.123Z ws.close method=GET host=ws.example.com path=/ws/ ",
            "query=\"token=secret\" protocol=HTTP/1.1 client_ip=192.0.2.1 peer=10.0.0.9:5555 ",
            "listener=:443 tls=TLSv1.3 client_subject=\"CN=device 7\" route=chat upstream=backend ",
            "endpoint=10.0.0.11:3000 upstream_protocol=HTTP/1.1 request_id=0123456789abcdef duration_ms=61000.000 ",
            "bytes_in=10 bytes_out=2000 messages_in=1 messages_out=20 close_code=1001 ",
            "close_reason=\"see you\" closed_by=proxy cause=drain\n"
        )
    );
}

#[test]
fn every_event_is_json_with_its_keys() {
    let connection = connection();
    let check = |text: String, keys: &[&str]| {
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        for key in keys {
            assert!(json.get(key).is_some(), "no `{key}` in {text}");
        }
        assert!(!text.contains("secret"), "{text}");
    };
    let event = WsOpenEvent {
        exchange: exchange(&connection, "/ws/"),
        status: 101,
        duration: Duration::from_millis(3),
        upstream_duration: Some(Duration::from_millis(2)),
        subprotocol: Some("chat.v2"),
    };
    check(
        line(Format::Json, false, "ws.open", |q, l| {
            write_open(&event, q, l);
        }),
        &[
            "status",
            "upstream",
            "endpoint",
            "upstream_protocol",
            "upstream_ms",
            "subprotocol",
        ],
    );
    let event = close(&connection, "");
    check(
        line(Format::Json, false, "ws.close", |q, l| {
            write_close(&event, q, l);
        }),
        &["messages_out", "close_code", "closed_by", "cause"],
    );
}

#[test]
fn long_values_are_cut() {
    let connection = connection();
    let path = format!("/{}", "é".repeat(5_000));
    let event = refused(&connection, &path);
    let text = line(Format::Json, true, "request", |q, l| {
        write_request(&event, q, l);
    });
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let logged = json["path"].as_str().unwrap();
    assert!(logged.len() <= MAX_VALUE + '…'.len_utf8() && logged.ends_with("é…"));
}

#[test]
fn lines_reach_the_writer_unless_off() {
    let (out, written) = std::io::pipe().map(|(r, w)| (w, r)).unwrap();
    let writer = LogWriter::spawn("access", out, 10_000).unwrap();
    let connection = connection();
    for format in [AccessFormat::Off, AccessFormat::Text, AccessFormat::Json] {
        let log = AccessLog::new(format, false, &writer);
        assert_eq!(log.is_on(), format != AccessFormat::Off);
        log.request(&refused(&connection, "/"));
    }
    AccessLog::off().request(&refused(&connection, "/"));
    drop(writer);
    let text = std::io::read_to_string(written).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2);
    assert!(lines[0].contains(" request status=403 ") && lines[1].starts_with('{'));
}
