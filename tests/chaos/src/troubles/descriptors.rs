//! The proxy runs out of descriptors: its limit is lowered to just above what it has open, and a crowd comes.

use std::io::{Error, Result};
use std::sync::Arc;
use std::time::Duration;

use sluicegate_tests::websocket::random::Random;
use tokio::io::AsyncWriteExt;
use tokio::time::{sleep, timeout};

use crate::clients::{Order, Orders, pause};
use crate::ledger::Count;
use crate::world::{Door, World};

pub(crate) async fn run_out(world: Arc<World>, mut random: Random, mut orders: Orders) {
    let whole = limit(&world).expect("the proxy's limit");
    loop {
        let length = Duration::from_millis(random.between(2_000, 8_000) as u64);
        if pause(&mut orders, length).await != Order::Stay {
            return;
        }
        world.ledger.begin_shortage();
        let open = world.proxy.descriptors() as u64;
        let little = libc::rlimit {
            rlim_cur: open + random.between(0, 8) as u64,
            ..whole
        };
        set_limit(&world, little).expect("a lower limit");
        // On a machine that is busy a crowd may take its time.
        let _ = timeout(Duration::from_secs(4), crowd(&world, &mut random)).await;
        set_limit(&world, whole).expect("the limit as it was");
        world.ledger.end_shortage();
        world.ledger.met("no descriptors are left");
    }
}

/// Connections that want something; most wait to be accepted, and go while they wait.
async fn crowd(world: &World, random: &mut Random) {
    let mut crowd = Vec::new();
    for number in 0..60 {
        let door = random.pick(&[Door::Plain, Door::Tls]);
        let Ok(mut stream) = world.tcp(door).await else {
            continue;
        };
        if door == Door::Plain {
            let request = "GET /leave/page HTTP/1.1\r\nHost: localhost\r\n\r\n";
            let _ = stream.write_all(request.as_bytes()).await;
        } else {
            world.ledger.count(Count::TlsHandshakes { ok: false });
        }
        crowd.push(stream);
        if number % 10 == 0 {
            sleep(Duration::from_millis(20)).await;
        }
    }
    sleep(Duration::from_millis(random.between(300, 2_000) as u64)).await;
}

fn limit(world: &World) -> Result<libc::rlimit> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: prlimit(2) writes the struct that it is given and reads nothing; the process is our child.
    let done = unsafe {
        libc::prlimit(
            pid(world),
            libc::RLIMIT_NOFILE,
            std::ptr::null(),
            &mut limit,
        )
    };
    if done == 0 {
        Ok(limit)
    } else {
        Err(Error::last_os_error())
    }
}

fn set_limit(world: &World, limit: libc::rlimit) -> Result<()> {
    // SAFETY: prlimit(2) reads the struct that it is given and writes nothing; the process is our child.
    let done = unsafe {
        libc::prlimit(
            pid(world),
            libc::RLIMIT_NOFILE,
            &limit,
            std::ptr::null_mut(),
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(Error::last_os_error())
    }
}

fn pid(world: &World) -> libc::pid_t {
    libc::pid_t::try_from(world.proxy.pid()).expect("a process id")
}
