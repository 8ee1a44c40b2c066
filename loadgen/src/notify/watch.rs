//! What the watched processes used between two looks, also when one of them was started anew.

use crate::clients::plan::watched_now;
use crate::process::{Watched, own_cpu};
use serde::Serialize;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Which processes to look at; `up.json` is read again each time.
#[derive(Clone, Debug)]
pub struct Processes {
    /// `up.json`.
    pub up: Option<PathBuf>,
    /// Those of the flags.
    pub given: Vec<Watched>,
}

/// One look at all of them.
#[derive(Clone, Debug)]
pub struct Look {
    /// When.
    pub at: Instant,
    seen: Vec<Seen>,
    own_cpu: Duration,
}

#[derive(Clone, Debug)]
struct Seen {
    watched: Watched,
    cpu_micros: Option<u64>,
    resident: Option<u64>,
}

/// What one process used between two looks.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Use {
    /// Its name.
    pub name: String,
    /// CPU time.
    pub cpu_micros: Option<u64>,
    /// The same for each of those it was used for.
    pub cpu_micros_each: Option<f64>,
    /// The same as a part of one core.
    pub cpu_percent: Option<f64>,
    /// Resident bytes at the second look.
    pub resident: Option<u64>,
}

impl Processes {
    /// Looks; exactly costs a walk over their page tables.
    pub fn look(&self, is_exact: bool) -> Look {
        let seen = watched_now(self.up.as_deref(), &self.given).into_iter().map(|watched| {
            let resident = if is_exact { watched.usage().resident } else { watched.glance().resident };
            Seen { cpu_micros: watched.cpu_micros(), resident, watched }
        });
        Look { at: Instant::now(), seen: seen.collect(), own_cpu: own_cpu() }
    }
}

impl Look {
    /// What was used since `before`, for `count` of something.
    pub fn since(&self, before: &Self, count: u64) -> Vec<Use> {
        let span = (self.at - before.at).as_micros() as f64;
        self.seen
            .iter()
            .map(|seen| {
                let old = before.seen.iter().find(|old| old.watched.name == seen.watched.name);
                // Of one that was started in between, all it ever used is of this time.
                let used = match old {
                    Some(old) if old.watched.pids == seen.watched.pids => {
                        seen.cpu_micros.zip(old.cpu_micros).map(|(now, then)| now.saturating_sub(then))
                    }
                    Some(_) | None => seen.cpu_micros,
                };
                Use {
                    name: seen.watched.name.clone(),
                    cpu_micros: used,
                    cpu_micros_each: used.filter(|_| count > 0).map(|micros| micros as f64 / count as f64),
                    cpu_percent: used.filter(|_| span > 0.0).map(|micros| micros as f64 * 100.0 / span),
                    resident: seen.resident,
                }
            })
            .collect()
    }

    /// CPU time of loadgen since `before`, in microseconds.
    pub fn own_since(&self, before: &Self) -> u64 {
        self.own_cpu.saturating_sub(before.own_cpu).as_micros() as u64
    }

    /// Resident bytes of the process of this name.
    pub fn resident(&self, name: &str) -> Option<u64> {
        self.seen.iter().find(|seen| seen.watched.name == name)?.resident
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(at: Instant, pid: u32, cpu: Option<u64>) -> Look {
        let watched = Watched { name: "gateway".into(), pids: vec![pid] };
        Look { at, seen: vec![Seen { watched, cpu_micros: cpu, resident: Some(7) }], own_cpu: Duration::ZERO }
    }

    #[test]
    fn a_process_started_anew_used_all_it_ever_used() {
        let start = Instant::now();
        let later = start + Duration::from_secs(1);
        let before = look(start, 1, Some(500_000));
        let same = look(later, 1, Some(510_000)).since(&before, 10);
        assert_eq!((same[0].cpu_micros, same[0].cpu_micros_each), (Some(10_000), Some(1000.0)));
        assert_eq!(same[0].cpu_percent, Some(1.0));
        let anew = look(later, 2, Some(30_000)).since(&before, 0);
        assert_eq!((anew[0].cpu_micros, anew[0].cpu_micros_each), (Some(30_000), None));
        assert_eq!(look(later, 1, None).since(&before, 1)[0].cpu_micros, None);
    }
}
