//! A WASI 0.2 without a world behind it, for languages whose runtime will not start without one.
//!
//! There are clocks, random bytes and a standard output that ends in the plugin's log. There is no
//! standard input, argument, environment variable, file, socket or name service: what would open one
//! says that it is not permitted. To exit is to trap.
//!
//! wasmtime-wasi implements it, except for what the proxy has its own of: the log, the clock, random bytes,
//! and waiting. An instance waits for a clock in its hooks only, where the wall-clock limit of a call
//! ends the wait, and no thread waits with it. It holds so many handles and no more. The state is made
//! when a guest first asks for something, since most calls of most guests ask for nothing.
//!
//! Clock and random bytes work in `configure` too, where our own trap: it is the language's runtime that
//! asks, to seed itself. Therefore such a plugin never starts from an image (`image/shape`).

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use sluicegate_plugin_services as services;
use tokio::io::AsyncWrite;
use tracing::Level;
use wasmtime::bail;
use wasmtime::component::{HasSelf, Linker, Resource, ResourceTable};
use wasmtime_wasi::cli::{IsTerminal, StdinStream, StdoutStream};
use wasmtime_wasi::clocks::WasiClocksView as _;
use wasmtime_wasi::p2::bindings::clocks::{monotonic_clock, wall_clock};
use wasmtime_wasi::p2::bindings::random::{insecure, insecure_seed, random};
use wasmtime_wasi::p2::pipe::ClosedInputStream;
use wasmtime_wasi::p2::{
    DynPollable, InputStream, OutputStream, Pollable, StreamError, StreamResult,
};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView, async_trait};

use crate::bindings::State;
use crate::plugin::Identity;

/// What an instance has open.
pub(crate) struct WasiState {
    ctx: WasiCtx,
    table: ResourceTable,
}

/// Whether an import is one of those that [`link`] brings, in a version that it can stand for.
pub(crate) fn offers(import: &str) -> bool {
    let Some((interface, version)) = import.split_once('@') else {
        return false;
    };
    version.starts_with("0.2.") && INTERFACES.contains(&interface)
}

/// Gives a linker the stub, beside what is there already.
pub(crate) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    linker.allow_shadowing(true);
    monotonic_clock::add_to_linker::<State, HasSelf<State>>(linker, |state| state)?;
    wall_clock::add_to_linker::<State, HasSelf<State>>(linker, |state| state)?;
    random::add_to_linker::<State, HasSelf<State>>(linker, |state| state)?;
    insecure::add_to_linker::<State, HasSelf<State>>(linker, |state| state)?;
    insecure_seed::add_to_linker::<State, HasSelf<State>>(linker, |state| state)?;
    linker.allow_shadowing(false);
    Ok(())
}

impl WasiState {
    fn new(plugin: &Arc<Identity>, route: &Arc<str>) -> Self {
        let output = |level| {
            Output(Arc::new(Lines {
                plugin: Arc::clone(plugin),
                route: Arc::clone(route),
                level,
                begun: Mutex::default(),
            }))
        };
        let ctx = WasiCtx::builder()
            .stdin(NoInput)
            .stdout(output(Level::INFO))
            .stderr(output(Level::WARN))
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false)
            .build();
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_HANDLES);
        WasiState { ctx, table }
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let made = || Box::new(WasiState::new(&self.plugin, &self.route));
        let WasiState { ctx, table } = &mut **self.wasi.get_or_insert_with(made);
        WasiCtxView { ctx, table }
    }
}

