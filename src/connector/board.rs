//! What a connection point tells about itself. Shards write numbers here, the admin thread reads them;
//! neither waits for the other on the way of a request.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Guard};
use serde_json::{Value, json};

use super::internal;
use super::plan::{Instance, Plan};
use super::sources::Sources;
use crate::admin::Report;
use crate::channel::{ResetCode, RevisionTag, Transport};
use crate::dispatch::{OriginRules, OriginState};
use crate::headroom::{Limit, Reading};
use crate::limits;
use crate::logs::access::AccessLog;
use crate::metrics::{
    self, Counter, Headroom, Health, Ledger, Name, Page, Seen, Series, Sums, Traffic, describe_certificates,
    describe_channels, describe_endpoints, describe_process, describe_tasks, show_certificates,
};
use crate::reload::Reloads;
use crate::renewal::{Keeper, KeptList};
use crate::shard;

/// See the file's head.
pub struct Board {
    /// What it works by now; instances and origins tell of themselves in it.
    plan: ArcSwap<Plan>,
    /// How it came to that.
    pub reloads: Arc<Reloads>,
    /// Who we are on channels, and whom we believe there.
    pub keeper: Arc<Keeper>,
    /// Renewals that are carried for instances.
    pub carried: AtomicUsize,
    /// Where the list of revoked internal certificates is kept.
    pub kept_list: Arc<KeptList>,
    /// From which the settings' paths start.
    pub folder: PathBuf,
    start: metrics::Start,
    is_draining: AtomicBool,
    access_log: OnceLock<Arc<AccessLog>>,
    /// As their shards saw them last; by shard.
    pub channels: Vec<metrics::Board<Channel>>,
    /// Where connections to origins come from.
    pub sources: Arc<Sources>,
    headroom: Arc<Headroom>,
    shards: Vec<Arc<Counts>>,
    /// Every series there is.
    pub ledger: Ledger,
    /// Requests that nothing maps.
    unpublished: Arc<Series>,
    /// Touched by whoever looks at the role, never by a request.
    traffic: Mutex<Traffic>,
}

/// Which channel, as operators know it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Channel {
    /// What its instance is called.
    pub instance: Arc<str>,
    /// Its number among the channels to that instance.
    pub index: u16,
    /// Shard that drives it.
    pub shard: usize,
    /// What carries it.
    pub transport: Transport,
    /// By which of the ways to the instance it stands: `host:port`.
    pub way: Arc<str>,
}

/// Connections of one shard to one origin.
#[derive(Debug, Default)]
pub struct OriginCounts {
    /// In use, at rest and being made.
    pub open: Counter,
    /// The same for held requests, which have their own.
    pub held: Counter,
    /// At rest.
    pub idle: Counter,
    /// Requests that wait for one.
    pub waiting: Counter,
    /// Made since the start.
    pub opened: Counter,
    /// Lent again since the start.
    pub reused: Counter,
    /// Requests that could not reach it, or were not answered in time.
    pub failures: Counter,
    /// Probes that did not pass.
    pub probes_failed: Counter,
}

impl OriginCounts {
    fn all(&self) -> [u64; ORIGIN_COUNTS] {
        let OriginCounts { open, held, idle, waiting, opened, reused, failures, probes_failed } = self;
        [open, held, idle, waiting, opened, reused, failures, probes_failed].map(Counter::count)
    }

    /// What was counted since the start is there before the shard has said it anew.
    pub fn go_on_from(&self, before: &OriginCounts) {
        self.opened.set(before.opened.count());
        self.reused.set(before.reused.count());
        self.failures.set(before.failures.count());
        self.probes_failed.set(before.probes_failed.count());
    }
}

const ORIGIN_COUNTS: usize = 8;

/// How an origin is, as the shard found it that saw it first. Written when that changes.
pub struct Outlook {
    rules: OriginRules,
    found: Mutex<Found>,
    began: Instant,
    /// When it last answered, on any shard, as far as they told: milliseconds since then, and one; 0 is never.
    alive: AtomicU64,
}

#[derive(Clone)]
struct Found {
    state: OriginState,
    since: Instant,
    cause: String,
}

