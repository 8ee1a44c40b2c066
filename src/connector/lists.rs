//! The site's revocation lists and its block list, as this connection point has them: read from files and
//! fetched by HTTP on threads of their own, judged, and offered to every instance.
//!
//! A list that cannot be read, or that nobody the site trusts has signed, takes the place of none: the one
//! before stays, and what is wrong stands in the log and in `/status`.

use std::cell::RefCell;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustls::pki_types::UnixTime;
use serde_json::{Value, json};

use crate::auth::{BlockList, RevocationList, Trust, list_der};
use crate::channel::{Acknowledgement, List, ListKind, ListTag, Verdict};
use crate::limits;
use crate::metrics::{self, Health, Page};
use crate::settings::{ListSource, PublishedTrust};
use crate::transport::Link;

/// All of them.
pub struct Lists {
    trust: Trust,
    sources: Sources,
    places: Mutex<Vec<Place>>,
    /// Of the threads that look after them: they end with this.
    ends: Mutex<Vec<mpsc::Sender<()>>>,
}

/// Where lists come from, and by whom they are believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources {
    /// Whom the site trusts.
    pub anchors: PublishedTrust,
    /// Of revocation lists.
    pub crls: Vec<ListSource>,
    /// The block list.
    pub blocked: Option<PathBuf>,
    /// How often URLs are asked.
    pub refresh: Duration,
}

/// Of a file: when it was changed, and how long it is.
type Mark = (SystemTime, u64);

/// One list, and where it comes from.
struct Place {
    source: ListSource,
    kind: ListKind,
    list: Option<List>,
    facts: Option<RevocationList>,
    /// What is wrong; nothing when empty.
    trouble: String,
    /// The alarm of this list was raised.
    is_told: bool,
    /// How the file was when it was read.
    seen: Option<Mark>,
}

impl Place {
    fn new(source: ListSource, kind: ListKind) -> Place {
        Place { source, kind, list: None, facts: None, trouble: String::new(), is_told: false, seen: None }
    }

    fn name(&self) -> String {
        match &self.source {
            ListSource::File(file) => file.display().to_string(),
            ListSource::Url(url) => url.clone(),
        }
    }
}

impl Lists {
    /// From these sources, with nothing read yet but what `before` had from the same ones.
    pub fn new(trust: Trust, sources: Sources, before: Option<&Lists>) -> Arc<Lists> {
        let crls = sources.crls.iter().map(|source| Place::new(source.clone(), ListKind::Revocation));
        let blocked = sources.blocked.iter();
        let blocked = blocked.map(|file| Place::new(ListSource::File(file.clone()), ListKind::Blocked));
        let places = Mutex::new(crls.chain(blocked).collect());
        let lists = Lists { trust, sources, places, ends: Mutex::default() };
        if let Some(before) = before {
            lists.take_over(before);
        }
        Arc::new(lists)
    }

    /// Where they come from.
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// What was fetched is there at once, if it is believed still: its source may be out of reach just now.
    fn take_over(&self, before: &Lists) {
        let held: Vec<_> =
            before.places().iter().map(|place| (place.source.clone(), place.list.clone())).collect();
        let numbered: Vec<_> = self.places().iter().map(|place| place.source.clone()).enumerate().collect();
        for (number, source) in numbered {
            let list = held.iter().find(|(held, _)| *held == source).and_then(|(_, list)| list.as_ref());
            if let (ListSource::Url(_), Some(list)) = (&source, list) {
                self.put(number, None, 0, Ok(list.bytes.to_vec()));
            }
        }
    }

