//! The carrier of tunnels that nobody looks into: bytes as they come, at most the heads of their frames
//! followed.

use std::task::Context;

use super::SCRATCH;
use super::carrier::{BrokenLeg, Carrier, OneWay, Pumped};
use super::way::Way;
use crate::stream::Stream;

pub(super) struct Bytes {
    pub(super) from_downstream: Way,
    pub(super) from_upstream: Way,
}

impl Carrier for Bytes {
    type Way = Way;

    fn ways(&self) -> (&Way, &Way) {
        (&self.from_downstream, &self.from_upstream)
    }

    fn ways_mut(&mut self) -> (&mut Way, &mut Way) {
        (&mut self.from_downstream, &mut self.from_upstream)
    }

    fn pump(
        &mut self,
        downstream: &mut Stream,
        upstream: &mut Stream,
        cx: &mut Context<'_>,
    ) -> Result<Pumped, BrokenLeg> {
        let (up, down) = SCRATCH.with_borrow_mut(|scratch| {
            // Behind the answer to a Close mostly comes the end, and both can leave together.
            let closed = self.from_upstream.close_code().is_some();
            if closed {
                upstream.cork();
            }
            let up = (self.from_downstream).pump(downstream, upstream, closed, scratch, cx);
            let closed = self.from_downstream.close_code().is_some();
            if closed {
                downstream.cork();
            }
            let down = (self.from_upstream).pump(upstream, downstream, closed, scratch, cx);
            (up, down)
        });
        match (up, down) {
            (Ok(up), Ok(down)) => Ok(Pumped {
                moved: up.moved || down.moved,
                more: up.more || down.more,
                stop: None,
            }),
            (up, down) => Err(BrokenLeg::of(up.err(), down.err()).unwrap_or(BrokenLeg::Upstream)),
        }
    }
}
