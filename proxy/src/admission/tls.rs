//! TLS handshakes: how many there are at once, and how much of a worker they take.
//!
//! Beyond the limit they wait in line, in the order in which they came: clients that all come back at once
//! are served one after another, where refusing some of them would bring those back once more. A place is
//! the client's as long as it answers. Who has kept it for [`GRACE`] while others wait is sent away, so that
//! clients which begin a handshake and say no more cannot hold up the line for their whole deadline.
//!
//! A handshake costs a worker as much as dozens of messages. [`Turns`] lets only a few go on at a time,
//! and then the worker looks after all that is connected already.

use std::future::{Future, poll_fn};
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::task::yield_now;
use tokio::time::sleep;

use super::{SELDOM, Seldom};

/// Counts the TLS handshakes of the process.
#[derive(Debug)]
pub struct TlsHandshakes {
    under_way: AtomicUsize,
    in_line: AtomicUsize,
    /// A place is free.
    freed: Notify,
    /// Somebody waits for one.
    wanted: Notify,
    default_limit: usize,
    told: Seldom,
}

/// The right to shake hands; dropping it gives it back.
#[derive(Debug)]
pub struct TlsPlace(Arc<TlsHandshakes>);

/// Counts one that waits in line.
struct InLine<'a>(&'a AtomicUsize);

/// The handshakes of one worker, a few steps at a time.
#[derive(Debug)]
pub struct Turns(Arc<Semaphore>);

impl Default for TlsHandshakes {
    fn default() -> TlsHandshakes {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        TlsHandshakes {
            under_way: AtomicUsize::new(0),
            in_line: AtomicUsize::new(0),
            freed: Notify::new(),
            wanted: Notify::new(),
            default_limit: cores * FOR_EACH_CORE,
            told: Seldom::every(SELDOM),
        }
    }
}

impl TlsHandshakes {
    /// Waits for a place, as long as it takes; `limit` says how many there are at that time.
    pub async fn enter(self: &Arc<Self>, limit: impl Fn() -> Option<NonZeroUsize>) -> TlsPlace {
        if self.in_line.load(Ordering::Acquire) == 0
            && let Some(place) = self.try_enter(limit())
        {
            return place;
        }
        let (_in_line, is_first) = InLine::join(&self.in_line);
        // Whoever has waited longer is told of a place first; the line's first may have missed one.
        if is_first && let Some(place) = self.try_enter(limit()) {
            return place;
        }
        if self.told.is_time() {
            tracing::warn!("there are as many TLS handshakes as may be; others wait in line");
        }
        loop {
            self.wanted.notify_one();
            self.freed.notified().await;
            if let Some(place) = self.try_enter(limit()) {
                return place;
            }
        }
    }

    /// Has those in line look at the limit again.
    pub(super) fn limit_changed(&self) {
        self.freed.notify_waiters();
    }

    fn try_enter(self: &Arc<Self>, limit: Option<NonZeroUsize>) -> Option<TlsPlace> {
        let limit = limit.map_or(self.default_limit, NonZeroUsize::get);
        let under_way = &self.under_way;
        let entered = under_way.fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| {
            (count < limit).then_some(count + 1)
        });
        entered.is_ok().then(|| TlsPlace(Arc::clone(self)))
    }
}

impl TlsPlace {
    /// Waits until this place has been kept for too long by a client, as others see it.
    pub async fn outstayed(&self) {
        sleep(GRACE).await;
        loop {
            let wanted = self.0.wanted.notified();
            if self.0.in_line.load(Ordering::Acquire) > 0 {
                return;
            }
            wanted.await;
        }
    }
}

impl Drop for TlsPlace {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::AcqRel);
        self.0.freed.notify_one();
    }
}

impl InLine<'_> {
    /// Tells also whether nobody stands there.
    fn join(count: &AtomicUsize) -> (InLine<'_>, bool) {
        let before = count.fetch_add(1, Ordering::AcqRel);
        (InLine(count), before == 0)
    }
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Default for Turns {
    fn default() -> Turns {
        Turns(Arc::new(Semaphore::new(AT_A_TIME)))
    }
}

