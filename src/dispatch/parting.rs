//! When a role that ends takes leave of those who would stay: clients at rest, and requests that are held.
//!
//! Not of all at once: each of them comes back, with a handshake, to the same machine or to another. Each has
//! its own time by its number, and numbers that follow one another lie far apart and evenly
//! (multiples of the golden ratio), so that nothing is drawn and nothing need be remembered.

use std::time::{Duration, Instant};

use crate::limits;

/// A leave that began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parting {
    began: Instant,
    grace: Duration,
    /// Within which clients at rest are taken leave of.
    resting: Duration,
}

impl Parting {
    /// It begins now; requests have `grace` to end, and so many clients are there.
    pub fn new(now: Instant, grace: Duration, clients: u64) -> Parting {
        let at_pace = Duration::from_secs(clients) / limits::PARTINGS_PER_SECOND;
        let resting = at_pace.min(percent(grace, limits::PARTING_OF_RESTING_PERCENT));
        Parting { began: now, grace, resting }
    }

    /// When a client at rest is taken leave of, by its number. One that has asked nothing yet came just now, and has
    /// a request: it is given more time, for it would take the end of its connection for a failure.
    pub fn of_client(&self, number: u64, has_asked: bool) -> Instant {
        if has_asked {
            self.began + share(self.resting, number)
        } else {
            self.began + percent(self.grace, limits::PARTING_OF_RESTING_PERCENT)
        }
    }

    /// When a held request is ended, by a number of its client or its own.
    pub fn of_held(&self, number: u64) -> Instant {
        self.began + share(percent(self.grace, limits::PARTING_OF_HELD_PERCENT), number)
    }

    /// No client is at rest any more.
    pub fn rest_is_over(&self) -> Instant {
        self.began + percent(self.grace, limits::PARTING_OF_RESTING_PERCENT) + limits::LINGER_FOR
    }

    /// Nothing is waited for any more.
    pub fn is_over(&self) -> Instant {
        self.began + self.grace
    }
}

fn percent(of: Duration, percent: u32) -> Duration {
    of * percent / 100
}

/// A part of `of`, below it.
fn share(of: Duration, number: u64) -> Duration {
    let fraction = number.wrapping_mul(GOLDEN) >> 32;
    Duration::from_nanos(((of.as_nanos() * u128::from(fraction)) >> 32) as u64)
}

/// 2^64 by the golden ratio.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(10);

    fn after(parting: &Parting, at: Instant) -> Duration {
        at - parting.began
    }

    #[test]
    fn held_requests_end_evenly_over_the_grace_time() {
        let parting = Parting::new(Instant::now(), GRACE, 0);
        // Whatever the first number is: a thousand clients, a tenth of the time, each near a hundred.
        for first in [0, 17, 1 << 40, u64::MAX - 500] {
            let mut tenths = [0; 10];
            for number in 0..1_000u64 {
                let at = after(&parting, parting.of_held(first.wrapping_add(number)));
                assert!(at < Duration::from_secs(9), "{at:?}");
                tenths[(at.as_millis() / 900) as usize] += 1;
            }
            assert!(tenths.iter().all(|count| (90..=110).contains(count)), "{tenths:?}");
        }
    }

    #[test]
    fn clients_at_rest_go_at_a_pace_and_within_half_of_it() {
        let last = |clients| {
            let parting = Parting::new(Instant::now(), GRACE, clients);
            let all = (0..1_000).map(|number| after(&parting, parting.of_client(number, true)));
            all.max().unwrap_or_default().as_millis()
        };
        assert!(last(2) <= 1, "a few go at once");
        assert!((990..=1_000).contains(&last(2_000)), "{}", last(2_000));
        assert!((4_950..=5_000).contains(&last(1_000_000)), "{}", last(1_000_000));
    }

    #[test]
    fn who_has_asked_nothing_yet_has_time_for_it() {
        let parting = Parting::new(Instant::now(), GRACE, 10);
        assert_eq!(after(&parting, parting.of_client(3, false)), GRACE / 2);
        assert!(parting.of_client(3, false) < parting.rest_is_over());
        assert_eq!(after(&parting, parting.is_over()), GRACE);
    }
}
