//! What `loadgen notify` found, as JSON and as a table.

use super::board::{Board, Delivery, count};
use super::watch::Use;
use super::{Outcome, Verdict};
use crate::machine::Machine;
use crate::report::{Percentiles, Provenance, Tally, times_text};
use serde::Serialize;
use std::fmt::Write;

/// What the file says it is.
pub const FORMAT: &str = "loadgen-notify";
/// Raised when a reader of older files would misread a new one.
pub const VERSION: u32 = 1;

/// Everything a run tells.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// [`FORMAT`].
    pub format: &'static str,
    /// [`VERSION`].
    pub version: u32,
    /// Where it comes from.
    pub run: Provenance,
    /// Where it ran.
    pub machine: Machine,
    /// In a word: right, failed, not-once or interrupted.
    pub result: &'static str,
    /// What failed, in words.
    pub faults: Vec<String>,
    /// Clients.
    pub clients: u64,
    /// From the first connect until all were held; `None` when they never were.
    pub seconds_until_held: Option<f64>,
    /// Connections made, and those of them that resumed a session.
    pub connects: u64,
    /// The same.
    pub resumed: u64,
    /// Connect and TLS.
    pub handshake: Percentiles,
    /// Counters of the board.
    pub counts: Counts,
    /// What clients' requests met, as the engine counts it.
    pub errors: String,
    /// What the first of them said.
    pub first_failure: Option<String>,
    /// Memory of each process.
    pub memory: Vec<Memory>,
    /// The silent time.
    pub silence: Option<Silence>,
    /// Pushes in order.
    pub pushes: Vec<PushReport>,
    /// Times when clients were put out and came back.
    pub storms: Vec<Storm>,
    /// Ordinary requests meanwhile.
    pub ordinary: Option<Ordinary>,
}

/// Counters of the board.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Held when the clients were told to end.
    pub held: u64,
    /// Answers to a sign-in.
    pub sign_ins: u64,
    /// Held requests answered with nothing.
    pub keep_alives: u64,
    /// Connections that ended with a request outstanding.
    pub lost_connections: u64,
    /// Answers with another status.
    pub refused: u64,
    /// Pushes that did not reach their client in time.
    pub lost: u64,
    /// Pushes that a client had already.
    pub duplicated: u64,
    /// Answers for another client, or to another request.
    pub misdelivered: u64,
    /// Answers with wrong content, or none.
    pub malformed: u64,
    /// Pushes that nobody ordered.
    pub unknown: u64,
}

impl Counts {
    /// As the board has them.
    pub fn of(board: &Board) -> Self {
        Self {
            held: count(&board.held),
            sign_ins: count(&board.sign_ins),
            keep_alives: count(&board.keep_alives),
            lost_connections: count(&board.lost_connections),
            refused: count(&board.refused),
            lost: board.all().iter().map(Delivery::lost).sum(),
            duplicated: count(&board.duplicated),
            misdelivered: count(&board.misdelivered),
            malformed: count(&board.malformed),
            unknown: count(&board.unknown),
        }
    }

    /// Deliveries that were not exactly one to the right client.
    pub fn not_once(&self) -> u64 {
        self.lost + self.duplicated + self.misdelivered + self.malformed + self.unknown
    }
}

/// Resident bytes of a process.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Memory {
    /// Its name.
    pub name: String,
    /// Before the first client connected.
    pub before: Option<u64>,
    /// When all were held.
    pub held: Option<u64>,
    /// At the end, with all of them still there.
    pub after: Option<u64>,
    /// From `before` to `held`, for each held notification.
    pub each: Option<f64>,
}

/// The silent time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Silence {
    /// How long.
    pub seconds: f64,
    /// Keep-alives in it.
    pub keep_alives: u64,
    /// What processes used.
    pub processes: Vec<Use>,
}

/// One push.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PushReport {
    /// Its number.
    pub number: u64,
    /// Clients it is for.
    pub expected: u64,
    /// Clients that had it.
    pub delivered: u64,
    /// Of those, answered by the origin from what it held; the rest had it with their next request.
    pub answered_held: Option<u64>,
    /// What ordering it met.
    pub order_failed: Option<String>,
    /// From the order to the first delivery.
    pub first_ms: Option<f64>,
    /// From the order to the last.
    pub last_ms: f64,
    /// From the order to each.
    pub latency: Percentiles,
    /// What processes used from the order until all were held again.
    pub processes: Vec<Use>,
    /// The same of loadgen itself, for each delivery.
    pub own_cpu_micros_each: f64,
}

/// One time when clients were put out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Storm {
    /// When it was noticed, in seconds since the start of the run.
    pub at: f64,
    /// Clients whose held request ended without an answer, each time.
    pub clients: u64,
    /// Connections lost, those on the way back included.
    pub connections_lost: u64,
    /// Answers with a status that was not 200.
    pub refused: u64,
    /// Until all were held again; `None` when they never were.
    pub seconds_until_held: Option<f64>,
    /// What processes used, from the look before it; each: of a returning client. `resident` is that when all were back.
    pub processes: Vec<Use>,
}

/// Ordinary requests.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ordinary {
    /// Asked per second.
    pub rate: f64,
    /// Right answers.
    pub requests: u64,
    /// Planned, and never sent.
    pub unsent: u64,
    /// What failed.
    pub errors: String,
    /// Of requests that met nothing else.
    pub quiet: Percentiles,
    /// Of those that met a fan-out.
    pub fan_out: Percentiles,
    /// Of those that met a storm; its `max_ms` is the longest stall of who stayed up.
    pub storm: Percentiles,
}

