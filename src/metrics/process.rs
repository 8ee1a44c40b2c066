//! What every role shows of its process, under the names that all Prometheus clients use.

use std::collections::BTreeMap;
use std::time::Instant;

use super::page::Page;

/// When the process began, as far as a role knows.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    instant: Instant,
    at: jiff::Timestamp,
}

impl Start {
    /// Now.
    pub fn now() -> Start {
        Start { instant: Instant::now(), at: jiff::Timestamp::now() }
    }

    /// Whole seconds since then.
    pub fn uptime_secs(&self) -> u64 {
        self.instant.elapsed().as_secs()
    }

    /// The time of day it was, to the second.
    pub fn at(&self) -> String {
        self.at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    }
}

/// Adds how large the tasks of the process are, by kind.
pub fn describe_tasks(page: &mut Page, sizes: &BTreeMap<&'static str, usize>) {
    let mut rows = page.gauge("cmg_task_bytes", "Bytes of a task of this kind, as far as any was started.");
    for (kind, size) in sizes {
        rows.count(&[("task", kind)], *size as u64);
    }
}

/// Adds what the kernel knows of this process, and which build of which role it is. What cannot be read
/// is left out.
pub fn describe_process(page: &mut Page, component: &str) {
    page.gauge("cmg_build_info", "Always 1; its labels say which build this is.")
        .count(&[("version", &env!("CARGO_PKG_VERSION")), ("component", &component)], 1);
    #[cfg(feature = "count-allocations")]
    describe_allocations(page);
    let Ok(process) = procfs::process::Process::myself() else { return };
    if let Ok(stat) = process.stat() {
        let tick = procfs::ticks_per_second() as f64;
        page.counter("process_cpu_seconds_total", "CPU time used, of user and system, in seconds.")
            .row(&[], (stat.utime + stat.stime) as f64 / tick);
        page.gauge("process_resident_memory_bytes", "Resident memory.")
            .count(&[], stat.rss * procfs::page_size());
        page.gauge("process_virtual_memory_bytes", "Virtual memory.").count(&[], stat.vsize);
        page.gauge("process_threads", "Threads of the process.").row(&[], stat.num_threads as f64);
        if let Ok(boot) = procfs::boot_time_secs() {
            page.gauge("process_start_time_seconds", "Start of the process, in seconds since 1970.")
                .row(&[], boot as f64 + stat.starttime as f64 / tick);
        }
    }
    if let Ok(count) = process.fd_count() {
        page.gauge(
            "process_open_fds",
            "Open file descriptors; those of a ring's own table are not among them.",
        )
        .count(&[], count as u64);
    }
    let limit = process.limits().map(|limits| limits.max_open_files.soft_limit);
    if let Ok(procfs::process::LimitValue::Value(most)) = limit {
        page.gauge("process_max_fds", "Open file descriptors that the process may have.").count(&[], most);
    }
}

#[cfg(feature = "count-allocations")]
fn describe_allocations(page: &mut Page) {
    let mut rows = page.counter("cmg_allocations_total", "Allocations of the shards' threads.");
    for (whose, count) in crate::allocations::counts() {
        rows.count(&[("whose", &whose)], count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_is_described_in_base_units() {
        let mut page = Page::default();
        describe_process(&mut page, "test");
        let text = page.text();
        let value = |name: &str| -> f64 {
            let line = text.lines().find(|line| line.split([' ', '{']).next() == Some(name));
            line.unwrap_or_else(|| panic!("{name}: {text}")).rsplit(' ').next().unwrap().parse().unwrap()
        };
        assert_eq!(value("cmg_build_info"), 1.0);
        assert!(value("process_resident_memory_bytes") > 1e5);
        assert!(value("process_cpu_seconds_total") >= 0.0);
        assert!(value("process_open_fds") >= 3.0 && value("process_open_fds") <= value("process_max_fds"));
        let now = jiff::Timestamp::now().as_second() as f64;
        let age = now - value("process_start_time_seconds");
        assert!((-5.0..3600.0 * 24.0).contains(&age), "{age}");
    }
}
