//! What the proxy holds for peers that are slow, as its metrics tell.

use crate::proxy::Proxy;
use crate::until;

impl Proxy {
    /// Bytes that count against `[limits] memory` now.
    pub async fn buffered(&self) -> usize {
        let held = self.metric("sluicegate_buffered_bytes").await;
        held.unwrap_or(0.0) as usize
    }

    /// How many of this kind, `tunnel` or `request`, had to go.
    pub async fn shed(&self, kind: &str) -> usize {
        let series = format!(r#"sluicegate_memory_shed_total{{kind="{kind}"}}"#);
        self.metric(&series).await.unwrap_or(0.0) as usize
    }

    /// Waits until so much is held.
    pub async fn holds(&self, least: usize) {
        let is_held = || async { (self.buffered().await >= least).then_some(()) };
        until(&format!("{least} bytes are held"), is_held).await;
    }

    /// Waits until those who were told to go, or are gone, have given back.
    pub async fn holds_at_most(&self, most: usize) {
        let is_held = || async { (self.buffered().await <= most).then_some(()) };
        until(&format!("at most {most} bytes are held"), is_held).await;
    }
}