    /// Nobody looks after them any more, though what began by them has them still.
    pub fn end(&self) {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn places(&self) -> MutexGuard<'_, Vec<Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lists there are.
    fn all(&self) -> Vec<List> {
        self.places().iter().filter_map(|place| place.list.clone()).collect()
    }

    /// Reads files at once, and then on threads whatever changes; `changed` hears of it.
    ///
    /// # Errors
    /// What the system says.
    pub fn watch(self: &Arc<Self>, changed: impl Fn() + Send + Sync + 'static) -> std::io::Result<()> {
        let changed = Arc::new(changed);
        self.read_files();
        let (files, urls): (Vec<_>, Vec<_>) = self
            .places()
            .iter()
            .map(|place| place.source.clone())
            .partition(|source| matches!(source, ListSource::File(_)));
        if !files.is_empty() || !urls.is_empty() {
            let changed = changed.clone();
            every(self, "list-offers", limits::LIST_OFFER_EVERY, move |_| changed())?;
        }
        if !files.is_empty() {
            let changed = changed.clone();
            every(self, "list-files", limits::LIST_FILE_EVERY, move |lists| {
                if lists.read_files() {
                    changed();
                }
                lists.raise_alarms();
            })?;
        }
        if !urls.is_empty() {
            every(self, "list-urls", self.sources.refresh, move |lists| {
                for source in &urls {
                    if lists.fetch(source) {
                        changed();
                    }
                }
                lists.raise_alarms();
            })?;
        }
        Ok(())
    }

    // ── reading ─────────────────────────────────────────────────────────────────────────────────

    /// Whether a file has changed into a list that is offered from now on.
    fn read_files(&self) -> bool {
        let mut is_other = false;
        for (number, file, seen) in self.files() {
            match look_at(&file) {
                Ok(mark) if Some(mark) == seen => {}
                Ok(mark) => {
                    let read = crate::review::read_list(&file).map_err(|error| error.to_string());
                    let millis = mark.0.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
                    is_other |= self.put(number, Some(mark), u64::try_from(millis).unwrap_or(u64::MAX), read);
                }
                Err(error) => is_other |= self.put(number, None, 0, Err(error.to_string())),
            }
        }
        is_other
    }

    fn files(&self) -> Vec<(usize, PathBuf, Option<Mark>)> {
        let places = self.places();
        let files = places.iter().enumerate().filter_map(|(number, place)| match &place.source {
            ListSource::File(file) => Some((number, file.clone(), place.seen)),
            ListSource::Url(_) => None,
        });
        files.collect()
    }

    fn fetch(&self, source: &ListSource) -> bool {
        let ListSource::Url(url) = source else { return false };
        let Some(number) = self.places().iter().position(|place| place.source == *source) else {
            return false;
        };
        self.put(number, None, 0, fetch(url))
    }

    /// Takes what was read; whether there is another list now.
    fn put(&self, number: usize, seen: Option<Mark>, serial: u64, read: Result<Vec<u8>, String>) -> bool {
        let kind = self.places()[number].kind;
        let judged = read.and_then(|bytes| self.judge(kind, serial, &bytes));
        let mut places = self.places();
        let place = &mut places[number];
        // What is wrong now may be whole, or begin, in a moment.
        place.seen = if judged.is_ok() { seen } else { None };
        match judged {
            Ok((list, facts)) => {
                if !std::mem::take(&mut place.trouble).is_empty() {
                    tracing::info!(list = place.name(), "the list can be read again");
                }
                let is_other = place.list.as_ref().is_none_or(|held| held.tag != list.tag);
                if is_other {
                    (place.list, place.facts, place.is_told) = (Some(list), facts, false);
                }
                is_other
            }
            Err(trouble) => {
                if place.trouble != trouble {
                    tracing::error!(
                        list = place.name(),
                        "the list cannot be used, the one before stays: {trouble}"
                    );
                    place.trouble = trouble;
                }
                false
            }
        }
    }

    fn judge(
        &self,
        kind: ListKind,
        serial: u64,
        bytes: &[u8],
    ) -> Result<(List, Option<RevocationList>), String> {
        let (bytes, serial, facts) = match kind {
            ListKind::Revocation => {
                let der = list_der(bytes).map_err(|fault| fault.to_string())?;
                let facts =
                    RevocationList::read(&der, &self.trust, now()).map_err(|fault| fault.to_string())?;
                (der, 0, Some(facts))
            }
            ListKind::Blocked => {
                BlockList::parse(bytes).map_err(|fault| fault.to_string())?;
                // An empty file blocks nobody, and a list has at least one byte.
                let bytes = if bytes.is_empty() { b"\n" } else { bytes };
                (bytes.into(), serial, None)
            }
        };
        let sha256 = ring::digest::digest(&ring::digest::SHA256, &bytes);
        let sha256 = sha256.as_ref().try_into().expect("SHA-256 has 32 octets");
        let tag = ListTag { kind, serial, sha256, size: bytes.len() };
        Ok((List { tag, bytes: bytes.into_owned().into() }, facts))
    }

    // ── telling ─────────────────────────────────────────────────────────────────────────────────

    fn raise_alarms(&self) {
        for place in self.places().iter_mut() {
            let Some(facts) = &place.facts else { continue };
            if metrics::is_list_ageing(facts, now()) && !std::mem::replace(&mut place.is_told, true) {
                tracing::warn!(list = place.name(), "{}", metrics::ageing_text(facts, now()));
            }
        }
    }

    /// What operators should know of.
    pub fn tell_health(&self, health: &mut Health) {
        for place in self.places().iter() {
            if !place.trouble.is_empty() {
                health.suffers(format!("the list {}: {}", place.name(), place.trouble));
            }
            if let Some(facts) = place.facts.as_ref().filter(|facts| metrics::is_list_ageing(facts, now())) {
                health.suffers(metrics::ageing_text(facts, now()));
            }
        }
    }

    /// For `/status`.
    pub fn show(&self) -> Value {
        let places = self.places();
        let show = |place: &Place| {
            let kind = match place.kind {
                ListKind::Revocation => "revocation",
                ListKind::Blocked => "blocked",
            };
            let trouble = Some(&place.trouble).filter(|trouble| !trouble.is_empty());
            let facts = place.facts.as_ref().map(|facts| metrics::show_list(facts, now()));
            json!({
                "source": place.name(),
                "kind": kind,
                "octets": place.list.as_ref().map(|list| list.tag.size),
                "list": facts,
                "trouble": trouble,
            })
        };
        places.iter().map(show).collect()
    }

    /// For `/metrics`.
    pub fn describe(&self, page: &mut Page) {
        let places = self.places();
        let mut rows = page.gauge("cmg_connector_list_failing", "1 when a list cannot be read or used.");
        for place in places.iter() {
            rows.count(&[("source", &place.name())], u64::from(!place.trouble.is_empty()));
        }
        let mut rows = page.gauge(
            "cmg_connector_list_next_update_timestamp_seconds",
            "Until when the next revocation list comes, in seconds since 1970.",
        );
        for place in places.iter() {
            if let Some(facts) = &place.facts {
                rows.count(&[("source", &place.name())], facts.next_update);
            }
        }
    }
}

fn now() -> u64 {
    UnixTime::now().as_secs()
}

fn look_at(file: &Path) -> std::io::Result<Mark> {
    let facts = std::fs::metadata(file)?;
    Ok((facts.modified()?, facts.len()))
}

/// Fetches a list; redirections are followed twice, proxies of the environment are not used.
fn fetch(url: &str) -> Result<Vec<u8>, String> {
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(limits::LIST_FETCH_WITHIN))
        .max_redirects(2)
        .proxy(None)
        .build();
    let mut answer =
        ureq::Agent::new_with_config(config).get(url).call().map_err(|error| error.to_string())?;
    // PEM is a third longer.
    let most = limits::CRL_SIZE_MAX as u64 * 3 / 2;
    answer.body_mut().with_config().limit(most).read_to_vec().map_err(|error| error.to_string())
}

