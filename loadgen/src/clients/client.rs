//! One simulated client: its connection, and what is left for it to do.
//!
//! Holds state and the little that needs nothing else; `worker/` moves it along.

use super::exchange::Exchange;
use super::session::Session;
use super::work::Life;
use crate::ring::{Flight, GENERATION_MASK, Operation, Ring, Tag};
use rustls::ClientConfig;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The shortest wait before another try.
pub const BACKOFF_MIN: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Waiting ── its time ──▶ Connecting ─▶ Shaking ─▶ Open ─▶ Closing ─▶ Waiting or Done
///
/// Connecting and Shaking go to Closing when they fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// For its time to connect.
    Waiting,
    /// TCP is being connected.
    Connecting,
    /// TLS shakes hands.
    Shaking,
    /// Requests may be asked.
    Open,
    /// Until nothing is in flight; politely means that what is staged still goes.
    Closing { is_polite: bool, is_slot_closing: bool },
    /// Nothing is left to do.
    Done,
}

/// One client, over all its connections.
pub struct Client {
    /// Where it stands.
    pub state: State,
    /// Which connection this is, for tags.
    pub generation: u32,
    /// Its direct descriptor.
    pub slot: u32,
    /// Receiving, as the kernel has it.
    pub receive: Flight,
    /// Connecting, then sending, as the kernel has it.
    pub send: Flight,
    /// Plain or TLS.
    pub session: Session,
    /// Requests and answers of this connection.
    pub exchange: Exchange,
    /// What goes after `sending`.
    pub staged: Vec<u8>,
    /// What the kernel sends; not touched while it does.
    pub sending: Vec<u8>,
    /// How much of `sending` went.
    pub sent: usize,
    /// The TLS sessions it may resume, as a configuration of its own.
    pub memory: Option<Arc<ClientConfig>>,
    /// What it asks.
    pub life: Life,
    /// Requests left, when each client has its own number.
    pub left: u64,
    /// Planned starts that wait for this connection (open loop).
    pub due: VecDeque<Instant>,
    /// This connection ends when it has its answers, and is made anew.
    pub is_renewing: bool,
    /// All was said on this connection; the server is to end it too (`-m 0`).
    pub is_leaving: bool,
    /// Whether our direction was ended.
    pub has_shut: bool,
    /// Requests asked on this connection.
    pub asked_here: u64,
    /// Nothing is asked before.
    pub ask_at: Instant,
    /// When this connection began.
    pub began: Instant,
    /// When a byte went or came last, or a request was asked at rest.
    pub last_traffic: Instant,
    /// The connection rested when the oldest outstanding request was asked.
    pub rested: bool,
    /// For how long nothing had moved when that was asked.
    pub rest: Option<Duration>,
    /// Which of the targets it connects to.
    pub target: u16,
    /// The first failure since the last right answer.
    pub trying_since: Option<Instant>,
    /// Failures since the last right answer.
    pub failures_in_row: u32,
    /// It connected, or failed to, once.
    pub has_arrived: bool,
    /// It had a right answer.
    pub was_served: bool,
    /// It does nothing more.
    pub has_given_up: bool,
    /// A send failed: what was received before it is still read, nothing more is sent.
    pub cannot_send: bool,
}

impl Client {
    /// A client of a target, with `left` requests to ask, or a script to follow.
    pub fn new(life: Life, left: u64, target: u16, now: Instant) -> Self {
        Self {
            state: State::Waiting,
            generation: 0,
            slot: 0,
            receive: Flight::Idle,
            send: Flight::Idle,
            session: Session::Plain,
            exchange: Exchange::default(),
            staged: Vec::new(),
            sending: Vec::new(),
            sent: 0,
            memory: None,
            life,
            left,
            due: VecDeque::new(),
            is_renewing: false,
            is_leaving: false,
            has_shut: false,
            asked_here: 0,
            ask_at: now,
            began: now,
            last_traffic: now,
            rested: false,
            rest: None,
            target,
            trying_since: None,
            failures_in_row: 0,
            has_arrived: false,
            was_served: false,
            has_given_up: false,
            cannot_send: false,
        }
    }

    /// A new connection in `slot`.
    pub fn begin(&mut self, slot: u32, now: Instant) {
        self.state = State::Connecting;
        self.generation = self.generation.wrapping_add(1) & GENERATION_MASK;
        self.slot = slot;
        (self.receive, self.send) = (Flight::Idle, Flight::Idle);
        self.asked_here = 0;
        (self.rested, self.rest, self.cannot_send) = (false, None, false);
        (self.is_renewing, self.is_leaving, self.has_shut) = (false, false, false);
        (self.began, self.last_traffic) = (now, now);
    }

    /// The tag of its operations.
    pub fn tag(&self, key: u32, operation: Operation) -> Tag {
        Tag { operation, generation: self.generation, key }
    }

    /// Sends what is staged, unless something is being sent.
    pub fn push_send(&mut self, key: u32, ring: &mut Ring) {
        if self.cannot_send {
            self.staged.clear();
        }
        if self.send != Flight::Idle {
            return;
        }
        if self.sending.is_empty() {
            std::mem::swap(&mut self.sending, &mut self.staged);
        }
        let rest = &self.sending[self.sent..];
        if !rest.is_empty() {
            ring.send(self.slot, rest, self.tag(key, Operation::Send));
            self.send = Flight::Armed;
        }
    }

    /// Longer with every failure in a row, and a little different for every client.
    pub fn backoff(&self, key: u32) -> Duration {
        if self.failures_in_row == 0 {
            return Duration::ZERO;
        }
        let longest = BACKOFF_MIN.saturating_mul(1 << (self.failures_in_row - 1).min(10)).min(BACKOFF_MAX);
        let jitter = f64::from(key.wrapping_mul(2_654_435_769) >> 16) / 65_536.0;
        longest.mul_f64(0.5 + jitter / 2.0)
    }
}
