//! An upstream goes with all of its connections, and comes back on the same port.

use std::sync::Arc;
use std::time::Duration;

use sluicegate_tests::websocket::random::Random;

use crate::clients::{Order, Orders, pause};
use crate::world::World;

pub(crate) async fn vanish_and_return(world: Arc<World>, mut random: Random, mut orders: Orders) {
    let vanishing = &world.upstreams.vanishing;
    loop {
        let length = Duration::from_millis(random.between(300, 3_000) as u64);
        if pause(&mut orders, length).await != Order::Stay {
            return;
        }
        vanishing.vanish().await;
        world.ledger.met("an upstream vanishes");
        tokio::time::sleep(Duration::from_millis(random.between(50, 2_000) as u64)).await;
        vanishing.come_back();
    }
}
