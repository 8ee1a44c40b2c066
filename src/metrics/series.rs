//! What is counted for each publishing endpoint.
//!
//! A series is found, or made, when settings come into force; a request then only follows a number
//! that stands beside its endpoint. Series stay when settings change, because a counter that vanished
//! would look like one that began anew; so their number is bounded, and when there is no room for those of
//! settings that come into force, the ones that no settings in force name make it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::cell::{Counter, Distribution, Gauge, Histogram};
use super::page::{Page, Rows};
use crate::mapping::Family;
use crate::refusal::Refusal;

/// Which endpoint a series is about. Text, because it outlives the settings that named it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Name {
    /// Code of the site.
    pub site: String,
    /// Role id.
    pub role: String,
    /// Path below the role, from its slash on; [`OTHER`] and what a role makes up have none.
    pub endpoint: String,
    /// As in settings: `mutual_auth`, `server_auth`.
    pub family: &'static str,
    /// On a connection point: where it leads.
    pub origin: String,
}

impl Name {
    /// The name of an endpoint for one family.
    pub fn new(site: &str, role: u64, path: &str, family: Family) -> Name {
        Name {
            site: site.to_owned(),
            role: role.to_string(),
            endpoint: format!("/{path}"),
            family: match family {
                Family::MutualAuth => "mutual_auth",
                Family::ServerAuth => "server_auth",
            },
            origin: String::new(),
        }
    }

    /// A series that is about no single endpoint. Endpoints begin with a slash, so none is called so.
    pub fn without_endpoint(name: &str) -> Name {
        Name { endpoint: name.to_owned(), ..Name::default() }
    }
}

/// The endpoint of the series that counts whatever exceeds the bound.
pub const OTHER: &str = "other";

/// Status classes as labels; the first is a request whose answer never began.
pub const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// The class of a status; 0 is none.
pub fn class_of(status: u16) -> usize {
    let class = usize::from(status / 100);
    if class < CLASSES.len() { class } else { 0 }
}

/// What one shard counts for one endpoint.
#[derive(Debug, Default)]
pub struct EndpointCounts {
    /// Requests that ended, by [`class_of`] their status.
    pub requests: [Counter; CLASSES.len()],
    /// Requests turned away, by code of the refusal.
    pub refused: [Counter; 32],
    /// On a connection point: requests with a token that was taken.
    pub with_token: Counter,
    /// Octets of request bodies.
    pub request_bytes: Counter,
    /// Octets of answers' bodies.
    pub response_bytes: Counter,
    /// Requests under way.
    pub active: Gauge,
    /// How long they took; on a connection point until the head of the origin's answer.
    pub took: Histogram,
}

/// How a request ended.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// 0: no answer began.
    pub status: u16,
    /// Why it was turned away.
    pub refused: Option<Refusal>,
    /// It came with a token that was taken.
    pub has_token: bool,
    /// Octets of its body.
    pub request_bytes: u64,
    /// Octets of its answer's body.
    pub response_bytes: u64,
    /// `None`: there is nothing to measure, such as an origin that never answered.
    pub took: Option<Duration>,
}

impl EndpointCounts {
    /// A request ended so. Nothing else counts the end of a request.
    pub fn end(&self, ended: &Ended) {
        self.requests[class_of(ended.status)].add(1);
        if let Some(refusal) = ended.refused {
            self.refused[usize::from(refusal as u8) % self.refused.len()].add(1);
        }
        if ended.has_token {
            self.with_token.add(1);
        }
        self.request_bytes.add(ended.request_bytes);
        self.response_bytes.add(ended.response_bytes);
        if let Some(took) = ended.took {
            self.took.observe(took);
        }
    }

    /// Requests that ended.
    pub fn ended(&self) -> u64 {
        self.requests.iter().map(Counter::count).sum()
    }

    /// Of them, those that got no answer, were turned away here, or were answered with 500 and above.
    pub fn failed(&self) -> u64 {
        let turned_away = Refusal::ALL.iter().filter(|refusal| refusal.status() < 500);
        let turned_away = turned_away.map(|refusal| self.refused[usize::from(*refusal as u8)].count());
        self.requests[class_of(0)].count() + self.requests[class_of(500)].count() + turned_away.sum::<u64>()
    }
}

/// One endpoint's counts, by shard.
#[derive(Debug)]
pub struct Series {
    /// Which endpoint; shared with whoever tells of it later.
    pub name: Arc<Name>,
    shards: Box<[Apart<EndpointCounts>]>,
}

/// Keeps what two shards write out of one another's cache lines; CPUs fetch them in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Apart<T>(T);

