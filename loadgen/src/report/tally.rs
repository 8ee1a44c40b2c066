//! What one thread counts while it works: sums for the whole run, and a histogram for each second of it.
//!
//! Recording an answer is a few array writes. A second that is over is handed to the main thread as it is, through
//! [`Interval`]s; what it becomes there is `report/timeline.rs`'s.

use super::drive::Punctuality;
use super::failures::Failures;
use super::interval::{Events, Interval};
use super::journal::Journal;
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::time::Duration;

/// Longest time a histogram tells apart, in microseconds.
pub const TIME_MAX_MICROS: u64 = 3_600_000_000;
/// Significant digits of the histograms of the whole run and of its seconds.
const DIGITS: u8 = 3;
/// Significant digits of the histogram of one named step: there may be a hundred of them in every thread.
const STEP_DIGITS: u8 = 2;
/// Statuses are three digits.
const STATUS_MAX: usize = 1000;

/// What one thread counted.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Right answers.
    pub answers: u64,
    /// Connections made, TLS included.
    pub connects: u64,
    /// What failed.
    pub failures: Failures,
    /// What the first failure said.
    pub first_failure: Option<String>,
    /// Connections the server closed with nothing asked.
    pub closed_idle: u64,
    /// Requests the server closed unread: asked on a connection at rest that ended at once without a byte.
    pub closed_unread: u64,
    /// Bytes received, as on the wire.
    pub received: u64,
    /// Bytes sent, as on the wire.
    pub sent: u64,
    /// From asking to the last byte, of measured requests, in microseconds.
    pub latency: Histogram<u64>,
    /// From connecting to ready, in microseconds.
    pub handshake: Histogram<u64>,
    /// Connections among `connects` that resumed a TLS session.
    pub resumed: u64,
    /// Of planned starts.
    pub punctuality: Punctuality,
    /// The same as `latency` for each named step; nothing when there is only one.
    pub steps: Vec<Histogram<u32>>,
    /// Right answers by status, at the index of the status.
    pub statuses: Box<[u64]>,
    /// What happened one by one; off unless it was asked for.
    pub journal: Journal,
    /// Whether answers are of the measured time.
    is_measuring: bool,
    /// What of this second is not measured, and what is: both may come in turns around the edges of the measured time.
    intervals: [Interval; 2],
    finished: Vec<Interval>,
    interval_end: Duration,
    told: Told,
}

/// What of the sums is already in an interval.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    failures: u64,
    connects: u64,
    closed_unread: u64,
}

impl Default for Tally {
    fn default() -> Self {
        Self::new(1)
    }
}

impl Tally {
    /// Nothing counted yet, of requests with so many named steps.
    pub fn new(steps: usize) -> Self {
        let step_times = || {
            Histogram::new_with_max(TIME_MAX_MICROS, STEP_DIGITS)
                .expect("two digits up to an hour are valid bounds")
        };
        Self {
            answers: 0,
            connects: 0,
            failures: Failures::default(),
            first_failure: None,
            closed_idle: 0,
            closed_unread: 0,
            received: 0,
            sent: 0,
            latency: times(),
            handshake: times(),
            resumed: 0,
            punctuality: Punctuality::default(),
            steps: if steps > 1 { (0..steps).map(|_| step_times()).collect() } else { Vec::new() },
            statuses: vec![0; STATUS_MAX].into(),
            journal: Journal::default(),
            is_measuring: false,
            intervals: [false, true].map(|is_measured| Interval {
                second: 0,
                is_measured,
                latency: times(),
                events: Events::default(),
            }),
            finished: Vec::new(),
            interval_end: Interval::LENGTH,
            told: Told::default(),
        }
    }

    /// From now on answers are of the measured time, or no longer.
    pub fn set_measuring(&mut self, is_measuring: bool) {
        self.is_measuring = is_measuring;
    }

    /// A right answer came `at` that time since the start of the run, `latency` after it was asked or planned.
    pub fn answered(&mut self, at: Duration, latency: Duration, step: u16, status: u16) {
        if at >= self.interval_end {
            self.roll(at);
        }
        let micros = micros(latency);
        self.answers += 1;
        self.intervals[usize::from(self.is_measuring)].latency.saturating_record(micros);
        if let Some(count) = self.statuses.get_mut(usize::from(status)) {
            *count += 1;
        }
        if self.is_measuring {
            self.latency.saturating_record(micros);
            if let Some(times) = self.steps.get_mut(usize::from(step)) {
                times.saturating_record(micros);
            }
        }
    }

    /// A connection is ready, `time` after it was begun.
    pub fn connected(&mut self, time: Duration) {
        self.connects += 1;
        self.handshake.saturating_record(micros(time));
    }

