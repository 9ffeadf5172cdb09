//! One direction of a tunnel that carries bytes: read, follow, write; keep only what a slow receiver
//! could not take.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::carrier::{Broken, OneWay, ReaderState};
use super::outlet::Outlet;
use crate::facts::Traffic;
use crate::ws::control::{CloseCode, ControlFrame};
use crate::ws::frame::{Follower, Side};

/// The bytes from one side to the other.
pub(super) struct Way {
    follower: Follower,
    bytes: u64,
    /// Reading waits until it is clear, so it never holds more than one chunk and one control frame.
    outlet: Outlet,
    /// Our own Close, waiting for the next frame boundary.
    interruption: Option<Box<ControlFrame>>,
    /// Our Close has gone out (or never can): what the sender still sends is read, followed and
    /// dropped, for nothing may follow a Close (RFC 6455 §5.5.1).
    muted: bool,
    /// The sender can be told nothing, so it answers nothing.
    unanswered: bool,
    reader: ReaderState,
}

/// What one turn achieved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Turn {
    /// At least one byte came in or went out.
    pub(super) moved: bool,
    /// The turn ended because it was long enough, not because it had to wait.
    pub(super) more: bool,
}

impl Way {
    /// `early` was read past the head of the handshake and goes first. `compressed`: whether RSV1 means
    /// something; `None`: frames are not followed.
    pub(super) fn new(side: Side, compressed: Option<bool>, early: &[u8]) -> Way {
        let mut way = Way {
            follower: compressed.map_or_else(
                || Follower::blind(side),
                |compressed| Follower::new(side, compressed),
            ),
            bytes: early.len() as u64,
            outlet: Outlet::default(),
            interruption: None,
            muted: false,
            unanswered: false,
            reader: ReaderState::Open,
        };
        way.follow(early);
        way.outlet.hold(early);
        way
    }

    /// Moves chunks until either side makes it wait, at most [`CHUNKS_PER_TURN`].
    ///
    /// On return every wait has `cx`'s waker registered, unless the turn says there is `more`. The
    /// end of the sender's stream is not passed on; with that of the tunnel, which it is if both
    /// sides have said Close (`other_closed`: the receiver has), the writer is left unflushed, for
    /// its goodbye or its drop.
    pub(super) fn pump<R, W>(
        &mut self,
        reader: &mut R,
        writer: &mut W,
        other_closed: bool,
        scratch: &mut [u8],
        cx: &mut Context<'_>,
    ) -> Result<Turn, Broken>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut turn = Turn::default();
        for _ in 0..CHUNKS_PER_TURN {
            self.put_interruption();
            turn.moved |= self.outlet.send_held(writer, cx)?;
            if !self.outlet.is_clear() {
                return Ok(turn);
            }
            if self.reader != ReaderState::Open {
                if other_closed && self.follower.close().is_some() {
                    self.outlet.mark_shut();
                }
                return Ok(turn);
            }
            // The answer to a Close may wait for a look at the end behind it.
            if !other_closed && !self.outlet.flush(writer, cx)? {
                // It holds a chunk of its own; a second one waits in the sender's socket.
                return Ok(turn);
            }
            let mut buf = ReadBuf::new(scratch);
            match Pin::new(&mut *reader).poll_read(cx, &mut buf) {
                Poll::Pending => {
                    self.outlet.flush(writer, cx)?;
                    return Ok(turn);
                }
                Poll::Ready(Ok(())) if buf.filled().is_empty() => self.reader = ReaderState::Ended,
                Poll::Ready(Ok(())) => {
                    let read = buf.filled().len();
                    self.forward(&scratch[..read], writer, cx)?;
                    turn.moved = true;
                }
                // A TLS stream cut without close_notify ends like a plain one.
                Poll::Ready(Err(error)) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                    self.reader = ReaderState::Ended;
                }
                Poll::Ready(Err(_)) => return Err(Broken::Reader),
            }
        }
        turn.more = true;
        Ok(turn)
    }

    /// Puts our Close in if the stream stands at a frame boundary, or gives it up if it never will.
    fn put_interruption(&mut self) {
        if self.interruption.is_none() {
            return;
        }
        if self.follower.at_boundary() {
            if let Some(close) = self.interruption.take() {
                self.outlet.hold(&close);
            }
            self.muted = true;
        } else if self.follower.is_lost() || self.follower.close().is_some() {
            self.interruption = None;
            self.muted = true;
        }
    }

    fn forward<W: AsyncWrite + Unpin>(
        &mut self,
        chunk: &[u8],
        writer: &mut W,
        cx: &mut Context<'_>,
    ) -> Result<(), Broken> {
        self.bytes += chunk.len() as u64;
        if self.muted {
            self.follow(chunk);
            return Ok(());
        }
        if self.interruption.is_none() {
            self.follow(chunk);
            return self.outlet.send(chunk, writer, cx);
        }
        // Pass on the rest of the present frame; our Close follows it, the rest is dropped. A
        // follower that is lost by the frame has used up some of it, which is passed on too.
        let passed = self.follower.follow_frame(chunk).unwrap_or(chunk.len());
        self.outlet.send(&chunk[..passed], writer, cx)?;
        self.put_interruption();
        self.follow(&chunk[passed..]);
        Ok(())
    }

    /// A frame that breaks the rules ends the counting, not the tunnel.
    fn follow(&mut self, chunk: &[u8]) {
        let _ = self.follower.follow(chunk);
    }
}

