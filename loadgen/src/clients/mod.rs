//! `loadgen clients`: thousands of clients that ask, and check every answer.
//!
//! This thread sets the phases, takes the snapshots a report stands on, and shows progress; the work is done by one
//! `clients/worker` per thread.

mod client;
mod exchange;
pub mod identities;
pub mod interrupt;
pub mod options;
pub mod plan;
mod schedule;
mod session;
pub mod shared;
pub mod work;
pub mod worker;

use crate::machine::Machine;
use crate::report::{
    CallWindow, Drive, Flags, Live, Look, Moments, Now, Provenance, Report, Snapshot, Sources, Tally,
    Timeline,
};
use crate::syscalls::Counter;
use identities::Identities;
use options::{Amount, Options};
use plan::Plan;
use shared::{Phase, Progress, Shared};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};
use worker::Worker;

/// How often the main thread looks.
const LOOK: Duration = Duration::from_millis(20);
/// How often progress is shown, and watched processes are read while they are idle.
const SHOW: Duration = Duration::from_millis(500);
/// How often watched processes are looked at for their use over time.
const LOOK_AT_PROCESSES: Duration = Duration::from_secs(1);
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

/// What became of a run that came to a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All was right, and every objective met.
    Right,
    /// All was right, and an objective was missed, or planned requests were never sent.
    Missed,
    /// An answer was wrong or failed.
    Failed,
    /// The user ended it early.
    Interrupted,
}

/// Runs as the flags say and prints the report; `flags` are what it says it was run with.
pub fn run(options: &Options, flags: Flags) -> Result<Outcome, RunError> {
    let plan = options.plan(crate::ring::slots_max()?).map_err(RunError::Usage)?;
    options
        .output
        .check(plan.watched.iter().map(|watched| watched.name.as_str()))
        .map_err(RunError::Usage)?;
    let (started, machine) = (SystemTime::now(), Machine::look());
    let identities = Identities::load(&plan).map_err(RunError::Usage)?;
    // Behind what takes its time: the log says moments by this clock.
    let (began, shared) = (SystemTime::now(), Shared::new(Instant::now(), run_number()));
    let progress: Vec<Progress> = (0..plan.threads).map(|_| Progress::default()).collect();
    interrupt::listen()?;
    let mut conductor = Conductor::new(&plan, &shared, &progress, options.output.count_syscalls);
    conductor.begin();
    let mut tally = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..plan.threads)
            .map(|index| {
                let (plan, shared, identities) = (&plan, &shared, identities.as_ref());
                let progress = &progress[usize::from(index)];
                scope.spawn(move || Worker::new(plan, shared, progress, identities, index)?.run())
            })
            .collect();
        conductor.conduct(|| workers.iter().all(|worker| worker.is_finished()));
        let mut sum = Tally::default();
        for worker in workers {
            sum.add(&worker.join().map_err(|_| io::Error::other("a thread panicked"))??);
        }
        Ok::<_, io::Error>(sum)
    })?;
    let Conductor { moments, timeline, calls, .. } = conductor.finish();
    let journal = std::mem::take(&mut tally.journal);
    let names = plan.population.as_ref().map(|population| population.names()).unwrap_or_default();
    let mut report = Report::new(Sources {
        tally: &tally,
        timeline: &timeline,
        moments: &moments,
        watched: &plan.watched,
        calls: calls.as_ref(),
        steps: &names,
        connections: plan.connections,
        threads: plan.threads,
        allows_failures: options.allow_failures,
        run: Provenance::new(started, plan.seed, flags),
        machine,
    });
    report.drive = drive(&plan, &shared, &tally, &report);
    options.output.judge(&mut report);
    print!("{}", report.table());
    options.output.write(&report, &timeline, started)?;
    options.output.write_log(journal, began, &plan.targets)?;
    let (text, all_features_passed) =
        plan.population.as_ref().map_or((String::new(), true), |population| population.conclude());
    print!("{text}");
    Ok(match (shared.is_interrupted(), report.passed && all_features_passed, report.met()) {
        (true, ..) => Outcome::Interrupted,
        (false, false, _) => Outcome::Failed,
        (false, true, false) => Outcome::Missed,
        (false, true, true) => Outcome::Right,
    })
}

/// How the load was driven.
fn drive(plan: &Plan, shared: &Shared, tally: &Tally, report: &Report) -> Drive {
    Drive {
        is_handshakes_only: plan.is_handshakes_only(),
        full: tally.connects - tally.resumed,
        resumed: tally.resumed,
        open_loop: plan.open_loop.map(|open| tally.punctuality.report(open.rate, &report.latency)),
        is_interrupted: shared.is_interrupted(),
    }
}

/// A number that other runs hardly have: ids of two runs do not meet.
pub fn run_number() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    (u64::from(since.subsec_nanos()) ^ since.as_secs().wrapping_mul(0x9e37) ^ u64::from(std::process::id()))
        << 48
}

/// Sets the phases and remembers their moments.
///
/// Connecting ── all arrived ──▶ WarmUp ── its time ──▶ Measuring ── its time, or all done ──▶ Ending
///
/// With `--count-syscalls`, Counting stands between the last two.
struct Conductor<'a> {
    plan: &'a Plan,
    shared: &'a Shared,
    progress: &'a [Progress],
    live: Live,
    timeline: Timeline,
    count_syscalls: Option<Duration>,
    counting: Option<Counting>,
    calls: Option<CallWindow>,
    moments: Moments,
    asking_since: Instant,
    quiet_since: Option<Instant>,
    next_show: Instant,
    next_look: Instant,
}