impl Series {
    fn new(name: Arc<Name>, shards: usize) -> Arc<Series> {
        Arc::new(Series { name, shards: (0..shards).map(|_| Apart::default()).collect() })
    }

    /// Where a shard counts.
    #[inline]
    pub fn of(&self, shard: usize) -> &EndpointCounts {
        &self.shards[shard].0
    }

    /// Every shard's.
    pub fn each(&self) -> impl Iterator<Item = &EndpointCounts> {
        self.shards.iter().map(|one| &one.0)
    }

    /// A count, over all shards.
    pub fn sum(&self, which: impl Fn(&EndpointCounts) -> u64) -> u64 {
        self.each().map(which).sum()
    }
}

/// Every series there is.
#[derive(Debug)]
pub struct Ledger {
    shards: usize,
    count_max: usize,
    list: ArcSwap<Vec<Arc<Series>>>,
    other: Arc<Series>,
}

impl Ledger {
    /// A ledger of at most `count_max` series and one more for whatever exceeds them.
    pub fn new(shards: usize, count_max: usize) -> Ledger {
        let other = Series::new(Arc::new(Name::without_endpoint(OTHER)), shards);
        Ledger { shards, count_max, list: ArcSwap::default(), other }
    }

    /// The series of these names, in their order; those that do not exist yet are made as far as there
    /// is room. Called when settings come into force, by one thread at a time.
    pub fn find(&self, names: impl IntoIterator<Item = Name>) -> Vec<Arc<Series>> {
        let names: Vec<_> = names.into_iter().collect();
        let mut list = Vec::clone(&self.list.load());
        self.make_room(&mut list, &names);
        let mut known: HashMap<Arc<Name>, Arc<Series>> =
            list.iter().map(|series| (series.name.clone(), series.clone())).collect();
        let mut find = |name: Name| {
            if let Some(series) = known.get(&name) {
                return series.clone();
            }
            if list.len() >= self.count_max {
                return self.other.clone();
            }
            let series = Series::new(Arc::new(name), self.shards);
            list.push(series.clone());
            known.insert(series.name.clone(), series.clone());
            series
        };
        let found = names.into_iter().map(&mut find).collect();
        self.list.store(Arc::new(list));
        found
    }

    /// Drops series that nothing counts in, if there is no room for all that are wanted.
    fn make_room(&self, list: &mut Vec<Arc<Series>>, names: &[Name]) {
        let wanted: HashSet<&Name> = names.iter().collect();
        let held = list.iter().filter(|series| wanted.contains(&*series.name)).count();
        if list.len() + wanted.len() - held > self.count_max {
            // This list has it, and the one in force.
            let is_used = |series: &Arc<Series>| Arc::strong_count(series) > 2;
            list.retain(|series| is_used(series) || wanted.contains(&*series.name));
        }
    }

    /// All of them; the one for the rest comes last, if it counted anything.
    pub fn all(&self) -> Vec<Arc<Series>> {
        let mut list = Vec::clone(&self.list.load());
        let is_used = |counts: &EndpointCounts| {
            counts.active.most() > 0 || counts.requests.iter().any(|requests| requests.count() > 0)
        };
        if self.other.each().any(is_used) {
            list.push(self.other.clone());
        }
        list
    }
}

/// Adds the families of endpoints; `prefix` is that of the role, `took` the name behind it of how long
/// requests took, and `took_help` what that means.
pub fn describe_endpoints(page: &mut Page, prefix: &str, all: &[Arc<Series>], took: &str, took_help: &str) {
    let name = |end: &str| format!("{prefix}_{end}");
    let mut rows = page.counter(&name("requests_total"), REQUESTS);
    for series in all {
        for (class, code) in CLASSES.iter().enumerate() {
            let count = series.sum(|counts| counts.requests[class].count());
            // Interim answers end no request, and few requests end without any.
            if count > 0 || class > 1 {
                rows.of(&series.name, &[("code", code)], count);
            }
        }
    }
    let mut rows = page.counter(&name("requests_refused_total"), REFUSED);
    for series in all {
        for refusal in Refusal::ALL {
            let count = series.sum(|counts| counts.refused[usize::from(refusal as u8)].count());
            if count > 0 {
                rows.of(&series.name, &[("reason", &refusal.reason())], count);
            }
        }
    }
    let fill = |mut rows: Rows<'_>, which: fn(&EndpointCounts) -> u64| {
        for series in all {
            rows.of(&series.name, &[], series.sum(which));
        }
    };
    fill(page.counter(&name("request_bytes_total"), "Octets of request bodies."), |counts| {
        counts.request_bytes.count()
    });
    fill(page.counter(&name("response_bytes_total"), "Octets of answers' bodies."), |counts| {
        counts.response_bytes.count()
    });
    fill(page.gauge(&name("requests_active"), "Requests under way."), |counts| counts.active.now());
    fill(page.gauge(&name("requests_active_max"), ACTIVE_MAX), |counts| counts.active.most());
    let mut rows = page.histogram(&name(took), took_help);
    for series in all {
        rows.distribution_of(&series.name, &Distribution::of(series.each().map(|counts| &counts.took)));
    }
}

