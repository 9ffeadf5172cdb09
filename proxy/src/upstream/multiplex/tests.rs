//! Who opens, who waits, and what is dropped when; servers in memory, under paused time.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};

use futures_util::FutureExt;
use tokio::io::duplex;
use tokio::task::JoinHandle;
use tokio::time::{advance, timeout};

use super::*;
use crate::config::model::{Protocols, ServerAddress};
use crate::http2::client;

const LIMITS: Http2Pool = Http2Pool {
    streams: 2,
    connections: 2,
    max_age: Duration::from_secs(1000),
};
const KEEP_ALIVE: Duration = Duration::from_secs(60);

fn endpoint() -> Arc<Endpoint> {
    static PORT: AtomicU16 = AtomicU16::new(1);
    let port = PORT.fetch_add(1, Ordering::Relaxed);
    let address = ServerAddress::Ip(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    Arc::new(Endpoint::new(address, None, Protocols::Http2))
}

fn find<'a>(multiplex: &'a Multiplex, endpoint: &'a Arc<Endpoint>) -> Place<'a> {
    multiplex.find(endpoint, false, LIMITS, Instant::now())
}

fn slot(place: Place<'_>) -> Slot {
    match place {
        Place::Slot(slot) => slot,
        other => panic!("{other:?}"),
    }
}

fn opening(place: Place<'_>) -> Opening<'_> {
    match place {
        Place::Open(opening) => opening,
        other => panic!("{other:?}"),
    }
}

/// A connection to a server that answers nothing and ends when its task is aborted.
async fn connection(freed: Waiters) -> (Client, JoinHandle<()>) {
    let (ours, theirs) = duplex(1 << 16);
    let server = tokio::spawn(async move {
        let mut server: h2::server::Connection<_, bytes::Bytes> =
            h2::server::handshake(theirs).await.unwrap();
        while server.accept().await.is_some() {}
    });
    let (client, driver) = client::connect(ours, LIMITS.streams, freed).await.unwrap();
    tokio::spawn(driver);
    (client, server)
}

/// Opens and shares a connection.
async fn open(multiplex: &Multiplex, endpoint: &Arc<Endpoint>) -> (Slot, JoinHandle<()>) {
    let opening = opening(find(multiplex, endpoint));
    let (client, server) = connection(opening.changed()).await;
    (opening.add(client, LIMITS, KEEP_ALIVE).unwrap(), server)
}

#[tokio::test(start_paused = true)]
async fn one_opens_and_the_others_wait_for_it() {
    let (multiplex, endpoint) = (Multiplex::new(), endpoint());
    let first = opening(find(&multiplex, &endpoint));
    let waiting = |multiplex| match find(multiplex, &endpoint) {
        Place::Opening(changed) => Box::pin(changed),
        other => panic!("{other:?}"),
    };
    let (mut second, mut third) = (waiting(&multiplex), waiting(&multiplex));
    assert!((&mut second).now_or_never().is_none() && (&mut third).now_or_never().is_none());

    // It comes to nothing: one of them is next, and only one.
    drop(first);
    assert!((&mut second).now_or_never().is_some());
    assert!((&mut third).now_or_never().is_none());
    let next = opening(find(&multiplex, &endpoint));
    let (client, _server) = connection(next.changed()).await;
    let _first = next.add(client, LIMITS, KEEP_ALIVE).unwrap();
    assert!((&mut third).now_or_never().is_some());
    let _second = slot(find(&multiplex, &endpoint));
    assert_eq!(multiplex.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_leaves_passes_its_turn_on() {
    let (multiplex, endpoint) = (Multiplex::new(), endpoint());
    let first = opening(find(&multiplex, &endpoint));
    let mut waiters = Vec::new();
    for _ in 0..2 {
        match find(&multiplex, &endpoint) {
            Place::Opening(changed) => waiters.push(Box::pin(changed)),
            other => panic!("{other:?}"),
        }
    }
    for waiter in &mut waiters {
        assert!(waiter.now_or_never().is_none());
    }
    drop(first);
    let leaving = waiters.remove(0);
    drop(leaving);
    assert!((&mut waiters[0]).now_or_never().is_some());
}

#[tokio::test(start_paused = true)]
async fn full_connections_are_waited_for() {
    let (multiplex, endpoint) = (Multiplex::new(), endpoint());
    let (first, _one) = open(&multiplex, &endpoint).await;
    let second = slot(find(&multiplex, &endpoint));
    let (third, _two) = open(&multiplex, &endpoint).await;
    let fourth = slot(find(&multiplex, &endpoint));
    let Place::Full(changed) = find(&multiplex, &endpoint) else {
        panic!("room for a fifth");
    };
    let mut changed = Box::pin(changed);
    // What is left over from openings wakes once more than it must.
    let _ = (&mut changed).now_or_never();
    let Place::Full(changed) = find(&multiplex, &endpoint) else {
        panic!("room for a fifth");
    };
    let mut changed = Box::pin(changed);
    assert!((&mut changed).now_or_never().is_none());
    drop(second);
    assert!((&mut changed).now_or_never().is_some());
    let fifth = slot(find(&multiplex, &endpoint));
    assert!(fifth.is_reused());
    drop((first, third, fourth));
    assert_eq!(multiplex.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn connections_go_when_they_rest_or_are_old_or_end() {
    for (what, wait, held, expect) in [
        ("young and used", Duration::from_secs(59), false, 1),
        ("at rest", KEEP_ALIVE, false, 0),
        ("in use", KEEP_ALIVE, true, 1),
        ("old", LIMITS.max_age, true, 0),
    ] {
        let (multiplex, endpoint) = (Multiplex::new(), endpoint());
        let (used, _server) = open(&multiplex, &endpoint).await;
        let used = held.then_some(used);
        advance(wait).await;
        multiplex.sweep();
        assert_eq!(multiplex.len(), expect, "{what}");
        drop(used);
    }
    let (multiplex, endpoint) = (Multiplex::new(), endpoint());
    let (_used, server) = open(&multiplex, &endpoint).await;
    server.abort();
    let gone = async {
        while !multiplex.is_empty() {
            tokio::task::yield_now().await;
            multiplex.sweep();
        }
    };
    timeout(Duration::from_secs(1), gone).await.unwrap();
    drop(opening(find(&multiplex, &endpoint)));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_kept_for_an_endpoint_that_has_gone() {
    let (multiplex, endpoint) = (Multiplex::new(), endpoint());
    drop(open(&multiplex, &endpoint).await);
    drop(endpoint);
    multiplex.sweep();
    assert!(multiplex.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_server_of_http1_is_remembered_until_it_learns_more() {
    let (multiplex, endpoint) = (Multiplex::new(), endpoint());
    let first = opening(find(&multiplex, &endpoint));
    assert!(!first.expects_http1());
    first.is_http1();
    // Nobody waits for anybody.
    let (second, third) = (
        opening(find(&multiplex, &endpoint)),
        opening(find(&multiplex, &endpoint)),
    );
    assert!(second.expects_http1() && third.expects_http1());
    let (client, _server) = connection(second.changed()).await;
    let _slot = second.add(client, LIMITS, KEEP_ALIVE).unwrap();
    drop(third);
    let _shared = slot(find(&multiplex, &endpoint));
}
