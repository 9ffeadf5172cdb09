//! What the proxy says about itself: the log (stderr), the access log (stdout), the metrics.
//!
//! Both logs go through a [`LogWriter`]: a slow or vanished reader costs lines, which are counted in
//! `sluicegate_log_lines_dropped_total`, and never time. [`init`] is called once, by the binary.

pub mod access_log;
pub mod log_writer;
pub mod metrics;

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use crate::config::model;
use access_log::AccessLog;
use log_writer::LogWriter;
use metrics::Metrics;

/// The running log streams; dropping it writes out what is queued, within [`FLUSH_TIMEOUT`].
#[derive(Debug)]
pub struct Telemetry {
    level: reload::Handle<EnvFilter, Registry>,
    log: LogWriter,
    access: LogWriter,
}

/// Why the logs cannot be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("`{level}` is not a log level or filter")]
    Level {
        level: String,
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    #[error("cannot open a log stream")]
    Stream(#[source] io::Error),
    #[error("another log is already installed in this process")]
    Installed,
}

/// Installs the process's log as `config` asks, and exports the dropped lines of both streams.
pub fn init(config: &model::Log, metrics: &Metrics) -> Result<Telemetry, TelemetryError> {
    let filter = parse_level(&config.level)?;
    let stderr = stream(
        io::stderr().as_fd().try_clone_to_owned().map(File::from),
        "log",
    )?;
    let stdout = stream(
        io::stdout().as_fd().try_clone_to_owned().map(File::from),
        "access",
    )?;
    metrics.export_dropped("log", stderr.dropped());
    metrics.export_dropped("access", stdout.dropped());
    let (filter, level) = reload::Layer::new(filter);
    let writer = stderr.clone();
    tracing_subscriber::registry()
        .with(filter)
        .with(
            fmt::layer()
                .with_ansi(io::stderr().is_terminal())
                .with_writer(move || QueuedLine(writer.clone())),
        )
        .try_init()
        .map_err(|_| TelemetryError::Installed)?;
    Ok(Telemetry {
        level,
        log: stderr,
        access: stdout,
    })
}

/// Checks a `[log] level` without installing anything.
pub fn parse_level(level: &str) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::try_new(level).map_err(|source| TelemetryError::Level {
        level: level.to_owned(),
        source,
    })
}

impl Telemetry {
    /// Changes the log level; on an error the old one stays.
    pub fn set_level(&self, level: &str) -> Result<(), TelemetryError> {
        let filter = parse_level(level)?;
        // The subscriber lives as long as the process, so the handle always reaches it.
        self.level
            .reload(filter)
            .map_err(|_| TelemetryError::Installed)
    }

    /// The access log of a snapshot with this configuration, on the one stream of the process.
    pub fn access_log(&self, config: &model::Log) -> AccessLog {
        AccessLog::new(config.access, config.query, &self.access)
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        let deadline = Instant::now() + FLUSH_TIMEOUT;
        for writer in [&self.access, &self.log] {
            writer.flush(deadline.saturating_duration_since(Instant::now()));
        }
    }
}

/// What the subscriber writes one event to.
struct QueuedLine(LogWriter);

impl io::Write for QueuedLine {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.line(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A descriptor of our own, past the standard library's buffer and its lock.
fn stream(output: io::Result<File>, name: &str) -> Result<LogWriter, TelemetryError> {
    output
        .and_then(|output| LogWriter::spawn(name, output, QUEUE_SIZE))
        .map_err(TelemetryError::Stream)
}

/// How long the end of the process waits for its logs.
pub const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Bytes that may wait for a slow reader, per stream.
const QUEUE_SIZE: usize = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_checked() {
        for level in ["info", "info,sluicegate::tunnel=debug", "off"] {
            assert!(parse_level(level).is_ok(), "{level}");
        }
        let error = parse_level("info,sluicegate=loud").unwrap_err();
        assert_eq!(
            error.to_string(),
            "`info,sluicegate=loud` is not a log level or filter"
        );
    }
}
