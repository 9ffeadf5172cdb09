//! The writing end of one direction: what the receiver takes at once goes out at once, the rest is held.
//!
//! Nothing is held while idle. Whoever fills an outlet asks [`Outlet::is_clear`] first, so that what is
//! held never grows past what one look at the sender brought.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;

use super::carrier::Broken;
use crate::budget::FREE;

#[derive(Default)]
pub(super) struct Outlet {
    /// What the receiver could not take yet.
    held: Option<Box<Held>>,
    writer: WriterState,
}

struct Held {
    bytes: Vec<u8>,
    /// Sent already.
    at: usize,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum WriterState {
    #[default]
    Flushed,
    /// A TLS stream may hold bytes that a flush must push out.
    Written,
    Shut,
}

impl Outlet {
    /// Nothing waits to be written; the writer itself may still hold something.
    pub(super) fn is_clear(&self) -> bool {
        self.held.is_none()
    }

    /// Bytes that wait to be written.
    pub(super) fn held_len(&self) -> usize {
        let held = self.held.as_ref();
        held.map_or(0, |held| held.bytes.len() - held.at)
    }

    /// Bytes of memory that the buffer takes: what was sent of it goes with the rest.
    pub(super) fn size(&self) -> usize {
        self.held.as_ref().map_or(0, |held| held.bytes.len())
    }

    /// Throws away what the receiver has not taken, if it is worth that, and writes nothing any more: it
    /// has got half a frame. False if everything stays as it is.
    pub(super) fn cut(&mut self) -> bool {
        let is_worth_it = self.size() >= FREE;
        if is_worth_it {
            self.held = None;
            self.mark_shut();
        }
        is_worth_it
    }

    /// The receiver has everything.
    pub(super) fn has_sent_all(&self) -> bool {
        self.held.is_none() && self.writer != WriterState::Written
    }

    /// The receiver was told that nothing more comes.
    pub(super) fn is_shut(&self) -> bool {
        self.writer == WriterState::Shut
    }

    /// Nothing more is written; what the writer itself still holds is left to its goodbye or its drop.
    pub(super) fn mark_shut(&mut self) {
        self.writer = WriterState::Shut;
    }

    /// Writes what the receiver takes at once and holds the rest.
    pub(super) fn send<W: AsyncWrite + Unpin>(
        &mut self,
        chunk: &[u8],
        writer: &mut W,
        cx: &mut Context<'_>,
    ) -> Result<(), Broken> {
        let mut sent = 0;
        while sent < chunk.len() && self.held.is_none() {
            match Pin::new(&mut *writer).poll_write(cx, &chunk[sent..]) {
                Poll::Ready(Ok(0)) | Poll::Ready(Err(_)) => return Err(Broken::Writer),
                Poll::Ready(Ok(n)) => {
                    sent += n;
                    self.writer = WriterState::Written;
                }
                Poll::Pending => break,
            }
        }
        self.hold(&chunk[sent..]);
        Ok(())
    }

    /// Keeps bytes for the next [`Outlet::send_held`].
    pub(super) fn hold(&mut self, rest: &[u8]) {
        if !rest.is_empty() {
            let held = self.held.get_or_insert_with(|| {
                Box::new(Held {
                    bytes: Vec::new(),
                    at: 0,
                })
            });
            held.bytes.extend_from_slice(rest);
        }
    }

    /// Whether something of what was held went out.
    pub(super) fn send_held<W: AsyncWrite + Unpin>(
        &mut self,
        writer: &mut W,
        cx: &mut Context<'_>,
    ) -> Result<bool, Broken> {
        let Some(held) = &mut self.held else {
            return Ok(false);
        };
        let before = held.at;
        while held.at < held.bytes.len() {
            match Pin::new(&mut *writer).poll_write(cx, &held.bytes[held.at..]) {
                Poll::Ready(Ok(0)) | Poll::Ready(Err(_)) => return Err(Broken::Writer),
                Poll::Ready(Ok(n)) => {
                    held.at += n;
                    self.writer = WriterState::Written;
                }
                Poll::Pending => return Ok(held.at > before),
            }
        }
        self.held = None;
        Ok(true)
    }

    /// Pushes out what the writer itself may hold; false if it has to wait.
    pub(super) fn flush<W: AsyncWrite + Unpin>(
        &mut self,
        writer: &mut W,
        cx: &mut Context<'_>,
    ) -> Result<bool, Broken> {
        if self.writer == WriterState::Written {
            match Pin::new(writer).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.writer = WriterState::Flushed,
                Poll::Ready(Err(_)) => return Err(Broken::Writer),
                Poll::Pending => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Ends the receiver's stream, once it has everything; with `by_drop` that is left to the drop of the
    /// writer, which nobody can tell from a shutdown.
    pub(super) fn shut<W: AsyncWrite + Unpin>(
        &mut self,
        writer: &mut W,
        by_drop: bool,
        cx: &mut Context<'_>,
    ) {
        if self.held.is_some() || self.is_shut() {
            return;
        }
        // A receiver that is gone already needs no end of stream.
        if by_drop || Pin::new(writer).poll_shutdown(cx).is_ready() {
            self.writer = WriterState::Shut;
        }
    }
}
