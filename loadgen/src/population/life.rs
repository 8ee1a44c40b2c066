//! How a client spends its days: timers with jitter, bursts, and what a failure does to both.
//!
//! Pure: a number, a moment and chance from a seed give one client's requests, the same ones every time. A person of the
//! population has two connections, as a real client has: an even one for all that is asked and answered, and the odd one
//! behind it that waits for notifications and does what they ask for.

use super::features::{self, FEATURES};
use super::request::Client;
use super::run::Run;
use super::step::Kind;
use crate::random::Random;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The keep-alive time of client notification, and so how long a request is held.
pub const KEEP_ALIVE: Duration = Duration::from_secs(15 * 60);
/// Clients hold off when so many contacts failed within [`FAILING_WITHIN`], for as long.
const FAILURES_MAX: usize = 5;
const FAILING_WITHIN: Duration = Duration::from_secs(5 * 60);
/// What failed is tried again after about this time.
const RETRY_AFTER: Duration = Duration::from_secs(60);
/// A connection that has nothing to do for longer is closed, as the clients' HTTP library does.
const AWAY_AFTER: Duration = Duration::from_secs(120);
/// A notification comes to a client about once a day.
const PUSHES_PER_HOLD: f64 = 15.0 / (24.0 * 60.0);
/// What is held.
const NOTIFICATIONS: &str = "notifications";
/// What notifications ask for.
const PUSHED: [&str; 3] = ["scripts", "cmpivot", "endpoint-protection"];
/// Within what time a working day begins, and how long an outage's clients take to come back.
const START_OF_DAY: Duration = Duration::from_secs(30 * 60);
const AFTER_OUTAGE: Duration = Duration::from_secs(2 * 60);
/// What a client asks at once when it starts, or finds its way again: feature, and how many of its steps.
const CATCH_UP: [(&str, usize); 4] =
    [("location", 2), ("ccm-token", 1), ("policy", 2), ("state-messages", 1)];

/// Something a client does again and again.
#[derive(Clone, Copy, Debug)]
pub struct Timer {
    /// What.
    pub feature: &'static str,
    /// How many of its steps.
    pub steps: usize,
    /// Seconds between two times, by the product's defaults.
    pub product: f64,
    /// Seconds between two times, so that the mix by kind is the one suggested for benchmarks.
    pub benchmark: f64,
    /// Part of the time by which it varies, up or down.
    pub jitter: f64,
    /// How often there is something to do.
    pub chance: f64,
}

const DAY: f64 = 86_400.0;

/// All of them but the held notification, which follows upon itself.
pub const TIMERS: &[Timer] = &[
    Timer { feature: "policy", steps: 2, product: 3_600.0, benchmark: 3_600.0, jitter: 0.1, chance: 1.0 },
    // The cycle of 15 minutes sends only if there is something: in one of three, here.
    Timer {
        feature: "state-messages",
        steps: 1,
        product: 900.0,
        benchmark: 900.0,
        jitter: 0.1,
        chance: 1.0 / 3.0,
    },
    Timer {
        feature: "ccm-token",
        steps: 1,
        product: 28_800.0,
        benchmark: 8_100.0,
        jitter: 0.05,
        chance: 1.0,
    },
    Timer { feature: "location", steps: 2, product: DAY, benchmark: DAY, jitter: 0.05, chance: 1.0 },
    Timer {
        feature: "status-messages",
        steps: 1,
        product: DAY,
        benchmark: 14_400.0,
        jitter: 0.5,
        chance: 1.0,
    },
    Timer {
        feature: "registration",
        steps: 3,
        product: 7.0 * DAY,
        benchmark: 7.0 * DAY,
        jitter: 0.05,
        chance: 1.0,
    },
    // Seven days, with a delay of up to 240 minutes; sites that want fresher figures ask more often.
    Timer {
        feature: "inventory",
        steps: 7,
        product: 7.0 * DAY,
        benchmark: 56_700.0,
        jitter: 0.024,
        chance: 1.0,
    },
    Timer {
        feature: "software-inventory",
        steps: 1,
        product: 7.0 * DAY,
        benchmark: 7.0 * DAY,
        jitter: 0.05,
        chance: 1.0,
    },
    // Deployments are looked at again in seven days: what is asked is that of an application.
    Timer {
        feature: "device-apps",
        steps: 4,
        product: 7.0 * DAY,
        benchmark: 7.0 * DAY,
        jitter: 0.05,
        chance: 1.0,
    },
    // At the start of a client, when 30 days are over.
    Timer {
        feature: "site-token",
        steps: 1,
        product: 30.0 * DAY,
        benchmark: 30.0 * DAY,
        jitter: 0.05,
        chance: 1.0,
    },
    Timer {
        feature: "compliance",
        steps: 3,
        product: 7.0 * DAY,
        benchmark: 7.0 * DAY,
        jitter: 0.05,
        chance: 1.0,
    },
    Timer {
        feature: "update-scan",
        steps: 7,
        product: 7.0 * DAY,
        benchmark: 93_600.0,
        jitter: 0.05,
        chance: 1.0,
    },
];

