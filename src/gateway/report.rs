//! What the gateway tells its operator: how it is in a word, and every count, from cells that the
//! shards write and this reads. Neither waits for the other.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use rustls::pki_types::UnixTime;
use serde_json::{Value, json};

use super::admission::Bound;
use super::gate::{Channel, Common, Counters, InForce, SiteInForce};
use crate::admin::Report;
use crate::auth::{RevocationList, RevocationMode};
use crate::channel::Verdict;
use crate::headroom::{Limit, Reading};
use crate::limits;
use crate::metrics::{
    Certificate, Distribution, Health, Page, Seen, ageing_text, describe_certificates, describe_channels,
    describe_endpoints, describe_process, describe_tasks, is_list_ageing, show_certificates, show_list,
};
use crate::refusal::Refusal;
use crate::shard;

/// See the file's head.
pub struct Gateway {
    common: Arc<Common>,
    /// Left here by shard 0 when it changes.
    in_force: ArcSwap<InForce>,
    /// Lists whose alarm was raised.
    told: Mutex<HashSet<[u8; 32]>>,
    /// What connection points have said to this process, by site and name.
    said: Mutex<BTreeMap<(usize, Arc<str>), Said>>,
}

/// What one connection point has said.
#[derive(Clone, Copy, Debug, Default)]
struct Said {
    /// Its settings, and what became of them.
    settings: Option<Verdict>,
    /// Which keys of token issuers it fetched, and which tokens are blocked.
    tokens: bool,
}

impl Said {
    /// Nothing more is to come. `has_issuers`: the settings in force take tokens; who has others says nothing of them.
    fn is_all(self, has_issuers: bool) -> bool {
        match self.settings {
            None => false,
            Some(Verdict::InForce) => self.tokens || !has_issuers,
            Some(_) => true,
        }
    }
}

impl Gateway {
    /// When certificates end that are shown.
    fn ends(&self) -> Vec<Certificate> {
        self.common.keeper.ends(self.common.certificates.ends().to_vec())
    }

    /// A report over these counters.
    pub fn new(common: Arc<Common>, in_force: &Arc<InForce>) -> Arc<Gateway> {
        let (in_force, told, said) = (ArcSwap::new(in_force.clone()), Mutex::default(), Mutex::default());
        Arc::new(Gateway { common, in_force, told, said })
    }

    /// Other settings are in force.
    pub fn show(&self, in_force: &Arc<InForce>) {
        self.in_force.store(in_force.clone());
    }

    /// Judges how near the bounds are.
    pub fn look(&self) {
        self.common.headroom.look_all(&self.readings());
        self.raise_alarms();
    }

    /// Says once of each revocation list that it grows old.
    fn raise_alarms(&self) {
        let (in_force, now) = (self.in_force.load(), UnixTime::now().as_secs());
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let sites = in_force.sites.iter().enumerate();
        let ageing: Vec<_> =
            sites.flat_map(|(site, held)| ageing(held, now).map(move |list| (site, list))).collect();
        for (site, list) in &ageing {
            if told.insert(list.sha256) {
                tracing::warn!(site = self.code(*site), "{}", ageing_text(list, now));
            }
        }
        told.retain(|sha256| ageing.iter().any(|(_, list)| list.sha256 == *sha256));
    }

    fn readings(&self) -> Vec<Reading> {
        let (common, local) = (&self.common, self.common.local.load());
        let clients = self.sum(|counters| &counters.clients);
        let mut readings = Vec::new();
        let mut add = |limit, of, used, max| readings.push(Reading { limit, of, used, max });
        add(Limit::Clients, String::new(), clients, local.settings.clients_max.into());
        // Clients are not accepted into the slots that are kept for outgoing sockets.
        let slots = common.slots.saturating_sub(limits::OUTGOING_SLOTS);
        for (shard, counters) in common.counters.iter().enumerate() {
            let used = counters.slots.load(Ordering::Relaxed);
            let of = format!("shard {shard}");
            add(Limit::Descriptors, of.clone(), used, slots.into());
            let handshakes = counters.handshakes_waiting.load(Ordering::Relaxed);
            add(Limit::Handshakes, of.clone(), handshakes, limits::HANDSHAKES_WAITING_MAX as u64);
            let waiting = counters.waiting.load(Ordering::Relaxed);
            add(Limit::Waiting, of, waiting, local.waiting_max() as u64);
        }
        for seen in self.channels() {
            let Channel { site, point, index, .. } = &seen.key;
            let of = format!("{} {point}, channel {index}", self.code(*site));
            add(Limit::Streams, of.clone(), seen.streams as u64, limits::STREAM_COUNT_MAX as u64);
            add(Limit::Identities, of, seen.identities as u64, limits::IDENTITY_COUNT_MAX as u64);
        }
        readings
    }

