//! How many requests somebody may have under way at once, and how fast they may come.
//!
//! Pure: time comes in, as nanoseconds since whatever moment the caller likes. The rate is held by the generic
//! cell rate algorithm (ITU-T I.371, annex A): of whoever asks one number is kept, the moment at which a bucket
//! that empties at the rate will be empty.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::limits::{RATE_BURST_MAX, RATE_COUNT_MAX, REQUESTS_BOUND_MAX};

/// In which time a number of requests is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Per {
    /// `/s`
    Second,
    /// `/min`
    Minute,
    /// `/h`
    Hour,
}

impl Per {
    /// Every unit with its name in settings.
    pub const ALL: [(Per, &'static str); 3] = [(Per::Second, "s"), (Per::Minute, "min"), (Per::Hour, "h")];

    /// How long it is.
    pub const fn time(self) -> Duration {
        Duration::from_secs(match self {
            Per::Second => 1,
            Per::Minute => 60,
            Per::Hour => 3_600,
        })
    }

    fn name(self) -> &'static str {
        Per::ALL.iter().find(|(per, _)| *per == self).map_or("", |(_, name)| name)
    }
}

/// So many requests in so much time, and so many at once by whoever asked nothing for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Requests.
    pub count: NonZeroU32,
    /// In this time.
    pub per: Per,
    /// Requests at once.
    pub burst: NonZeroU32,
}

impl Rate {
    /// Nanoseconds between two requests that come as fast as they may for ever: what one puts into the bucket.
    pub fn interval(&self) -> u64 {
        (self.per.time().as_nanos() as u64 / u64::from(self.count.get())).max(1)
    }

    /// Puts a request that comes at `now` into a bucket that would be empty at `empty_at`; gives when it will be
    /// then.
    ///
    /// # Errors
    /// There is no room before this time has passed.
    pub fn next(&self, empty_at: u64, now: u64) -> Result<u64, Duration> {
        let from = empty_at.max(now);
        match (from - now).checked_sub(self.ahead_max()) {
            None | Some(0) => Ok(from.saturating_add(self.interval())),
            Some(wait) => Err(Duration::from_nanos(wait)),
        }
    }

    /// When a bucket that is full at `now` will be empty; one that would be so later was filled at another rate.
    pub fn full(&self, now: u64) -> u64 {
        now.saturating_add(self.ahead_max()).saturating_add(self.interval())
    }

    /// By so much the moment at which the bucket is empty may be ahead for one more request.
    fn ahead_max(&self) -> u64 {
        self.interval().saturating_mul(u64::from(self.burst.get()) - 1)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} with a burst of {}", self.count, self.per.name(), self.burst)
    }
}

/// What somebody may; `None` is not bounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestBounds {
    /// Requests under way at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_max: Option<NonZeroU32>,
    /// How fast they may come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
}

impl RequestBounds {
    /// Whether nothing is bounded.
    pub fn is_empty(&self) -> bool {
        *self == RequestBounds::default()
    }

    /// Whether every number is one that settings can name.
    pub fn is_bounded(&self) -> bool {
        let is_rate = |rate: Rate| rate.count.get() <= RATE_COUNT_MAX && rate.burst.get() <= RATE_BURST_MAX;
        self.rate.is_none_or(is_rate) && self.requests_max.is_none_or(|most| most.get() <= REQUESTS_BOUND_MAX)
    }
}

