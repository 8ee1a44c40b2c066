//! The flags that say what is reported, and where to.

use super::journal::Journal;
use super::objective::Objective;
use super::summary::Report;
use super::timeline::Timeline;
use super::{hdr, page};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// The flags of reports.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Report")]
pub struct Output {
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the report as one HTML page with charts, which needs no network
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Write latency as an HDR histogram log in microseconds, an entry for each interval
    #[arg(long, value_name = "FILE")]
    pub hdr: Option<PathBuf>,
    /// Write each failure as a line of JSON, with moment, kind, target, id, status and reason, and each time of 100 ms or more in
    /// which a target gave a thread no right answer
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// A figure and its bound, or the run ends with code 3: p99<5ms (mean, p50, p90, p99.9, p99.99, max; of a step p99:STEP,
    /// of connecting handshake:p99), rate>=2000, requests, errors<=0, unsent, unread, and of a watched process
    /// cpu:gateway<=12us (user, system), syscalls:gateway<0.5, switches, rss:gateway<=7000 (bytes per connection), peak.
    /// Several are allowed
    #[arg(long = "objective", value_name = "OBJECTIVE", value_parser = parse_objective)]
    pub objectives: Vec<Objective>,
    /// Go on asking for so long behind the measured time, and count system calls of the watched processes
    #[arg(long, value_name = "SECONDS", requires = "duration", value_parser = crate::clients::options::seconds)]
    pub count_syscalls: Option<Duration>,
}

fn parse_objective(text: &str) -> Result<Objective, String> {
    text.parse()
}

impl Output {
    /// Refuses objectives that can never be met with these processes. Errors: a text for the user.
    pub fn check<'a>(&self, processes: impl Iterator<Item = &'a str>) -> Result<(), String> {
        let processes: Vec<_> = processes.collect();
        if self.count_syscalls.is_some() && processes.is_empty() {
            return Err("--count-syscalls counts those of watched processes: give --pids or --up".into());
        }
        self.objectives
            .iter()
            .try_for_each(|objective| objective.check(&processes, self.count_syscalls.is_some()))
    }

    /// Judges the objectives.
    pub fn judge(&self, report: &mut Report) {
        report.objectives = self.objectives.iter().map(|objective| objective.judge(report)).collect();
    }

    /// Writes the files asked for. `started` is when the run began.
    pub fn write(&self, report: &Report, timeline: &Timeline, started: SystemTime) -> io::Result<()> {
        if let Some(file) = &self.json {
            let text = serde_json::to_string_pretty(report).map_err(io::Error::from)?;
            put(file, (text + "\n").as_bytes())?;
        }
        if let Some(file) = &self.hdr {
            put(file, &hdr::log(report, timeline, started)?)?;
        }
        if let Some(file) = &self.html {
            put(file, page::page(report, timeline).as_bytes())?;
        }
        Ok(())
    }

    /// Writes what happened one by one, when it was asked for. `began` is when the run's clock did.
    pub fn write_log(&self, journal: Journal, began: SystemTime, targets: &[SocketAddr]) -> io::Result<()> {
        self.log.as_ref().map_or(Ok(()), |file| put(file, &journal.lines(began, targets)))
    }
}

/// Writes a file, and names it when that fails.
pub fn put(file: &Path, bytes: &[u8]) -> io::Result<()> {
    std::fs::write(file, bytes)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", file.display())))
}
