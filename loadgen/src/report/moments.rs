//! What was counted and used at the moments on which a report stands.

use crate::process::Usage;
use std::time::Duration;

/// All at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Since the start.
    pub at: Duration,
    /// Right answers until then.
    pub answers: u64,
    /// CPU of this process.
    pub own_cpu: Duration,
    /// Of the watched processes, in their order.
    pub usages: Vec<Usage>,
}

/// The moments a report stands on.
#[derive(Clone, Debug, Default)]
pub struct Moments {
    /// Before the first connection.
    pub before: Snapshot,
    /// All connected, nothing asked (with `--hold`: all asked once and idle).
    pub connected: Snapshot,
    /// The measured time begins.
    pub begin: Snapshot,
    /// The measured time ends.
    pub end: Snapshot,
    /// First and last moment with all connections idle.
    pub idle: Option<(Snapshot, Snapshot)>,
}

/// The window behind the measured time in which system calls were counted.
#[derive(Clone, Debug, Default)]
pub struct CallWindow {
    /// Right answers in it.
    pub answers: u64,
    /// Calls of each watched process, or why they could not be counted.
    pub calls: Vec<Result<u64, String>>,
}
