//! What leaves a stream and when, and that every byte arrives.

use std::future::poll_fn;
use std::io::{Read as _, Write as _};

use futures_util::FutureExt;
use rustls::{ServerConfig, ServerConnection};

use super::*;

/// An accepted connection and its client, both past the handshake.
async fn pair(
    ca: &Authority,
    client: &Arc<ClientConfig>,
) -> (ServerTlsStream, tokio_rustls::client::TlsStream<UnixStream>) {
    let server = ServerTls::build(&listener(vec![ca.sign("a", &["a.test"])]), true, None).unwrap();
    let (near, far) = UnixStream::pair().unwrap();
    let connector = TlsConnector::from(client.clone());
    let name = ServerName::try_from("a.test").unwrap();
    let (accepted, connected) = tokio::join!(
        server.accept(Socket::Unix(far)),
        connector.connect(name, near)
    );
    (accepted.unwrap().0, connected.unwrap())
}

/// Bytes that show when one is lost or out of place.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 31 + n / 251) as u8).collect()
}

#[tokio::test]
async fn bytes_of_every_length_arrive_in_order_through_reads_of_every_size() {
    let ca = Authority::new();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for (len, read_size) in [(1, 1), (70_000, 100), (300_000, 8_192), (2_000_000, 65_536)] {
            let (server, client) = pair(&ca, &Arc::new(ca.client_of_version(None, version))).await;
            let (mut from_server, mut to_client) = tokio::io::split(server);
            let (mut from_client, mut to_server) = tokio::io::split(client);
            let sent = pattern(len);
            let echo = async {
                let mut chunk = vec![0; read_size];
                loop {
                    let n = from_server.read(&mut chunk).await.unwrap();
                    if n == 0 {
                        break;
                    }
                    to_client.write_all(&chunk[..n]).await.unwrap();
                    to_client.flush().await.unwrap();
                }
                to_client.shutdown().await.unwrap();
            };
            let send = async {
                to_server.write_all(&sent).await.unwrap();
                to_server.shutdown().await.unwrap();
            };
            let mut received = Vec::new();
            let receive = from_client.read_to_end(&mut received);
            let (_, _, ended) = tokio::join!(echo, send, receive);
            ended.unwrap();
            assert!(received == sent, "{len} bytes in reads of {read_size}");
        }
    }
}

#[tokio::test]
async fn slices_of_one_write_arrive_together() {
    let ca = Authority::new();
    let client = Arc::new(ca.client(None));
    let (mut server, mut client) = pair(&ca, &client).await;
    let slices = [io::IoSlice::new(b"head"), io::IoSlice::new(b"+body")];
    assert_eq!(server.write_vectored(&slices).await.unwrap(), 9);
    server.flush().await.unwrap();
    let mut received = [0; 64];
    let n = client.read(&mut received).await.unwrap();
    assert_eq!(received[..n], *b"head+body");
}

#[tokio::test]
async fn last_words_wait_for_the_goodbye_and_leave_with_it() {
    let ca = Authority::new();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let (mut server, client) = pair(&ca, &Arc::new(ca.client_of_version(None, version))).await;
        let (mut socket, mut connection) = client.into_inner();
        let mut sent = [0; 4096];
        server.write_all(b"talk, ").await.unwrap();
        let talk = socket.read(&mut sent).await.unwrap();

        server.cork();
        server.write_all(b"last ").await.unwrap();
        server.write_all(b"words").await.unwrap();
        let rest = &mut sent[talk..];
        assert!(socket.read(rest).now_or_never().is_none());
        poll_fn(|cx| server.poll_goodbye(cx)).await.unwrap();
        let words = socket.read(rest).await.unwrap();
        // Neither a second goodbye nor a word after it.
        poll_fn(|cx| server.poll_goodbye(cx)).await.unwrap();
        assert!(server.write_all(b"more").await.is_err());
        assert!(socket.read(&mut rest[words..]).now_or_never().is_none());

        let mut all = &sent[..talk + words];
        while !all.is_empty() {
            connection.read_tls(&mut all).unwrap();
        }
        let state = connection.process_new_packets().unwrap();
        assert!(state.peer_has_closed());
        let mut heard = String::new();
        connection.reader().read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "talk, last words");
    }
}

#[tokio::test]
async fn what_is_corked_waits_for_a_flush_and_is_bounded() {
    let ca = Authority::new();
    let (mut server, mut client) = pair(&ca, &Arc::new(ca.client(None))).await;
    server.cork();
    server.write_all(b"answer").await.unwrap();
    let mut heard = [0; 6];
    assert!(client.read_exact(&mut heard).now_or_never().is_none());
    server.flush().await.unwrap();
    client.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"answer");

    let long = pattern(20_000);
    let mut heard = vec![0; long.len()];
    server.write_all(&long[..10]).await.unwrap();
    server.write_all(&long[10..]).await.unwrap();
    client.read_exact(&mut heard).await.unwrap();
    assert!(heard == long);
}

