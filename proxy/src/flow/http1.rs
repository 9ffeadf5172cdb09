//! One HTTP/1.1 connection: its requests in turn, under one timer, until it ends or leaves HTTP.
//!
//! The connection's own task does everything: it reads a request, polls what serves it, writes the
//! answer. Of an idle connection nothing of that is left but this record.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONNECTION;
use http::{HeaderValue, StatusCode};
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use crate::body::{Incoming, ResponseBody};
use crate::budget::Account;
use crate::drain::{Member, Phase};
use crate::error::Failure;
use crate::flow::connection::Connection;
use crate::flow::interim::Herald;
use crate::flow::watch::{Waiting, Watch};
use crate::flow::websocket::Pending;
use crate::flow::{Answered, exchange, handle};
use crate::http1::server::{self, Answer, Fault};
use crate::http1::{HeadLimits, Violation};
use crate::pace::Pace;
use crate::snapshot::Snapshot;
use crate::stream::Stream;

/// A stream that leaves HTTP/1.1.
pub(super) struct Left {
    /// The upgrade whose 101 was written; without one the client begins to speak HTTP/2.
    pub(super) pending: Option<Box<Pending>>,
    pub(super) stream: Stream,
    /// What was read past HTTP/1.1's last head.
    pub(super) early: Bytes,
    pub(super) member: Member,
}

/// Serves HTTP/1.1 on a stream to its end, or until something else is spoken on it.
pub(super) async fn serve(
    stream: Stream,
    connection: Arc<Connection>,
    snapshot: &Snapshot,
    member: Member,
) -> Option<Left> {
    let mut driver = Driver::new(stream, connection, snapshot);
    let ended = {
        let mut timer = pin!(sleep_until(driver.watch.begins_until()));
        poll_fn(|cx| driver.poll(&member, timer.as_mut(), cx)).await
    };
    // What was being served or answered ends now, however long the goodbye takes.
    let Driver { client, stage, .. } = driver;
    let breaks_off = matches!(&stage, Stage::Answering(answer, _) if answer.would_look_whole());
    drop(stage);
    match ended {
        Ended::Over | Ended::Cut if breaks_off => client.with_stream(Stream::break_off),
        Ended::Left(pending) => {
            let (stream, early) = client.into_stream()?;
            return Some(Left {
                pending,
                stream,
                early,
                member,
            });
        }
        Ended::Served => {
            let (mut stream, _) = client.into_stream()?;
            if !stream.is_plain() {
                // Whether the client hears it is its own affair.
                let _ = timeout(LINGER, poll_fn(|cx| stream.poll_goodbye(cx))).await;
            }
        }
        // After a client that has ended there is nobody to say goodbye to.
        Ended::Over | Ended::Cut if client.has_ended() => {}
        Ended::Over => Box::pin(hang_up(client, LINGER_BYTES)).await,
        Ended::Cut => Box::pin(hang_up(client, 0)).await,
    }
    None
}

/// How HTTP's part of a connection ended.
enum Ended {
    /// By the rules, or because one side broke them.
    Over,
    /// Idle for too long or in another's place, or the proxy stops at once: not waited for.
    Cut,
    /// The client has the answer to what it said was its last request: nothing more can come.
    Served,
    /// The 101 was written; or else HTTP/2 begins.
    Left(Option<Box<Pending>>),
}

/// A connection between its first byte and its end.
struct Driver {
    client: server::Connection<Stream>,
    connection: Arc<Connection>,
    stage: Stage,
    watch: Watch,
    /// At which the client takes the answer.
    pace: Pace,
    /// The task will be woken when a drain begins.
    registered: bool,
}

#[expect(
    clippy::large_enum_variant,
    reason = "a box for each answer would cost more than the room in a connection's task"
)]
enum Stage {
    Reading,
    /// Boxed: an idle connection then holds no room for a request.
    Serving(Pin<Box<dyn Future<Output = Answered> + Send>>),
    Answering(Answer<ResponseBody>, Option<Box<Pending>>),
}

