//! Waiting before the next attempt.

use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};

/// Doubles from the first wait to the longest, each jittered by half so that the channels of many connection points do
/// not come in one instant.
pub struct Backoff {
    first: Duration,
    longest: Duration,
    attempts: u32,
}

impl Backoff {
    /// With these waits; no attempt was made.
    pub fn new(first: Duration, longest: Duration) -> Backoff {
        Backoff { first, longest, attempts: 0 }
    }

    /// Begins with the first wait again.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }

    /// How long to wait now.
    pub fn next(&mut self) -> Duration {
        self.next_with(random())
    }

    fn next_with(&mut self, random: u32) -> Duration {
        let doubled = self.first.saturating_mul(1 << self.attempts.min(16));
        self.attempts = self.attempts.saturating_add(1);
        let full = doubled.min(self.longest);
        full / 2 + full.mul_f64(f64::from(random) / f64::from(u32::MAX)) / 2
    }
}

fn random() -> u32 {
    let mut bytes = [0; 4];
    // Without randomness there is no jitter, and still a wait.
    let _ = SystemRandom::new().fill(&mut bytes);
    u32::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{BETTER_WAY_FIRST, BETTER_WAY_LONGEST, RECONNECT_FIRST, RECONNECT_LONGEST};

    #[test]
    fn waits_grow_to_the_longest_and_are_jittered_by_half() {
        for (first, longest) in [(RECONNECT_FIRST, RECONNECT_LONGEST), (BETTER_WAY_FIRST, BETTER_WAY_LONGEST)]
        {
            for random in [0, u32::MAX / 2, u32::MAX] {
                let mut backoff = Backoff::new(first, longest);
                let mut before = Duration::ZERO;
                for _ in 0..100 {
                    let wait = backoff.next_with(random);
                    assert!(wait >= before && wait <= longest);
                    before = wait;
                }
                assert!(before >= longest / 2);
                backoff.reset();
                assert_eq!(backoff.next_with(u32::MAX), first);
            }
        }
    }
}