/// Does `work` now and then, for as long as there are `lists`.
fn every(
    lists: &Arc<Lists>,
    name: &str,
    pause: Duration,
    mut work: impl FnMut(&Lists) + Send + 'static,
) -> std::io::Result<()> {
    let (end, ended) = mpsc::channel();
    lists.ends.lock().unwrap_or_else(PoisonError::into_inner).push(end);
    let lists: Weak<Lists> = Arc::downgrade(lists);
    let run = move || {
        while let Some(lists) = lists.upgrade() {
            let began = Instant::now();
            work(&lists);
            drop(lists);
            let pause = pause.saturating_sub(began.elapsed()).max(PAUSE_MIN);
            if ended.recv_timeout(pause) == Err(RecvTimeoutError::Disconnected) {
                return;
            }
        }
    };
    thread::Builder::new().name(name.to_owned()).spawn(run).map(drop)
}

const PAUSE_MIN: Duration = Duration::from_millis(100);

// ── offering ────────────────────────────────────────────────────────────────────────────────────

/// The lists on their way to one instance, over its first channel.
pub struct Offering {
    link: Rc<Link>,
    lists: RefCell<Arc<Lists>>,
    dialled: String,
    state: RefCell<State>,
}

struct State {
    turn: Turn,
    /// Lists on which the instance has its verdict.
    settled: HashSet<ListTag>,
    /// Those of them that it refused: they are offered again when another one came into force, which they may
    /// need, and with every look.
    refused: HashSet<ListTag>,
}

