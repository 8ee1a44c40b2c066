//! How near a bound is: judged by thresholds, told once for each crossing, and what to do about it.
//!
//! Pure: roles count what is in use, `metrics/headroom.rs` keeps the judgements and tells of them. What
//! happens at a bound is decided where it is; this only says early that it comes.

use std::collections::BTreeMap;

use crate::limits::{HEADROOM_LEFT_BELOW, HEADROOM_NEAR, HEADROOM_SCARCE};

/// What can run out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Limit {
    /// Ports of one source address towards one origin.
    SourcePorts,
    /// The share of these that held requests may use.
    HeldPorts,
    /// Direct descriptors of one shard's ring.
    Descriptors,
    /// Clients of a gateway.
    Clients,
    /// Clients of one shard of a gateway whose handshake waits for its turn.
    Handshakes,
    /// Requests of one shard of a gateway that wait for a channel.
    Waiting,
    /// Connections of one shard to one origin.
    OriginConnections,
    /// Requests of one shard that wait for one of these.
    OriginWaiting,
    /// Requests of one shard that one origin holds (client notification).
    HeldRequests,
    /// Exchanges on one channel.
    Streams,
    /// Clients that one channel has introduced.
    Identities,
}

impl Limit {
    /// Every limit, for tables and tests.
    pub const ALL: [Limit; 11] = [
        Limit::SourcePorts,
        Limit::HeldPorts,
        Limit::Descriptors,
        Limit::Clients,
        Limit::Handshakes,
        Limit::Waiting,
        Limit::OriginConnections,
        Limit::OriginWaiting,
        Limit::HeldRequests,
        Limit::Streams,
        Limit::Identities,
    ];

    /// Its name in logs, metrics and `/status`.
    pub const fn name(self) -> &'static str {
        match self {
            Limit::SourcePorts => "source_ports",
            Limit::HeldPorts => "held_source_ports",
            Limit::Descriptors => "direct_descriptors",
            Limit::Clients => "clients",
            Limit::Handshakes => "handshakes_waiting",
            Limit::Waiting => "requests_waiting",
            Limit::OriginConnections => "origin_connections",
            Limit::OriginWaiting => "origin_requests_waiting",
            Limit::HeldRequests => "held_requests",
            Limit::Streams => "channel_streams",
            Limit::Identities => "channel_identities",
        }
    }

    /// What an operator can do before it is reached.
    pub const fn remedy(self) -> &'static str {
        match self {
            Limit::SourcePorts | Limit::HeldPorts => {
                "give connector.source_addresses more addresses, or widen net.ipv4.ip_local_port_range"
            }
            Limit::Descriptors => {
                "raise the hard limit of open files (LimitNOFILE), run more shards or another process"
            }
            Limit::Clients => "raise gateway.clients_max if memory allows it, or add an instance",
            Limit::Handshakes => {
                "run more shards on more CPUs, or add an instance; give all instances one file of ticket_keys"
            }
            Limit::Waiting => {
                "attach a connection point, or another, or see why those attached have no room; raise \
                 limits.waiting_max if memory allows it"
            }
            Limit::OriginConnections | Limit::OriginWaiting => {
                "raise connections_max of the origin in site.toml if it bears more, make it faster, or name another \
                 server beside it in url"
            }
            Limit::HeldRequests => {
                "run more shards, or another connection point: each shard has its own bound"
            }
            Limit::Streams | Limit::Identities => {
                "run more shards, or another connection point: each channel has its own bound"
            }
        }
    }
}

/// How near it is. Ample ── 80 % ──▶ Near ── 95 % ──▶ Scarce; back again ten points below each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing to do.
    #[default]
    Ample,
    /// Time to do something.
    Near,
    /// About to be reached, or reached.
    Scarce,
}

impl Level {
    /// Its name in `/status`.
    pub const fn name(self) -> &'static str {
        match self {
            Level::Ample => "ample",
            Level::Near => "near",
            Level::Scarce => "scarce",
        }
    }

    /// The level behind this one, when so much is used.
    pub fn next(self, used: u64, max: u64) -> Level {
        let reaches = |percent: u64| max > 0 && used.saturating_mul(100) >= max.saturating_mul(percent);
        let holds = |level: Level, percent: u64| {
            reaches(percent) || self >= level && reaches(percent - HEADROOM_LEFT_BELOW)
        };
        match (holds(Level::Scarce, HEADROOM_SCARCE), holds(Level::Near, HEADROOM_NEAR)) {
            (true, _) => Level::Scarce,
            (false, true) => Level::Near,
            (false, false) => Level::Ample,
        }
    }
}

/// What is used of one bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Which.
    pub limit: Limit,
    /// Of what, as operators know it; empty where there is one only.
    pub of: String,
    /// In use.
    pub used: u64,
    /// As many there are.
    pub max: u64,
}

/// A bound that comes nearer or goes away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crossing {
    /// What was read.
    pub reading: Reading,
    /// Before.
    pub from: Level,
    /// Now.
    pub to: Level,
}

/// The level of every bound that is not ample.
#[derive(Debug, Default)]
pub struct Watches(BTreeMap<(Limit, String), Level>);

impl Watches {
    /// How near it was when it was judged last.
    pub fn level(&self, reading: &Reading) -> Level {
        self.0.get(&(reading.limit, reading.of.clone())).copied().unwrap_or_default()
    }

    /// Judges one; a crossing is to be told.
    pub fn judge(&mut self, reading: &Reading) -> Option<Crossing> {
        let from = self.level(reading);
        let to = from.next(reading.used, reading.max);
        let key = (reading.limit, reading.of.clone());
        match to {
            Level::Ample => self.0.remove(&key),
            Level::Near | Level::Scarce => self.0.insert(key, to),
        };
        (from != to).then(|| Crossing { reading: reading.clone(), from, to })
    }

    /// Judges all there are; what is not among them is gone, and forgotten.
    pub fn judge_all(&mut self, readings: &[Reading]) -> Vec<Crossing> {
        self.0.retain(|(limit, of), _| readings.iter().any(|one| one.limit == *limit && one.of == *of));
        readings.iter().filter_map(|reading| self.judge(reading)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(used: u64) -> Reading {
        Reading { limit: Limit::SourcePorts, of: "a".into(), used, max: 100 }
    }

    #[test]
    fn a_bound_is_told_once_as_it_comes_near_and_once_as_it_goes() {
        let mut watches = Watches::default();
        let told: Vec<_> = [0, 79, 80, 84, 79, 71, 80, 95, 100, 90, 86, 96, 85, 84, 70, 69, 0, 100]
            .into_iter()
            .filter_map(|used| watches.judge(&reading(used)).map(|told| (used, told.to)))
            .collect();
        let expected = [
            (80, Level::Near),
            (95, Level::Scarce),
            (84, Level::Near),
            (69, Level::Ample),
            (100, Level::Scarce),
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn what_is_gone_is_forgotten_and_what_has_no_bound_is_ample() {
        let mut watches = Watches::default();
        assert_eq!(watches.judge_all(&[reading(100)]).len(), 1);
        assert_eq!(watches.judge_all(&[]), []);
        assert_eq!(watches.level(&reading(100)), Level::Ample);
        assert_eq!(Level::Scarce.next(7, 0), Level::Ample);
        assert_eq!(Level::Ample.next(u64::MAX, u64::MAX), Level::Scarce);
    }
}
