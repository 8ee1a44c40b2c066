//! What became of every step, over all clients and threads, and how that is told.

use super::features::{self, FEATURES};
use super::run::Wrong;
use super::step::{Kind, Step};
use std::fmt::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What became of one step.
#[derive(Debug, Default)]
struct Score {
    right: AtomicU64,
    wrong: AtomicU64,
    /// Of right answers, in microseconds, together and the longest.
    micros: AtomicU64,
    longest: AtomicU64,
    first_wrong: OnceLock<Wrong>,
}

/// The scores of all steps; written by every thread.
#[derive(Debug)]
pub struct Board {
    scores: Vec<Score>,
}

impl Default for Board {
    fn default() -> Self {
        let steps = FEATURES.iter().map(|feature| feature.steps.len()).sum();
        Self { scores: (0..steps).map(|_| Score::default()).collect() }
    }
}

impl Board {
    /// A right answer to a step.
    pub fn right(&self, name: u16, elapsed: Duration) {
        let Some(score) = self.scores.get(usize::from(name)) else { return };
        let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        score.right.fetch_add(1, Ordering::Relaxed);
        score.micros.fetch_add(micros, Ordering::Relaxed);
        score.longest.fetch_max(micros, Ordering::Relaxed);
    }

    /// A step that went wrong.
    pub fn wrong(&self, name: u16, wrong: Wrong) {
        let Some(score) = self.scores.get(usize::from(name)) else { return };
        score.wrong.fetch_add(1, Ordering::Relaxed);
        let _ = score.first_wrong.set(wrong);
    }

    /// A line for each step of `tried`, a verdict for each feature, and whether all of them passed with all `clients`.
    pub fn features(&self, tried: &[usize], clients: u64) -> (String, bool) {
        let (mut out, mut passed) = (String::new(), 0);
        for feature in tried {
            let steps = FEATURES[*feature].steps;
            let first = features::first_step(*feature);
            let _ = writeln!(out, "\n{}: {}", FEATURES[*feature].name, FEATURES[*feature].about);
            let mut right = 0;
            for (step, score) in steps.iter().zip(&self.scores[first..]) {
                right += usize::from(score.line(step, clients, &mut out));
            }
            let verdict = if right == steps.len() { "PASSED" } else { "FAILED" };
            passed += usize::from(right == steps.len());
            let _ = writeln!(
                out,
                "{verdict} {} ({right} of {} steps, {clients} client(s))",
                FEATURES[*feature].name,
                steps.len()
            );
        }
        let _ = writeln!(out, "\n{passed} of {} feature(s) passed", tried.len());
        (out, passed == tried.len())
    }

    /// How requests divide by kind, beside what the timers let expect and what is suggested.
    pub fn shares(&self, expected: [f64; Kind::ALL.len()]) -> String {
        let mut counts = [0; Kind::ALL.len()];
        let steps = FEATURES.iter().flat_map(|feature| feature.steps);
        for (step, score) in steps.zip(&self.scores) {
            let index = Kind::ALL.iter().position(|(kind, ..)| *kind == step.kind).unwrap_or_default();
            counts[index] += score.right.load(Ordering::Relaxed) + score.wrong.load(Ordering::Relaxed);
        }
        let all: u64 = counts.iter().sum();
        let mut out = String::from("\nshare by kind             asked   share   by timers   suggested mix\n");
        for (index, (_, name, suggested)) in Kind::ALL.iter().enumerate() {
            let share = if all > 0 { counts[index] as f64 * 100.0 / all as f64 } else { 0.0 };
            let _ = writeln!(
                out,
                "{name:<22}{:>9} {share:>6.1}%  {:>8.1}%  {suggested:>13.0}%",
                counts[index], expected[index]
            );
        }
        let wrong = self.wrong_steps();
        if !wrong.is_empty() {
            let _ = writeln!(out, "\nsteps that went wrong\n{wrong}");
        }
        out
    }

    fn wrong_steps(&self) -> String {
        let mut out = String::new();
        for (name, score) in features::step_names().iter().zip(&self.scores) {
            if let Some(Wrong { expected, found }) = score.first_wrong.get() {
                let count = score.wrong.load(Ordering::Relaxed);
                let _ = writeln!(out, "{name}: {count}, first: expected {expected}; found {found}");
            }
        }
        out
    }
}

impl Score {
    /// Writes the line of a step. Whether it was right for all clients.
    fn line(&self, step: &Step, clients: u64, out: &mut String) -> bool {
        let right = self.right.load(Ordering::Relaxed);
        let wrong = self.wrong.load(Ordering::Relaxed);
        let is_right = wrong == 0 && right >= clients && clients > 0;
        let word = if is_right { "pass" } else { "FAIL" };
        let found = match self.first_wrong.get() {
            Some(Wrong { expected, found }) => format!("expected {expected}; found {found}"),
            None if right < clients => format!("answered for {right} of {clients} clients"),
            None => {
                let size = step.size().map_or("an answer".into(), |size| format!("{size} bytes"));
                format!("{}, {size} as expected, {}", step.status(), self.times(right))
            }
        };
        let some = if wrong > 0 && right > 0 {
            format!(" ({wrong} of {} times)", wrong + right)
        } else {
            String::new()
        };
        let _ = writeln!(out, "  {word}  {:<28} {:<9} {found}{some}", step.name, step.method);
        is_right
    }

    fn times(&self, right: u64) -> String {
        let millis = |micros: u64| micros as f64 / 1000.0;
        let mean = millis(self.micros.load(Ordering::Relaxed)) / right.max(1) as f64;
        format!("mean {mean:.1} ms, longest {:.1} ms", millis(self.longest.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong() -> Wrong {
        Wrong { expected: "200, 1 bytes".into(), found: "401 No".into() }
    }

    #[test]
    fn a_feature_passes_when_every_step_was_right_for_every_client() {
        let location = features::find("location").expect("known");
        let first = features::first_step(location) as u16;
        let steps = FEATURES[location].steps.len() as u16;
        let board = Board::default();
        for step in 0..steps {
            for _ in 0..3 {
                board.right(first + step, Duration::from_millis(2));
            }
        }
        let (text, passed) = board.features(&[location], 3);
        assert!(passed && text.contains("PASSED location (6 of 6 steps, 3 client(s))"), "{text}");
        assert!(text.contains("200, 1480 bytes as expected, mean 2.0 ms, longest 2.0 ms"), "{text}");
        assert!(!board.features(&[location], 4).1, "one client is missing");
        board.wrong(first + 1, wrong());
        let (text, passed) = board.features(&[location], 3);
        assert!(!passed && text.contains("FAIL  location"), "{text}");
        assert!(text.contains("expected 200, 1 bytes; found 401 No (1 of 4 times)"), "{text}");
    }

    #[test]
    fn nothing_asked_is_nothing_passed() {
        let (text, passed) = Board::default().features(&[0], 1);
        assert!(!passed && text.contains("answered for 0 of 1 clients"), "{text}");
    }

    #[test]
    fn shares_are_counted_by_kind() {
        let board = Board::default();
        let name =
            |feature, step| (features::first_step(features::find(feature).expect("known")) + step) as u16;
        for _ in 0..3 {
            board.right(name("notifications", 1), Duration::ZERO);
        }
        board.wrong(name("policy", 0), wrong());
        let text = board.shares([0.0; Kind::ALL.len()]);
        assert!(text.contains("notifications                 3   75.0%"), "{text}");
        assert!(text.contains("policy: assignments: 1, first: expected 200"), "{text}");
    }
}