const REQUESTS: &str = "Requests that ended, by class of the answer's status; none: no answer began. \
     The endpoint none stands for what no site publishes and what is answered here, other for endpoints \
     beyond the bound.";
const REFUSED: &str = "Requests turned away, by the reason that their client was told.";
const ACTIVE_MAX: &str =
    "Most requests under way at once since the start: each shard's greatest number, added up.";

#[cfg(test)]
mod tests {
    use super::*;

    fn name(path: &str) -> Name {
        Name::new("PS1", 7, path, Family::MutualAuth)
    }

    fn ended(status: u16) -> Ended {
        Ended {
            status,
            refused: None,
            has_token: false,
            request_bytes: 1,
            response_bytes: 2,
            took: Some(Duration::ZERO),
        }
    }

    #[test]
    fn a_series_stays_when_settings_change() {
        let ledger = Ledger::new(2, 10);
        let first = ledger.find([name("a"), name("b")]);
        first[0].of(1).end(&ended(200));
        assert_eq!(*ledger.find([name("c")])[0].name, name("c"));
        assert_eq!(ledger.all().len(), 3, "what is published no more is shown still");
        let again = ledger.find([name("b"), name("a")]);
        assert!(Arc::ptr_eq(&again[1], &first[0]));
        assert_eq!(again[1].sum(|counts| counts.requests[2].count()), 1);
    }

    #[test]
    fn what_exceeds_the_bound_is_counted_together() {
        let ledger = Ledger::new(1, 2);
        let found = ledger.find([name("a"), name("b"), name("c"), name("d")]);
        assert_eq!(ledger.all().len(), 2, "the rest is not shown before it counts");
        found[2].of(0).end(&ended(200));
        found[3].of(0).end(&ended(404));
        let all = ledger.all();
        assert_eq!(all.len(), 3);
        assert_eq!(all[2].name.endpoint, OTHER);
        assert_eq!(all[2].sum(|counts| counts.requests.iter().map(Counter::count).sum()), 2);
    }

    #[test]
    fn series_of_no_settings_make_room_for_those_of_others() {
        let ledger = Ledger::new(1, 3);
        let (first, second) = (ledger.find([name("a"), name("b")]), ledger.find([name("a"), name("c")]));
        drop(first);
        assert_eq!(ledger.all().len(), 3, "there is room");
        second[0].of(0).end(&ended(200));
        let third = ledger.find([name("a"), name("d")]);
        assert_eq!(third.iter().map(|series| &*series.name).collect::<Vec<_>>(), [&name("a"), &name("d")]);
        assert!(Arc::ptr_eq(&third[0], &second[0]), "what counts goes on");
        let left: Vec<_> = ledger.all().iter().map(|series| series.name.endpoint.clone()).collect();
        assert_eq!(left, ["/a", "/c", "/d"], "what is held by settings stays");
    }

    #[test]
    fn every_status_has_a_class() {
        let rows = [
            (0, "none"),
            (100, "1xx"),
            (204, "2xx"),
            (304, "3xx"),
            (404, "4xx"),
            (599, "5xx"),
            (999, "none"),
        ];
        for (status, class) in rows {
            assert_eq!(CLASSES[class_of(status)], class, "{status}");
        }
    }

    #[test]
    fn the_end_of_a_request_is_counted_once_in_each_place() {
        let counts = EndpointCounts::default();
        counts.end(&Ended { refused: Some(Refusal::NoConnector), ..ended(503) });
        counts.end(&Ended { took: None, ..ended(0) });
        assert_eq!(counts.requests.each_ref().map(Counter::count), [1, 0, 0, 0, 0, 1]);
        assert_eq!(counts.refused[Refusal::NoConnector as usize].count(), 1);
        assert_eq!((counts.request_bytes.count(), counts.response_bytes.count()), (2, 4));
        assert_eq!(super::super::Distribution::of([&counts.took]).count(), 1);
    }

    #[test]
    fn refusals_have_a_place_each() {
        let counts = EndpointCounts::default();
        for refusal in Refusal::ALL {
            assert!(usize::from(refusal as u8) < counts.refused.len());
        }
    }
}