impl monotonic_clock::Host for State {
    fn now(&mut self) -> wasmtime::Result<u64> {
        let now = self.plugin.clock.monotonic();
        Ok(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
    }

    fn resolution(&mut self) -> wasmtime::Result<u64> {
        Ok(1)
    }

    fn subscribe_instant(&mut self, when: u64) -> wasmtime::Result<Resource<DynPollable>> {
        let now = monotonic_clock::Host::now(self)?;
        self.subscribe_duration(when.saturating_sub(now))
    }

    fn subscribe_duration(&mut self, duration: u64) -> wasmtime::Result<Resource<DynPollable>> {
        // Outside of the hooks no limit would end the wait, and nothing might wake it.
        if self.request.is_none() && self.response.is_none() {
            bail!("a guest may wait in `on-request` and `on-response` only");
        }
        self.clocks().subscribe_duration(duration)
    }
}

impl wall_clock::Host for State {
    fn now(&mut self) -> wasmtime::Result<wall_clock::Datetime> {
        let now = self.plugin.clock.since_epoch();
        Ok(wall_clock::Datetime {
            seconds: now.as_secs(),
            nanoseconds: now.subsec_nanos(),
        })
    }

    fn resolution(&mut self) -> wasmtime::Result<wall_clock::Datetime> {
        Ok(wall_clock::Datetime {
            seconds: 0,
            nanoseconds: 1,
        })
    }
}

impl random::Host for State {
    fn get_random_bytes(&mut self, len: u64) -> wasmtime::Result<Vec<u8>> {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        // WASI has no word for fewer bytes than were asked for.
        if len > MAX_RANDOM {
            bail!("`{len}` random bytes at once; the most is {MAX_RANDOM}");
        }
        let mut bytes = vec![0; len];
        services::random::fill(&mut bytes)?;
        Ok(bytes)
    }

    fn get_random_u64(&mut self) -> wasmtime::Result<u64> {
        let mut bytes = [0; 8];
        services::random::fill(&mut bytes)?;
        Ok(u64::from_ne_bytes(bytes))
    }
}

/// Insecure ones may as well be secure.
impl insecure::Host for State {
    fn get_insecure_random_bytes(&mut self, len: u64) -> wasmtime::Result<Vec<u8>> {
        random::Host::get_random_bytes(self, len)
    }

    fn get_insecure_random_u64(&mut self) -> wasmtime::Result<u64> {
        random::Host::get_random_u64(self)
    }
}

impl insecure_seed::Host for State {
    fn insecure_seed(&mut self) -> wasmtime::Result<(u64, u64)> {
        let mut word = || random::Host::get_random_u64(self);
        Ok((word()?, word()?))
    }
}

impl fmt::Debug for WasiState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WasiState").finish_non_exhaustive()
    }
}

/// One of the two standard outputs: each line is a line of the log.
struct Output(Arc<Lines>);

/// A handle that the guest got of it; all of them continue the same line.
struct OpenOutput(Arc<Lines>);

struct Lines {
    plugin: Arc<Identity>,
    route: Arc<str>,
    level: Level,
    /// A line that has not ended; never longer than [`MAX_LINE`].
    begun: Mutex<Vec<u8>>,
}

impl Lines {
    fn write(&self, bytes: &[u8]) {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        split_lines(&mut begun, bytes, |line| self.log(line));
    }

    fn log(&self, line: &[u8]) {
        let text = String::from_utf8_lossy(line);
        let Identity { log, name, .. } = &*self.plugin;
        log.write(self.level, name, &self.route, &text, &[]);
    }
}

impl Drop for Lines {
    /// What the guest wrote last need not have ended its line.
    fn drop(&mut self) {
        let begun = self.begun.get_mut().unwrap_or_else(PoisonError::into_inner);
        let begun = std::mem::take(begun);
        if !begun.is_empty() {
            self.log(&begun);
        }
    }
}

/// Cuts text into lines, where it ends one or one gets too long; empty ones are left out. `begun` holds
/// the line that a next text continues.
fn split_lines(begun: &mut Vec<u8>, text: &[u8], mut line: impl FnMut(&[u8])) {
    for part in text.split_inclusive(|byte| *byte == b'\n') {
        let (part, ended) = match part.strip_suffix(b"\n") {
            Some(part) => (part.strip_suffix(b"\r").unwrap_or(part), true),
            None => (part, false),
        };
        let mut rest = part;
        while begun.len() + rest.len() > MAX_LINE {
            let (fits, more) = rest.split_at(MAX_LINE - begun.len());
            begun.extend_from_slice(fits);
            line(begun);
            begun.clear();
            rest = more;
        }
        begun.extend_from_slice(rest);
        if ended && !begun.is_empty() {
            line(begun);
            begun.clear();
        }
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    /// Asked for by WASI 0.3 only, which is not linked.
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(OpenOutput(Arc::clone(&self.0)))
    }
}