    fn sum(&self, which: impl Fn(&Counters) -> &AtomicU64) -> u64 {
        self.common.counters.iter().map(|counters| which(counters).load(Ordering::Relaxed)).sum()
    }

    fn channels(&self) -> Vec<Seen<Channel>> {
        let mut found = BTreeMap::<Channel, Seen<Channel>>::new();
        for board in &self.common.channels {
            for seen in board.load().iter() {
                let place = found.entry(seen.key.clone());
                place.and_modify(|held| held.merge(seen)).or_insert_with(|| seen.clone());
            }
        }
        found.into_values().collect()
    }

    /// A connection point has published, and has its answer.
    pub fn has_published(&self, site: usize, point: &Arc<str>, verdict: Verdict) {
        self.said().entry((site, point.clone())).or_default().settings = Some(verdict);
    }

    /// A connection point has said what it knows of tokens.
    pub fn has_told_tokens(&self, site: usize, point: &Arc<str>) {
        self.said().entry((site, point.clone())).or_default().tokens = true;
    }

    fn said(&self) -> MutexGuard<'_, BTreeMap<(usize, Arc<str>), Said>> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connection points with a channel, of sites whose settings are in force, that have told this process all that
    /// it judges by: what is kept on disk may be older, and says nothing of fetched keys.
    pub fn heard(&self) -> usize {
        let (said, in_force) = (self.said(), self.in_force.load());
        let has_issuers = |site: usize| in_force.sites.get(site).is_some_and(|held| !held.issuers.is_empty());
        self.attached_by(|Channel { site, point, .. }| {
            said.get(&(*site, point.clone())).is_some_and(|said| said.is_all(has_issuers(*site)))
        })
    }

    /// Connection points with a channel that did not come in where clients do, of sites whose settings are in force.
    pub fn attached_apart(&self) -> usize {
        self.attached_by(|channel| !channel.is_among_clients)
    }

    fn attached_by(&self, counts: impl Fn(&Channel) -> bool) -> usize {
        let in_force = self.in_force.load();
        let has_settings = |site: usize| in_force.sites.get(site).is_some_and(|held| held.revision.is_some());
        let open = self.channels().into_iter().filter(|seen| seen.is_open && has_settings(seen.key.site));
        let open = open.filter(|seen| counts(&seen.key));
        open.map(|seen| (seen.key.site, seen.key.point)).collect::<BTreeSet<_>>().len()
    }

    fn code(&self, site: usize) -> &str {
        self.common.settings.sites.get(site).map_or("", |rights| &rights.code)
    }
}

