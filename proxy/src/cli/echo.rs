//! `sluicegate echo`: the backend of [`crate::echo`], to try a configuration against.

use std::net::SocketAddr;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::{Failure, runtime, say};
use crate::echo::serve;

/// Run a backend that answers with what it receives, to try a configuration against
///
/// A WebSocket on any path gets its messages back; any other request gets its own method, target
/// and headers as JSON, as the proxy forwarded them. SIGTERM and SIGINT stop it.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Listen here; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:3000")]
    bind: SocketAddr,
}

pub(super) fn echo(args: &Args) -> Result<(), Failure> {
    runtime()?.block_on(async {
        let mut term = signal(SignalKind::terminate()).map_err(Failure::runtime)?;
        let mut int = signal(SignalKind::interrupt()).map_err(Failure::runtime)?;
        let listener = TcpListener::bind(args.bind)
            .await
            .map_err(|error| cannot_listen(args.bind, &error, "echo"))?;
        let address = listener.local_addr().map_err(Failure::runtime)?;
        say(&format!("echo backend listening on {address}\n"));
        serve(listener, None, async {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
        })
        .await;
        Ok(())
    })
}

/// A port that is taken, with the way to take another one.
pub(super) fn cannot_listen(bind: SocketAddr, error: &std::io::Error, command: &str) -> Failure {
    let free = SocketAddr::new(bind.ip(), 0);
    Failure::Bind(format!("error: cannot listen on `{bind}`: {error}\n")).hint(format!(
        "choose another port: `sluicegate {command} --bind {free}` takes a free one"
    ))
}

const EXAMPLES: &str = "\
Examples:
  sluicegate echo
  sluicegate run --from :8080 --to 127.0.0.1:3000    then, in another terminal
  curl -i http://localhost:8080/hello
  wscat -c ws://localhost:8080/";
