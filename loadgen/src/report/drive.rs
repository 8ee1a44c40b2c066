//! How the load was driven: which handshakes, whether an open loop kept its plan, whether the run came to its end.

use super::summary::Percentiles;
use super::table::times as percentiles;
use super::tally::{micros, times};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Starts that loadgen takes up so late at the 99th percentile, and later than a quarter of the latency there, were held up by
/// loadgen itself.
const LATE_MS_MAX: f64 = 1.0;

/// What one thread counted of its planned starts.
#[derive(Clone, Debug)]
pub struct Punctuality {
    /// Planned starts that came due.
    pub planned: u64,
    /// Of these, never sent: too many waited, or the run was over.
    pub unsent: u64,
    /// From the planned start to when loadgen took it up, in microseconds.
    pub late: Histogram<u64>,
    /// From the planned start to the sending: waiting for a busy connection included.
    pub waited: Histogram<u64>,
}

impl Default for Punctuality {
    fn default() -> Self {
        Self { planned: 0, unsent: 0, late: times(), waited: times() }
    }
}

impl Punctuality {
    /// A planned start was taken up so late.
    pub fn took_up(&mut self, late: Duration) {
        self.late.saturating_record(micros(late));
    }

    /// A request was sent so long after its planned start.
    pub fn sent(&mut self, waited: Duration) {
        self.waited.saturating_record(micros(waited));
    }

    /// Takes in what another thread counted.
    pub fn add(&mut self, other: &Self) {
        self.planned += other.planned;
        self.unsent += other.unsent;
        self.late += &other.late;
        self.waited += &other.waited;
    }

    /// What is to be told of an open loop at `rate`.
    pub fn report(&self, rate: f64, latency: &Percentiles) -> OpenLoopReport {
        let late = Percentiles::of(&self.late);
        OpenLoopReport {
            rate,
            planned: self.planned,
            unsent: self.unsent,
            late,
            waited: Percentiles::of(&self.waited),
            is_loadgen_late: late.p99_ms > LATE_MS_MAX.max(latency.p99_ms / 4.0),
        }
    }
}

/// How the load of a run was driven.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Drive {
    /// Whether handshakes were counted, and nothing was asked.
    pub is_handshakes_only: bool,
    /// Handshakes in full, or connections without TLS.
    pub full: u64,
    /// Handshakes that resumed a session.
    pub resumed: u64,
    /// Planned starts, in an open loop.
    pub open_loop: Option<OpenLoopReport>,
    /// Whether the user ended the run early.
    pub is_interrupted: bool,
}

impl Drive {
    /// Whether all that was planned was sent.
    pub fn kept_plan(&self) -> bool {
        self.open_loop.as_ref().is_none_or(|open| open.unsent == 0)
    }

    /// As rows of the table.
    pub fn rows(&self) -> Vec<(&'static str, String)> {
        let mut rows = vec![("handshakes", format!("{} full, {} resumed", self.full, self.resumed))];
        if let Some(open) = &self.open_loop {
            rows.push((
                "open loop",
                format!(
                    "{} starts planned at {}/s, {} never sent{}",
                    open.planned,
                    open.rate,
                    open.unsent,
                    if open.unsent > 0 { ": BEHIND" } else { "" }
                ),
            ));
            rows.push(("  sent after", percentiles(&open.waited)));
            let bottleneck = if open.is_loadgen_late { ": LOADGEN WAS THE BOTTLENECK" } else { "" };
            rows.push(("  loadgen late by", percentiles(&open.late) + bottleneck));
        }
        if self.is_interrupted {
            rows.push(("interrupted", "the run was ended early".into()));
        }
        rows
    }
}

/// What a report says of an open loop.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OpenLoopReport {
    /// Starts planned per second.
    pub rate: f64,
    /// Planned starts that came due.
    pub planned: u64,
    /// Of these, never sent; any fails the run.
    pub unsent: u64,
    /// From the planned start to when loadgen took it up.
    pub late: Percentiles,
    /// From the planned start to the sending.
    pub waited: Percentiles,
    /// Whether loadgen was the bottleneck.
    pub is_loadgen_late: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loadgen_is_late_when_its_part_of_the_latency_counts() {
        for (late_ms, latency_ms, is_late) in [(0.9, 1.0, false), (3.0, 10.0, true), (2.0, 100.0, false)] {
            let mut punctuality = Punctuality::default();
            punctuality.took_up(Duration::from_secs_f64(late_ms / 1000.0));
            let latency = Percentiles { p99_ms: latency_ms, ..Percentiles::default() };
            let report = punctuality.report(1.0, &latency);
            assert_eq!(report.is_loadgen_late, is_late, "{late_ms} {latency_ms}");
        }
    }
}