impl OneWay for Way {
    fn is_held_up(&self) -> bool {
        !self.outlet.is_clear()
    }

    fn interrupt(&mut self, close: &ControlFrame) {
        if !self.muted {
            self.interruption = Some(Box::new(*close));
        }
    }

    fn size(&self) -> usize {
        self.outlet.size()
    }

    fn let_go(&mut self) -> bool {
        if self.outlet.cut() {
            self.interruption = None;
            self.muted = true;
            return false;
        }
        !self.follower.is_lost()
    }

    fn expect_no_answer(&mut self) {
        self.unanswered = true;
    }

    fn finish(&mut self) {
        if self.reader == ReaderState::Open {
            self.reader = ReaderState::Finished;
        }
    }

    fn pass_end_on<W: AsyncWrite + Unpin>(
        &mut self,
        writer: &mut W,
        by_drop: bool,
        cx: &mut Context<'_>,
    ) {
        if self.reader != ReaderState::Open {
            self.outlet.shut(writer, by_drop, cx);
        }
    }

    fn close_code(&self) -> Option<CloseCode> {
        self.follower.close()
    }

    fn may_have_closed(&self) -> bool {
        self.follower.close().is_some() || self.follower.is_lost()
    }

    fn is_answered(&self) -> bool {
        let has_finished = self.follower.close().is_some() || self.has_ended();
        self.muted && (self.unanswered || has_finished)
    }

    fn has_ended(&self) -> bool {
        self.reader == ReaderState::Ended
    }

    fn has_sent_all(&self) -> bool {
        self.outlet.has_sent_all()
    }

    fn is_done(&self) -> bool {
        self.outlet.is_shut()
    }

    fn traffic(&self) -> Traffic {
        Traffic {
            bytes: self.bytes,
            messages: self.follower.messages(),
        }
    }
}

