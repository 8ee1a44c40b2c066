//! Everything a run tells, drawn from what was counted and what processes used.

use super::failures::Failures;
use super::moments::{Moments, Snapshot};
use super::tally::Tally;
use crate::process::Watched;
use hdrhistogram::Histogram;
use serde::Serialize;

/// Percentiles in milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[allow(missing_docs)]
pub struct Percentiles {
    pub count: u64,
    pub p50_ms: f64,
    pub p90_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub max_ms: f64,
}

impl Percentiles {
    /// Of what was recorded.
    pub fn of(times: &Histogram<u64>) -> Self {
        let at = |quantile| times.value_at_quantile(quantile) as f64 / 1000.0;
        Self {
            count: times.len(),
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: times.max() as f64 / 1000.0,
        }
    }
}

/// What a watched process used.
#[derive(Clone, Debug, Serialize)]
pub struct ProcessReport {
    /// Its name.
    pub name: String,
    /// Its number, or theirs.
    pub pids: Vec<u32>,
    /// CPU microseconds over the measured time.
    pub cpu_micros: Option<u64>,
    /// The same, per right answer.
    pub cpu_micros_per_request: Option<f64>,
    /// Resident bytes before the first connection.
    pub resident_before: Option<u64>,
    /// Resident bytes when all were connected.
    pub resident_connected: Option<u64>,
    /// Resident bytes at the end.
    pub resident_after: Option<u64>,
    /// Growth until all were connected, per connection.
    pub resident_per_connection: Option<f64>,
    /// While all connections were idle (`--hold`): percent of one core.
    pub idle_cpu_percent: Option<f64>,
}

/// Everything a run tells.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Connections held.
    pub connections: u32,
    /// Threads.
    pub threads: u16,
    /// Whether all is as it must be.
    pub passed: bool,
    /// Right answers, all of them.
    pub requests: u64,
    /// Right answers in the measured time.
    pub measured_requests: u64,
    /// The measured time.
    pub seconds: f64,
    /// Right answers per second of it.
    pub rate: f64,
    /// Connections made.
    pub connects: u64,
    /// What failed.
    pub failures: Failures,
    /// What the first failure said.
    pub first_failure: Option<String>,
    /// Connections the server closed with nothing asked; no failure.
    pub closed_idle: u64,
    /// Requests the server closed unread; no failure.
    pub closed_unread: u64,
    /// Bytes received.
    pub received: u64,
    /// Bytes sent.
    pub sent: u64,
    /// Of measured requests.
    pub latency: Percentiles,
    /// Connect and TLS.
    pub handshake: Percentiles,
    /// CPU of loadgen per right answer.
    pub own_cpu_micros_per_request: f64,
    /// Length of the idle window (`--hold`).
    pub idle_seconds: f64,
    /// The processes watched.
    pub processes: Vec<ProcessReport>,
}

impl Report {
    /// Draws the sum.
    pub fn new(
        tally: &Tally,
        moments: &Moments,
        watched: &[Watched],
        connections: u32,
        threads: u16,
        allows_failures: bool,
    ) -> Self {
        let Moments { before, connected, begin, end, idle } = moments;
        let measured_requests = end.answers - begin.answers;
        let seconds = (end.at - begin.at).as_secs_f64();
        let per_request =
            |micros: f64| if measured_requests == 0 { 0.0 } else { micros / measured_requests as f64 };
        let cpu_between = |from: &Snapshot, to: &Snapshot, index: usize| {
            let at = |snapshot: &Snapshot| snapshot.usages.get(index)?.cpu_micros;
            Some(at(to)?.saturating_sub(at(from)?))
        };
        let resident = |snapshot: &Snapshot, index: usize| snapshot.usages.get(index)?.resident;
        let process = |(index, watched): (usize, &Watched)| {
            let cpu_micros = cpu_between(begin, end, index);
            let (resident_before, resident_connected) = (resident(before, index), resident(connected, index));
            let growth = resident_before
                .zip(resident_connected)
                .map(|(before, connected)| connected as f64 - before as f64);
            ProcessReport {
                name: watched.name.clone(),
                pids: watched.pids.clone(),
                cpu_micros,
                cpu_micros_per_request: cpu_micros.map(|micros| per_request(micros as f64)),
                resident_before,
                resident_connected,
                resident_after: resident(end, index),
                resident_per_connection: growth.map(|growth| growth / f64::from(connections)),
                idle_cpu_percent: idle.as_ref().filter(|(from, to)| to.at > from.at).and_then(
                    |(from, to)| {
                        let span = (to.at - from.at).as_micros() as f64;
                        Some(cpu_between(from, to, index)? as f64 / span * 100.0)
                    },
                ),
            }
        };
        let failures = tally.failures.clone();
        Self {
            connections,
            threads,
            passed: failures.hard() == 0 && (allows_failures || failures.clean() == 0),
            requests: tally.answers,
            measured_requests,
            seconds,
            rate: if seconds > 0.0 { measured_requests as f64 / seconds } else { 0.0 },
            connects: tally.connects,
            first_failure: tally.first_failure.clone(),
            closed_idle: tally.closed_idle,
            closed_unread: tally.closed_unread,
            received: tally.received,
            sent: tally.sent,
            latency: Percentiles::of(&tally.latency),
            handshake: Percentiles::of(&tally.handshake),
            own_cpu_micros_per_request: per_request((end.own_cpu - begin.own_cpu).as_micros() as f64),
            idle_seconds: idle.as_ref().map_or(0.0, |(from, to)| (to.at - from.at).as_secs_f64()),
            processes: watched.iter().enumerate().map(process).collect(),
            failures,
        }
    }
}
