//! One thread's connections: its ring, its timers, and each client's way from connecting to its last answer.
//!
//! The thread owns all it touches; with the main thread it shares only what is in `shared.rs`. `connecting.rs` tells how
//! connections begin, `wiring.rs` how bytes go and come, `asking.rs` what is asked, `open_loop.rs` when, and
//! `ending.rs` how connections end.

mod asking;
mod connecting;
mod ending;
mod open_loop;
mod wiring;

use super::client::{Client, State};
use super::exchange::Answered;
use super::identities::Identities;
use super::options::{Amount, Reading};
use super::plan::Plan;
use super::shared::{Phase, Progress, Shared};
use super::work::Life;
use crate::report::{Entry, Journal, Tally};
use crate::ring::{Buffers, Completion, Operation, Ring};
use open_loop::{Renewals, Starts};
use socket2::SockAddr;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const BUFFER_SIZE: usize = 16 * 1024;
/// Bytes staged before the first of them went.
const STAGED_SIZE_MAX: usize = 64 * 1024;
/// Emptied buffers kept for the next connection that sends.
const SPARES_MAX: usize = 512;
/// How long a turn waits when nothing happens; phases are looked at as often.
const TURN: Duration = Duration::from_millis(50);
/// Completions of one turn: behind them, what became due is started and what was staged is submitted.
const TURN_COMPLETIONS_MAX: usize = 256;
/// Deadlines are looked at as often.
const SCAN: Duration = Duration::from_millis(250);
/// How long outstanding answers are awaited when the time is over.
const GRACE: Duration = Duration::from_secs(5);
/// The same, when the user ended the run.
const SHORT_GRACE: Duration = Duration::from_millis(500);
/// Reads of a paced client follow one another by this much, or less at high rates.
const PACE: Duration = Duration::from_millis(100);
/// Wait before asking again after a 5xx.
const BUSY_WAIT: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// Connect.
    Start,
    /// Ask again.
    Ask,
    /// Read on, paced.
    Read,
}

/// One thread's clients.
pub struct Worker<'a> {
    plan: &'a Plan,
    shared: &'a Shared,
    progress: &'a Progress,
    identities: Option<&'a Identities>,
    index: u16,
    ring: Ring,
    buffers: Buffers,
    targets: Vec<SockAddr>,
    clients: Vec<Client>,
    slots: Vec<u32>,
    to_connect: VecDeque<u32>,
    connecting: u32,
    timers: BinaryHeap<Reverse<(Instant, u32, u32, Timer)>>,
    /// Requests left for all clients of this thread together; `None` when each has its own number.
    pool: Option<u64>,
    /// When requests start, when that is planned (open loop).
    starts: Option<Starts>,
    /// When connections are made anew, when that is planned.
    renewals: Option<Renewals>,
    /// The measured time, as far as it is known.
    measured: (Option<Instant>, Option<Instant>),
    next_id: u64,
    phase: Phase,
    tally: Tally,
    open: u64,
    arrived: u64,
    served: u64,
    done: usize,
    last_answer: Instant,
    is_asking: bool,
    plain: Vec<u8>,
    answered: Vec<Answered>,
    spares: Vec<Vec<u8>>,
    starved: Vec<u32>,
    /// What the system or TLS says of the connection that is lost just now.
    why: Box<str>,
}

