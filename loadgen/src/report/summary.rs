//! Everything a run tells, drawn from what was counted and what processes used.
//!
//! This is what `--json` writes; `docs/loadgen-reports.md` describes each field. A field that changes its meaning, or goes,
//! raises [`VERSION`]; one that is added does not.

use super::drive::Drive;
use super::failures::Failures;
use super::moments::{CallWindow, Moments, Snapshot};
use super::objective::Verdict;
use super::provenance::Provenance;
use super::tally::Tally;
use super::timeline::{Column, Timeline};
use crate::machine::Machine;
use crate::process::{Cpu, Usage, Watched};
use hdrhistogram::{Counter, Histogram};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What the JSON of a report says it is.
pub const FORMAT: &str = "loadgen-report";
/// The version of that format.
pub const VERSION: u32 = 1;

/// Percentiles in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Percentiles {
    pub count: u64,
    pub mean_ms: f64,
    pub p50_ms: f64,
    pub p90_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub p9999_ms: f64,
    pub max_ms: f64,
}

impl Percentiles {
    /// Of what was recorded in microseconds.
    pub fn of<C: Counter>(times: &Histogram<C>) -> Self {
        let at = |quantile| millis(times.value_at_quantile(quantile));
        Self {
            count: times.len(),
            mean_ms: times.mean() / 1000.0,
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            p9999_ms: at(0.9999),
            max_ms: millis(times.max()),
        }
    }
}

fn millis(micros: u64) -> f64 {
    micros as f64 / 1000.0
}

/// One point of the percentile curve: this part of the requests took at most so long.
pub type CurvePoint = (f64, f64);

/// The percentile curve in milliseconds, with points ever closer to 1, as far as there are samples to tell them apart.
fn curve(times: &Histogram<u64>) -> Vec<CurvePoint> {
    let ticks_per_half = 10;
    let points = times.iter_quantiles(ticks_per_half);
    points.map(|point| (point.quantile_iterated_to(), millis(point.value_iterated_to()))).collect()
}

/// What a watched process used.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessReport {
    /// Its name.
    pub name: String,
    /// Its number, or theirs.
    pub pids: Vec<u32>,
    /// CPU microseconds over the measured time.
    pub cpu_micros: Option<u64>,
    /// The same, per right answer.
    pub cpu_micros_per_request: Option<f64>,
    /// Of these, in the program.
    pub user_micros_per_request: Option<f64>,
    /// Of these, in the kernel.
    pub system_micros_per_request: Option<f64>,
    /// Context switches of its threads that had nothing to do, per right answer.
    pub voluntary_switches_per_request: Option<f64>,
    /// Context switches of its threads that were made to wait, per right answer.
    pub involuntary_switches_per_request: Option<f64>,
    /// System calls per right answer, counted behind the measured time.
    pub syscalls_per_request: Option<f64>,
    /// Why system calls could not be counted, though it was asked.
    pub syscalls_unreadable: Option<String>,
    /// Resident bytes before the first connection.
    pub resident_before: Option<u64>,
    /// Resident bytes when all were connected.
    pub resident_connected: Option<u64>,
    /// Resident bytes at the end.
    pub resident_after: Option<u64>,
    /// The most that ever was resident.
    pub resident_peak: Option<u64>,
    /// Growth until all were connected, per connection.
    pub resident_per_connection: Option<f64>,
    /// While all connections were idle (`--hold`): percent of one core.
    pub idle_cpu_percent: Option<f64>,
}

/// One interval of the run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Its begin, in seconds since the start of the run.
    pub at: f64,
    /// Its length in seconds.
    pub seconds: f64,
    /// Whether it is of the measured time.
    pub measured: bool,
    /// Right answers per second.
    pub rate: f64,
    /// Of its right answers.
    pub latency: Percentiles,
    /// What failed.
    pub failures: u64,
    /// Connections made.
    pub connects: u64,
    /// Requests the server closed unread.
    pub closed_unread: u64,
    /// Connections open at its end.
    pub open: u64,
}

/// Processes between two looks at them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProcessPoint {
    /// The second look, in seconds since the start of the run.
    pub at: f64,
    /// Percent of one core used since the first, by process.
    pub cpu_percent: Vec<Option<f64>>,
    /// Resident bytes, by process.
    pub resident: Vec<Option<u64>>,
}

