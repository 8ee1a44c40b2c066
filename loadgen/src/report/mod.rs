//! What a run counted and used, and how it is told: a table, JSON, a histogram log, a page with charts.
//!
//! Threads count into a [`Tally`]; the main thread puts their seconds into a [`Timeline`], adds the moments at which it
//! looked at processes, and draws the [`Report`]. Knows no sockets and nothing of what is asked.

mod drive;
mod failures;
mod hdr;
mod interval;
mod journal;
mod live;
mod moments;
mod objective;
mod output;
pub mod page;
mod provenance;
mod summary;
mod table;
mod tally;
mod timeline;

pub use drive::Drive;
#[cfg(test)]
use failures::Failures;
pub use interval::Outbox;
pub use journal::{Entry, Journal};
pub use live::{Live, Now};
pub use moments::{CallWindow, Moments, Snapshot};
pub use output::{Output, put};
pub use provenance::{Flags, Provenance, flags_of};
pub use summary::{FORMAT, Percentiles, Report, Sources, VERSION};
pub use table::times as times_text;
pub use tally::{Tally, times};
pub use timeline::{Look, Timeline};

#[cfg(test)]
mod tests;
#[cfg(test)]
pub use tests::{alike, sample};
