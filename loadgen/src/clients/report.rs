//! What a run counted, as a table for people and JSON for programs.

use crate::process::{Usage, Watched};
use hdrhistogram::Histogram;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

/// Longest time a histogram tells apart, in microseconds.
const TIME_MAX_MICROS: u64 = 3_600_000_000;

/// Requests and connections that failed, by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Failures {
    /// Connections not made.
    pub connect: u64,
    /// TLS handshakes that failed, and alerts.
    pub tls: u64,
    /// Requests whose connection ended without a whole answer.
    pub cut: u64,
    /// Requests and handshakes without progress.
    pub timeout: u64,
    /// Answers with another status than 200 and 206.
    pub status: BTreeMap<u16, u64>,
    /// Clients that gave up with work left.
    pub abandoned: u64,
    /// Answers to another request.
    pub wrong_id: u64,
    /// Answers of wrong length or content.
    pub wrong_body: u64,
    /// Answers that are not HTTP, or were not asked for.
    pub malformed: u64,
}

impl Failures {
    /// Answers that must never be.
    pub fn wrong(&self) -> u64 {
        self.wrong_id + self.wrong_body + self.malformed
    }

    /// Failures that `--allow-failures` allows.
    pub fn clean(&self) -> u64 {
        self.connect + self.tls + self.cut + self.timeout + self.server_errors()
    }

    /// Failures that nothing allows: wrong answers, statuses below 500, work left undone.
    pub fn hard(&self) -> u64 {
        self.wrong() + self.abandoned + self.status.values().sum::<u64>() - self.server_errors()
    }

    fn server_errors(&self) -> u64 {
        self.status.range(500..).map(|(_, count)| count).sum()
    }

    fn add(&mut self, other: &Self) {
        self.connect += other.connect;
        self.tls += other.tls;
        self.cut += other.cut;
        self.timeout += other.timeout;
        self.abandoned += other.abandoned;
        self.wrong_id += other.wrong_id;
        self.wrong_body += other.wrong_body;
        self.malformed += other.malformed;
        for (status, count) in &other.status {
            *self.status.entry(*status).or_default() += count;
        }
    }
}

/// What one thread counted.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Right answers.
    pub answers: u64,
    /// Connections made, TLS included.
    pub connects: u64,
    /// What failed.
    pub failures: Failures,
    /// What the first failure said.
    pub first_failure: Option<String>,
    /// Connections the server closed with nothing asked.
    pub closed_idle: u64,
    /// Requests the server closed unread: asked on a connection at rest that ended at once without a byte.
    pub closed_unread: u64,
    /// Bytes received, as on the wire.
    pub received: u64,
    /// Bytes sent, as on the wire.
    pub sent: u64,
    /// From asking to the last byte, of measured requests, in microseconds.
    pub latency: Histogram<u64>,
    /// From connecting to ready, in microseconds.
    pub handshake: Histogram<u64>,
}

impl Default for Tally {
    fn default() -> Self {
        let times = || {
            Histogram::new_with_max(TIME_MAX_MICROS, 3).expect("three digits up to an hour are valid bounds")
        };
        Self {
            answers: 0,
            connects: 0,
            failures: Failures::default(),
            first_failure: None,
            closed_idle: 0,
            closed_unread: 0,
            received: 0,
            sent: 0,
            latency: times(),
            handshake: times(),
        }
    }
}

impl Tally {
    /// Takes in what another thread counted.
    pub fn add(&mut self, other: &Self) {
        self.answers += other.answers;
        self.connects += other.connects;
        self.failures.add(&other.failures);
        self.first_failure = self.first_failure.take().or_else(|| other.first_failure.clone());
        self.closed_idle += other.closed_idle;
        self.closed_unread += other.closed_unread;
        self.received += other.received;
        self.sent += other.sent;
        self.latency += &other.latency;
        self.handshake += &other.handshake;
    }
}

/// Records a time in microseconds.
pub fn record(times: &mut Histogram<u64>, time: Duration) {
    times.saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1));
}

