//! What a connection point tells about itself. Shards write numbers here, the admin thread reads them;
//! neither waits for the other on the way of a request.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use super::plan::Plan;
use crate::admin::Report;
use crate::channel::ResetCode;

/// See the file's head.
pub struct Board {
    name: String,
    site: String,
    serial: u64,
    /// As in the plan.
    pub instances: Vec<InstanceBoard>,
    shards: Vec<Arc<Counts>>,
}

/// One instance, over all shards.
pub struct InstanceBoard {
    dialled: String,
    /// 0: the instance never answered.
    wanted: AtomicU16,
    up: AtomicU16,
    in_force: AtomicBool,
    /// What went wrong last; written when channels come and go.
    trouble: Mutex<String>,
}

impl InstanceBoard {
    /// So many channels are kept to it.
    pub fn wants(&self, count: u16) {
        self.wanted.store(count, Ordering::Relaxed);
    }

    /// One more is up.
    pub fn channel_up(&self) {
        self.up.fetch_add(1, Ordering::Relaxed);
        if self.is_ready() {
            self.is_in_trouble("");
        }
    }

    /// One less; the first is the one that publishes settings.
    pub fn channel_down(&self, is_first: bool) {
        self.up.fetch_sub(1, Ordering::Relaxed);
        if is_first {
            self.in_force.store(false, Ordering::Relaxed);
        }
    }

    /// Our settings are in force there, or are not.
    pub fn acknowledged(&self, is_in_force: bool) {
        self.in_force.store(is_in_force, Ordering::Relaxed);
        if self.is_ready() {
            self.is_in_trouble("");
        }
    }

    /// What an operator should know; empty: nothing.
    pub fn is_in_trouble(&self, text: &str) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        text.clone_into(&mut trouble);
    }

    fn is_ready(&self) -> bool {
        let wanted = self.wanted.load(Ordering::Relaxed);
        wanted > 0 && self.up.load(Ordering::Relaxed) >= wanted && self.in_force.load(Ordering::Relaxed)
    }

    fn status(&self) -> Value {
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
        json!({
            "address": self.dialled,
            "channels": self.up.load(Ordering::Relaxed),
            "channels_wanted": self.wanted.load(Ordering::Relaxed),
            "settings_in_force": self.in_force.load(Ordering::Relaxed),
            "trouble": if trouble.is_empty() { Value::Null } else { Value::String(trouble) },
        })
    }
}

/// What one shard counts; only that shard writes.
#[derive(Default)]
pub struct Counts {
    requests: AtomicU64,
    refused: AtomicU64,
    not_begun: AtomicU64,
    left: AtomicU64,
    broken: AtomicU64,
    repeated: AtomicU64,
}

fn add_one(count: &AtomicU64) {
    // One writer: no locked instruction is needed.
    count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

impl Counts {
    /// A request came.
    pub fn began(&self) {
        add_one(&self.requests);
    }

    /// A request went out again on a new connection.
    pub fn repeated(&self) {
        add_one(&self.repeated);
    }

    /// A request ended so.
    pub fn reset(&self, code: ResetCode) {
        add_one(match code {
            ResetCode::Refused(_) => &self.refused,
            ResetCode::NotBegun => &self.not_begun,
            ResetCode::Cancelled => &self.left,
            ResetCode::OriginBroke | ResetCode::Protocol | ResetCode::Other(_) => &self.broken,
        });
    }

    fn rows(&self) -> [(&'static str, &'static str, &AtomicU64); 6] {
        [
            ("requests", "Requests that came over channels.", &self.requests),
            ("requests_refused", "Requests turned away, or whose origin failed.", &self.refused),
            ("requests_not_begun", "Requests given back for want of an origin connection.", &self.not_begun),
            ("requests_left", "Requests whose client left.", &self.left),
            ("requests_broken", "Answers that broke off behind their head.", &self.broken),
            ("requests_repeated", "Requests sent again on a new connection.", &self.repeated),
        ]
    }
}

impl Board {
    /// An empty one.
    pub fn new(plan: &Plan) -> Board {
        let instance = |dialled: &String| InstanceBoard {
            dialled: dialled.clone(),
            wanted: AtomicU16::new(0),
            up: AtomicU16::new(0),
            in_force: AtomicBool::new(false),
            trouble: Mutex::default(),
        };
        Board {
            name: plan.name.clone(),
            site: plan.site.clone(),
            serial: plan.revision.serial,
            instances: plan.instances.iter().map(|one| instance(&one.dialled)).collect(),
            shards: (0..plan.shards).map(|_| Arc::default()).collect(),
        }
    }

    /// Where a shard counts.
    pub fn counts(&self, shard: usize) -> Arc<Counts> {
        self.shards[shard].clone()
    }
}

impl Report for Board {
    fn is_ready(&self) -> bool {
        self.instances.iter().all(InstanceBoard::is_ready)
    }

    fn status(&self) -> Value {
        let count = |counts: &Arc<Counts>| -> serde_json::Map<String, Value> {
            let rows = counts.rows();
            rows.iter()
                .map(|(name, _, count)| ((*name).to_owned(), count.load(Ordering::Relaxed).into()))
                .collect()
        };
        json!({
            "role": "connector",
            "name": self.name,
            "site": self.site,
            "serial": self.serial,
            "ready": self.is_ready(),
            "instances": self.instances.iter().map(InstanceBoard::status).collect::<Vec<_>>(),
            "shards": self.shards.iter().map(count).collect::<Vec<_>>(),
        })
    }

    fn metrics(&self) -> String {
        let mut text = String::new();
        for (row, (name, help, _)) in Counts::default().rows().iter().enumerate() {
            let _ = writeln!(
                text,
                "# HELP cmg_connector_{name}_total {help}\n# TYPE cmg_connector_{name}_total counter"
            );
            for (shard, counts) in self.shards.iter().enumerate() {
                let count = counts.rows()[row].2.load(Ordering::Relaxed);
                let _ = writeln!(text, "cmg_connector_{name}_total{{shard=\"{shard}\"}} {count}");
            }
        }
        text.push_str(
            "# HELP cmg_connector_channels Channels that are up.\n# TYPE cmg_connector_channels gauge\n",
        );
        for instance in &self.instances {
            let (dialled, up) = (&instance.dialled, instance.up.load(Ordering::Relaxed));
            let _ = writeln!(text, "cmg_connector_channels{{instance=\"{dialled}\"}} {up}");
        }
        text
    }
}
