//! Objectives of a run: `p99<5ms`, `cpu:gateway<=12us`, `errors<=0`; parsed once, judged against a report.

use super::summary::{Percentiles, ProcessReport, Report};
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// A figure, and the bound it must keep.
#[derive(Clone, Debug, PartialEq)]
pub struct Objective {
    metric: Metric,
    relation: Relation,
    /// In the metric's own unit.
    bound: f64,
    /// As it was given.
    text: String,
}

/// A figure of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Metric {
    /// Of latency, or of the latency of a named step.
    Time(Time, Option<String>),
    /// Of connect and TLS.
    Handshake(Time),
    Rate,
    Requests,
    Errors,
    Unread,
    /// Of a named process.
    Process(ProcessMetric, String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Time {
    Mean,
    P50,
    P90,
    P99,
    P999,
    P9999,
    Max,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ProcessMetric {
    Cpu,
    User,
    System,
    Syscalls,
    Switches,
    ResidentEach,
    ResidentPeak,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    Less,
    AtMost,
    More,
    AtLeast,
}

/// What became of an objective.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The objective as it was given.
    pub objective: String,
    /// What was found, in milliseconds, microseconds, bytes or as a number; nothing when it could not be read.
    pub found: Option<f64>,
    /// The unit of it.
    pub unit: String,
    /// Whether it was met. What could not be read is not met.
    pub met: bool,
}

const TIMES: &[(&str, Time)] = &[
    ("mean", Time::Mean),
    ("p50", Time::P50),
    ("p90", Time::P90),
    ("p99", Time::P99),
    ("p99.9", Time::P999),
    ("p99.99", Time::P9999),
    ("max", Time::Max),
];
const WHOLES: &[(&str, Metric)] = &[
    ("rate", Metric::Rate),
    ("requests", Metric::Requests),
    ("errors", Metric::Errors),
    ("unread", Metric::Unread),
];
const PROCESSES: &[(&str, ProcessMetric)] = &[
    ("cpu", ProcessMetric::Cpu),
    ("user", ProcessMetric::User),
    ("system", ProcessMetric::System),
    ("syscalls", ProcessMetric::Syscalls),
    ("switches", ProcessMetric::Switches),
    ("rss", ProcessMetric::ResidentEach),
    ("peak", ProcessMetric::ResidentPeak),
];
const RELATIONS: &[(&str, Relation)] =
    &[("<=", Relation::AtMost), (">=", Relation::AtLeast), ("<", Relation::Less), (">", Relation::More)];

impl FromStr for Objective {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let at = text.find(['<', '>']).ok_or("expected FIGURE<BOUND, <=, > or >=, like p99<5ms")?;
        let (mark, relation) = RELATIONS
            .iter()
            .find(|(mark, _)| text[at..].starts_with(mark))
            .ok_or("expected <, <=, > or >=")?;
        let metric = Metric::from_str(text[..at].trim())?;
        let bound = metric.read_bound(text[at + mark.len()..].trim())?;
        Ok(Self { metric, relation: *relation, bound, text: text.to_owned() })
    }
}

impl FromStr for Metric {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, of) = match text.split_once(':') {
            Some((_, "")) => return Err(format!("{text:?} names nothing behind its colon")),
            Some((name, of)) => (name, Some(of.to_owned())),
            None => (text, None),
        };
        if let Some(time) = find(TIMES, name) {
            return Ok(Self::Time(*time, of));
        }
        match (find(WHOLES, name), find(PROCESSES, name), of) {
            (Some(metric), _, None) => Ok(metric.clone()),
            (Some(_), _, Some(_)) => Err(format!("{name} is of the whole run and takes no name")),
            (_, Some(metric), Some(of)) => Ok(Self::Process(*metric, of)),
            (_, Some(_), None) => Err(format!("{name} is of a process: {name}:NAME")),
            (None, None, Some(of)) if name == "handshake" => find(TIMES, &of)
                .map(|time| Self::Handshake(*time))
                .ok_or_else(|| format!("handshake:{of} is no figure: {} are", names(TIMES))),
            (None, None, _) => Err(format!(
                "{name:?} is no figure: {} and handshake:p99 of time, {}, and of a process {}",
                names(TIMES),
                names(WHOLES),
                names(PROCESSES)
            )),
        }
    }
}

fn find<'a, T>(table: &'a [(&str, T)], name: &str) -> Option<&'a T> {
    table.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
}