/// Unheard ── settings acknowledged ──▶ Idle ── offered ──▶ Waits ── verdict ──▶ Idle
enum Turn {
    /// Lists are believed by the trust that settings bring: those come first.
    Unheard,
    Idle,
    Waits(List),
}

impl State {
    fn forget_refused(&mut self) {
        let refused = std::mem::take(&mut self.refused);
        self.settled.retain(|tag| !refused.contains(tag));
    }
}

impl Offering {
    /// With nothing offered.
    pub fn new(link: &Rc<Link>, lists: &Arc<Lists>, dialled: &str) -> Rc<Offering> {
        let state = State { turn: Turn::Unheard, settled: HashSet::new(), refused: HashSet::new() };
        let (link, lists, dialled) = (link.clone(), RefCell::new(lists.clone()), dialled.to_owned());
        Rc::new(Offering { link, lists, dialled, state: RefCell::new(state) })
    }

    /// Over which channel.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// These from now on. They are offered when the instance has its verdict on the settings that come with them.
    pub fn take(&self, lists: &Arc<Lists>) {
        *self.lists.borrow_mut() = lists.clone();
    }

    /// The instance has its verdict on the settings.
    pub fn begin(&self) {
        let mut state = self.state.borrow_mut();
        if matches!(state.turn, Turn::Unheard) {
            state.turn = Turn::Idle;
        }
        // By other settings it may believe what it did not.
        state.forget_refused();
        drop(state);
        self.offer();
    }

    /// Offers all that is not in force.
    pub fn offer_again(&self) {
        self.state.borrow_mut().forget_refused();
        self.offer();
    }

    /// Offers the next list, if none is on its way.
    fn offer(&self) {
        let mut state = self.state.borrow_mut();
        if !matches!(state.turn, Turn::Idle) {
            return;
        }
        let all = self.lists.borrow().all();
        state.settled.retain(|tag| all.iter().any(|list| list.tag == *tag));
        let next = all.into_iter().find(|list| !state.settled.contains(&list.tag));
        if let Some(list) = next {
            self.link.offer_list(&list.tag);
            state.turn = Turn::Waits(list);
        }
    }

    /// What the instance makes of the list.
    pub fn acknowledged(&self, acknowledgement: &Acknowledgement) {
        let Acknowledgement { revision, verdict, text } = acknowledgement;
        let mut state = self.state.borrow_mut();
        let Turn::Waits(list) = &state.turn else { return };
        let (list, instance) = (list.clone(), &self.dialled);
        if list.tag.revision() != *revision {
            return;
        }
        match verdict {
            Verdict::Wanted => return self.link.send_list(list),
            Verdict::InForce => {
                tracing::info!(instance, kind = ?list.tag.kind, "list in force");
                state.forget_refused();
            }
            Verdict::Outdated | Verdict::Diverged | Verdict::Refused | Verdict::Unknown => {
                tracing::warn!(instance, kind = ?list.tag.kind, ?verdict, "list not taken: {text}");
                if *verdict == Verdict::Refused {
                    state.refused.insert(list.tag);
                }
            }
        }
        state.settled.insert(list.tag);
        state.turn = Turn::Idle;
        drop(state);
        self.offer();
    }
}
