//! The course of a run, and the moments it looks at processes.
//!
//! Connecting ── all held ──▶ Settling ─▶ Silence ─▶ (Quiet ─▶) Pushes ─▶ (Storms ─▶) end

use super::Engine;
use super::board::{Board, Delivery, count};
use super::control;
use super::options::Options;
use super::report::{Counts, Memory, PushReport, Silence, Storm};
use super::watch::{Look, Processes};
use crate::clients::interrupt;
use crate::clients::shared::{Phase, Progress, Windows};
use crate::notification::{self, Push, SHARE_ALL};
use crate::report::{Live, Now, Percentiles, Timeline};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often the main thread looks.
const LOOK: Duration = Duration::from_millis(10);
/// How often progress is shown, and origins are asked what they hold.
const SHOW: Duration = Duration::from_millis(500);
/// Origins are asked as often when only they are waited for.
const ASK: Duration = Duration::from_millis(50);
/// All are held for so long before memory is looked at and silence begins.
const SETTLE: Duration = Duration::from_secs(2);
/// While nothing happens, processes are looked at as often: a storm counts from the last look before it.
const CALM_LOOK: Duration = Duration::from_secs(1);

/// So many times the timeout may clients take until all are held, besides the pace of their connects.
const RISES_MAX: u32 = 10;

/// What the conductor found.
#[derive(Debug, Default)]
pub struct Found {
    /// From the first connect until all were held.
    pub seconds_until_held: Option<f64>,
    /// Whether all were held when they had to be.
    pub all_held: bool,
    /// The board at the end.
    pub counts: Counts,
    /// The silent time.
    pub silence: Option<Silence>,
    /// Pushes.
    pub pushes: Vec<PushReport>,
    /// Storms.
    pub storms: Vec<Storm>,
    /// What else went wrong, in words.
    pub faults: Vec<String>,
    looks: Looks,
    clients: u64,
}

#[derive(Debug, Default)]
struct Looks {
    before: Option<Look>,
    held: Option<Look>,
    after: Option<Look>,
}

impl Found {
    /// Resident bytes of each process, by the three looks.
    pub fn memory(&self) -> Vec<Memory> {
        let Looks { before, held, after } = &self.looks;
        let Some(last) = after.as_ref().or(held.as_ref()) else { return Vec::new() };
        last.since(last, 0)
            .into_iter()
            .map(|used| {
                let at = |look: &Option<Look>| look.as_ref().and_then(|look| look.resident(&used.name));
                let (before, held, after) = (at(before), at(held), at(after));
                let each = before.zip(held).filter(|_| self.clients > 0);
                let each = each.map(|(before, held)| (held as f64 - before as f64) / self.clients as f64);
                Memory { name: used.name, before, held, after, each }
            })
            .collect()
    }
}

/// Counters that a storm raises.
#[derive(Clone, Copy)]
struct Put {
    clients: u64,
    lost: u64,
    refused: u64,
}

impl Put {
    fn of(board: &Board) -> Self {
        Self {
            clients: count(&board.put_out),
            lost: count(&board.lost_connections),
            refused: count(&board.refused),
        }
    }
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waited {
    /// What was waited for came.
    Came,
    /// It did not come in time.
    Late,
    /// The run is to end.
    Over,
}

/// An order to an origin, and what it answered.
type Ordered = JoinHandle<io::Result<u64>>;

/// Sets the course.
pub struct Conductor<'a> {
    options: &'a Options,
    board: &'a Board,
    windows: &'a Windows,
    held: &'a Engine,
    ordinary: Option<&'a Engine>,
    processes: Processes,
    live: Live,
    timeline: Timeline,
    doing: &'static str,
    next_show: Instant,
    next_push: u64,
    found: Found,
}

impl<'a> Conductor<'a> {
    pub fn new(
        options: &'a Options,
        board: &'a Board,
        windows: &'a Windows,
        (held, ordinary): (&'a Engine, Option<&'a Engine>),
        processes: Processes,
        last_push: u64,
    ) -> Self {
        Self {
            options,
            board,
            windows,
            held,
            ordinary,
            processes,
            live: Live::new(),
            timeline: Timeline::default(),
            doing: "connecting",
            next_show: Instant::now() + SHOW,
            next_push: last_push + 1,
            found: Found { clients: u64::from(options.clients), ..Found::default() },
        }
    }

    /// Before the first connection.
    pub fn begin(&mut self) {
        self.found.looks.before = Some(self.processes.look(true));
    }

    /// The whole course; `is_broken` says that a thread ended by itself.
    pub fn conduct(mut self, is_broken: impl Fn() -> bool) -> Found {
        // Whether it came to its end or was ended makes no difference to what is looked at then.
        let _ = self.follow(&is_broken);
        self.found.looks.after = Some(self.processes.look(true));
        self.found.counts = Counts::of(self.board);
        self.live.end();
        self.found
    }

