//! The epoch thread: how a guest's CPU time is counted.
//!
//! It bumps the engine's epoch each millisecond while guests run, and sleeps when none has run
//! for a few: a proxy without work for plugins wakes no core. A call costs two atomic operations,
//! and a wake-up only where it finds the thread asleep.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::time::Duration;

use wasmtime::Engine;

pub(crate) struct Ticker {
    running: AtomicU32,
    parked: AtomicBool,
    stopped: AtomicBool,
    thread: OnceLock<Thread>,
}

/// A guest is running for as long as this lives.
pub(crate) struct Running<'a>(&'a Ticker);

impl Ticker {
    pub(crate) fn start(engine: &Engine) -> io::Result<Arc<Self>> {
        let ticker = Arc::new(Ticker {
            running: AtomicU32::new(0),
            parked: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            thread: OnceLock::new(),
        });
        let engine = engine.weak();
        let own = Arc::clone(&ticker);
        let thread = thread::Builder::new()
            .name("plugin-epoch".into())
            .spawn(move || {
                let mut idle = IDLE_TICKS;
                while !own.stopped.load(Ordering::Acquire) {
                    if idle >= IDLE_TICKS {
                        own.park();
                        idle = 0;
                    }
                    thread::sleep(TICK);
                    let Some(engine) = engine.upgrade() else {
                        return;
                    };
                    engine.increment_epoch();
                    idle = if own.running.load(Ordering::SeqCst) == 0 {
                        idle + 1
                    } else {
                        0
                    };
                }
            })?;
        // Nothing runs yet, so nobody can have looked for the thread.
        let _ = ticker.thread.set(thread.thread().clone());
        Ok(ticker)
    }

    pub(crate) fn running(&self) -> Running<'_> {
        self.running.fetch_add(1, Ordering::SeqCst);
        if self.parked.load(Ordering::SeqCst) && self.parked.swap(false, Ordering::SeqCst) {
            self.unpark();
        }
        Running(self)
    }

    /// Ends the thread, soon.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.unpark();
    }

    /// Sleeps until a guest runs. The flag goes up before the count is read, and a guest counts
    /// itself before it reads the flag: one of the two sees the other.
    fn park(&self) {
        self.parked.store(true, Ordering::SeqCst);
        while self.parked.load(Ordering::SeqCst)
            && self.running.load(Ordering::SeqCst) == 0
            && !self.stopped.load(Ordering::Acquire)
        {
            thread::park();
        }
        self.parked.store(false, Ordering::SeqCst);
    }

    fn unpark(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The grain of `call_timeout`, and the longest a guest keeps its thread.
pub(crate) const TICK: Duration = Duration::from_millis(1);
/// Ticks without a guest before the thread sleeps. A request every now and then must not cost a
/// hundred of them, a busy proxy not a wake-up a request.
const IDLE_TICKS: u32 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ticks_while_a_guest_runs_and_sleeps_otherwise() {
        let engine = Engine::default();
        let ticker = Ticker::start(&engine).expect("a thread");
        let is_parked = || ticker.parked.load(Ordering::SeqCst);
        let wait_for = |parked: bool| {
            while is_parked() != parked {
                thread::yield_now();
            }
        };
        for _ in 0..3 {
            wait_for(true);
            let running = ticker.running();
            assert!(!is_parked(), "a guest wakes it");
            let other = ticker.running();
            drop(other);
            assert!(!is_parked(), "one guest is enough");
            drop(running);
        }
        ticker.stop();
    }
}
