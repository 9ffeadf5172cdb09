//! What one side may send in a second.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::model::{Over, Rate};
use crate::tunnel::rate::Bucket;

pub(super) struct Throttle {
    messages: Option<Bucket>,
    bytes: Option<Bucket>,
    over: Over,
    /// Sent, let through, and not paid for yet.
    owed: (u64, u64),
    /// Nothing is read before.
    until: Option<Instant>,
}

/// The side has sent too much, and that ends the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooMuch;

impl Throttle {
    pub(super) fn new(rate: &Rate, now: Instant) -> Throttle {
        Throttle {
            messages: rate.messages.map(|allowance| Bucket::new(allowance, now)),
            bytes: rate.bytes.map(|allowance| Bucket::new(allowance, now)),
            over: rate.over,
            owed: (0, 0),
            until: None,
        }
    }

    /// Takes note of what the side has sent.
    pub(super) fn charge(
        &mut self,
        messages: u64,
        bytes: u64,
        now: Instant,
    ) -> Result<(), TooMuch> {
        self.owed.0 += messages;
        self.owed.1 += bytes;
        let Some(wait) = self.pay(now) else {
            return Ok(());
        };
        match self.over {
            Over::Close => Err(TooMuch),
            Over::Wait => {
                self.until = Some(now + wait);
                Ok(())
            }
        }
    }

    /// Until when nothing is to be read.
    pub(super) fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Ends the wait, if it is over.
    pub(super) fn resume(&mut self, now: Instant) {
        if self.until.is_some_and(|until| until <= now) {
            self.until = self.pay(now).map(|wait| now + wait);
        }
    }

    /// How long until the rest can be paid.
    fn pay(&mut self, now: Instant) -> Option<Duration> {
        let (messages, bytes) = &mut self.owed;
        let each = [(&mut self.messages, messages), (&mut self.bytes, bytes)];
        let waits = each.into_iter().filter_map(|(bucket, owed)| {
            let paid = match bucket {
                Some(bucket) => bucket.take(*owed, now),
                None => Ok(()),
            };
            if paid.is_ok() {
                *owed = 0;
            }
            paid.err()
        });
        waits.max()
    }
}