    /// `None` when the run is to end early.
    fn follow(&mut self, is_broken: &impl Fn() -> bool) -> Option<()> {
        let began = Instant::now();
        self.wait_until_held(is_broken)?;
        self.found.seconds_until_held = Some(began.elapsed().as_secs_f64());
        self.be_silent(is_broken)?;
        if let Some(ordinary) = self.ordinary {
            ordinary.shared.set_phase(Phase::Measuring);
            self.doing = "asking meanwhile";
            self.rest(self.options.hold, is_broken)?;
        }
        for _ in 0..self.options.pushes {
            let began = Instant::now();
            self.push(is_broken)?;
            self.rest(self.options.push_every.saturating_sub(began.elapsed()), is_broken)?;
        }
        if let Some(time) = self.options.storm {
            self.watch_storms(Instant::now() + time, is_broken)?;
        }
        self.wait_until_held(is_broken)
    }

    /// Waits as long as more and more are held, and no longer than they may take that come and go for ever.
    fn wait_until_held(&mut self, is_broken: &impl Fn() -> bool) -> Option<()> {
        self.found.all_held = false;
        let paced = Duration::from_secs_f64(self.found.clients as f64 / self.options.connect_rate);
        let end = Instant::now() + paced + self.options.timeout.saturating_mul(RISES_MAX);
        let (mut last, mut since) = (0, Instant::now());
        loop {
            match self.wait(Instant::now() + ASK, is_broken, Self::is_all_held) {
                Waited::Came => {
                    self.found.all_held = true;
                    return Some(());
                }
                Waited::Over => return None,
                Waited::Late => {}
            }
            let held = count(&self.board.held);
            // Clients may still be falling off when the wait begins: what counts is that it rises again.
            if held > last {
                since = Instant::now();
            }
            last = held;
            if since.elapsed() >= self.options.timeout || Instant::now() >= end {
                return None;
            }
        }
    }

    /// Whether all clients have a request out, and the origins hold as many.
    fn is_all_held(&self) -> bool {
        count(&self.board.held) >= self.found.clients && self.origins_hold_all()
    }

    fn origins_hold_all(&self) -> bool {
        let origins = &self.options.origin_control;
        // An origin that is being started anew holds nothing.
        let held = origins.iter().map(|origin| control::held(*origin).map_or(0, |held| held.held));
        origins.is_empty() || held.sum::<u64>() >= self.found.clients
    }

    /// What memory and silence cost.
    fn be_silent(&mut self, is_broken: &impl Fn() -> bool) -> Option<()> {
        self.doing = "settling";
        self.rest(SETTLE, is_broken)?;
        self.found.looks.held = Some(self.processes.look(true));
        self.doing = "silent";
        let (before, keep_alives) = (self.processes.look(false), count(&self.board.keep_alives));
        let rested = self.rest(self.options.hold, is_broken);
        let after = self.processes.look(false);
        self.found.silence = Some(Silence {
            seconds: (after.at - before.at).as_secs_f64(),
            keep_alives: count(&self.board.keep_alives) - keep_alives,
            processes: after.since(&before, self.found.clients),
        });
        rested
    }

    /// One push, from the order until all are held again.
    fn push(&mut self, is_broken: &impl Fn() -> bool) -> Option<()> {
        self.doing = "pushing";
        self.wait_until_held(is_broken)?;
        let share = self.options.push_share.as_ref();
        let share = share.and_then(|share| notification::share(share.as_bytes())).unwrap_or(SHARE_ALL);
        let push = Push { number: self.next_push, share };
        self.next_push += 1;
        let expected = (0..self.found.clients).filter(|client| push.is_for(*client)).count() as u64;
        let before = self.processes.look(false);
        let ordered = Instant::now();
        self.board.order(push, expected, ordered);
        self.windows.begin_fan_out(ordered);
        let orders = self.order(push, expected);
        let waited = self.wait_until_delivered(is_broken);
        let delivery = self.board.last()?;
        self.windows.end_fan_out(ordered + delivery.last);
        let held = if waited == Waited::Over { None } else { self.wait_until_held(is_broken) };
        let after = self.processes.look(false);
        let answered: Vec<_> = orders
            .into_iter()
            .map(|order| order.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked"))))
            .collect();
        self.found.pushes.push(push_report(&delivery, answered, &before, &after));
        if let Some(text) = self.found.pushes.last().and_then(|push| push.order_failed.clone()) {
            self.found.faults.push(format!("push {} could not be ordered: {text}", push.number));
        }
        held
    }

    fn order(&self, push: Push, expected: u64) -> Vec<Ordered> {
        let rate = self.options.push_rate;
        let time = rate.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(expected as f64 / rate));
        let patience = self.options.timeout + time;
        let origins = self.options.origin_control.iter().copied();
        origins
            .map(|origin| std::thread::spawn(move || control::push(origin, push, rate, patience)))
            .collect()
    }

