//! The log of this process as the rest of the library sees it: how much it takes, and what it lost.
//!
//! Whoever starts the process sets it up and says so here, once; a log is as much one per process as
//! the subscriber of `tracing` behind it.

use std::sync::{Arc, OnceLock};

use crate::settings::LogLevel;

/// A log whose level can change while it is written.
pub trait Log: Send + Sync + 'static {
    /// What is let through now: a level, or directives as `RUST_LOG` takes them.
    fn filter(&self) -> String;
    /// Lets this through from now on.
    ///
    /// # Errors
    /// What is wrong with it.
    fn set_filter(&self, filter: &str) -> Result<(), String>;
    /// Lines left out because nobody took them in time.
    fn lines_dropped(&self) -> u64;
}

static LOG: OnceLock<Arc<dyn Log>> = OnceLock::new();

/// Makes it the log of this process; a second one is not taken.
pub fn set_log(log: Arc<dyn Log>) {
    let _ = LOG.set(log);
}

/// Lines of this process's log that were left out, for `cmg_log_lines_dropped_total`.
pub fn log_lines_dropped() -> u64 {
    LOG.get().map_or(0, |log| log.lines_dropped())
}

/// Lets so much through from now on, because the settings say so.
pub fn set_log_level(level: LogLevel) {
    let Some(log) = LOG.get() else { return };
    match log.set_filter(level.as_str()) {
        Ok(()) => tracing::info!(level = level.as_str(), "log level changed"),
        Err(error) => tracing::error!(error, "the log level cannot be changed"),
    }
}

pub(super) fn log() -> Option<Arc<dyn Log>> {
    LOG.get().cloned()
}