    /// Says what else happened until `at`, with so many connections open, and takes the seconds that are over. To be
    /// called about once in each turn of the thread.
    pub fn tell(&mut self, at: Duration, open: u64) -> impl Iterator<Item = Interval> {
        if at >= self.interval_end {
            self.roll(at);
        }
        let now = Told {
            failures: self.failures.all(),
            connects: self.connects,
            closed_unread: self.closed_unread,
        };
        let events = &mut self.intervals[usize::from(self.is_measuring)].events;
        events.failures += now.failures - self.told.failures;
        events.connects += now.connects - self.told.connects;
        events.closed_unread += now.closed_unread - self.told.closed_unread;
        events.open = open;
        self.told = now;
        self.finished.drain(..)
    }

    /// Takes the second that is not over yet; the last thing a thread does.
    pub fn take_last(&mut self) -> impl Iterator<Item = Interval> {
        self.roll(Duration::ZERO);
        self.finished.drain(..)
    }

    /// Ends the second, and begins the one that `at` falls into.
    fn roll(&mut self, at: Duration) {
        self.interval_end = Duration::from_secs(at.as_secs()) + Interval::LENGTH;
        for interval in &mut self.intervals {
            if interval.latency.is_empty() && interval.events == Events::default() {
                interval.second = at.as_secs();
                continue;
            }
            let next = Interval {
                second: at.as_secs(),
                is_measured: interval.is_measured,
                latency: times(),
                events: Events::default(),
            };
            self.finished.push(std::mem::replace(interval, next));
        }
    }

    /// Right answers by status.
    pub fn right_statuses(&self) -> BTreeMap<u16, u64> {
        let counts = (0u16..).zip(self.statuses.iter().copied());
        counts.filter(|(_, count)| *count > 0).collect()
    }

    /// Takes in what another thread counted; intervals go their own way.
    pub fn add(&mut self, other: &Self) {
        self.answers += other.answers;
        self.connects += other.connects;
        self.failures.add(&other.failures);
        self.first_failure = self.first_failure.take().or_else(|| other.first_failure.clone());
        self.closed_idle += other.closed_idle;
        self.closed_unread += other.closed_unread;
        self.received += other.received;
        self.sent += other.sent;
        self.latency += &other.latency;
        self.handshake += &other.handshake;
        self.resumed += other.resumed;
        self.punctuality.add(&other.punctuality);
        self.journal.add(&other.journal);
        for (mine, its) in self.steps.iter_mut().zip(&other.steps) {
            *mine += its;
        }
        for its in other.steps.iter().skip(self.steps.len()) {
            self.steps.push(its.clone());
        }
        for (mine, its) in self.statuses.iter_mut().zip(&other.statuses) {
            *mine += its;
        }
    }
}

/// An empty histogram of times up to an hour.
pub fn times<C: hdrhistogram::Counter>() -> Histogram<C> {
    Histogram::new_with_max(TIME_MAX_MICROS, DIGITS).expect("three digits up to an hour are valid bounds")
}

/// A time as a histogram takes it.
pub fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_count_for_their_time_their_step_and_their_status() {
        let mut tally = Tally::new(2);
        tally.answered(Duration::ZERO, Duration::from_micros(7), 0, 200);
        tally.set_measuring(true);
        tally.answered(Duration::from_millis(1), Duration::from_micros(9), 1, 206);
        // A step or a status that nobody knows is counted as an answer, and is no reason to end.
        tally.answered(Duration::from_millis(2), Duration::MAX, u16::MAX, u16::MAX);
        assert_eq!((tally.answers, tally.latency.len(), tally.latency.min()), (3, 2, 9));
        assert!(tally.latency.max() >= tally.latency.high());
        assert_eq!((tally.steps[0].len(), tally.steps[1].len()), (0, 1));
        assert_eq!(tally.right_statuses(), [(200, 1), (206, 1)].into());
    }

    #[test]
    fn turns_of_measuring_make_no_more_than_two_intervals_a_second() {
        let mut tally = Tally::default();
        for turn in 0..1000u64 {
            tally.set_measuring(turn % 2 == 1);
            tally.answered(Duration::from_millis(turn * 2), Duration::from_micros(5), 0, 200);
        }
        let first: Vec<_> = tally.tell(Duration::from_secs(2), 1).collect();
        let shown: Vec<_> =
            first.iter().map(|one| (one.second, one.is_measured, one.latency.len())).collect();
        assert_eq!(shown, [(0, false, 250), (0, true, 250), (1, false, 250), (1, true, 250)]);
    }

    /// Prints what recording costs; run it with `--release -- --ignored cost --nocapture`.
    #[test]
    #[ignore = "a measurement"]
    fn cost_of_an_answer() {
        let mut tally = Tally::default();
        tally.set_measuring(true);
        let count = 20_000_000u64;
        let start = std::time::Instant::now();
        for number in 0..count {
            let micros = 200 + (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52);
            tally.answered(Duration::from_micros(number), Duration::from_micros(micros), 0, 200);
            if number % 1024 == 0 {
                tally.tell(Duration::from_micros(number), 1).for_each(drop);
            }
        }
        let nanos = start.elapsed().as_nanos() as f64 / count as f64;
        println!("{nanos:.1} ns for an answer");
        assert!(nanos < 100.0, "{nanos}");
        assert_eq!(tally.latency.len(), count);
    }
}
