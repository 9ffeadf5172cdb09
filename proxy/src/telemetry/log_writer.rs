//! A log stream that never blocks serving.
//!
//! Lines are appended to a bounded buffer in memory; a thread of its own swaps the buffer out and
//! writes it. When the reader of the log is slow, the disk full or the pipe closed, lines are
//! dropped and counted, and everything else goes on. A line is written whole or not at all, unless
//! the output itself fails in the middle of a write.

use std::io::{self, Write};
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// A handle to one log stream; clones share it.
///
/// The thread ends when the last handle is gone and the buffer is written.
#[derive(Debug, Clone)]
pub struct LogWriter(Arc<Handle>);

#[derive(Debug)]
struct Handle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Tells the thread that there is something to write, or that nobody writes any more.
    filled: Condvar,
    /// Tells flushes that everything taken so far has been written.
    emptied: Condvar,
    capacity: usize,
    dropped: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct State {
    pending: Vec<u8>,
    writing: bool,
    closed: bool,
}

impl LogWriter {
    /// Starts the thread `name` that writes to `output`, with at most `capacity` bytes waiting.
    ///
    /// Fails if the thread cannot be started.
    pub fn spawn(
        name: &str,
        output: impl Write + Send + 'static,
        capacity: usize,
    ) -> io::Result<LogWriter> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            filled: Condvar::new(),
            emptied: Condvar::new(),
            capacity,
            dropped: Arc::default(),
        });
        let thread = Arc::clone(&shared);
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || thread.run(output))?;
        Ok(LogWriter(Arc::new(Handle(shared))))
    }

    /// Queues one line, which ends in a line end, or drops and counts it. Never waits for output.
    pub fn line(&self, line: &[u8]) {
        let shared = self.shared();
        let mut state = shared.lock();
        if state.pending.len() + line.len() > shared.capacity {
            drop(state);
            shared.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let wake = state.pending.is_empty();
        state.pending.extend_from_slice(line);
        drop(state);
        if wake {
            shared.filled.notify_one();
        }
    }

    /// Blocks until everything queued so far is written, at most for `timeout`; says whether it is.
    pub fn flush(&self, timeout: Duration) -> bool {
        let shared = self.shared();
        let busy = |state: &mut State| state.writing || !state.pending.is_empty();
        let waited = shared
            .emptied
            .wait_timeout_while(shared.lock(), timeout, busy)
            .unwrap_or_else(PoisonError::into_inner);
        !waited.1.timed_out()
    }

    /// Lines dropped so far, live.
    pub fn dropped(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.shared().dropped)
    }

    fn shared(&self) -> &Shared {
        &self.0.0
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.filled.notify_one();
    }
}

impl Shared {
    fn run(&self, mut output: impl Write) {
        let mut batch = Vec::new();
        loop {
            let mut state = self.lock();
            state.writing = false;
            if state.pending.is_empty() {
                self.emptied.notify_all();
                state = self
                    .filled
                    .wait_while(state, |s| s.pending.is_empty() && !s.closed)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            if state.pending.is_empty() {
                return;
            }
            mem::swap(&mut state.pending, &mut batch);
            state.writing = true;
            drop(state);
            let written = write_batch(&mut output, &batch);
            if written < batch.len() {
                let lost = batch[written..].iter().filter(|b| **b == b'\n').count();
                self.dropped.fetch_add(lost as u64, Ordering::Relaxed);
            }
            batch.clear();
        }
    }

    /// No code panics while it holds the lock.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes as much as the output takes, and says how much that was.
fn write_batch(output: &mut impl Write, batch: &[u8]) -> usize {
    let mut written = 0;
    let mut stalled: Option<Instant> = None;
    while written < batch.len() {
        match output.write(&batch[written..]) {
            Ok(0) => break,
            Ok(n) => {
                written += n;
                stalled = None;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Somebody who shares the descriptor (a terminal, a supervisor) made it non-blocking.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let since = *stalled.get_or_insert_with(Instant::now);
                if since.elapsed() > STALL_TIMEOUT {
                    break;
                }
                thread::sleep(STALL_PAUSE);
            }
            Err(_) => break,
        }
    }
    written
}

/// How long a non-blocking output may take nothing before the batch is given up.
const STALL_TIMEOUT: Duration = Duration::from_secs(5);
const STALL_PAUSE: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// Takes one write per permit; without permits it blocks, and fails once the sender is gone.
    struct Gated {
        permits: Receiver<()>,
        written: Sender<Vec<u8>>,
    }

    impl Write for Gated {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.permits.recv().map_err(|_| io::ErrorKind::BrokenPipe)?;
            self.written
                .send(bytes.to_vec())
                .map_err(|_| io::ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn gated(capacity: usize) -> (LogWriter, Sender<()>, Receiver<Vec<u8>>) {
        let (permit, permits) = channel();
        let (written, read) = channel();
        let writer = LogWriter::spawn("log", Gated { permits, written }, capacity).unwrap();
        (writer, permit, read)
    }

    #[test]
    fn a_stuck_reader_costs_lines_and_never_blocks() {
        let (writer, permit, read) = gated(100);
        for i in 0..1_000 {
            writer.line(format!("{i:09}\n").as_bytes());
        }
        let dropped = writer.dropped().load(Ordering::Relaxed);
        // At most one batch is with the output and one waits.
        assert!((980..=990).contains(&dropped), "{dropped}");
        assert!(!writer.flush(Duration::ZERO));
        permit.send(()).unwrap();
        permit.send(()).unwrap();
        drop(writer);
        let text: Vec<u8> = read.iter().flatten().collect();
        assert_eq!(text.len() as u64, (1_000 - dropped) * 10);
        assert!(text.starts_with(b"000000000\n"));
    }

    #[test]
    fn a_closed_reader_costs_lines_and_never_blocks() {
        let (writer, permit, read) = gated(1_000);
        drop((permit, read));
        writer.line(b"one\n");
        assert!(writer.flush(Duration::from_secs(60)));
        writer.line(b"two\n");
        assert!(writer.flush(Duration::from_secs(60)));
        assert_eq!(writer.dropped().load(Ordering::Relaxed), 2);
    }

    #[test]
    fn flush_waits_for_what_was_queued() {
        let (writer, permit, read) = gated(1_000);
        writer.line(b"one\n");
        permit.send(()).unwrap();
        assert!(writer.flush(Duration::from_secs(60)));
        assert_eq!(read.try_recv().unwrap(), b"one\n");
    }
}
