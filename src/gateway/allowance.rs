//! What somebody has used of what he may, in cells that the shards share: each changes them without waiting for
//! another. The arithmetic is that of `dispatch::Rate`.

use std::collections::HashMap;
use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::dispatch::{Excess, RequestBounds};
use crate::limits::ALLOWANCE_SWEEP_EVERY;

/// See the file's head. Times are nanoseconds since a moment that all of a process agree on.
#[derive(Debug, Default)]
pub struct Allowance {
    /// When the bucket of the rate would be empty.
    empty_at: AtomicU64,
    under_way: AtomicU32,
}

impl Allowance {
    /// Takes up one request that comes at `now`: to be given back at its end, or undone.
    ///
    /// # Errors
    /// Which bound is in the way; nothing was used then.
    pub fn take(&self, bounds: &RequestBounds, now: u64) -> Result<(), Excess> {
        let most = bounds.requests_max.unwrap_or(NonZeroU32::MAX);
        let more = |count: u32| (count < most.get()).then(|| count + 1);
        let taken = self.under_way.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.map_err(|found| Excess::Requests(found, most))?;
        let Some(rate) = bounds.rate else { return Ok(()) };
        // What was used under a slower rate, before settings changed, is not owed under this one.
        let full = rate.full(now).saturating_add(CLOCKS_APART);
        let mut empty_at = self.empty_at.load(Ordering::Relaxed);
        if empty_at > full {
            empty_at = self.empty_at.fetch_min(full, Ordering::Relaxed).min(full);
        }
        loop {
            let next = rate.next(empty_at, now).map_err(|wait| {
                self.give_back();
                Excess::Rate(rate, wait)
            })?;
            let swapped =
                self.empty_at.compare_exchange_weak(empty_at, next, Ordering::Relaxed, Ordering::Relaxed);
            match swapped {
                Ok(_) => return Ok(()),
                Err(other) => empty_at = other,
            }
        }
    }

    /// A request that was taken up has ended.
    pub fn give_back(&self) {
        self.under_way.fetch_sub(1, Ordering::Relaxed);
    }

    /// A request that was taken up under `bounds` does not come after all: as if it had never been.
    pub fn undo(&self, bounds: &RequestBounds) {
        self.give_back();
        if let Some(rate) = bounds.rate {
            let less = |empty_at: u64| Some(empty_at.saturating_sub(rate.interval()));
            let _ = self.empty_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
    }

    /// Whether it tells no more than a new one would.
    fn is_unused(&mut self, now: u64) -> bool {
        *self.under_way.get_mut() == 0 && *self.empty_at.get_mut() <= now
    }
}

/// The allowances of many: each is there as long as it tells anything.
#[derive(Debug)]
pub struct Allowances<K> {
    held: HashMap<K, Arc<Allowance>>,
    count_max: usize,
    /// When it may be looked through again for what can be forgotten.
    sweep_at: u64,
}

impl<K: Eq + Hash> Allowances<K> {
    /// Of `count_max` at most.
    pub fn new(count_max: usize) -> Allowances<K> {
        Allowances { held: HashMap::new(), count_max, sweep_at: 0 }
    }

    /// Somebody's; `None`: there is no room for one more, for all the others are in use.
    pub fn of(&mut self, key: K, now: u64) -> Option<Arc<Allowance>> {
        if let Some(known) = self.held.get(&key) {
            return Some(known.clone());
        }
        if self.held.len() >= self.count_max && now >= self.sweep_at {
            self.sweep_at = now + ALLOWANCE_SWEEP_EVERY.as_nanos() as u64;
            // One that somebody else holds is in use.
            self.held.retain(|_, one| Arc::get_mut(one).is_none_or(|one| !one.is_unused(now)));
        }
        if self.held.len() >= self.count_max {
            return None;
        }
        Some(self.held.entry(key).or_default().clone())
    }
}

/// The time of a turn differs between shards; by less than so many nanoseconds.
const CLOCKS_APART: u64 = 1_000_000_000;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::thread;

    use super::*;
    use crate::dispatch::{Per, Rate};

    const SECOND: u64 = 1_000_000_000;

