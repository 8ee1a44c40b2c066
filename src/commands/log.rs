//! The log of a role: one line an event, to standard error, where systemd and containers take it up.

use std::io::{self, IsTerminal};

use cmg::settings::LogLevel;
use tracing_subscriber::EnvFilter;

/// Starts logging for this process. `RUST_LOG` goes before the settings, for one look without editing.
pub fn start(level: LogLevel) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level.as_str()));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
}
