//! Which of several ways to one place is tried when: the best at once, each next one when the one before it
//! failed or has taken long, and none twice.
//!
//! Pure. A connection point has some ways to an instance of the gateway, the best first (`connector/dial.rs`), and
//! goes the first that leads there. Where a firewall drops packets nobody says no, so that the end of an attempt is
//! not waited for before the next begins; it goes on beside it, and may still be the first.

use std::time::Instant;

use crate::limits::WAY_HEAD_START;

/// Untried ── its turn ──▶ Tried ── failed ──▶ Failed
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Untried,
    Tried,
    Failed,
}

/// The ways to one place, from the best, and what became of each.
#[derive(Debug)]
pub struct Ways {
    ways: Vec<Way>,
    /// When the last of those that were tried was begun.
    begun: Option<Instant>,
}

impl Ways {
    /// So many ways, none of them tried.
    pub fn new(count: usize) -> Ways {
        Ways { ways: vec![Way::Untried; count], begun: None }
    }

    /// Every way was tried, and none leads there.
    pub fn is_hopeless(&self) -> bool {
        self.ways.iter().all(|way| *way == Way::Failed)
    }

    /// This way does not lead there.
    pub fn handle_failed(&mut self, way: usize) {
        debug_assert_eq!(self.ways[way], Way::Tried, "only what was tried can fail");
        self.ways[way] = Way::Failed;
    }

    /// The way to begin with now, if one is due.
    pub fn poll_begin(&mut self, now: Instant) -> Option<usize> {
        let (next, due) = self.next()?;
        if due.is_some_and(|due| now < due) {
            return None;
        }
        self.ways[next] = Way::Tried;
        self.begun = Some(now);
        Some(next)
    }

    /// When another way is due if nothing happens before.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.next()?.1
    }

    /// The next way, and when it is due; `None`: at once.
    fn next(&self) -> Option<(usize, Option<Instant>)> {
        let next = self.ways.iter().position(|way| *way == Way::Untried)?;
        let is_held_up = next > 0 && self.ways[next - 1] == Way::Tried;
        Some((next, self.begun.filter(|_| is_held_up).map(|begun| begun + WAY_HEAD_START)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// At so many milliseconds perhaps one way has failed; then these begin.
    type Step = (u64, Option<usize>, &'static [usize]);

    #[test]
    fn each_way_is_begun_when_the_one_before_it_failed_or_had_its_head_start() {
        let head_start = WAY_HEAD_START.as_millis() as u64;
        let rows: [(usize, Vec<Step>, bool); 8] = [
            (0, vec![(0, None, &[])], true),
            (1, vec![(0, None, &[0]), (60_000, None, &[])], false),
            (1, vec![(0, None, &[0]), (5, Some(0), &[])], true),
            // Refused at once: no time is lost.
            (3, vec![(0, None, &[0]), (1, Some(0), &[1]), (2, Some(1), &[2]), (3, Some(2), &[])], true),
            // Dropped: each has its head start, and none is given up.
            (
                3,
                vec![
                    (0, None, &[0]),
                    (head_start - 1, None, &[]),
                    (head_start, None, &[1]),
                    (head_start + 1, None, &[]),
                    (2 * head_start, None, &[2]),
                    (9 * head_start, None, &[]),
                ],
                false,
            ),
            // The first is dropped, the second refused (a proxy that lets through to one port alone).
            (3, vec![(0, None, &[0]), (head_start, None, &[1]), (head_start + 2, Some(1), &[2])], false),
            // What fails late changes nothing for those that have begun.
            (3, vec![(0, None, &[0]), (head_start, None, &[1]), (head_start + 2, Some(0), &[])], false),
            // A shard that was busy for long begins with one way, not with all of them.
            (3, vec![(0, None, &[0]), (9 * head_start, None, &[1]), (10 * head_start, None, &[2])], false),
        ];
        for (count, steps, is_hopeless) in rows {
            let (start, mut ways) = (Instant::now(), Ways::new(count));
            for (at, failed, expected) in &steps {
                let now = start + Duration::from_millis(*at);
                failed.iter().for_each(|way| ways.handle_failed(*way));
                let begun: Vec<usize> = std::iter::from_fn(|| ways.poll_begin(now)).collect();
                assert_eq!(begun, *expected, "{count} {steps:?} at {at}");
                assert!(ways.poll_timeout().is_none_or(|due| due > now), "{count} {steps:?} at {at}");
            }
            assert_eq!(ways.is_hopeless(), is_hopeless, "{count} {steps:?}");
        }
    }

    #[test]
    fn whatever_becomes_of_the_ways_all_are_begun_in_time_and_in_their_order() {
        for failing in 0..1_u32 << 4 {
            let (start, mut ways, mut begun) = (Instant::now(), Ways::new(4), Vec::new());
            let mut now = start;
            loop {
                while let Some(way) = ways.poll_begin(now) {
                    begun.push(way);
                    if failing & 1 << way != 0 {
                        ways.handle_failed(way);
                    }
                }
                let Some(due) = ways.poll_timeout() else { break };
                now = due;
            }
            assert_eq!(begun, [0, 1, 2, 3], "{failing:b}");
            assert!(now - start <= 3 * WAY_HEAD_START, "{failing:b}");
            assert_eq!(ways.is_hopeless(), failing == 0b1111, "{failing:b}");
        }
    }
}