impl Turns {
    /// Runs `work`, each step of it in a turn. A turn lasts until the worker has looked after its other
    /// tasks and sockets once.
    pub async fn run<F: Future>(&self, mut work: Pin<&mut F>) -> F::Output {
        loop {
            // Nobody closes it.
            let turn = Arc::clone(&self.0).acquire_owned().await;
            let step = poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx))).await;
            tokio::spawn(async move {
                yield_now().await;
                drop(turn);
            });
            if let Poll::Ready(output) = step {
                return output;
            }
            // The step has left word of who is to be woken.
            let mut woken = false;
            poll_fn(|_| match std::mem::replace(&mut woken, true) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            })
            .await;
        }
    }
}

/// How long a place is the client's alone: several round trips to anywhere.
const GRACE: Duration = Duration::from_secs(2);
/// What a core can do in a tenth of a second.
const FOR_EACH_CORE: usize = 256;
const AT_A_TIME: usize = 4;

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt;
    use tokio::time::{Instant, timeout};

    use super::*;

    fn one() -> Option<NonZeroUsize> {
        NonZeroUsize::new(1)
    }

    #[tokio::test]
    async fn places_are_given_in_the_order_of_the_line() {
        let handshakes = Arc::new(TlsHandshakes::default());
        let first = handshakes.enter(one).await;
        let (tell, mut order) = tokio::sync::mpsc::unbounded_channel();
        for number in 0..5 {
            let (handshakes, tell) = (Arc::clone(&handshakes), tell.clone());
            tokio::spawn(async move {
                let place = handshakes.enter(one).await;
                tell.send(number).unwrap();
                drop(place);
            });
            yield_now().await;
        }
        drop(first);
        // There is a place, but it is not for who comes now.
        let mut late = pin!(handshakes.enter(one));
        assert!(late.as_mut().now_or_never().is_none());
        for number in 0..5 {
            assert_eq!(order.recv().await, Some(number));
        }
        drop(late.await);
        assert_eq!(handshakes.under_way.load(Ordering::Relaxed), 0);
        assert_eq!(handshakes.in_line.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_is_kept_for_a_while_and_then_only_while_nobody_waits() {
        let handshakes = Arc::new(TlsHandshakes::default());
        let enter = || {
            let handshakes = Arc::clone(&handshakes);
            tokio::spawn(async move { handshakes.enter(one).await })
        };
        let place = enter().await.unwrap();
        let start = Instant::now();
        let mut outstayed = Box::pin(place.outstayed());
        let alone = timeout(10 * GRACE, outstayed.as_mut()).await;
        assert!(alone.is_err(), "nobody waits");
        let waiting = enter();
        outstayed.await;
        assert_eq!(start.elapsed(), 10 * GRACE, "at once");
        drop(place);
        let second = waiting.await.unwrap();
        let start = Instant::now();
        let waiting = enter();
        second.outstayed().await;
        assert_eq!(start.elapsed().as_secs(), GRACE.as_secs());
        waiting.abort();
    }

    #[tokio::test]
    async fn who_leaves_the_line_leaves_its_turn_to_the_next() {
        let handshakes = Arc::new(TlsHandshakes::default());
        let first = handshakes.enter(one).await;
        let enter = || {
            let handshakes = Arc::clone(&handshakes);
            tokio::spawn(async move { handshakes.enter(one).await })
        };
        let (leaving, staying) = (enter(), enter());
        yield_now().await;
        drop(first);
        leaving.abort();
        drop(staying.await.unwrap());
        assert_eq!(handshakes.in_line.load(Ordering::Relaxed), 0);
    }

    /// What is ready besides gets its turn after a few steps, however many handshakes wait.
    #[tokio::test]
    async fn a_flood_of_handshakes_takes_a_few_steps_at_a_time() {
        let turns = Arc::new(Turns::default());
        let steps = Arc::new(AtomicUsize::new(0));
        let handshakes: Vec<_> = (0..100)
            .map(|_| {
                let (turns, steps) = (Arc::clone(&turns), Arc::clone(&steps));
                tokio::spawn(async move {
                    let work = async {
                        steps.fetch_add(1, Ordering::Relaxed);
                        yield_now().await;
                        steps.fetch_add(1, Ordering::Relaxed);
                    };
                    turns.run(pin!(work)).await;
                })
            })
            .collect();
        let mut before = 0;
        while before < 200 {
            yield_now().await;
            let now = steps.load(Ordering::Relaxed);
            assert!(
                now - before <= 2 * AT_A_TIME,
                "{} steps at once",
                now - before
            );
            before = now;
        }
        for handshake in handshakes {
            handshake.await.unwrap();
        }
    }
}