fn names<T>(table: &[(&str, T)]) -> String {
    table.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

/// Units by the figure's own.
const MILLIS: &[(&str, f64)] = &[("ms", 1.0), ("us", 0.001), ("µs", 0.001), ("s", 1000.0)];
const MICROS: &[(&str, f64)] = &[("us", 1.0), ("µs", 1.0), ("ms", 1000.0), ("ns", 0.001)];
const BYTES: &[(&str, f64)] =
    &[("B", 1.0), ("KB", 1e3), ("MB", 1e6), ("GB", 1e9), ("KiB", 1024.0), ("MiB", 1_048_576.0)];

impl Metric {
    fn units(&self) -> &'static [(&'static str, f64)] {
        match self {
            Self::Time(..) | Self::Handshake(_) => MILLIS,
            Self::Process(ProcessMetric::Cpu | ProcessMetric::User | ProcessMetric::System, _) => MICROS,
            Self::Process(ProcessMetric::ResidentEach | ProcessMetric::ResidentPeak, _) => BYTES,
            Self::Process(ProcessMetric::Syscalls | ProcessMetric::Switches, _) => &[],
            Self::Rate | Self::Requests | Self::Errors | Self::Unread => &[],
        }
    }

    /// The unit in which it is found.
    fn unit(&self) -> &'static str {
        self.units().first().map_or("", |(unit, _)| unit)
    }

    fn read_bound(&self, text: &str) -> Result<f64, String> {
        let digits = text.find(|char: char| !char.is_ascii_digit() && char != '.').unwrap_or(text.len());
        let (number, unit) = (&text[..digits], text[digits..].trim());
        let number: f64 = number.parse().map_err(|_| format!("{text:?} is no bound: expected a number"))?;
        let units = self.units();
        let known = || units.iter().map(|(unit, _)| *unit).collect::<Vec<_>>().join(", ");
        match unit {
            // A time without its unit would be read as milliseconds by one and seconds by another.
            "" if units.is_empty() || std::ptr::eq(units, BYTES) => Ok(number),
            "" => Err(format!("{text:?} has no unit: one of {}", known())),
            unit if units.is_empty() => Err(format!("{unit:?}: this figure has no unit")),
            unit => {
                let factor = units.iter().find(|(known, _)| *known == unit).map(|(_, factor)| factor);
                Ok(number
                    * factor.ok_or_else(|| format!("{unit:?} is no unit of this figure: {}", known()))?)
            }
        }
    }

    fn find(&self, report: &Report) -> Option<f64> {
        match self {
            Self::Time(time, None) => time.of(&report.latency),
            Self::Time(time, Some(step)) => time.of(report.steps.get(step)?),
            Self::Handshake(time) => time.of(&report.handshake),
            Self::Rate => Some(report.rate),
            Self::Requests => Some(report.measured_requests as f64),
            Self::Errors => Some(report.failures.all() as f64),
            Self::Unread => Some(report.closed_unread as f64),
            Self::Process(metric, name) => {
                metric.of(report.processes.iter().find(|process| process.name == *name)?)
            }
        }
    }
}

impl Time {
    /// Nothing when nothing was recorded: no answer is not a fast answer.
    fn of(self, times: &Percentiles) -> Option<f64> {
        let value = match self {
            Self::Mean => times.mean_ms,
            Self::P50 => times.p50_ms,
            Self::P90 => times.p90_ms,
            Self::P99 => times.p99_ms,
            Self::P999 => times.p999_ms,
            Self::P9999 => times.p9999_ms,
            Self::Max => times.max_ms,
        };
        (times.count > 0).then_some(value)
    }
}

impl ProcessMetric {
    fn of(self, process: &ProcessReport) -> Option<f64> {
        match self {
            Self::Cpu => process.cpu_micros_per_request,
            Self::User => process.user_micros_per_request,
            Self::System => process.system_micros_per_request,
            Self::Syscalls => process.syscalls_per_request,
            Self::Switches => {
                Some(process.voluntary_switches_per_request? + process.involuntary_switches_per_request?)
            }
            Self::ResidentEach => process.resident_per_connection,
            Self::ResidentPeak => process.resident_peak.map(|bytes| bytes as f64),
        }
    }
}

impl Objective {
    /// Whether `report` meets it.
    pub fn judge(&self, report: &Report) -> Verdict {
        let found = self.metric.find(report);
        let met = found.is_some_and(|found| match self.relation {
            Relation::Less => found < self.bound,
            Relation::AtMost => found <= self.bound,
            Relation::More => found > self.bound,
            Relation::AtLeast => found >= self.bound,
        });
        Verdict { objective: self.text.clone(), found, unit: self.metric.unit().into(), met }
    }

