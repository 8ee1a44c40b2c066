//! What threads share: the phase they follow, and counters each writes for itself.

use crate::report::Outbox;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Instant;

/// What all threads do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Connections are made, nothing is asked.
    Connecting,
    /// Requests are asked and not measured.
    WarmUp,
    /// Requests are asked and measured.
    Measuring,
    /// Requests are asked on and no longer measured, while system calls are counted.
    Counting,
    /// Nothing more is asked.
    Ending,
}

/// The phase, set by the main thread.
pub struct Shared {
    phase: AtomicU8,
    is_interrupted: AtomicBool,
    /// When the run began.
    pub start: Instant,
    /// First number of this run's ids.
    pub run: u64,
}

impl Shared {
    /// A run that begins now.
    pub fn new(start: Instant, run: u64) -> Self {
        Self {
            phase: AtomicU8::new(Phase::Connecting as u8),
            is_interrupted: AtomicBool::new(false),
            start,
            run,
        }
    }

    /// What to do now.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Connecting,
            1 => Phase::WarmUp,
            2 => Phase::Measuring,
            3 => Phase::Counting,
            _ => Phase::Ending,
        }
    }

    /// Whether the user ended the run early.
    pub fn is_interrupted(&self) -> bool {
        self.is_interrupted.load(Ordering::Relaxed)
    }

    /// The user ends the run early.
    pub fn interrupt(&self) {
        self.is_interrupted.store(true, Ordering::Relaxed);
        self.set_phase(Phase::Ending);
    }

    /// Sets what to do.
    pub fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }
}

/// Times in which something else went on, so that answers in them are told apart: the last fan-out and the last storm.
#[derive(Debug)]
pub struct Windows {
    start: Instant,
    fan_out: Window,
    storm: Window,
}

/// Begin and end in microseconds since the start of the run; it has not begun, or not ended, at `u64::MAX`.
#[derive(Debug)]
struct Window {
    begin: AtomicU64,
    end: AtomicU64,
}

impl Default for Window {
    fn default() -> Self {
        Self { begin: AtomicU64::new(u64::MAX), end: AtomicU64::new(u64::MAX) }
    }
}

impl Window {
    fn meets(&self, since: u64, until: u64) -> bool {
        until >= self.begin.load(Ordering::Acquire) && since <= self.end.load(Ordering::Acquire)
    }

    fn begin(&self, at: u64) {
        self.end.store(u64::MAX, Ordering::Release);
        self.begin.store(at, Ordering::Release);
    }
}

impl Windows {
    /// Kinds of time there are.
    pub const KINDS: usize = 3;
    /// Nothing else went on.
    pub const QUIET: usize = 0;
    /// Notifications were being delivered.
    pub const FAN_OUT: usize = 1;
    /// Clients were coming back.
    pub const STORM: usize = 2;

    /// None yet, in a run that began at `start`.
    pub fn new(start: Instant) -> Self {
        Self { start, fan_out: Window::default(), storm: Window::default() }
    }

    fn micros(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.start).as_micros() as u64
    }

    /// A fan-out begins.
    pub fn begin_fan_out(&self, at: Instant) {
        self.fan_out.begin(self.micros(at));
    }

    /// It ended.
    pub fn end_fan_out(&self, at: Instant) {
        self.fan_out.end.store(self.micros(at), Ordering::Release);
    }

    /// A storm begins.
    pub fn begin_storm(&self, at: Instant) {
        self.storm.begin(self.micros(at));
    }

    /// It ended.
    pub fn end_storm(&self, at: Instant) {
        self.storm.end.store(self.micros(at), Ordering::Release);
    }

    /// The kind of time that a request met which was planned and answered then.
    pub fn kind(&self, planned: Instant, answered: Instant) -> usize {
        let (since, until) = (self.micros(planned), self.micros(answered));
        match (self.storm.meets(since, until), self.fan_out.meets(since, until)) {
            (true, _) => Self::STORM,
            (false, true) => Self::FAN_OUT,
            (false, false) => Self::QUIET,
        }
    }
}

/// What one thread says of itself while it runs; written by that thread alone.
#[derive(Default)]
#[repr(align(64))]
pub struct Progress {
    /// Right answers.
    pub answers: AtomicU64,
    /// Clean failures.
    pub failures: AtomicU64,
    /// Wrong answers.
    pub wrong: AtomicU64,
    /// Connections ready now.
    pub open: AtomicU64,
    /// Clients that connected, or failed to, at least once.
    pub arrived: AtomicU64,
    /// Clients that had a right answer at least once.
    pub served: AtomicU64,
    /// Seconds that are over.
    pub intervals: Outbox,
    /// When the last right answer came, in microseconds since the start.
    pub last_answer: AtomicU64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_request_is_of_the_time_it_met() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let windows = Windows::new(start);
        assert_eq!(windows.kind(at(0), at(500)), Windows::QUIET);
        windows.begin_fan_out(at(100));
        assert_eq!(windows.kind(at(90), at(99)), Windows::QUIET);
        assert_eq!(windows.kind(at(90), at(101)), Windows::FAN_OUT, "it was outstanding when that began");
        windows.end_fan_out(at(200));
        assert_eq!(windows.kind(at(199), at(300)), Windows::FAN_OUT, "planned before that ended");
        assert_eq!(windows.kind(at(201), at(300)), Windows::QUIET);
        windows.begin_storm(at(150));
        assert_eq!(windows.kind(at(180), at(190)), Windows::STORM);
        windows.end_storm(at(160));
        windows.begin_fan_out(at(400));
        assert_eq!(windows.kind(at(250), at(300)), Windows::QUIET);
        assert_eq!(windows.kind(at(450), at(500)), Windows::FAN_OUT);
    }
}
