//! A client against scripted servers, over memory and under paused time.

use std::convert::Infallible;
use std::io;

use bytes::BytesMut;
use futures_util::stream;
use h2::Reason;
use h2::server::{self, SendResponse};
use http::{HeaderValue, Response};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt, Full, StreamBody};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::time::{advance, sleep};

use super::liveness::{PING_TIMEOUT, SILENCE};
use super::*;

const STALL: Duration = Duration::from_secs(60);

type Requested = (Request<RecvStream>, SendResponse<Bytes>);

/// A client, and the requests that reach its server.
async fn pair(
    settings: &server::Builder,
    streams: u32,
) -> (Client, mpsc::UnboundedReceiver<Requested>) {
    let (ours, theirs) = duplex(1 << 16);
    let (tell, requests) = mpsc::unbounded_channel();
    let settings = settings.clone();
    tokio::spawn(async move {
        let mut server = settings.handshake(theirs).await.unwrap();
        while let Some(Ok(request)) = server.accept().await {
            let _ = tell.send(request);
        }
    });
    let (client, driver) = connect(ours, streams, Waiters::default()).await.unwrap();
    tokio::spawn(driver);
    (client, requests)
}

fn get() -> Request<()> {
    Request::get("https://example.com/path").body(()).unwrap()
}

fn post() -> Request<()> {
    Request::post("https://example.com/path").body(()).unwrap()
}

fn ok() -> Response<()> {
    Response::new(())
}

/// The fault of a GET that a server treats so.
async fn fault_of(answer: impl FnOnce(&mut SendResponse<Bytes>)) -> Fault {
    let (mut client, mut requests) = pair(&server::Builder::new(), 1).await;
    let mut slot = client.take(false).unwrap();
    let (response, _send) = slot.request(get(), true).unwrap();
    let (_, mut respond) = requests.recv().await.unwrap();
    answer(&mut respond);
    response.await.unwrap_err()
}

#[tokio::test(start_paused = true)]
async fn slots_are_as_many_as_both_sides_allow() {
    for (theirs, ours, expect) in [(Some(3), 100, 3), (Some(100), 2, 2), (None, 5, 5)] {
        let mut settings = server::Builder::new();
        if let Some(most) = theirs {
            settings.max_concurrent_streams(most);
        }
        let (mut client, _requests) = pair(&settings, ours).await;
        let mut slots: Vec<Slot> = std::iter::from_fn(|| client.take(false)).collect();
        assert_eq!(slots.len(), expect, "{theirs:?} and {ours}");
        assert_eq!(client.idle_for(Instant::now()), None);
        let freed = client.shared.freed.wait(false);
        slots.pop();
        freed.await;
        assert!(client.take(false).is_some(), "one came back");
        drop(slots);
        advance(Duration::from_secs(7)).await;
        let idle = client.idle_for(Instant::now());
        assert_eq!(idle, Some(Duration::from_secs(7)));
    }
}