impl Outlook {
    /// Nothing was found.
    pub fn new(rules: OriginRules) -> Outlook {
        let began = Instant::now();
        let found = Found { state: OriginState::Up, since: began, cause: String::new() };
        Outlook { rules, found: Mutex::new(found), began, alive: AtomicU64::new(0) }
    }

    /// It answered somebody.
    pub fn is_alive(&self, at: Instant) {
        let millis = at.saturating_duration_since(self.began).as_millis();
        self.alive.fetch_max(u64::try_from(millis).unwrap_or(u64::MAX - 1) + 1, Ordering::Relaxed);
    }

    /// When it last did.
    pub fn alive_at(&self) -> Option<Instant> {
        let millis = self.alive.load(Ordering::Relaxed).checked_sub(1)?;
        self.began.checked_add(Duration::from_millis(millis))
    }

    /// It was found to be so, for this cause. Whether nobody has said so before.
    pub fn becomes(&self, state: OriginState, cause: &str, now: Instant) -> bool {
        let mut found = self.found();
        let is_news = self.rules.may_follow(found.state, state);
        if is_news {
            *found = Found { state, since: now, cause: cause.to_owned() };
        }
        is_news
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Percent of its turns that it has.
    fn share(&self) -> u32 {
        let Found { state, since, .. } = *self.found();
        match state {
            OriginState::Up => 100,
            OriginState::Rising => self.rules.share(since.elapsed()),
            OriginState::Down => 0,
        }
    }
}

/// What is told of all that lead to one authority.
#[derive(Default)]
struct OriginSum<'b> {
    counts: [u64; ORIGIN_COUNTS],
    /// The worst of them.
    outlook: Option<&'b Outlook>,
}

/// One instance, over all shards.
#[derive(Default)]
pub struct InstanceBoard {
    /// 0: the instance never answered.
    wanted: AtomicU16,
    up: AtomicU16,
    /// Of them the first ones, which publish settings: two while one takes the other's place.
    first: AtomicU16,
    /// Which of our settings are in force there.
    in_force: Mutex<Option<RevisionTag>>,
    /// What went wrong last; written when channels come and go.
    trouble: Mutex<String>,
    /// Shards whose channels by other settings do not stand yet, and since when there are any.
    moving: Mutex<(usize, Option<Instant>)>,
    /// Whether a renewal of its certificate is carried, and when the last one began.
    renewing: Mutex<(bool, Option<Instant>)>,
}

impl InstanceBoard {
    /// A shard makes channels by other settings; those before serve until these stand.
    pub fn begins_to_move(&self) {
        let mut moving = self.moving.lock().unwrap_or_else(PoisonError::into_inner);
        moving.0 += 1;
        moving.1.get_or_insert_with(Instant::now);
    }

    /// It has, or need not any more.
    pub fn has_moved(&self) {
        let mut moving = self.moving.lock().unwrap_or_else(PoisonError::into_inner);
        moving.0 -= 1;
        if moving.0 == 0 {
            moving.1 = None;
        }
    }

    /// It takes longer than it takes where nothing is wrong.
    fn is_stuck(&self) -> bool {
        let since = self.moving.lock().unwrap_or_else(PoisonError::into_inner).1;
        since.is_some_and(|since| since.elapsed() >= limits::MOVED_WITHIN)
    }

    /// It asks for its next certificate. `false`: it did a moment ago, and one that may be hostile is not to keep
    /// threads and the issuer from the others.
    pub fn begins_to_renew(&self, now: Instant) -> bool {
        let mut renewing = self.renewing.lock().unwrap_or_else(PoisonError::into_inner);
        let is_soon = |at: Instant| now.saturating_duration_since(at) < limits::RENEWAL_CARRIED_EVERY;
        if renewing.0 || renewing.1.is_some_and(is_soon) {
            return false;
        }
        *renewing = (true, Some(now));
        true
    }

    /// Something came of that.
    pub fn has_renewed(&self) {
        self.renewing.lock().unwrap_or_else(PoisonError::into_inner).0 = false;
    }

    /// So many channels are kept to it.
    pub fn wants(&self, count: u16) {
        self.wanted.store(count, Ordering::Relaxed);
    }