    /// Waits as long as deliveries come.
    fn wait_until_delivered(&mut self, is_broken: &impl Fn() -> bool) -> Waited {
        let (mut most, mut since) = (0, Instant::now());
        loop {
            match self.wait(Instant::now() + ASK, is_broken, |me| me.board.is_delivered()) {
                Waited::Late => {}
                other => return other,
            }
            let delivered = self.board.last().map_or(0, |delivery| delivery.times.len());
            if delivered > most {
                (most, since) = (delivered, Instant::now());
            }
            if since.elapsed() >= self.options.timeout {
                return Waited::Late;
            }
        }
    }

    /// Until `end`, sees each time that clients are put out through to its end.
    fn watch_storms(&mut self, end: Instant, is_broken: &impl Fn() -> bool) -> Option<()> {
        let (mut calm, mut before) = (self.processes.look(false), Put::of(self.board));
        while Instant::now() < end {
            self.doing = "waiting for storms";
            let next = end.min(Instant::now() + CALM_LOOK);
            match self.wait(next, is_broken, |me| count(&me.board.put_out) > before.clients) {
                Waited::Over => return None,
                Waited::Late => calm = self.processes.look(false),
                Waited::Came => {
                    self.see_storm(&calm, before, is_broken)?;
                    (calm, before) = (self.processes.look(false), Put::of(self.board));
                }
            }
        }
        Some(())
    }

    fn see_storm(&mut self, calm: &Look, before: Put, is_broken: &impl Fn() -> bool) -> Option<()> {
        self.doing = "coming back";
        let began = Instant::now();
        self.windows.begin_storm(began);
        let held = self.wait_until_held(is_broken);
        let ended = Instant::now();
        self.windows.end_storm(ended);
        let after = Put::of(self.board);
        let clients = after.clients - before.clients;
        self.found.storms.push(Storm {
            at: (began - self.held.shared.start).as_secs_f64(),
            clients,
            connections_lost: after.lost - before.lost,
            refused: after.refused - before.refused,
            seconds_until_held: held.map(|()| (ended - began).as_secs_f64()),
            processes: self.processes.look(false).since(calm, clients),
        });
        held
    }

    /// Lets so much time pass.
    fn rest(&mut self, time: Duration, is_broken: &impl Fn() -> bool) -> Option<()> {
        let waited = self.wait(Instant::now() + time, is_broken, |_| false);
        (waited != Waited::Over).then_some(())
    }

    fn wait(
        &mut self,
        until: Instant,
        is_broken: &impl Fn() -> bool,
        has_come: impl Fn(&Self) -> bool,
    ) -> Waited {
        loop {
            if interrupt::is_wanted() || is_broken() {
                return Waited::Over;
            }
            if has_come(self) {
                return Waited::Came;
            }
            let now = Instant::now();
            if now >= until {
                return Waited::Late;
            }
            std::thread::sleep(LOOK.min(until - now));
            self.show();
        }
    }

    fn show(&mut self) {
        let now = Instant::now();
        if now < self.next_show {
            return;
        }
        self.next_show = now + SHOW;
        self.timeline.add(self.held.progress.iter().flat_map(|progress| progress.intervals.take()));
        // Nobody reads the seconds of ordinary requests: they must not pile up.
        for progress in self.ordinary.iter().flat_map(|engine| &engine.progress) {
            drop(progress.intervals.take());
        }
        let now = Now {
            doing: self.doing,
            open: count(&self.board.held),
            connections: self.found.clients,
            answers: sum(&self.held.progress, |progress| &progress.answers),
            failures: sum(&self.held.progress, |progress| &progress.failures),
            wrong: sum(&self.held.progress, |progress| &progress.wrong),
        };
        self.live.show(now, &self.timeline);
    }
}

fn sum(progress: &[Progress], counter: impl Fn(&Progress) -> &AtomicU64) -> u64 {
    progress.iter().map(|progress| counter(progress).load(Ordering::Relaxed)).sum()
}

fn push_report(
    delivery: &Delivery,
    answered: Vec<io::Result<u64>>,
    before: &Look,
    after: &Look,
) -> PushReport {
    let delivered = delivery.times.len();
    let millis = |time: Duration| time.as_secs_f64() * 1000.0;
    let order_failed = answered.iter().find_map(|answer| answer.as_ref().err().map(ToString::to_string));
    PushReport {
        number: delivery.push.number,
        expected: delivery.expected,
        delivered,
        answered_held: answered.into_iter().sum::<io::Result<u64>>().ok(),
        order_failed,
        first_ms: delivery.first.map(millis),
        last_ms: millis(delivery.last),
        latency: Percentiles::of(&delivery.times),
        processes: after.since(before, delivered),
        own_cpu_micros_each: after.own_since(before) as f64 / delivered.max(1) as f64,
    }
}
