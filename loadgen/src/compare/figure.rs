//! The figures of two sides: medians, ranges and ratios.

use crate::report::{Percentiles, Report};
use serde::Serialize;

/// Which way a figure is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// Smaller.
    Less,
    /// Greater.
    More,
}

/// A clear case: all runs of B are on one side of all runs of A.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Clear {
    /// B is better.
    Better,
    /// B is worse.
    Worse,
}

impl Clear {
    /// For a table.
    pub fn word(self) -> &'static str {
        match self {
            Self::Better => "B better",
            Self::Worse => "B worse",
        }
    }
}

/// Runs of each side below which ranges say nothing.
const RUNS_MIN: usize = 3;

struct Figure {
    name: String,
    unit: &'static str,
    better: Better,
    value: Option<f64>,
}

/// A figure of two sides.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compared {
    /// What it is.
    pub name: String,
    /// Its unit.
    pub unit: &'static str,
    /// Which way it is better.
    pub better: Better,
    /// Median of one side.
    pub a: Option<f64>,
    /// Median of the other.
    pub b: Option<f64>,
    /// `b / a`.
    pub ratio: Option<f64>,
    /// Least and most of one side.
    pub a_range: Option<(f64, f64)>,
    /// Least and most of the other.
    pub b_range: Option<(f64, f64)>,
    /// Whether, with at least three runs each, the ranges stand apart.
    pub clear: Option<Clear>,
}

impl Compared {
    /// Its name with its unit.
    pub fn title(&self) -> String {
        if self.unit.is_empty() { self.name.clone() } else { format!("{}, {}", self.name, self.unit) }
    }

    /// A value in digits that suit it.
    pub fn shown(&self, value: Option<f64>) -> String {
        match value {
            None => "–".into(),
            Some(value) if value.fract() == 0.0 && value.abs() < 1e15 => format!("{value:.0}"),
            Some(value) if value >= 1000.0 => format!("{value:.0}"),
            Some(value) if value >= 10.0 => format!("{value:.2}"),
            Some(value) => format!("{value:.3}"),
        }
    }
}

fn figures(report: &Report) -> Vec<Figure> {
    let mut figures = Vec::new();
    let mut add = |name: String, unit, better, value| figures.push(Figure { name, unit, better, value });
    add("rate".into(), "requests/s", Better::More, Some(report.rate));
    let times = |times: &Percentiles| {
        let Percentiles { count, mean_ms, p50_ms, p90_ms, p99_ms, p999_ms, p9999_ms, max_ms } = *times;
        let all = [
            ("mean", mean_ms),
            ("p50", p50_ms),
            ("p90", p90_ms),
            ("p99", p99_ms),
            ("p99.9", p999_ms),
            ("p99.99", p9999_ms),
            ("max", max_ms),
        ];
        all.map(|(name, ms)| (name, (count > 0).then_some(ms)))
    };
    for (name, value) in times(&report.latency) {
        add(format!("latency {name}"), "ms", Better::Less, value);
    }
    for (step, latency) in &report.steps {
        for (name, value) in times(latency).into_iter().filter(|(name, _)| ["p50", "p99"].contains(name)) {
            add(format!("{step} {name}"), "ms", Better::Less, value);
        }
    }
    for (name, value) in
        times(&report.handshake).into_iter().filter(|(name, _)| ["p50", "p99"].contains(name))
    {
        add(format!("connect and TLS {name}"), "ms", Better::Less, value);
    }
    add("failures".into(), "", Better::Less, Some(report.failures.all() as f64));
    add("closed unread".into(), "", Better::Less, Some(report.closed_unread as f64));
    for process in &report.processes {
        let name = &process.name;
        let switches = process.voluntary_switches_per_request.zip(process.involuntary_switches_per_request);
        let peak = process.resident_peak.map(|bytes| bytes as f64 / 1e6);
        for (what, unit, value) in [
            ("CPU", "µs/request", process.cpu_micros_per_request),
            ("user CPU", "µs/request", process.user_micros_per_request),
            ("system CPU", "µs/request", process.system_micros_per_request),
            ("system calls", "1/request", process.syscalls_per_request),
            ("switches", "1/request", switches.map(|(one, other)| one + other)),
            ("memory", "bytes/connection", process.resident_per_connection),
            ("peak memory", "MB", peak),
            ("idle CPU", "% of a core", process.idle_cpu_percent),
        ] {
            add(format!("{name} {what}"), unit, Better::Less, value);
        }
    }
    add("loadgen CPU".into(), "µs/request", Better::Less, Some(report.own_cpu_micros_per_request));
    figures
}

/// All figures that a run of either side has.
pub fn compare(a: &[Report], b: &[Report]) -> Vec<Compared> {
    let sides = [a, b].map(|reports| reports.iter().map(figures).collect::<Vec<_>>());
    let mut compared: Vec<Compared> = Vec::new();
    for figure in sides.iter().flatten().flatten() {
        if compared.iter().any(|known| known.name == figure.name) {
            continue;
        }
        let [a, b] = [0, 1].map(|side| values(&sides[side], &figure.name));
        if a.is_empty() && b.is_empty() {
            continue;
        }
        compared.push(one(figure, &a, &b));
    }
    compared
}

fn values(runs: &[Vec<Figure>], name: &str) -> Vec<f64> {
    let found = runs.iter().filter_map(|figures| figures.iter().find(|figure| figure.name == name)?.value);
    let mut found: Vec<_> = found.collect();
    found.sort_by(f64::total_cmp);
    found
}

fn one(figure: &Figure, a: &[f64], b: &[f64]) -> Compared {
    let range = |values: &[f64]| Some((*values.first()?, *values.last()?));
    let (a_range, b_range) = (range(a), range(b));
    let medians = (median(a), median(b));
    let clear = a_range.zip(b_range).filter(|_| a.len() >= RUNS_MIN && b.len() >= RUNS_MIN);
    let clear = clear.and_then(|(a, b)| match figure.better {
        _ if a.0 <= b.1 && b.0 <= a.1 => None,
        Better::Less => Some(if b.1 < a.0 { Clear::Better } else { Clear::Worse }),
        Better::More => Some(if b.1 < a.0 { Clear::Worse } else { Clear::Better }),
    });
    Compared {
        name: figure.name.clone(),
        unit: figure.unit,
        better: figure.better,
        a: medians.0,
        b: medians.1,
        ratio: medians.0.zip(medians.1).filter(|(a, _)| *a != 0.0).map(|(a, b)| b / a),
        a_range,
        b_range,
        clear,
    }
}

/// Of sorted values.
fn median(sorted: &[f64]) -> Option<f64> {
    let half = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[half]),
        _ => Some((sorted[half - 1] + sorted[half]) / 2.0),
    }
}
