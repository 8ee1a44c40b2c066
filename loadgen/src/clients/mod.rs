//! `loadgen clients`: thousands of clients that ask, and check every answer.
//!
//! This thread sets the phases, takes the snapshots a report stands on, and shows progress; the work is done by one
//! `clients/worker` per thread.

mod client;
mod exchange;
pub mod options;
mod plan;
mod schedule;
mod session;
mod shared;
pub mod work;
mod worker;

use crate::report::{Moments, Report, Snapshot, Tally};
use indicatif::{ProgressBar, ProgressStyle};
use options::{Amount, Options};
use plan::Plan;
use session::Identities;
use shared::{Phase, Progress, Shared};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};
use worker::Worker;

/// How often the main thread looks.
const LOOK: Duration = Duration::from_millis(20);
/// How often progress is shown, and watched processes are read while they are idle.
const SHOW: Duration = Duration::from_millis(500);
/// All clients are idle for so long before the idle window begins.
const SETTLE: Duration = Duration::from_secs(2);

/// Why a run did not come to a report.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The flags contradict one another, or name files that do not serve.
    #[error("{0}")]
    Usage(String),
    /// The kernel refused.
    #[error("{0}")]
    System(#[from] io::Error),
}

/// Runs as the flags say and prints the report. Whether all was right.
pub fn run(options: &Options) -> Result<bool, RunError> {
    let plan = options.plan(crate::ring::slots_max()?).map_err(RunError::Usage)?;
    let identities = Identities::load(&plan).map_err(RunError::Usage)?;
    let shared = Shared::new(Instant::now(), run_number());
    let progress: Vec<Progress> = (0..plan.threads).map(|_| Progress::default()).collect();
    let (tally, moments) = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..plan.threads)
            .map(|index| {
                let (plan, shared, identities) = (&plan, &shared, identities.as_ref());
                let progress = &progress[usize::from(index)];
                scope.spawn(move || Worker::new(plan, shared, progress, identities, index)?.run())
            })
            .collect();
        let mut conductor = Conductor::new(&plan, &shared, &progress);
        conductor.conduct(|| workers.iter().all(|worker| worker.is_finished()));
        let mut sum = Tally::default();
        for worker in workers {
            sum.add(&worker.join().map_err(|_| io::Error::other("a thread panicked"))??);
        }
        Ok::<_, io::Error>((sum, conductor.moments))
    })?;
    let report =
        Report::new(&tally, &moments, &plan.watched, plan.connections, plan.threads, options.allow_failures);
    print!("{}", report.table());
    if let Some(file) = &options.output.json {
        let text = serde_json::to_string_pretty(&report).map_err(io::Error::from)?;
        std::fs::write(file, text + "\n")?;
    }
    let (text, passed) = plan.population.as_ref().map_or_else(Default::default, |all| all.conclude());
    print!("{text}");
    Ok(report.passed && (passed || plan.population.is_none()))
}

/// A number that other runs hardly have: ids of two runs do not meet.
fn run_number() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    (u64::from(since.subsec_nanos()) ^ since.as_secs().wrapping_mul(0x9e37) ^ u64::from(std::process::id()))
        << 48
}

/// Sets the phases and remembers their moments.
///
/// Connecting ── all arrived ──▶ WarmUp ── its time ──▶ Measuring ── its time, or all done ──▶ Ending
struct Conductor<'a> {
    plan: &'a Plan,
    shared: &'a Shared,
    progress: &'a [Progress],
    bar: ProgressBar,
    moments: Moments,
    asking_since: Instant,
    quiet_since: Option<Instant>,
    next_show: Instant,
    shown_answers: u64,
    shown_p99: u64,
}

