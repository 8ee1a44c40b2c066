//! `loadgen compare`: two runs, or the medians of several runs each, side by side.
//!
//! What differs between the runs besides their figures is told first: figures of different work, or of different machines,
//! say nothing of the programs measured.

mod difference;
mod figure;
mod load;
mod page;

use crate::report::{Report, put};
use difference::{Difference, differences};
use figure::{Compared, compare};
use serde::Serialize;
use std::fmt::Write;
use std::io;
use std::path::PathBuf;

/// What the JSON of a comparison says it is.
const FORMAT: &str = "loadgen-compare";
/// The version of that format.
const VERSION: u32 = 1;

/// The flags of `loadgen compare`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Two reports, as `loadgen clients --json` writes them
    #[arg(value_name = "FILE", num_args = 2, required_unless_present_all = ["a", "b"], conflicts_with_all = ["a", "b"])]
    pub files: Vec<PathBuf>,
    /// Reports of one side; their medians are compared
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "b")]
    pub a: Vec<PathBuf>,
    /// Reports of the other side
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "a")]
    pub b: Vec<PathBuf>,
    /// Write the comparison as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the comparison as one HTML page with charts
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// Why there is no comparison.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// A file is no report.
    #[error("{0}")]
    Input(String),
    /// The comparison could not be written.
    #[error("{0}")]
    Output(#[from] io::Error),
}

/// One side: runs of the same.
#[derive(Debug, Serialize)]
pub struct Side {
    /// Where the reports are.
    pub files: Vec<String>,
    #[serde(skip)]
    reports: Vec<Report>,
}

impl Side {
    fn load(files: &[PathBuf]) -> Result<Self, String> {
        Ok(Self {
            files: files.iter().map(|file| file.display().to_string()).collect(),
            reports: files.iter().map(|file| load::load(file)).collect::<Result<_, _>>()?,
        })
    }

    /// The run in the middle by its p99, to stand for all in a picture.
    fn middle(&self) -> Option<&Report> {
        let mut sorted: Vec<_> = self.reports.iter().collect();
        sorted.sort_by(|one, other| one.latency.p99_ms.total_cmp(&other.latency.p99_ms));
        sorted.get(sorted.len().saturating_sub(1) / 2).copied()
    }
}

/// Two sides, side by side.
#[derive(Debug, Serialize)]
pub struct Comparison {
    format: &'static str,
    version: u32,
    /// One side.
    pub a: Side,
    /// The other.
    pub b: Side,
    /// What differs besides figures.
    pub differences: Vec<Difference>,
    /// The figures.
    pub figures: Vec<Compared>,
}

impl Comparison {
    fn new(a: Side, b: Side) -> Self {
        let differences = differences(&a.reports, &b.reports);
        let figures = compare(&a.reports, &b.reports);
        Self { format: FORMAT, version: VERSION, a, b, differences, figures }
    }

    /// As text.
    fn table(&self) -> String {
        let mut out = String::new();
        for (name, side) in [("A", &self.a), ("B", &self.b)] {
            let _ = writeln!(out, "{name}: {}", side.files.join(", "));
        }
        if self.differences.is_empty() {
            out += "\nflags, program and machine are the same\n";
        } else {
            out += "\nDIFFERENT besides the figures:\n";
        }
        for Difference { kind, name, a, b } in &self.differences {
            let _ = writeln!(out, "  {kind} {name}:\n    A {a}\n    B {b}");
        }
        let _ = writeln!(out, "\n{:<38}{:>14}{:>14}{:>9}", "", "A", "B", "B / A");
        for figure in &self.figures {
            let [a, b] = [figure.a, figure.b].map(|value| figure.shown(value));
            let ratio = figure.ratio.map_or("–".into(), |ratio| format!("{ratio:.3}"));
            let note = figure.clear.map_or("", |clear| clear.word());
            let _ = writeln!(out, "{:<38}{a:>14}{b:>14}{ratio:>9}  {note}", figure.title());
        }
        out
    }
}

/// Compares as the flags say, and prints it.
pub fn run(options: &Options) -> Result<(), CompareError> {
    let (a, b) = match &options.files[..] {
        [a, b] => (std::slice::from_ref(a), std::slice::from_ref(b)),
        _ => (&options.a[..], &options.b[..]),
    };
    let side = |files| Side::load(files).map_err(CompareError::Input);
    let comparison = Comparison::new(side(a)?, side(b)?);
    print!("{}", comparison.table());
    if let Some(file) = &options.json {
        let text = serde_json::to_string_pretty(&comparison).map_err(io::Error::from)?;
        put(file, (text + "\n").as_bytes())?;
    }
    if let Some(file) = &options.html {
        put(file, page::page(&comparison).as_bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
