//! Which requests came whole, and which of them more than once.
//!
//! Pure but for a lock: kept only when asked for, because it grows with every request. An id is told from others by 64 bits
//! of hash: of a million ids two are alike once in thirty million runs.

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::{Mutex, PoisonError};

/// Ids that are remembered; beyond, requests are counted alone. Half an hour of 4,000 a second.
const SEEN_COUNT_MAX: usize = 8_000_000;

/// Ids that came again and must not, told by name.
const WRONG_COUNT_MAX: usize = 16;

/// See the file's head.
#[derive(Debug, Default)]
pub struct Seen {
    hashes: RandomState,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    ids: HashSet<u64>,
    requests: u64,
    /// Came more than once: those that may, and those that must not.
    repeated: [u64; 2],
    unseen: u64,
    /// The first of those that must not come again and did.
    wrong: Vec<String>,
}

impl Seen {
    /// A request came whole. Whether its method lets it come again without harm is for whoever asks to know.
    pub fn note(&self, id: &[u8], is_safe: bool) {
        let hash = self.hashes.hash_one(id);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.requests += 1;
        if counts.ids.contains(&hash) {
            counts.repeated[usize::from(!is_safe)] += 1;
            if !is_safe && counts.wrong.len() < WRONG_COUNT_MAX {
                counts.wrong.push(id.escape_ascii().to_string());
            }
        } else if counts.ids.len() < SEEN_COUNT_MAX {
            counts.ids.insert(hash);
        } else {
            counts.unseen += 1;
        }
    }

    /// What was seen, as JSON. `unseen` is 0 as long as every id was remembered.
    pub fn told(&self) -> String {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let Counts { ids, requests, repeated: [safe, unsafe_ones], unseen, wrong } = &*counts;
        let ids = ids.len();
        let told = serde_json::json!({"requests": requests, "ids": ids, "repeated_safe": safe,
            "repeated_unsafe": unsafe_ones, "unseen": unseen, "repeated": wrong});
        format!("{told}\n")
    }

    /// Which of these came, as JSON: those with a comma between.
    pub fn which(&self, asked: &[u8]) -> String {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let came = |id: &&[u8]| counts.ids.contains(&self.hashes.hash_one(*id));
        let found: Vec<_> =
            asked.split(|byte| *byte == b',').filter(came).map(|id| id.escape_ascii().to_string()).collect();
        format!("{}\n", serde_json::json!({"seen": found}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_again_is_told_by_whether_it_may() {
        let seen = Seen::default();
        for (id, is_safe) in [("a", true), ("b", false), ("a", true), ("c", true), ("b", false), ("b", false)]
        {
            seen.note(id.as_bytes(), is_safe);
        }
        let told: serde_json::Value = serde_json::from_str(&seen.told()).expect("JSON");
        let expected = serde_json::json!({"requests": 6, "ids": 3, "repeated_safe": 1, "repeated_unsafe": 2,
            "unseen": 0, "repeated": ["b", "b"]});
        assert_eq!(told, expected);
    }

    #[test]
    fn one_can_be_asked_for() {
        let seen = Seen::default();
        seen.note(b"a", true);
        seen.note(b"c", false);
        assert_eq!(seen.which(b"a,b,c"), "{\"seen\":[\"a\",\"c\"]}\n");
        assert_eq!(seen.which(b""), "{\"seen\":[]}\n");
    }
}