impl<'a> Worker<'a> {
    /// The thread's share of the plan, on a ring of its own.
    pub fn new(
        plan: &'a Plan,
        shared: &'a Shared,
        progress: &'a Progress,
        identities: Option<&'a Identities>,
        index: u16,
    ) -> io::Result<Self> {
        let share = |whole: u64| {
            whole / u64::from(plan.threads) + u64::from(u64::from(index) < whole % u64::from(plan.threads))
        };
        let count = share(u64::from(plan.connections)) as u32;
        let ring = Ring::new(plan.slots)?;
        let buffer_count = count.next_power_of_two().clamp(64, 1024) as u16;
        let buffers = Buffers::new(&ring, buffer_count, BUFFER_SIZE)?;
        let (pool, left) = match plan.amount {
            Amount::Each(each) => (None, each),
            Amount::Lives => (None, 0),
            Amount::Total(total) => (Some(share(total)), 0),
            Amount::Lasting(_) => (Some(u64::MAX), 0),
        };
        let starts = plan.open_loop.map(|open| {
            Starts::new(plan, open, index, pool.unwrap_or(left.saturating_mul(u64::from(count))))
        });
        let now = Instant::now();
        let life = |key: u32| match &plan.population {
            None => Life::Fixed,
            Some(population) => {
                Life::scripted(population.script(key * u32::from(plan.threads) + u32::from(index), now))
            }
        };
        let target = |key: u32| {
            let number = key as usize * usize::from(plan.threads) + usize::from(index);
            (number % plan.targets.len()) as u16
        };
        let mut tally = Tally::new(plan.steps());
        if plan.is_logged {
            tally.journal = Journal::of(plan.targets.len());
        }
        let mut worker = Self {
            plan,
            shared,
            progress,
            identities,
            index,
            ring,
            buffers,
            targets: plan.targets.iter().map(|target| (*target).into()).collect(),
            clients: (0..count).map(|key| Client::new(life(key), left, target(key), now)).collect(),
            slots: (0..plan.slots).rev().collect(),
            to_connect: VecDeque::new(),
            connecting: 0,
            timers: BinaryHeap::new(),
            pool,
            starts,
            renewals: plan.renew_rate.map(|rate| Renewals::new(plan, rate, index)),
            measured: (None, None),
            next_id: shared.run.wrapping_add(u64::from(index) << 40),
            phase: Phase::Connecting,
            tally,
            open: 0,
            arrived: 0,
            served: 0,
            done: 0,
            last_answer: shared.start,
            is_asking: false,
            plain: Vec::new(),
            answered: Vec::new(),
            spares: Vec::new(),
            starved: Vec::new(),
            why: Box::default(),
        };
        for key in 0..count {
            let number = f64::from(key) * f64::from(plan.threads) + f64::from(index);
            match plan.connect_rate {
                Some(rate) => worker.timers.push(Reverse((
                    now + Duration::from_secs_f64(number / rate),
                    key,
                    0,
                    Timer::Start,
                ))),
                None => worker.to_connect.push_back(key),
            }
        }
        Ok(worker)
    }

    /// Works until all is done, or the time is over.
    pub fn run(mut self) -> io::Result<Tally> {
        let mut completions = Vec::with_capacity(1024);
        let mut next_scan = Instant::now() + SCAN;
        let mut over = None;
        self.follow_phase(Instant::now());
        while self.done < self.clients.len() {
            let now = Instant::now();
            self.fire_timers(now);
            self.connect_waiting(now);
            self.renew_due(now);
            self.start_due(now);
            self.ring.wait_for(self.patience(now), TURN_COMPLETIONS_MAX, &mut completions)?;
            for completion in &completions {
                self.dispatch(*completion, Instant::now());
            }
            for key in std::mem::take(&mut self.starved) {
                if self.clients[key as usize].state == State::Open && self.plan.reading != Reading::Never {
                    self.arm(key);
                }
                self.settle(key);
            }
            let now = Instant::now();
            self.follow_phase(now);
            if now >= next_scan {
                self.look_for_timeouts(now);
                next_scan = now + SCAN;
            }
            self.publish();
            if self.phase == Phase::Ending {
                let grace = match self.plan.reading {
                    Reading::Free if self.shared.is_interrupted() => SHORT_GRACE,
                    Reading::Free => GRACE,
                    Reading::Rate(_) | Reading::Never => Duration::ZERO,
                };
                if now >= *over.get_or_insert(now + grace) {
                    break;
                }
            }
        }
        self.count_unfinished();
        self.publish();
        self.progress.intervals.put(self.tally.take_last());
        Ok(self.tally)
    }

    /// Counts what the end of the run cut off.
    fn count_unfinished(&mut self) {
        for key in 0..self.clients.len() as u32 {
            self.drop_due(key);
        }
        if self.plan.reading == Reading::Free && !self.shared.is_interrupted() {
            let unfinished = self.clients.iter().filter(|client| !client.exchange.is_held());
            let now = Instant::now();
            for client in unfinished {
                self.tally.failures.timeout += client.exchange.outstanding() as u64;
                for (id, asked) in client.exchange.asked() {
                    self.tally.journal.note(Entry {
                        at: now - self.shared.start,
                        kind: "timeout",
                        target: client.target,
                        id: Some(id),
                        asked: Some(now - asked),
                        text: "outstanding when the run ended".into(),
                        ..Entry::default()
                    });
                }
            }
        }
    }

