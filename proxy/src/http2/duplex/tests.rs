//! Both roles against each other over a real connection in memory.

use std::future::poll_fn;
use std::task::Waker;
use std::time::Duration;

use h2::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;

/// A connection, and what drives its two ends.
pub(crate) struct Connection {
    requests: h2::client::SendRequest<Bytes>,
    accepted: tokio::sync::mpsc::UnboundedReceiver<(SendStream<Bytes>, RecvStream)>,
    drivers: [JoinHandle<()>; 2],
}

/// The handles of one stream.
struct Ends {
    client: (SendStream<Bytes>, RecvStream),
    server: (SendStream<Bytes>, RecvStream),
}

impl Connection {
    /// A stream has [`WINDOW`], the connection four of them.
    pub(crate) async fn new() -> Connection {
        let (near, far) = tokio::io::duplex(64 << 10);
        let (send, accepted) = tokio::sync::mpsc::unbounded_channel();
        let server = tokio::spawn(async move {
            let mut connection = server_builder().handshake(far).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let answer = respond.send_response(http::Response::new(()), false);
                let _ = send.send((answer.unwrap(), request.into_body()));
            }
        });
        let (requests, connection) = client_builder()
            .handshake::<DuplexStream, Bytes>(near)
            .await
            .unwrap();
        let client = tokio::spawn(async {
            let _ = connection.await;
        });
        Connection {
            requests,
            accepted,
            drivers: [server, client],
        }
    }

    async fn stream(&mut self) -> Ends {
        let request = http::Request::builder().uri("https://a.test/").body(());
        let mut requests = self.requests.clone().ready().await.unwrap();
        let (answer, send) = requests.send_request(request.unwrap(), false).unwrap();
        let recv = answer.await.unwrap().into_body();
        Ends {
            client: (send, recv),
            server: self.accepted.recv().await.unwrap(),
        }
    }

    /// The client's end and the server's end of a new stream.
    pub(crate) async fn pair(&mut self) -> (Duplex, Duplex) {
        self.stream().await.duplexes()
    }
}

impl Ends {
    fn duplexes(self) -> (Duplex, Duplex) {
        (
            Duplex::client(self.client.0, self.client.1),
            Duplex::server(self.server.0, self.server.1),
        )
    }
}

fn server_builder() -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(WINDOW)
        .initial_connection_window_size(4 * WINDOW)
        .max_send_buffer_size(SEND_BUFFER);
    builder
}

fn client_builder() -> h2::client::Builder {
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(WINDOW)
        .initial_connection_window_size(4 * WINDOW)
        .max_send_buffer_size(SEND_BUFFER);
    builder
}

async fn goodbye(end: &mut Duplex) -> io::Result<()> {
    poll_fn(|cx| end.poll_goodbye(cx)).await
}

