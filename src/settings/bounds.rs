//! How many requests may be under way and how fast they may come, as settings say it.

use std::num::NonZeroU32;
use std::time::Duration;

use super::document::Section;
use super::report::Report;
use super::value;
use crate::dispatch::{Rate, RequestBounds};
use crate::limits::{RATE_BURST_MAX, REQUESTS_BOUND_MAX};
use crate::mapping::EndpointBounds;

/// Names of the keys of one [`RequestBounds`].
pub(super) struct Keys {
    requests_max: &'static str,
    rate: &'static str,
    burst: &'static str,
}

/// Of whoever comes.
const ALL: Keys = Keys { requests_max: "requests_max", rate: "rate", burst: "burst" };
/// Of each client.
pub(super) const EACH: Keys =
    Keys { requests_max: "client_requests_max", rate: "client_rate", burst: "client_burst" };

/// Reads the section `limits` of an endpoint, where there is one.
pub(super) fn endpoint_bounds(parent: &mut Section<'_, '_>, report: &mut Report<'_>) -> EndpointBounds {
    let Some(mut section) = parent.optional_section(report, "limits") else {
        return EndpointBounds::default();
    };
    let all = request_bounds(&mut section, report, &ALL);
    let each = request_bounds(&mut section, report, &EACH);
    section.finish(report);
    EndpointBounds { all, each }
}

/// Reads the keys of one [`RequestBounds`].
pub(super) fn request_bounds(
    section: &mut Section<'_, '_>,
    report: &mut Report<'_>,
    keys: &Keys,
) -> RequestBounds {
    let requests_max = section.optional(report, keys.requests_max, value::count(REQUESTS_BOUND_MAX));
    let rate = section.optional(report, keys.rate, value::rate);
    let burst = section.optional(report, keys.burst, value::count(RATE_BURST_MAX));
    if burst.is_some() && !section.has(keys.rate) {
        let found = format!("a burst without {}", keys.rate);
        let expected = format!("{} beside it, like \"20/s\"", keys.rate);
        report.add(section.key(keys.burst), section.place(keys.burst), found, expected);
    }
    let rate = rate.map(|(count, per)| {
        let usual = u64::from(count.get()) * BURST_OF.as_secs() / per.time().as_secs();
        let usual = usual.clamp(BURST_MIN, RATE_BURST_MAX.into()) as u32;
        let usual = NonZeroU32::new(usual).unwrap_or(NonZeroU32::MIN);
        Rate { count, per, burst: burst.unwrap_or(usual) }
    });
    RequestBounds { requests_max, rate }
}

/// A burst, where none is written, is what comes in this time at the rate, and no less than what a client asks at
/// its start, which is some dozens.
const BURST_OF: Duration = Duration::from_secs(10);
const BURST_MIN: u64 = 50;