/// Why a request is not allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excess {
    /// So many are under way, of so many that may be.
    Requests(u32, NonZeroU32),
    /// They come faster; the next may come after this time.
    Rate(Rate, Duration),
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Excess::Requests(found, most) => {
                write!(f, "{found} requests are under way; {most} at most may be")
            }
            Excess::Rate(rate, _) => write!(f, "requests come faster than {rate}"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MILLISECOND: u64 = 1_000_000;

    fn rate(count: u32, per: Per, burst: u32) -> Rate {
        let whole = |number| NonZeroU32::new(number).unwrap();
        Rate { count: whole(count), per, burst: whole(burst) }
    }

    /// Of requests at these moments, those that are taken.
    fn taken(rate: Rate, moments: impl IntoIterator<Item = u64>) -> Vec<u64> {
        let mut empty_at = 0;
        let is_taken = |now: &u64| {
            let next = rate.next(empty_at, *now);
            empty_at = next.unwrap_or(empty_at);
            next.is_ok()
        };
        moments.into_iter().filter(is_taken).collect()
    }

    #[test]
    fn a_burst_goes_and_then_the_rate() {
        let found = taken(rate(10, Per::Second, 3), (0..=400).map(|at| at * MILLISECOND));
        let expected = [0, 1, 2, 100, 200, 300, 400].map(|at| at * MILLISECOND);
        assert_eq!(found, expected);
    }

    #[test]
    fn who_asked_nothing_for_a_while_has_a_burst_and_no_more() {
        let hour = Per::Hour.time().as_nanos() as u64;
        let found = taken(rate(60, Per::Hour, 2), [0, 0, 0, hour, hour, hour]);
        assert_eq!(found, [0, 0, hour, hour]);
    }

    #[test]
    fn who_waits_as_long_as_he_was_told_is_taken() {
        let slow = rate(60, Per::Hour, 2);
        let minute = Per::Minute.time();
        let full = slow.next(slow.next(0, 0).unwrap(), 0).unwrap();
        assert_eq!(slow.next(full, 0), Err(minute));
        assert_eq!(slow.next(full, MILLISECOND), Err(minute - Duration::from_millis(1)));
        assert!(slow.next(full, minute.as_nanos() as u64).is_ok());
    }

    #[test]
    fn published_bounds_are_read_back_and_unknown_members_are_not() {
        let both = RequestBounds { requests_max: NonZeroU32::new(3), rate: Some(rate(20, Per::Minute, 5)) };
        let text = serde_json::to_string(&both).unwrap();
        assert_eq!(text, r#"{"requests_max":3,"rate":{"count":20,"per":"minute","burst":5}}"#);
        assert_eq!(serde_json::from_str::<RequestBounds>(&text).unwrap(), both);
        let wrong =
            [r#"{"requests_max":0}"#, r#"{"rate":{"count":0,"per":"minute","burst":5}}"#, r#"{"x":1}"#];
        for text in wrong {
            assert!(serde_json::from_str::<RequestBounds>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_settings_cannot_name_is_not_bounded() {
        let of =
            |requests_max: u32, rate| RequestBounds { requests_max: NonZeroU32::new(requests_max), rate };
        assert!(of(0, None).is_bounded());
        assert!(of(REQUESTS_BOUND_MAX, Some(rate(RATE_COUNT_MAX, Per::Hour, RATE_BURST_MAX))).is_bounded());
        assert!(!of(REQUESTS_BOUND_MAX + 1, None).is_bounded());
        assert!(!of(0, Some(rate(RATE_COUNT_MAX + 1, Per::Hour, 1))).is_bounded());
        assert!(!of(0, Some(rate(1, Per::Hour, RATE_BURST_MAX + 1))).is_bounded());
    }

    proptest! {
        #[test]
        fn in_no_window_go_more_than_its_rate_and_a_burst(
            count in 1_u32..2_000,
            burst in 1_u32..50,
            mut moments in prop::collection::vec(0_u64..5_000 * MILLISECOND, 1..400),
        ) {
            moments.sort_unstable();
            let rate = rate(count, Per::Second, burst);
            let found = taken(rate, moments);
            for (at, from) in found.iter().enumerate() {
                for (more, to) in found[at..].iter().enumerate() {
                    prop_assert!((more as u64) < (to - from) / rate.interval() + u64::from(burst));
                }
            }
        }

        #[test]
        fn whoever_keeps_to_the_rate_is_never_refused(
            count in 1_u32..2_000,
            burst in 1_u32..50,
            start in 0_u64..u64::MAX / 4,
        ) {
            let rate = rate(count, Per::Second, burst);
            let moments: Vec<_> = (0..200).map(|number| start + number * rate.interval()).collect();
            prop_assert_eq!(taken(rate, moments.iter().copied()), moments);
        }

        #[test]
        fn no_number_makes_it_panic(
            count in 1_u32..,
            burst in 1_u32..,
            moments in prop::collection::vec(any::<u64>(), 1..40),
        ) {
            let _ = taken(rate(count, Per::Hour, burst), moments);
        }
    }
}