/// Writes until it would have to wait for the peer.
async fn fill(end: &mut Duplex) -> usize {
    let piece = [7; 10_000];
    let mut written = 0;
    // The clock is paused: it goes on once nobody else can.
    while let Ok(wrote) = timeout(Duration::from_secs(1), end.write(&piece)).await {
        written += wrote.unwrap();
    }
    written
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

const WINDOW: u32 = 64 << 10;
const SEND_BUFFER: usize = 32 << 10;

#[tokio::test]
async fn what_is_written_comes_back_whole() {
    let mut connection = Connection::new().await;
    for length in [
        0,
        1,
        125,
        PIECE - 1,
        PIECE,
        PIECE + 1,
        16 << 10,
        WINDOW as usize,
        (1 << 20) + 1,
    ] {
        for client_asks in [true, false] {
            let (client, server) = connection.pair().await;
            let (asking, echoing) = match client_asks {
                true => (client, server),
                false => (server, client),
            };
            let echo = tokio::spawn(async move {
                let (mut reading, mut writing) = tokio::io::split(echoing);
                tokio::io::copy(&mut reading, &mut writing).await.unwrap();
                writing.shutdown().await.unwrap();
                // Until the other end has read the end, too.
                reading.unsplit(writing)
            });
            let said = pattern(length);
            let (mut reading, mut writing) = tokio::io::split(asking);
            let mut heard = Vec::new();
            let saying = async {
                writing.write_all(&said).await.unwrap();
                writing.shutdown().await.unwrap();
            };
            let (read, ()) = tokio::join!(reading.read_to_end(&mut heard), saying);
            assert_eq!(read.unwrap(), length);
            assert!(heard == said, "{length}");
            echo.await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_read_takes_as_many_frames_as_fit_and_leaves_the_rest() {
    let mut connection = Connection::new().await;
    let Ends { client, server } = connection.stream().await;
    let (mut send, _answers) = client;
    let mut server = Duplex::server(server.0, server.1);
    // Frames without a byte are no end.
    for piece in ["", "one", "", "two", "three"] {
        send.send_data(Bytes::from_static(piece.as_bytes()), false)
            .unwrap();
    }
    // All frames travel together with the first.
    let mut first = [0; 1];
    server.read_exact(&mut first).await.unwrap();
    let mut buf = [0; 8];
    assert_eq!(server.read(&mut buf).await.unwrap(), 8);
    assert_eq!(&buf, b"netwothr");
    assert_eq!(server.read(&mut buf).await.unwrap(), 2);
    assert_eq!(&buf[..2], b"ee");
    send.send_data(Bytes::from_static(b"end"), true).unwrap();
    let mut rest = Vec::new();
    server.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"end");
    assert_eq!(server.read(&mut buf).await.unwrap(), 0, "an end stays one");
}

/// Waits until a writer may send so many bytes.
async fn has_room(send: &mut SendStream<Bytes>, wanted: usize) {
    send.reserve_capacity(wanted);
    while send.capacity() < wanted {
        poll_fn(|cx| send.poll_capacity(cx)).await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_read_is_told_with_what_is_said_or_when_it_is_much() {
    const READ: usize = MOST_UNTOLD as usize - 1;
    const WRITTEN: usize = 40_000;
    let patience = Duration::from_secs(1);
    let mut connection = Connection::new().await;
    for speaks in [true, false] {
        let Ends { client, server } = connection.stream().await;
        let (mut send, _answers) = client;
        let mut server = Duplex::server(server.0, server.1);
        has_room(&mut send, 1).await;
        send.send_data(Bytes::from(vec![7; WRITTEN]), false)
            .unwrap();
        server.read_exact(&mut [0; READ]).await.unwrap();
        has_room(&mut send, WINDOW as usize - WRITTEN).await;
        timeout(patience, has_room(&mut send, SEND_BUFFER))
            .await
            .expect_err("nothing was told");
        match speaks {
            true => server.write_all(b"!").await.unwrap(),
            false => drop(server.read_exact(&mut [0; 1]).await.unwrap()),
        }
        timeout(patience, has_room(&mut send, SEND_BUFFER))
            .await
            .unwrap();
    }
}

#[test]
fn a_little_more_than_whole_frames_begins_with_the_little() {
    for (length, first) in [
        (0, 0),
        (1, 1),
        (SHORT, SHORT),
        (PIECE - 1, PIECE - 1),
        (PIECE, PIECE),
        (PIECE + 1, 1),
        (PIECE + SHORT, SHORT),
        (PIECE + SHORT + 1, PIECE),
        (2 * PIECE, PIECE),
        (3 * PIECE + 7, 7),
    ] {
        assert_eq!(piece(length), first, "{length}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_stalls_stops_its_writer_and_nobody_else() {
    let mut connection = Connection::new().await;
    for client_writes in [true, false] {
        let (client, server) = connection.pair().await;
        let (mut writer, mut reader) = match client_writes {
            true => (client, server),
            false => (server, client),
        };
        let written = fill(&mut writer).await;
        assert!(written >= WINDOW as usize, "{written}");
        assert!(written <= WINDOW as usize + SEND_BUFFER, "{written}");
        let (mut other, mut its_peer) = connection.pair().await;
        let said = pattern(100_000);
        let mut heard = vec![0; said.len()];
        let (wrote, read) = tokio::join!(other.write_all(&said), its_peer.read_exact(&mut heard));
        wrote.unwrap();
        read.unwrap();
        assert!(heard == said);
        // Whoever waits for room is woken by a reader that goes on.
        let mut got = vec![0; written + 5];
        let (wrote, read) = tokio::join!(writer.write_all(b"hello"), reader.read_exact(&mut got));
        wrote.unwrap();
        read.unwrap();
        assert_eq!(&got[written..], b"hello");
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_end_holds_nothing_of_the_connections_window() {
    let mut connection = Connection::new().await;
    let mut idle = Vec::new();
    for _ in 0..20 {
        let (mut client, mut server) = connection.pair().await;
        client.write_all(b"hello").await.unwrap();
        server.read_exact(&mut [0; 5]).await.unwrap();
        idle.push((client, server));
    }
    let mut filled = Vec::new();
    let mut written = 0;
    for _ in 0..4 {
        let (mut client, server) = connection.pair().await;
        written += fill(&mut client).await;
        filled.push((client, server));
    }
    // Each has had its stream's whole window, which makes the connection's.
    let windows = 4 * WINDOW as usize;
    assert!(written >= windows - 20 * 5, "{written}");
}

#[tokio::test]
async fn each_direction_ends_on_its_own() {
    let mut connection = Connection::new().await;
    for client_first in [true, false] {
        let (client, server) = connection.pair().await;
        let (mut first, mut second) = match client_first {
            true => (client, server),
            false => (server, client),
        };
        first.write_all(b"last").await.unwrap();
        first.shutdown().await.unwrap();
        first.shutdown().await.unwrap();
        let mut heard = Vec::new();
        second.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"last");
        second.write_all(b"answer").await.unwrap();
        second.shutdown().await.unwrap();
        heard.clear();
        first.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"answer");
        assert!(first.write(b"more").await.is_err(), "behind the end");
    }
}

#[tokio::test]
async fn a_reset_ends_both_directions_behind_what_came_before_it() {
    let mut connection = Connection::new().await;
    for reason in [Reason::CANCEL, Reason::NO_ERROR, Reason::INTERNAL_ERROR] {
        for client_resets in [true, false] {
            let Ends { client, server } = connection.stream().await;
            let (mut resetting, mut other) = match client_resets {
                true => (client, Duplex::server(server.0, server.1)),
                false => (server, Duplex::client(client.0, client.1)),
            };
            resetting
                .0
                .send_data(Bytes::from_static(b"words"), false)
                .unwrap();
            let mut heard = [0; 3];
            other.read_exact(&mut heard).await.unwrap();
            resetting.0.send_reset(reason);
            let mut rest = Vec::new();
            let error = other.read_to_end(&mut rest).await.unwrap_err();
            assert_eq!(rest, b"ds");
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
            let error = other.write(b"x").await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
            let again = other.read(&mut heard).await.unwrap_err();
            assert_eq!(again.kind(), io::ErrorKind::ConnectionReset, "{again}");
        }
    }
}

#[tokio::test]
async fn a_reset_wakes_who_waits_to_read_and_who_waits_to_write() {
    let mut connection = Connection::new().await;
    let Ends { client, server } = connection.stream().await;
    let (mut reading, mut writing) = tokio::io::split(Duplex::server(server.0, server.1));
    let reader = tokio::spawn(async move { reading.read(&mut [0; 10]).await });
    let writer = tokio::spawn(async move {
        let piece = [7; 10_000];
        loop {
            if let Err(error) = writing.write_all(&piece).await {
                return error;
            }
        }
    });
    let (mut send, mut recv) = client;
    // The window is full and stays so.
    let mut unread = 0;
    while unread < WINDOW as usize {
        unread += recv.data().await.unwrap().unwrap().len();
    }
    assert!(!reader.is_finished() && !writer.is_finished());
    send.send_reset(Reason::CANCEL);
    let error = reader.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(writer.await.unwrap().kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_drop_without_an_end_resets() {
    let mut connection = Connection::new().await;
    for client_drops in [true, false] {
        let Ends { client, server } = connection.stream().await;
        let (dropped, (mut send, mut recv)) = match client_drops {
            true => (Duplex::client(client.0, client.1), server),
            false => (Duplex::server(server.0, server.1), client),
        };
        drop(dropped);
        let error = recv.data().await.unwrap().unwrap_err();
        assert_eq!(error.reason(), Some(Reason::CANCEL));
        let reset = poll_fn(|cx| send.poll_reset(cx)).await;
        assert_eq!(reset.unwrap(), Reason::CANCEL);
    }
}

#[tokio::test]
async fn last_words_arrive_behind_a_goodbye() {
    let mut connection = Connection::new().await;
    for client_leaves in [true, false] {
        let (client, server) = connection.pair().await;
        let (mut leaving, mut staying) = match client_leaves {
            true => (client, server),
            false => (server, client),
        };
        leaving.write_all(&pattern(20_000)).await.unwrap();
        goodbye(&mut leaving).await.unwrap();
        goodbye(&mut leaving).await.unwrap();
        drop(leaving);
        let mut heard = Vec::new();
        staying.read_to_end(&mut heard).await.unwrap();
        assert!(heard == pattern(20_000));
    }
}

#[tokio::test]
async fn only_a_clients_goodbye_waits_for_its_connection() {
    let mut connection = Connection::new().await;
    let (mut client, mut server) = connection.pair().await;
    let cx = &mut Context::from_waker(Waker::noop());
    client.write_all(&pattern(20_000)).await.unwrap();
    // The connection's task has had no turn since.
    assert!(client.poll_goodbye(cx).is_pending());
    server.write_all(&pattern(20_000)).await.unwrap();
    assert!(server.poll_goodbye(cx).is_ready());
    goodbye(&mut client).await.unwrap();
    // What both have ended cannot be undone.
    let (mut client, mut server) = connection.pair().await;
    server.shutdown().await.unwrap();
    assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
    client.write_all(&pattern(20_000)).await.unwrap();
    assert!(client.poll_goodbye(cx).is_ready());
    drop(client);
    let mut heard = Vec::new();
    server.read_to_end(&mut heard).await.unwrap();
    assert!(heard == pattern(20_000));
}

#[tokio::test]
async fn a_goodbye_to_a_peer_that_is_gone_does_not_wait() {
    for client_leaves in [true, false] {
        let mut connection = Connection::new().await;
        let (client, server) = connection.pair().await;
        let (mut leaving, other) = match client_leaves {
            true => (client, server),
            false => (server, client),
        };
        drop(other);
        assert!(leaving.read(&mut [0; 1]).await.is_err(), "reset");
        assert!(goodbye(&mut leaving).await.is_err());
    }
}

#[tokio::test]
async fn a_connection_that_breaks_is_no_end() {
    let mut connection = Connection::new().await;
    let (mut client, mut server) = connection.pair().await;
    for driver in connection.drivers {
        driver.abort();
    }
    for end in [&mut client, &mut server] {
        let error = end.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
        assert!(end.write(b"x").await.is_err());
    }
}

#[test]
fn an_idle_end_is_small() {
    assert!(
        size_of::<Duplex>() <= 96,
        "it takes {} bytes",
        size_of::<Duplex>()
    );
}
