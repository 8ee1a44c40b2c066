//! Bounds that come near, as they are told: a line of the log for each crossing, a row in `/metrics`, an
//! entry in `/status`. What near means is `headroom`'s business.

use std::sync::{Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use serde_json::{Value, json};

use super::Health;
use super::page::Page;
use crate::headroom::{Crossing, Level, Limit, Reading, Watches};

/// The judgements of one process.
#[derive(Debug, Default)]
pub struct Headroom(Mutex<Watches>);

impl Headroom {
    /// Judges one bound at once, for those that fill faster than anybody looks.
    pub fn look(&self, reading: &Reading) {
        let crossing = self.watches().judge(reading);
        crossing.iter().for_each(tell);
    }

    /// Judges all bounds of the process.
    pub fn look_all(&self, readings: &[Reading]) {
        let crossings = self.watches().judge_all(readings);
        crossings.iter().for_each(tell);
    }

    /// Adds the families.
    pub fn describe(&self, page: &mut Page, readings: &[Reading]) {
        self.look_all(readings);
        let mut fill = |name: &str, help: &str, what: &dyn Fn(&Reading) -> u64| {
            let mut rows = page.gauge(name, help);
            for reading in readings {
                rows.count(&[("limit", &reading.limit.name()), ("of", &reading.of)], what(reading));
            }
        };
        fill("cmg_limit_used", "How much of a bound is in use.", &|reading| reading.used);
        fill("cmg_limit_max", "How much there is of it.", &|reading| reading.max);
        let watches = self.watches();
        fill("cmg_limit_level", "0 ample, 1 near (80 %), 2 scarce (95 %).", &|reading| {
            watches.level(reading) as u64
        });
    }

    /// For `/status`: every bound, and for those that are near what to do.
    pub fn show(&self, readings: &[Reading]) -> Value {
        self.look_all(readings);
        let watches = self.watches();
        let show = |reading: &Reading| {
            let level = watches.level(reading);
            let remedy = (level > Level::Ample).then(|| reading.limit.remedy());
            json!({
                "limit": reading.limit.name(),
                "of": reading.of,
                "used": reading.used,
                "max": reading.max,
                "level": level.name(),
                "remedy": remedy,
            })
        };
        readings.iter().map(show).collect()
    }

    /// What is scarce makes a role suffer. Clients beyond their bound, and handshakes, only wait, which is told
    /// elsewhere.
    pub fn tell_health(&self, health: &mut Health, readings: &[Reading]) {
        let watches = self.watches();
        let only_waits = |limit| matches!(limit, Limit::Clients | Limit::Handshakes);
        for reading in readings.iter().filter(|reading| !only_waits(reading.limit)) {
            if watches.level(reading) == Level::Scarce {
                let Reading { limit, of, used, max } = reading;
                health.suffers(format!("{used} of {max} {} {of} are in use", limit.name()));
            }
        }
    }

    fn watches(&self) -> MutexGuard<'_, Watches> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks at the bounds of `role` each second, in a thread of its own, as long as there is a role.
///
/// # Errors
/// When no thread can be started.
pub fn watch<R: Send + Sync + 'static>(role: Weak<R>, look: fn(&R)) -> std::io::Result<()> {
    let looking = move || {
        while let Some(role) = role.upgrade() {
            look(&role);
            drop(role);
            std::thread::sleep(LOOK_EVERY);
        }
    };
    std::thread::Builder::new().name("limits".to_owned()).spawn(looking).map(drop)
}

fn tell(crossing: &Crossing) {
    let Crossing { reading: Reading { limit, of, used, max }, from, to } = crossing;
    let (name, remedy) = (limit.name(), limit.remedy());
    match to {
        Level::Ample => tracing::info!(limit = name, of, used, max, "a limit is far again"),
        Level::Near if from > to => tracing::info!(limit = name, of, used, max, "a limit is scarce no more"),
        Level::Near => tracing::warn!(limit = name, of, used, max, remedy, "a limit comes near"),
        Level::Scarce => {
            tracing::warn!(limit = name, of, used, max, remedy, "a limit is about to be reached")
        }
    }
}

/// As often as shards show what they have.
const LOOK_EVERY: Duration = Duration::from_secs(1);