impl Driver {
    fn new(stream: Stream, connection: Arc<Connection>, snapshot: &Snapshot) -> Driver {
        let limits = HeadLimits {
            size: snapshot.limits.head_size,
            fields: snapshot.limits.head_fields,
        };
        // Over TLS the two have agreed on what they speak.
        let or_http2 = connection.facts.tls.is_none() && connection.policy.http2.enabled;
        Driver {
            client: server::Connection::new(stream, limits).or_http2(or_http2),
            connection,
            stage: Stage::Reading,
            watch: Watch::new(snapshot),
            pace: Pace::sending(snapshot.limits.body_rate, Duration::MAX, None),
            registered: false,
        }
    }

    fn poll(
        &mut self,
        member: &Member,
        mut timer: Pin<&mut Sleep>,
        cx: &mut Context<'_>,
    ) -> Poll<Ended> {
        loop {
            if let Poll::Ready(ended) = self.poll_stages(member, cx) {
                return Poll::Ready(ended);
            }
            if !std::mem::replace(&mut self.registered, true) {
                // A connection keeps its task, so one registration serves all its polls.
                member.wake_on_change(cx);
            }
            let waiting = self.waiting();
            match member.phase() {
                Phase::Running if self.is_idle() && self.connection.gives_way() => {
                    self.connection.retire("room");
                    return Poll::Ready(Ended::Cut);
                }
                Phase::Running => {}
                Phase::Draining if !self.is_idle() => {}
                Phase::Draining => return Poll::Ready(Ended::Over),
                Phase::Stopped => return Poll::Ready(Ended::Cut),
            }
            self.watch.waits_for(waiting);
            let too_slow = self.too_slow_at();
            let moves = self.client.moves();
            ready!(self.watch.poll_over(timer.as_mut(), moves, too_slow, cx));
            match waiting {
                Waiting::Busy => {
                    self.log_cut(too_slow);
                    return Poll::Ready(Ended::Cut);
                }
                Waiting::NextRequest => return Poll::Ready(Ended::Cut),
                Waiting::Head if self.is_idle() => self.refuse_unsaid(SLOW, SLOW_HEAD),
                Waiting::Head => self.refuse(SLOW, SLOW_HEAD),
            }
        }
    }

    /// Goes on until something has to be waited for.
    fn poll_stages(&mut self, member: &Member, cx: &mut Context<'_>) -> Poll<Ended> {
        loop {
            match &mut self.stage {
                Stage::Reading => match ready!(self.client.poll_request(cx)) {
                    Ok(Some(request)) => {
                        let request = request.map(Incoming::Http1);
                        let connection = Arc::clone(&self.connection);
                        let herald = Herald::Http1(self.client.herald());
                        self.stage = Stage::Serving(Box::pin(handle(connection, request, herald)));
                    }
                    Err(Fault::Refused(violation)) => {
                        self.refuse(status_of(violation), violation.label());
                    }
                    Err(Fault::Http2) => return Poll::Ready(Ended::Left(None)),
                    Ok(None) | Err(Fault::Io(_)) => return Poll::Ready(Ended::Over),
                },
                Stage::Serving(serving) => {
                    let Poll::Ready(answered) = serving.as_mut().poll(cx) else {
                        // Who left waits for no answer: what serves it is dropped.
                        ready!(self.client.poll_broken(cx));
                        return Poll::Ready(Ended::Over);
                    };
                    let Answered {
                        mut response,
                        pace,
                        upgrade,
                    } = answered;
                    self.pace = pace;
                    let account = self.connection.opened_account();
                    let is_shed = account.is_some_and(Account::is_shed);
                    if upgrade.is_none() && (is_shed || member.phase() != Phase::Running) {
                        let headers = response.headers_mut();
                        headers.insert(CONNECTION, HeaderValue::from_static("close"));
                    }
                    let answer = self.client.begin_answer(response);
                    self.stage = Stage::Answering(answer, upgrade);
                }
                Stage::Answering(answer, upgrade) => {
                    let Poll::Ready(written) = self.client.poll_answer(answer, cx) else {
                        if is_shed(answer, &self.connection, cx) {
                            return Poll::Ready(Ended::Cut);
                        }
                        ready!(self.client.poll_broken(cx));
                        return Poll::Ready(Ended::Over);
                    };
                    if written.is_err() {
                        return Poll::Ready(Ended::Over);
                    }
                    if let Some(pending) = upgrade.take() {
                        return Poll::Ready(Ended::Left(Some(pending)));
                    }
                    if !self.client.may_go_on(answer) {
                        return Poll::Ready(match self.client.is_served(answer) {
                            true => Ended::Served,
                            false => Ended::Over,
                        });
                    }
                    self.stage = Stage::Reading;
                }
            }
        }
    }

