//! A report as a table for people.

use super::summary::{Percentiles, ProcessReport, Report};
use std::fmt::Write;

impl Report {
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
        for (name, of) in &self.steps {
            row(&format!("  {name}"), format!("{}  ({})", times(of), of.count));
        }
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
            row(&format!("kernel {}", process.name), process.kernel());
        }
        for (name, value) in self.drive.rows() {
            row(name, value);
        }
        row("seed", self.run.seed.to_string());
        for verdict in &self.objectives {
            let met = if verdict.met { "met" } else { "MISSED" };
            row(&format!("objective {met}"), format!("{}, found {}", verdict.objective, verdict.shown()));
        }
        row("machine", self.place());
        row("result", self.result().into());
        out
    }

    /// Whether no objective was missed; that all that was planned is sent is one that nobody needs to state.
    pub fn met(&self) -> bool {
        self.drive.kept_plan() && self.objectives.iter().all(|verdict| verdict.met)
    }

    /// What became of the run, in a few words.
    pub fn result(&self) -> &'static str {
        match (self.passed, self.met()) {
            (false, _) => "FAILED",
            (true, false) if !self.drive.kept_plan() => "all right, but planned requests were NEVER SENT",
            (true, false) => "all right, but an objective was MISSED",
            (true, true) => "all right",
        }
    }

    /// Where it ran, in one line; `--json` has it all.
    fn place(&self) -> String {
        let fact = |name: &str| self.machine.0.get(name).cloned().unwrap_or_else(|| "?".into());
        format!(
            "{} x {}, kernel {}, {}, virtualisation {}, load {}",
            fact("cpus"),
            fact("cpu_model"),
            fact("kernel"),
            fact("congestion_control"),
            fact("virtualisation"),
            fact("load_average").split(' ').next().unwrap_or_default()
        )
    }

    /// What failed, by kind.
    pub fn errors(&self) -> String {
        self.failures.shown()
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
        let part = |part: Option<f64>| part.map_or("?".into(), |micros| format!("{micros:.1}"));
        let (user, system) = (part(self.user_micros_per_request), part(self.system_micros_per_request));
        format!(
            "{each:.1} µs/request, {user} user, {system} system ({:.2} s in all){idle}",
            micros as f64 / 1e6
        )
    }

    fn kernel(&self) -> String {
        let each = |count: Option<f64>| count.map_or("?".into(), |count| format!("{count:.3}"));
        let calls = match (&self.syscalls_per_request, &self.syscalls_unreadable) {
            (Some(calls), _) => format!("{calls:.3} system calls/request"),
            (None, Some(reason)) => format!("system calls not readable ({reason})"),
            (None, None) => "system calls not counted".into(),
        };
        format!(
            "{calls}, {} voluntary and {} involuntary switches/request",
            each(self.voluntary_switches_per_request),
            each(self.involuntary_switches_per_request)
        )
    }

    fn memory(&self) -> String {
        let shown =
            |bytes: Option<u64>| bytes.map_or("?".into(), |bytes| format!("{:.1}", bytes as f64 / 1e6));
        let each = self.resident_per_connection.map_or("?".into(), |bytes| format!("{:.0}", bytes));
        format!(
            "{} MB before, {} connected, {} at the end, {} at most; {each} bytes per connection",
            shown(self.resident_before),
            shown(self.resident_connected),
            shown(self.resident_after),
            shown(self.resident_peak)
        )
    }
}

/// Percentiles in one line.
pub fn times(times: &Percentiles) -> String {
    let Percentiles { p50_ms, p90_ms, p99_ms, p999_ms, max_ms, .. } = times;
    format!("p50 {p50_ms:.3}  p90 {p90_ms:.3}  p99 {p99_ms:.3}  p99.9 {p999_ms:.3}  max {max_ms:.3} ms")
}
