//! What differs between two sides besides their figures.

use crate::machine::CHANGING;
use crate::report::Report;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Something that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// `program`, `flag` or `machine`.
    pub kind: &'static str,
    /// What it is.
    pub name: String,
    /// On one side; several values when its own runs differ.
    pub a: String,
    /// On the other.
    pub b: String,
}

/// Flags that say where results go, which processes were running, or begin random choices: they differ in every run.
const IDLE_FLAGS: &[&str] = &["json", "html", "hdr", "pids", "objective", "seed"];

type Facts = BTreeMap<(&'static str, String), String>;

fn facts(report: &Report) -> Facts {
    let mut facts = Facts::new();
    let program = [("version", Some(&report.run.version)), ("commit", report.run.commit.as_ref())];
    for (name, value) in program {
        facts.insert(("program", name.to_owned()), value.cloned().unwrap_or_default());
    }
    for (name, values) in report.run.flags.iter().filter(|(name, _)| !IDLE_FLAGS.contains(&name.as_str())) {
        facts.insert(("flag", format!("--{name}")), values.join(", "));
    }
    for (name, value) in report.machine.0.iter().filter(|(name, _)| !CHANGING.contains(&name.as_str())) {
        facts.insert(("machine", name.clone()), value.clone());
    }
    facts
}

/// Everything that is not the same in all runs of both sides.
pub fn differences(a: &[Report], b: &[Report]) -> Vec<Difference> {
    let sides = [a, b].map(|reports| reports.iter().map(facts).collect::<Vec<_>>());
    let names: BTreeSet<_> = sides.iter().flatten().flat_map(BTreeMap::keys).collect();
    let values = |side: &[Facts], key| -> BTreeSet<String> {
        side.iter().map(|facts| facts.get(key).cloned().unwrap_or_else(|| "(none)".into())).collect()
    };
    let shown = |values: &BTreeSet<String>| values.iter().cloned().collect::<Vec<_>>().join(" | ");
    names
        .into_iter()
        .filter_map(|key| {
            let (a, b) = (values(&sides[0], key), values(&sides[1], key));
            let is_same = a == b && a.len() == 1;
            (!is_same).then(|| Difference { kind: key.0, name: key.1.clone(), a: shown(&a), b: shown(&b) })
        })
        .collect()
}
