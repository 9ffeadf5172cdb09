//! The clients: those to whom nothing may happen, those who look for trouble, and those who make it.

pub(crate) mod faults;
pub(crate) mod http;
pub(crate) mod leaver;
pub(crate) mod requests;
pub(crate) mod seeker;
pub(crate) mod slow;
pub(crate) mod tunnel;

use std::time::Duration;

use tokio::sync::watch;

/// What the clients of a round are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Go on.
    Stay,
    /// Finish, and go in good order.
    Leave,
    /// The proxy will say when.
    AwaitClose,
}

/// A client's ear for orders.
pub(crate) type Orders = watch::Receiver<Order>;

/// Waits for so long, or less if there is another order; what it is now.
pub(crate) async fn pause(orders: &mut Orders, length: Duration) -> Order {
    let changed = orders.wait_for(|order| *order != Order::Stay);
    // Without a sender the run is over, which says the same.
    let _ = tokio::time::timeout(length, changed).await;
    *orders.borrow()
}