/// A count of each shard: its name in `/status`, its name in `/metrics` without prefix and suffix (none
/// where it is told in another way), what it is, and where it stands.
type Shown = (&'static str, &'static str, &'static str, fn(&Counters) -> &AtomicU64);

const GAUGES: [Shown; 7] = [
    ("clients", "clients", "Clients connected.", |counters| &counters.clients),
    ("active", "shard_requests_active", "Requests under way, and answers on their last way.", |counters| {
        &counters.active
    }),
    ("handshakes_waiting", "handshakes_waiting", "Clients whose handshake waits for its turn.", |counters| {
        &counters.handshakes_waiting
    }),
    (
        "handshakes_begun",
        "handshakes_begun",
        "Handshakes that have begun and not ended, each for a second at most.",
        |counters| &counters.handshakes_begun,
    ),
    (
        "handshakes_begun_most",
        "handshakes_begun_most",
        "The most handshakes that were ever begun and not ended.",
        |counters| &counters.handshakes_begun_most,
    ),
    ("waiting", "requests_waiting", "Requests that wait for a channel.", |counters| &counters.waiting),
    ("links", "channels", "Channels that take requests.", |counters| &counters.links),
];

const COUNTERS: [Shown; 18] = [
    ("handshakes", "", "", |counters| &counters.handshakes),
    ("handshakes_resumed", "", "", |counters| &counters.handshakes_resumed),
    ("verdicts_known", "", "", |counters| &counters.verdicts_known),
    ("verdicts_new", "", "", |counters| &counters.verdicts_new),
    (
        "verdicts_unchecked",
        "certificates_unchecked",
        "Client certificates admitted without a revocation list in force.",
        |counters| &counters.verdicts_unchecked,
    ),
    (
        "shut_out",
        "clients_shut_out",
        "Connections and exchanges cut because their client was blocked or revoked meanwhile.",
        |counters| &counters.shut_out,
    ),
    (
        "preface_failures",
        "proxy_header_failures",
        "Connections ended for a PROXY header that was wrong, missing, or not theirs to send.",
        |counters| &counters.preface_failures,
    ),
    ("handshake_failures", "handshake_failures", "TLS handshakes with clients that failed.", |counters| {
        &counters.handshake_failures
    }),
    (
        "handshakes_delayed",
        "handshakes_delayed",
        "Steps of handshakes that waited for their turn, two for most handshakes.",
        |counters| &counters.handshakes_delayed,
    ),
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
        !self.common.draining.load(Ordering::Relaxed) && self.sum(|counters| &counters.links) > 0
    }

    fn status(&self) -> Value {
        let (common, channels, mut health) = (&self.common, self.channels(), self.health());
        let local = common.local.load();
        let readings = self.readings();
        let limits = common.headroom.show(&readings);
        common.headroom.tell_health(&mut health, &readings);
        let refused: serde_json::Map<_, _> = Refusal::ALL
            .into_iter()
            .map(|refusal| {
                let count = self.sum(|counters| &counters.refused[refusal as usize]);
                (refusal.reason().to_owned(), count.into())
            })
            .collect();
        let excess: serde_json::Map<_, _> = Bound::ALL
            .into_iter()
            .map(|(bound, name)| {
                let count = self.sum(|counters| &counters.excesses[bound as usize]);
                (name.to_owned(), count.into())
            })
            .collect();
        json!({
            "role": "gateway",
            "state": health.word(),
            "reason": health.reason(),
            "version": env!("CARGO_PKG_VERSION"),
            "service": local.settings.name,
            "instance": common.settings.instance,
            "listeners": common.settings.listeners,
            "internal_listeners": common.settings.internal_listeners,
            "https_listeners": common.settings.https_listeners,
            "started": common.start.at(),
            "uptime_secs": common.start.uptime_secs(),
            "settings_folder": common.folder,
            "reloads": common.reloads.show(),
            "clients": self.sum(|counters| &counters.clients),
            "clients_max": local.settings.clients_max,
            "direct_descriptors_per_shard": common.slots,
            "requests": self.sum(|counters| &counters.requests),
            "sites": self.sites(&channels),
            "links": channels.iter().map(|seen| self.link(seen)).collect::<Vec<_>>(),
            "refused": refused,
            "excess": excess,
            "clients_uncounted": self.sum(|counters| &counters.clients_uncounted),
            "limits": limits,
            "certificates": show_certificates(&self.ends()),
            "internal": common.keeper.show_state(),
            "shards": common.counters.iter().map(shard).collect::<Vec<_>>(),
        })
    }

    fn metrics(&self) -> String {
        let mut page = Page::default();
        describe_process(&mut page, "gateway");
        describe_tasks(&mut page, &shard::task_sizes());
        let ready = u64::from(self.is_ready());
        page.gauge("cmg_gateway_ready", "1 when a channel is up, so that requests can be answered.")
            .count(&[], ready);
        let certificates = &self.common.certificates;
        describe_certificates(&mut page, &self.ends());
        self.common.keeper.describe(&mut page, "cmg_gateway");
        page.gauge(
            "cmg_gateway_server_certificates_failing",
            "1 when the files of server certificates hold what cannot be shown, and those before are.",
        )
        .count(&[], u64::from(!certificates.trouble().is_empty()));
        describe_endpoints(
            &mut page,
            "cmg_gateway",
            &self.common.ledger.all(),
            "request_duration_seconds",
            TOOK,
        );
        self.describe_shards(&mut page);
        self.describe_channels(&mut page);
        self.describe_sites(&mut page);
        self.common.reloads.describe(&mut page, "cmg_gateway");
        self.common.headroom.describe(&mut page, &self.readings());
        page.text()
    }
}

