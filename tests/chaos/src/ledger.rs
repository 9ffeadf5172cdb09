//! What the clients saw, written down while it happens.
//!
//! Each thing that the proxy's metrics count has an entry here under the same heading ([`Count`]), so that
//! the two can be laid side by side at the end. A promise that is broken is noted at once, with a few
//! examples of how.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// One run's.
#[derive(Default)]
pub(crate) struct Ledger {
    book: Mutex<Book>,
    verbose: bool,
}

#[derive(Default)]
struct Book {
    counts: BTreeMap<Count, u64>,
    broken: BTreeMap<&'static str, Broken>,
    /// How often each fault was met.
    met: BTreeMap<&'static str, u64>,
    shortages: Vec<Shortage>,
    /// When a tunnel was told to go, at the stop.
    goodbyes: Vec<Instant>,
}

/// How often a promise was broken, and how at first.
#[derive(Default, Clone)]
pub(crate) struct Broken {
    pub(crate) times: u64,
    pub(crate) examples: Vec<String>,
}

/// A time in which the proxy had no descriptors left.
struct Shortage {
    began: Instant,
    ended: Option<Instant>,
}

/// What is counted on both sides.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Count {
    Connections {
        listener: String,
    },
    TlsHandshakes {
        ok: bool,
    },
    /// Ordinary ones, and handshakes that came to nothing, by the status's first digit.
    Requests {
        route: String,
        method: String,
        class: u16,
    },
    Handshakes {
        route: String,
        accepted: bool,
    },
    /// `None`: without a Close, or on a route where two codes can cross.
    Closes {
        route: String,
        code: Option<u16>,
    },
    Messages {
        route: String,
        from_client: bool,
    },
    /// Answers that the proxy made itself for want of a better one, by status, and by reason where only one kind of
    /// fault leads to it.
    OwnAnswers {
        status: u16,
        reason: Option<&'static str>,
    },
    /// Answers that their clients did not take fast enough.
    ResponsesCut,
    PluginFailures {
        plugin: String,
        result: String,
    },
    Reloads {
        applied: bool,
    },
}

impl Ledger {
    pub(crate) fn new(verbose: bool) -> Ledger {
        Ledger {
            verbose,
            ..Ledger::default()
        }
    }

    pub(crate) fn count(&self, what: Count) {
        self.add(what, 1);
    }

    pub(crate) fn add(&self, what: Count, times: u64) {
        *self.book().counts.entry(what).or_default() += times;
    }

    /// A request to this route was answered with this status.
    pub(crate) fn request(&self, route: &str, method: &str, status: u16) {
        self.request_for(route, method, status, None);
    }

    /// As `request`, where the client knows why it is told so.
    pub(crate) fn request_for(
        &self,
        route: &str,
        method: &str,
        status: u16,
        reason: Option<&'static str>,
    ) {
        self.count(Count::Requests {
            route: route.to_owned(),
            method: method.to_owned(),
            class: status / 100,
        });
        self.own_answer(status, reason);
    }

    /// No upstream here answers with such a status.
    pub(crate) fn own_answer(&self, status: u16, reason: Option<&'static str>) {
        if status >= 400 && status != UPSTREAMS_OWN {
            self.count(Count::OwnAnswers { status, reason });
        }
    }

    /// A handshake was answered; over HTTP/2 a success is a 101 here as well.
    pub(crate) fn handshake(&self, route: &str, method: &str, status: u16) {
        self.handshake_for(route, method, status, None);
    }

    /// As `handshake`, where the client knows why it is told so.
    pub(crate) fn handshake_for(
        &self,
        route: &str,
        method: &str,
        status: u16,
        reason: Option<&'static str>,
    ) {
        let accepted = status == 101;
        let route = route.to_owned();
        self.count(Count::Handshakes {
            route: route.clone(),
            accepted,
        });
        if !accepted {
            self.request_for(&route, method, status, reason);
        }
    }

    pub(crate) fn closed(&self, route: &str, code: Option<u16>) {
        self.count(Count::Closes {
            route: route.to_owned(),
            code,
        });
    }

    pub(crate) fn counts(&self) -> BTreeMap<Count, u64> {
        self.book().counts.clone()
    }

    /// Notes that a fault was met.
    pub(crate) fn met(&self, fault: &'static str) {
        *self.book().met.entry(fault).or_default() += 1;
    }

    pub(crate) fn all_met(&self) -> BTreeMap<&'static str, u64> {
        self.book().met.clone()
    }

    /// Notes a broken promise.
    pub(crate) fn broke(&self, promise: &'static str, how: String) {
        if self.verbose {
            eprintln!("broken: {promise}: {how}");
        }
        let mut book = self.book();
        let broken = book.broken.entry(promise).or_default();
        broken.times += 1;
        if broken.examples.len() < EXAMPLES {
            broken.examples.push(how);
        }
    }

    pub(crate) fn broken(&self) -> BTreeMap<&'static str, Broken> {
        self.book().broken.clone()
    }

    pub(crate) fn begin_shortage(&self) {
        self.book().shortages.push(Shortage {
            began: Instant::now(),
            ended: None,
        });
    }

    pub(crate) fn end_shortage(&self) {
        if let Some(last) = self.book().shortages.last_mut() {
            last.ended = Some(Instant::now());
        }
    }

    /// Whether the proxy may have been out of descriptors at any time since.
    pub(crate) fn was_short_since(&self, since: Instant) -> bool {
        let book = self.book();
        (book.shortages.iter()).any(|short| short.ended.is_none_or(|end| end + AFTERMATH > since))
    }

    pub(crate) fn shortages(&self) -> Vec<Duration> {
        let book = self.book();
        let all = book.shortages.iter();
        all.filter_map(|short| Some(short.ended? - short.began))
            .collect()
    }

    /// A tunnel has its Close of the stop.
    pub(crate) fn goodbye(&self) {
        self.book().goodbyes.push(Instant::now());
    }

    pub(crate) fn goodbyes(&self) -> Vec<Instant> {
        self.book().goodbyes.clone()
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a faulty upstream refuses a handshake with; the proxy has no use for it.
pub(crate) const UPSTREAMS_OWN: u16 = 418;
/// Of each broken promise.
const EXAMPLES: usize = 5;
/// A shortage's marks: what waited in it is served late.
const AFTERMATH: Duration = Duration::from_secs(1);