    /// Why it never can be met with these processes and flags; found before a run rather than behind it.
    pub fn check(&self, processes: &[&str], counts_syscalls: bool) -> Result<(), String> {
        match &self.metric {
            Metric::Process(_, name) if !processes.contains(&name.as_str()) => Err(format!(
                "--objective {}: no process {name:?} is watched; give --pids {name}=PID",
                self.text
            )),
            Metric::Process(ProcessMetric::Syscalls, _) if !counts_syscalls => Err(format!(
                "--objective {}: system calls are counted with --count-syscalls SECONDS",
                self.text
            )),
            _ => Ok(()),
        }
    }
}

impl Verdict {
    /// What was found, with its unit.
    pub fn shown(&self) -> String {
        let Some(found) = self.found else { return "not readable".into() };
        match self.unit.as_str() {
            "" if found.fract() == 0.0 => format!("{found:.0}"),
            "" => format!("{found:.3}"),
            "B" => format!("{found:.0} B"),
            unit => format!("{found:.3} {unit}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            latency: Percentiles { count: 10, p50_ms: 1.0, p99_ms: 5.0, p999_ms: 7.5, ..Default::default() },
            steps: [("policy".to_owned(), Percentiles { count: 1, p99_ms: 2.0, ..Default::default() })]
                .into(),
            rate: 2000.0,
            processes: vec![ProcessReport {
                name: "gateway".into(),
                cpu_micros_per_request: Some(12.0),
                resident_per_connection: Some(7168.0),
                ..ProcessReport::default()
            }],
            ..Report::default()
        }
    }

    #[test]
    fn bounds_are_met_or_missed() {
        for (text, met) in [
            ("p99<5ms", false),
            ("p99<=5ms", true),
            ("p99 <= 0.005 s", true),
            ("p50<1001us", true),
            ("p99.9>7ms", true),
            ("p99:policy<=2ms", true),
            ("rate>=2000", true),
            ("rate>2000", false),
            ("errors<=0", true),
            ("cpu:gateway<=12us", true),
            ("cpu:gateway<=11.9µs", false),
            ("rss:gateway<=7000", false),
            ("rss:gateway<=7KiB", true),
            // What was not recorded or read is never met.
            ("p99:location<1s", false),
            ("handshake:p99<1s", false),
            ("syscalls:gateway<0.5", false),
            ("cpu:connector<1ms", false),
        ] {
            let objective: Objective = text.parse().expect(text);
            assert_eq!(objective.judge(&report()).met, met, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_with_an_objective_is_said() {
        for (text, mention) in [
            ("p99", "expected FIGURE<BOUND"),
            ("p98<5ms", "p99.9"),
            ("p99<5", "has no unit"),
            ("p99<ms", "expected a number"),
            ("p99<5MB", "ms, us"),
            ("rate>=5ms", "has no unit"),
            ("rate:x>=5", "takes no name"),
            ("cpu<5us", "cpu:NAME"),
            ("cpu:<5us", "names nothing"),
            ("handshake:p98<5ms", "p99"),
            ("p99=5ms", "expected FIGURE<BOUND"),
            ("", "expected FIGURE<BOUND"),
        ] {
            let error = text.parse::<Objective>().expect_err(text);
            assert!(error.contains(mention), "{text}: {error}");
        }
    }

    #[test]
    fn an_objective_that_never_can_be_met_is_refused() {
        let check = |text: &str, counts| text.parse::<Objective>().expect(text).check(&["gateway"], counts);
        assert!(check("cpu:gateway<1us", false).is_ok() && check("p99<1s", false).is_ok());
        assert!(check("cpu:nginx<1us", false).is_err_and(|error| error.contains("--pids nginx=PID")));
        assert!(check("syscalls:gateway<1", true).is_ok());
        assert!(check("syscalls:gateway<1", false).is_err_and(|error| error.contains("--count-syscalls")));
    }

    #[test]
    fn what_was_found_is_shown_in_its_unit() {
        let shown = |text: &str| text.parse::<Objective>().expect(text).judge(&report()).shown();
        assert_eq!(shown("p99.9<1s"), "7.500 ms");
        assert_eq!(shown("rss:gateway<1"), "7168 B");
        assert_eq!(shown("rate>1"), "2000");
        assert_eq!(shown("syscalls:gateway<1"), "not readable");
    }
}
