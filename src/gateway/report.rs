//! What the gateway tells its operator.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::gate::{Common, Counters};
use crate::admin::Report;
use crate::refusal::Refusal;

/// Reads the shards' counters; never waits for a shard.
pub struct Gateway {
    common: Arc<Common>,
    /// Written by shard 0 when it changes: settings in force, by site.
    sites: Mutex<serde_json::Value>,
}

impl Gateway {
    /// A report over these counters.
    pub fn new(common: Arc<Common>) -> Arc<Gateway> {
        Arc::new(Gateway { common, sites: Mutex::new(serde_json::Value::Null) })
    }

    /// Other settings are in force.
    pub fn show(&self, sites: serde_json::Value) {
        *self.sites.lock().unwrap_or_else(PoisonError::into_inner) = sites;
    }

    fn sites(&self) -> serde_json::Value {
        self.sites.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn sum(&self, which: impl Fn(&Counters) -> &AtomicU64) -> u64 {
        self.common.counters.iter().map(|counters| which(counters).load(Ordering::Relaxed)).sum()
    }
}

/// Counters shown for each shard, by name.
type Shown = (&'static str, fn(&Counters) -> &AtomicU64);
const SHOWN: [Shown; 15] = [
    ("clients", |counters| &counters.clients),
    ("handshakes", |counters| &counters.handshakes),
    ("handshake_failures", |counters| &counters.handshake_failures),
    ("requests", |counters| &counters.requests),
    ("answered", |counters| &counters.answered),
    ("cut", |counters| &counters.cut),
    ("retried", |counters| &counters.retried),
    ("active", |counters| &counters.active),
    ("waiting", |counters| &counters.waiting),
    ("links", |counters| &counters.links),
    ("crossed", |counters| &counters.crossed),
    ("panics", |counters| &counters.panics),
    ("ring_enters", |counters| &counters.enters),
    ("ring_completions", |counters| &counters.completions),
    ("ring_starved", |counters| &counters.starved),
];

impl Report for Gateway {
    fn is_ready(&self) -> bool {
        self.sum(|counters| &counters.links) > 0
    }

    fn status(&self) -> serde_json::Value {
        let shards: Vec<_> = self.common.counters.iter().map(shard).collect();
        let refused: serde_json::Map<_, _> = Refusal::ALL
            .into_iter()
            .map(|refusal| {
                let count = self.sum(|counters| &counters.refused[refusal as usize]);
                (refusal.reason().to_owned(), count.into())
            })
            .collect();
        serde_json::json!({
            "role": "gateway",
            "version": env!("CARGO_PKG_VERSION"),
            "service": self.common.settings.name,
            "instance": self.common.settings.instance,
            "listeners": self.common.settings.listeners,
            "internal_listeners": self.common.settings.internal_listeners,
            "clients": self.sum(|counters| &counters.clients),
            "clients_max": self.common.settings.clients_max,
            "direct_descriptors_per_shard": self.common.slots,
            "sites": self.sites(),
            "refused": refused,
            "shards": shards,
        })
    }

    fn metrics(&self) -> String {
        use std::fmt::Write;
        let mut text = String::new();
        for (name, which) in SHOWN {
            let gauge = matches!(name, "clients" | "active" | "waiting" | "links");
            let (kind, suffix) = if gauge { ("gauge", "") } else { ("counter", "_total") };
            let _ = writeln!(text, "# TYPE cmg_gateway_{name}{suffix} {kind}");
            for (shard, counters) in self.common.counters.iter().enumerate() {
                let value = which(counters).load(Ordering::Relaxed);
                let _ = writeln!(text, "cmg_gateway_{name}{suffix}{{shard=\"{shard}\"}} {value}");
            }
        }
        text
    }
}

fn shard(counters: &Counters) -> serde_json::Value {
    let mut shown: serde_json::Map<_, _> = SHOWN
        .into_iter()
        .map(|(name, which)| (name.to_owned(), which(counters).load(Ordering::Relaxed).into()))
        .collect();
    for (name, bytes) in ["channel_bytes_out", "channel_bytes_in"].into_iter().zip(&counters.channel_bytes) {
        shown.insert(name.to_owned(), bytes.load(Ordering::Relaxed).into());
    }
    shown.into()
}