impl<'a> Conductor<'a> {
    fn new(
        plan: &'a Plan,
        shared: &'a Shared,
        progress: &'a [Progress],
        count_syscalls: Option<Duration>,
    ) -> Self {
        let now = Instant::now();
        Self {
            plan,
            shared,
            progress,
            live: Live::new(),
            timeline: Timeline::default(),
            count_syscalls,
            counting: None,
            calls: None,
            moments: Moments::default(),
            asking_since: now,
            quiet_since: None,
            next_show: now + SHOW,
            next_look: now,
        }
    }

    /// Before the first connection.
    fn begin(&mut self) {
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
    }

    fn conduct(&mut self, is_finished: impl Fn() -> bool) {
        while !is_finished() {
            std::thread::sleep(LOOK);
            self.step();
        }
        if self.shared.phase() != Phase::Ending {
            self.moments.end = self.snapshot();
            let last_answer = Duration::from_micros(self.most(|progress| &progress.last_answer));
            self.moments.end.at = last_answer.max(self.moments.begin.at);
        }
        self.live.end();
    }

    /// Takes in what threads handed over at their end.
    fn finish(mut self) -> Self {
        self.timeline.add(self.progress.iter().flat_map(|progress| progress.intervals.take()));
        self.timeline.finish(self.shared.start.elapsed());
        self.look();
        self
    }

    fn step(&mut self) {
        let now = Instant::now();
        if interrupt::is_wanted() && self.shared.phase() != Phase::Ending {
            if self.shared.phase() != Phase::Counting {
                self.moments.end = self.snapshot();
            }
            if matches!(self.shared.phase(), Phase::Connecting | Phase::WarmUp) {
                self.moments.begin = self.moments.end.clone();
            }
            self.shared.interrupt();
        }
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
                    self.end_measuring();
                }
            }
            Phase::Counting => {
                if self.counting.as_ref().is_none_or(|counting| now >= counting.until) {
                    let answers = self.sum(|progress| &progress.answers);
                    self.calls = self.counting.take().map(|counting| counting.end(answers));
                    self.shared.set_phase(Phase::Ending);
                }
            }
            Phase::Connecting | Phase::WarmUp | Phase::Ending => {}
        }
        if now >= self.next_show {
            self.next_show = now + SHOW;
            self.show(now);
            if self.plan.every.is_some() {
                self.look_for_rest(now);
            }
        }
    }

    fn end_measuring(&mut self) {
        let Some(time) = self.count_syscalls else { return self.shared.set_phase(Phase::Ending) };
        self.shared.set_phase(Phase::Counting);
        self.counting = Some(Counting::begin(self.plan, || self.sum(|progress| &progress.answers), time));
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

    /// Takes in the seconds that are over, looks at processes once a second, and shows progress.
    fn show(&mut self, now: Instant) {
        self.timeline.add(self.progress.iter().flat_map(|progress| progress.intervals.take()));
        if now >= self.next_look {
            self.next_look = now + LOOK_AT_PROCESSES;
            self.look();
        }
        let doing = match self.shared.phase() {
            Phase::Connecting => "connecting",
            Phase::WarmUp => "warming up",
            Phase::Measuring => "measuring",
            Phase::Counting => "counting system calls",
            Phase::Ending => "ending",
        };
        let now = Now {
            doing,
            open: self.sum(|progress| &progress.open),
            connections: u64::from(self.plan.connections),
            answers: self.sum(|progress| &progress.answers),
            failures: self.sum(|progress| &progress.failures),
            wrong: self.sum(|progress| &progress.wrong),
        };
        self.live.show(now, &self.timeline);
    }

    fn look(&mut self) {
        if !self.plan.watched.is_empty() {
            let glances = self.plan.watched.iter().map(|watched| watched.glance()).collect();
            self.timeline.look(Look { at: self.shared.start.elapsed(), glances });
        }
    }
}

/// System calls being counted, for so long.
struct Counting {
    until: Instant,
    begin_answers: u64,
    counters: Vec<Result<Counter, String>>,
    begin: Vec<Result<u64, String>>,
}

impl Counting {
    fn begin(plan: &Plan, answers: impl Fn() -> u64, time: Duration) -> Self {
        let counters: Vec<_> = plan.watched.iter().map(|watched| Counter::begin(&watched.pids)).collect();
        Self { begin: read(&counters), counters, begin_answers: answers(), until: Instant::now() + time }
    }

    fn end(self, answers: u64) -> CallWindow {
        let counts = read(&self.counters).into_iter().zip(self.begin);
        let calls = counts.map(|(end, begin)| Ok(end?.saturating_sub(begin?))).collect();
        CallWindow { answers: answers - self.begin_answers, calls }
    }
}

fn read(counters: &[Result<Counter, String>]) -> Vec<Result<u64, String>> {
    let read = |counter: &Result<Counter, String>| {
        counter.as_ref().map_err(Clone::clone)?.read().map_err(|error| error.to_string())
    };
    counters.iter().map(read).collect()
}
