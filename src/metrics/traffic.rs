//! What passed at each endpoint, told for windows of five minutes: what the original's connection points report to
//! their site, with the same counters (TotalRequests, TotalRequestsWithBearerToken, MaxConcurrentRequests,
//! TotalRequestBytes, TotalResponseBytes, FailedRequests).
//!
//! Pure: what was counted, and when, comes from outside.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::series::{Name, Series};
use crate::limits;

/// What was counted for one endpoint since the process began; in a [`Window`], within it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Requests that ended.
    pub requests: u64,
    /// Of them, with a token that was taken.
    pub with_token: u64,
    /// Of them, without an answer, turned away here, or answered with 500 and above.
    pub failed: u64,
    /// Octets of their bodies.
    pub request_bytes: u64,
    /// Octets of their answers' bodies.
    pub response_bytes: u64,
}

impl Sums {
    /// What came on top of `before`. Counters begin anew only with the process.
    fn since(&self, before: &Sums) -> Sums {
        Sums {
            requests: self.requests.saturating_sub(before.requests),
            with_token: self.with_token.saturating_sub(before.with_token),
            failed: self.failed.saturating_sub(before.failed),
            request_bytes: self.request_bytes.saturating_sub(before.request_bytes),
            response_bytes: self.response_bytes.saturating_sub(before.response_bytes),
        }
    }

    fn add(&mut self, other: &Sums) {
        self.requests += other.requests;
        self.with_token += other.with_token;
        self.failed += other.failed;
        self.request_bytes += other.request_bytes;
        self.response_bytes += other.response_bytes;
    }
}

/// One endpoint, as it stands.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Which; its text is the series's.
    pub name: Arc<Name>,
    /// Since the process began.
    pub sums: Sums,
    /// Most requests under way at once since the window began: each shard's greatest number, added up.
    pub most: u64,
}

impl Standing {
    /// As a series has it now.
    pub fn of(series: &Series) -> Standing {
        let sum = |which: fn(&super::EndpointCounts) -> u64| series.sum(which);
        let sums = Sums {
            requests: sum(super::EndpointCounts::ended),
            with_token: sum(|counts| counts.with_token.count()),
            failed: sum(super::EndpointCounts::failed),
            request_bytes: sum(|counts| counts.request_bytes.count()),
            response_bytes: sum(|counts| counts.response_bytes.count()),
        };
        Standing { name: series.name.clone(), sums, most: sum(|counts| counts.active.most_of_window()) }
    }

    /// Nothing was asked of it.
    fn is_silent(&self) -> bool {
        self.sums == Sums::default() && self.most == 0
    }
}

/// What passed in one window. Endpoints at which nothing did are left out.
#[derive(Clone, Debug)]
pub struct Window {
    /// When it began.
    pub began: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
    /// By endpoint.
    pub endpoints: Vec<Standing>,
}

impl Window {
    /// Of all endpoints together; for the greatest number at once that is a bound, not a measurement.
    pub fn total(&self) -> (Sums, u64) {
        let mut sums = Sums::default();
        self.endpoints.iter().for_each(|endpoint| sums.add(&endpoint.sums));
        (sums, self.endpoints.iter().map(|endpoint| endpoint.most).sum())
    }

    fn show(&self) -> Value {
        let (total, most) = self.total();
        let endpoint = |standing: &Standing| {
            let Name { site, role, endpoint, family, origin } = &*standing.name;
            let mut shown = show(&standing.sums, standing.most);
            for (key, value) in [("site", site), ("role", role), ("endpoint", endpoint), ("origin", origin)] {
                shown[key] = value.as_str().into();
            }
            shown["family"] = (*family).into();
            shown
        };
        let mut shown = show(&total, most);
        shown["began"] = self.began.to_string().into();
        shown["ended"] = self.ended.to_string().into();
        shown["endpoints"] = self.endpoints.iter().map(endpoint).collect();
        shown
    }
}

fn show(sums: &Sums, most: u64) -> Value {
    json!({
        "requests": sums.requests,
        "requests_with_token": sums.with_token,
        "requests_failed": sums.failed,
        "requests_active_max": most,
        "request_bytes": sums.request_bytes,
        "response_bytes": sums.response_bytes,
    })
}

/// The windows that ended, and the one that did not.
#[derive(Debug)]
pub struct Traffic {
    began: Timestamp,
    before: HashMap<Arc<Name>, Sums>,
    windows: VecDeque<Arc<Window>>,
    /// Endpoints in all of those together.
    endpoints: usize,
}

/// All windows at one moment: whoever shows them keeps nobody waiting.
#[derive(Debug)]
pub struct Windows {
    open: Window,
    /// The last first.
    ended: Vec<Arc<Window>>,
}

impl Windows {
    /// As JSON.
    pub fn show(&self) -> Value {
        json!({
            "window_secs": limits::TRAFFIC_WINDOW.as_secs(),
            "open": self.open.show(),
            "windows": self.ended.iter().map(|window| window.show()).collect::<Vec<_>>(),
        })
    }
}

impl Traffic {
    /// Nothing has passed.
    pub fn new(now: Timestamp) -> Traffic {
        Traffic { began: now, before: HashMap::new(), windows: VecDeque::new(), endpoints: 0 }
    }

    /// Whether the window that stands is over.
    pub fn is_due(&self, now: Timestamp) -> bool {
        // A clock that was set back must not keep a window open for ever.
        let open_for = now.as_second() - self.began.as_second();
        !(0..limits::TRAFFIC_WINDOW.as_secs().cast_signed()).contains(&open_for)
    }

