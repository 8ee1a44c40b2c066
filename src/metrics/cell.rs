//! Cells that one thread writes and any other may read: plain loads and stores, no locked instruction.
//!
//! A second writer would lose counts (never more than that), so each shard has its own.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Counts up, for ever.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// So many more.
    #[inline]
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    /// Takes over what was counted elsewhere.
    pub fn set(&self, count: u64) {
        self.0.store(count, Ordering::Relaxed);
    }

    /// How many until now.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How many there are now, and how many there ever were at once, ever and since a reader began to look.
#[derive(Debug, Default)]
pub struct Gauge {
    now: AtomicU64,
    /// Before the window.
    most: AtomicU64,
    most_of_window: AtomicU64,
    /// A reader wants a window to begin: the one thing a reader writes.
    begins: AtomicBool,
}

impl Gauge {
    /// One more.
    #[inline]
    pub fn rise(&self) {
        let now = self.now.load(Ordering::Relaxed).wrapping_add(1);
        self.now.store(now, Ordering::Relaxed);
        if self.begins.load(Ordering::Relaxed) {
            self.begin_with(now);
        } else if now > self.most_of_window.load(Ordering::Relaxed) {
            self.most_of_window.store(now, Ordering::Relaxed);
        }
    }

    /// One less.
    #[inline]
    pub fn fall(&self) {
        let now = self.now.load(Ordering::Relaxed);
        if self.begins.load(Ordering::Relaxed) {
            self.begin_with(now);
        }
        self.now.store(now.saturating_sub(1), Ordering::Relaxed);
    }

    /// The writer begins the window that a reader wants, with so many.
    #[cold]
    fn begin_with(&self, now: u64) {
        self.most.store(self.most(), Ordering::Relaxed);
        self.most_of_window.store(now, Ordering::Relaxed);
        self.begins.store(false, Ordering::Relaxed);
    }

    /// How many there are.
    pub fn now(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    /// The greatest number there ever was.
    pub fn most(&self) -> u64 {
        self.most.load(Ordering::Relaxed).max(self.most_of_window.load(Ordering::Relaxed))
    }

    /// The greatest number since [`begin_window`](Gauge::begin_window), those that there were then included.
    pub fn most_of_window(&self) -> u64 {
        let now = self.now();
        if self.begins.load(Ordering::Relaxed) {
            now
        } else {
            self.most_of_window.load(Ordering::Relaxed).max(now)
        }
    }

    /// By a reader, one thread at a time: a window begins.
    pub fn begin_window(&self) {
        self.begins.store(true, Ordering::Relaxed);
    }
}

/// Upper bounds of a [`Histogram`]'s buckets, in microseconds: 1 ms to 60 s, about two to a factor of
/// five. Faster than 1 ms is faster than a client on the internet can see; it waits no longer than 60 s.
pub const BUCKETS: [u64; 15] = [
    1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000, 30_000_000, 60_000_000,
];

/// How long things took.
#[derive(Debug, Default)]
pub struct Histogram {
    /// The last: longer than every bound.
    buckets: [Counter; BUCKETS.len() + 1],
    micros: Counter,
}

impl Histogram {
    /// Something took so long.
    #[inline]
    pub fn observe(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        // Counting instead of searching: no branch depends on the time.
        let bucket: usize = BUCKETS.iter().map(|bound| usize::from(micros > *bound)).sum();
        self.buckets[bucket].add(1);
        self.micros.add(micros);
    }

    /// Adds what was observed to `sum`.
    pub fn add_to(&self, sum: &mut Distribution) {
        for (sum, bucket) in sum.counts.iter_mut().zip(&self.buckets) {
            *sum += bucket.count();
        }
        sum.micros = sum.micros.wrapping_add(self.micros.count());
    }
}

/// What histograms of several shards hold together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    /// By bucket, each for itself.
    pub counts: [u64; BUCKETS.len() + 1],
    /// All together.
    pub micros: u64,
}

impl Distribution {
    /// The sum of these.
    pub fn of<'h>(histograms: impl IntoIterator<Item = &'h Histogram>) -> Distribution {
        let mut sum = Distribution::default();
        histograms.into_iter().for_each(|one| one.add_to(&mut sum));
        sum
    }

    /// How many were observed.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gauge_tells_the_greatest_number_of_a_window_and_that_of_all() {
        let gauge = Gauge::default();
        (0..5).for_each(|_| gauge.rise());
        (0..3).for_each(|_| gauge.fall());
        gauge.begin_window();
        assert_eq!((gauge.most_of_window(), gauge.most()), (2, 5), "those that were there count");
        gauge.rise();
        gauge.fall();
        gauge.fall();
        assert_eq!((gauge.most_of_window(), gauge.most()), (3, 5));
        gauge.begin_window();
        gauge.fall();
        assert_eq!(gauge.most_of_window(), 1, "who leaves was there when it began");
        (0..9).for_each(|_| gauge.rise());
        assert_eq!((gauge.most_of_window(), gauge.most()), (9, 9));
    }

    #[test]
    fn a_gauge_remembers_the_greatest_number() {
        let gauge = Gauge::default();
        for _ in 0..3 {
            gauge.rise();
        }
        gauge.fall();
        gauge.rise();
        gauge.fall();
        gauge.fall();
        assert_eq!((gauge.now(), gauge.most()), (1, 3));
        gauge.fall();
        gauge.fall();
        assert_eq!(gauge.now(), 0, "never below nothing");
    }

    #[test]
    fn a_time_falls_into_the_first_bucket_that_holds_it() {
        let rows =
            [(0, 0), (999, 0), (1_000, 0), (1_001, 1), (60_000_000, 14), (60_000_001, 15), (u64::MAX, 15)];
        for (micros, bucket) in rows {
            let histogram = Histogram::default();
            histogram.observe(Duration::from_micros(micros));
            let seen = Distribution::of([&histogram]);
            assert_eq!(seen.counts[bucket], 1, "{micros}");
            assert_eq!((seen.count(), seen.micros), (1, micros));
        }
        assert!(BUCKETS.is_sorted());
    }

    #[test]
    fn histograms_of_shards_add_up() {
        let (one, other) = (Histogram::default(), Histogram::default());
        one.observe(Duration::from_millis(3));
        other.observe(Duration::from_millis(4));
        other.observe(Duration::from_secs(100));
        let sum = Distribution::of([&one, &other]);
        assert_eq!((sum.counts[2], sum.counts[15], sum.count()), (2, 1, 3));
        assert_eq!(sum.micros, 100_007_000);
    }

    #[test]
    fn a_reader_beside_the_writer_sees_counts_that_only_grow() {
        let counter = std::sync::Arc::new(Counter::default());
        let seen = counter.clone();
        let reader = std::thread::spawn(move || {
            let mut last = 0;
            while last < 100_000 {
                let now = seen.count();
                assert!(now >= last);
                last = now;
            }
        });
        for _ in 0..100_000 {
            counter.add(1);
        }
        reader.join().unwrap();
    }
}
