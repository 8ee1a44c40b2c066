//! One second of a run as one thread saw it, on its way to the main thread.

use hdrhistogram::Histogram;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// What happened in one second.
#[derive(Clone, Debug)]
pub struct Interval {
    /// Seconds from the start of the run to its begin.
    pub second: u64,
    /// Of right answers, in microseconds.
    pub latency: Histogram<u32>,
    /// Requests and connections that failed.
    pub failures: u64,
    /// Connections made.
    pub connects: u64,
    /// Requests the server closed unread.
    pub closed_unread: u64,
    /// Connections open at its end.
    pub open: u64,
}

impl Interval {
    /// How long one is.
    pub const LENGTH: Duration = Duration::from_secs(1);

    /// An empty one.
    pub fn new(second: u64, latency: Histogram<u32>) -> Self {
        Self { second, latency, failures: 0, connects: 0, closed_unread: 0, open: 0 }
    }
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