/// Everything a run tells.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`FORMAT`].
    pub format: String,
    /// [`VERSION`].
    pub version: u32,
    /// Program, date, seed and flags.
    pub run: Provenance,
    /// Where it ran.
    pub machine: Machine,
    /// Connections held.
    pub connections: u32,
    /// Threads.
    pub threads: u16,
    /// Whether all is as it must be; objectives are told apart.
    pub passed: bool,
    /// What was wanted, and whether it was met.
    pub objectives: Vec<Verdict>,
    /// Right answers, all of them.
    pub requests: u64,
    /// Right answers in the measured time.
    pub measured_requests: u64,
    /// The measured time.
    pub seconds: f64,
    /// When it began, in seconds since the start of the run.
    pub measured_from: f64,
    /// Right answers per second of it.
    pub rate: f64,
    /// Connections made.
    pub connects: u64,
    /// What failed.
    pub failures: Failures,
    /// What the first failure said.
    pub first_failure: Option<String>,
    /// Right answers by status.
    pub statuses: BTreeMap<u16, u64>,
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
    /// Parts of the measured requests, and the milliseconds they took at most.
    pub latency_curve: Vec<CurvePoint>,
    /// The same for each named step; empty when there is only one.
    pub steps: BTreeMap<String, Percentiles>,
    /// Connect and TLS.
    pub handshake: Percentiles,
    /// CPU of loadgen per right answer.
    pub own_cpu_micros_per_request: f64,
    /// Length of the idle window (`--hold`).
    pub idle_seconds: f64,
    /// The processes watched.
    pub processes: Vec<ProcessReport>,
    /// How the load was driven; the engine fills it in.
    #[serde(default)]
    pub drive: Drive,
    /// The run over time.
    pub timeline: Vec<Point>,
    /// The watched processes over time, in their order.
    pub process_timeline: Vec<ProcessPoint>,
}

/// All that a report is drawn from.
#[derive(Debug)]
pub struct Sources<'a> {
    /// What threads counted.
    pub tally: &'a Tally,
    /// The run over time; finished.
    pub timeline: &'a Timeline,
    /// When what began.
    pub moments: &'a Moments,
    /// Processes watched.
    pub watched: &'a [Watched],
    /// System calls, when they were counted.
    pub calls: Option<&'a CallWindow>,
    /// Names of steps, in their order.
    pub steps: &'a [String],
    /// Connections held.
    pub connections: u32,
    /// Threads.
    pub threads: u16,
    /// Whether clean failures do not fail the run.
    pub allows_failures: bool,
    /// What made the run.
    pub run: Provenance,
    /// Where.
    pub machine: Machine,
}

impl Report {
    /// Draws the sum.
    pub fn new(sources: Sources<'_>) -> Self {
        let Sources { tally, timeline, moments, watched, .. } = sources;
        let Moments { begin, end, idle, .. } = moments;
        let measured_requests = end.answers - begin.answers;
        let seconds = (end.at.saturating_sub(begin.at)).as_secs_f64();
        let failures = tally.failures.clone();
        let own_micros = end.own_cpu.saturating_sub(begin.own_cpu).as_micros() as f64;
        Self {
            format: FORMAT.into(),
            version: VERSION,
            connections: sources.connections,
            threads: sources.threads,
            passed: failures.hard() == 0 && (sources.allows_failures || failures.clean() == 0),
            objectives: Vec::new(),
            requests: tally.answers,
            measured_requests,
            seconds,
            measured_from: begin.at.as_secs_f64(),
            rate: if seconds > 0.0 { measured_requests as f64 / seconds } else { 0.0 },
            connects: tally.connects,
            failures,
            first_failure: tally.first_failure.clone(),
            statuses: tally.right_statuses(),
            closed_idle: tally.closed_idle,
            closed_unread: tally.closed_unread,
            received: tally.received,
            sent: tally.sent,
            latency: Percentiles::of(&tally.latency),
            latency_curve: curve(&tally.latency),
            steps: steps(sources.steps, tally),
            handshake: Percentiles::of(&tally.handshake),
            own_cpu_micros_per_request: per(own_micros, measured_requests).unwrap_or_default(),
            idle_seconds: idle.as_ref().map_or(0.0, |(from, to)| to.at.saturating_sub(from.at).as_secs_f64()),
            processes: watched
                .iter()
                .enumerate()
                .map(|(index, watched)| process(index, watched, &sources))
                .collect(),
            drive: Drive::default(),
            timeline: points(timeline, moments),
            process_timeline: process_points(timeline),
            run: sources.run,
            machine: sources.machine,
        }
    }
}

fn per(amount: f64, requests: u64) -> Option<f64> {
    (requests > 0).then(|| amount / requests as f64)
}

