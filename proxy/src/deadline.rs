//! One timer for all waits of a request on its upstream.
//!
//! What a timer costs is to enter the runtime's wheel and to leave it again; to move one to a later
//! time is a store. So a request has one, which goes with it from wait to wait.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use tokio::time::{Instant, Sleep};

/// What `future` gives, or `None` if that takes until `deadline`. Moves `timer` there.
pub async fn until<F: Future>(
    deadline: Instant,
    mut timer: Pin<&mut Sleep>,
    mut future: Pin<&mut F>,
) -> Option<F::Output> {
    if timer.deadline() != deadline {
        timer.as_mut().reset(deadline);
    }
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => timer.as_mut().poll(cx).map(|()| None),
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::pin::pin;
    use std::time::Duration;

    use tokio::time::{sleep, sleep_until};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_timer_ends_one_wait_after_another() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut timer = pin!(sleep_until(at(1)));
        assert_eq!(
            until(at(1), timer.as_mut(), pin!(ready(7))).await,
            Some(7),
            "no wait at all"
        );
        // Later, earlier than it was last set to, and later again.
        for seconds in [3, 5, 6] {
            let forever = pin!(pending::<()>());
            assert_eq!(until(at(seconds), timer.as_mut(), forever).await, None);
            assert_eq!(Instant::now().duration_since(start).as_secs(), seconds);
        }
        let soon = pin!(sleep(Duration::from_secs(1)));
        assert_eq!(until(at(60), timer.as_mut(), soon).await, Some(()));
        let forever = pin!(pending::<()>());
        assert_eq!(until(at(8), timer.as_mut(), forever).await, None);
        assert_eq!(Instant::now().duration_since(start).as_secs(), 8);
    }
}