    /// One more is up; the first is the one that publishes settings.
    pub fn channel_up(&self, is_first: bool) {
        self.up.fetch_add(1, Ordering::Relaxed);
        self.first.fetch_add(is_first.into(), Ordering::Relaxed);
        if self.is_ready() {
            self.is_in_trouble("");
        }
    }

    /// One less.
    pub fn channel_down(&self, is_first: bool) {
        self.up.fetch_sub(1, Ordering::Relaxed);
        if is_first && self.first.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.has_in_force(None);
        }
    }

    /// These settings of ours are in force there, or none.
    pub fn acknowledged(&self, in_force: Option<RevisionTag>) {
        self.has_in_force(in_force);
        if self.is_ready() {
            self.is_in_trouble("");
        }
    }

    fn has_in_force(&self, in_force: Option<RevisionTag>) {
        *self.in_force.lock().unwrap_or_else(PoisonError::into_inner) = in_force;
    }

    fn in_force(&self) -> Option<RevisionTag> {
        *self.in_force.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Channels that are up.
    pub fn up(&self) -> u16 {
        self.up.load(Ordering::Relaxed)
    }

    /// What an operator should know; empty: nothing.
    pub fn is_in_trouble(&self, text: &str) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        text.clone_into(&mut trouble);
    }

    /// While other settings are on their way there, those before count.
    fn is_ready(&self) -> bool {
        let wanted = self.wanted.load(Ordering::Relaxed);
        wanted > 0 && self.up() >= wanted && self.in_force().is_some()
    }

    fn trouble(&self) -> String {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn what_is_wrong(&self, dialled: &str) -> String {
        let (up, wanted) = (self.up(), self.wanted.load(Ordering::Relaxed));
        let what = match (wanted, up < wanted) {
            (0, _) => "has not answered yet".to_owned(),
            (_, true) => format!("has {up} of {wanted} channels"),
            (_, false) => "has not put the settings in force".to_owned(),
        };
        let trouble = self.trouble();
        let colon = if trouble.is_empty() { "" } else { ": " };
        format!("instance {dialled} {what}{colon}{trouble}")
    }

    fn status(&self, dialled: &str, revision: RevisionTag) -> Value {
        let (trouble, in_force) = (self.trouble(), self.in_force());
        json!({
            "address": dialled,
            "channels": self.up(),
            "channels_wanted": self.wanted.load(Ordering::Relaxed),
            "settings_in_force": in_force == Some(revision),
            "serial_in_force": in_force.map(|tag| tag.serial),
            "trouble": if trouble.is_empty() { Value::Null } else { Value::String(trouble) },
        })
    }
}

/// What one shard counts; only that shard writes, and shares no cache line with another's.
#[derive(Default)]
#[repr(align(128))]
pub struct Counts {
    requests: Counter,
    refused: Counter,
    not_begun: Counter,
    left: Counter,
    broken: Counter,
    repeated: Counter,
    moved: Counter,
    panics: Counter,
    /// Direct descriptors: used, and in all.
    slots: [Counter; 2],
}

/// A count of each shard: its name in `/status`, in `/metrics`, what it is, and the count.
type Row<'c> = (&'static str, &'static str, &'static str, &'c Counter);

impl Counts {
    /// A request came.
    pub fn began(&self) {
        self.requests.add(1);
    }

    /// A request went out again on a new connection.
    pub fn repeated(&self) {
        self.repeated.add(1);
    }

    /// A request went to another origin, before anything of it was sent.
    pub fn moved(&self) {
        self.moved.add(1);
    }

    /// So many tasks panicked until now.
    pub fn panicked(&self, count: u64) {
        self.panics.set(count);
    }

    /// Its ring holds so many direct descriptors of so many.
    pub fn holds(&self, (used, all): (u32, u32)) {
        self.slots[0].set(used.into());
        self.slots[1].set(all.into());
    }

    /// A request ended so.
    pub fn reset(&self, code: ResetCode) {
        let count = match code {
            ResetCode::Refused(_) => &self.refused,
            ResetCode::NotBegun => &self.not_begun,
            ResetCode::Cancelled => &self.left,
            ResetCode::OriginBroke | ResetCode::Protocol | ResetCode::Other(_) => &self.broken,
        };
        count.add(1);
    }

