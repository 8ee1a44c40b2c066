//! A population of real clients: what they ask, when, and whether what comes back is right.
//!
//! Pure but for the clock that the engine hands in: `catalogue.rs` says what is answered (the origin reads it too),
//! `features.rs` which requests make a feature, `request.rs` their bytes, `run.rs` one client's way through one of them,
//! `life.rs` what a client does all day, `board.rs` what became of it. `clients/` asks; the origin answers.

mod board;
pub mod catalogue;
mod features;
mod life;
mod options;
mod request;
mod run;
mod step;

pub use options::{Options, list};

use crate::clients::work::{Answer, Next, Population, Script};
use board::Board;
use life::{Deed, Habits, Life};
use request::{Client, Site};
use run::Run;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// All clients of a run.
#[derive(Clone, Debug)]
pub struct People {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    site: Site,
    purpose: Purpose,
    board: Board,
    /// Seconds since 1970 when the run began.
    utc: u64,
    start: Instant,
    /// Clients of the run.
    clients: u64,
}

/// What a population is for.
#[derive(Clone, Debug)]
pub enum Purpose {
    /// To live.
    Life(Habits),
    /// To try these features once each, with notifications held so long.
    Try(Vec<usize>, Duration),
}

impl People {
    fn new(site: Site, purpose: Purpose, utc: u64, start: Instant, clients: u64) -> Self {
        Self { shared: Arc::new(Shared { site, purpose, board: Board::default(), utc, start, clients }) }
    }
}

impl Shared {
    /// The time of the population.
    fn utc(&self, now: Instant) -> u64 {
        let speed = match &self.purpose {
            Purpose::Life(habits) => habits.speed,
            Purpose::Try(..) => 1.0,
        };
        self.utc + (now.saturating_duration_since(self.start).as_secs_f64() * speed) as u64
    }
}

impl Population for People {
    fn script(&self, number: u32, now: Instant) -> Box<dyn Script> {
        let shared = Arc::clone(&self.shared);
        match &self.shared.purpose {
            Purpose::Life(habits) => {
                let life = Life::new(habits, number, now);
                Box::new(Living { shared, life, run: None })
            }
            Purpose::Try(features, hold) => {
                let client = Client { number, hold: *hold, ..Client::default() };
                let runs =
                    features.iter().rev().map(|feature| Run::new(*feature, 0, usize::MAX, client.clone()));
                Box::new(Trying { shared, runs: runs.collect() })
            }
        }
    }

    fn names(&self) -> Vec<String> {
        features::step_names()
    }

    fn conclude(&self) -> (String, bool) {
        match &self.shared.purpose {
            Purpose::Life(habits) => (self.shared.board.shares(habits.shares()), true),
            Purpose::Try(features, _) => self.shared.board.features(features, self.shared.clients),
        }
    }
}

/// A client that lives.
struct Living {
    shared: Arc<Shared>,
    life: Life,
    run: Option<Run>,
}

impl Living {
    fn habits(shared: &Shared) -> &Habits {
        match &shared.purpose {
            Purpose::Life(habits) => habits,
            Purpose::Try(..) => unreachable!("who lives has habits"),
        }
    }

    fn fail(&mut self, now: Instant) {
        self.run = None;
        self.life.failed(Self::habits(&self.shared), now);
    }
}

impl Script for Living {
    fn next(&mut self, id: u64, now: Instant) -> Next {
        loop {
            if let Some(run) = &mut self.run {
                match run.next(&self.shared.site, id, self.shared.utc(now)) {
                    run::Next::Ask(request) => return Next::Ask(request),
                    run::Next::Cannot(name, wrong) => {
                        self.shared.board.wrong(name, wrong);
                        self.fail(now);
                    }
                    run::Next::Done => self.run = None,
                }
                continue;
            }
            match self.life.next(Self::habits(&self.shared), now) {
                Deed::Run(run) => self.run = Some(run),
                Deed::Rest(at) => return Next::At(at),
                Deed::Away(at) => return Next::Away(at),
            }
        }
    }

    fn answered(&mut self, answer: &Answer<'_>, now: Instant) -> bool {
        let Some(run) = &mut self.run else { return true };
        let is_right = hear(&self.shared.board, run, answer);
        if !is_right {
            self.fail(now);
        }
        is_right
    }

    fn lost(&mut self, why: &'static str, now: Instant) {
        if let Some(run) = &mut self.run {
            let name = run.name();
            self.shared.board.wrong(name, run.lost(why));
            self.fail(now);
        }
    }
}

/// A client that tries features.
struct Trying {
    shared: Arc<Shared>,
    /// The last one is at hand.
    runs: Vec<Run>,
}

impl Script for Trying {
    fn next(&mut self, id: u64, now: Instant) -> Next {
        while let Some(run) = self.runs.last_mut() {
            match run.next(&self.shared.site, id, self.shared.utc(now)) {
                run::Next::Ask(request) => return Next::Ask(request),
                run::Next::Cannot(name, wrong) => self.shared.board.wrong(name, wrong),
                run::Next::Done => drop(self.runs.pop()),
            }
        }
        Next::Done
    }

    fn answered(&mut self, answer: &Answer<'_>, _: Instant) -> bool {
        self.runs.last_mut().is_none_or(|run| hear(&self.shared.board, run, answer))
    }

    fn lost(&mut self, why: &'static str, _: Instant) {
        if let Some(run) = self.runs.last_mut() {
            let name = run.name();
            self.shared.board.wrong(name, run.lost(why));
        }
    }
}

/// Judges an answer and writes it down. Whether it was right.
fn hear(board: &Board, run: &mut Run, answer: &Answer<'_>) -> bool {
    let name = run.name();
    match run.answered(answer) {
        Ok(()) => {
            board.right(name, answer.elapsed);
            true
        }
        Err(wrong) => {
            board.wrong(name, wrong);
            false
        }
    }
}