    /// Ends the window; what was counted until now is in it and in none behind it.
    pub fn end(&mut self, now: Timestamp, all: Vec<Standing>) -> Arc<Window> {
        let window = Arc::new(self.window(now, &all));
        self.began = now;
        self.before = all.into_iter().map(|standing| (standing.name, standing.sums)).collect();
        self.keep(window.clone());
        window
    }

    /// The window as if it ended now, and those that did.
    pub fn windows(&self, now: Timestamp, all: &[Standing]) -> Windows {
        Windows { open: self.window(now, all), ended: self.windows.iter().rev().cloned().collect() }
    }

    /// Keeps a window, and the last ones before it that there is room for.
    fn keep(&mut self, window: Arc<Window>) {
        self.endpoints += window.endpoints.len();
        self.windows.push_back(window);
        while self.windows.len() > limits::TRAFFIC_WINDOW_COUNT_MAX
            || self.endpoints > limits::TRAFFIC_ENDPOINTS_KEPT_MAX
        {
            let Some(oldest) = self.windows.pop_front() else { break };
            self.endpoints -= oldest.endpoints.len();
        }
    }

    fn window(&self, now: Timestamp, all: &[Standing]) -> Window {
        let none = Sums::default();
        let within = |standing: &Standing| Standing {
            name: standing.name.clone(),
            sums: standing.sums.since(self.before.get(&standing.name).unwrap_or(&none)),
            most: standing.most,
        };
        let mut endpoints: Vec<_> = all.iter().map(within).filter(|standing| !standing.is_silent()).collect();
        endpoints.shrink_to_fit();
        Window { began: self.began, ended: now, endpoints }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::mapping::Family;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn standing(path: &str, requests: u64, most: u64) -> Standing {
        let sums =
            Sums { requests, with_token: 1, failed: 0, request_bytes: 10 * requests, response_bytes: 0 };
        Standing { name: Arc::new(Name::new("PS1", 7, path, Family::MutualAuth)), sums, most }
    }

    #[test]
    fn every_request_is_in_one_window() {
        let mut traffic = Traffic::new(at(1_000));
        assert!(!traffic.is_due(at(1_299)));
        assert!(traffic.is_due(at(1_300)));
        let counts = [0_u64, 7, 7, 30, 31];
        let mut seen = 0;
        for (place, count) in counts.iter().enumerate() {
            let window = traffic.end(at(1_300 + 300 * place as i64), vec![standing("a", *count, 3)]);
            seen += window.total().0.requests;
            assert_eq!(seen, *count, "{window:?}");
            assert_eq!(window.ended.as_second() - window.began.as_second(), 300);
        }
        let open = traffic.windows(at(2_600), &[standing("a", 40, 5)]).show();
        assert_eq!(open["open"]["requests"], 9);
        assert_eq!(open["open"]["request_bytes"], 90);
        assert_eq!(open["windows"][0]["requests"], 1);
        assert_eq!(open["windows"][0]["endpoints"][0]["endpoint"], "/a");
    }

    #[test]
    fn an_endpoint_that_is_new_counts_from_nothing_and_one_that_is_silent_is_left_out() {
        let mut traffic = Traffic::new(at(0));
        traffic.end(at(300), vec![standing("a", 5, 1)]);
        let silent = Standing { most: 0, ..standing("a", 5, 0) };
        let window = traffic.end(at(600), vec![silent, standing("b", 2, 1)]);
        let names: Vec<&str> = window.endpoints.iter().map(|one| one.name.endpoint.as_str()).collect();
        assert_eq!(names, ["/b"]);
        assert_eq!(
            window.total(),
            (Sums { requests: 2, with_token: 1, request_bytes: 20, ..Sums::default() }, 1)
        );
    }

    #[test]
    fn no_more_windows_are_kept_than_the_bound_and_a_clock_set_back_ends_one() {
        let mut traffic = Traffic::new(at(1_000_000));
        assert!(traffic.is_due(at(999_999)));
        for second in 0..2 * limits::TRAFFIC_WINDOW_COUNT_MAX as i64 {
            traffic.end(at(second), vec![standing("a", second.unsigned_abs(), 0)]);
        }
        assert_eq!(traffic.windows.len(), limits::TRAFFIC_WINDOW_COUNT_MAX);
    }

    #[test]
    fn the_oldest_windows_go_when_all_together_tell_of_too_many_endpoints() {
        let mut traffic = Traffic::new(at(0));
        let count = limits::SERIES_COUNT_MAX;
        let names: Vec<_> = (0..count).map(|number| standing(&number.to_string(), 0, 1)).collect();
        let most = limits::TRAFFIC_ENDPOINTS_KEPT_MAX / count;
        for second in 0..2 * most as i64 {
            let last = traffic.end(at(second), names.clone());
            assert!(Arc::ptr_eq(&last.endpoints[0].name, &names[0].name), "no text of its own");
        }
        assert_eq!((traffic.windows.len(), traffic.endpoints), (most, most * count));
        for second in 0..limits::TRAFFIC_WINDOW_COUNT_MAX as i64 {
            traffic.end(at(second), vec![standing("a", second.unsigned_abs(), 1)]);
        }
        assert_eq!(traffic.windows.len(), limits::TRAFFIC_WINDOW_COUNT_MAX);
        assert_eq!(traffic.endpoints, limits::TRAFFIC_WINDOW_COUNT_MAX);
    }
}