#[async_trait]
impl OutputStream for OpenOutput {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if bytes.len() > MAX_WRITE {
            return Err(StreamError::trap("wrote more than `check-write` allowed"));
        }
        self.0.write(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(MAX_WRITE)
    }

    /// The number is the guest's, so nothing is made of it before it was looked at.
    fn write_zeroes(&mut self, count: usize) -> StreamResult<()> {
        if count > MAX_WRITE {
            return Err(StreamError::trap("wrote more than `check-write` allowed"));
        }
        self.write(Bytes::from(vec![0; count]))
    }
}

#[async_trait]
impl Pollable for OpenOutput {
    async fn ready(&mut self) {}
}

/// A standard input that has ended.
struct NoInput;

impl IsTerminal for NoInput {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdinStream for NoInput {
    /// As [`Output::async_stream`].
    fn async_stream(&self) -> Box<dyn tokio::io::AsyncRead + Send + Sync> {
        Box::new(tokio::io::empty())
    }

    fn p2_stream(&self) -> Box<dyn InputStream> {
        Box::new(ClosedInputStream)
    }
}

/// Handles of one instance: streams, pollables, errors.
const MAX_HANDLES: usize = 1024;
/// Random bytes of one call.
const MAX_RANDOM: usize = 64 << 10;
/// What an output takes at once, bytes.
const MAX_WRITE: usize = 4 << 10;
/// A line that does not end is cut here; as long as the log's lines.
const MAX_LINE: usize = 1 << 10;
/// What the standard libraries of C, Python and JavaScript import between them, and no more.
const INTERFACES: [&str; 27] = [
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stderr",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stderr",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/wall-clock",
    "wasi:filesystem/preopens",
    "wasi:filesystem/types",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:random/random",
    "wasi:sockets/instance-network",
    "wasi:sockets/ip-name-lookup",
    "wasi:sockets/network",
    "wasi:sockets/tcp",
    "wasi:sockets/tcp-create-socket",
    "wasi:sockets/udp",
    "wasi:sockets/udp-create-socket",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_where_the_guest_ends_them_or_where_they_get_too_long() {
        #[track_caller]
        fn check(writes: &[&str], lines: &[&str], rest: &str) {
            let mut begun = Vec::new();
            let mut found = Vec::new();
            for text in writes {
                split_lines(&mut begun, text.as_bytes(), |line| {
                    found.push(String::from_utf8_lossy(line).into_owned());
                });
            }
            assert_eq!(found, lines);
            assert_eq!(begun, rest.as_bytes());
        }
        check(
            &["one\ntwo\r\n", "thr", "ee\nfo"],
            &["one", "two", "three"],
            "fo",
        );
        check(&["\n\n", "", "\r\n"], &[], "");
        let long = "x".repeat(MAX_LINE);
        check(&[&long], &[], &long);
        check(&[&long, "\n"], &[&long], "");
        check(&[&long, "y\n"], &[&long, "y"], "");
        check(&[&long.repeat(3), "y"], &[&long, &long, &long], "y");
    }

    #[test]
    fn the_stub_stands_for_any_wasi_0_2_but_for_no_other() {
        for (import, offered) in [
            ("wasi:cli/stderr@0.2.0", true),
            ("wasi:sockets/tcp@0.2.12", true),
            ("wasi:cli/stderr@0.3.0", false),
            ("wasi:cli/stderr", false),
            ("wasi:http/types@0.2.0", false),
            ("wasi:filesystem/preopens-too@0.2.0", false),
        ] {
            assert_eq!(offers(import), offered, "{import}");
        }
    }
}
