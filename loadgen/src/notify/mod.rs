//! `loadgen notify`: thousands of clients that wait for notifications, and what each costs and gets.
//!
//! The clients are scripts (`client.rs`) of the engine in `clients/`; they tell a board (`board.rs`). This thread conducts:
//! it lets all be held, then be silent, has the origin push (`control.rs`), watches storms, and looks at processes
//! (`watch.rs`) at the moments a report (`report.rs`) stands on. The counterpart that holds and pushes is `origin/`.

mod board;
mod client;
mod conductor;
mod control;
pub mod options;
mod report;
mod watch;

use crate::clients::identities::Identities;
use crate::clients::options::Amount;
use crate::clients::plan::Plan;
use crate::clients::shared::{Phase, Progress, Shared, Windows};
use crate::clients::worker::Worker;
use crate::clients::{RunError, interrupt, run_number};
use crate::machine::Machine;
use crate::report::{Flags, Percentiles, Provenance, Tally, put};
use board::Board;
use client::Waiting;
use conductor::{Conductor, Found};
use options::Options;
use report::{Counts, Ordinary, Report};
use std::io;
use std::sync::Arc;
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Instant, SystemTime};
use watch::Processes;

/// What became of a run that came to a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All was right.
    Right,
    /// Connections were lost or refused, or not all clients were held.
    Failed,
    /// A notification did not reach its client exactly once.
    NotOnce,
    /// The user ended it early.
    Interrupted,
}

/// What became of it, and why, in words.
#[derive(Debug)]
pub struct Verdict {
    outcome: Outcome,
    faults: Vec<String>,
}

/// Runs as the flags say and prints the report; `flags` are what it says it was run with.
pub fn run(options: &Options, flags: Flags) -> Result<Outcome, RunError> {
    let slots = crate::ring::slots_max()?;
    let mut plan = options.held().and_then(|held| held.plan(slots)).map_err(RunError::Usage)?;
    let ordinary = options
        .ordinary()
        .and_then(|ordinary| ordinary.map(|ordinary| ordinary.plan(slots)).transpose())
        .map_err(RunError::Usage)?;
    let (started, machine, start) = (SystemTime::now(), Machine::look(), Instant::now());
    let last_push = last_push(options)?;
    let board = Arc::new(Board::default());
    let path = options.path.clone().unwrap_or_else(|| endpoint(&plan));
    check_path(&path).map_err(RunError::Usage)?;
    plan.population = Some(Arc::new(Waiting::new(
        Arc::clone(&board),
        (plan.name.clone(), path),
        (options.keep_alive, options.spread),
        (plan.seed, last_push),
    )));
    let seed = plan.seed;
    let windows = Arc::new(Windows::new(start));
    let held = Engine::new(plan, start)?;
    let ordinary = ordinary.map(|mut plan| {
        plan.windows = Some(Arc::clone(&windows));
        Engine::new(plan, start)
    });
    let ordinary = ordinary.transpose()?;
    interrupt::listen()?;
    let processes = Processes { up: options.up.clone(), given: options.pids.clone() };
    let (found, tally, ordinary_tally) = std::thread::scope(|scope| {
        let mut conductor =
            Conductor::new(options, &board, &windows, (&held, ordinary.as_ref()), processes, last_push);
        conductor.begin();
        let ordinary_threads = ordinary.as_ref().map(|engine| engine.start(scope));
        held.shared.set_phase(Phase::Measuring);
        let threads = held.start(scope);
        let found = conductor.conduct(|| {
            let both = threads.iter().chain(ordinary_threads.iter().flatten());
            both.into_iter().any(ScopedJoinHandle::is_finished)
        });
        for engine in [Some(&held), ordinary.as_ref()].into_iter().flatten() {
            engine.shared.set_phase(Phase::Ending);
        }
        Ok::<_, io::Error>((found, join(threads)?, ordinary_threads.map(join).transpose()?))
    })?;
    let mut report = Report {
        format: report::FORMAT,
        version: report::VERSION,
        run: Provenance::new(started, seed, flags),
        machine,
        clients: u64::from(options.clients),
        counts: found.counts,
        seconds_until_held: found.seconds_until_held,
        memory: found.memory(),
        ordinary: options
            .ordinary
            .zip(ordinary_tally.as_ref())
            .map(|(rate, tally)| ordinary_report(rate, tally)),
        ..Report::default()
    };
    report.take(&tally);
    let verdict = judge(options, &found, &tally, ordinary_tally.as_ref());
    let outcome = verdict.outcome;
    report.conclude(verdict);
    (report.silence, report.pushes, report.storms) = (found.silence, found.pushes, found.storms);
    print!("{}", report.table());
    if let Some(file) = &options.json {
        let text = serde_json::to_string_pretty(&report).map_err(io::Error::from)?;
        put(file, (text + "\n").as_bytes())?;
    }
    Ok(outcome)
}

