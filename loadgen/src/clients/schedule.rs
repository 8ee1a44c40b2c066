//! When requests are planned to start (open loop), whatever became of those before.
//!
//! Pure: a rate, a seed and the moment it begins give planned starts. A rate is split over threads so that all together
//! keep it: with constant arrivals each thread takes its turn, with random ones each has a stream of its own.

use crate::random::Random;
use std::time::{Duration, Instant};

/// How planned starts follow one another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Arrivals {
    /// Always the same time apart.
    #[default]
    Constant,
    /// Independently, as many clients that know nothing of one another come: exponential times between them.
    Poisson,
}

/// The planned starts of one thread.
#[derive(Clone, Debug)]
pub struct Schedule {
    arrivals: Arrivals,
    /// Nanoseconds between two starts of this thread.
    interval: f64,
    /// Nanoseconds from the beginning to its first start.
    offset: f64,
    begin: Option<Instant>,
    /// Starts taken.
    taken: u64,
    /// Starts left; `u64::MAX` for no end.
    left: u64,
    /// Nanoseconds from the beginning to the next start.
    next: f64,
    random: Random,
}

impl Schedule {
    /// Thread `index` of `threads` with its part of `rate` per second, `left` starts long.
    pub fn new(rate: f64, arrivals: Arrivals, (index, threads): (u16, u16), seed: u64, left: u64) -> Self {
        let mut random = Random::new(seed, u64::from(index));
        let interval = 1e9 / rate * f64::from(threads);
        let offset = match arrivals {
            Arrivals::Constant => 1e9 / rate * f64::from(index),
            Arrivals::Poisson => interval * random.exponential(),
        };
        Self { arrivals, interval, offset, begin: None, taken: 0, left, next: offset, random }
    }

    /// It begins now; once.
    pub fn begin(&mut self, now: Instant) {
        self.begin.get_or_insert(now);
    }

    /// Nothing more starts.
    pub fn end(&mut self) {
        self.left = 0;
    }

    /// Whether more is to start.
    pub fn has_more(&self) -> bool {
        self.left > 0
    }

    /// When the next start is planned; `None` before the beginning and after the last one.
    pub fn next(&self) -> Option<Instant> {
        let begin = self.begin.filter(|_| self.left > 0)?;
        Some(begin + Duration::from_nanos(self.next as u64))
    }

    /// Takes the next start, when it is due.
    pub fn take(&mut self, now: Instant) -> Option<Instant> {
        let planned = self.next().filter(|planned| *planned <= now)?;
        self.taken += 1;
        self.left = if self.left == u64::MAX { u64::MAX } else { self.left - 1 };
        self.next = match self.arrivals {
            // From the beginning each time: sums of rounded intervals would drift.
            Arrivals::Constant => self.offset + self.taken as f64 * self.interval,
            Arrivals::Poisson => self.next + self.interval * self.random.exponential(),
        };
        Some(planned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// All starts of all threads up to `until`, in nanoseconds from the beginning.
    fn starts(rate: f64, arrivals: Arrivals, threads: u16, seed: u64, until: Duration) -> Vec<u128> {
        let begin = Instant::now();
        let mut all = Vec::new();
        for index in 0..threads {
            let mut schedule = Schedule::new(rate, arrivals, (index, threads), seed, u64::MAX);
            schedule.begin(begin);
            while let Some(planned) = schedule.take(begin + until) {
                all.push((planned - begin).as_nanos());
            }
        }
        all.sort_unstable();
        all
    }

    #[test]
    fn threads_take_turns_at_a_constant_rate() {
        let all = starts(1000.0, Arrivals::Constant, 3, 0, Duration::from_micros(9_500));
        assert_eq!(all, (0..10).map(|index| index * 1_000_000).collect::<Vec<u128>>());
    }

    #[test]
    fn a_constant_rate_does_not_drift() {
        let all = starts(30_000.0, Arrivals::Constant, 2, 0, Duration::from_secs(100));
        assert_eq!(all.len(), 3_000_001);
        assert_eq!(all.last(), Some(&100_000_000_000));
    }

    proptest! {
        #[test]
        fn random_starts_keep_the_rate_and_come_again_with_their_seed(seed: u64, threads in 1u16..5) {
            let all = starts(1000.0, Arrivals::Poisson, threads, seed, Duration::from_secs(10));
            // The deviation of 10,000 is 100: six of them never come by chance.
            prop_assert!((9_400..10_600).contains(&all.len()), "{}", all.len());
            prop_assert_eq!(&all, &starts(1000.0, Arrivals::Poisson, threads, seed, Duration::from_secs(10)));
            let other = starts(1000.0, Arrivals::Poisson, threads, seed ^ 1, Duration::from_secs(10));
            prop_assert_ne!(&all, &other);
        }
    }

    #[test]
    fn nothing_starts_before_its_time_or_after_the_last() {
        let now = Instant::now();
        let mut schedule = Schedule::new(10.0, Arrivals::Constant, (0, 1), 0, 2);
        assert_eq!((schedule.next(), schedule.take(now)), (None, None));
        schedule.begin(now);
        assert_eq!(schedule.take(now), Some(now));
        let second = now + Duration::from_millis(100);
        assert_eq!((schedule.take(now), schedule.next()), (None, Some(second)));
        assert_eq!(
            schedule.take(now + Duration::from_secs(5)),
            Some(second),
            "late, and still of its planned time"
        );
        assert!(!schedule.has_more());
        assert_eq!(schedule.next(), None);
    }
}
