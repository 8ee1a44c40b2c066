//! What a role counts, and how it is shown to Prometheus.
//!
//! `cell` counts: one shard writes a cell, anyone may read it, and neither waits for the other.
//! `series` keeps the cells of each publishing endpoint, from the settings that named it to the end of
//! the process; `traffic` tells what came to them in windows of five minutes; `channels` what each shard last saw of its channels. `page` is the text format 0.0.4; `process` is what the kernel knows of the process,
//! `health` one word for how the role is, `headroom` how near its bounds are.
//! What is counted, and under which name, is the role's business: `gateway/report.rs`,
//! `connector/board.rs`.

mod cell;
mod certificates;
mod channels;
mod headroom;
mod health;
mod page;
mod process;
mod revocation;
mod series;
mod traffic;

pub use cell::{BUCKETS, Counter, Distribution, Gauge, Histogram};
pub use certificates::{Certificate, describe_certificates, expiry, show_certificates};
pub use channels::{Board, Channels, Seen, describe_channels};
pub use headroom::{Headroom, watch};
pub use health::Health;
pub use page::{Label, Page, Rows};
pub use process::{Start, describe_process, describe_tasks};
pub use revocation::{ageing_text, is_list_ageing, show_list};
pub use series::{CLASSES, Ended, EndpointCounts, Ledger, Name, OTHER, Series, class_of, describe_endpoints};
pub use traffic::{Standing, Sums, Traffic, Window, Windows};
