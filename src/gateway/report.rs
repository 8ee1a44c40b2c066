//! What the gateway tells its operator: how it is in a word, and every count, from cells that the
//! shards write and this reads. Neither waits for the other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

use arc_swap::ArcSwap;
use serde_json::{Value, json};

use super::channels::Seen;
use super::gate::{Common, Counters, InForce};
use crate::admin::Report;
use crate::metrics::{
    CLASSES, Distribution, EndpointCounts, Health, Label, Page, Rows, Series, describe_process,
};
use crate::refusal::Refusal;

/// See the file's head.
pub struct Gateway {
    common: Arc<Common>,
    /// Left here by shard 0 when it changes.
    in_force: ArcSwap<InForce>,
}

impl Gateway {
    /// A report over these counters.
    pub fn new(common: Arc<Common>, in_force: &Arc<InForce>) -> Arc<Gateway> {
        Arc::new(Gateway { common, in_force: ArcSwap::new(in_force.clone()) })
    }

    /// Other settings are in force.
    pub fn show(&self, in_force: &Arc<InForce>) {
        self.in_force.store(in_force.clone());
    }

    fn sum(&self, which: impl Fn(&Counters) -> &AtomicU64) -> u64 {
        self.common.counters.iter().map(|counters| which(counters).load(Ordering::Relaxed)).sum()
    }

    /// Every channel with its shard. A connection point that was restarted may for some seconds have its
    /// old channel beside the new one; they are shown as one.
    fn channels(&self) -> Vec<(usize, Seen)> {
        let mut found = BTreeMap::<_, (usize, Seen)>::new();
        for (shard, board) in self.common.channels.iter().enumerate() {
            for seen in board.load().iter() {
                let key = (seen.site, seen.point.clone(), seen.index, shard);
                found
                    .entry(key)
                    .and_modify(|(_, held)| merge(held, seen))
                    .or_insert_with(|| (shard, seen.clone()));
            }
        }
        found.into_values().collect()
    }

    fn code(&self, site: usize) -> &str {
        self.common.settings.sites.get(site).map_or("", |rights| &rights.code)
    }
}

fn merge(held: &mut Seen, other: &Seen) {
    held.streams += other.streams;
    held.bytes = (held.bytes.0 + other.bytes.0, held.bytes.1 + other.bytes.1);
    held.since = held.since.min(other.since);
    held.round_trip = other.round_trip.or(held.round_trip);
    held.is_open |= other.is_open;
}