    /// When an answer that waits for its client has waited too long.
    fn too_slow_at(&mut self) -> Option<Instant> {
        let Stage::Answering(answer, _) = &self.stage else {
            return None;
        };
        if answer.waits_for_client() {
            return Some(self.pace.waits(answer.sent()));
        }
        self.pace.goes_on(answer.sent());
        None
    }

    /// Says why a busy connection ends, if its client is to blame.
    fn log_cut(&self, too_slow: Option<Instant>) {
        if let Some(too_slow) = too_slow {
            self.connection.cut_response(too_slow <= Instant::now());
        }
    }

    /// Answers to what is no request, and ends the connection with that.
    fn refuse(&mut self, status: StatusCode, label: &'static str) {
        exchange::log_refused_head(&self.connection, status, label);
        self.refuse_unsaid(status, label);
    }

    /// As [`Driver::refuse`], to a client that has said nothing and asked for nothing.
    fn refuse_unsaid(&mut self, status: StatusCode, label: &'static str) {
        let id = crate::request::new_request_id();
        let id = id.as_deref().unwrap_or("");
        let response = Failure::downstream(status, label).response(id);
        self.stage = Stage::Answering(self.client.begin_answer(response), None);
    }

    fn waiting(&self) -> Waiting {
        match self.stage {
            Stage::Reading if self.connection.is_used() && self.client.is_between_requests() => {
                Waiting::NextRequest
            }
            Stage::Reading => Waiting::Head,
            Stage::Serving(_) | Stage::Answering(..) => Waiting::Busy,
        }
    }

    /// Nobody has asked for anything.
    fn is_idle(&self) -> bool {
        matches!(self.stage, Stage::Reading) && self.client.is_between_requests()
    }
}

/// Whether there is no memory for what waits for the client.
fn is_shed(answer: &Answer<ResponseBody>, connection: &Connection, cx: &mut Context<'_>) -> bool {
    let Some(account) = connection.opened_account() else {
        return false;
    };
    match answer.body() {
        Some(body) => body.is_held_up(answer.waits_for_client()),
        None => account.reserve(0),
    }
    account.poll_shed(cx).is_ready()
}

/// Ends a stream so that what was written last arrives: a reset could overtake it. Bytes that the
/// client still sends would make the kernel answer with one, so up to `linger` of them are read.
async fn hang_up(mut client: server::Connection<Stream>, linger: usize) {
    let goodbye = async {
        poll_fn(|cx| client.poll_shutdown(cx)).await?;
        let mut left = linger;
        while left > 0 {
            match poll_fn(|cx| client.poll_discard(cx)).await? {
                0 => break,
                n => left = left.saturating_sub(n),
            }
        }
        std::io::Result::Ok(())
    };
    // Whether the client got the goodbye is its own affair.
    let _ = timeout(LINGER, goodbye).await;
}

fn status_of(violation: Violation) -> StatusCode {
    match violation {
        Violation::HeadTooLarge | Violation::TooManyFields => {
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
        }
        Violation::TargetTooLong => StatusCode::URI_TOO_LONG,
        Violation::UnsupportedVersion => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
        _ => StatusCode::BAD_REQUEST,
    }
}

const SLOW: StatusCode = StatusCode::REQUEST_TIMEOUT;
const SLOW_HEAD: &str = "request_head_timeout";
const LINGER: Duration = Duration::from_secs(2);
/// An upload that was refused; less, and the reset that follows may take its answer away.
const LINGER_BYTES: usize = 32 * 1024 * 1024;