/// Clients of one plan, on threads of their own.
struct Engine {
    plan: Plan,
    shared: Shared,
    progress: Vec<Progress>,
    identities: Option<Identities>,
}

/// A thread of an engine.
type Thread<'scope> = ScopedJoinHandle<'scope, io::Result<Tally>>;

impl Engine {
    fn new(plan: Plan, start: Instant) -> Result<Self, RunError> {
        debug_assert!(matches!(plan.amount, Amount::Lasting(_)), "the conductor ends a run");
        let identities = Identities::load(&plan).map_err(RunError::Usage)?;
        let progress = (0..plan.threads).map(|_| Progress::default()).collect();
        Ok(Self { shared: Shared::new(start, run_number()), plan, progress, identities })
    }

    fn start<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) -> Vec<Thread<'scope>> {
        let start = |index: u16| {
            let progress = &self.progress[usize::from(index)];
            scope.spawn(move || {
                Worker::new(&self.plan, &self.shared, progress, self.identities.as_ref(), index)?.run()
            })
        };
        (0..self.plan.threads).map(start).collect()
    }
}

fn join(threads: Vec<Thread<'_>>) -> io::Result<Tally> {
    let mut sum = Tally::default();
    for thread in threads {
        sum.add(&thread.join().map_err(|_| io::Error::other("a thread panicked"))??);
    }
    Ok(sum)
}

/// The number of the last push that any of the origins made before this run.
fn last_push(options: &Options) -> Result<u64, RunError> {
    let mut last = 0;
    for origin in &options.origin_control {
        let held = control::held(*origin)
            .map_err(|error| RunError::Usage(format!("--origin-control {origin}: {error}")))?;
        last = last.max(held.push);
    }
    Ok(last)
}

/// The notification endpoint beside the path that clients of the plan ask for.
fn endpoint(plan: &Plan) -> String {
    let line = String::from_utf8_lossy(&plan.before_id);
    let path = line.split([' ', '?']).nth(1).unwrap_or_default();
    let mut segments = path.split('/').skip(1);
    match (segments.next(), segments.next()) {
        (Some(family), Some(role)) if family.starts_with("CCM_Proxy_") => {
            format!("/{family}/{role}/BGB/handler.ashx")
        }
        _ => "/BGB/handler.ashx".into(),
    }
}

fn check_path(path: &str) -> Result<(), String> {
    let is_clean = path.starts_with('/')
        && path.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'#' | b'?'));
    let wrong = || format!("--path {path:?} must start with / and have neither blanks nor a query");
    is_clean.then_some(()).ok_or_else(wrong)
}

fn ordinary_report(rate: f64, tally: &Tally) -> Ordinary {
    let of = |kind: usize| tally.steps.get(kind).map(Percentiles::of).unwrap_or_default();
    Ordinary {
        rate,
        requests: tally.answers,
        unsent: tally.punctuality.unsent,
        errors: tally.failures.shown(),
        quiet: of(Windows::QUIET),
        fan_out: of(Windows::FAN_OUT),
        storm: of(Windows::STORM),
    }
}

/// Says what became of a run. In a storm connections are lost and refused by intent, but all must be held in the end.
fn judge(options: &Options, found: &Found, tally: &Tally, ordinary: Option<&Tally>) -> Verdict {
    let Counts { lost, duplicated, misdelivered, malformed, unknown, .. } = found.counts;
    let mut faults = Vec::new();
    for (count, what) in [
        (lost, "LOST"),
        (duplicated, "DUPLICATED"),
        (misdelivered, "MISDELIVERED"),
        (malformed, "MALFORMED"),
        (unknown, "of NO PUSH"),
    ] {
        if count > 0 {
            faults.push(format!("{count} notifications {what}"));
        }
    }
    if !found.all_held {
        faults.push(format!("not all HELD: {} of {}", found.counts.held, options.clients));
    }
    faults.extend(found.faults.iter().cloned());
    let allows = options.storm.is_some();
    if !allows && found.counts.lost_connections > 0 {
        faults.push(format!("{} connections LOST", found.counts.lost_connections));
    }
    for (who, tally) in [("clients", Some(tally)), ("ordinary requests", ordinary)] {
        let Some(tally) = tally else { continue };
        let failed = if allows { tally.failures.hard() } else { tally.failures.all() };
        if failed > 0 {
            faults.push(format!("{who}: {}", tally.failures.shown()));
        }
        if tally.punctuality.unsent > 0 && !allows {
            faults.push(format!("{who}: {} NEVER SENT", tally.punctuality.unsent));
        }
    }
    let outcome = match () {
        () if interrupt::is_wanted() => Outcome::Interrupted,
        () if found.counts.not_once() > 0 => Outcome::NotOnce,
        () if !faults.is_empty() => Outcome::Failed,
        () => Outcome::Right,
    };
    if outcome == Outcome::Interrupted {
        faults.insert(0, "INTERRUPTED".into());
    }
    Verdict { outcome, faults }
}
