//! Telling the service manager how the process stands (sd_notify(3)): ready, reloading, stopping.
//!
//! One datagram each to the socket that `NOTIFY_SOCKET` names; without one nothing is sent. What it says is a
//! help: a manager that does not listen holds up nothing and is logged.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The way to the service manager, if one listens.
#[derive(Debug)]
pub struct Supervisor {
    address: Option<OsString>,
}

impl Supervisor {
    pub fn from_environment() -> Supervisor {
        Supervisor {
            address: env::var_os("NOTIFY_SOCKET").filter(|address| !address.is_empty()),
        }
    }

    /// It serves; `status` is for people.
    pub fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={status}"));
    }

    /// A reload begins, which the next [`Supervisor::ready`] ends.
    pub fn reloading(&self) {
        // The manager pairs it by this clock with the reload that it asked for.
        let now = clock_gettime(ClockId::Monotonic);
        let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1_000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    pub fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=draining");
    }

    fn tell(&self, message: &str) {
        if let Some(address) = &self.address
            && let Err(error) = send(address, message)
        {
            tracing::warn!(%error, "the service manager does not listen");
        }
    }
}

fn send(address: &OsStr, message: &str) -> io::Result<()> {
    let address = match address.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(address)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.send_to_addr(message.as_bytes(), &address)?;
    Ok(())
}

/// How long a manager with a full queue may keep the process waiting.
const PATIENCE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_by_path_or_abstract_name() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("notify");
        let name = format!("sluicegate-test-{}", std::process::id());
        let abstract_name = SocketAddr::from_abstract_name(&name).unwrap();
        for (listener, address) in [
            (UnixDatagram::bind(&path).unwrap(), path.into_os_string()),
            (
                UnixDatagram::bind_addr(&abstract_name).unwrap(),
                format!("@{name}").into(),
            ),
        ] {
            let heard = || {
                let mut room = [0; 256];
                let length = listener.recv(&mut room).unwrap();
                String::from_utf8(room[..length].to_vec()).unwrap()
            };
            let supervisor = Supervisor {
                address: Some(address),
            };
            supervisor.ready("serving");
            assert_eq!(heard(), "READY=1\nSTATUS=serving");
            supervisor.reloading();
            let first = heard();
            supervisor.reloading();
            let micros = |message: &str| -> u128 {
                let rest = message
                    .strip_prefix("RELOADING=1\nMONOTONIC_USEC=")
                    .unwrap();
                rest.parse().unwrap()
            };
            assert!(micros(&first) <= micros(&heard()));
            supervisor.stopping();
            assert_eq!(heard(), "STOPPING=1\nSTATUS=draining");
        }
    }

    #[test]
    fn nobody_listening_is_no_failure() {
        for address in [None, Some("/nowhere/notify".into()), Some("@nobody".into())] {
            Supervisor { address }.ready("serving");
        }
    }
}
