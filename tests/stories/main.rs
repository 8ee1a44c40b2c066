//! Whole stories, with real processes: the built `cmg`, curl, nginx, and clients and origins that
//! misbehave on purpose. A story that lacks a program says so and passes; `CMG_REQUIRE_PROGRAMS=1`
//! makes it fail, `CMG_LONG=1` sends gigabytes where otherwise megabytes go.
#![allow(clippy::unwrap_used, missing_docs)]

mod admin;
mod admission;
#[cfg(feature = "count-allocations")]
mod allocations;
mod bounds;
mod certificates;
mod client;
mod curl;
mod failures;
mod features;
mod handshakes;
mod harness;
mod held;
mod hostile;
mod identities;
mod internal_certificates;
mod logs;
mod metrics;
mod origin_logins;
mod origins;
mod pipelining;
mod port_wall;
mod pressure;
mod proxies;
mod refusals;
mod reload;
mod settings;
mod shards;
mod status;
mod sts;
mod tokens;
mod tunnels;
mod up;
mod upgrade;
mod urls;
mod waiting;
mod ways;