    fn rows(&self) -> [Row<'_>; 8] {
        let requests = &self.requests;
        [
            ("requests", "shard_requests", "Requests that came over channels.", requests),
            ("requests_refused", "shard_requests_refused", "Requests turned away.", &self.refused),
            (
                "requests_not_begun",
                "requests_not_begun",
                "Requests given back before any step.",
                &self.not_begun,
            ),
            ("requests_left", "requests_left", "Requests whose client left.", &self.left),
            ("requests_broken", "answers_broken", "Answers that broke off behind their head.", &self.broken),
            (
                "requests_repeated",
                "requests_repeated",
                "Requests sent again on a new connection.",
                &self.repeated,
            ),
            (
                "requests_moved",
                "requests_moved",
                "Requests that went to another origin, because the first could not be reached.",
                &self.moved,
            ),
            ("panics", "task_panics", "Tasks that panicked; each is a bug of cmg.", &self.panics),
        ]
    }
}

impl Board {
    /// An empty one of what `plan` says; the settings' paths start from `folder`.
    pub fn new(plan: &Arc<Plan>, ledger: Ledger, keeper: &Arc<Keeper>, folder: &Path) -> Board {
        let shards = usize::from(plan.shards);
        let unpublished = ledger.find([Name::without_endpoint("none")]).remove(0);
        let headroom = Arc::<Headroom>::default();
        Board {
            plan: ArcSwap::new(plan.clone()),
            reloads: Arc::default(),
            keeper: keeper.clone(),
            carried: AtomicUsize::new(0),
            kept_list: KeptList::new(internal::list_file(folder, &plan.settings)),
            folder: folder.to_owned(),
            start: metrics::Start::now(),
            is_draining: AtomicBool::new(false),
            access_log: OnceLock::new(),
            channels: (0..shards).map(|_| metrics::Board::default()).collect(),
            sources: Arc::new(Sources::new(&plan.settings.source_addresses, &headroom)),
            headroom,
            shards: (0..shards).map(|_| Arc::default()).collect(),
            traffic: Mutex::new(Traffic::new(jiff::Timestamp::now())),
            unpublished,
            ledger,
        }
    }

    /// What it works by now.
    pub fn plan(&self) -> Guard<Arc<Plan>> {
        self.plan.load()
    }

    /// It works by this from now on.
    pub fn works_by(&self, plan: &Arc<Plan>) {
        self.sources.come_from(&plan.settings.source_addresses);
        self.plan.store(plan.clone());
    }

    /// Where a shard counts.
    pub fn counts(&self, shard: usize) -> Arc<Counts> {
        self.shards[shard].clone()
    }

    /// What is counted for requests that nothing maps.
    pub fn unpublished(&self) -> &Series {
        &self.unpublished
    }

    /// Its requests are written there; said once, before the first.
    pub fn logs_to(&self, log: Arc<AccessLog>) {
        // A second one would only lose its count.
        let _ = self.access_log.set(log);
    }

    /// The connection point is on its way out.
    pub fn is_draining(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
    }

    /// Whether it is.
    pub fn drains(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }

    /// Of instances that are not as they should be.
    pub fn what_is_wrong(&self) -> String {
        let plan = self.plan();
        let wrong = plan.instances.iter().filter(|instance| !instance.board.is_ready());
        wrong.map(|instance| instance.what_is_wrong()).collect::<Vec<_>>().join("; ")
    }

    fn channels(&self) -> Vec<Seen<Channel>> {
        let mut found = BTreeMap::<Channel, Seen<Channel>>::new();
        for seen in self.channels.iter().flat_map(|board| Vec::clone(&board.load())) {
            let place = found.entry(seen.key.clone());
            place.and_modify(|held| held.merge(&seen)).or_insert_with(|| seen.clone());
        }
        found.into_values().collect()
    }