impl Report {
    /// Takes in what the engine counted of the held clients.
    pub fn take(&mut self, tally: &Tally) {
        (self.connects, self.resumed) = (tally.connects, tally.resumed);
        self.handshake = Percentiles::of(&tally.handshake);
        self.errors = tally.failures.shown();
        self.first_failure = tally.first_failure.clone();
    }

    /// Says what became of the run.
    pub fn conclude(&mut self, verdict: Verdict) {
        self.faults = verdict.faults;
        self.result = match verdict.outcome {
            Outcome::Right => "right",
            Outcome::Failed => "failed",
            Outcome::NotOnce => "not-once",
            Outcome::Interrupted => "interrupted",
        };
    }

    /// As a table for people.
    pub fn table(&self) -> String {
        let mut out = String::new();
        let mut row = |name: &str, value: String| {
            let _ = writeln!(out, "{name:<22}{value}");
        };
        let until = |seconds: Option<f64>| match seconds {
            Some(seconds) => format!("{seconds:.2} s"),
            None => "NEVER".into(),
        };
        row("clients", format!("{}, all held after {}", self.clients, until(self.seconds_until_held)));
        row("connections", format!("{} made, {} of them resumed", self.connects, self.resumed));
        row("connect and TLS", times_text(&self.handshake));
        for memory in &self.memory {
            row(&format!("memory {}", memory.name), memory.shown());
        }
        if let Some(silence) = &self.silence {
            row("silence", format!("{:.1} s, {} keep-alives in it", silence.seconds, silence.keep_alives));
            for used in &silence.processes {
                let percent = used.cpu_percent.map_or("?".into(), |percent| format!("{percent:.3}"));
                row(&format!("  CPU {}", used.name), format!("{percent} % of a core"));
            }
        }
        for push in &self.pushes {
            row(&format!("push {}", push.number), push.shown());
            row("  CPU", shown_each(&push.processes, "delivery", Some(push.own_cpu_micros_each)));
        }
        for storm in &self.storms {
            let text = format!(
                "at {:.1} s {} clients put out ({} connections lost, {} refusals), all held again after {}",
                storm.at,
                storm.clients,
                storm.connections_lost,
                storm.refused,
                until(storm.seconds_until_held)
            );
            row("storm", text);
            row("  CPU", shown_each(&storm.processes, "returning client", None));
        }
        if let Some(ordinary) = &self.ordinary {
            row("ordinary", ordinary.shown());
            for (name, of) in
                [("quiet", &ordinary.quiet), ("fan-out", &ordinary.fan_out), ("storm", &ordinary.storm)]
            {
                if of.count > 0 {
                    row(&format!("  {name}"), format!("{}  ({})", times_text(of), of.count));
                }
            }
        }
        let counts = &self.counts;
        row(
            "requests",
            format!(
                "{} sign-ins, {} keep-alives, {} refused",
                counts.sign_ins, counts.keep_alives, counts.refused
            ),
        );
        row(
            "deliveries wrong",
            format!(
                "{} lost, {} duplicated, {} misdelivered, {} malformed, {} of no push",
                counts.lost, counts.duplicated, counts.misdelivered, counts.malformed, counts.unknown
            ),
        );
        row("connections lost", counts.lost_connections.to_string());
        row("errors", self.errors.clone());
        if let Some(text) = &self.first_failure {
            row("first failure", text.clone());
        }
        row("seed", self.run.seed.to_string());
        row("result", if self.faults.is_empty() { "all right".into() } else { self.faults.join("; ") });
        out
    }
}

fn shown_each(uses: &[Use], of: &str, own: Option<f64>) -> String {
    let own = own.map(|micros| ("loadgen", Some(micros)));
    let uses = uses.iter().map(|used| (used.name.as_str(), used.cpu_micros_each)).chain(own);
    let each = |(name, micros): (&str, Option<f64>)| match micros {
        Some(micros) => format!("{name} {micros:.1}"),
        None => format!("{name} ?"),
    };
    format!("{} µs per {of}", uses.map(each).collect::<Vec<_>>().join(", "))
}

impl PushReport {
    fn shown(&self) -> String {
        let Self { expected, delivered, latency, last_ms, .. } = self;
        let first = self.first_ms.map_or("?".into(), |first| format!("{first:.3}"));
        let failed =
            self.order_failed.as_ref().map_or(String::new(), |text| format!("; ORDER FAILED: {text}"));
        let (median, p99) = (latency.p50_ms, latency.p99_ms);
        format!(
            "{delivered} of {expected} delivered: first {first}  median {median:.3}  p99 {p99:.3}  last {last_ms:.3} ms{failed}"
        )
    }
}

impl Memory {
    fn shown(&self) -> String {
        let shown =
            |bytes: Option<u64>| bytes.map_or("?".into(), |bytes| format!("{:.1}", bytes as f64 / 1e6));
        let each = self.each.map_or("?".into(), |bytes| format!("{bytes:.0}"));
        format!(
            "{} MB before, {} held, {} at the end; {each} bytes per held notification",
            shown(self.before),
            shown(self.held),
            shown(self.after)
        )
    }
}

impl Ordinary {
    fn shown(&self) -> String {
        let Self { rate, requests, unsent, errors, .. } = self;
        format!("{rate}/s, {requests} right, {unsent} never sent, errors: {errors}")
    }
}
