//! How often something may happen in a while.

use std::time::Duration;

use h2::Reason;
use tokio::time::Instant;

/// Counts what happens in [`WINDOW`]; reads the clock once in each.
#[derive(Debug)]
pub(super) struct Rate {
    limit: u32,
    /// Below zero by what is forgiven before it happens.
    count: i64,
    since: Option<Instant>,
}

impl Rate {
    pub(super) fn new(limit: u32) -> Rate {
        Rate {
            limit,
            count: 0,
            since: None,
        }
    }

    /// It happened once more; an error if that is too often.
    pub(super) fn count(&mut self) -> Result<(), Reason> {
        let since = *self.since.get_or_insert_with(Instant::now);
        self.count += 1;
        if self.count <= i64::from(self.limit) {
            return Ok(());
        }
        if since.elapsed() < WINDOW {
            return Err(Reason::ENHANCE_YOUR_CALM);
        }
        self.since = None;
        self.count = 1;
        Ok(())
    }

    /// So many times do not count, be it of those to come; of these as many as there may be anyhow.
    pub(super) fn forgive(&mut self, times: u32) {
        let least = -i64::from(self.limit);
        self.count = (self.count - i64::from(times)).max(least);
    }
}

/// The time in which a limit must not be exceeded.
pub(super) const WINDOW: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn so_often_in_a_window_and_no_more() {
        let mut rate = Rate::new(3);
        for _ in 0..2 {
            for _ in 0..3 {
                rate.count().unwrap();
            }
            advance(WINDOW).await;
        }
        for _ in 0..2 {
            rate.count().unwrap();
        }
        rate.count().unwrap();
        assert_eq!(rate.count(), Err(Reason::ENHANCE_YOUR_CALM));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_forgiven_does_not_count() {
        let mut rate = Rate::new(3);
        for _ in 0..10 {
            rate.count().unwrap();
            rate.forgive(1);
        }
        rate.forgive(1000);
        for _ in 0..6 {
            rate.count().unwrap();
        }
        assert_eq!(rate.count(), Err(Reason::ENHANCE_YOUR_CALM));
    }
}
