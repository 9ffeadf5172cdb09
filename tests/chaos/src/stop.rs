//! The end: SIGTERM while all tunnels are there. Each is told by a Close, not all at once, and the proxy is gone
//! in time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clients::Order;
use crate::round::Crowd;
use crate::world::World;

/// Stops the proxy under a crowd of tunnels.
pub(crate) async fn stop(mut world: Arc<World>, round: u64) {
    let mut crowd = Crowd::new(&world, round);
    crowd.open_tunnels().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    crowd.tell(Order::AwaitClose);
    let began = Instant::now();
    world.proxy.signal(libc::SIGTERM);
    crowd.end(Order::AwaitClose).await;
    let ledger = Arc::clone(&world.ledger);
    spread(&world, began);
    let drain = world.plan.drain;
    let Some(world) = Arc::get_mut(&mut world) else {
        ledger.broke(STOPPED, "a client still holds on".to_owned());
        return;
    };
    let code = world.proxy.wait().await.code();
    let took = began.elapsed();
    println!("stopped in {:.1} s", took.as_secs_f64());
    if code != Some(0) || took > drain + GRACE {
        let how = format!("exit code {code:?} after {took:?} of {drain:?}");
        ledger.broke(STOPPED, how);
    }
}

/// A crowd that is told in one moment comes back in one moment, elsewhere.
fn spread(world: &World, began: Instant) {
    let mut times: Vec<Duration> = (world.ledger.goodbyes().iter())
        .map(|at| *at - began)
        .collect();
    times.sort();
    let (Some(first), Some(last)) = (times.first(), times.last()) else {
        let how = "nobody was told".to_owned();
        return world.ledger.broke(SPREAD, how);
    };
    let span = *last - *first;
    let slice = span / 10;
    let fullest = times.iter().map(|start| {
        let end = *start + slice;
        times
            .iter()
            .filter(|&at| (start..&end).contains(&at))
            .count()
    });
    let fullest = fullest.max().unwrap_or(0);
    println!(
        "{} tunnels told within {:.1} s, at most {fullest} in a tenth of it",
        times.len(),
        span.as_secs_f64()
    );
    if span < world.plan.drain / 4 || fullest * 3 > times.len() {
        let how = format!("{fullest} of {} in {slice:?} of {span:?}", times.len());
        world.ledger.broke(SPREAD, how);
    }
}

/// For what comes after the deadline: cut tunnels, an empty log.
const GRACE: Duration = Duration::from_secs(5);
const STOPPED: &str = "the proxy stops in time, and in good order";
const SPREAD: &str = "a stop's goodbyes are spread out";
