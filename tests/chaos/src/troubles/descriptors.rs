//! The proxy runs out of descriptors: its limit is lowered to just above what it has open, and a crowd comes.

use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use sluicegate_tests::websocket::random::Random;
use tokio::io::AsyncWriteExt;
use tokio::time::{sleep, timeout};

use crate::clients::{Order, Orders, pause};
use crate::ledger::Count;
use crate::world::{Door, World};

pub(crate) async fn run_out(world: Arc<World>, mut random: Random, mut orders: Orders) {
    // The proxy has what we have.
    let whole = getrlimit(Resource::Nofile);
    loop {
        let length = Duration::from_millis(random.between(2_000, 8_000) as u64);
        if pause(&mut orders, length).await != Order::Stay {
            return;
        }
        world.ledger.begin_shortage();
        let open = world.proxy.descriptors() as u64;
        let little = Rlimit {
            current: Some(open + random.between(0, 8) as u64),
            maximum: whole.maximum,
        };
        set_limit(&world, little);
        // On a machine that is busy a crowd may take its time.
        let _ = timeout(Duration::from_secs(4), crowd(&world, &mut random)).await;
        set_limit(&world, whole);
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

fn set_limit(world: &World, limit: Rlimit) {
    let pid = i32::try_from(world.proxy.pid()).ok();
    // Without one it would be our own limit.
    let pid = pid.and_then(Pid::from_raw).expect("our child's id");
    prlimit(Some(pid), Resource::Nofile, limit).expect("our child's limit");
}