    fn bounds(requests_max: u32, rate: Option<(u32, Per, u32)>) -> RequestBounds {
        let whole = |number| NonZeroU32::new(number).unwrap();
        RequestBounds {
            requests_max: NonZeroU32::new(requests_max),
            rate: rate.map(|(count, per, burst)| Rate { count: whole(count), per, burst: whole(burst) }),
        }
    }

    #[test]
    fn so_many_are_under_way_and_one_that_ended_makes_room() {
        let two = bounds(2, None);
        let allowance = Allowance::default();
        assert_eq!([0; 3].map(|now| allowance.take(&two, now).is_ok()), [true, true, false]);
        allowance.give_back();
        assert!(allowance.take(&two, 0).is_ok());
        let text = allowance.take(&bounds(1, None), 0).unwrap_err().to_string();
        assert_eq!(text, "2 requests are under way; 1 at most may be");
    }

    #[test]
    fn one_that_is_refused_or_undone_has_used_nothing() {
        let both = bounds(1, Some((1, Per::Minute, 2)));
        let mut allowance = Allowance::default();
        assert!(allowance.take(&both, 0).is_ok());
        assert!(matches!(allowance.take(&both, 0), Err(Excess::Requests(1, _))));
        allowance.undo(&both);
        assert!(allowance.is_unused(0));
        for _ in 0..2 {
            assert!(allowance.take(&both, 0).is_ok());
            allowance.give_back();
        }
        for _ in 0..3 {
            let text = allowance.take(&both, 0).unwrap_err().to_string();
            assert_eq!(text, "requests come faster than 1/min with a burst of 2");
        }
        assert!(!allowance.is_unused(119 * SECOND) && allowance.is_unused(120 * SECOND));
    }

    #[test]
    fn what_was_used_under_a_slower_rate_is_not_owed_under_a_faster_one() {
        let (slow, fast) = (bounds(0, Some((1, Per::Hour, 50))), bounds(0, Some((1_000, Per::Second, 10))));
        let allowance = Allowance::default();
        (0..50).for_each(|_| allowance.take(&slow, 0).unwrap());
        assert!(allowance.take(&slow, 0).is_err());
        let Err(Excess::Rate(_, wait)) = allowance.take(&fast, 0) else { panic!("full at first") };
        assert!(wait.as_nanos() <= u128::from(CLOCKS_APART + SECOND / 1_000), "{wait:?}");
        assert!(allowance.take(&fast, wait.as_nanos() as u64).is_ok());
    }

    #[test]
    fn shards_together_take_no_more_than_one_would() {
        let (allowance, bounds) = (Allowance::default(), bounds(3, Some((1, Per::Hour, 1_000))));
        let taken: u32 = thread::scope(|scope| {
            let worker = || {
                let take = |_| {
                    let is_taken = allowance.take(&bounds, 0).is_ok();
                    if is_taken {
                        assert!(allowance.under_way.load(Ordering::Relaxed) <= 3);
                        allowance.give_back();
                    }
                    u32::from(is_taken)
                };
                (0..100_000).map(take).sum::<u32>()
            };
            let workers: Vec<_> = (0..4).map(|_| scope.spawn(worker)).collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).sum()
        });
        assert_eq!(taken, 1_000);
        assert_eq!(allowance.under_way.into_inner(), 0);
    }

    #[test]
    fn what_is_in_use_is_kept_and_the_rest_makes_room() {
        let one = bounds(0, Some((1, Per::Second, 1)));
        let mut known = Allowances::new(2);
        let held = known.of("held", 0).unwrap();
        known.of("rated", 0).unwrap().take(&one, 0).unwrap();
        known.of("rated", 0).unwrap().give_back();
        assert!(known.of("new", 0).is_none(), "both tell something");
        assert!(known.of("new", SECOND).is_some(), "the bucket of one is empty again");
        assert!(Arc::ptr_eq(&held, &known.of("held", SECOND).unwrap()));
        assert!(known.of("another", SECOND).is_none(), "it was just looked through");
        drop(held);
        assert!(known.of("another", 2 * SECOND).is_some());
    }
}