/// Whether a population ever asks for the feature: by a timer, held, or because a notification says so.
pub fn has_time(feature: &str) -> bool {
    feature == NOTIFICATIONS
        || PUSHED.contains(&feature)
        || TIMERS.iter().any(|timer| timer.feature == feature)
}

/// Which times timers have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Schedule {
    /// The defaults of the product.
    #[default]
    Product,
    /// Some shorter ones, so that requests divide by kind as suggested for benchmarks.
    Benchmark,
}

/// What happens at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Burst {
    /// All start within half an hour, most in its middle, and ask for everything.
    StartOfDay,
    /// All come back within two minutes, most at once, sign in and ask for everything.
    AfterOutage,
}

/// How a population lives.
#[derive(Clone, Debug)]
pub struct Habits {
    /// Which features it uses; by number.
    pub features: Vec<usize>,
    /// Which times timers have.
    pub schedule: Schedule,
    /// What happens at the start.
    pub burst: Option<Burst>,
    /// How much faster than life time goes.
    pub speed: f64,
    /// Where chance begins.
    pub seed: u64,
}

impl Timer {
    fn every(&self, schedule: Schedule) -> f64 {
        match schedule {
            Schedule::Product => self.product,
            Schedule::Benchmark => self.benchmark,
        }
    }
}

impl Habits {
    fn uses(&self, name: &str) -> bool {
        let is_chosen = |name| features::find(name).is_some_and(|index| self.features.contains(&index));
        // What comes by notification is waited for.
        is_chosen(name) || name == NOTIFICATIONS && PUSHED.into_iter().any(is_chosen)
    }

    fn timers(&self) -> impl Iterator<Item = &'static Timer> {
        TIMERS.iter().filter(|timer| self.uses(timer.feature))
    }

    /// How long a notification is held.
    pub fn hold(&self) -> Duration {
        self.scaled(KEEP_ALIVE)
    }

    fn scaled(&self, time: Duration) -> Duration {
        time.div_f64(self.speed)
    }

    /// Which part (percent) of a person's requests is of each kind, by timers alone.
    pub fn shares(&self) -> [f64; Kind::ALL.len()] {
        let mut rates = [0.0; Kind::ALL.len()];
        let mut count = |feature: &str, from: usize, steps: usize, rate: f64| {
            let Some(feature) = features::find(feature) else { return };
            for step in FEATURES[feature].steps.iter().skip(from).take(steps) {
                let index = Kind::ALL.iter().position(|(kind, ..)| *kind == step.kind).unwrap_or_default();
                rates[index] += rate;
            }
        };
        for timer in self.timers() {
            count(timer.feature, 0, timer.steps, timer.chance / timer.every(self.schedule));
        }
        if self.uses(NOTIFICATIONS) {
            let rate = 1.0 / KEEP_ALIVE.as_secs_f64();
            let pushed: Vec<_> = PUSHED.into_iter().filter(|name| self.uses(name)).collect();
            let pushes = if pushed.is_empty() { 0.0 } else { PUSHES_PER_HOLD };
            count(NOTIFICATIONS, 1, 1, rate * (1.0 - pushes));
            for name in &pushed {
                count(name, 0, usize::MAX, rate * pushes / pushed.len() as f64);
            }
        }
        let all: f64 = rates.iter().sum();
        rates.map(|rate| if all > 0.0 { rate * 100.0 / all } else { 0.0 })
    }
}

/// What a client does next.
#[derive(Clone, Debug)]
pub enum Deed {
    /// This.
    Run(Run),
    /// Nothing before then, connected.
    Rest(Instant),
    /// Nothing before then, and not connected.
    Away(Instant),
}

