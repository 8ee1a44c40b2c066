//! What became of notifications: who is held, what was delivered to whom and how late, and what went wrong.
//!
//! Written by the clients of all threads, read by the conductor. Pure but for its cells: moments are handed in.

use crate::notification::Push;
use crate::report::times;
use hdrhistogram::Histogram;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Counters of a run.
#[derive(Debug, Default)]
pub struct Board {
    /// Clients whose request is out and not answered.
    pub held: AtomicU64,
    /// Answers to a sign-in.
    pub sign_ins: AtomicU64,
    /// Held requests that were answered with nothing, after their time.
    pub keep_alives: AtomicU64,
    /// Connections that ended with a request outstanding.
    pub lost_connections: AtomicU64,
    /// Answers with a status that was not 200.
    pub refused: AtomicU64,
    /// Clients, each time, whose held request ended without an answer, or with such a status.
    pub put_out: AtomicU64,
    /// Pushes that a client had already.
    pub duplicated: AtomicU64,
    /// Answers for another client, or to another request.
    pub misdelivered: AtomicU64,
    /// Answers whose content is wrong, and bytes that are none.
    pub malformed: AtomicU64,
    /// Pushes that nobody ordered in this run.
    pub unknown: AtomicU64,
    deliveries: Mutex<Vec<Delivery>>,
}

/// One push on its way to its clients.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Which.
    pub push: Push,
    /// When it was ordered.
    pub ordered: Instant,
    /// Clients it is for.
    pub expected: u64,
    /// From the order to each delivery, in microseconds.
    pub times: Histogram<u64>,
    /// The first delivery.
    pub first: Option<Duration>,
    /// The last one until now.
    pub last: Duration,
}

impl Delivery {
    /// Whether everybody has it.
    pub fn is_complete(&self) -> bool {
        self.times.len() >= self.expected
    }

    /// Clients that do not have it.
    pub fn lost(&self) -> u64 {
        self.expected.saturating_sub(self.times.len())
    }
}

impl Board {
    fn deliveries(&self) -> MutexGuard<'_, Vec<Delivery>> {
        // A thread that panicked left whole entries: each change is one push or one record.
        self.deliveries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A push is ordered now, for so many clients.
    pub fn order(&self, push: Push, expected: u64, now: Instant) {
        self.deliveries().push(Delivery {
            push,
            ordered: now,
            expected,
            times: times(),
            first: None,
            last: Duration::ZERO,
        });
    }

    /// A client has the push of this number, for the first time. Whether there is such a push, and it is for the client.
    pub fn deliver(&self, number: u64, client: u64, now: Instant) -> bool {
        let mut deliveries = self.deliveries();
        let found = deliveries.iter_mut().rev().find(|delivery| delivery.push.number == number);
        let Some(delivery) = found.filter(|delivery| delivery.push.is_for(client)) else {
            add(&self.unknown);
            return false;
        };
        let late = now.saturating_duration_since(delivery.ordered);
        delivery.times.saturating_record((late.as_micros() as u64).max(1));
        delivery.first = Some(delivery.first.map_or(late, |first| first.min(late)));
        delivery.last = delivery.last.max(late);
        true
    }

    /// The push ordered last, as it stands.
    pub fn last(&self) -> Option<Delivery> {
        self.deliveries().last().cloned()
    }

    /// Whether the push ordered last reached everybody.
    pub fn is_delivered(&self) -> bool {
        self.deliveries().last().is_none_or(Delivery::is_complete)
    }

    /// All pushes.
    pub fn all(&self) -> Vec<Delivery> {
        self.deliveries().clone()
    }
}

/// One more.
pub fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// How many.
pub fn count(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notification::SHARE_ALL;

    #[test]
    fn a_delivery_has_a_first_a_last_and_those_that_miss_it() {
        let (board, start) = (Board::default(), Instant::now());
        assert!(board.is_delivered(), "nothing was ordered");
        board.order(Push { number: 3, share: SHARE_ALL }, 3, start);
        assert!(board.deliver(3, 1, start + Duration::from_millis(5)));
        assert!(board.deliver(3, 2, start + Duration::from_millis(2)));
        let last = board.last().expect("ordered");
        assert_eq!((last.first, last.last), (Some(Duration::from_millis(2)), Duration::from_millis(5)));
        assert_eq!((last.lost(), board.is_delivered()), (1, false));
        assert!(board.deliver(3, 7, start) && board.is_delivered());
    }

    #[test]
    fn a_push_that_nobody_ordered_is_counted_apart() {
        let (board, start) = (Board::default(), Instant::now());
        assert!(!board.deliver(1, 1, start));
        let half = Push { number: 1, share: SHARE_ALL / 2 };
        board.order(half, 1, start);
        let outside = (0..100).find(|client| !half.is_for(*client)).expect("half of them");
        assert!(!board.deliver(1, outside, start));
        assert_eq!(count(&board.unknown), 2);
    }
}
