//! Which worker serves an accepted connection.
//!
//! The kernel spreads connections over the workers' sockets by a hash of their addresses. That is
//! fair to many short ones; a hundred that stay for days lie as they fell, and with a few workers
//! one of them often has a third more than its share. So a worker that carries clearly more than
//! another hands over what it accepts.
//!
//! A connection changes its worker before its first byte is read, or never.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;

use crate::admission::{Admission, Load};
use crate::drain::Member;
use crate::facts::Peer;
use crate::socket::{Detached, Socket};
use crate::worker::Listener;

/// All workers, as each sees them.
pub(super) struct Crew {
    seats: Box<[Seat]>,
}

struct Seat {
    load: Load,
    hand: mpsc::Sender<Accepted<Detached>>,
}

/// One worker's place among the others.
pub(super) struct Place {
    crew: Arc<Crew>,
    own: usize,
    /// The other worker that is looked at next.
    next: AtomicUsize,
}

/// A connection that has been let in, `S` being how its socket is held.
pub(super) struct Accepted<S> {
    pub(super) listener: Arc<Listener>,
    pub(super) socket: S,
    pub(super) peer: Peer,
    pub(super) admission: Admission,
    pub(super) member: Member,
}

/// What the other workers hand to one.
pub(super) type Handed = mpsc::Receiver<Accepted<Detached>>;

impl Crew {
    /// A place for each of `workers`, with what will be handed to it.
    pub(super) fn places(workers: usize) -> Vec<(Place, Handed)> {
        let (seats, handed): (Vec<_>, Vec<_>) = (0..workers)
            .map(|_| {
                let (hand, handed) = mpsc::channel(HANDED_WAITING);
                let load = Load::default();
                (Seat { load, hand }, handed)
            })
            .unzip();
        let crew = Arc::new(Crew {
            seats: seats.into(),
        });
        let places = (0..workers).map(|own| Place {
            crew: Arc::clone(&crew),
            own,
            next: AtomicUsize::new(own),
        });
        places.zip(handed).collect()
    }
}

impl Place {
    /// Gives the connection to a worker that carries clearly less, or back to be served here.
    ///
    /// It looks at one other worker at a time, in turn: enough to keep all of them close.
    pub(super) fn share(&self, accepted: Accepted<Socket>) -> Option<Accepted<Socket>> {
        let own = &self.crew.seats[self.own];
        let other = &self.crew.seats[self.another()];
        if own.load.open() <= most_beside(other.load.open()) {
            return Some(accepted.on(&own.load));
        }
        // A worker that is behind with what it was handed gets no more.
        let Ok(permit) = other.hand.try_reserve() else {
            return Some(accepted.on(&own.load));
        };
        let Accepted {
            listener,
            socket,
            peer,
            admission,
            member,
        } = accepted;
        match socket.detach() {
            Ok(socket) => permit.send(Accepted {
                listener,
                socket,
                peer,
                admission: admission.on(&other.load),
                member,
            }),
            Err(error) => tracing::debug!(%error, "a connection was lost between two workers"),
        }
        None
    }

    /// The connections that this worker carries.
    pub(super) fn load(&self) -> usize {
        self.crew.seats[self.own].load.open()
    }

    fn another(&self) -> usize {
        let count = self.crew.seats.len();
        let mut next = (self.next.load(Ordering::Relaxed) + 1) % count;
        if next == self.own {
            next = (next + 1) % count;
        }
        self.next.store(next, Ordering::Relaxed);
        next
    }
}

impl Accepted<Socket> {
    fn on(mut self, load: &Load) -> Accepted<Socket> {
        self.admission = self.admission.on(load);
        self
    }
}

impl Accepted<Detached> {
    /// Takes the socket into the present worker's runtime.
    pub(super) fn arrive(self) -> std::io::Result<Accepted<Socket>> {
        Ok(Accepted {
            socket: self.socket.attach()?,
            listener: self.listener,
            peer: self.peer,
            admission: self.admission,
            member: self.member,
        })
    }
}

/// What a worker may carry beside one that carries `other`: an eighth more, and a few, so that
/// short connections stay where they are.
fn most_beside(other: usize) -> usize {
    other + other / 8 + FEW
}

const FEW: usize = 4;
/// Connections on their way to one worker.
const HANDED_WAITING: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    /// Where `count` connections end up if the workers take them from the kernel as `chosen` says.
    fn spread(workers: usize, count: usize, chosen: impl Fn(usize) -> usize) -> Vec<usize> {
        let places = Crew::places(workers);
        let mut open = Vec::new();
        for index in 0..count {
            let place = &places[chosen(index)].0;
            let own = place.crew.seats[place.own].load.open();
            let other = &place.crew.seats[place.another()];
            let seat = match own <= most_beside(other.load.open()) {
                true => &place.crew.seats[place.own],
                false => other,
            };
            open.push(seat.load.carry());
        }
        let loads = places[0].0.crew.seats.iter();
        loads.map(|seat| seat.load.open()).collect()
    }

    #[test]
    fn nobody_carries_much_more_than_his_share() {
        for (workers, count) in [(1, 100), (2, 100), (4, 100), (4, 1000), (7, 1000)] {
            // The worst that the kernel could do, and a lopsided hash.
            let all_on_one = spread(workers, count, |_| 0);
            let lopsided = spread(workers, count, |n| (n % (2 * workers)) / 3 % workers);
            for open in [all_on_one, lopsided] {
                let most = open.iter().copied().max().unwrap();
                assert_eq!(open.iter().sum::<usize>(), count);
                assert!(
                    most * workers * 10 <= count * 13,
                    "{workers} workers: {open:?}"
                );
            }
        }
    }

    #[test]
    fn a_few_stay_where_they_fell() {
        assert_eq!(spread(2, 5, |_| 0), [5, 0]);
    }
}
