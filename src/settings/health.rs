//! How it is found out whether an origin is there, as settings say it.

use std::time::Duration;

use super::document::Section;
use super::report::Report;
use super::value;
use crate::limits::{
    ORIGIN_FAILURES_MAX, PROBE_EVERY, PROBE_SUCCESSES, PROBE_WITHIN, SLOW_START, UNREACHED_COUNT,
};

/// Section `health` of a role or an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HealthSettings {
    /// What a probe asks for; `None`: it makes a connection, with its TLS handshake, and asks for nothing.
    pub path: Option<String>,
    /// Between two probes.
    pub every: Duration,
    /// For a probe, from its first octet to the head of the answer.
    pub within: Duration,
    /// Failures in a row after which the origin is down.
    pub failures: u32,
    /// Probes in a row that pass, after which it is asked again.
    pub successes: u32,
    /// Time in which its share grows then.
    pub slow_start: Duration,
}

impl Default for HealthSettings {
    fn default() -> HealthSettings {
        HealthSettings {
            path: None,
            every: PROBE_EVERY,
            within: PROBE_WITHIN,
            failures: UNREACHED_COUNT,
            successes: PROBE_SUCCESSES,
            slow_start: SLOW_START,
        }
    }
}

/// Reads the section `health`, where there is one.
pub(super) fn health(parent: &mut Section<'_, '_>, report: &mut Report<'_>) -> Option<HealthSettings> {
    let mut section = parent.optional_section(report, "health")?;
    let default = HealthSettings::default();
    let path = section.optional(report, "path", value::probe_path);
    let mut seconds =
        |key, bounds, default| section.optional(report, key, value::some_seconds(bounds)).unwrap_or(default);
    let every = seconds("every_secs", 1..=3_600, default.every);
    let within = seconds("within_secs", 1..=60, default.within);
    let slow_start = seconds("slow_start_secs", 0..=3_600, default.slow_start);
    let mut count = |key, default| {
        let count = section.optional(report, key, value::count(ORIGIN_FAILURES_MAX));
        count.map_or(default, std::num::NonZeroU32::get)
    };
    let failures = count("failures", default.failures);
    let successes = count("successes", default.successes);
    section.finish(report);
    Some(HealthSettings { path, every, within, failures, successes, slow_start })
}
