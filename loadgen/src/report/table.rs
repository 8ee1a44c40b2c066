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
