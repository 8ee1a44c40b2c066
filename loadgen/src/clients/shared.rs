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