    fn health(&self) -> Health {
        let (plan, mut health) = (self.plan(), Health::default());
        for instance in plan.instances.iter().filter(|instance| !instance.board.is_ready()) {
            health.suffers(instance.what_is_wrong());
        }
        for Instance { plan, board, .. } in plan.instances.iter().map(|instance| &**instance) {
            if board.is_ready() && board.is_stuck() {
                let trouble = board.trouble();
                health.suffers(format!(
                    "instance {}: no channels by the settings in force: {trouble}",
                    plan.dialled
                ));
            }
        }
        if plan.instances.iter().all(|instance| instance.board.up() == 0) {
            health.is_down("no channel to any instance is up");
        }
        if self.is_draining.load(Ordering::Relaxed) {
            health.suffers("it is stopping and takes no new requests");
        }
        for origin in &plan.origins {
            let found = origin.outlook.found();
            if origin.rules.is_probed && found.state == OriginState::Down {
                health.suffers(format!("origin {} is down: {}", origin.authority, found.cause));
            }
        }
        plan.lists.tell_health(&mut health);
        self.reloads.tell_health(&mut health);
        self.keeper.tell_health(&mut health);
        health.knows_certificates(
            &self.keeper.ends(plan.certificates.clone()),
            jiff::Timestamp::now().as_second(),
        );
        health
    }

    /// Judges how near the bounds are, and tells what passed when a window of time is over.
    pub fn look(&self) {
        self.headroom.look_all(&self.readings());
        let now = jiff::Timestamp::now();
        let mut traffic = self.traffic.lock().unwrap_or_else(PoisonError::into_inner);
        if traffic.is_due(now) {
            let all = self.ledger.all();
            let (Sums { requests, with_token, failed, request_bytes, response_bytes }, most) =
                traffic.end(now, all.iter().map(|series| metrics::Standing::of(series)).collect()).total();
            all.iter().flat_map(|series| series.each()).for_each(|counts| counts.active.begin_window());
            tracing::info!(
                requests,
                with_token,
                failed,
                active_max = most,
                request_bytes,
                response_bytes,
                "traffic of the last five minutes"
            );
        }
    }

    fn readings(&self) -> Vec<Reading> {
        let (plan, mut readings) = (self.plan(), self.sources.readings());
        let mut add = |limit, of, used, max| readings.push(Reading { limit, of, used, max });
        for (shard, counts) in self.shards.iter().enumerate() {
            let [used, all] = &counts.slots;
            add(Limit::Descriptors, format!("shard {shard}"), used.count(), all.count());
        }
        let names = told_apart(plan.origins.iter().map(|origin| &*origin.authority));
        for (name, origin) in names.iter().zip(&plan.origins) {
            for (shard, counts) in origin.counts.iter().enumerate() {
                // Those at rest make room when another is wanted.
                let used = counts.open.count().saturating_sub(counts.idle.count());
                let of = format!("{name}, shard {shard}");
                add(Limit::OriginConnections, of.clone(), used, origin.connections_max as u64);
                let waiting = counts.waiting.count();
                add(Limit::OriginWaiting, of.clone(), waiting, limits::ORIGIN_WAITING_MAX as u64);
                add(Limit::HeldRequests, of, counts.held.count(), limits::ORIGIN_HELD_MAX as u64);
            }
        }
        for seen in self.channels() {
            let of = format!("{}, channel {}", seen.key.instance, seen.key.index);
            add(Limit::Streams, of.clone(), seen.streams as u64, limits::STREAM_COUNT_MAX as u64);
            add(Limit::Identities, of, seen.identities as u64, limits::IDENTITY_COUNT_MAX as u64);
        }
        readings
    }
}

/// By authority, because two settings may lead to one.
fn origins(plan: &Plan) -> BTreeMap<&str, OriginSum<'_>> {
    let mut sums = BTreeMap::<&str, OriginSum<'_>>::new();
    for origin in &plan.origins {
        let sum = sums.entry(&origin.authority).or_default();
        if sum.outlook.is_none_or(|worst| origin.outlook.share() < worst.share()) {
            sum.outlook = Some(&origin.outlook);
        }
        for counts in &origin.counts {
            sum.counts.iter_mut().zip(counts.all()).for_each(|(sum, count)| *sum += count);
        }
    }
    sums
}

impl Instance {
    fn what_is_wrong(&self) -> String {
        self.board.what_is_wrong(&self.plan.dialled)
    }
}

impl Report for Board {
    fn is_ready(&self) -> bool {
        !self.drains() && self.plan().instances.iter().all(|instance| instance.board.is_ready())
    }