/// One connection of one person.
#[derive(Clone, Debug)]
pub struct Life {
    number: u32,
    waits: bool,
    random: Random,
    /// When each timer is due; in the order of [`Habits::timers`].
    due: Vec<(Instant, &'static Timer)>,
    /// What is done before anything else, from this moment on.
    first: VecDeque<(&'static str, usize)>,
    not_before: Instant,
    is_signed_in: bool,
    failed: VecDeque<Instant>,
}

impl Life {
    /// Connection `index` of the population, which begins to live now.
    pub fn new(habits: &Habits, index: u32, now: Instant) -> Self {
        let waits = index % 2 == 1 && habits.uses(NOTIFICATIONS);
        let mut random = Random::new(habits.seed, u64::from(index));
        let arrival = match habits.burst {
            // The sum of three evenly spread times: most in the middle.
            Some(Burst::StartOfDay) => {
                START_OF_DAY.mul_f64((random.unit() + random.unit() + random.unit()) / 3.0)
            }
            Some(Burst::AfterOutage) => AFTER_OUTAGE.mul_f64((random.exponential() / 4.0).min(1.0)),
            None if waits => KEEP_ALIVE.mul_f64(random.unit()),
            None => Duration::ZERO,
        };
        let begin = now + habits.scaled(arrival);
        // In any part of their time: the population lived before it was looked at.
        let due = habits.timers().map(|timer| {
            let part = Duration::from_secs_f64(timer.every(habits.schedule) * random.unit());
            (begin + habits.scaled(part), timer)
        });
        let due = if waits { Vec::new() } else { due.collect() };
        let first =
            CATCH_UP.into_iter().filter(|(name, _)| !waits && habits.burst.is_some() && habits.uses(name));
        Self {
            number: index / 2,
            waits,
            random,
            due,
            first: first.collect(),
            not_before: begin,
            is_signed_in: false,
            failed: VecDeque::new(),
        }
    }

    /// What comes next.
    pub fn next(&mut self, habits: &Habits, now: Instant) -> Deed {
        if now < self.not_before {
            return self.rest(self.not_before, now);
        }
        if self.waits {
            return Deed::Run(self.notification(habits));
        }
        if let Some((feature, steps)) = self.first.pop_front() {
            return Deed::Run(self.run(habits, feature, 0, steps));
        }
        loop {
            let Some(index) = (0..self.due.len()).min_by_key(|index| self.due[*index].0) else {
                return Deed::Away(now + Duration::from_secs(3600));
            };
            let (at, timer) = self.due[index];
            if at > now {
                return self.rest(at, now);
            }
            let vary = 1.0 + timer.jitter * (2.0 * self.random.unit() - 1.0);
            let every = Duration::from_secs_f64(timer.every(habits.schedule) * vary);
            // Counted from when it was due: what takes long does not make a client ask less.
            self.due[index].0 = (at + habits.scaled(every)).max(now);
            if self.random.unit() < timer.chance {
                return Deed::Run(self.run(habits, timer.feature, 0, timer.steps));
            }
        }
    }

    /// A step failed: what was begun is given up and tried later.
    pub fn failed(&mut self, habits: &Habits, now: Instant) {
        self.is_signed_in = false;
        let within = habits.scaled(FAILING_WITHIN);
        self.failed.push_back(now);
        while self.failed.front().is_some_and(|at| now - *at > within) || self.failed.len() > FAILURES_MAX {
            self.failed.pop_front();
        }
        let wait = if self.failed.len() >= FAILURES_MAX { FAILING_WITHIN } else { RETRY_AFTER };
        self.not_before = now + habits.scaled(wait.mul_f64(0.5 + self.random.unit()));
    }

    fn rest(&self, at: Instant, now: Instant) -> Deed {
        // In real time: it is the server's patience with idle connections that matters.
        if at - now > AWAY_AFTER { Deed::Away(at) } else { Deed::Rest(at) }
    }

    fn notification(&mut self, habits: &Habits) -> Run {
        let pushed: Vec<_> = PUSHED.into_iter().filter(|name| habits.uses(name)).collect();
        if self.is_signed_in && !pushed.is_empty() && self.random.unit() < PUSHES_PER_HOLD {
            let feature = pushed[(self.random.next_u64() % pushed.len() as u64) as usize];
            return self.run(habits, feature, 0, usize::MAX);
        }
        let from = usize::from(self.is_signed_in);
        self.is_signed_in = true;
        self.run(habits, NOTIFICATIONS, from, usize::MAX)
    }

    fn run(&mut self, habits: &Habits, feature: &str, from: usize, end: usize) -> Run {
        let is_pushed = PUSHED.contains(&feature);
        // A notification comes at any moment of the time that the request is held.
        let hold = if is_pushed { habits.hold().mul_f64(self.random.unit()) } else { habits.hold() };
        let client =
            Client { number: self.number, hold: hold.max(Duration::from_millis(1)), ..Client::default() };
        Run::new(features::find(feature).unwrap_or_default(), from, end, client)
    }
}

#[cfg(test)]
#[path = "life_tests.rs"]
mod tests;