#[tokio::test(start_paused = true)]
async fn tunnels_leave_half_of_the_room_to_requests() {
    for (streams, tunnels) in [(1, 1), (2, 1), (5, 3), (8, 4)] {
        let (mut client, _requests) = pair(&server::Builder::new(), streams).await;
        let held: Vec<Slot> = std::iter::from_fn(|| client.take(true)).collect();
        assert_eq!(held.len(), tunnels, "{streams}");
        let mut requests: Vec<Slot> = std::iter::from_fn(|| client.take(false)).collect();
        assert_eq!(held.len() + requests.len(), streams as usize);
        // A request's place that comes back is none for a tunnel, a tunnel's is.
        requests.pop();
        assert!(client.take(true).is_none());
        drop(held);
        assert!(client.take(true).is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn a_place_that_comes_back_wakes_one_of_each_kind() {
    let waiters = Waiters::default();
    let [first, second] = [(); 2].map(|()| waiters.wait(false));
    let tunnel = waiters.wait(true);
    let (first, second) = (tokio::spawn(first), tokio::spawn(second));
    tokio::task::yield_now().await;
    waiters.wake_one();
    tunnel.await;
    first.await.unwrap();
    assert!(!second.is_finished());
    waiters.wake_all();
    second.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_server_that_announces_websockets_is_known_at_once() {
    for announces in [true, false] {
        let mut settings = server::Builder::new();
        if announces {
            settings.enable_connect_protocol();
        }
        let (mut client, _requests) = pair(&settings, 1).await;
        assert_eq!(client.take(false).unwrap().speaks_websocket(), announces);
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_goes_out_while_its_answer_comes_back() {
    let (mut client, mut requests) = pair(&server::Builder::new(), 1).await;
    let mut slot = client.take(false).unwrap();
    // More than all windows and buffers between.
    let sent: Bytes = (0..1 << 20).map(|n: u32| n.to_le_bytes()[1]).collect();
    let body = Full::new(sent.clone()).with_trailers(async {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-end", HeaderValue::from_static("request"));
        Some(Ok::<_, Infallible>(trailers))
    });
    tokio::spawn(async move {
        let (request, mut respond) = requests.recv().await.unwrap();
        let mut body = request.into_body();
        let mut send = respond.send_response(ok(), false).unwrap();
        while let Some(data) = body.data().await {
            let data = data.unwrap();
            body.flow_control().release_capacity(data.len()).unwrap();
            send.send_data(data, false).unwrap();
        }
        let trailers = body.trailers().await.unwrap().unwrap();
        send.send_trailers(trailers).unwrap();
    });
    let (mut answer, send) = slot.request(post(), false).unwrap();
    let mut upload = Upload::new(send, Box::pin(body), STALL);
    let (parts, stream) = poll_fn(|cx| {
        let _ = upload.poll_send(cx);
        Pin::new(&mut answer).poll(cx)
    })
    .await
    .unwrap();
    assert!(!upload.is_finished(), "the windows hold it back");
    let body = ResponseBody::beside(&parts.headers, stream, slot, upload);
    let whole = body.collect().await.unwrap();
    assert_eq!(whole.trailers().unwrap()["x-end"], "request");
    assert_eq!(whole.to_bytes(), sent);
    assert!(
        client.idle_for(Instant::now()).is_some(),
        "the slot is back"
    );
}

#[tokio::test(start_paused = true)]
async fn faults_tell_who_has_seen_what() {
    for (reason, unseen) in [
        (Reason::REFUSED_STREAM, true),
        (Reason::HTTP_1_1_REQUIRED, true),
        (Reason::INTERNAL_ERROR, false),
        (Reason::CANCEL, false),
        (Reason::NO_ERROR, false),
    ] {
        let fault = fault_of(|respond| respond.send_reset(reason)).await;
        assert_eq!(fault.is_unseen(), unseen, "{reason}: {fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn heads_that_break_the_rules_are_refused() {
    let with = |fields: &[(&'static str, &str)]| {
        let mut head = ok();
        for (name, value) in fields {
            let value = HeaderValue::from_str(value).unwrap();
            head.headers_mut().append(*name, value);
        }
        head
    };
    let many = vec![("a", "b"); FIELDS + 1];
    let large = "x".repeat(HEAD_SIZE as usize);
    for (what, head) in [
        ("fields", with(&many)),
        ("size", with(&[("a", &large)])),
        ("blank before", with(&[("a", " b")])),
        ("blank behind", with(&[("a", "b\t")])),
        ("length", with(&[("content-length", "1x")])),
        (
            "lengths",
            with(&[("content-length", "1"), ("content-length", "2")]),
        ),
    ] {
        let fault = fault_of(|respond| {
            respond.send_response(head, true).unwrap();
        })
        .await;
        assert!(
            matches!(fault, Fault::Head(_) | Fault::Protocol(_)),
            "{what}: {fault:?}"
        );
        assert!(!fault.is_unseen());
    }
    let interim = |status: u16| Response::builder().status(status).body(()).unwrap();
    let fault = fault_of(|respond| {
        for _ in 0..=INTERIMS {
            respond.send_informational(interim(103)).unwrap();
        }
    })
    .await;
    assert!(
        matches!(fault, Fault::Head(HeadFault::Interims)),
        "{fault:?}"
    );
    let fault = fault_of(|respond| {
        let mut blank = interim(103);
        let value = HeaderValue::from_static(" b");
        blank.headers_mut().insert("a", value);
        respond.send_informational(blank).unwrap();
    })
    .await;
    assert!(
        matches!(fault, Fault::Head(_) | Fault::Protocol(_)),
        "{fault:?}"
    );
    let fault = fault_of(|respond| {
        respond.send_informational(interim(101)).unwrap();
    })
    .await;
    assert!(
        matches!(fault, Fault::Head(HeadFault::Switching)),
        "{fault:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn interim_answers_are_heard_or_left_out_and_one_length_is_said() {
    let (mut client, mut requests) = pair(&server::Builder::new(), 1).await;
    let mut slot = client.take(false).unwrap();
    let (mut answer, _send) = slot.request(get(), true).unwrap();
    let (_, mut respond) = requests.recv().await.unwrap();
    let early = |link| {
        let early = Response::builder().status(103).header("link", link);
        early.body(()).unwrap()
    };
    respond.send_informational(early("</a>")).unwrap();
    match poll_fn(|cx| answer.poll_heard(cx)).await.unwrap() {
        Heard::Interim(head) => assert_eq!(head.headers["link"], "</a>"),
        Heard::Answer(..) => panic!("there is none yet"),
    }
    respond.send_informational(early("</b>")).unwrap();
    let head = Response::builder()
        .header("content-length", "2")
        .header("content-length", "2")
        .body(())
        .unwrap();
    let mut send = respond.send_response(head, false).unwrap();
    let (parts, stream) = answer.await.unwrap();
    assert_eq!(parts.status, 200);
    assert_eq!(parts.headers.len(), 1);
    let body = ResponseBody::new(&parts.headers, stream, slot);
    assert_eq!(body.size_hint().exact(), Some(2));
    assert!(!body.is_end_stream());
    send.send_data("ok".into(), true).unwrap();
    assert_eq!(body.collect().await.unwrap().to_bytes(), "ok");
}

#[tokio::test(start_paused = true)]
async fn a_whole_answer_is_whole_though_the_server_wants_no_more() {
    for (whole, reason) in [
        (true, Reason::NO_ERROR),
        (false, Reason::NO_ERROR),
        (false, Reason::CANCEL),
    ] {
        let (mut client, mut requests) = pair(&server::Builder::new(), 1).await;
        let mut slot = client.take(false).unwrap();
        let (answer, send) = slot.request(post(), false).unwrap();
        let (_, mut respond) = requests.recv().await.unwrap();
        let mut body = respond.send_response(ok(), false).unwrap();
        body.send_data("enough".into(), whole).unwrap();
        let (parts, stream) = answer.await.unwrap();
        body.send_reset(reason);
        let pending = StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>());
        let upload = Upload::new(send, pending, STALL);
        let body = ResponseBody::beside(&parts.headers, stream, slot, upload);
        let collected = body.collect().await;
        assert_eq!(collected.is_ok(), whole, "{reason}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_breaks_off_is_not_taken_for_whole() {
    let (mut client, mut requests) = pair(&server::Builder::new(), 1).await;
    let mut slot = client.take(false).unwrap();
    let (answer, send) = slot.request(post(), false).unwrap();
    let (request, mut respond) = requests.recv().await.unwrap();
    let _send = respond.send_response(ok(), false).unwrap();
    let (parts, stream) = answer.await.unwrap();
    let (tell, mut pieces) = mpsc::unbounded_channel::<Result<Frame<Bytes>, io::Error>>();
    let body = StreamBody::new(stream::poll_fn(move |cx| pieces.poll_recv(cx)));
    let upload = Upload::new(send, body, STALL);
    let _body = ResponseBody::beside(&parts.headers, stream, slot, upload);
    tell.send(Ok(Frame::data("half".into()))).unwrap();
    let mut received = request.into_body();
    assert_eq!(received.data().await.unwrap().unwrap(), "half");
    tell.send(Err(io::ErrorKind::Other.into())).unwrap();
    let error = received.data().await.unwrap().unwrap_err();
    assert_eq!(error.reason(), Some(Reason::CANCEL));
}

#[tokio::test(start_paused = true)]
async fn goaway_ends_new_streams_but_not_those_that_live() {
    let (ours, theirs) = duplex(1 << 16);
    let (tell, mut requests) = mpsc::unbounded_channel();
    let leave = Arc::new(Notify::new());
    let left = Arc::clone(&leave);
    tokio::spawn(async move {
        let mut server = server::handshake(theirs).await.unwrap();
        loop {
            tokio::select! {
                request = server.accept() => match request {
                    Some(Ok(request)) => {
                        let _ = tell.send(request);
                    }
                    _ => return,
                },
                () = left.notified() => server.graceful_shutdown(),
            }
        }
    });
    let (mut client, driver) = connect(ours, 10, Waiters::default()).await.unwrap();
    let driver = tokio::spawn(driver);
    let mut slot = client.take(false).unwrap();
    let (answer, _send) = slot.request(get(), true).unwrap();
    let (_, mut respond): Requested = requests.recv().await.unwrap();
    let mut late = client.take(false).unwrap();
    leave.notify_one();
    while client.is_good() {
        tokio::task::yield_now().await;
    }
    assert!(client.take(false).is_none());
    let fault = late.request(get(), true).unwrap_err();
    assert!(matches!(fault, Fault::GoneAway) && fault.is_unseen());
    let mut send = respond.send_response(ok(), false).unwrap();
    send.send_data("still here".into(), true).unwrap();
    let (parts, stream) = answer.await.unwrap();
    let body = ResponseBody::new(&parts.headers, stream, slot);
    assert_eq!(body.collect().await.unwrap().to_bytes(), "still here");
    driver.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn clients_that_leave_do_not_end_a_connection() {
    let mut last = 0;
    let (mut client, _driver) = bare(move |kind, frame| {
        const RST_STREAM: u8 = 3;
        let stream = &frame[5..9];
        let number = u32::from_be_bytes(stream.try_into().unwrap());
        if kind != RST_STREAM || number <= last {
            return Vec::new();
        }
        // An answer that has crossed the reset: HEADERS with END_STREAM, `:status: 200`.
        last = number;
        [&[0, 0, 1, 1, 0x5], stream, &[0x88]].concat()
    })
    .await;
    for _ in 0..30 {
        let slots: Vec<Slot> = std::iter::from_fn(|| client.take(false)).collect();
        let begun: Vec<_> = slots
            .into_iter()
            .map(|mut slot| (slot.request(get(), true).unwrap(), slot))
            .collect();
        assert_eq!(begun.len(), 100);
        sleep(Duration::from_millis(1)).await;
        drop(begun);
        sleep(Duration::from_millis(1)).await;
    }
    assert!(client.is_good());
}

#[tokio::test(start_paused = true)]
async fn answers_that_nobody_reads_leave_the_others_alone() {
    let (mut client, mut requests) = pair(&server::Builder::new(), 41).await;
    let mut stalled = Vec::new();
    for _ in 0..40 {
        let mut slot = client.take(false).unwrap();
        let (answer, _send) = slot.request(get(), true).unwrap();
        let (_, mut respond) = requests.recv().await.unwrap();
        let mut send = respond.send_response(ok(), false).unwrap();
        send.reserve_capacity(STREAM_WINDOW as usize);
        let frame = Bytes::from_static(&[b'x'; 64]);
        while send.capacity() >= frame.len() {
            send.send_data(frame.clone(), false).unwrap();
        }
        stalled.push((answer.await.unwrap(), slot, send));
    }
    let mut slot = client.take(false).unwrap();
    let (answer, _send) = slot.request(get(), true).unwrap();
    let (_, mut respond) = requests.recv().await.unwrap();
    let mut send = respond.send_response(ok(), false).unwrap();
    send.send_data("for me".into(), true).unwrap();
    let (parts, stream) = answer.await.unwrap();
    let body = ResponseBody::new(&parts.headers, stream, slot);
    assert_eq!(body.collect().await.unwrap().to_bytes(), "for me");
}

#[tokio::test(start_paused = true)]
async fn a_cut_connection_leaves_it_open_what_was_seen() {
    let (ours, theirs) = duplex(1 << 16);
    let serving = tokio::spawn(async move {
        let mut server: server::Connection<_, Bytes> = server::handshake(theirs).await.unwrap();
        server.accept().await.unwrap().unwrap();
    });
    let (mut client, driver) = connect(ours, 10, Waiters::default()).await.unwrap();
    tokio::spawn(driver);
    let mut slot = client.take(false).unwrap();
    let (answer, _send) = slot.request(get(), true).unwrap();
    serving.await.unwrap();
    let fault = answer.await.unwrap_err();
    assert!(
        matches!(fault, Fault::Closed(_)) && !fault.is_unseen(),
        "{fault:?}"
    );
    assert!(!client.is_good());
    let fault = slot.request(get(), true).unwrap_err();
    assert!(fault.is_unseen(), "{fault:?}");
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_room_is_told_when_there_will_be_none() {
    for leaves in [true, false] {
        let (ours, theirs) = duplex(1 << 16);
        let serving = tokio::spawn(async move {
            let mut server: server::Connection<_, Bytes> = server::handshake(theirs).await.unwrap();
            let _asked = server.accept().await.unwrap().unwrap();
            if leaves {
                server.graceful_shutdown();
                assert!(server.accept().await.is_none());
            }
        });
        let freed = Waiters::default();
        let (mut client, driver) = connect(ours, 1, freed.clone()).await.unwrap();
        tokio::spawn(driver);
        let mut slot = client.take(false).unwrap();
        let _asked = slot.request(get(), true).unwrap();
        assert!(client.take(false).is_none());
        freed.wait(false).await;
        assert!(!client.is_good());
        serving.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_use_closes_by_itself() {
    let (ours, theirs) = duplex(1 << 16);
    let serving = tokio::spawn(async move {
        let mut server: server::Connection<_, Bytes> = server::handshake(theirs).await.unwrap();
        server.accept().await.is_none()
    });
    let (client, driver) = connect(ours, 10, Waiters::default()).await.unwrap();
    let driver = tokio::spawn(driver);
    drop(client);
    driver.await.unwrap();
    assert!(serving.await.unwrap(), "in order");
}

/// A server of bare frames, which says its settings, and to each frame what `react` makes of its kind and
/// bytes.
async fn bare(
    mut react: impl FnMut(u8, &[u8]) -> Vec<u8> + Send + 'static,
) -> (Client, tokio::task::JoinHandle<()>) {
    let (ours, mut theirs) = duplex(1 << 16);
    tokio::spawn(async move {
        let mut preface = [0; 24];
        theirs.read_exact(&mut preface).await.unwrap();
        theirs
            .write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0])
            .await
            .unwrap();
        while let Some(frame) = read_frame(&mut theirs).await {
            let said = react(frame[3], &frame);
            if theirs.write_all(&said).await.is_err() {
                return;
            }
        }
    });
    let (client, driver) = connect(ours, 100, Waiters::default()).await.unwrap();
    (client, tokio::spawn(driver))
}

/// As [`bare`], of a server that answers pings if it `lives`; tells when they came.
async fn pinged(
    lives: bool,
) -> (
    Client,
    mpsc::UnboundedReceiver<Instant>,
    tokio::task::JoinHandle<()>,
) {
    let (tell, pings) = mpsc::unbounded_channel();
    let (client, driver) = bare(move |kind, frame| {
        const PING: u8 = 6;
        if kind != PING || frame[4] != 0 {
            return Vec::new();
        }
        let _ = tell.send(Instant::now());
        let mut pong = frame.to_vec();
        pong[4] = 1;
        if lives { pong } else { Vec::new() }
    })
    .await;
    (client, pings, driver)
}

/// All the bytes of a frame.
async fn read_frame(stream: &mut DuplexStream) -> Option<BytesMut> {
    let mut frame = BytesMut::zeroed(9);
    stream.read_exact(&mut frame).await.ok()?;
    let len = usize::from(frame[0]) << 16 | usize::from(frame[1]) << 8 | usize::from(frame[2]);
    frame.resize(9 + len, 0);
    stream.read_exact(&mut frame[9..]).await.ok()?;
    Some(frame)
}

#[tokio::test(start_paused = true)]
async fn a_vanished_server_is_found_by_its_silence() {
    let start = Instant::now();
    let (mut client, mut pings, driver) = pinged(false).await;
    let mut slot = client.take(false).unwrap();
    let (answer, _send) = slot.request(get(), true).unwrap();
    let fault = answer.await.unwrap_err();
    assert!(matches!(fault, Fault::Closed(_)), "{fault:?}");
    assert!(pings.recv().await.is_some());
    driver.await.unwrap();
    let waited = start.elapsed();
    assert!(
        waited >= PING_TIMEOUT && waited <= 2 * SILENCE + PING_TIMEOUT,
        "{waited:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_long_silence_is_not_filled_with_pings() {
    let start = Instant::now();
    let (mut client, mut pings, _driver) = pinged(true).await;
    let mut slot = client.take(false).unwrap();
    let (_answer, _send) = slot.request(get(), true).unwrap();
    sleep(Duration::from_secs(1000)).await;
    let mut times = Vec::new();
    while let Ok(at) = pings.try_recv() {
        times.push(at - start);
    }
    assert!((3..=4).contains(&times.len()), "{times:?}");
    assert!(
        times.is_sorted_by(|a, b| *a + Duration::from_secs(300) < *b),
        "{times:?}"
    );
    assert!(client.is_good());
}

#[tokio::test(start_paused = true)]
async fn after_a_rest_the_server_has_to_prove_itself() {
    for lives in [true, false] {
        let (mut client, mut pings, _driver) = pinged(lives).await;
        let first = client.take(false).unwrap();
        assert!(!first.is_reused() && first.prove().await, "it is new");
        drop(first);
        advance(REST / 2).await;
        assert!(
            client.take(false).unwrap().prove().await,
            "it was used a moment ago"
        );
        advance(REST).await;
        let (second, third) = (client.take(false).unwrap(), client.take(false).unwrap());
        assert!(second.is_reused());
        let before = Instant::now();
        assert_eq!(tokio::join!(second.prove(), third.prove()), (lives, lives));
        assert!(before.elapsed() <= Duration::from_secs(3));
        assert!(pings.try_recv().is_ok());
        assert!(pings.try_recv().is_err(), "one ping was enough");
        assert_eq!(client.take(false).is_some(), lives);
    }
}
