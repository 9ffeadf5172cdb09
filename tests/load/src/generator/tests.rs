//! The generator against the backend itself, without a proxy between them: both ends agree, and what
//! is wrong is noticed.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::{Generator, Held, Target, http1, http2, ws};
use crate::backend;
use crate::frames::Message;

/// A backend in a thread of its own, which ends with this.
struct Backend {
    target: Target,
    parent: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Backend {
    fn start() -> Backend {
        let listener = backend::listen().unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        Backend {
            target: Target {
                address,
                tls: None,
                handshake: None,
            },
            parent: Some(ours),
            thread: Some(thread::spawn(move || {
                backend::serve(listener, &theirs).unwrap();
            })),
        }
    }

    fn get(&self, exchange: &Rc<http1::Exchange>) -> Generator<http1::Get> {
        let exchange = Rc::clone(exchange);
        Generator::new(self.target.clone(), move || http1::Get::new(&exchange)).unwrap()
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        drop(self.parent.take());
        self.thread.take().unwrap().join().unwrap();
    }
}

fn message(size: usize) -> Rc<RefCell<Message>> {
    Rc::new(RefCell::new(Message::new(size)))
}

#[test]
fn echoes_of_every_size_come_back_whole() {
    let backend = Backend::start();
    for size in [64, 1024, 16 * 1024, 300_000] {
        let message = message(size);
        let make = move || ws::Echo::endless(&message);
        let mut generator = Generator::new(backend.target.clone(), make).unwrap();
        generator.open(5, 2).unwrap();
        assert!(generator.run(SHORT).unwrap().units > 5, "{size} bytes");
    }
}

#[test]
fn echoes_on_demand_change_their_size_and_may_be_read_late() {
    let backend = Backend::start();
    let (small, large) = (message(64), message(100_000));
    let make = move || ws::Echo::on_demand(&small);
    let mut generator = Generator::new(backend.target.clone(), make).unwrap();
    generator.open(3, 3).unwrap();
    generator
        .each(2, |echo, line| echo.send(line.now, line))
        .unwrap();
    assert_eq!(generator.take_tally().units, 3);
    generator
        .each(1, |echo, _| {
            echo.change(&large);
            Ok(())
        })
        .unwrap();
    let mut sent = 0;
    generator
        .stuff(LONG, |echo, line| {
            sent += 1;
            echo.send(line.now, line)
        })
        .unwrap();
    assert!(sent > 3, "more than one each until nothing more fits");
    generator.catch_up(LONG).unwrap();
    assert_eq!(generator.take_tally().units, sent);
}

#[test]
fn a_paced_run_sends_exactly_what_was_due() {
    let backend = Backend::start();
    let small = message(64);
    let make = move || ws::Echo::on_demand(&small);
    let mut generator = Generator::new(backend.target.clone(), make).unwrap();
    generator.open(4, 4).unwrap();
    for _ in 0..2 {
        let tally = generator.pace(2000, SHORT, ws::Echo::send).unwrap();
        assert_eq!(tally.units, 600);
    }
}

#[test]
fn lives_and_fresh_requests_take_a_new_connection_each() {
    let backend = Backend::start();
    let close = ws::Close::new();
    let make = move || ws::Life::new(&close);
    let mut lives = Generator::new(backend.target.clone(), make).unwrap();
    lives.open(2, 2).unwrap();
    assert!(lives.run(SHORT).unwrap().units > 2);

    let exchange = http1::Exchange::new("/", backend::small_body(), true, None);
    let mut requests = backend.get(&exchange);
    requests.open(2, 2).unwrap();
    assert!(requests.run(SHORT).unwrap().units > 2);
}

#[test]
fn sockets_over_http2_echo_beside_each_other() {
    let backend = Backend::start();
    let opening = http2::sockets::Opening::new("/ws", false, 7, false);
    for size in [64, 16 * 1024, 300_000] {
        let (message, opening) = (message(size), Rc::clone(&opening));
        let make = move || http2::sockets::Sockets::endless(&opening, &message);
        let mut generator = Generator::new(backend.target.clone(), make).unwrap();
        generator.open(3, 2).unwrap();
        assert!(generator.run(SHORT).unwrap().units > 21, "{size} bytes");
    }

    let (small, large) = (message(64), message(100_000));
    let make = move || http2::sockets::Sockets::on_demand(&opening, &small);
    let mut generator = Generator::new(backend.target.clone(), make).unwrap();
    generator.open(3, 2).unwrap();
    for _ in 0..2 {
        generator.each(2, Held::say).unwrap();
        assert_eq!(generator.take_tally().units, 21);
        generator
            .each(2, |sockets, _| {
                sockets.change(&large);
                Ok(())
            })
            .unwrap();
    }
}

#[test]
fn requests_over_http2_are_answered() {
    let backend = Backend::start();
    let exchange = http2::requests::Exchange::new("/", backend::small_body(), 4);
    let make = move || http2::requests::Streams::new(&exchange);
    let mut generator = Generator::new(backend.target.clone(), make).unwrap();
    generator.open(2, 2).unwrap();
    assert!(generator.run(SHORT).unwrap().units > 8);
}

#[test]
fn an_answer_that_is_not_the_expected_one_is_a_failure() {
    let backend = Backend::start();
    let large = http1::Exchange::new("/64k", backend::large_body(), false, None);
    backend.get(&large).open(1, 1).unwrap();
    let mut other = backend::small_body();
    other[3] ^= 1;
    for (path, body, field, said) in [
        ("/", other, None, "another body"),
        ("/", backend::large_body(), None, "a Content-Length of"),
        (
            "/",
            backend::small_body(),
            Some(("x-frame-options", "DENY")),
            "an answer without",
        ),
        (
            backend::FILTERED,
            backend::small_body(),
            None,
            "instead of a 200",
        ),
    ] {
        let exchange = http1::Exchange::new(path, body, false, field);
        let failure = backend.get(&exchange).open(1, 1).unwrap_err().to_string();
        assert!(failure.contains(said), "{failure}");
    }
}

const SHORT: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(20);