fn steps(names: &[String], tally: &Tally) -> BTreeMap<String, Percentiles> {
    let used = names.iter().zip(&tally.steps).filter(|(_, times)| !times.is_empty());
    used.map(|(name, times)| (name.clone(), Percentiles::of(times))).collect()
}

fn process(index: usize, watched: &Watched, sources: &Sources<'_>) -> ProcessReport {
    let Moments { before, connected, begin, end, idle } = sources.moments;
    let requests = end.answers - begin.answers;
    let usage = |snapshot: &Snapshot| snapshot.usages.get(index).copied().unwrap_or_default();
    let between =
        |from: &Snapshot, to: &Snapshot| -> Option<Cpu> { Some(usage(to).cpu?.since(usage(from).cpu?)) };
    let cpu = between(begin, end);
    let each = |micros: Option<u64>| per(micros? as f64, requests);
    let switches = usage(end).switches.zip(usage(begin).switches).map(|(end, begin)| end.since(begin));
    let growth =
        |Usage { resident, .. }: Usage, before: Usage| Some(resident? as f64 - before.resident? as f64);
    let calls = sources.calls.and_then(|window| Some((window.calls.get(index)?, window.answers)));
    ProcessReport {
        name: watched.name.clone(),
        pids: watched.pids.clone(),
        cpu_micros: cpu.map(Cpu::all),
        cpu_micros_per_request: each(cpu.map(Cpu::all)),
        user_micros_per_request: each(cpu.map(|cpu| cpu.user)),
        system_micros_per_request: each(cpu.map(|cpu| cpu.system)),
        voluntary_switches_per_request: each(switches.map(|switches| switches.voluntary)),
        involuntary_switches_per_request: each(switches.map(|switches| switches.involuntary)),
        syscalls_per_request: calls.and_then(|(calls, answers)| per(*calls.as_ref().ok()? as f64, answers)),
        syscalls_unreadable: calls.and_then(|(calls, answers)| match calls {
            Ok(_) if answers == 0 => Some("no right answer while they were counted".into()),
            Ok(_) => None,
            Err(reason) => Some(reason.clone()),
        }),
        resident_before: usage(before).resident,
        resident_connected: usage(connected).resident,
        resident_after: usage(end).resident,
        resident_peak: usage(end).resident_peak,
        resident_per_connection: growth(usage(connected), usage(before))
            .map(|bytes| bytes / f64::from(sources.connections)),
        idle_cpu_percent: idle.as_ref().filter(|(from, to)| to.at > from.at).and_then(|(from, to)| {
            let span = (to.at - from.at).as_micros() as f64;
            Some(between(from, to)?.all() as f64 / span * 100.0)
        }),
    }
}

fn points(timeline: &Timeline, moments: &Moments) -> Vec<Point> {
    let (begin, end) = (moments.begin.at.as_secs_f64(), moments.end.at.as_secs_f64());
    // A second in which measuring began or ended has two parts.
    let span = |second: u64, is_measured| {
        let (from, to) = (second as f64, (second + timeline.width) as f64);
        let inner = if is_measured {
            (from.max(begin), to.min(end))
        } else if from < begin {
            (from, to.min(begin))
        } else {
            (from.max(end), to)
        };
        // Answers to what was measured may come when measuring is over.
        if inner.1 > inner.0 { inner } else { (from, to) }
    };
    let point = |column: &Column| {
        let (from, to) = span(column.second, column.is_measured);
        let seconds = to - from;
        Point {
            at: from,
            seconds,
            measured: column.is_measured,
            rate: column.answers as f64 / seconds,
            latency: Percentiles::of(&column.latency()),
            failures: column.events.failures,
            connects: column.events.connects,
            closed_unread: column.events.closed_unread,
            open: column.events.open,
        }
    };
    timeline.columns().iter().map(point).collect()
}

fn process_points(timeline: &Timeline) -> Vec<ProcessPoint> {
    let pairs = timeline.looks().windows(2);
    pairs
        .filter(|pair| pair[1].at > pair[0].at)
        .map(|pair| {
            let span = (pair[1].at - pair[0].at).as_micros() as f64;
            let glances = pair[0].glances.iter().zip(&pair[1].glances);
            ProcessPoint {
                at: pair[1].at.as_secs_f64(),
                cpu_percent: glances
                    .map(|(from, to)| Some(to.cpu?.since(from.cpu?).all() as f64 / span * 100.0))
                    .collect(),
                resident: pair[1].glances.iter().map(|glance| glance.resident).collect(),
            }
        })
        .collect()
}
