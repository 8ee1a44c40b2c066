//! How many lines of one kind may be written: a burst, and then so many a second. Pure.

use std::time::{Duration, Instant};

use crate::limits::{LOG_LINES_BURST, LOG_LINES_PER_SECOND};

/// A token bucket, kept as the time at which it will be full again.
#[derive(Debug, Default)]
pub struct Quota {
    full_at: Option<Instant>,
    left_out: u64,
}

impl Quota {
    /// Whether one more line may be written at `now`; if not, it is counted.
    pub fn admit(&mut self, now: Instant) -> bool {
        let full_at = self.full_at.map_or(now, |at| at.max(now)) + COST;
        let fits = full_at.saturating_duration_since(now) <= COST.saturating_mul(LOG_LINES_BURST);
        if fits {
            self.full_at = Some(full_at);
        } else {
            self.left_out += 1;
        }
        fits
    }

    /// Lines left out since this was last asked.
    pub fn take_left_out(&mut self) -> u64 {
        std::mem::take(&mut self.left_out)
    }
}

/// What one line takes.
const COST: Duration = Duration::from_millis(1000 / LOG_LINES_PER_SECOND as u64);

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(quota: &mut Quota, now: Instant, lines: u32) -> u32 {
        (0..lines).filter(|_| quota.admit(now)).count() as u32
    }

    #[test]
    fn a_burst_is_admitted_and_then_as_much_as_time_gives() {
        let (mut quota, now) = (Quota::default(), Instant::now());
        let lines = LOG_LINES_BURST + 500;
        assert_eq!(admitted(&mut quota, now, lines), LOG_LINES_BURST);
        assert_eq!(quota.take_left_out(), 500);
        assert_eq!(quota.take_left_out(), 0);
        let second = now + Duration::from_secs(1);
        assert_eq!(admitted(&mut quota, second, lines), LOG_LINES_PER_SECOND);
        // After a long silence a burst again, and never more.
        let hour = now + Duration::from_secs(3600);
        assert_eq!(admitted(&mut quota, hour, lines), LOG_LINES_BURST);
    }
}