// ── status ──────────────────────────────────────────────────────────────────────────────────────

impl Gateway {
    fn health(&self) -> Health {
        let (common, in_force, mut health) = (&self.common, self.in_force.load(), Health::default());
        let open = self.channels().into_iter().filter(|seen| seen.is_open);
        let attached: BTreeSet<usize> = open.map(|seen| seen.key.site).collect();
        for (site, held) in in_force.sites.iter().enumerate() {
            let code = self.code(site);
            if held.revision.is_none() {
                health.suffers(format!("site {code} has never published settings"));
            } else if !attached.contains(&site) {
                health.suffers(format!("no connection point of site {code} is attached"));
            }
            let now = UnixTime::now().as_secs();
            for list in ageing(held, now) {
                health.suffers(ageing_text(list, now));
            }
        }
        if attached.is_empty() {
            health.is_down("no channel is up");
        }
        if common.draining.load(Ordering::Relaxed) {
            health.suffers("it is stopping and takes no new clients");
        }
        if self.sum(|counters| &counters.clients) >= u64::from(common.local.load().settings.clients_max) {
            health.suffers("clients_max clients are connected, further ones wait");
        }
        let most = limits::HANDSHAKES_WAITING_MAX as u64;
        if common.counters.iter().any(|one| one.handshakes_waiting.load(Ordering::Relaxed) >= most) {
            health.suffers("so many handshakes wait for their turn that further clients wait in the backlog");
        }
        common.keeper.tell_health(&mut health);
        health.knows_certificates(&self.ends(), jiff::Timestamp::now().as_second());
        let trouble = common.certificates.trouble();
        if !trouble.is_empty() {
            health.suffers(format!("the server certificates before are shown still: {trouble}"));
        }
        common.reloads.tell_health(&mut health);
        health
    }

