//! The open loop: requests start when they are planned, and connections are made anew at a rate.
//!
//! A planned start goes to the connection whose turn it is. One that is busy takes it later, and that wait is part of the
//! latency: what a slow server keeps us from asking in time is the server's time, not ours.

use super::super::client::State;
use super::super::plan::{OpenLoop, Plan};
use super::super::schedule::{Arrivals, Schedule};
use super::Worker;
use std::time::Instant;

/// Streams of random numbers of one seed: planned starts have the numbers of their threads, renewals these.
const RENEW_STREAM: u64 = 1 << 32;

/// What one thread plans.
pub struct Starts {
    schedule: Schedule,
    /// Whose turn it is.
    turn: u32,
    /// Planned and not yet asked.
    waiting: u64,
    waiting_max: u64,
    /// Whether all clients were told that nothing more starts.
    is_over: bool,
}

/// Which connections are made anew, and when.
pub struct Renewals {
    schedule: Schedule,
    turn: u32,
}

impl Starts {
    /// This thread's part of the plan: `left` starts, on `clients` connections.
    pub fn new(plan: &Plan, open: OpenLoop, index: u16, left: u64) -> Self {
        let OpenLoop { rate, arrivals, backlog } = open;
        Self {
            schedule: Schedule::new(rate, arrivals, (index, plan.threads), plan.seed, left),
            turn: 0,
            waiting: 0,
            waiting_max: (backlog / u64::from(plan.threads)).max(1),
            is_over: false,
        }
    }

    /// Whether more is to start.
    pub fn has_more(&self) -> bool {
        self.schedule.has_more()
    }

    /// A planned start was asked, or given up.
    pub fn took(&mut self, count: u64) {
        self.waiting -= count;
    }
}

impl Renewals {
    /// This thread's part of `rate`.
    pub fn new(plan: &Plan, rate: f64, index: u16) -> Self {
        let share = (index, plan.threads);
        let schedule = Schedule::new(rate, Arrivals::Constant, share, plan.seed ^ RENEW_STREAM, u64::MAX);
        // Not the connection that just took a start: it would be busy.
        Self { schedule, turn: plan.connections / u32::from(plan.threads) / 2 }
    }
}

impl Worker<'_> {
    /// Requests may be asked from now on.
    pub fn begin_schedules(&mut self, now: Instant) {
        if let Some(starts) = &mut self.starts {
            starts.schedule.begin(now);
        }
        if let Some(renewals) = &mut self.renewals {
            renewals.schedule.begin(now);
        }
    }

    /// Nothing more starts.
    pub fn end_schedules(&mut self) {
        if let Some(starts) = &mut self.starts {
            starts.schedule.end();
        }
        if let Some(renewals) = &mut self.renewals {
            renewals.schedule.end();
        }
    }

    /// When the next thing is planned.
    pub fn next_planned(&self) -> Option<Instant> {
        let start = self.starts.as_ref().and_then(|starts| starts.schedule.next());
        let renewal = self.renewals.as_ref().and_then(|renewals| renewals.schedule.next());
        [start, renewal].into_iter().flatten().min()
    }

    /// Gives each start that is due to the connection whose turn it is.
    pub fn start_due(&mut self, now: Instant) {
        while let Some(planned) = self.starts.as_mut().and_then(|starts| starts.schedule.take(now)) {
            self.tally.punctuality.planned += 1;
            if self.is_measured(planned) {
                self.tally.punctuality.took_up(now - planned);
            }
            match self.next_client() {
                Some(key) => {
                    self.clients[key as usize].due.push_back(planned);
                    self.advance(key, now);
                }
                None => self.tally.punctuality.unsent += 1,
            }
        }
        if self.starts.as_ref().is_some_and(|starts| !starts.is_over && !starts.has_more()) {
            self.starts.as_mut().expect("looked at just now").is_over = true;
            (0..self.clients.len() as u32).for_each(|key| self.advance(key, now));
        }
    }

    /// The client that takes the next start; `None` when too many wait, or all clients have given up.
    fn next_client(&mut self) -> Option<u32> {
        let starts = self.starts.as_mut()?;
        if starts.waiting >= starts.waiting_max {
            return None;
        }
        let count = self.clients.len() as u32;
        let clients = &self.clients;
        let is_there = |key: &u32| clients[*key as usize].state != State::Done;
        let key = (0..count).map(|step| (starts.turn + step) % count).find(is_there)?;
        starts.turn = (key + 1) % count;
        starts.waiting += 1;
        Some(key)
    }

    /// The client will not ask what waits for it.
    pub fn drop_due(&mut self, key: u32) {
        let count = std::mem::take(&mut self.clients[key as usize].due).len() as u64;
        if let Some(starts) = &mut self.starts {
            starts.took(count);
            self.tally.punctuality.unsent += count;
        }
    }

    /// Asks again what the server closed unread, as of its planned start.
    pub fn put_back_due(&mut self, key: u32) {
        let client = &mut self.clients[key as usize];
        let Some(starts) = &mut self.starts else { return };
        for planned in client.exchange.planned_backwards() {
            client.due.push_front(planned);
            starts.waiting += 1;
        }
    }

    /// Tells connections that they are to be made anew.
    pub fn renew_due(&mut self, now: Instant) {
        while let Some(renewals) = &mut self.renewals
            && renewals.schedule.take(now).is_some()
        {
            let count = self.clients.len() as u32;
            let clients = &self.clients;
            let is_fit = |key: &u32| {
                let client = &clients[*key as usize];
                client.state == State::Open && !client.is_renewing
            };
            let turn = renewals.turn;
            let Some(key) = (0..count).map(|step| (turn + step) % count).find(is_fit) else { return };
            renewals.turn = (key + 1) % count;
            self.clients[key as usize].is_renewing = true;
            self.advance(key, now);
        }
    }
}
