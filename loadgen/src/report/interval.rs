//! A second of a run, or a part of one, as one thread saw it, on its way to the main thread.

use hdrhistogram::Histogram;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// What happened in one second, or in the part of it that was measured, or was not.
#[derive(Clone, Debug)]
pub struct Interval {
    /// Whole seconds from the start of the run to its begin.
    pub second: u64,
    /// Whether it is of the measured time.
    pub is_measured: bool,
    /// Of right answers, in microseconds.
    pub latency: Histogram<u32>,
    /// What else happened.
    pub events: Events,
}

/// Counts of one interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// Requests and connections that failed.
    pub failures: u64,
    /// Connections made.
    pub connects: u64,
    /// Requests the server closed unread.
    pub closed_unread: u64,
    /// Connections open at its end.
    pub open: u64,
}

impl Events {
    /// What happened in both; connections open are those of the later, `other`.
    pub fn then(self, other: Self) -> Self {
        Self { open: other.open, ..self.beside(other) }
    }

    /// What happened in both, at the same time in two threads.
    pub fn beside(self, other: Self) -> Self {
        Self {
            failures: self.failures + other.failures,
            connects: self.connects + other.connects,
            closed_unread: self.closed_unread + other.closed_unread,
            open: self.open + other.open,
        }
    }
}

impl Interval {
    /// How long one is.
    pub const LENGTH: Duration = Duration::from_secs(1);
}

/// Where a thread puts the seconds that are over, and the main thread takes them.
#[derive(Debug, Default)]
pub struct Outbox(Mutex<Vec<Interval>>);

impl Outbox {
    /// Puts them; nothing is locked when there is none.
    pub fn put(&self, finished: impl Iterator<Item = Interval>) {
        let mut finished = finished.peekable();
        if finished.peek().is_some() {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(finished);
        }
    }

    /// Takes all there are.
    pub fn take(&self) -> Vec<Interval> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