    fn status(&self) -> Value {
        let (plan, readings) = (self.plan(), self.readings());
        let limits = self.headroom.show(&readings);
        let mut health = self.health();
        self.headroom.tell_health(&mut health, &readings);
        let count = |counts: &Arc<Counts>| -> serde_json::Map<String, Value> {
            counts
                .rows()
                .iter()
                .map(|(name, _, _, count)| ((*name).to_owned(), count.count().into()))
                .collect()
        };
        let origin = |(authority, OriginSum { counts, outlook }): (&str, OriginSum<'_>)| {
            let [open, held, idle, waiting, opened, reused, failures, probes_failed] = counts;
            let found = outlook.map(|outlook| outlook.found().clone());
            let cause = found.as_ref().map(|found| &found.cause).filter(|cause| !cause.is_empty());
            json!({
                "origin": authority,
                "state": found.as_ref().map(|found| found.state.name()),
                "state_secs": found.as_ref().map(|found| found.since.elapsed().as_secs()),
                "cause": cause,
                "share_percent": outlook.map(Outlook::share),
                "requests": opened + reused,
                "failures": failures,
                "probes_failed": probes_failed,
                "connections": open,
                "connections_held": held,
                "connections_idle": idle,
                "requests_waiting": waiting,
                "connections_opened": opened,
                "connections_reused": reused,
            })
        };
        let link = |seen: &Seen<Channel>| {
            let Channel { instance, index, shard, transport, way } = &seen.key;
            seen.describe(json!({
                "instance": &**instance,
                "channel": index,
                "shard": shard,
                "transport": transport.as_str(),
                "way": &**way,
            }))
        };
        let instance = |instance: &Arc<Instance>| instance.board.status(&instance.plan.dialled, plan.tag());
        json!({
            "role": "connector",
            "state": health.word(),
            "reason": health.reason(),
            "version": env!("CARGO_PKG_VERSION"),
            "name": plan.settings.identity,
            "site": plan.site,
            "serial": plan.revision.serial,
            "sha256": plan.revision.sha256.iter().map(|byte| format!("{byte:02x}")).collect::<String>(),
            "reloads": self.reloads.show(),
            "ready": self.is_ready(),
            "started": self.start.at(),
            "uptime_secs": self.start.uptime_secs(),
            "settings_folder": self.folder,
            "instances": plan.instances.iter().map(instance).collect::<Vec<_>>(),
            "links": self.channels().iter().map(link).collect::<Vec<_>>(),
            "origins": origins(&plan).into_iter().map(origin).collect::<Vec<_>>(),
            "limits": limits,
            "certificates": show_certificates(&self.keeper.ends(plan.certificates.clone())),
            "internal": self.keeper.show_state(),
            "lists": plan.lists.show(),
            "shards": self.shards.iter().map(count).collect::<Vec<_>>(),
        })
    }

    fn traffic(&self) -> Option<Value> {
        let windows = {
            let traffic = self.traffic.lock().unwrap_or_else(PoisonError::into_inner);
            let all: Vec<_> = self.ledger.all().iter().map(|series| metrics::Standing::of(series)).collect();
            traffic.windows(jiff::Timestamp::now(), &all)
        };
        Some(windows.show())
    }

    fn metrics(&self) -> String {
        let (plan, mut page) = (self.plan(), Page::default());
        describe_process(&mut page, "connector");
        describe_tasks(&mut page, &shard::task_sizes());
        page.gauge(
            "cmg_connector_ready",
            "1 when all channels to all instances are up and settings in force.",
        )
        .count(&[], self.is_ready().into());
        describe_certificates(&mut page, &self.keeper.ends(plan.certificates.clone()));
        self.keeper.describe(&mut page, "cmg_connector");
        let all = self.ledger.all();
        describe_endpoints(&mut page, "cmg_connector", &all, "origin_response_duration_seconds", TOOK);
        self.describe_shards(&mut page);
        describe_instances(&plan, &mut page);
        let channels = self.channels();
        describe_channels(&mut page, "cmg_connector", &channels, |channel| {
            vec![
                ("gateway", &channel.instance),
                ("channel", &channel.index),
                ("shard", &channel.shard),
                ("transport", &channel.transport),
            ]
        });
        describe_origins(&plan, &mut page);
        plan.lists.describe(&mut page);
        self.reloads.describe(&mut page, "cmg_connector");
        self.headroom.describe(&mut page, &self.readings());
        if let Some(log) = self.access_log.get() {
            page.counter("cmg_connector_access_log_lost_total", "Lines of the access log that were lost.")
                .count(&[], log.dropped());
        }
        page.text()
    }
}