/// 1 MiB of full chunks; then the other tunnels of the worker have their turn.
pub(super) const CHUNKS_PER_TURN: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::task::Waker;

    use crate::ws::control::encode_close;

    /// Gives its chunks one read at a time, then waits or ends.
    struct Source {
        chunks: Vec<Vec<u8>>,
        then_end: bool,
    }

    /// Takes `room` bytes, then makes the writer wait.
    #[derive(Default)]
    struct Sink {
        room: usize,
        got: Vec<u8>,
        shut: bool,
    }

    impl AsyncRead for Source {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            if self.chunks.is_empty() {
                return if self.then_end {
                    Poll::Ready(Ok(()))
                } else {
                    Poll::Pending
                };
            }
            let chunk = self.chunks.remove(0);
            buf.put_slice(&chunk);
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Sink {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            let n = buf.len().min(self.room);
            if n == 0 {
                return Poll::Pending;
            }
            self.room -= n;
            self.got.extend_from_slice(&buf[..n]);
            Poll::Ready(Ok(n))
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.shut = true;
            Poll::Ready(Ok(()))
        }
    }

    /// An unmasked text frame.
    fn frame(payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x81, u8::try_from(payload.len()).unwrap()];
        bytes.extend_from_slice(payload);
        bytes
    }

    fn pump(way: &mut Way, source: &mut Source, sink: &mut Sink) -> Turn {
        let mut scratch = vec![0; 1024];
        let cx = &mut Context::from_waker(Waker::noop());
        let turn = way.pump(source, sink, false, &mut scratch, cx).unwrap();
        way.pass_end_on(sink, false, cx);
        turn
    }

    fn source(chunks: &[&[u8]]) -> Source {
        Source {
            chunks: chunks.iter().map(|c| c.to_vec()).collect(),
            then_end: false,
        }
    }

    #[test]
    fn early_bytes_go_first_and_count() {
        let mut way = Way::new(Side::FromServer, Some(false), &frame(b"early"));
        let mut sink = Sink {
            room: 1000,
            ..Sink::default()
        };
        pump(&mut way, &mut source(&[&frame(b"late")]), &mut sink);
        assert_eq!(sink.got, [frame(b"early"), frame(b"late")].concat());
        assert_eq!(
            way.traffic(),
            Traffic {
                bytes: 13,
                messages: 2
            }
        );
    }

    #[test]
    fn a_full_receiver_stops_the_reading_and_nothing_is_lost() {
        let mut way = Way::new(Side::FromServer, Some(false), &[]);
        let mut sink = Sink {
            room: 3,
            ..Sink::default()
        };
        let mut source = source(&[&frame(b"one"), &frame(b"two")]);
        pump(&mut way, &mut source, &mut sink);
        assert_eq!(
            source.chunks.len(),
            1,
            "the second chunk stays in the socket"
        );
        assert_eq!(way.outlet.held_len(), 2);
        sink.room = 100;
        let turn = pump(&mut way, &mut source, &mut sink);
        assert!(turn.moved && !turn.more);
        assert_eq!(sink.got, [frame(b"one"), frame(b"two")].concat());
        assert!(
            way.outlet.is_clear(),
            "the buffer is given back once it is empty"
        );
    }

    #[test]
    fn the_end_is_passed_on_after_the_last_byte() {
        let mut way = Way::new(Side::FromServer, Some(false), &[]);
        let mut sink = Sink {
            room: 3,
            ..Sink::default()
        };
        let mut source = source(&[&frame(b"bye")]);
        source.then_end = true;
        pump(&mut way, &mut source, &mut sink);
        assert!(!sink.shut);
        sink.room = 100;
        pump(&mut way, &mut source, &mut sink);
        assert!(sink.shut && way.has_ended() && way.is_done());
        assert_eq!(sink.got, frame(b"bye"));
    }

    #[test]
    fn our_close_waits_for_the_frame_to_end_and_silences_the_sender() {
        let close = encode_close(CloseCode::GOING_AWAY, "bye", None);
        let whole = frame(b"hello");
        let (head, tail) = whole.split_at(4);
        for chunks in [
            vec![head.to_vec(), [tail, &frame(b"dropped")[..]].concat()],
            vec![head.to_vec(), tail.to_vec(), frame(b"dropped")],
        ] {
            let mut way = Way::new(Side::FromServer, Some(false), &[]);
            let mut sink = Sink {
                room: 1000,
                ..Sink::default()
            };
            pump(&mut way, &mut source(&[&chunks[0]]), &mut sink);
            way.interrupt(&close);
            let rest: Vec<&[u8]> = chunks[1..].iter().map(Vec::as_slice).collect();
            pump(&mut way, &mut source(&rest), &mut sink);
            assert_eq!(sink.got, [&whole[..], &close[..]].concat());
            assert!(!way.is_answered());
            let answer = encode_close(CloseCode::GOING_AWAY, "", None);
            pump(&mut way, &mut source(&[&answer[..]]), &mut sink);
            assert!(way.is_answered());
            assert_eq!(sink.got.len(), whole.len() + close.len());
        }
    }

    #[test]
    fn a_stream_that_is_no_websocket_gets_no_close_frame() {
        let mut way = Way::new(Side::FromServer, Some(false), &[]);
        let mut sink = Sink {
            room: 1000,
            ..Sink::default()
        };
        pump(&mut way, &mut source(&[b"\xff\xff not frames"]), &mut sink);
        way.interrupt(&encode_close(CloseCode::GOING_AWAY, "", None));
        pump(&mut way, &mut source(&[b"more"]), &mut sink);
        assert_eq!(sink.got, b"\xff\xff not frames");
        assert!(way.muted);
    }
}
