//! What a run counted and used, and how it is told: a table, JSON, a histogram log, a page with charts.
//!
//! Threads count into a [`Tally`]; the main thread adds the moments it looked at processes, and draws the [`Report`].
//! Knows no sockets and nothing of what is asked.

mod failures;
mod interval;
mod moments;
mod output;
mod summary;
mod table;
mod tally;

pub use failures::Failures;
pub use interval::Outbox;
pub use moments::{Moments, Snapshot};
pub use output::Output;
pub use summary::Report;
pub use tally::Tally;

#[cfg(test)]
mod tests;