impl<'a> Conductor<'a> {
    fn new(plan: &'a Plan, shared: &'a Shared, progress: &'a [Progress]) -> Self {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} [{elapsed_precise}] {msg}") {
            bar.set_style(style);
        }
        let now = Instant::now();
        Self {
            plan,
            shared,
            progress,
            bar,
            moments: Moments::default(),
            asking_since: now,
            quiet_since: None,
            next_show: now + SHOW,
            shown_answers: 0,
            shown_p99: 0,
        }
    }

    fn conduct(&mut self, is_finished: impl Fn() -> bool) {
        self.moments.before = self.snapshot();
        if self.plan.begins_at_once() {
            self.moments.begin = self.moments.before.clone();
            let phase = if self.plan.every.is_some() || self.plan.warmup.is_zero() {
                Phase::Measuring
            } else {
                Phase::WarmUp
            };
            self.shared.set_phase(phase);
        }
        while !is_finished() {
            std::thread::sleep(LOOK);
            self.step();
        }
        if self.shared.phase() != Phase::Ending {
            self.moments.end = self.snapshot();
            let last_answer = Duration::from_micros(self.most(|progress| &progress.last_answer));
            self.moments.end.at = last_answer.max(self.moments.begin.at);
        }
        self.bar.finish_and_clear();
    }

    fn step(&mut self) {
        let now = Instant::now();
        match self.shared.phase() {
            Phase::Connecting
                if self.sum(|progress| &progress.arrived) == u64::from(self.plan.connections) =>
            {
                self.moments.connected = self.snapshot();
                self.asking_since = Instant::now();
                if self.plan.warmup.is_zero() { self.measure() } else { self.shared.set_phase(Phase::WarmUp) }
            }
            Phase::WarmUp if now - self.asking_since >= self.plan.warmup => {
                self.asking_since = now;
                self.measure();
            }
            Phase::Measuring => {
                if matches!(self.plan.amount, Amount::Lasting(time) if now - self.asking_since >= time) {
                    self.moments.end = self.snapshot();
                    self.shared.set_phase(Phase::Ending);
                }
            }
            Phase::Connecting | Phase::WarmUp | Phase::Counting | Phase::Ending => {}
        }
        if now >= self.next_show {
            self.next_show = now + SHOW;
            self.show();
            if self.plan.every.is_some() {
                self.look_for_rest(now);
            }
        }
    }

    fn measure(&mut self) {
        self.moments.begin = self.snapshot();
        self.shared.set_phase(Phase::Measuring);
    }

    /// Finds the window in which all clients were served once and none asks again yet.
    fn look_for_rest(&mut self, now: Instant) {
        let connections = u64::from(self.plan.connections);
        let (answers, served) =
            (self.sum(|progress| &progress.answers), self.sum(|progress| &progress.served));
        if served < connections || answers != connections {
            return;
        }
        let since = *self.quiet_since.get_or_insert(now);
        if now - since < SETTLE {
            return;
        }
        let snapshot = self.snapshot();
        // A request may have been answered while the snapshot was taken; then it is not of the window.
        if snapshot.answers != connections {
            return;
        }
        match &mut self.moments.idle {
            Some((_, end)) => *end = snapshot,
            none => {
                self.moments.connected = snapshot.clone();
                *none = Some((snapshot.clone(), snapshot));
            }
        }
    }

    fn snapshot(&self) -> Snapshot {
        let usages = self.plan.watched.iter().map(|watched| watched.usage()).collect();
        Snapshot {
            usages,
            own_cpu: crate::process::own_cpu(),
            at: self.shared.start.elapsed(),
            answers: self.sum(|progress| &progress.answers),
        }
    }

    fn sum(&self, counter: impl Fn(&Progress) -> &AtomicU64) -> u64 {
        self.progress.iter().map(|progress| counter(progress).load(Ordering::Relaxed)).sum()
    }

    fn most(&self, counter: impl Fn(&Progress) -> &AtomicU64) -> u64 {
        self.progress
            .iter()
            .map(|progress| counter(progress).load(Ordering::Relaxed))
            .max()
            .unwrap_or_default()
    }

    fn show(&mut self) {
        let answers = self.sum(|progress| &progress.answers);
        let rate = (answers - self.shown_answers) as f64 / SHOW.as_secs_f64();
        self.shown_answers = answers;
        let finished: Vec<_> = self
            .progress
            .iter()
            .flat_map(|progress| progress.intervals.take())
            .map(|one| one.latency)
            .collect();
        if let Some(sum) = finished.into_iter().reduce(|mut sum, one| {
            sum += one;
            sum
        }) {
            self.shown_p99 = sum.value_at_quantile(0.99);
        }
        self.bar.set_message(format!(
            "{} of {} connected, {answers} right, {rate:.0}/s, p99 {} µs, {} failed, {} wrong",
            self.sum(|progress| &progress.open),
            self.plan.connections,
            self.shown_p99,
            self.sum(|progress| &progress.failures),
            self.sum(|progress| &progress.wrong),
        ));
        self.bar.tick();
    }
}