    fn sites(&self, channels: &[Seen<Channel>]) -> Value {
        let (in_force, now) = (self.in_force.load(), UnixTime::now().as_secs());
        let sites = in_force.sites.iter().enumerate().map(|(site, held)| {
            let revision = held.revision.as_ref();
            let sha256 = revision
                .map(|revision| revision.sha256.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
            let own = || channels.iter().filter(move |seen| seen.key.site == site);
            let points: BTreeSet<&str> = own().map(|seen| &*seen.key.point).collect();
            let roles = || in_force.table.roles().filter(move |(_, of)| *of == site).map(|(role, _)| role);
            json!({
                "site": self.code(site),
                "serial": revision.map(|revision| revision.serial),
                "sha256": sha256,
                "roles": roles().count(),
                "endpoints": roles().map(|role| role.endpoints.len()).sum::<usize>(),
                "connection_points": points,
                "links": own().count(),
                "revocation": held.trust.revocation().mode,
                "lists": held.trust.revocation().lists().iter().map(|list| show_list(list, now)).collect::<Vec<_>>(),
                "blocked": held.trust.blocked_count(),
            })
        });
        sites.collect()
    }

    fn link(&self, seen: &Seen<Channel>) -> Value {
        let Channel { site, point, index, shard, transport, .. } = &seen.key;
        seen.describe(json!({
            "connection_point": &**point,
            "site": self.code(*site),
            "channel": index,
            "shard": shard,
            "transport": transport.as_str(),
        }))
    }
}

/// The lists of a site that grow old and matter.
fn ageing(held: &SiteInForce, now: u64) -> impl Iterator<Item = &RevocationList> {
    let revocation = held.trust.revocation();
    let matters = revocation.mode != RevocationMode::Off;
    revocation.lists().iter().map(|list| &**list).filter(move |list| matters && is_list_ageing(list, now))
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
        let mut rows = page.counter(
            "cmg_gateway_certificates_judged_total",
            "Client certificates: known as accepted, or new.",
        );
        for (shard, counters) in shards() {
            rows.count(&[("shard", &shard), ("verdict", &"known")], read(&counters.verdicts_known));
            rows.count(&[("shard", &shard), ("verdict", &"new")], read(&counters.verdicts_new));
        }
        let mut rows = page.counter(
            "cmg_gateway_admission_refused_total",
            "Requests refused because a client or an endpoint has too many under way or they come too fast.",
        );
        for (shard, counters) in shards() {
            for (bound, name) in Bound::ALL {
                rows.count(&[("shard", &shard), ("bound", &name)], read(&counters.excesses[bound as usize]));
            }
        }
        let mut rows = page.counter(
            "cmg_gateway_admission_uncounted_total",
            "Requests that counted for no client, because so many others were counted.",
        );
        for (shard, counters) in shards() {
            rows.count(&[("shard", &shard)], read(&counters.clients_uncounted));
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
        let waited = Distribution::of(self.common.counters.iter().map(|counters| &counters.handshake_waited));
        page.histogram("cmg_gateway_handshake_wait_seconds", HANDSHAKE_WAITED).distribution(&[], &waited);
        let (common, seats) = (&self.common, read(&self.common.admitted));
        if let Some(log) = &common.access_log {
            page.counter("cmg_gateway_access_log_lost_total", "Lines of the access log that were lost.")
                .count(&[], log.dropped());
        }
        page.gauge("cmg_gateway_clients_max", "Clients that may be connected.")
            .count(&[], common.local.load().settings.clients_max.into());
        page.gauge(
            "cmg_gateway_seats_taken",
            "Places of clients that are taken or held for an armed accept.",
        )
        .count(&[], seats);
        page.gauge("cmg_gateway_direct_descriptors_max", "Direct descriptors of each shard's ring.")
            .count(&[], common.slots.into());
    }

    fn describe_channels(&self, page: &mut Page) {
        let codes: Vec<&str> = self.common.settings.sites.iter().map(|site| site.code.as_str()).collect();
        let channels = self.channels();
        describe_channels(page, "cmg_gateway", &channels, |channel| {
            vec![
                ("connection_point", &channel.point),
                ("site", codes.get(channel.site).map_or(&"", |code| code)),
                ("channel", &channel.index),
                ("shard", &channel.shard),
                ("transport", &channel.transport),
            ]
        });
    }

    fn describe_sites(&self, page: &mut Page) {
        let in_force = self.in_force.load();
        page.counter(
            "cmg_gateway_publications_total",
            "Published settings and lists put in force since the start.",
        )
        .count(&[], in_force.epoch);
        let mut rows = page.gauge(
            "cmg_gateway_publication_serial",
            "Serial of a site's settings in force; 0 before the first.",
        );
        for (site, held) in in_force.sites.iter().enumerate() {
            let serial = held.revision.as_ref().map_or(0, |revision| revision.serial);
            rows.count(&[("site", &self.code(site))], serial);
        }
        let mut rows = page.gauge(
            "cmg_gateway_list_next_update_timestamp_seconds",
            "Until when the next revocation list of an authority comes, in seconds since 1970.",
        );
        for (site, held) in in_force.sites.iter().enumerate() {
            for list in held.trust.revocation().lists() {
                let kind = if list.is_delta() { "delta" } else { "complete" };
                let (issuer, place) = (&list.issuer_text, list.place());
                rows.count(
                    &[("site", &self.code(site)), ("issuer", issuer), ("place", &place), ("kind", &kind)],
                    list.next_update,
                );
            }
        }
    }
}

const WAITED: &str = "Waits of requests for a channel, each until its turn or its end.";
const HANDSHAKE_WAITED: &str = "Waits of steps of handshakes for their turn, each until its turn or its end.";
const TOOK: &str = "From a request's whole head to its answer written.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_point_has_said_all_when_its_settings_and_its_tokens_are_known() {
        let rows = [
            (None, true, false, false),
            (Some(Verdict::InForce), false, false, true),
            (Some(Verdict::InForce), false, true, false),
            (Some(Verdict::InForce), true, true, true),
            (Some(Verdict::Outdated), false, true, true),
            (Some(Verdict::Refused), false, true, true),
        ];
        for (settings, tokens, has_issuers, expected) in rows {
            let said = Said { settings, tokens };
            assert_eq!(said.is_all(has_issuers), expected, "{said:?}, issuers: {has_issuers}");
        }
    }
}