    /// How long nothing has to be done, when nothing happens.
    fn patience(&self, now: Instant) -> Duration {
        let timer = self.timers.peek().map(|Reverse((at, ..))| *at);
        let next = [timer, self.next_planned()].into_iter().flatten().min();
        next.map_or(TURN, |at| at.saturating_duration_since(now)).min(TURN)
    }

    /// Whether what was to start then is of the measured time.
    fn is_measured(&self, planned: Instant) -> bool {
        let (since, until) = self.measured;
        since.is_some_and(|since| planned >= since) && until.is_none_or(|until| planned < until)
    }

    fn publish(&mut self) {
        let Progress { answers, failures, wrong, open, arrived, served, intervals, last_answer } =
            self.progress;
        intervals.put(self.tally.tell(self.shared.start.elapsed(), self.open));
        answers.store(self.tally.answers, Ordering::Relaxed);
        failures.store(self.tally.failures.clean(), Ordering::Relaxed);
        wrong.store(self.tally.failures.wrong(), Ordering::Relaxed);
        open.store(self.open, Ordering::Relaxed);
        arrived.store(self.arrived, Ordering::Relaxed);
        served.store(self.served, Ordering::Relaxed);
        last_answer.store((self.last_answer - self.shared.start).as_micros() as u64, Ordering::Relaxed);
    }

    fn follow_phase(&mut self, now: Instant) {
        let phase = self.shared.phase();
        if phase == self.phase {
            return;
        }
        self.phase = phase;
        self.tally.set_measuring(phase == Phase::Measuring);
        match phase {
            Phase::Connecting => {}
            Phase::WarmUp => self.begin_asking(now),
            Phase::Measuring => {
                self.measured.0 = Some(now);
                self.begin_asking(now);
            }
            Phase::Counting => self.measured.1 = Some(now),
            Phase::Ending => {
                self.measured.1.get_or_insert(now);
                self.end_schedules();
                self.tally.journal.end(now - self.shared.start);
            }
        }
        for key in 0..self.clients.len() as u32 {
            match self.clients[key as usize].state {
                State::Waiting if phase == Phase::Ending && !self.has_work(key) => self.retire(key),
                State::Connecting | State::Shaking if phase == Phase::Ending && !self.has_work(key) => {
                    self.close(key, false)
                }
                State::Open if phase == Phase::Ending && self.clients[key as usize].exchange.is_held() => {
                    self.close(key, false);
                }
                _ => self.advance(key, now),
            }
        }
    }

    /// Requests are asked from now on, if they were not before.
    fn begin_asking(&mut self, now: Instant) {
        self.begin_schedules(now);
        if !std::mem::replace(&mut self.is_asking, true) {
            self.tally.journal.begin(now - self.shared.start);
        }
    }

    fn fire_timers(&mut self, now: Instant) {
        while let Some(Reverse((at, key, generation, timer))) = self.timers.peek().copied() {
            if at > now {
                return;
            }
            self.timers.pop();
            let client = &self.clients[key as usize];
            if client.generation != generation {
                continue;
            }
            match (timer, client.state) {
                (Timer::Start, State::Waiting) => self.to_connect.push_back(key),
                (Timer::Ask, State::Open) => self.advance(key, now),
                (Timer::Read, State::Open) => self.arm(key),
                _ => {}
            }
        }
    }

    fn dispatch(&mut self, completion: Completion, now: Instant) {
        let key = completion.tag.key;
        let is_watched = completion.tag.operation != Operation::Unwatched;
        if is_watched && self.clients[key as usize].generation == completion.tag.generation {
            match completion.tag.operation {
                Operation::Connect => self.connected(key, completion.result, now),
                Operation::Receive => self.received(key, completion, now),
                Operation::Send => self.sent(key, completion.result, now),
                Operation::Close => self.closed(key, now),
                Operation::Accept | Operation::Readable | Operation::Unwatched => {}
            }
        }
        if let Some(buffer) = completion.buffer {
            self.buffers.give_back(buffer);
        }
    }
}

fn take_spare(spares: &mut Vec<Vec<u8>>, buffer: &mut Vec<u8>) {
    if buffer.capacity() == 0
        && let Some(spare) = spares.pop()
    {
        *buffer = spare;
    }
}