/// A count of each shard: its name in `/status`, its name in `/metrics` without prefix and suffix, what
/// it is, and where it stands.
type Shown = (&'static str, &'static str, &'static str, fn(&Counters) -> &AtomicU64);

const GAUGES: [Shown; 4] = [
    ("clients", "clients", "Clients connected.", |counters| &counters.clients),
    ("active", "shard_requests_active", "Requests under way, and answers on their last way.", |counters| {
        &counters.active
    }),
    ("waiting", "requests_waiting", "Requests that wait for a channel.", |counters| &counters.waiting),
    ("links", "channels", "Channels that take requests.", |counters| &counters.links),
];

const COUNTERS: [Shown; 12] = [
    ("handshakes", "", "", |counters| &counters.handshakes),
    ("handshakes_resumed", "", "", |counters| &counters.handshakes_resumed),
    ("handshake_failures", "handshake_failures", "TLS handshakes with clients that failed.", |counters| {
        &counters.handshake_failures
    }),
    ("requests", "shard_requests", "Requests whose head came, readable or not.", |counters| {
        &counters.requests
    }),
    ("answered", "answers", "Answers of an origin passed on to their end.", |counters| &counters.answered),
    ("cut", "answers_cut", "Exchanges cut in the middle.", |counters| &counters.cut),
    ("retried", "requests_retried", "Requests sent once more.", |counters| &counters.retried),
    ("crossed", "requests_crossed", "Requests that went by another shard's channel.", |counters| {
        &counters.crossed
    }),
    ("panics", "task_panics", "Tasks that panicked; each is a bug of cmg.", |counters| &counters.panics),
    ("ring_enters", "ring_enters", "System calls of the ring.", |counters| &counters.enters),
    ("ring_completions", "ring_completions", "Completions of the ring.", |counters| &counters.completions),
    ("ring_starved", "ring_starved", "Receives that found no shared buffer.", |counters| &counters.starved),
];

impl Report for Gateway {
    fn is_ready(&self) -> bool {
        self.sum(|counters| &counters.links) > 0
    }

    fn status(&self) -> Value {
        let (common, channels, health) = (&self.common, self.channels(), self.health());
        let refused: serde_json::Map<_, _> = Refusal::ALL
            .into_iter()
            .map(|refusal| {
                let count = self.sum(|counters| &counters.refused[refusal as usize]);
                (refusal.reason().to_owned(), count.into())
            })
            .collect();
        let certificates = common.certificates.iter().map(|(what, file, ends)| {
            let ends = jiff::Timestamp::from_second(*ends).map(|ends| ends.to_string()).ok();
            json!({ "use": what, "file": file, "expires": ends })
        });
        json!({
            "role": "gateway",
            "state": health.word(),
            "reason": health.reason(),
            "version": env!("CARGO_PKG_VERSION"),
            "service": common.settings.name,
            "instance": common.settings.instance,
            "started": common.start.at(),
            "uptime_secs": common.start.uptime_secs(),
            "settings_folder": common.folder,
            "clients": self.sum(|counters| &counters.clients),
            "clients_max": common.settings.clients_max,
            "direct_descriptors_per_shard": common.slots,
            "requests": self.sum(|counters| &counters.requests),
            "sites": self.sites(&channels),
            "links": channels.iter().map(|(shard, seen)| self.link(*shard, seen)).collect::<Vec<_>>(),
            "refused": refused,
            "certificates": certificates.collect::<Vec<_>>(),
            "shards": common.counters.iter().map(shard).collect::<Vec<_>>(),
        })
    }

    fn metrics(&self) -> String {
        let mut page = Page::default();
        describe_process(&mut page, "gateway");
        let ready = u64::from(self.is_ready());
        page.gauge("cmg_gateway_ready", "1 when a channel is up, so that requests can be answered.")
            .count(&[], ready);
        self.describe_certificates(&mut page);
        self.describe_endpoints(&mut page);
        self.describe_shards(&mut page);
        self.describe_channels(&mut page);
        self.describe_sites(&mut page);
        page.text()
    }
}

// ── status ──────────────────────────────────────────────────────────────────────────────────────

impl Gateway {
    fn health(&self) -> Health {
        let (common, in_force, mut health) = (&self.common, self.in_force.load(), Health::default());
        let attached: BTreeSet<usize> =
            self.channels().into_iter().filter(|(_, seen)| seen.is_open).map(|(_, seen)| seen.site).collect();
        for (site, held) in in_force.sites.iter().enumerate() {
            let code = self.code(site);
            if held.revision.is_none() {
                health.suffers(format!("site {code} has never published settings"));
            } else if !attached.contains(&site) {
                health.suffers(format!("no connection point of site {code} is attached"));
            }
        }
        if attached.is_empty() {
            health.is_down("no channel is up");
        }
        if common.draining.load(Ordering::Relaxed) {
            health.suffers("it is stopping and takes no new clients");
        }
        if self.sum(|counters| &counters.clients) >= u64::from(common.settings.clients_max) {
            health.suffers("clients_max clients are connected, further ones wait");
        }
        let now = jiff::Timestamp::now().as_second();
        for (_, file, ends) in &common.certificates {
            health.knows_certificate(file, *ends, now);
        }
        health
    }

    fn sites(&self, channels: &[(usize, Seen)]) -> Value {
        let in_force = self.in_force.load();
        let sites = in_force.sites.iter().enumerate().map(|(site, held)| {
            let revision = held.revision.as_ref();
            let sha256 = revision
                .map(|revision| revision.sha256.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
            let own = || channels.iter().filter(move |(_, seen)| seen.site == site);
            let points: BTreeSet<&str> = own().map(|(_, seen)| &*seen.point).collect();
            let roles = || in_force.table.roles().filter(move |(_, of)| *of == site).map(|(role, _)| role);
            json!({
                "site": self.code(site),
                "serial": revision.map(|revision| revision.serial),
                "sha256": sha256,
                "roles": roles().count(),
                "endpoints": roles().map(|role| role.endpoints.len()).sum::<usize>(),
                "connection_points": points,
                "links": own().count(),
            })
        });
        sites.collect()
    }

    fn link(&self, shard: usize, seen: &Seen) -> Value {
        json!({
            "connection_point": &*seen.point,
            "site": self.code(seen.site),
            "channel": seen.index,
            "shard": shard,
            "open": seen.is_open,
            "streams": seen.streams,
            "round_trip_secs": seen.round_trip.map(|time| time.as_secs_f64()),
            "up_secs": seen.since.elapsed().unwrap_or_default().as_secs(),
            "sent_bytes": seen.bytes.0,
            "received_bytes": seen.bytes.1,
        })
    }
}

fn shard(counters: &Counters) -> Value {
    let mut shown: serde_json::Map<_, _> = GAUGES
        .into_iter()
        .chain(COUNTERS)
        .map(|(name, _, _, which)| (name.to_owned(), which(counters).load(Ordering::Relaxed).into()))
        .collect();
    for (name, bytes) in ["channel_bytes_out", "channel_bytes_in"].into_iter().zip(&counters.channel_bytes) {
        shown.insert(name.to_owned(), bytes.load(Ordering::Relaxed).into());
    }
    shown.into()
}

// ── metrics ─────────────────────────────────────────────────────────────────────────────────────

impl Gateway {
    fn describe_certificates(&self, page: &mut Page) {
        let mut rows = page.gauge(
            "cmg_certificate_expiry_timestamp_seconds",
            "When a certificate in use ends, in seconds since 1970.",
        );
        for (what, file, ends) in &self.common.certificates {
            rows.row(&[("use", what), ("file", file)], *ends as f64);
        }
    }

    fn describe_endpoints(&self, page: &mut Page) {
        let all = self.common.ledger.all();
        let mut rows = page.counter("cmg_gateway_requests_total", REQUESTS);
        for series in &all {
            for (class, code) in CLASSES.iter().enumerate() {
                let count = series.sum(|counts| counts.requests[class].count());
                // Interim answers end no request, and few requests end without any.
                if count > 0 || class > 1 {
                    rows.of(&series.name, &[("code", code)], count);
                }
            }
        }
        let mut rows = page.counter("cmg_gateway_requests_refused_total", REFUSED);
        for series in &all {
            for refusal in Refusal::ALL {
                let count = series.sum(|counts| counts.refused[refusal as usize].count());
                if count > 0 {
                    rows.of(&series.name, &[("reason", &refusal.reason())], count);
                }
            }
        }
        each(page.counter("cmg_gateway_request_bytes_total", "Octets of request bodies."), &all, |counts| {
            counts.request_bytes.count()
        });
        each(
            page.counter("cmg_gateway_response_bytes_total", "Octets of answers' bodies."),
            &all,
            |counts| counts.response_bytes.count(),
        );
        each(page.gauge("cmg_gateway_requests_active", "Requests under way."), &all, |counts| {
            counts.active.now()
        });
        each(page.gauge("cmg_gateway_requests_active_max", ACTIVE_MAX), &all, |counts| counts.active.most());
        let mut rows = page.histogram("cmg_gateway_request_duration_seconds", DURATION);
        for series in &all {
            rows.distribution_of(&series.name, &Distribution::of(series.each().map(|counts| &counts.took)));
        }
    }

    fn describe_shards(&self, page: &mut Page) {
        let shards = || self.common.counters.iter().enumerate();
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        for (_, name, help, which) in GAUGES {
            let mut rows = page.gauge(&format!("cmg_gateway_{name}"), help);
            for (shard, counters) in shards() {
                rows.count(&[("shard", &shard)], read(which(counters)));
            }
        }
        for (_, name, help, which) in COUNTERS.into_iter().filter(|(_, name, ..)| !name.is_empty()) {
            let mut rows = page.counter(&format!("cmg_gateway_{name}_total"), help);
            for (shard, counters) in shards() {
                rows.count(&[("shard", &shard)], read(which(counters)));
            }
        }
        let mut rows = page.counter("cmg_gateway_handshakes_total", "TLS handshakes done with clients.");
        for (shard, counters) in shards() {
            let (all, resumed) = (read(&counters.handshakes), read(&counters.handshakes_resumed));
            rows.count(&[("shard", &shard), ("kind", &"full")], all.saturating_sub(resumed));
            rows.count(&[("shard", &shard), ("kind", &"resumed")], resumed);
        }
        for (way, name) in ["sent", "received"].into_iter().enumerate() {
            let mut rows = page.counter(
                &format!("cmg_gateway_shard_channel_{name}_bytes_total"),
                &format!("Plain bytes {name} on all channels there ever were."),
            );
            for (shard, counters) in shards() {
                rows.count(&[("shard", &shard)], read(&counters.channel_bytes[way]));
            }
        }
        let waited = Distribution::of(self.common.counters.iter().map(|counters| &counters.waited));
        page.histogram("cmg_gateway_request_wait_seconds", WAITED).distribution(&[], &waited);
        let (common, seats) = (&self.common, read(&self.common.admitted));
        page.gauge("cmg_gateway_clients_max", "Clients that may be connected.")
            .count(&[], common.settings.clients_max.into());
        page.gauge(
            "cmg_gateway_seats_taken",
            "Places of clients that are taken or held for an armed accept.",
        )
        .count(&[], seats);
        page.gauge("cmg_gateway_direct_descriptors_max", "Direct descriptors of each shard's ring.")
            .count(&[], common.slots.into());
    }

    fn describe_channels(&self, page: &mut Page) {
        let channels = self.channels();
        let fill = |mut rows: Rows<'_>, what: &dyn Fn(&Seen) -> Option<f64>| {
            for (shard, seen) in &channels {
                let (site, point) = (self.code(seen.site), &seen.point);
                let labels: [Label<'_>; 4] = [
                    ("connection_point", point),
                    ("site", &site),
                    ("channel", &seen.index),
                    ("shard", shard),
                ];
                if let Some(value) = what(seen) {
                    rows.row(&labels, value);
                }
            }
        };
        fill(page.gauge("cmg_gateway_channel_streams", "Exchanges on a channel."), &|seen| {
            Some(seen.streams as f64)
        });
        fill(page.gauge("cmg_gateway_channel_round_trip_seconds", "Smoothed round trip."), &|seen| {
            Some(seen.round_trip?.as_secs_f64())
        });
        fill(page.gauge("cmg_gateway_channel_start_time_seconds", CHANNEL_START), &|seen| {
            Some(seen.since.duration_since(UNIX_EPOCH).ok()?.as_secs_f64())
        });
        fill(page.counter("cmg_gateway_channel_sent_bytes_total", CHANNEL_SENT), &|seen| {
            Some(seen.bytes.0 as f64)
        });
        fill(page.counter("cmg_gateway_channel_received_bytes_total", CHANNEL_RECEIVED), &|seen| {
            Some(seen.bytes.1 as f64)
        });
    }

    fn describe_sites(&self, page: &mut Page) {
        let in_force = self.in_force.load();
        page.counter("cmg_gateway_publications_total", "Published settings put in force since the start.")
            .count(&[], in_force.epoch);
        let mut rows = page.gauge(
            "cmg_gateway_publication_serial",
            "Serial of a site's settings in force; 0 before the first.",
        );
        for (site, held) in in_force.sites.iter().enumerate() {
            let serial = held.revision.as_ref().map_or(0, |revision| revision.serial);
            rows.count(&[("site", &self.code(site))], serial);
        }
    }
}

const REQUESTS: &str = "Requests that ended, by class of the answer's status; none: no answer began. \
     The endpoint none stands for what no site publishes and the gateway's own answers, other for \
     endpoints beyond the bound.";
const REFUSED: &str = "Requests turned away, by the reason that their client was told.";
const ACTIVE_MAX: &str =
    "Most requests under way at once since the start: each shard's greatest number, added up.";
const DURATION: &str = "From a request's whole head to its answer written.";
const CHANNEL_START: &str = "When a channel came up, in seconds since 1970.";
const CHANNEL_SENT: &str = "Plain bytes sent on a channel since it came up.";
const CHANNEL_RECEIVED: &str = "Plain bytes received on a channel since it came up.";
const WAITED: &str = "Waiting of requests that found no channel, whether one came or not.";

/// One row for each endpoint.
fn each(mut rows: Rows<'_>, all: &[Arc<Series>], which: impl Fn(&EndpointCounts) -> u64) {
    for series in all {
        rows.of(&series.name, &[], series.sum(&which));
    }
}
