//! An upstream's HTTP/2 connection: any frames, through the proxy's client and its HTTP/1.1 writer.
//!
//! What is taken of an answer goes to the client as one whole answer, or visibly cut (see [`answers`](super::answers)),
//! whatever its fields held.

use std::future::Future as _;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::header::HeaderMap;
use http::{Method, Request, Response, StatusCode, Uri};
use http_body::{Body, Frame, SizeHint};

use super::answers::{check_sent, send};
use super::frames::{self, with_timers};
use super::requests::fields_of;
use super::strict::{Broken, Head, Message};
use super::wire::{Wire, finish};
use crate::forward;
use crate::http2::client::{Fault, ResponseBody, Waiters, connect};

/// Options (1 a HEAD), the size of the pieces, then frames: see [`frames::from_server`].
pub fn http2_answer(data: &[u8]) {
    if let Some((&[options, piece], data)) = data.split_first_chunk() {
        with_timers(|| relay(options, piece, &frames::from_server(data)));
    }
}

fn relay(options: u8, piece: u8, stream: &[u8]) {
    let method = match options & 1 != 0 {
        true => Method::HEAD,
        false => Method::GET,
    };
    let (wire, far) = Wire::new(stream, piece.max(MIN_PIECE));
    // Nothing but its settings, before it is asked.
    far.hold(stream.len() - frames::SETTINGS.len());
    let mut connecting = pin!(connect(wire, 1, Waiters::default()));
    let connected = finish(|cx| connecting.as_mut().poll(cx));
    let (mut client, driver) = connected.unwrap_or_else(|fault| panic!("{fault}"));
    let mut driver = pin!(driver);
    let mut over = false;
    let mut drive = || {
        let mut cx = Context::from_waker(Waker::noop());
        over = over || driver.as_mut().poll(&mut cx).is_ready();
    };
    let mut slot = client.take(false).unwrap_or_else(|| panic!("no slot"));
    let mut request = Request::new(());
    *request.method_mut() = method.clone();
    *request.uri_mut() = Uri::from_static("http://a.test/");
    let opened = slot.request(request, true);
    let (mut answer, _) = opened.unwrap_or_else(|fault| panic!("{fault}"));
    drive();
    far.hold(0);
    let answered = finish(|cx| {
        drive();
        Pin::new(&mut answer).poll(cx)
    });
    if let Ok((mut parts, stream)) = answered
        && parts.status != StatusCode::SWITCHING_PROTOCOLS
    {
        let body = ResponseBody::new(&parts.headers, stream, slot);
        let taken = Arc::new(Mutex::new(Taken::default()));
        let body = Noted(body, Arc::clone(&taken));
        let received = fields_of(&parts.headers);
        let promised = body.size_hint().exact();
        forward::downstream_response(&mut parts, false);
        let response = Response::from_parts(parts, body);
        let (written, sent) = send(&method, false, response, &mut drive);
        let taken = lock(&taken);
        // Where all came that was promised, what broke behind it is no part of the answer.
        let all = promised.filter(|length| *length == taken.data.len() as u64);
        let whole = sent || all.is_some();
        let reference = match whole {
            true => Ok(Message {
                head: Head::default(),
                body: taken.data.clone(),
                trailers: fields_of(&taken.trailers),
                extensions: 0,
            }),
            false => Err(Broken::Cut),
        };
        check_sent(&written, whole, method.as_str(), &received, &reference);
    }
    frames::check(&far.written());
}

/// What has come of a body.
#[derive(Default)]
struct Taken {
    data: Vec<u8>,
    trailers: HeaderMap,
}

/// A body as `body::ResponseBody` hands it on, and what came of it.
struct Noted(ResponseBody, Arc<Mutex<Taken>>);

impl Body for Noted {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let Noted(body, taken) = self.get_mut();
        Pin::new(body).poll_frame(cx).map_ok(|mut frame| {
            let mut taken = lock(taken);
            taken
                .data
                .extend_from_slice(frame.data_ref().map_or(b"", |data| data));
            if let Some(trailers) = frame.trailers_mut() {
                taken.trailers = trailers.clone();
                forward::clean_trailers(trailers);
            }
            frame
        })
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

fn lock(taken: &Mutex<Taken>) -> MutexGuard<'_, Taken> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

/// As in [`http2`](super::http2).
const MIN_PIECE: u8 = 8;