#[tokio::test]
async fn a_peer_that_does_not_read_holds_the_writer_back() {
    let ca = Authority::new();
    let client = Arc::new(ca.client(None));
    let (mut server, mut client) = pair(&ca, &client).await;
    let chunk = vec![7; 64 * 1024];
    let mut written = 0;
    // Until the socket and the one chunk that the stream holds itself are full.
    while let Some(n) = server.write(&chunk).now_or_never() {
        written += n.unwrap();
        assert!(written < 64 << 20, "nothing holds the writer back");
    }
    // Half a record comes in: the reader waits for the rest, whatever the writer waits for.
    let (client_io, connection) = client.get_mut();
    connection.writer().write_all(b"whole").unwrap();
    let mut record = Vec::new();
    connection.write_tls(&mut record).unwrap();
    let (front, back) = record.split_at(7);
    client_io.write_all(front).await.unwrap();
    let mut whole = [0; 5];
    for _ in 0..2 {
        assert!(server.read_exact(&mut whole).now_or_never().is_none());
    }
    client_io.write_all(back).await.unwrap();
    server.read_exact(&mut whole).await.unwrap();
    assert_eq!(&whole, b"whole");
    let write = async {
        server.shutdown().await.unwrap();
    };
    let mut received = Vec::new();
    let (_, read) = tokio::join!(write, client.read_to_end(&mut received));
    assert_eq!(read.unwrap(), written);
}

#[tokio::test]
async fn an_end_without_close_notify_is_an_error_and_garbage_is_refused() {
    let ca = Authority::new();
    let client = Arc::new(ca.client(None));
    let (mut server, client) = pair(&ca, &client).await;
    drop(client.into_inner());
    let error = server.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);

    let client = Arc::new(ca.client(None));
    let (mut server, client) = pair(&ca, &client).await;
    let (mut socket, mut connection) = client.into_inner();
    socket.write_all(&[23, 3, 3, 0, 32]).await.unwrap();
    socket.write_all(&[0; 32]).await.unwrap();
    let error = server.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(server.write_all(b"x").await.is_err());
    drop(server);
    // The tickets and the alert.
    let mut rest = Vec::new();
    socket.read_to_end(&mut rest).await.unwrap();
    connection.read_tls(&mut rest.as_slice()).unwrap();
    let seen = connection.process_new_packets().unwrap_err();
    assert!(
        matches!(
            seen,
            rustls::Error::AlertReceived(rustls::AlertDescription::BadRecordMac)
        ),
        "{seen}"
    );
}

#[tokio::test]
async fn a_clients_finished_leaves_with_its_first_bytes_or_before_its_first_read() {
    let ca = Authority::new();
    let source = ca.sign("a", &["a.test"]);
    let chain = vec![CertificateDer::from_pem_file(&source.cert.value).unwrap()];
    let key = PrivateKeyDer::from_pem_file(&source.key.value).unwrap();
    let server = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map(Arc::new)
        .unwrap();
    let config = UpstreamTls {
        ca: Some(ca.path("ca.pem")),
        ..UpstreamTls::default()
    };
    let client = ClientTls::build(&config, &(1..2), None).unwrap();

    for reads_first in [false, true] {
        let (near, mut far) = UnixStream::pair().unwrap();
        let mut server = ServerConnection::new(server.clone()).unwrap();
        let answer_hello = async {
            let mut bytes = [0; 4096];
            let len = far.read(&mut bytes).await.unwrap();
            server.read_tls(&mut &bytes[..len]).unwrap();
            server.process_new_packets().unwrap();
            let mut flight = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut flight).unwrap();
            }
            far.write_all(&flight).await.unwrap();
        };
        let connect = client.connect(Socket::Unix(near), "a.test", Wish::Http1);
        let (stream, ()) = tokio::join!(connect, answer_hello);
        let (mut stream, _) = stream.unwrap();

        let mut bytes = [0; 4096];
        assert!(far.read(&mut bytes).now_or_never().is_none());
        if reads_first {
            assert!(stream.read_u8().now_or_never().is_none());
        } else {
            stream.write_all(b"first").await.unwrap();
        }
        let len = far.read(&mut bytes).await.unwrap();
        server.read_tls(&mut &bytes[..len]).unwrap();
        let state = server.process_new_packets().unwrap();
        assert!(!server.is_handshaking());
        let expected = if reads_first { 0 } else { b"first".len() };
        assert_eq!(state.plaintext_bytes_to_read(), expected);
    }
}