impl Board {
    fn describe_shards(&self, page: &mut Page) {
        for (row, (_, name, help, _)) in Counts::default().rows().iter().enumerate() {
            let mut rows = page.counter(&format!("cmg_connector_{name}_total"), help);
            for (shard, counts) in self.shards.iter().enumerate() {
                rows.count(&[("shard", &shard)], counts.rows()[row].3.count());
            }
        }
    }
}

/// The label is not `instance`: Prometheus gives that name to the target it scrapes.
fn describe_instances(plan: &Plan, page: &mut Page) {
    let mut fill = |name: &str, help: &str, what: &dyn Fn(&InstanceBoard) -> u64| {
        let mut rows = page.gauge(name, help);
        for instance in &plan.instances {
            rows.count(&[("gateway", &instance.plan.dialled)], what(&instance.board));
        }
    };
    fill("cmg_connector_channels", "Channels that are up.", &|one| one.up().into());
    fill("cmg_connector_channels_wanted", "Channels kept; 0 before the instance first answered.", &|one| {
        one.wanted.load(Ordering::Relaxed).into()
    });
    let help = "1 when our settings are in force at the instance.";
    fill("cmg_connector_settings_in_force", help, &|one| (one.in_force() == Some(plan.tag())).into());
    page.gauge(
        "cmg_connector_settings_serial",
        "Serial of the site's settings by which requests are mapped.",
    )
    .count(&[("site", &plan.site)], plan.revision.serial);
}

fn describe_origins(plan: &Plan, page: &mut Page) {
    let origins = origins(plan);
    let gauges = [
        ("connections", "Connections to an origin, but for held requests: in use, at rest and being made."),
        ("connections_held", "Connections to an origin for held requests, apart from the others."),
        ("connections_idle", "Connections to an origin that are at rest."),
        ("requests_waiting", "Requests that wait for a connection to an origin."),
    ];
    let counters = [
        ("connections_opened_total", "Connections made to an origin."),
        ("connections_reused_total", "Times a connection at rest was used again."),
        ("failures_total", "Requests that could not reach an origin, or were not answered in time."),
        ("probes_failed_total", "Probes of an origin that did not pass."),
    ];
    for (at, (name, help)) in gauges.into_iter().chain(counters).enumerate() {
        let name = format!("cmg_connector_origin_{name}");
        let mut rows = if at < gauges.len() { page.gauge(&name, help) } else { page.counter(&name, help) };
        for (authority, sum) in &origins {
            rows.count(&[("origin", authority)], sum.counts[at]);
        }
    }
    let help = "Requests that had a connection to an origin.";
    let mut rows = page.counter("cmg_connector_origin_requests_total", help);
    for (authority, OriginSum { counts: [.., opened, reused, _, _], .. }) in &origins {
        rows.count(&[("origin", authority)], opened + reused);
    }
    let help = "Share of its turns that an origin has: 1 up, 0 down, between them it rises.";
    let mut rows = page.gauge("cmg_connector_origin_share_ratio", help);
    for (authority, sum) in &origins {
        let share = sum.outlook.map_or(100, Outlook::share);
        rows.row(&[("origin", authority)], f64::from(share) / 100.0);
    }
}

/// Origins that settings name with different bounds may have one authority; the second is called `a (2)`.
fn told_apart<'o>(authorities: impl Iterator<Item = &'o str>) -> Vec<String> {
    let mut seen = BTreeMap::<&str, usize>::new();
    let name = |authority| {
        let count = seen.entry(authority).or_default();
        *count += 1;
        if *count == 1 { authority.to_owned() } else { format!("{authority} ({count})") }
    };
    authorities.map(name).collect()
}

const TOOK: &str = "From a request's head sent to the origin to the head of its answer.";