/// All at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Since the start.
    pub at: Duration,
    /// Right answers until then.
    pub answers: u64,
    /// CPU of this process.
    pub own_cpu: Duration,
    /// Of the watched processes, in their order.
    pub usages: Vec<Usage>,
}

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
    fn of(times: &Histogram<u64>) -> Self {
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

/// The moments a report stands on.
#[derive(Clone, Debug, Default)]
pub struct Moments {
    /// Before the first connection.
    pub before: Snapshot,
    /// All connected, nothing asked (with `--hold`: all asked once and idle).
    pub connected: Snapshot,
    /// The measured time begins.
    pub begin: Snapshot,
    /// The measured time ends.
    pub end: Snapshot,
    /// First and last moment with all connections idle.
    pub idle: Option<(Snapshot, Snapshot)>,
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

    /// As a table.
    pub fn table(&self) -> String {
        let mut out = String::new();
        let mut row = |name: &str, value: String| {
            let _ = writeln!(out, "{name:<22}{value}");
        };
        row(
            "requests",
            format!(
                "{} right, {} of them measured in {:.2} s",
                self.requests, self.measured_requests, self.seconds
            ),
        );
        row("rate", format!("{:.0} requests/s", self.rate));
        row(
            "connections",
            format!("{} held, {} made, {} thread(s)", self.connections, self.connects, self.threads),
        );
        row("latency", times(&self.latency));
        row("connect and TLS", times(&self.handshake));
        row("bytes", format!("{} received, {} sent", self.received, self.sent));
        row("errors", self.errors());
        if let Some(text) = &self.first_failure {
            row("first failure", text.clone());
        }
        row(
            "closed by the server",
            format!("{} at rest, {} unread (neither is an error)", self.closed_idle, self.closed_unread),
        );
        row("CPU loadgen", format!("{:.1} µs/request", self.own_cpu_micros_per_request));
        for process in &self.processes {
            row(&format!("CPU {}", process.name), process.cpu());
            row(&format!("memory {}", process.name), process.memory());
        }
        row("result", if self.passed { "all right".into() } else { "FAILED".into() });
        out
    }

    fn errors(&self) -> String {
        let failures = &self.failures;
        let statuses = failures.status.iter().map(|(status, count)| (format!("status {status}"), *count));
        let kinds = [
            ("connect", failures.connect),
            ("tls", failures.tls),
            ("cut", failures.cut),
            ("timeout", failures.timeout),
            ("abandoned clients", failures.abandoned),
            ("WRONG ID", failures.wrong_id),
            ("WRONG BODY", failures.wrong_body),
            ("MALFORMED", failures.malformed),
        ];
        let kinds = kinds.into_iter().map(|(kind, count)| (kind.to_owned(), count)).chain(statuses);
        let shown: Vec<_> =
            kinds.filter(|(_, count)| *count > 0).map(|(kind, count)| format!("{count} {kind}")).collect();
        if shown.is_empty() { "none".into() } else { shown.join(", ") }
    }
}

impl ProcessReport {
    fn cpu(&self) -> String {
        let Some((micros, each)) = self.cpu_micros.zip(self.cpu_micros_per_request) else {
            return "not readable".into();
        };
        let idle = self
            .idle_cpu_percent
            .map(|percent| format!(", idle {percent:.3} % of a core"))
            .unwrap_or_default();
        format!("{each:.1} µs/request ({:.2} s in all){idle}", micros as f64 / 1e6)
    }

    fn memory(&self) -> String {
        let shown =
            |bytes: Option<u64>| bytes.map_or("?".into(), |bytes| format!("{:.1}", bytes as f64 / 1e6));
        let each = self.resident_per_connection.map_or("?".into(), |bytes| format!("{:.0}", bytes));
        format!(
            "{} MB before, {} connected, {} at the end; {each} bytes per connection",
            shown(self.resident_before),
            shown(self.resident_connected),
            shown(self.resident_after)
        )
    }
}

fn times(times: &Percentiles) -> String {
    let Percentiles { p50_ms, p90_ms, p99_ms, p999_ms, max_ms, .. } = times;
    format!("p50 {p50_ms:.3}  p90 {p90_ms:.3}  p99 {p99_ms:.3}  p99.9 {p999_ms:.3}  max {max_ms:.3} ms")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(failures: Failures, allows: bool) -> Report {
        Report::new(&Tally { failures, ..Tally::default() }, &Moments::default(), &[], 1, 1, allows)
    }

    #[test]
    fn clean_failures_can_be_allowed_and_wrong_answers_never() {
        let cut = Failures { cut: 1, status: [(503, 2)].into(), ..Failures::default() };
        assert!(!report(cut.clone(), false).passed && report(cut, true).passed);
        for wrong in [
            Failures { wrong_id: 1, ..Failures::default() },
            Failures { wrong_body: 1, ..Failures::default() },
            Failures { malformed: 1, ..Failures::default() },
            Failures { abandoned: 1, ..Failures::default() },
            Failures { status: [(404, 1)].into(), ..Failures::default() },
        ] {
            assert!(!report(wrong, true).passed);
        }
    }

    #[test]
    fn cpu_is_told_per_measured_request() {
        let snapshot = |seconds, answers, micros| Snapshot {
            at: Duration::from_secs(seconds),
            answers,
            own_cpu: Duration::from_micros(micros),
            usages: vec![Usage { cpu_micros: Some(micros * 2), resident: Some(micros * 10) }],
        };
        let moments = Moments {
            before: snapshot(0, 0, 0),
            connected: snapshot(1, 0, 100),
            begin: snapshot(1, 50, 100),
            end: snapshot(3, 250, 2_100),
            idle: None,
        };
        let watched = [Watched { name: "gateway".into(), pids: vec![1] }];
        let report = Report::new(&Tally::default(), &moments, &watched, 10, 1, false);
        assert_eq!(
            (report.measured_requests, report.rate, report.own_cpu_micros_per_request),
            (200, 100.0, 10.0)
        );
        assert_eq!(report.processes[0].cpu_micros_per_request, Some(20.0));
        assert_eq!(report.processes[0].resident_per_connection, Some(100.0));
        assert!(report.table().contains("20.0 µs/request"));
    }
}
