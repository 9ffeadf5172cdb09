//! Room for the futures that serve requests, used again and again.
//!
//! Such a future takes 5 KiB, and a tunnel that it leads to a sixth of that, for much longer. Were each freed
//! with its request, the large ones would leave holes among the small, and of a hole that is no whole page the
//! system gets nothing back: a third more for each of two thousand WebSockets. So a thread keeps the room of
//! as many as it needed at once, up to a limit. What was in it is dropped as soon as it is over.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::thread::LocalKey;

use pin_project_lite::pin_project;

/// A future in room that is given back when the future is over, or dropped.
pub(super) struct Lent<A: 'static, T: 'static> {
    room: Option<Place<A, T>>,
    spare: &'static LocalKey<Spare<A, T>>,
}

/// The room that a thread has to spare, for futures made of an `A`.
pub(super) struct Spare<A, T>(RefCell<Vec<Place<A, T>>>);

/// A room where it stays.
type Place<A, T> = Pin<Box<dyn Room<A, T>>>;

/// Room for the futures of one function.
trait Room<A, T>: Future<Output = T> + Send {
    fn fill(self: Pin<&mut Self>, asked: A);

    fn empty(self: Pin<&mut Self>);
}

pin_project! {
    struct Booth<F, A> {
        #[pin]
        future: Option<F>,
        make: fn(A) -> F,
    }
}

impl<A, T> Spare<A, T> {
    pub(super) const fn new() -> Spare<A, T> {
        Spare(RefCell::new(Vec::new()))
    }
}

impl<A, T> Lent<A, T> {
    /// The future that `make`, the same for all of a `spare`, makes of what is asked.
    pub(super) fn new<F>(
        spare: &'static LocalKey<Spare<A, T>>,
        asked: A,
        make: fn(A) -> F,
    ) -> Lent<A, T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let room = match spare.with(|spare| spare.0.borrow_mut().pop()) {
            Some(mut room) => {
                room.as_mut().fill(asked);
                room
            }
            None => Box::pin(Booth {
                future: Some(make(asked)),
                make,
            }),
        };
        Lent {
            room: Some(room),
            spare,
        }
    }

    fn give_back(&mut self) {
        let Some(mut room) = self.room.take() else {
            return;
        };
        room.as_mut().empty();
        // A thread that ends keeps nothing.
        let _ = self.spare.try_with(|spare| {
            let mut spare = spare.0.borrow_mut();
            if spare.len() < MOST {
                spare.push(room);
            }
        });
    }
}

impl<A, T> Future for Lent<A, T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let Some(room) = &mut self.room else {
            return Poll::Pending;
        };
        let output = ready!(room.as_mut().poll(cx));
        self.give_back();
        Poll::Ready(output)
    }
}

impl<A, T> Drop for Lent<A, T> {
    fn drop(&mut self) {
        self.give_back();
    }
}

impl<F, A, T> Room<A, T> for Booth<F, A>
where
    F: Future<Output = T> + Send,
{
    fn fill(self: Pin<&mut Self>, asked: A) {
        let mut booth = self.project();
        booth.future.set(Some((booth.make)(asked)));
    }

    fn empty(self: Pin<&mut Self>) {
        self.project().future.set(None);
    }
}

impl<F: Future, A> Future for Booth<F, A> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        match self.project().future.as_pin_mut() {
            Some(future) => future.poll(cx),
            None => Poll::Pending,
        }
    }
}

/// Most that a thread keeps: a third of a MiB.
const MOST: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::task::Waker;

    type Asked = (Arc<()>, bool);

    thread_local! {
        static SPARE: Spare<Asked, usize> = const { Spare::new() };
    }

    /// Counts who holds what it was asked with; waits for good if told to.
    async fn serve((held, waits): Asked) -> usize {
        if waits {
            std::future::pending::<()>().await;
        }
        Arc::strong_count(&held)
    }

    fn lend(asked: &Asked) -> Lent<Asked, usize> {
        Lent::new(&SPARE, asked.clone(), serve)
    }

    fn poll(lent: &mut Lent<Asked, usize>) -> Poll<usize> {
        Pin::new(lent).poll(&mut Context::from_waker(Waker::noop()))
    }

    fn place(lent: &Lent<Asked, usize>) -> *const () {
        std::ptr::from_ref(&**lent.room.as_ref().unwrap()).cast()
    }

    fn spare() -> usize {
        SPARE.with(|spare| spare.0.borrow().len())
    }

    #[test]
    fn room_is_given_back_by_the_end_and_by_the_drop_and_used_again() {
        let quick = (Arc::new(()), false);
        let slow = (Arc::new(()), true);
        let mut first = lend(&quick);
        let room = place(&first);
        assert_eq!(poll(&mut first), Poll::Ready(2));
        assert_eq!(Arc::strong_count(&quick.0), 1, "what was in it is gone");
        assert_eq!(spare(), 1, "before the drop");
        drop(first);
        assert_eq!(spare(), 1, "and once only");

        let mut second = lend(&slow);
        assert_eq!((place(&second), spare()), (room, 0));
        assert_eq!(poll(&mut second), Poll::Pending);
        let third = lend(&quick);
        assert_ne!(place(&third), room);
        drop(second);
        assert_eq!(Arc::strong_count(&slow.0), 1);
        assert_eq!(place(&lend(&quick)), room);
    }

    #[test]
    fn a_thread_keeps_so_many_and_no_more() {
        let slow = (Arc::new(()), true);
        let crowd: Vec<_> = (0..MOST + 10).map(|_| lend(&slow)).collect();
        drop(crowd);
        assert_eq!(spare(), MOST);
        assert_eq!(Arc::strong_count(&slow.0), 1);
    }
}
